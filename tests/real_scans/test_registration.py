"""Registration of published scans: whole heads in thick slices, and brains that were extracted."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medanomaly.preprocessing import brain_mri
from medanomaly.preprocessing.channels import AlignChannels, check, records_of
from medanomaly.preprocessing.registration import Volume, register
from medanomaly.workflows import score, train

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
WHOLE, EXTRACTED = DATA / "ms_whole_head" / "patient04_scan1", DATA / "open_ms" / "patient26"


@pytest.fixture(autouse=True)
def _scans_are_here(request):
    for place in (WHOLE, EXTRACTED):
        if not place.is_dir():
            pytest.skip(f"the real scans are not on this machine: {place} is absent")


def read(path):
    image = nib.load(path)
    return Volume(np.asarray(image.dataobj, np.float32), np.asarray(image.affine, np.float64))


def motion(volume, mm=7.0, degrees=5.0, axis=(2.0, 1.0, -1.5)):
    """A motion about the middle of a volume, and that middle."""
    middle = nib.affines.apply_affine(volume.affine, (np.array(volume.values.shape) - 1) / 2)
    turn = Rotation.from_rotvec(degrees * np.array(axis) / np.linalg.norm(axis), degrees=True).as_matrix()
    shift = mm * np.array([1.0, -2.0, 2.0]) / 3
    return nib.affines.from_matvec(turn, middle - turn @ middle + shift), middle


def error_of(found, true, middle):
    rest = np.linalg.inv(true) @ found
    away = np.linalg.norm(nib.affines.apply_affine(rest, middle) - middle)
    return float(away), float(np.degrees(Rotation.from_matrix(rest[:3, :3]).magnitude()))


def moved(volume, known):
    return Volume(volume.values, known @ volume.affine)


def test_a_known_motion_of_t1_is_found():
    t1 = read(WHOLE / "T1.nii.gz")
    known, middle = motion(t1)
    mm, degrees = error_of(register(t1, moved(t1, known)).matrix, known, middle)
    assert mm < 1 and degrees < 1


@pytest.mark.slow
def test_a_known_motion_of_t1_against_flair_is_found():
    """What is found without the motion is the reference."""
    t1, flair = read(WHOLE / "T1.nii.gz"), read(WHOLE / "FLAIR.nii.gz")
    known, middle = motion(t1)
    still, found = register(flair, t1), register(flair, moved(t1, known))
    assert check(still) == check(found) == []
    mm, degrees = error_of(found.matrix, known @ still.matrix, middle)
    assert mm < 1 and degrees < 1


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted(path.name for path in WHOLE.parent.glob("*")) or ["none"])
def test_all_channels_of_all_scans_pass_the_check(folder):
    flair = read(WHOLE.parent / folder / "FLAIR.nii.gz")
    for name in ("T1", "T2"):
        file = WHOLE.parent / folder / f"{name}.nii.gz"
        if file.exists():
            other = read(file)
            known, middle = motion(other, 15.0, 12.0, (-1.0, 1.0, 2.0))
            still, found = register(flair, other), register(flair, moved(other, known))
            assert check(still) == check(found) == []
            mm, degrees = error_of(found.matrix, known @ still.matrix, middle)
            assert mm < 1 and degrees < 1, name


@pytest.mark.slow
def test_the_heatmap_of_three_channels_lies_on_flair(tmp_path):
    files = [str(WHOLE / f"{name}.nii.gz") for name in ("FLAIR", "T1", "T2")]
    case = {"image": files, "region": str(WHOLE / "brain_mask.nii.gz")}
    other = {**case, "image": [file.replace(WHOLE.name, "patient01_scan2") for file in files]}
    other["region"] = case["region"].replace(WHOLE.name, "patient01_scan2")
    (tmp_path / "list.json").write_text(json.dumps({"training": [other]}))
    settings = {"spacing": [4, 4, 4], "patches_per_epoch": 256, "max_epochs": 1, "register": True}
    model = train(tmp_path / "list.json", tmp_path / "model", settings=settings)
    score(files, model, tmp_path / "out", region=case["region"], register=True)
    heatmap, scan = nib.load(tmp_path / "out/FLAIR/FLAIR_heatmap.nii.gz"), nib.load(files[0])
    assert heatmap.shape == scan.shape
    np.testing.assert_allclose(heatmap.affine, scan.affine, atol=1e-4)
    record = json.loads((tmp_path / "out/FLAIR/FLAIR_registration.json").read_text())
    assert [one["what"] for one in record][:2] == ["channel 1", "channel 2"]
    assert not any(one["warnings"] for one in record[:2])


@pytest.mark.slow
def test_the_maps_lie_on_the_tissue_and_move_with_it(tmp_path):
    """Brains of open_ms are smaller than the template: registered, the white matter map fits T1 better than before."""
    known, _ = motion(read(EXTRACTED / "T1.nii.gz"), 12.0, 10.0)
    scan = nib.load(EXTRACTED / "T1.nii.gz")
    nib.save(nib.Nifti1Image(scan.get_fdata(dtype=np.float32), known @ scan.affine), tmp_path / "moved.nii.gz")
    chain = brain_mri(region="nonzero", spacing=None, context=["grey", "white"])
    still, after = (chain({"image": str(file)}) for file in (EXTRACTED / "T1.nii.gz", tmp_path / "moved.nii.gz"))
    inside = np.asarray(still["region"][0]) > 0
    t1, grey, white = (np.clip(np.asarray(channel)[inside], -0.5, 1.5) for channel in still["image"])
    assert np.corrcoef(t1, white)[0, 1] > 0.45 and np.corrcoef(t1, grey)[0, 1] < 0
    for channel, values in ((1, grey), (2, white)):
        again = np.asarray(after["image"][channel])[np.asarray(after["region"][0]) > 0]
        assert np.corrcoef(np.sort(again), np.sort(values))[0, 1] > 0.99
    middle = np.array([0.0, -20.0, 10.0])
    first, second = (np.array(records_of(case["image"])[0]["matrix"]) for case in (still, after))
    away = nib.affines.apply_affine(second @ known, middle) - nib.affines.apply_affine(first, middle)
    assert np.linalg.norm(away) < 2


@pytest.mark.slow
def test_the_channels_of_an_extracted_brain_are_left_where_they_are():
    align = AlignChannels()
    flair, t1 = (
        brain_mri(region="nonzero", spacing=None).transforms[0]({"image": str(EXTRACTED / name)})["image"]
        for name in ("FLAIR.nii.gz", "T1.nii.gz")
    )
    image, covered = align([flair, t1], ["FLAIR", "T1"])
    (one,) = records_of(image)
    assert one["shift_mm"] < 1 and one["rotation_degrees"] < 0.5 and one["warnings"] == []
    assert float(covered.float().mean()) > 0.97
