"""What several files here need before each of their tests."""

from __future__ import annotations

import pytest

from tests.detectors.fusion_members import kind


@pytest.fixture
def made_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fusion finds the members that are made for tests, too."""
    monkeypatch.setattr("medanomaly.detectors.fusion.detector_class", kind)
