"""The intensity baselines against loops over voxels and known distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import stats

from medanomaly.detectors import IntensityBaseline
from medanomaly.errors import ConfigError

SHAPE = (9, 8, 7)


def made_case(shape=SHAPE, channels=2, seed=0):
    """A volume whose background is bright, and a ragged brain that touches the border."""
    rng = np.random.default_rng(seed)
    brain = rng.random((1, 1, *shape)) < 0.7
    volume = rng.normal(1.0, 0.4, (1, channels, *shape)).astype(np.float32)
    volume[np.broadcast_to(~brain, volume.shape)] = 50.0
    return torch.as_tensor(volume), torch.as_tensor(brain)


def gaussian_mean_over_brain(image, brain, sigma, spacing):
    """For each brain voxel, the mean of all brain voxels weighted by exp(-distance^2 / (2 sigma^2)), in mm."""
    places = np.argwhere(brain) * np.asarray(spacing)
    squares = ((places[:, None] - places[None]) ** 2).sum(axis=-1)
    weights = np.exp(-squares / (2 * sigma**2))
    result = np.full(brain.shape, np.nan)
    result[brain] = weights @ image[brain].astype(float) / weights.sum(axis=1)
    return result


@pytest.mark.parametrize("channel", [0, 1])
def test_plain_is_the_chosen_channel(channel):
    volume, brain = made_case()
    heatmap = IntensityBaseline(channel=channel)(volume, mask=brain)
    assert heatmap.shape == (1, 1, *SHAPE) and heatmap.dtype == torch.float32
    assert torch.equal(heatmap[brain], volume[:, channel : channel + 1][brain])
    assert torch.equal(torch.isnan(heatmap), ~brain)


@pytest.mark.parametrize(
    ("sigma", "spacing"),
    [(1.5, (1.0, 1.0, 1.0)), (1.5, (1.0, 0.8, 3.0)), (0.7, (2.0, 1.0, 0.9)), (1.5, None)],
)
def test_smoothed_equals_a_weighted_mean_over_the_brain(sigma, spacing):
    volume, brain = made_case()
    heatmap = IntensityBaseline("smoothed", sigma=sigma, spacing=spacing)(volume, mask=brain)
    expected = gaussian_mean_over_brain(
        volume[0, 0].numpy(), brain[0, 0].numpy(), sigma, spacing if spacing else (1.0, 1.0, 1.0)
    )
    # the filter is cut off at four sigmas
    assert np.allclose(heatmap[0, 0].numpy(), expected, atol=2e-3, equal_nan=True)


def test_inverted_ranks_voxels_the_other_way_round():
    volume, brain = made_case()
    plain, inverted = (IntensityBaseline(kind)(volume, mask=brain) for kind in ("plain", "inverted"))
    assert torch.equal(inverted[brain], -plain[brain]) and inverted[~brain].isnan().all()


def test_the_mean_of_the_brain_is_at_each_of_its_voxels():
    volume, brain = made_case()
    heatmap = IntensityBaseline("mean", channel=1)(volume, mask=brain)
    assert np.allclose(heatmap[brain], volume[:, 1:][brain].mean()) and heatmap[~brain].isnan().all()


def test_smoothing_takes_nothing_from_the_background():
    volume, brain = made_case()
    changed = torch.where(brain, volume, torch.tensor(-1e4))
    smoothed = IntensityBaseline("smoothed")
    assert torch.equal(smoothed(volume, mask=brain)[brain], smoothed(changed, mask=brain)[brain])


@pytest.mark.parametrize(
    "distribution",
    [stats.norm(), stats.uniform(-3, 9), stats.beta(2, 5), stats.norm(0, 1e-4)],
    ids=["normal", "uniform", "beta", "narrow"],
)
def test_equalised_brain_voxels_are_uniform(distribution):
    values = distribution.rvs(size=(1, 1, 40, 40, 20), random_state=0).astype(np.float32)
    brain = torch.as_tensor(np.random.default_rng(1).random(values.shape) < 0.8)
    volume = torch.where(brain, torch.as_tensor(values), torch.tensor(1e3))
    heatmap = IntensityBaseline("equalised")(volume, mask=brain)
    ranks = heatmap[brain].numpy()
    assert stats.kstest(ranks, "uniform").statistic < 0.02
    assert ranks.min() > 0 and ranks.max() == 1
    order = np.argsort(values[brain.numpy()], kind="stable")
    assert (np.diff(ranks[order]) >= 0).all()
    assert torch.equal(torch.isnan(heatmap), ~brain)


def test_equalised_counts_the_voxels_up_to_a_bin_and_interpolates_between_the_centres():
    volume = torch.tensor([0.0, 1.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0]).view(1, 1, 2, 2, 2)
    heatmap = IntensityBaseline("equalised", n_bins=4)(volume, mask=torch.ones_like(volume))
    # up to the bins' centres 0.5, 1.5, 2.5, 3.5 lie 1, 3, 4 and 8 of the 8 voxels
    assert heatmap.flatten().tolist() == pytest.approx([1 / 8, 2 / 8, 2 / 8, 3.5 / 8, 6 / 8, 1, 1, 1])


@pytest.mark.parametrize("kind", ["plain", "smoothed", "equalised", "inverted"])
def test_volumes_of_a_batch_are_scored_apart_and_meta_tensors_alike(kind):
    cases = [made_case(seed=seed) for seed in (1, 2)]
    volumes, brains = (torch.cat(parts) for parts in zip(*cases, strict=True))
    baseline = IntensityBaseline(kind)
    heatmaps = baseline(
        MetaTensor(volumes), lambda patches: 1 / 0, mask=MetaTensor(brains.float())
    )  # no network is asked
    alone = torch.cat([baseline(volume, mask=brain) for volume, brain in cases])
    assert torch.equal(heatmaps.nan_to_num(-9), alone.nan_to_num(-9))


def test_without_a_mask_the_brain_is_where_some_channel_is_not_zero():
    volume, brain = made_case()
    volume = torch.where(brain, volume, torch.tensor(0.0))
    volume[0, 0, 4] = 0  # still brain: the other channel is not zero there
    heatmap = IntensityBaseline()(volume)
    assert torch.equal(torch.isnan(heatmap), ~brain)


def test_a_channel_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"channel 2 was asked for, but the volume has 2 channel\(s\)"):
        IntensityBaseline(channel=2)(made_case()[0])


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="'bright' is unknown: use one of plain, smoothed, equalised"):
        IntensityBaseline("bright")
