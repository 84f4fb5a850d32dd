"""Published scans, trained on and scored by a function and by MONAI's bundle: identical heatmaps.

Coarse spacing and one short epoch: what counts here is that real files pass and that maps lie where the scans lie.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from medanomaly.data import LoadCased
from medanomaly.errors import InputError
from medanomaly.preprocessing import RegionMaskd
from medanomaly.workflows import score, train

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
SETTINGS = {"spacing": [4, 4, 4], "patches_per_epoch": 256, "max_epochs": 1}


@pytest.mark.parametrize(("cohort", "brain"), [("open_ms", "nonzero"), ("ixi_t1", "given")])
def test_heatmaps_lie_on_the_scans_and_those_of_the_bundle_are_the_same(
    cohort: str, brain: str, tmp_path: Path
) -> None:
    root = DATA / cohort
    if not root.is_dir():
        pytest.skip(f"the real scans are not on this machine: {root} is absent")
    manifest = json.loads((ROOT / "data_manifests" / f"{cohort}.json").read_text())
    sections = {key: manifest[key][:2] for key in ("training", "validation", "test") if key in manifest}
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps(sections))
    model, by_score, by_bundle = tmp_path / "model", tmp_path / "by_score", tmp_path / "by_bundle"
    train(datalist, model, data_root=root, region=brain, settings=SETTINGS)
    score(model=model, output=by_score, datalist=datalist, data_root=root)
    settings = {"dataset_dir": str(root), "datalist": str(datalist), "output_dir": str(by_bundle)}
    inference = ConfigWorkflow(str(model / "configs" / "inference.json"), workflow_type="inference", **settings)
    inference.initialize()
    inference.run()

    for case in sections["test"]:
        name = f"{case['case']}/{case['case']}_heatmap.nii.gz"
        first, second, scan = (nib.load(path) for path in (by_score / name, by_bundle / name, root / case["image"]))
        np.testing.assert_array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
        assert first.shape == scan.shape
        np.testing.assert_allclose(first.affine, scan.affine, atol=1e-5)
        assert nib.aff2axcodes(first.affine) == nib.aff2axcodes(scan.affine)
        brain_file = root / (case.get("region") or case.get("brain") or case["image"])
        inside = np.asarray(nib.load(brain_file).dataobj) != 0
        np.testing.assert_array_equal(np.isfinite(np.asarray(first.dataobj)), inside)


def test_nonzero_is_refused_where_the_background_is_not_0() -> None:
    """These are brain-extracted, but around the brain lies a number below 0."""
    scan = DATA / "brats2013" / "pat03" / "FLAIR.nii.gz"
    if not scan.exists():
        pytest.skip(f"the real scans are not on this machine: {scan} is absent")
    with pytest.raises(InputError, match=r"100 % of the voxels on the faces of .*FLAIR.* most common there is -3\.16"):
        RegionMaskd("nonzero")(LoadCased()({"image": str(scan)}))
