"""Nearest neighbours against scikit-learn, and what they cannot be fitted on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors as ScikitNearestNeighbors

from medanomaly.detectors import NearestNeighbours
from medanomaly.errors import ConfigError, TrainingError


def textures(n, channels=1, size=(8, 8), seed=0):
    """Patches with a brightness of their own."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand((n,) + (1,) * (1 + len(size)), generator=generator)
    return level + 0.3 * torch.randn((n, channels, *size), generator=generator)


def fitted(samples, **settings):
    shape = {"in_channels": samples.shape[1], "patch_size": samples.shape[2], "spatial_dims": samples.ndim - 2}
    detector = NearestNeighbours(**shape, **settings).eval()
    detector.fit_statistics(samples.split(64))
    return detector


def close(scores, expected):
    assert scores.shape == (len(expected), 1) and scores.dtype == torch.float32
    np.testing.assert_allclose(scores[:, 0].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (8, 8)), (2, (4, 4, 4))])
@pytest.mark.parametrize("n_neighbours", [1, 5])
def test_scores_are_the_mean_distances_that_scikit_learn_finds(channels, size, n_neighbours):
    normal, other = textures(300, channels, size), textures(200, channels, size, seed=1)
    detector = fitted(normal, n_neighbours=n_neighbours)
    oracle = ScikitNearestNeighbors(n_neighbors=n_neighbours, algorithm="brute").fit(normal.flatten(1).numpy())
    expected = oracle.kneighbors(other.flatten(1).numpy())[0].mean(axis=1)
    close(detector(other), expected)
    close(detector(other[:1]), expected[:1])  # alone
    with torch.autocast("cpu", torch.bfloat16):
        close(detector(other), expected)
    detector.distances_at_once = 1000  # in many parts
    close(detector(other), expected)


def test_a_patch_that_is_kept_is_at_distance_0_from_itself():
    normal = textures(300)
    assert fitted(normal, n_neighbours=1)(normal).max() < 1e-5


def test_no_more_than_the_first_patches_are_kept():
    normal, asked = textures(300), []

    def batches():
        for batch in normal.split(64):
            asked.append(len(batch))
            yield batch

    detector = NearestNeighbours(patch_size=8, max_samples=100)
    detector.fit_statistics(batches())
    assert torch.equal(detector.bank, normal[:100].flatten(1))
    assert len(asked) == 2


def test_a_model_is_loaded_whatever_the_number_of_its_patches():
    small, large, patches = fitted(textures(50)), fitted(textures(300, seed=1)), textures(20, seed=2)
    expected = large(patches)
    assert not torch.equal(small(patches), expected)
    small.load_state_dict(large.state_dict())
    assert torch.equal(small(patches), expected)
    small.fit_statistics([textures(50)])  # its memory is its own
    assert torch.equal(large(patches), expected)
    with pytest.raises(RuntimeError, match="bank"):
        NearestNeighbours(patch_size=16).load_state_dict(large.state_dict())


def test_without_a_fit_there_are_no_scores():
    with pytest.raises(TrainingError, match="not fitted"):
        NearestNeighbours(patch_size=8)(textures(3))


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "there are 0 training patches, but each patch is compared with 5"),
        ([textures(4)], "there are 4 training patches, but each patch is compared with 5"),
        ([textures(9), torch.full((1, 1, 8, 8), torch.nan)], "not finite"),
    ],
    ids=["none", "few", "NaN"],
)
def test_patches_that_nothing_can_be_learned_from_are_refused(batches, said):
    with pytest.raises(TrainingError, match=said):
        NearestNeighbours(patch_size=8).fit_statistics(batches)


@pytest.mark.parametrize("setting", [{"n_neighbours": 0}, {"max_samples": 4}], ids=str)
def test_settings_that_cannot_work_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        NearestNeighbours(**setting)
