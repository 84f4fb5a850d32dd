"""The command line in this process, and a small model, for the files here that ask one thing of it each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medanomaly import cli

SMALL = ["--set", "patches_per_epoch=128", "--set", "batch_size=64", "--set", "spacing=[2,2,3]"]


def run_command(*arguments: object) -> int:
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
