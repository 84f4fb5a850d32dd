"""The command line in this process, a small model and its heatmaps, for files that ask one thing of them each."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medanomaly import cli

SMALL = ["--set", "patches_per_epoch=128", "--set", "batch_size=64", "--set", "spacing=[2,2,3]"]


def run_command(*arguments: object, reports: bool = False) -> int:
    """Scoring leaves reports out, which take a second each, if a test does not ask for them."""
    if arguments[:1] == ("score",) and not reports and "--no-report" not in arguments:
        arguments = (*arguments, "--no-report")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["medanomaly", *map(str, arguments)])
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="session")
def command() -> Callable[..., int]:
    """Run a command; its exit code."""
    return run_command


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Settings with which training takes seconds."""
    return SMALL


@pytest.fixture(scope="session")
def trained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that no test changes."""
    root = tmp_path_factory.mktemp("trained") / "model"
    assert run_command("train", "--datalist", cohort, "--output", root, "--epochs", 1, *SMALL) == 0
    return root


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A model that a test may change."""
    return shutil.copytree(trained, tmp_path / "model")


@pytest.fixture(scope="session")
def scores(cohort: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The heatmaps of the cohort by the model that no test changes; at most, an evaluation is put beside them."""
    out = tmp_path_factory.mktemp("scores")
    assert run_command("score", "--datalist", cohort, "--model", trained, "--output", out, reports=True) == 0
    return out
