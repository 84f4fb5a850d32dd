"""The models that come with the package: found by name, small, of no machine, scoring without any training."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medanomaly.errors import InputError
from medanomaly.shipped import model_names, shipped
from medanomaly.workflows import score
from medanomaly.workflows.bundles import find_model
from tests.experiments.test_unseen_people import write_person

CHANNELS = {"brain_flair": ("FLAIR", "T1", "T2"), "brain_t1": ("T1",)}
MOST_BYTES = 6_000_000


def test_those_that_the_readme_names_are_there() -> None:
    assert model_names() == sorted(CHANNELS)
    with pytest.raises(InputError, match=r"no configs/inference.json: give the folder .*: brain_flair, brain_t1"):
        find_model("brain_t2")


@pytest.mark.parametrize("name", sorted(CHANNELS))
def test_a_model_is_small_and_names_no_place_of_another_machine(name: str) -> None:
    folder = shipped("models") / name
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= MOST_BYTES
    for file in [*folder.rglob("*.json"), *folder.rglob("*.md")]:
        assert not re.search(r"(/work|/tmp|/home|/root|shared/data)", file.read_text()), file
    card = (folder / "docs" / "README.md").read_text()
    assert "Research only" in card and "licence" in card.lower() and "Limits" in card
    assert json.loads((folder / "configs" / "inference.json").read_text())["in_channels"] == len(CHANNELS[name])


@pytest.mark.parametrize("name", sorted(CHANNELS))
def test_a_scan_is_scored_without_any_training(name: str, tmp_path: Path) -> None:
    write_person(tmp_path / "person", CHANNELS[name], seed=0, brain=True)
    mask = tmp_path / "person" / "brain_mask.nii.gz"
    scans = [tmp_path / "person" / f"{channel}.nii.gz" for channel in CHANNELS[name]]
    table = score(scans, name, tmp_path / "out", region=mask, register=len(scans) > 1)
    found, scan = nib.load(table["heatmap"][0]), nib.load(scans[0])
    assert found.shape == scan.shape and np.allclose(found.affine, scan.affine)
    heatmap, brain = np.asarray(found.dataobj), np.asarray(nib.load(mask).dataobj) > 0
    assert np.isfinite(heatmap[brain]).mean() > 0.95 and not np.isfinite(heatmap[~brain]).any()
    assert (tmp_path / "out" / table["case"][0] / "report.html").exists()
    left = {file.name for file in (shipped("models") / name).rglob("*") if file.is_dir()}
    assert left <= {"configs", "docs", "models"}, "scoring leaves nothing in the folder of the model"


def test_a_copy_of_a_model_goes_by_its_path(tmp_path: Path) -> None:
    shutil.copytree(shipped("models") / "brain_t1", tmp_path / "mine")
    assert find_model(tmp_path / "mine") == tmp_path / "mine"
    assert find_model("brain_t1") == shipped("models") / "brain_t1"
