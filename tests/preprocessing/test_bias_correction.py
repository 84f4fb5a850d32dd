"""N4 takes out a bias field that is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medanomaly.errors import InputError
from medanomaly.preprocessing import CorrectBiasd, brain_mri
from tests.preprocessing.made_head import as_image, made_head

IMAGE, BRAIN, AFFINE = made_head()
IMAGE, BRAIN, AFFINE = IMAGE[::2, ::2, ::2], BRAIN[::2, ::2, ::2], AFFINE @ np.diag([2, 2, 2, 1])
X, Y, Z = (axis / size - 0.5 for axis, size in zip(np.indices(IMAGE.shape), IMAGE.shape, strict=True))
FIELD = np.exp(0.9 * X - 0.7 * Y + 0.8 * Z**2 + 0.6 * X * Y)


def case_of(image, mask=BRAIN):
    region = MetaTensor(torch.from_numpy(mask[None].astype(np.float32)), affine=torch.from_numpy(AFFINE))
    return {"image": as_image(image, AFFINE), "region": region}


def spread(values):
    return float(values.std() / values.mean())


def test_a_known_field_is_taken_out_in_the_brain():
    biased = (IMAGE * FIELD).astype(np.float32)
    corrected = CorrectBiasd()(case_of(biased))["image"]
    assert corrected.dtype == torch.float32 and corrected.shape == (1, *IMAGE.shape)
    found = np.log(biased[BRAIN] / np.asarray(corrected[0])[BRAIN])
    assert np.corrcoef(found, np.log(FIELD[BRAIN]))[0, 1] > 0.97
    left = np.asarray(corrected[0])[BRAIN] / IMAGE[BRAIN]
    assert spread(left) < 0.25 * spread(FIELD[BRAIN])
    assert np.asarray(corrected[0])[BRAIN].mean() == pytest.approx(biased[BRAIN].mean(), rel=1e-3)


def test_an_image_that_was_normalised_is_refused():
    with pytest.raises(InputError, match=r"0 or below in .* % of the region, where N4 takes at most 10 %"):
        CorrectBiasd()(case_of(IMAGE - np.float32(450)))


def test_it_is_a_step_of_the_chain_only_if_it_is_asked_for():
    has = [any(isinstance(step, CorrectBiasd) for step in brain_mri(bias_correction=on).transforms) for on in (0, 1)]
    assert has == [False, True]
