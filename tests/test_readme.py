"""What the README tells a newcomer is true: its commands, files and Python run as they stand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from medanomaly import cli
from medanomaly.experiments import find_experiment
from medanomaly.workflows.bundles import bundle_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_examples_run(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_lines, example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for path in cohort.parent.iterdir():
        (tmp_path / path.name.replace("datalist", "cohort")).symlink_to(path)
    shutil.copy(cohort.parent / "test-1/image0.nii.gz", tmp_path / "scan.nii.gz")
    shutil.copy(cohort.parent / "test-1/brain.nii.gz", tmp_path / "mask.nii.gz")
    monkeypatch.chdir(tmp_path)
    small = '{"patches_per_epoch": 64, "batch_size": 64, "max_epochs": 1, "spacing": [2, 2, 3]}'
    known: dict[str, Any] = {}
    exec(re.sub(r"{.*}", small, three_lines), known)
    assert list(known["table"]["case"]) == ["test-0", "test-1"] and known["metrics"]["n_cases"] == 2
    exec(example.replace("spacing=(1, 1, 1)", "spacing=(2, 2, 3)"), {})
    written = {f"scan_{kind}" for kind in ("heatmap.nii.gz", "display.nii.gz", "mask.json")}
    assert {path.name for path in (tmp_path / "out/scan").iterdir()} == written


def test_the_table_of_systems_names_bundles_and_commands_that_there_are() -> None:
    table = README.split("**Systems of the five papers**")[1].split("\n\n")[1].splitlines()[2:]
    assert len(table) == 5
    named = {name for row in table for name in re.findall(r"`([^`]+)`", row)}
    commands = {name.removeprefix("medanomaly ").split()[0] for name in named if name.startswith("medanomaly ")}
    assert commands == {"benchmark", "translate"}
    assert commands <= {group.name for group in cli.app.registered_groups} | {
        command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback
    }
    experiments = {"fashion-mnist", "toy-lesions", "white-matter-paper"}
    assert all(find_experiment(name) for name in (*experiments, "augmentation"))
    others = {name for name in named if "=" not in name and not name.startswith("medanomaly ")}
    assert others - experiments <= {*bundle_names()}


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_two_commands_are_targets_of_the_makefile(command: str) -> None:
    assert command in README
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_ci_runs_the_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text().splitlines()


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_datalist_example_has_the_keys_that_are_read() -> None:
    from medanomaly.data.datalist import CASE_KEYS, OTHER_NAMES, SECTIONS

    (example,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    datalist = yaml.safe_load(example)
    assert set(datalist) <= set(SECTIONS)
    keys = {OTHER_NAMES.get(key, key) for cases in datalist.values() for case in cases for key in case}
    assert keys == set(CASE_KEYS)
