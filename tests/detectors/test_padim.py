"""PaDiM against Gaussians that NumPy fits and SciPy's Mahalanobis distance, and what it takes of memory."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from medanomaly.detectors import PaDiM
from medanomaly.errors import ConfigError, TrainingError

SMALL = {"backbone": "unet", "features": 8, "layers": (2, 3), "backbone_weights": "random"}


def scenes(n, channels=1, size=32, dims=2, seed=0):
    """Whole images that lie alike: a gradient with a brightness of its own, and noise."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.linspace(0, 1, size)
    scene = torch.stack(torch.meshgrid(*[line] * dims, indexing="ij")).mean(dim=0)
    level = torch.rand((n,) + (1,) * (dims + 1), generator=generator)
    return scene + 0.3 * level + 0.1 * torch.randn((n, channels) + (size,) * dims, generator=generator)


def fitted(normal, seed=0, **settings):
    torch.manual_seed(seed)
    detector = PaDiM(normal.shape[1], normal.shape[2], normal.ndim - 2, **{**SMALL, **settings}).eval()
    detector.fit_statistics(normal.split(16))
    return detector


@pytest.fixture(scope="module")
def detector():
    return fitted(scenes(150), n_channels=20)


def kept_features(detector, patches):
    """(B, n_channels, positions), float64."""
    return detector.backbone(patches)[:, detector.chosen].flatten(2).double().numpy()


def test_distances_are_those_of_a_gaussian_at_each_position(detector):
    normal, other = kept_features(detector, scenes(150)), kept_features(detector, scenes(7, seed=1))
    found = detector.squared_distances(scenes(7, seed=1)).flatten(1).sqrt()
    for place in (0, 13, 63):
        inverse = np.linalg.inv(np.cov(normal[:, :, place].T) + 0.01 * np.eye(20))
        mean = normal[:, :, place].mean(axis=0)
        expected = [mahalanobis(one, mean, inverse) for one in other[:, :, place]]
        np.testing.assert_allclose(found[:, place].numpy(), expected, rtol=1e-3)


def test_covariances_are_positive_definite_even_from_fewer_patches_than_channels(detector):
    for fit in (detector, fitted(scenes(5), n_channels=20)):
        precision = fit.whitening.double() @ fit.whitening.double().transpose(1, 2)
        assert torch.isfinite(precision).all()
        variances = 1 / torch.linalg.eigvalsh(precision)
        assert (variances > 0.0099).all(), "nothing below what is added"


def test_squared_distances_of_training_patches_are_about_the_number_of_channels(detector):
    """Their mean at a position is (n - 1) / n times the sum over axes of v / (v + 0.01), v the variance along each."""
    normal = kept_features(detector, scenes(150))
    found = detector.squared_distances(scenes(150)).flatten(1).mean(dim=0)
    for place in (0, 20, 63):
        variances = np.linalg.eigvalsh(np.cov(normal[:, :, place].T))
        expected = 149 / 150 * (variances / (variances + 0.01)).sum()
        assert 5 < expected < 20
        assert float(found[place]) == pytest.approx(expected, rel=1e-3)
    almost_all = fitted(scenes(150), n_channels=20, regularisation=1e-7)
    assert float(almost_all.squared_distances(scenes(150)).mean()) == pytest.approx(20 * 149 / 150, rel=0.01)


def test_batches_of_any_size_give_the_same_fit():
    normal = scenes(60)
    torch.manual_seed(0)
    one, many = (PaDiM(1, 32, **SMALL, n_channels=9) for _ in range(2))
    many.load_state_dict(one.state_dict())
    one.fit_statistics([normal])
    many.fit_statistics(normal.split(7))
    torch.testing.assert_close(one(normal[:5]), many(normal[:5]), rtol=1e-3, atol=1e-4)


def test_a_large_offset_loses_no_digits():
    """Sums of squares far from 0 would: they are taken around the mean of the first batch."""
    detector = fitted(scenes(150), n_channels=20)
    with torch.no_grad():
        for module in detector.backbone.backbone.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.bias.add_(1000.0)
    detector.fit_statistics(scenes(150).split(16))
    assert (detector.whitening.diagonal(dim1=1, dim2=2) <= 10.001).all(), "10 is that of variances of 0.01"
    assert torch.isfinite(detector(scenes(3))).all()


def test_a_model_that_is_loaded_gives_equal_maps_and_needs_no_weights(detector):
    buffer = io.BytesIO()
    torch.save(detector.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(1)
    again = PaDiM(1, 32, **{**SMALL, "backbone_weights": "/gone"}, n_channels=20).eval()
    again.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(again.chosen, detector.chosen)
    assert torch.equal(again(scenes(4, seed=2)), detector(scenes(4, seed=2)))


@pytest.mark.parametrize(("channels", "dims"), [(1, 2), (2, 3)])
def test_what_is_in_the_wrong_place_is_found_though_it_is_normal_elsewhere(channels, dims):
    size = 32 if dims == 2 else 16
    detector = fitted(scenes(80, channels, size, dims), smoothing=1.0)
    patches = scenes(6, channels, size, dims, seed=1)
    wrong = patches.clone()
    corner, opposite = (slice(0, size // 2),), (slice(size // 2, size),)
    wrong[(..., *corner * dims)] = patches[(..., *opposite * dims)]
    before, after = detector(patches), detector(wrong)
    inside, outside = ((..., *place * dims) for place in (corner, opposite))
    assert (after[inside].flatten(1).mean(dim=1) > 1.3 * before[inside].flatten(1).mean(dim=1)).all()
    assert (after[inside].flatten(1).mean(dim=1) > after[outside].flatten(1).mean(dim=1)).all()


def test_the_score_of_a_patch_is_the_highest_of_its_map(detector):
    whole = fitted(scenes(150), n_channels=20, score="patch")
    maps, scores = detector(scenes(5, seed=3)), whole(scenes(5, seed=3))
    assert maps.shape == (5, 1, 32, 32) and scores.shape == (5, 1)
    assert torch.equal(scores[:, 0], maps.flatten(1).amax(dim=1))


def test_in_bfloat16_only_the_backbone_is_coarser(detector):
    with torch.autocast("cpu", torch.bfloat16):
        coarse = detector(scenes(5, seed=3))
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, detector(scenes(5, seed=3)), rtol=0.2, atol=0.2)


def test_channels_are_drawn_by_the_seed_and_as_many_as_fit():
    def of(seed=0, **settings):
        torch.manual_seed(seed)
        return PaDiM(1, 32, **{**SMALL, "layers": (1, 2, 3), **settings})

    assert len(of().chosen) == 56, "all that the layers have"
    assert len(of(features=16).chosen) == 100, "of 112"
    assert len(of(features=16, max_gb=0.002).chosen) == 31, "256 positions * 31 ** 2 * 8 bytes = 1.97 MB"
    drawn = [of(seed, n_channels=30).chosen for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert all(len(chosen.unique()) == 30 for chosen in drawn)


def test_what_would_not_fit_is_refused_with_the_figure():
    with pytest.raises(
        ConfigError,
        match=r"550 channels at 3136 positions take 7\.59 GB to fit, more than max_gb=1: .* to 199 or fewer",
    ):
        PaDiM(1, 224, backbone="resnet50", n_channels=550)
    with pytest.raises(ConfigError, match="more than max_gb=1e-06"):
        PaDiM(1, 32, **SMALL, max_gb=1e-6, n_channels=2)


def test_too_few_patches_and_what_is_not_finite_are_refused():
    for batches, n in (([], 0), ([scenes(1)], 1), ([scenes(9), torch.full((1, 1, 32, 32), torch.nan)], 10)):
        with pytest.raises(TrainingError, match=f"at least 2 training patches with finite values, and there are {n}"):
            PaDiM(1, 32, **SMALL).fit_statistics(batches)
    with pytest.raises(TrainingError, match="not fitted"):
        PaDiM(1, 32, **SMALL)(scenes(2))
    with pytest.raises(ConfigError, match="has no weights"):
        PaDiM(1, 32, **{**SMALL, "backbone_weights": None}).fit_statistics([scenes(5)])


@pytest.mark.parametrize("setting", [{"score": "mean"}, {"regularisation": 0}, {"n_channels": 0}, {"n_channels": 49}])
def test_settings_that_cannot_work_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=f"{name} is {value!r}"):
        PaDiM(1, 32, **{**SMALL, **setting})
