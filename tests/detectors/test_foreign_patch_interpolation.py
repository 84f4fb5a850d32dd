"""Foreign patch interpolation: what is blended where, the label and the loss by hand, and what the score is."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from medanomaly.detectors import ForeignPatchInterpolation
from medanomaly.detectors.foreign_patch_interpolation import blend_in
from medanomaly.errors import ConfigError


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return ForeignPatchInterpolation(**{"patch_size": 16, "features": 8, **arguments})


def noise(n=6, channels=1, size=16, spatial_dims=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((n, channels) + (size,) * spatial_dims, generator=generator)


def blended(patches, foreign, seed=0):
    torch.manual_seed(seed)
    return blend_in(patches, foreign)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_label_is_the_share_of_the_foreign_patch(spatial_dims, channels):
    patches, foreign = noise(6, channels, 16, spatial_dims), noise(6, channels, 16, spatial_dims, seed=1)
    mixed, share = blended(patches, foreign)
    assert mixed.shape == patches.shape and share.shape == (6, 1) + (16,) * spatial_dims
    assert torch.allclose(mixed, (1 - share) * patches + share * foreign, atol=1e-6)
    assert torch.equal(mixed[(share == 0).expand_as(mixed)], patches[(share == 0).expand_as(mixed)])
    for one in share:
        values = one.unique()
        assert len(values) == 2 and values[0] == 0 and 0.05 <= values[1] <= 0.95


def test_what_is_foreign_is_a_square_of_10_to_40_percent_in_the_middle_of_the_patch():
    size, n = 100, 2000
    share = blended(torch.zeros(n, 1, size, size), torch.ones(n, 1, size, size))[1][:, 0]
    inside = share > 0
    rows, columns = inside.any(dim=2), inside.any(dim=1)
    assert torch.equal(inside, rows[:, :, None] & columns[:, None, :])  # a rectangle
    for side in (rows, columns):
        place = torch.arange(size)
        first = torch.where(side, place, size).amin(dim=1)
        last = torch.where(side, place, -1).amax(dim=1)
        assert torch.equal(side.sum(dim=1), last - first + 1)  # without holes
        clipped = (first == 0) | (last == size - 1)
        width, centre = (last - first + 1)[~clipped], ((first + last + 1) / 2)[~clipped]
        assert width.min() in (10, 11) and width.max() in (39, 40)
        assert 10 <= centre.min() < 13 and 87 < centre.max() <= 90
    square = (rows.sum(dim=1) - columns.sum(dim=1)).abs() <= 1
    whole = ~(rows[:, [0, -1]] | columns[:, [0, -1]]).any(dim=1)
    assert square[whole].all()
    shares = share.amax(dim=(1, 2))
    assert 0.05 <= shares.min() < 0.07 and 0.93 < shares.max() <= 0.95


def test_the_label_is_0_where_both_patches_are_equal():
    patches, foreign = noise(50, 2), noise(50, 2, seed=1)
    foreign[..., :8] = patches[..., :8]
    foreign[:, 0, :, 8:10] = patches[:, 0, :, 8:10]  # equal in one channel alone: they differ
    mixed, share = blended(patches, foreign)
    assert (share[..., :8] == 0).all() and torch.allclose(mixed[..., :8], patches[..., :8])
    assert (share[..., 8:10] > 0).any() and (share[..., 10:] > 0).any()
    assert (blended(patches, patches)[1] == 0).all()


def test_the_smallest_square_of_a_small_patch_is_not_empty():
    share = blended(torch.zeros(3000, 1, 16, 16), torch.ones(3000, 1, 16, 16))[1]
    assert (share.flatten(1).amax(dim=1) > 0).all()


def test_the_loss_is_the_cross_entropy_of_the_share_of_the_patch_before():
    detector, batch = make().train(), noise()
    torch.manual_seed(5)
    mixed, share = blend_in(batch, torch.cat([batch[-1:], batch[:-1]]))
    with torch.no_grad():
        p = torch.sigmoid(detector.network(mixed)).double()
    expected = -(share * p.log() + (1 - share) * (1 - p).log()).mean()
    torch.manual_seed(5)
    losses = detector.training_step(batch, next(detector.stages()))
    assert float(losses["interpolation"]) == pytest.approx(float(expected), rel=1e-5)


def test_validation_draws_the_same_blends_and_leaves_the_random_numbers_alone():
    detector, batch = make().eval(), noise()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = detector.validation_loss(batch)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(99)
    assert detector.validation_loss(batch) == first
    assert not first.requires_grad


def test_a_batch_of_one_patch_has_nothing_foreign():
    detector, batch = make().train(), noise(1)
    with torch.no_grad():
        expected = -torch.log(1 - torch.sigmoid(detector.network(batch))).mean()
    losses = detector.training_step(batch, next(detector.stages()))
    assert float(losses["interpolation"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.no_grad()
def test_the_score_is_the_logit_and_adds_nothing_to_the_patch(spatial_dims):
    detector = make(in_channels=3, spatial_dims=spatial_dims).eval()
    patches = noise(5, 3, 16, spatial_dims)
    scores = detector(patches)
    assert scores.shape == (5, 1) + (16,) * spatial_dims
    assert torch.equal(scores, detector.network(patches)) and torch.equal(scores, detector(patches))
    assert scores.min() < 0 or scores.max() > 1  # no probability


def test_a_patch_from_elsewhere_is_found_where_it_lies():
    """Smooth normal patches; at test a square of one of another level, at a known place."""
    ramp = torch.linspace(0, 1, 16)

    def normal(n, seed):
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(n, 1, 1, 1, generator=generator) + 0.5 * ramp).expand(n, 1, 16, 16).contiguous()

    detector = make()
    stage = next(detector.stages())
    for step in range(100):
        detector.train().training_step(normal(16, step), stage)
    patches = normal(20, 999)
    patches[:, :, 5:10, 6:11] += 0.4
    with torch.no_grad():
        scores = detector.eval()(patches)[:, 0]
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[5:10, 6:11] = True
    assert roc_auc_score(inside.expand_as(scores).flatten(), scores.flatten()) > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 24}, "patch_size is 24, but a U-Net with four halvings needs a multiple of 16"),
        ({"features": 12}, "features is 12, but group norm with 8 groups needs a multiple of 8"),
        ({"spatial_dims": 4}, "spatial_dims is 4"),
        ({"in_channels": 0}, "in_channels is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ForeignPatchInterpolation(**arguments)
