"""Channels that are not aligned, on the command line: refused, registered when asked for, and evaluated alike."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from monai.bundle import ConfigParser

from medanomaly.preprocessing.channels import channels_of_case
from medanomaly.preprocessing.context import TissueContextd

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scans(cohort_maker, tmp_path):
    """The datalist of a cohort of two channels; the second one of its last case, which lies elsewhere now."""
    cohort = cohort_maker(tmp_path / "cohort", n_channels=2)
    file = cohort.parent / "test-1" / "image1.nii.gz"
    scan = nib.load(file)
    affine = scan.affine.copy()
    affine[:3, 3] += (5, -4, 6)
    turned = nib.Nifti1Image(scan.get_fdata(dtype=np.float32), affine).slicer[:, :, :-4]  # and lacks the top
    nib.save(nib.as_closest_canonical(turned), file)
    return cohort, file


def test_channels_elsewhere_are_refused_or_registered(scans, command, small, tmp_path, capfd):
    cohort, moved = scans
    model, out = tmp_path / "model", tmp_path / "out"
    assert command("train", "--datalist", cohort, "--output", model, "--epochs", 1, *small) == 0
    first, brain = moved.with_name("image0.nii.gz"), moved.with_name("brain.nii.gz")
    score = ("score", first, moved, "--brain", brain, "--model", model, "--output", out)
    capfd.readouterr()
    assert command(*score) == 3
    assert "with --register " in capfd.readouterr().err
    assert command(*score, "--register", reports=True) == 0
    (case,) = json.loads((out / "run.json").read_text())["cases"]
    assert json.loads((out / "run.json").read_text())["register"] is True
    folder = out / case["case"]
    heatmap, scan = nib.load(folder / f"{case['case']}_heatmap.nii.gz"), nib.load(first)
    assert heatmap.shape == scan.shape
    np.testing.assert_allclose(heatmap.affine, scan.affine, atol=1e-5)
    one, *_ = json.loads((folder / f"{case['case']}_registration.json").read_text())
    np.testing.assert_allclose(np.array(one["matrix"])[:3, 3], (5, -4, 6), atol=1.5)
    assert one["rotation_degrees"] < 1.5
    scored, inside = np.isfinite(heatmap.get_fdata()), nib.load(brain).get_fdata() > 0
    assert not (scored & ~inside).any() and not scored[:, :, -3:].any() and scored[:, :, 8].any()
    warning = pd.read_csv(out / "cases.csv")["warning"][0]
    assert "all channels: " in warning and "is not scored" in warning

    shown = channels_of_case([first, moved], out, case["case"])
    there = nib.load(first).get_fdata(dtype=np.float32)
    assert np.corrcoef(shown[1].numpy()[scored], there[scored])[0, 1] > 0.5, "both channels show one brain"
    assert (folder / "report.html").exists()
    assert command("view", folder, "--slicer") == 0

    entry = {"image": [str(first), str(moved)], "region": str(brain), "label": str(moved.with_name("label.nii.gz"))}
    (tmp_path / "list.json").write_text(json.dumps({"test": [{**entry, "case": case["case"]}]}))
    assert command("evaluate", "--datalist", tmp_path / "list.json", "--scores", out) == 0
    assert json.loads((out / "evaluation" / "metrics.json").read_text())["n_cases"] == 1


def test_what_cannot_register_says_so(model, cohort, command, tmp_path, capfd):
    file = model / "configs" / "inference.json"
    config = json.loads(file.read_text())
    del config["preprocessing"]["register"]
    file.write_text(json.dumps(config))
    assert command("score", "--datalist", cohort, "--model", model, "--output", tmp_path / "out", "--register") == 2
    assert "an older version must be trained again" in capfd.readouterr().err
    train = ("train", "--datalist", cohort, "--output", tmp_path / "films", "--chain", "radiograph")
    for setting in ("register=true", 'context=["grey"]'):
        assert command(*train, "--set", setting) == 2
        assert f"{setting.split('=')[0]} cannot be set with the chain radiograph" in capfd.readouterr().err


@pytest.mark.parametrize(("bundle", "channels"), [("ganomaly", 4), ("slice_madgan", None)])
def test_a_detector_gets_the_maps_beside_the_images(bundle, channels):
    """``in_channels`` counts the images that a user gives."""
    config = json.loads((ROOT / "bundles" / bundle / "configs" / "inference.json").read_text())
    parser = ConfigParser(config | {"in_channels": 2, "context": ["grey", "white"], "cache_dir": None})
    expected = channels or 4 * config["slices"]
    assert parser.get_parsed_content("network_def#in_channels") == expected
    steps = parser.get_parsed_content("preprocessing").transforms
    assert steps[0].in_channels == 2 and isinstance(steps[-1], TissueContextd)
    assert parser.get_parsed_content("settings")["context"] == ["grey", "white"]
