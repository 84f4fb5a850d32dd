"""PCA against a singular value decomposition, and what it cannot be fitted on."""

from __future__ import annotations

import pytest
import torch

from medanomaly.detectors import PCA
from medanomaly.errors import ConfigError, TrainingError


def textures(n, channels=2, size=8, spatial_dims=2):
    """Patches that a few directions tell most of, and none all."""
    generator = torch.Generator().manual_seed(n)
    shape = (channels,) + (size,) * spatial_dims
    axes = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(n, 5, generator=generator)
    return torch.einsum("nk,k...->n...", weights, axes) + 0.1 * torch.randn(n, *shape, generator=generator)


@pytest.mark.parametrize(("channels", "size", "spatial_dims"), [(1, 8, 2), (2, 8, 2), (1, 10, 3)])  # 1000 numbers
def test_scores_are_the_squared_errors_of_the_leading_singular_vectors(channels, size, spatial_dims):
    shape = channels, size, spatial_dims
    pca = PCA(*shape, n_components=5, max_samples=300)
    patches, new = textures(700, *shape), textures(20, *shape)
    pca.fit_statistics(patches.split(200))
    x = patches[:300].flatten(1).double()
    axes = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False).Vh[:5]
    centred = new.flatten(1) - x.mean(dim=0)
    residual = (centred - centred @ axes.T @ axes).view_as(new)
    torch.testing.assert_close(pca.reconstruct(new), (new - residual).float(), rtol=0, atol=1e-4)
    expected = residual.square().mean(dim=1, keepdim=True).float()
    torch.testing.assert_close(pca(new), expected, rtol=1e-4, atol=1e-4)


def test_of_few_patches_the_components_tell_all():
    pca, patches = PCA(2, 8, n_components=50), textures(6)
    pca.fit_statistics([patches])
    assert int((pca.components.norm(dim=1) > 0.5).sum()) == 5
    assert pca(patches).max() < 1e-9 < 1e-3 < pca(textures(7)).max()


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "at least 2 training patches, but there are 0"),
        ([textures(1)], "at least 2 training patches, but there are 1"),
        ([textures(5), torch.full((1, 2, 8, 8), torch.inf)], "not finite"),
    ],
    ids=["none", "one", "infinite"],
)
def test_patches_that_nothing_can_be_learned_from_are_refused(batches, said):
    with pytest.raises(TrainingError, match=said):
        PCA(2, 8).fit_statistics(batches)


@pytest.mark.parametrize("setting", [{"n_components": 0}, {"n_components": 256}, {"max_samples": 1}], ids=str)
def test_settings_that_cannot_work_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        PCA(**setting)
