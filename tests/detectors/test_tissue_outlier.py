"""The tissue outlier against made tissues whose classes are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import spearmanr

from medanomaly.detectors import TissueOutlier
from medanomaly.errors import ConfigError

SHAPE = (30, 30, 20)
MEANS = np.array([[0.1, 0.9], [0.5, 0.5], [0.7, 0.1]])  # fluid, grey and white matter in FLAIR and T2, say
COVARIANCE = np.array([[0.004, -0.001], [-0.001, 0.003]])


def made_brain(seed=0, lesion=(1.2, 1.0)):
    """A volume (1, 2, *SHAPE) of three tissues, a brain, and a lesion of 2 % of it that is of no class."""
    rng = np.random.default_rng(seed)
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    tissue = rng.integers(0, 3, SHAPE)
    values = MEANS[tissue] + rng.multivariate_normal([0, 0], COVARIANCE, SHAPE)
    sick = np.zeros(SHAPE, bool)
    sick[10:16, 10:16, 8:14] = True
    values[sick] = np.array(lesion) + rng.multivariate_normal([0, 0], COVARIANCE, sick.sum())
    values[~brain] = 7.0
    volume = torch.as_tensor(np.moveaxis(values, -1, 0)[None], dtype=torch.float32)
    return volume, torch.as_tensor(brain)[None, None], sick


def test_scores_are_the_distances_to_the_classes_that_made_the_voxels():
    volume, brain, sick = made_brain()
    heatmap = TissueOutlier(sigma=0)(volume, mask=brain)
    assert heatmap.shape == (1, 1, *SHAPE) and torch.equal(torch.isnan(heatmap), ~brain)
    inverse = np.linalg.inv(COVARIANCE)
    places = np.argwhere(brain[0, 0].numpy())[::97]
    voxels = volume[0].numpy()
    expected = [min(mahalanobis(voxels[(slice(None), *at)], mean, inverse) for mean in MEANS) for at in places]
    found = [float(heatmap[(0, 0, *at)]) for at in places]
    assert spearmanr(found, expected).statistic > 0.95
    assert np.median(np.array(found) / expected) == pytest.approx(1, abs=0.15), "trimming makes classes a bit narrow"
    inside = brain[0, 0].numpy() & ~sick
    assert np.quantile(heatmap[0, 0].numpy()[inside], 0.99) < heatmap[0, 0].numpy()[sick].min()


def test_leaving_out_the_least_likely_voxels_keeps_a_lesion_out_of_the_classes():
    volume, brain, sick = made_brain()
    once, trimmed = (TissueOutlier(rounds=n, sigma=0)(volume, mask=brain)[0, 0].numpy() for n in (1, 4))
    assert np.median(trimmed[sick]) > 1.1 * np.median(once[sick])


@pytest.mark.parametrize(("sign", "lesion"), [("bright", (1.2, 1.0)), ("dark", (-0.6, 0.2))])
def test_signs(sign, lesion):
    volume, brain, sick = made_brain(lesion=lesion)
    own = TissueOutlier(sign, sigma=0)(volume, mask=brain)[0, 0].numpy()
    both = TissueOutlier(sigma=0)(volume, mask=brain)[0, 0].numpy()
    np.testing.assert_array_equal(own[sick], both[sick])
    other = TissueOutlier("dark" if sign == "bright" else "bright", sigma=0)(volume, mask=brain)[0, 0].numpy()
    assert (other[sick] == 0).all()
    inside = brain[0, 0].numpy()
    np.testing.assert_allclose(np.maximum(own, other)[inside], both[inside])


def test_a_score_depends_on_its_volume_alone_and_not_on_the_background():
    volume, brain, _ = made_brain(1)
    other, other_brain, _ = made_brain(2)
    alone = TissueOutlier()(volume, mask=brain)
    together = TissueOutlier()(torch.cat([other, volume]), mask=torch.cat([other_brain, brain]))
    assert torch.equal(together[1:][brain], alone[brain])
    changed = torch.where(brain, volume, torch.tensor(-3.0))
    assert torch.equal(TissueOutlier()(changed, mask=brain)[brain], alone[brain])


def test_what_is_excluded_and_tiny_or_even_brains():
    volume, brain, sick = made_brain()
    exclude = torch.as_tensor(sick)[None, None]
    assert torch.isnan(TissueOutlier()(volume, mask=brain, exclude=exclude)[exclude]).all()
    few = torch.zeros_like(brain)
    few[..., 5, 5, 5:10] = True
    assert (TissueOutlier()(volume, mask=few)[few] == 0).all()
    even = torch.ones_like(volume)
    assert torch.isfinite(TissueOutlier()(even, mask=brain)[brain]).all()


def test_mistakes():
    with pytest.raises(ConfigError, match="sign is 'up'"):
        TissueOutlier("up")
    with pytest.raises(ConfigError, match="left_out=1"):
        TissueOutlier(left_out=1)
    with pytest.raises(ConfigError, match="channel 2"):
        TissueOutlier(channel=2)(made_brain()[0])
