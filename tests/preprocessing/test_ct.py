"""The chains for CT: a window in HU becomes 0 to 1, whatever the rest of the scan holds."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from monai.transforms import ScaleIntensityRange

from medanomaly.errors import ConfigError, InputError
from medanomaly.preprocessing import bone_ct, head_ct, heatmap_to_scan
from medanomaly.workflows.bundles import copy_bundle, find_chain

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 0, 3.0, -10], [0, 2.0, 0, 5], [0, 0, 0, 1]])  # LSA


@pytest.fixture
def scan(tmp_path):
    """A made head: air, bone, brain, a bleeding; stored with slope and intercept, as scanners do."""
    hounsfield = np.full((20, 18, 16), -1000.0)
    hounsfield[2:18, 2:16, 2:14] = 900
    hounsfield[4:16, 4:14, 4:12] = 32 + 6 * np.random.default_rng(0).random((12, 10, 8))
    hounsfield[8:10, 8:10, 6:8] = 70
    image = nib.Nifti1Image(np.rint(hounsfield + 1024).astype(np.int16), AFFINE)
    image.header.set_slope_inter(1, -1024)
    nib.save(image, tmp_path / "ct.nii.gz")
    mask = np.zeros(hounsfield.shape, np.uint8)
    mask[4:16, 4:14, 4:12] = 1
    nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / "brain.nii.gz")
    return {"image": [str(tmp_path / "ct.nii.gz")], "region": str(tmp_path / "brain.nii.gz"), "case": "a"}


def raw(chain, case):
    """The values of the scan, in HU, on the grid of the prepared case."""
    steps = [step for step in chain.transforms if type(step).__name__ != "WindowHounsfieldd"]
    for step in steps:
        case = step(case)
    return case["image"].numpy()


@pytest.mark.parametrize(("make", "window"), [(head_ct, (0, 80)), (bone_ct, (-200, 1000))])
def test_the_window_is_that_of_monai_and_does_not_depend_on_the_case(scan, make, window):
    chain = make(1, spacing=None)
    prepared = chain(scan)
    inside = prepared["region"].numpy() > 0
    expected = ScaleIntensityRange(*window, 0, 1, clip=True)(raw(chain, scan))
    np.testing.assert_allclose(prepared["image"].numpy()[inside], np.asarray(expected)[inside], atol=2e-6)
    assert (prepared["image"].numpy()[~inside] == 0).all() and (prepared["image"].numpy()[inside] > 0).all()
    assert inside.all() == (make is bone_ct)
    brain = raw(chain, scan)[0] == 70
    np.testing.assert_allclose(
        prepared["image"].numpy()[0][brain], (70 - window[0]) / (window[1] - window[0]), rtol=1e-5
    )


def test_a_bleeding_comes_back_where_it_is(scan):
    chain = head_ct(1)
    prepared = chain(scan)
    assert prepared["image"].shape[1:] != (20, 18, 16)
    back = np.asarray(heatmap_to_scan(chain)({**prepared, "pred": prepared["image"].as_tensor()})["pred"])[0]
    assert back.shape == (20, 18, 16)
    top = np.unravel_index(np.nanargmax(back), back.shape)
    assert all(low <= index < high for index, low, high in zip(top, (8, 8, 6), (10, 10, 8), strict=True))
    assert np.isnan(back[0, 0, 0])


def test_a_kept_case_is_the_same_and_another_window_is_another_case(scan, tmp_path):
    for window in ((0, 80), (0, 100), (0, 80)):
        kept = head_ct(1, window=window, cache_dir=tmp_path / "cache")(scan)
        np.testing.assert_array_equal(kept["image"], head_ct(1, window=window)(scan)["image"])
    assert len(list((tmp_path / "cache").glob("*.case"))) == 2


def test_values_that_are_not_in_hu_are_refused(scan, tmp_path):
    image = nib.load(scan["image"][0])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1024, AFFINE), tmp_path / "raw.nii.gz")
    with pytest.raises(RuntimeError) as error:  # MONAI's, with ours as its cause
        head_ct(1, spacing=None)({**scan, "image": [str(tmp_path / "raw.nii.gz")]})
    assert isinstance(error.value.__cause__, InputError)
    assert "raw.nii.gz has nothing within 0 to 80 HU in the region (1056 to 1094)" in str(error.value.__cause__)
    with pytest.raises(ConfigError, match=r"window \(80, 0\) must rise"):
        head_ct(window=(80, 0))
    with pytest.raises(ConfigError, match="give three voxel sizes in mm"):
        bone_ct(spacing=(1, 1))


@pytest.mark.parametrize(("name", "region"), [("head_ct", "given"), ("bone_ct", "all")])
def test_the_overlay_makes_any_bundle_one_for_ct(scan, tmp_path, name, region):
    root = copy_bundle("ganomaly", tmp_path / "model", {"window": [0, 100]}, chain=name)
    for file in ("train", "inference"):
        config = json.loads((root / "configs" / f"{file}.json").read_text())
        assert (config["region"], config["window"], config["more_settings"]["window"]) == (region, [0, 100], "@window")
        parser = ConfigParser(
            {key: config[key] for key in ("in_channels", "spacing", "region", "window", "register", "preprocessing")}
        )
        parser["cache_dir"] = None
        prepared = parser.get_parsed_content("preprocessing")(scan)
        np.testing.assert_array_equal(prepared["image"], head_ct(1, region=region, window=(0, 100))(scan)["image"])
    assert (
        json.loads(Path(find_chain(name)).read_text())["metadata"]["network_data_format#inputs#image#modality"] == "CT"
    )
