"""Disks against counts by hand, analytic volumes and world coordinates; the heads that they stand in."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from medanomaly.detectors import IntensityBaseline
from medanomaly.errors import InputError
from medanomaly.experiments.disks import disk_in_plane, insert_disk, place_disk
from medanomaly.experiments.toy_heads import WhiteMatterToLeveld, prepare_heads
from medanomaly.experiments.toy_measures import DiskHead, measure_disk
from medanomaly.workflows.scorers import Scorer

SETTINGS = {"diameter_mm": 35, "height_mm": 35}
BRIGHTNESS = Scorer(IntensityBaseline())


def made_head(folder, axes="PSR", spacing=(1.5, 2.0, 1.25), gain=3.7, seed=0):
    """A head of three tissues in shells with a bright skull, 120 x 140 x 110 mm, as files; shares 20, 48, 32 %."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n / s) for n, s in zip((120, 140, 110), spacing, strict=True))
    place = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    radius = np.sqrt(sum((p * s / h) ** 2 for p, s, h in zip(place, spacing, (52, 62, 47), strict=True)))
    image = np.select([radius < 0.32 ** (1 / 3), radius < 0.8 ** (1 / 3), radius < 1], [420, 300, 130], 0)
    image = image + rng.normal(0, 12, shape) * (radius < 1)
    image[(radius > 1.03) & (radius < 1.1)] = 900
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-70, -50, 12)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    case = {"case": "made"}
    for name, array in (("image", image * gain), ("region", radius < 1)):
        turned = nib.orientations.apply_orientation(array.astype(np.float32), turn)
        nib.save(nib.Nifti1Image(turned, affine @ inv_ornt_aff(turn, shape)), folder / f"{name}.nii.gz")
        case[name] = str(folder / f"{name}.nii.gz")
    return case


@pytest.mark.parametrize(("diameter", "voxels"), [(1, 1), (2, 5), (3, 9), (4, 13), (5, 21)])
def test_small_disks_at_1_mm_have_the_voxels_that_one_counts_on_paper(diameter, voxels):
    assert disk_in_plane((15, 15), (7, 7), (1, 1, 1), diameter).sum() == voxels


def test_a_disk_thinner_than_a_voxel_fills_the_one_of_its_axis():
    assert np.argwhere(disk_in_plane((9, 8), (4, 5), (2, 3), 1)).tolist() == [[4, 5]]


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 0.7), (0.5, 1.25)])
def test_a_large_disk_has_the_area_of_a_circle_and_is_round_in_mm(spacing):
    disk = disk_in_plane((120, 110), (60, 41), spacing, 35)
    assert disk.sum() * spacing[0] * spacing[1] == pytest.approx(math.pi * 17.5**2, rel=0.02)
    for axis, centre in enumerate((60, 41)):
        ends = np.flatnonzero(disk.any(axis=1 - axis))[[0, -1]]
        assert (ends - centre).tolist() == [-int(17.5 / spacing[axis]), int(17.5 / spacing[axis])]


def ellipsoid(shape, spacing, radii):
    place = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    return sum((p * s / r) ** 2 for p, s, r in zip(place, spacing, radii, strict=True)) < 1


def test_the_place_is_in_the_middle_of_the_brain_and_the_disk_in_the_brain():
    spacing = (1.0, 1.5, 2.5)
    brain = np.zeros((140, 110, 60), bool)
    brain[:, :, 10:55] = ellipsoid((140, 110, 45), spacing, (60, 70, 55))
    places = [place_disk(brain, spacing, 35, 35, np.random.default_rng(seed)) for seed in range(20)]
    (high,) = np.nonzero(brain.any(axis=(0, 1)))
    for place in places:
        first, end = place.slices
        assert end - first == 14
        assert abs((first - high[0]) - (high[-1] + 1 - end)) <= 1
        disk = disk_in_plane(brain.shape[:2], place.centre, spacing, 35)
        assert brain[disk][:, first:end].mean() >= 0.99
    assert len({place.centre for place in places}) > 10
    assert places[3] == place_disk(brain, spacing, 35, 35, np.random.default_rng(3))


@pytest.mark.parametrize("radii", [(16, 16, 40), (40, 40, 10), (0.1, 0.1, 0.1)])
def test_a_brain_without_room_is_an_error(radii):
    brain = ellipsoid((90, 90, 90), (1, 1, 1), radii)
    with pytest.raises(InputError, match="has no place in the brain"):
        place_disk(brain, (1, 1, 1), 35, 35, np.random.default_rng(0))


def test_inserting_changes_the_disk_in_a_copy_alone():
    volume = torch.rand(2, 5, 6, 3)
    disk = torch.zeros(5, 6, 3, dtype=torch.bool)
    disk[2, 3:5, 1] = True
    before = volume.clone()
    changed = insert_disk(volume, disk, 0.7)
    assert torch.equal(volume, before)
    assert (changed[:, disk] == torch.tensor(0.7)).all()
    assert torch.equal(changed[:, ~disk], before[:, ~disk])


@pytest.mark.parametrize("axes", ["RAS", "PSR", "LPI"])
def test_white_matter_gets_its_level_although_grey_matter_is_more_frequent(tmp_path, axes):
    head = prepare_heads([2.0, 2.0, 2.0], 0.45, margin=4)(made_head(tmp_path, axes))
    image, brain = np.asarray(head["image"])[0], np.asarray(head["region"])[0] > 0
    assert head["white_matter"] == pytest.approx(420 * 3.7, rel=0.01)
    assert (image[~brain] == 0).all()
    middle = tuple(n // 2 for n in image.shape)
    assert image[middle[0] - 3 : middle[0] + 3, middle[1], middle[2]].mean() == pytest.approx(0.45, abs=0.01)
    grey = image[(image > head["tissue_thresholds"][0]) & (image < head["tissue_thresholds"][1])]
    assert np.median(grey) == pytest.approx(0.45 * 300 / 420, rel=0.02)
    assert nib.aff2axcodes(np.asarray(head["image"].affine)) == ("R", "A", "S")


def test_a_brain_of_one_intensity_is_an_error():
    flat = MetaTensor(torch.ones(1, 8, 8, 8), meta={"filename_or_obj": "flat.nii"})
    with pytest.raises(InputError, match=r"flat\.nii has no three tissues"):
        WhiteMatterToLeveld()({"image": flat, "region": MetaTensor(torch.ones(1, 8, 8, 8))})


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 2.5)])
def test_the_disk_is_a_cylinder_along_the_axial_direction_of_the_patient(tmp_path, spacing):
    case = prepare_heads(list(spacing), 0.45, margin=4)(made_head(tmp_path))
    head = DiskHead(case, 0, BRIGHTNESS, SETTINGS)
    disk = head.disk(35)
    voxels = np.argwhere(disk.numpy()) + np.array([0, 0, head.place.slices[0]])
    affine = np.asarray(case["image"].affine)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    axis = (affine @ [*head.place.centre, 0, 1])[:2]
    assert np.hypot(*(world[:, :2] - axis).T).max() <= 17.501
    assert len(voxels) * np.prod(spacing) == pytest.approx(math.pi * 17.5**2 * 35, rel=0.03)
    assert np.ptp(world[:, 2]) + spacing[2] == pytest.approx(35)


def test_brightness_finds_all_of_a_white_disk_and_nothing_of_a_dark_one(tmp_path):
    heads = [DiskHead(prepare_heads([2.0] * 3, 0.45, margin=4)(made_head(tmp_path)), 0, BRIGHTNESS, SETTINGS)] * 2
    bright, dark = measure_disk(heads, 10, 1.0), measure_disk(heads, 35, 0.0)
    assert bright["auroc"] == {"mean": 1.0, "sd": 0.0, "heads": [1.0, 1.0]}
    assert dark["auroc"]["mean"] < 0.01
    assert bright["disk_voxels"] == [int(heads[0].disk(10).sum())] * 2
    assert bright["roc"]["fpr"][0] == 0 and bright["roc"]["tpr"][-1] == 1
    control = heads[0].control()
    assert sum(tissue["share"] for tissue in control.values()) == pytest.approx(1)
    assert control["white matter"]["score"] == pytest.approx(0.45, abs=0.01)
