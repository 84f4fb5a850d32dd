"""Spoiled masks are told from good ones, on a made head; real heads are in tests/real_scans."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medanomaly.preprocessing.mask_check import brain_mask_problems, region_share_warning
from tests.preprocessing.made_head import SHAPE, SPACING, as_image, made_head

IMAGE, BRAIN, AFFINE = made_head()


def within(mask: np.ndarray, mm: float) -> np.ndarray:
    return ndimage.distance_transform_edt(~mask, SPACING) <= mm


def shifted(axis: int, mm: float) -> np.ndarray:
    return np.roll(BRAIN, round(mm / SPACING[axis]), axis)


def half() -> np.ndarray:
    mask = BRAIN.copy()
    mask[31:] = False
    return mask


def ball() -> np.ndarray:
    grid = np.indices(SHAPE) * SPACING.reshape(3, 1, 1, 1)
    return ((grid - 12) ** 2).sum(0) < 30**2


def in_pieces() -> np.ndarray:
    mask = BRAIN.copy()
    for axis in range(3):
        mask[(slice(None),) * axis + (slice(None, None, 5),)] = False
    return mask


def cut_by_the_border() -> np.ndarray:
    mask = within(BRAIN, 2)
    mask[:, :, : np.flatnonzero(mask.any((0, 1)))[0] + 17] = False
    return np.roll(mask, -(np.flatnonzero(mask.any((0, 1)))[0]), 2)


SPOILED = {
    "whole image": (np.ones(SHAPE, bool), "100.0 % of the image"),
    "20 mm to the left": (shifted(0, -20), "darker than a brain: .* at the left.*if it lay 15 mm nearer to the right"),
    "20 mm to the back": (shifted(1, -20), "if it lay 15 mm nearer to the front"),
    "20 mm up": (shifted(2, 20), "if it lay 15 mm nearer to the bottom"),
    "half": (half(), r"has [67]\d\d ml.*at the right"),
    "many pieces": (in_pieces(), r"in \d+ pieces"),
    "a ball in a corner": (ball(), r"has \d\d ml.*as dark in the brain mask as around it"),
    "dilated by 15 mm": (within(BRAIN, 15), r"has 2,\d\d\d ml"),
    "eroded by 10 mm": (~within(~BRAIN, 10), r"has \d\d\d ml"),
    "with the skull": (within(BRAIN, 9), "darker than a brain"),
    "upside down": (BRAIN[:, :, ::-1], "brain mask"),
    "cut by the border": (cut_by_the_border(), r"cut by the border of the image, where it has \d+ %"),
}


def test_the_mask_of_the_head_has_no_problem():
    assert brain_mask_problems(BRAIN, as_image(IMAGE, AFFINE)) == []


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_mask_is_told_with_what_was_found(name):
    mask, words = SPOILED[name]
    problems = brain_mask_problems(mask, as_image(IMAGE, AFFINE))
    assert problems
    text = "; ".join(problems)
    assert re.search(words, text), text
    assert "usual" in text


def test_the_sides_are_those_of_the_patient_in_any_orientation():
    scan = nib.Nifti1Image(IMAGE, AFFINE)
    wrong = nib.Nifti1Image(shifted(0, -20).astype(np.uint8), AFFINE)
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt("PSL"))
    turned, mask = scan.as_reoriented(turn), wrong.as_reoriented(turn)
    found = brain_mask_problems(np.asarray(mask.dataobj) > 0, as_image(turned.get_fdata(), turned.affine))
    assert found == brain_mask_problems(shifted(0, -20), as_image(IMAGE, AFFINE))


def test_other_contrasts_and_a_background_below_0_make_no_difference():
    extracted = np.where(BRAIN, IMAGE - 480, np.float32(-900))  # z-scored, say
    assert brain_mask_problems(BRAIN, as_image(extracted, AFFINE)) == []
    dark = IMAGE.copy()
    dark[within(BRAIN, 2) & ~BRAIN] = 700  # fluid as bright as in T2
    assert brain_mask_problems(BRAIN, as_image(dark, AFFINE)) == []


def test_the_limits_of_a_plausible_share():
    shares = (0.009, 0.01, 0.5, 0.95, 0.951, float("nan"))
    assert [bool(region_share_warning(share)) for share in shares] == [True, False, False, False, True, False]
