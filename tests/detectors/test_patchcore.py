"""PatchCore against brute force in NumPy: its bank, its map, its score of a patch."""

from __future__ import annotations

import io
from math import floor

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from medanomaly.detectors import PatchCore
from medanomaly.detectors.samples import sampled_rows
from medanomaly.errors import ConfigError, TrainingError

SMALL = {"backbone": "unet", "features": 8, "backbone_weights": "random"}  # 48 channels at 8 x 8 positions


def textures(n, channels=1, size=32, dims=2, seed=0):
    """Noise of one grain, with a brightness of its own."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, channels) + (size // 4,) * dims, generator=generator)
    level = torch.rand((n, 1) + (1,) * dims, generator=generator)
    return torch.nn.functional.interpolate(coarse, scale_factor=4) + level


def fitted(normal, seed=0, **settings):
    torch.manual_seed(seed)
    detector = PatchCore(normal.shape[1], normal.shape[2], normal.ndim - 2, **{**SMALL, **settings}).eval()
    torch.manual_seed(seed)
    detector.fit_statistics(normal.split(16))
    return detector


def rows_of(detector, patches):
    """(B, positions, channels), float64."""
    return detector.backbone(patches).flatten(2).transpose(1, 2).double().numpy()


@pytest.fixture(scope="module")
def detector():
    return fitted(textures(40))


@pytest.mark.parametrize(("channels", "size", "dims"), [(1, 32, 2), (2, 16, 3)])
@pytest.mark.parametrize("score", ["map", "patch"])
def test_with_all_features_kept_every_training_patch_scores_0(channels, size, dims, score):
    normal = textures(20, channels, size, dims)
    detector = fitted(normal, ratio=1.0, score=score)
    assert len(detector.bank) == 20 * detector.backbone.side**dims
    other = float(detector(textures(5, channels, size, dims, seed=1)).max())
    assert float(detector(normal).max()) < 1e-4 * other and float(detector(normal[:1]).max()) < 1e-4 * other


@pytest.mark.parametrize("ratio", [0.001, 0.07, 0.1, 0.29, 1.0])
def test_the_bank_is_so_large_a_share_of_the_features_rounded_down(ratio):
    assert len(fitted(textures(25), ratio=ratio).bank) == floor(round(ratio * 25 * 64, 6))
    few = fitted(textures(25), ratio=ratio, max_features=1000)
    assert len(few.bank) == round(ratio * 1000), "of those that were drawn"


def test_the_bank_holds_features_of_training_patches_each_once(detector):
    rows = rows_of(detector, textures(40)).reshape(-1, 48)
    apart = cdist(detector.bank.double().numpy(), rows)
    assert apart.min(axis=1).max() < 1e-4
    assert len(set(apart.argmin(axis=1))) == len(detector.bank) == 256


def test_the_farthest_feature_never_gets_farther_as_the_ratio_grows():
    rows, radii = None, []
    for ratio in (0.01, 0.05, 0.1, 0.3, 0.6, 1.0):
        detector = fitted(textures(20), ratio=ratio)
        rows = rows_of(detector, textures(20)).reshape(-1, 48)
        radii.append(cdist(rows, detector.bank.double().numpy()).min(axis=1).max())
    assert radii == sorted(radii, reverse=True) and radii[-1] < 1e-4 < radii[-2]


def test_a_core_set_covers_better_than_as_many_features_at_random(detector):
    rows = rows_of(detector, textures(40)).reshape(-1, 48)
    chosen = np.random.default_rng(0).choice(len(rows), len(detector.bank), replace=False)
    of_core, at_random = (
        cdist(rows, bank).min(axis=1).max() for bank in (detector.bank.double().numpy(), rows[chosen])
    )
    assert of_core < 0.8 * at_random


def test_a_map_is_of_the_distances_to_the_nearest(detector):
    other = textures(6, seed=1)
    nearest = cdist(rows_of(detector, other).reshape(-1, 48), detector.bank.double().numpy()).min(axis=1)
    expected = detector.map(torch.from_numpy(nearest).float().view(6, 1, 8, 8))
    torch.testing.assert_close(detector(other), expected, rtol=1e-3, atol=1e-4)
    assert detector(other).shape == (6, 1, 32, 32)


@pytest.mark.parametrize("k", [1, 3, 9, 10**4])
def test_the_score_of_a_patch_is_the_papers(detector, k):
    """Largest distance to the nearest of the bank, times 1 - its softmax weight among the neighbours of that one."""
    whole = fitted(textures(40), score="patch", n_neighbours=k)
    other = textures(6, seed=1)
    bank, found = whole.bank.double().numpy(), whole(other)
    assert found.shape == (6, 1)
    for rows, score in zip(rows_of(whole, other), found[:, 0].tolist(), strict=True):
        apart = cdist(rows, bank)
        place = apart.min(axis=1).argmax()
        nearest = apart[place].argmin()
        expected = apart[place].min()
        if k > 1:
            neighbours = cdist(bank[nearest : nearest + 1], bank)[0].argsort()[:k]
            powers = np.exp(apart[place] - apart[place].max())
            expected *= 1 - powers[nearest] / powers[neighbours].sum()
        assert score == pytest.approx(expected, rel=1e-3)


def test_the_place_does_not_matter_but_what_is_there():
    """Unlike PaDiM's: a texture that is normal anywhere is normal everywhere."""
    detector, other = fitted(textures(40), smoothing=1.0), textures(10, seed=1)
    finer, inside = other.clone(), (..., slice(10, 22), slice(10, 22))
    finer[inside] = 1.5 * (torch.rand(10, 1, 12, 12, generator=torch.Generator().manual_seed(5)) > 0.5)
    shifted = detector(other.roll((8, 8), (2, 3)))
    assert 0.8 < shifted.mean() / detector(other).mean() < 1.25
    assert (detector(finer)[inside].flatten(1).mean(dim=1) > detector(other)[inside].flatten(1).mean(dim=1)).all()


def test_a_model_that_is_loaded_gives_equal_maps_and_needs_no_weights(detector):
    buffer = io.BytesIO()
    torch.save(detector.state_dict(), buffer)
    buffer.seek(0)
    again = PatchCore(1, 32, **{**SMALL, "backbone_weights": "/gone"}).eval()
    again.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(again(textures(4, seed=2)), detector(textures(4, seed=2)))


def test_what_many_features_are_projected_to_keeps_distances():
    wide = fitted(textures(8, size=16), backbone="resnet50", layers=(2, 3), ratio=0.5)
    rows = torch.randn(300, wide.backbone.channels, generator=torch.Generator().manual_seed(0))
    projected = wide._projected(rows)
    assert projected.shape == (300, 140) and wide.backbone.channels == 1536, "4 ln(300) / (0.9**2 / 2 - 0.9**3 / 3)"
    ratio = torch.pdist(projected) / torch.pdist(rows)
    assert ratio.min() > 0.6 and ratio.max() < 1.5 and ratio.mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(fitted(textures(3))._projected(rows[:, :48]), rows[:, :48]), "too few channels to gain by it"


def test_rows_are_drawn_from_all_batches_alike():
    torch.manual_seed(0)
    drawn = torch.zeros(1000)
    for _ in range(200):
        rows = sampled_rows(torch.arange(1000.0)[:, None].split(70), 100)[:, 0].long()
        assert len(rows.unique()) == 100
        drawn[rows] += 1
    assert drawn.sum() == 20_000
    assert ((drawn.view(10, 100).sum(dim=1) - 2000).abs() < 200).all()
    assert torch.equal(sampled_rows([torch.arange(9.0)[:, None]], 9)[:, 0], torch.arange(9.0)), "all, in their order"


def test_what_nothing_can_be_learned_from_is_refused():
    with pytest.raises(TrainingError, match=r"a share of 0\.1 of 0 features is 0"):
        PatchCore(1, 32, **SMALL).fit_statistics([])
    with pytest.raises(TrainingError, match="finite"):
        PatchCore(1, 32, **SMALL).fit_statistics([torch.full((2, 1, 32, 32), torch.nan)])
    with pytest.raises(TrainingError, match="not fitted"):
        PatchCore(1, 32, **SMALL)(textures(2))
    with pytest.raises(ConfigError, match="has no weights"):
        PatchCore(1, 32, **{**SMALL, "backbone_weights": None}).fit_statistics([textures(5)])


@pytest.mark.parametrize(
    "setting", [{"ratio": 0}, {"ratio": 1.1}, {"eps": 1}, {"n_neighbours": 0}, {"max_features": 0}, {"score": "mean"}]
)
def test_settings_that_cannot_work_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=f"{name} is {value!r}"):
        PatchCore(1, 32, **{**SMALL, **setting})


def test_it_keeps_features_and_says_so(detector):
    assert not detector.keeps_patches and "features of training images" in detector.cautions()[0]
    assert "random weights" in detector.cautions()[1]
