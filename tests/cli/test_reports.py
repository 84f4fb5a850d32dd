"""Reports as a user meets them: written when scoring and evaluating, left out on demand, opened by ``view``."""

from __future__ import annotations

import shutil
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest

CASES = ("test-0", "test-1")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that a browser is asked to open."""
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: addresses.append(address) or True)
    return addresses


def test_scoring_writes_a_report_for_each_case_and_says_where(scores: Path) -> None:
    for case in CASES:
        page = (scores / case / "report.html").read_text()
        assert f"<h1>{case}</h1>" in page and "GANomaly" in page and 'id="regions"' in page


def test_reports_are_left_out_on_demand(
    command: Callable[..., int], cohort: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--datalist", cohort, "--model", trained, "--output", tmp_path / "out", "--no-report"]
    assert command("score", *asked) == 0
    assert not list(tmp_path.rglob("report.html")) and "report.html" not in capsys.readouterr().out


def test_view_opens_the_report_of_a_case_or_of_their_evaluation(
    command: Callable[..., int],
    cohort: Path,
    scores: Path,
    tmp_path: Path,
    opened: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = shutil.copytree(scores, tmp_path / "out", ignore=shutil.ignore_patterns("evaluation"))
    assert command("view", out, "--case", "test-1") == 0
    assert command("view", out / "test-0") == 0
    assert opened == [(out / case / "report.html").as_uri() for case in ("test-1", "test-0")]
    assert command("view", out) == 3
    assert "medanomaly evaluate" in capsys.readouterr().err
    assert command("evaluate", "--datalist", cohort, "--scores", out) == 0
    assert "report.html" in capsys.readouterr().out
    assert command("view", out) == 0
    assert opened[-1] == (out / "evaluation" / "report.html").as_uri()
    (out / "test-0" / "report.html").unlink()
    assert command("view", out, "--case", "test-0") == 3
    assert "--no-report" in capsys.readouterr().err
