"""The fusion: how rare scores are, tiles against loops, the prior, the sign, what is saved and what is refused."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch
from torch import nn

from medanomaly.detectors import Fusion, IntensityBaseline
from medanomaly.errors import ConfigError
from tests.detectors.fusion_members import DENOISING, GANOMALY, SYNTHETIC, kind, make, noise

pytestmark = pytest.mark.usefixtures("made_members")


def fitted_on(values):
    """A fusion of one member, which scores the value of a voxel, and whose normal tissue has these values (N,)."""
    fusion = make({"detector": "level"})
    fusion.fit_statistics([values[: len(values) // 256 * 256].view(-1, 1, 16, 16)])
    return fusion


def rarity(fusion, *values):
    patches = torch.ones(1, 1, 16, 16)
    patches.view(-1)[: len(values)] = torch.tensor(values)
    return fusion(patches).view(-1)[: len(values)].tolist()


def test_a_score_is_as_rare_as_its_share_of_normal_voxels():
    values = 5 + torch.randn(256 * 1000, generator=torch.Generator().manual_seed(0))
    fusion = fitted_on(values)
    asked = [3.0, 4.5, 5.0, 5.5, 6.0, 7.0, 7.5, 8.0]
    expected = [-math.log10(float((values >= s).double().mean())) for s in asked]
    assert expected[-1] < 3  # all within the table
    assert rarity(fusion, *asked) == pytest.approx(expected, abs=fusion.step)


def test_beyond_the_table_goes_on_as_an_exponential_tail():
    values = torch.empty(256 * 1000).exponential_(generator=torch.Generator().manual_seed(0)) + 1
    fusion = fitted_on(values)
    asked = [9.0, 9.5, 12.0, 20.0, 50.0, 1000.0]
    found = rarity(fusion, *asked)
    assert found == pytest.approx([(s - 1) / math.log(10) for s in asked], rel=0.1)
    assert all(a < b for a, b in pairwise(found))
    edge = float(fusion.quantiles[0, 0, -1])  # the scale goes on without a step
    below, at, above = rarity(fusion, edge - 1e-3, edge, edge + 1e-3)
    assert below < at == pytest.approx(3.0, abs=1e-5) and at < above < 3.01


def test_a_score_that_many_normal_voxels_share_is_as_rare_as_all_of_them():
    values = torch.cat([torch.full((179_200,), 1.0), torch.full((76_800,), 2.0)])  # 70 % and 30 %
    fusion = fitted_on(values)
    low, one, two, more = rarity(fusion, 0.5, 1.0, 2.0, 2.5)
    assert low == one == 0
    assert two == pytest.approx(-math.log10(0.3), abs=fusion.step)
    assert more > 3


def stitched_by_hand(scores_of, patches, channels, size, stride):
    """Mean of the tiles' scores over each voxel, one tile after the other."""
    whole = patches.shape[-1]
    total, count = torch.zeros_like(patches[:, :1]), torch.zeros_like(patches[:, :1])
    for corner in product(range(0, whole - size + 1, stride), repeat=patches.ndim - 2):
        box = (slice(None), slice(None), *(slice(c, c + size) for c in corner))
        scores = scores_of(patches[box][:, channels])
        if scores.ndim == 2:
            scores = scores.reshape(-1, 1, *[1] * (patches.ndim - 2))
        total[box] += scores
        count[box] += 1
    assert (count > 0).all()
    return total / count


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("size", "stride"), [(8, 8), (8, 4), (4, 2), (4, None), (16, None)])
@pytest.mark.parametrize("name", ["level", "patch_level"])
@torch.no_grad()
def test_tiles_of_a_smaller_member_equal_a_loop(name, size, stride, spatial_dims):
    member = {"detector": name, "patch_size": size, "channels": [2, 0]}
    fusion = make(
        {"detector": "level"}, member | ({"stride": stride} if stride else {}), in_channels=3, spatial_dims=spatial_dims
    )
    assert fusion.members[1].in_channels == 2 and fusion.members[1].patch_size == size
    patches = noise(3, 3, 16, spatial_dims)
    whole, tiled = fusion._maps_of_signs(patches, ["both"])
    torch.testing.assert_close(whole, patches.mean(dim=1, keepdim=True))
    by_hand = stitched_by_hand(kind(name)(2, size, spatial_dims), patches, [2, 0], size, stride or size // 2)
    torch.testing.assert_close(tiled, by_hand, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_trained_member_scores_its_tiles_as_it_would_alone():
    """A detector in which every voxel of a tile matters: tiles must keep their order."""
    fusion = make(DENOISING | {"channels": [1]}, SYNTHETIC | {"patch_size": 16}, in_channels=2, patch_size=32)
    patches = noise(2, 2, 32)
    first, second = fusion._maps_of_signs(patches, ["both"])
    torch.testing.assert_close(first, fusion.members[0](patches[:, 1:]))
    by_hand = stitched_by_hand(fusion.members[1], patches, [0, 1], 16, 8)
    torch.testing.assert_close(second, by_hand, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_score_does_not_depend_on_the_other_patches_of_its_batch():
    members = DENOISING, SYNTHETIC | {"patch_size": 16}, {"detector": "patch_level", "patch_size": 8}
    fusion, patches = make(*members, patch_size=32, prior_weight=0.5), noise(6, 1, 32)
    fusion.fit_statistics([noise(20, 1, 32, seed=1)])
    together = fusion(patches)
    single = torch.cat([fusion(patch[None]) for patch in patches])
    beside_others = fusion(torch.cat([100 * torch.rand_like(patches), patches]))[6:]
    torch.testing.assert_close(single, together, rtol=0, atol=1e-5)
    torch.testing.assert_close(beside_others, together, rtol=0, atol=1e-5)


def alone(*members, batches, **arguments):
    fusion = make(*members, **arguments)
    fusion.fit_statistics(batches)
    return fusion


@torch.no_grad()
def test_the_score_is_the_weighted_mean_of_the_members():
    batches, patches = [noise(50, 2, seed=1), noise(50, 2, seed=2)], noise(5, 2)
    members = [{"detector": "level", "channels": [0]}, {"detector": "level", "channels": [1]}]
    first, second = (alone(member, batches=batches, in_channels=2)(patches) for member in members)
    assert not torch.equal(first, second)
    for weights in ((1, 1), (3, 1), (0.5, 0)):
        weighted = [member | {"weight": weight} for member, weight in zip(members, weights, strict=True)]
        fused = alone(*weighted, batches=batches, in_channels=2)(patches)
        expected = (weights[0] * first + weights[1] * second) / sum(weights)
        torch.testing.assert_close(fused, expected)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.no_grad()
def test_the_prior_is_the_smoothed_intensity_of_its_channel(spatial_dims):
    patches = 1 + noise(2, 2, 32, spatial_dims, seed=3)
    patches[:, :, :4] = 0
    fusion = make({"detector": "level"}, in_channels=2, patch_size=32, spatial_dims=spatial_dims, prior_channel=1)
    volumes = patches if spatial_dims == 3 else patches[..., None]
    spacing = (1.0, 1.0, 1.0 if spatial_dims == 3 else 1e9)
    expected = IntensityBaseline("smoothed", channel=1, sigma=1.5, spacing=spacing)(volumes).view_as(patches[:, :1])
    inside = torch.isfinite(expected)
    assert not inside[:, :, :4].any() and inside[:, :, 4:].all()
    torch.testing.assert_close(fusion._smoothed(patches)[inside], expected[inside], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sign", ["both", "bright", "dark"])
@torch.no_grad()
def test_the_prior_is_as_rare_as_its_sign_says(sign):
    batch = noise(400, seed=1)
    fusion = alone(
        {"detector": "level", "weight": 0}, batches=[batch[:100], batch[100:]], prior_weight=2.0, prior_sigma=0.8
    )
    fusion.set_sign(sign)
    inside = batch != 0
    smoothed = fusion._smoothed(batch)
    normal, asked = smoothed[inside], smoothed[inside][:100]
    middle = normal.median()
    measure = {"both": lambda v: (v - middle).abs(), "bright": lambda v: v, "dark": lambda v: -v}[sign]
    expected = -torch.log10((measure(normal) >= measure(asked)[:, None]).double().mean(dim=1))
    within = expected < 2.8
    assert within.sum() > 80
    torch.testing.assert_close(fusion(batch)[inside][:100][within].double(), expected[within], rtol=0, atol=0.02)


@torch.no_grad()
def test_without_a_weight_the_prior_changes_nothing():
    batches, patches = [noise(50, seed=1)], noise(5)
    without = alone({"detector": "level"}, batches=batches)
    for prior_weight, equal in ((0.0, True), (0.5, False)):
        other = make({"detector": "level"}, prior_weight=prior_weight)
        other.load_state_dict(without.state_dict())
        assert torch.equal(other(patches), without(patches)) == equal
    prior = alone({"detector": "level", "weight": 0}, batches=batches, prior_weight=1.0)
    torch.testing.assert_close(other(patches), (without(patches) + 0.5 * prior(patches)) / 1.5)


@torch.no_grad()
def test_a_sign_reaches_every_member_and_its_own_table():
    batches, patches = [noise(50, seed=1)], noise(5)
    fusion = alone({"detector": "level"}, {"detector": "level"}, batches=batches)
    assert fusion.signed and [member.sign for member in fusion.members] == ["both", "both"]
    both = fusion(patches)
    fusion.set_sign("dark")
    assert [member.sign for member in fusion.members] == ["dark", "dark"]
    lowest, highest = (patches[:, :, 4:].flatten().topk(20, largest=most).indices for most in (False, True))
    dark, bright = (scores[:, :, 4:].flatten() for scores in (fusion(patches), both))
    assert dark[lowest].min() > 1 > dark[highest].max()
    assert bright[highest].min() > 1 > bright[lowest].max()
    fusion.set_sign("both")
    assert torch.equal(fusion(patches), both)


def test_a_member_that_cannot_tell_the_sign_is_scored_by_both_alone():
    fusion = make({"detector": "level"}, {"detector": "patch_level"})
    assert not fusion.signed
    fusion.set_sign("both")
    for sign in ("bright", "dark"):
        with pytest.raises(ConfigError, match="does not tell brighter from darker"):
            fusion.set_sign(sign)
        with pytest.raises(ConfigError, match="does not tell brighter from darker"):
            make({"detector": "level"}, GANOMALY, sign=sign)
    fusion.fit_statistics([noise()])  # tables of "both" alone
    assert torch.equal(fusion.quantiles[1], fusion.quantiles[2])


@torch.no_grad()
def test_one_saved_model_serves_every_sign():
    fusion, patches = make(DENOISING, SYNTHETIC, prior_weight=0.5), noise(5)
    fusion.fit_statistics([noise(seed=1)])
    other = make(DENOISING, SYNTHETIC, prior_weight=0.5, sign="bright", seed=1)
    other.load_state_dict(fusion.state_dict())
    assert other.sign == "bright"
    bright = other(patches)
    fusion.set_sign("bright")
    assert torch.equal(fusion(patches), bright)
    exported = torch.jit.script(other)
    assert torch.equal(exported(patches), bright)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.no_grad()
def test_export(spatial_dims):
    members = DENOISING | {"channels": [1]}, GANOMALY | {"patch_size": 16, "weight": 0.5}
    fusion = make(*members, in_channels=2, patch_size=32, spatial_dims=spatial_dims, prior_weight=0.5, prior_channel=1)
    fusion.fit_statistics([noise(4, 2, 32, spatial_dims, seed=1)])
    patches = noise(3, 2, 32, spatial_dims)
    scores = fusion(patches)
    assert scores.shape == (3, 1) + (32,) * spatial_dims and (scores >= 0).all()
    assert torch.equal(torch.jit.script(fusion)(patches), scores)


@torch.no_grad()
def test_scores_in_bfloat16_are_single_precision_and_close():
    fusion, patches = make(DENOISING, SYNTHETIC, prior_weight=1.0), noise(5)
    fusion.fit_statistics([noise(seed=1)])
    with torch.autocast("cpu", torch.bfloat16):
        fast = fusion(patches)
    assert fast.dtype == torch.float32
    assert (fast - fusion(patches)).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": []}, "there are no members"),
        ({"members": [{"detector": "magic"}]}, "there is no detector 'magic'; there are "),
        ({"members": [{}]}, "there is no detector 'None'"),
        ({"members": [{"detector": "fusion"}]}, "cannot be a member of a fusion"),
        ({"members": [DENOISING | {"channels": [1]}]}, r"is to use channels \[1\], of 1, counted from 0"),
        ({"members": [DENOISING | {"channels": [-1]}]}, r"is to use channels \[-1\]"),
        ({"members": [GANOMALY | {"patch_size": 128}]}, "has patches of 128 voxels, 64 apart, but they must tile"),
        ({"members": [{"detector": "level", "patch_size": 24}]}, "patches of 24 voxels, 12 apart, .* of 64"),
        ({"members": [{"detector": "level", "patch_size": 16, "stride": 10}]}, "16 voxels, 10 apart"),
        ({"members": [{"detector": "level", "patch_size": 16, "stride": 24}]}, "16 voxels, 24 apart"),  # leaves gaps
        ({"members": [{"detector": "level", "patch_size": 16, "stride": -4}]}, "16 voxels, -4 apart"),
        ({"members": [GANOMALY | {"patch_size": 8}]}, "patch_size is 8, but this network"),
        ({"members": [DENOISING | {"weight": -1}]}, r"weights are \[-1.0\], the prior's 0.0"),
        ({"members": [DENOISING | {"weight": 0}]}, "none below 0, one above"),
        ({"prior_weight": -0.5}, "the prior's -0.5"),
        ({"prior_channel": 1}, r"prior_channel is 1, but there are 1 channel\(s\)"),
        ({"prior_sigma": 0.0}, "prior_sigma is 0.0"),
        ({"sign": "up"}, "sign is 'up'"),
        ({"spatial_dims": 4}, "spatial_dims is 4"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Fusion(**arguments)


def test_the_default_members():
    fusion = Fusion(patch_size=16)
    assert [type(member).__name__ for member in fusion.members] == ["DenoisingAutoencoder", "SyntheticAnomalies"]
    assert isinstance(fusion.members, nn.ModuleList) and fusion.signed and fusion.weights == [1.0, 1.0]


@torch.no_grad()
def test_a_member_of_no_weight_is_not_asked_for_several_signs_either(monkeypatch):
    fusion, patches = make(SYNTHETIC, SYNTHETIC | {"weight": 0.0}, patch_size=32), noise(3, 1, 32)
    fusion.fit_statistics([noise(20, 1, 32, seed=1)])
    one_by_one = []
    for sign in ("dark", "both"):
        fusion.set_sign(sign)
        one_by_one.append(fusion(patches))
    monkeypatch.setattr(fusion.members[1], "forward", None)
    assert torch.equal(fusion(patches, ["dark", "both"]), torch.cat(one_by_one, dim=1))
