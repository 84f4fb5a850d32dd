"""Brains of published scans: found, recognised, checked, and with heatmaps that hardly depend on who drew the mask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medanomaly.data import LoadCased
from medanomaly.preprocessing import RegionMaskd, brain_mask_problems, extracted_brain
from medanomaly.workflows import score, train

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HEADS = sorted((DATA / "ixi_t1" / "T1").glob("*.nii.gz"))
WHOLE = sorted((DATA / "ms_whole_head").glob("*/[FT]*.nii.gz"))
EXTRACTED = [*sorted((DATA / "open_ms").glob("*/[FT]*.nii.gz")), *sorted((DATA / "brats2013").glob("*/[FT]*.nii.gz"))]
EXTRACTED = [scan for scan in EXTRACTED if scan.name.split(".")[0] in ("FLAIR", "T1", "T2", "T1c")]

pytestmark = pytest.mark.skipif(not HEADS, reason=f"the real scans are not on this machine: {DATA} is absent")


def given_mask(scan: Path) -> Path:
    if scan.parent.name == "T1":
        return scan.parents[1] / "brain_mask" / scan.name.replace("_T1", "_brain_mask")
    return scan.with_name("brain_mask.nii.gz")


def array_of(file: Path) -> np.ndarray:
    return np.asarray(nib.load(file).dataobj)


def check(scans: list[Path]) -> None:
    for scan in scans:
        case = LoadCased(1)({"image": str(scan)})
        found = extracted_brain(case["image"])
        if scan in EXTRACTED:
            array = array_of(scan)
            np.testing.assert_array_equal(found, array != array[0, 0, 0], err_msg=str(scan))
            assert brain_mask_problems(found, case["image"]) == [], scan
            continue
        assert found is None, scan
        if scan in HEADS or scan.name.startswith("FLAIR"):
            assert brain_mask_problems(array_of(given_mask(scan)) > 0, case["image"]) == [], scan


def test_some_masks_are_sound_and_extracted_brains_are_told_from_heads() -> None:
    check([HEADS[0], *WHOLE[:1], *EXTRACTED[:1], *EXTRACTED[-1:]])


@pytest.mark.slow
def test_all_masks_are_sound_and_extracted_brains_are_told_from_heads() -> None:
    check([*HEADS, *WHOLE, *EXTRACTED])


@pytest.mark.slow
def test_deepbet_draws_a_head_and_a_thick_flair_as_they_were_scanned() -> None:
    for scan, least in ((HEADS[0], 0.96), (WHOLE[0].with_name("FLAIR.nii.gz"), 0.94)):
        region = RegionMaskd("auto", is_brain_mri=True)(LoadCased(1)({"image": str(scan)}))["region"]
        found, given = region[0].numpy() > 0, array_of(given_mask(scan)) > 0
        assert 2 * (found & given).sum() / (found.sum() + given.sum()) > least
        assert (region.meta["region_from"], region.meta["region_problems"]) == ("deepbet", "")


@pytest.mark.slow
def test_a_heatmap_hardly_depends_on_whether_deepbet_or_somebody_else_drew_the_brain(tmp_path: Path) -> None:
    """The scan is scored in a process of its own that has no network, with no word about a brain."""
    cases = [{"image": str(scan), "region": str(given_mask(scan))} for scan in HEADS[1:4]]
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps({"training": cases[:2], "validation": cases[2:]}))
    settings = {"spacing": [3, 3, 3], "patches_per_epoch": 1280, "stride": 4}
    model = train(datalist, tmp_path / "model", bundle="pca", settings=settings)
    score(HEADS[0], model, tmp_path / "given", region=given_mask(HEADS[0]))
    command = [
        sys.executable,
        "-m",
        "medanomaly.cli",
        "score",
        HEADS[0],
        "--model",
        model,
        "--output",
        tmp_path / "own",
    ]
    cut = ["unshare", "-rn"] if subprocess.run(["unshare", "-rn", "true"], check=False).returncode == 0 else []
    done = subprocess.run([*cut, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "deepbet finds its brain" in done.stderr and "mask from: deepbet (1)" in done.stdout
    name = HEADS[0].name.removesuffix(".nii.gz")
    first, second = (array_of(tmp_path / folder / name / f"{name}_heatmap.nii.gz") for folder in ("given", "own"))
    both = np.isfinite(first) & np.isfinite(second)
    assert both.sum() > 0.93 * np.isfinite(first).sum()
    assert np.corrcoef(first[both], second[both])[0, 1] >= 0.95
