"""The studies still fit the package: each can be imported and says what it needs, and their README names it."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

STUDIES = Path(__file__).resolve().parents[2] / "studies"
# the others need data
NEEDS = {"same_scores": "old new", "coevolution": "--seeds", "core_set": "--features", "translation": "--seeds"}
SCRIPTS = sorted(path.stem for path in STUDIES.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_study_starts(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(f"studies.{name}").main()
    assert ended.value.code == 0
    assert NEEDS.get(name, "--data-root") in capsys.readouterr().out


def test_the_readme_names_every_study() -> None:
    readme = (STUDIES / "README.md").read_text()
    for name in SCRIPTS:
        assert f"| `{name}.py` |" in readme
        assert f"python -m studies.{name} " in readme
