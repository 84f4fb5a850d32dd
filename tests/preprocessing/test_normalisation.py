"""Percentile normalisation against NumPy on the voxels of the brain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Flip

from medanomaly.errors import ConfigError, InputError
from medanomaly.preprocessing import NormalisePercentiles, NormalisePercentilesd

SHAPE = (9, 8, 7)


def volume(n_channels=2):
    """Skewed intensities of another scale in each channel, and a background that would move the percentiles."""
    rng = np.random.default_rng(0)
    brain = np.zeros((1, *SHAPE), np.float32)
    brain[:, 2:7, 1:7, 2:6] = 1
    image = rng.gamma(2, 100 * 10.0 ** np.arange(n_channels)[:, None, None, None], (n_channels, *SHAPE))
    image[:, brain[0] == 0] = rng.choice([-5000, 90_000], (n_channels, int((brain == 0).sum())))
    return image.astype(np.float32), brain


@pytest.mark.parametrize("n_channels", [1, 2, 3])
@pytest.mark.parametrize(("lower", "upper"), [(5, 95), (0, 100), (1, 99), (2.5, 50)])
@pytest.mark.parametrize("clip", [False, True])
def test_each_channel_runs_from_0_to_1_between_its_percentiles_in_the_brain(n_channels, lower, upper, clip):
    image, brain = volume(n_channels)
    result = NormalisePercentiles(lower, upper, clip)(torch.from_numpy(image), torch.from_numpy(brain)).numpy()
    inside = brain[0] > 0
    for channel in range(n_channels):
        low, high = np.percentile(image[channel][inside], [lower, upper])
        expected = (image[channel] - low) / (high - low)
        expected = np.clip(expected, 0, 1) if clip else expected
        np.testing.assert_allclose(result[channel], np.where(inside, expected, 0), atol=1e-5)
    assert result.dtype == np.float32


def test_a_lesion_brighter_than_all_stays_so_unless_clipped():
    image, brain = volume(1)
    image[0, 4, 4, 4] = 30_000
    tensors = torch.from_numpy(image), torch.from_numpy(brain)
    unclipped, clipped = NormalisePercentiles()(*tensors), NormalisePercentiles(clip=True)(*tensors)
    assert unclipped[0, 4, 4, 4] == unclipped.max() > 10
    assert clipped[0, 4, 4, 4] == clipped.max() == 1


def test_scale_and_offset_of_the_scanner_do_not_matter():
    image, brain = volume()
    results = [NormalisePercentiles()(torch.from_numpy(x), torch.from_numpy(brain)) for x in (image, 7 * image + 300)]
    np.testing.assert_allclose(*results, atol=1e-4)


def test_affine_and_history_are_those_of_the_image_and_not_of_the_mask():
    image, brain = volume()
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0]))
    moved = Flip(0)(MetaTensor(torch.from_numpy(image), affine=affine))
    mask = MetaTensor(torch.from_numpy(brain), affine=torch.eye(4))
    result = NormalisePercentilesd()({"image": moved, "region": mask})["image"]
    assert [step["class"] for step in result.applied_operations] == ["Flip"]
    np.testing.assert_array_equal(result.affine, moved.affine)


@pytest.mark.parametrize("channel", [0, 1])
def test_a_constant_channel_is_an_error_that_names_channel_and_file(channel):
    image, brain = volume()
    image[channel, brain[0] > 0] = 12.5
    tensor = MetaTensor(torch.from_numpy(image), meta={"filename_or_obj": "scan.nii"})
    with pytest.raises(InputError, match=rf"channel {channel} of scan\.nii is constant in the region .*12\.5"):
        NormalisePercentiles()(tensor, torch.from_numpy(brain))


def test_an_empty_brain_is_an_error():
    image, brain = volume()
    with pytest.raises(InputError, match="empty after resampling"):
        NormalisePercentilesd()({"image": torch.from_numpy(image), "region": torch.from_numpy(0 * brain)})


@pytest.mark.parametrize(("lower", "upper"), [(95, 5), (50, 50), (-1, 95), (5, 101)])
def test_percentiles_that_do_not_rise_are_a_config_error(lower, upper):
    with pytest.raises(ConfigError, match="must rise within 0 to 100"):
        NormalisePercentiles(lower, upper)


@pytest.mark.parametrize("clip", [False, True])
def test_no_brain_voxel_is_taken_for_background(clip):
    """Scans of few levels: many voxels lie exactly at the percentile that becomes 0."""
    rng = np.random.default_rng(3)
    image, brain = rng.integers(3, 12, (1, *SHAPE)).astype(np.float32), volume()[1]
    result = NormalisePercentiles(clip=clip)(torch.from_numpy(image), torch.from_numpy(brain)).numpy()
    low, high = np.percentile(image[0][brain[0] > 0], [5, 95])
    assert np.mean(image[0][brain[0] > 0] == low) > 0.05
    np.testing.assert_array_equal(result[0] != 0, brain[0] > 0)
    expected = (image[0] - low) / (high - low)
    np.testing.assert_allclose(
        result[0], np.where(brain[0] > 0, np.clip(expected, 0, 1) if clip else expected, 0), atol=2e-6
    )


def test_quartiles_go_where_they_are_to_and_what_lies_outside_stays():
    image, brain = volume()
    tensors, inside = (torch.from_numpy(image), torch.from_numpy(brain)), brain[0] > 0
    quartiles = [[0.5, 0.7, 0.85], [0.2, 0.3, 0.6]]
    plain, moved = (NormalisePercentiles(quartiles=q)(*tensors).numpy()[:, inside] for q in (None, quartiles))
    for before, after, wanted in zip(plain, moved, quartiles, strict=True):
        marks = np.percentile(before, [25, 50, 75])
        knots, values = [0, *marks, 1], [0, *wanted, 1]
        for low, high, first, last in zip(knots, knots[1:], values, values[1:], strict=False):
            part = (before >= low) & (before <= high) & (before != 0)
            expected = first + (before[part] - low) / (high - low) * (last - first)
            np.testing.assert_allclose(after[part], expected, atol=1e-5)
        outside = (before < 0) | (before > 1)
        np.testing.assert_array_equal(after[outside], before[outside])
        assert (np.argsort(before, kind="stable") == np.argsort(after, kind="stable")).all()


@pytest.mark.parametrize(
    "quartiles", [[[0.5, 0.4, 0.8]], [[0.0, 0.5, 0.8]], [[0.2, 0.5, 1.0]], [[0.2, 0.5]], [0.2, 0.5, 0.8]]
)
def test_quartiles_that_do_not_rise_within_0_to_1_are_a_config_error(quartiles):
    with pytest.raises(ConfigError, match="three numbers for each channel that rise within 0 to 1"):
        NormalisePercentiles(quartiles=quartiles)


def test_quartiles_are_needed_for_every_channel_and_must_differ():
    image, brain = (torch.from_numpy(array) for array in volume())
    with pytest.raises(ConfigError, match="for 1 channels, but the image has 2"):
        NormalisePercentiles(quartiles=[[0.2, 0.5, 0.8]])(image, brain)
    image[1] = torch.where(torch.rand(SHAPE) < 0.9, 3.0, 900.0 * torch.rand(SHAPE))
    with pytest.raises(InputError, match="channel 1 of the image cannot be brought to the standard scale"):
        NormalisePercentiles(quartiles=[[0.2, 0.5, 0.8]] * 2)(image, brain)
