"""Published scans through both faces, the bundle's commands and the command line, with identical heatmaps.

Coarse spacing and one short epoch: what counts here is that real files pass and that maps lie where the scans lie.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medanomaly.data import LoadCased
from medanomaly.errors import InputError
from medanomaly.preprocessing import RegionMaskd

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
SETTINGS = {"spacing": [4, 4, 4], "patches_per_epoch": 256, "max_epochs": 1}


def run(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(("cohort", "brain"), [("open_ms", "nonzero"), ("ixi_t1", "given")])
def test_both_faces_give_the_same_heatmaps(cohort: str, brain: str, tmp_path: Path) -> None:
    root = DATA / cohort
    if not root.is_dir():
        pytest.skip(f"the real scans are not on this machine: {root} is absent")
    manifest = json.loads((ROOT / "data_manifests" / f"{cohort}.json").read_text())
    sections = {key: manifest[key][:2] for key in ("training", "validation", "test") if key in manifest}
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps(sections))

    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    cli = [sys.executable, "-m", "medanomaly.cli"]
    model, by_cli = tmp_path / "model", tmp_path / "by_cli"
    run(*cli, "train", "--datalist", datalist, "--data-root", root, "--output", model, "--brain", brain, *settings)
    run(*cli, "score", "--datalist", datalist, "--data-root", root, "--model", model, "--output", by_cli)

    bundle, by_bundle = tmp_path / "bundle", tmp_path / "by_bundle"
    common = ["--bundle_root", bundle, "--dataset_dir", root, "--datalist", datalist, "--region", brain]
    monai = [sys.executable, "-m", "monai.bundle", "run", "--config_file"]
    configs = ROOT / "bundles" / "ganomaly" / "configs"
    small = [word for key, value in SETTINGS.items() for word in (f"--{key}", json.dumps(value))]
    run(*monai, configs / "train.json", *common, *small)
    run(*monai, configs / "inference.json", *common, "--spacing", "[4,4,4]", "--output_dir", by_bundle)

    for case in sections["test"]:
        name = f"{case['case']}/{case['case']}_heatmap.nii.gz"
        first, second, scan = (nib.load(path) for path in (by_cli / name, by_bundle / name, root / case["image"]))
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
