"""What the README tells a newcomer is true: its commands, files and Python run as they stand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from medanomaly.detectors import GANomaly
from medanomaly.evaluation import Calibration

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_writes_a_heatmap(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "runs/mine/models").mkdir(parents=True)
    torch.save(GANomaly().state_dict(), tmp_path / "runs/mine/models/model.pt")
    Calibration.fit([np.linspace(0, 1, 1000)], "made").save(tmp_path / "runs/mine/models/calibration.json")
    shutil.copy(cohort.parent / "test-1/image0.nii.gz", tmp_path / "scan.nii.gz")
    shutil.copy(cohort.parent / "test-1/brain.nii.gz", tmp_path / "mask.nii.gz")
    monkeypatch.chdir(tmp_path)
    exec(example.replace("spacing=(1, 1, 1)", "spacing=(2, 2, 3)"), {})
    assert {path.name for path in (tmp_path / "out/scan").iterdir()} == {"scan_heatmap.nii.gz", "scan_display.nii.gz"}


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
