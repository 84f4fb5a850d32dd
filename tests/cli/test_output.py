"""What a program that calls the commands can rely on: JSON on stdout, quiet, exit codes, and completed names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from medanomaly import cli, terminal
from medanomaly.cli_options import benchmark_detectors, benchmarks, completed_from
from medanomaly.errors import TrainingError
from medanomaly.experiments import EXPERIMENTS
from medanomaly.shipped import bundle_names, chain_names, manifest_names
from medanomaly.workflows.bundles import find_bundle

Command = Callable[..., int]


def test_scores_and_regions_as_json(
    command: Command, scores: Path, cohort: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan, mask = (cohort.parent / "test-0" / name for name in ("image0.nii.gz", "brain.nii.gz"))
    given = ["--model", trained, "--brain", mask, "--output", tmp_path / "out"]
    capsys.readouterr()  # of the fixtures
    assert command("score", scan, *given, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["case"] == "image0" and Path(row["display"]).exists()
    assert row["case_score"] == pd.read_csv(tmp_path / "out" / "cases.csv")["case_score"][0]

    assert command("regions", scores, "--json", "--fpr", 0.01) == 0
    rows = json.loads(capsys.readouterr().out)
    files = [pd.read_csv(scores / case / "regions.csv") for case in ("test-0", "test-1")]
    assert [row["peak"] for row in rows] == pytest.approx(pd.concat(files)["peak"].tolist(), rel=1e-6)
    assert command("regions", scores) == 0, "as it was"


def test_quiet_prints_nothing_and_the_next_command_speaks_again(
    command: Command, scores: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()  # of the fixtures
    assert command("regions", scores, "--quiet") == 0
    assert capfd.readouterr() == ("", "")
    assert command("regions", scores) == 0
    assert "Written" in capfd.readouterr().out


def test_an_error_is_told_in_json_and_by_the_exit_code(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("regions", tmp_path / "absent", "--json") == 3
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 3 and "absent" in told["error"]
    assert command("train", "--output", tmp_path / "m", "--set", "x", "--json") == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2


@pytest.mark.parametrize(("error", "code"), [(TrainingError("diverged"), 4), (KeyboardInterrupt(), 130)])
def test_a_training_that_goes_wrong_has_a_code_of_its_own(
    error: BaseException, code: int, command: Command, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(import_module("medanomaly.workflows.train"), "train", fail)
    assert command("train", "--datalist", cohort, "--output", tmp_path / "m") == code


def test_an_option_that_does_not_exist_is_a_wrong_call(command: Command) -> None:
    assert command("score", "--modle", "x") == 2


def test_all_exit_codes_are_explained(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert all(f"{code} " in words for code in (0, 1, 2, 3, 4, 130)) and "medanomaly demo" in words


def test_known_names_are_completed() -> None:
    assert all(find_bundle(name).name == name for name in bundle_names()) and "fusion" in bundle_names()
    assert "radiograph" in chain_names() and "open_ms" in manifest_names() and benchmarks() == ["cohort", *EXPERIMENTS]
    complete = completed_from(benchmark_detectors)
    assert complete("fus") == ["fusion"] and complete("intensity,one") == ["intensity,one_class_svm"]


def test_a_shell_is_answered_without_heavy_imports() -> None:
    """Bash asks by the environment; see ``medanomaly --show-completion bash``."""
    code = (
        "import sys\nfrom medanomaly.cli import app\n"
        "try:\n    app(prog_name='medanomaly')\n"
        "except SystemExit:\n    print([m for m in ('torch', 'monai', 'pandas') if m in sys.modules])"
    )
    asked = {
        "_MEDANOMALY_COMPLETE": "complete_bash",
        "COMP_WORDS": "medanomaly train --bundle skip",
        "COMP_CWORD": "3",
        "PATH": "/usr/bin",
    }
    done = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["skip_ganomaly", "[]"], done.stderr


def test_warnings_say_what_they_say_and_whose_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    cli._show_warning(UserWarning("two slices are left out"), UserWarning, str(Path(cli.__file__)), 1)
    cli._show_warning("overflow", RuntimeWarning, "/somewhere/numpy/core.py", 1)
    assert capsys.readouterr().err == "Warning: two slices are left out\nWarning: RuntimeWarning of core.py: overflow\n"


def test_a_bar_tells_how_long_a_whole_training_takes(
    command: Command, small: list[str], cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stages of two epochs: the first one counts the second, too."""
    told: list[tuple[str | None, float | None]] = []
    monkeypatch.setattr(terminal.Bar, "update", lambda self, what=None, total=None: told.append((what, total)))
    given = ["--bundle", "f_anogan", "--epochs", 2, *small, "--set", "critic_steps=1", "--quiet"]
    assert command("train", "--datalist", cohort, "--output", tmp_path / "m", *given) == 0
    words = [what for what, _ in told if what and "epoch" in what]
    assert words[0].startswith("GAN, epoch 1 of at most 4") and words[-1].startswith("encoder, epoch 4 of at most 4")
    assert {total for what, total in told if what in words} == {8}, "two batches an epoch"
