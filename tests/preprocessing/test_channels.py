"""Channels on grids of their own become one case on the grid of the first, or are refused."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medanomaly.data.reading import COVERED, LoadCased
from medanomaly.errors import ConfigError, InputError
from medanomaly.preprocessing import brain_mri, head_ct, heatmap_to_scan, radiograph
from medanomaly.preprocessing import channels as module
from medanomaly.preprocessing.channels import (
    AlignChannels,
    CoveredRegiond,
    check,
    records_of,
    registration_path,
    registration_warnings,
)
from tests.data.made_dicom import slices_of, write_slices
from tests.preprocessing.cached_cases import assert_same, counting
from tests.preprocessing.made_heads import CENTRE, found, grid, head, moved

FIRST = grid("LPS", (4.0, 4.0, 6.0), (5, 0, -4))
SECOND = grid("ASR", (4.5, 4.0, 5.0), (0, -6, 3), extent=(150.0, 180.0, 120.0))
MOTION = moved()


def save(path, array, affine):
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def known(fixed, moving, **_):
    """In place of the search: the motion of these tests."""
    return found(matrix=MOTION)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """FLAIR, and T1 of the moved head on another grid, and the brain on FLAIR's."""
    folder = tmp_path_factory.mktemp("heads")
    flair = head(*FIRST)
    return {
        "image": [
            save(folder / "FLAIR.nii.gz", flair, FIRST[0]),
            save(folder / "T1.nii.gz", head(*SECOND, motion=MOTION, contrast="t1"), SECOND[0]),
        ],
        "region": save(folder / "brain.nii.gz", (flair > 60).astype(np.uint8), FIRST[0]),
        "case": "a",
    }


def test_without_registration_the_refusal_names_the_option(files):
    with pytest.raises(InputError, match=r"T1\.nii\.gz does not lie on the grid of .*FLAIR\.nii\.gz.* --register "):
        LoadCased()(files)


def test_a_channel_comes_to_where_the_first_shows_the_same(files):
    """Found by the search: the T1 of the head that was not moved, on FLAIR's grid, known without interpolation."""
    case = LoadCased(2, AlignChannels())(files)
    image, covered = case["image"], case[COVERED][0].numpy()
    reference = nib.load(files["image"][0])
    assert image.shape == (2, *reference.shape)
    np.testing.assert_allclose(image.affine, reference.affine, atol=1e-5)
    np.testing.assert_array_equal(image[0], reference.get_fdata(dtype=np.float32))
    expected = head(*FIRST, contrast="t1", seed=5)
    t1 = np.asarray(image[1])
    assert (t1[~covered] == 0).all() and 0.6 < covered.mean() < 0.95
    inside = covered & (case["region"][0].numpy() > 0)
    aligned = np.corrcoef(t1[inside], expected[inside])[0, 1]
    assert aligned > 0.75  # 4 to 6 mm voxels are smoothed by the interpolation
    (one,) = records_of(image)
    assert one["what"] == "channel 1" and one["warnings"] == []
    assert one["shift_mm"] == pytest.approx(np.sqrt(50), abs=1)
    assert one["rotation_degrees"] == pytest.approx(5, abs=1)


def test_a_mirrored_channel_is_not_turned_into_agreement():
    """The small thing lies on the right (RAS x above the centre) of one head and on the left of the other."""
    affine, shape = grid(spacing=(4.0, 4.0, 5.0))
    scans = [MetaTensor(torch.from_numpy(head(affine, shape)[None].copy()), affine=affine) for _ in range(2)]
    scans[1] = MetaTensor(torch.flip(scans[1].as_tensor(), (1,)), affine=affine)
    with pytest.warns(UserWarning, match="mirrored or cut off") as said:
        image, _ = AlignChannels()(scans, ["right.nii", "left.nii"])
    assert len(said) == 1 and records_of(image)[0]["warnings"]
    assert np.linalg.det(np.array(records_of(image)[0]["matrix"])[:3, :3]) == pytest.approx(1, abs=1e-4)
    for channel, side in zip(np.asarray(image), (1, -1), strict=True):
        bright = np.argwhere(channel > 850)
        assert len(bright) > 10
        x = nib.affines.apply_affine(affine, bright)[:, 0] - CENTRE[0]
        assert np.sign(np.median(x)) == side


def test_a_series_of_dicom_is_a_channel(files, tmp_path, monkeypatch):
    """The same volume as NIfTI and as DICOM comes to the same place; the search is left out."""
    monkeypatch.setattr(module, "register", known)
    whole = np.rint(head(*SECOND, motion=MOTION, contrast="t1")).astype(np.int16)
    series = write_slices(tmp_path / "Mustermann", slices_of(whole, SECOND[0]))
    nifti = save(tmp_path / "t1.nii.gz", whole, SECOND[0])
    load = LoadCased(2, AlignChannels())
    both = [load({**files, "image": [files["image"][0], path]}) for path in (str(series), nifti)]
    np.testing.assert_allclose(both[0]["image"], both[1]["image"], atol=1e-2)
    assert both[0][COVERED].any() and "Mustermann" not in json.dumps(records_of(both[0]["image"]))


def test_what_is_odd_is_said_and_what_is_hopeless_refused(files, monkeypatch):
    assert check(found()) == []
    assert "another person" in check(found(sharpness=1.2))[0]
    assert "moved by 80 mm" in check(found(shift_mm=80.0))[0]
    assert "and 40 degrees" in check(found(rotation_degrees=40.0))[0]
    with pytest.raises(InputError, match=r"at least 1\.1 times"):
        check(found(sharpness=1.0))
    monkeypatch.setattr(module, "register", lambda *_: found(sharpness=0.9))
    with pytest.raises(InputError, match=r"T1\.nii\.gz cannot be registered to .*FLAIR\.nii\.gz: .* one person"):
        LoadCased(2, AlignChannels())(files)


def region_case(share):
    region = MetaTensor(torch.ones(1, 10, 4, 4), meta={"filename_or_obj": "a.nii"})
    covered = torch.zeros(1, 10, 4, 4, dtype=torch.bool)
    covered[:, : round(10 * share)] = True
    return {"image": region.clone(), "region": region, COVERED: covered}


def test_what_a_channel_does_not_show_is_not_scored():
    with pytest.warns(UserWarning, match=r"a\.nii: 20\.0 % of the region is not scored"):
        case = CoveredRegiond()(region_case(0.8))
    np.testing.assert_array_equal(case["region"], region_case(0.8)[COVERED].float())
    assert COVERED not in case and records_of(case["image"])[0]["covered"] == 0.8
    with pytest.raises(InputError, match=r"a\.nii share only 40 % of the region"):
        CoveredRegiond()(region_case(0.4))


def test_the_chain_registers_keeps_and_writes_down(files, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "register", known)
    monkeypatch.setattr(module, "USUAL_COVERED", 1.0)
    settings = {"in_channels": 2, "spacing": (4, 4, 4), "cache_dir": tmp_path / "cache"}
    chain, prepared = counting(brain_mri(**settings, register=True))
    with pytest.warns(UserWarning, match="of the region is not scored"):
        case = chain(files)
    again = chain(files)
    assert len(prepared) == 1
    assert_same(again, case)
    with pytest.raises(RuntimeError) as error:  # what was registered is not taken for a case without
        brain_mri(**settings)(files)
    assert "--register" in str(error.value.__cause__)
    region = again["scan_region"][0].numpy()
    assert region.sum() < (nib.load(files["region"]).get_fdata() > 0).sum()

    out = tmp_path / "out"
    pred = torch.where(again["region"] > 0, again["image"][:1], torch.nan).as_tensor()
    heatmap_to_scan(chain, out)({**again, "pred": pred})
    heatmap = nib.load(out / "a" / "a_heatmap.nii.gz")
    np.testing.assert_allclose(heatmap.affine, nib.load(files["image"][0]).affine, atol=1e-5)
    np.testing.assert_array_equal(np.isfinite(heatmap.get_fdata()), region)
    written = json.loads(registration_path(out, "a").read_text())
    np.testing.assert_allclose(written[0]["matrix"], MOTION, atol=1e-6)
    (said,) = registration_warnings(out, "a")
    assert said.startswith("all channels: ") and "not scored" in said
    assert "nii" not in registration_path(out, "a").read_text()

    alone = brain_mri(region="all", spacing=None, register=True)  # nothing to register: nothing is written
    case = alone({"image": files["image"][0], "case": "a"})
    heatmap_to_scan(alone, out)({**case, "pred": case["image"].as_tensor()})
    assert not registration_path(out, "a").exists() and registration_warnings(out, "a") == []


def test_chains_that_register_and_a_context_that_is_not_there():
    assert isinstance(head_ct(register=True).transforms[0].align, AlignChannels)
    assert head_ct().transforms[0].align is None
    with pytest.raises(TypeError):
        radiograph(register=True)
    for wrong in ("grey", ["bone"], ["grey", "grey"]):
        with pytest.raises(ConfigError, match="give a list of grey, white"):
            brain_mri(context=wrong)
