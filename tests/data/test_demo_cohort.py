"""The made cohort: the same by seed, on grids as scanners write them, with lesions that can be seen."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medanomaly.data import LoadCased, make_demo_cohort, read_datalist

# test subjects 3 to 6 of 6; those in every second place have lesions, and their scans lie on different grids
SIZES = {"n_training": 1, "n_validation": 1, "n_test": 4}
BRIGHT, DARK = 1, 2


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_demo_cohort(tmp_path_factory.mktemp("demo"), **SIZES, seed=3)


def cases_of(cohort):
    return [case for section in ("training", "validation", "test") for case in read_datalist(cohort, section)]


def array(path):
    return np.asarray(nib.load(path).dataobj)


def test_sections_hold_the_subjects_that_were_asked_for(cohort):
    assert [len(read_datalist(cohort, section)) for section in ("training", "validation", "test")] == [1, 1, 4]
    assert [case["case"] for case in cases_of(cohort)] == [f"demo-0{n}" for n in range(1, 7)]
    assert all(("label" in case) == (case["case"] >= "demo-03") for case in cases_of(cohort))
    assert json.loads(cohort.read_text())["seed"] == 3
    assert {path.name for path in cohort.parent.iterdir()} == {"datalist.json", *(f"demo-0{n}" for n in range(1, 7))}


def test_only_half_of_the_test_subjects_have_lesions(cohort):
    labels = {path.parent.name: array(path) for path in sorted(cohort.parent.glob("*/label.nii.gz"))}
    assert [bool(label.any()) for label in labels.values()] == [False, False, False, True, False, True]
    for case in ("demo-04", "demo-06"):
        assert set(np.unique(labels[case])) == {0, BRIGHT, DARK}


def test_the_same_seed_makes_the_same_subject_and_another_makes_another(cohort, tmp_path):
    for seed, same in ((3, True), (4, False)):
        again = make_demo_cohort(tmp_path / str(seed), n_training=1, n_validation=0, n_test=0, seed=seed)
        assert read_datalist(again, "test", required=False) == []
        for name in ("flair", "t1", "brain", "label"):
            first, second = (
                nib.load(folder / "demo-01" / f"{name}.nii.gz") for folder in (cohort.parent, again.parent)
            )
            np.testing.assert_array_equal(first.affine, second.affine)
            assert np.array_equal(first.dataobj, second.dataobj) == (same or name == "label"), name


def test_masks_lie_on_the_grid_of_the_images(cohort):
    for case in cases_of(cohort):
        images = [
            nib.load(path) for path in [*case["image"], case["region"], *([case["label"]] if "label" in case else [])]
        ]
        for image in images[1:]:
            assert image.shape == images[0].shape
            np.testing.assert_array_equal(image.affine, images[0].affine)
        assert images[0].header.get_xyzt_units() == ("mm", "sec")
        brain = np.asarray(images[2].dataobj)
        assert set(np.unique(brain)) == {0, 1}
        litres = brain.sum() * abs(np.linalg.det(images[0].affine[:3, :3])) / 1e6
        assert 1.2 < litres < 2.4  # ICBM152 is a large brain of 1.9 l
        if "label" in case:
            assert not np.asarray(images[3].dataobj)[brain == 0].any()


def test_orientations_spacings_and_obliqueness_differ(cohort):
    affines = [nib.load(case["image"][0]).affine for case in cases_of(cohort)]
    assert [nib.aff2axcodes(affine) for affine in affines] == [
        tuple(c) for c in ("RAS", "LPS", "PSR", "LAS", "ASR", "RAS")
    ]
    assert len({tuple(nib.affines.voxel_sizes(affine).round(4)) for affine in affines}) == 5
    assert [bool(nib.affines.obliquity(affine).max() > 1e-3) for affine in affines] == [
        False,
        True,
        False,
        True,
        True,
        False,
    ]


def test_brains_lie_at_the_same_place_in_the_world(cohort):
    centres = []
    for case in cases_of(cohort):
        brain = nib.load(case["region"])
        centres.append(nib.affines.apply_affine(brain.affine, np.argwhere(np.asarray(brain.dataobj)).mean(axis=0)))
    assert np.ptp(centres, axis=0).max() < 6  # mm, and no two of the grids share a corner


@pytest.mark.parametrize(("case", "index"), [("demo-04", 1), ("demo-06", 3)])
@pytest.mark.parametrize(("kind", "sign"), [(BRIGHT, 1), (DARK, -1)])
def test_lesions_stand_out_on_flair_from_the_white_matter_around(cohort, case, index, kind, sign):
    test_case = read_datalist(cohort, "test")[index]
    assert test_case["case"] == case
    flair, brain, label = map(array, (test_case["image"][0], test_case["region"], test_case["label"]))
    lesions, count = ndimage.label(label == kind, np.ones((3, 3, 3)))
    assert count >= 1
    for number in range(1, count + 1):
        lesion = lesions == number
        if lesion.sum() < 20:
            continue  # a rim that a cut through another lesion left over
        around = ndimage.binary_dilation(lesion, iterations=3) & ~ndimage.binary_dilation(label > 0) & (brain > 0)
        assert sign * (np.median(flair[lesion]) / np.median(flair[around]) - 1) > 0.2


def test_a_subject_loads_as_a_case(cohort):
    case = LoadCased(2)(read_datalist(cohort, "test")[1])
    assert case["image"].shape[0] == 2
    assert case["label"].sum() == np.count_nonzero(array(cohort.parent / "demo-04/label.nii.gz"))
