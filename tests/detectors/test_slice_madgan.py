"""MADGAN by slice prediction against its paper: triplets, losses, what is scored, and that it foretells."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medanomaly.detectors import SliceMADGAN
from medanomaly.detectors.slice_madgan import triplets
from medanomaly.errors import ConfigError
from medanomaly.networks.attention import SelfAttention
from medanomaly.patches import PatchScoreInferer, PatchSpec


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return SliceMADGAN(**{"in_channels": 7, "patch_size": 16, "features": 8, **arguments})


def noise(n=8, channels=7, size=16, seed=0):
    return torch.rand((n, channels, size, size), generator=torch.Generator().manual_seed(seed))


def smooth(n, seed):
    """Pictures (n, 1, 16, 16) of smooth noise from 0 to 1."""
    coarse = torch.rand((n, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=16, mode="bilinear")


@pytest.mark.parametrize(("n_slices", "channels"), [(6, 1), (7, 2), (20, 1)])
def test_acceptance_a_n_slices_give_n_minus_5_pairs_of_triplets(n_slices, channels):
    slices = torch.arange(n_slices, dtype=torch.float32).repeat_interleave(channels)[None, :, None, None]
    volumes = torch.cat([slices, 100 + slices]).expand(2, -1, 4, 4)
    seen, coming = triplets(volumes, channels)
    assert seen.shape == coming.shape == (2 * (n_slices - 5), 3 * channels, 4, 4)
    for volume in range(2):
        for start in range(n_slices - 5):
            pair = volume * (n_slices - 5) + start
            expected = [100 * volume + start + step for step in range(6) for _ in range(channels)]
            assert [*seen[pair, :, 0, 0].tolist(), *coming[pair, :, 0, 0].tolist()] == expected


def test_acceptance_b_what_is_alike_in_all_slices_is_foretold_better_than_shuffled_slices():
    detector = make(learning_rate=3e-3)
    stage = next(detector.stages())
    for step in range(40):
        detector.train().training_step(smooth(16, step).expand(-1, 7, -1, -1), stage)
    constant = smooth(70, 1000).expand(-1, 7, -1, -1)
    shuffled = smooth(70, 1000).view(10, 7, 16, 16)  # the same pictures, of which each stands in one slice alone
    detector.eval()
    for detector.score_kind in ("residual", "squared"):
        with torch.no_grad():
            assert detector(constant).mean() < 0.5 * detector(shuffled).mean()


def test_acceptance_c_the_weight_of_the_l1_loss_is_100():
    detector = make()
    assert detector.l1_weight == 100.0
    stage, found, batch = next(detector.stages()), {}, noise()
    seen, coming = triplets(batch, 1)
    stage.optimizers["critic"] = torch.optim.SGD(detector.critic.parameters(), lr=0.0)
    stage.optimizers["generator"].register_step_pre_hook(
        lambda *_: found.update({n: p.grad.clone() for n, p in detector.generator.named_parameters()})
    )
    detector.train().training_step(batch, stage)
    again = make()
    foretold = again.train().generator(seen)
    loss = -again.critic(torch.cat([seen, foretold], dim=1)).mean() + 100 * (foretold - coming).abs().mean()
    names, parameters = zip(*again.generator.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max())), name


class Following(nn.Module):
    """Foretells slices of a volume in which each is its number: exactly, plus an error."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, seen):
        return seen + 3 + self.error


@pytest.mark.parametrize(("slices", "starts"), [(7, [0]), (9, [0, 1]), (11, [0, 1, 2]), (13, [1, 2, 3])])
@torch.no_grad()
def test_the_middle_slice_is_scored_by_all_triplets_that_foretell_it(slices, starts):
    detector = make(in_channels=slices, slices=slices).eval()
    assert detector.starts == starts
    detector.generator = Following(torch.tensor([0.5, 1.0, 2.0])[:, None, None])
    patches = torch.arange(slices, dtype=torch.float32)[None, :, None, None].expand(5, -1, 16, 16).clone()
    places = [slices // 2 - start - 3 for start in starts]
    error = sum([0.5, 1.0, 2.0][place] for place in places) / len(places)
    assert torch.allclose(detector(patches), torch.full((5, 1, 16, 16), error))
    reconstruction = detector.reconstruct(patches)
    assert torch.allclose(reconstruction - patches, error * (torch.arange(slices) == slices // 2).view(1, -1, 1, 1))
    detector.score_kind = "squared"
    assert torch.allclose(detector(patches), torch.full((5, 1), (0.25 + 1 + 4) / 3))


@torch.no_grad()
def test_a_changed_voxel_of_the_scored_slice_shows_at_its_place_in_the_heatmap():
    detector = make(in_channels=14).eval()  # two image channels
    detector.generator = Following(0.0)
    volume = torch.arange(11, dtype=torch.float32).expand(1, 2, 20, 20, 11).clone()
    volume[0, 1, 4, 6, 8] += 10.0
    heatmap = PatchScoreInferer(PatchSpec(16, stride=4, slices=7))(volume, detector)
    inside = heatmap[0, 0, :, :, 3:].clone()  # below, there are only zeros to foretell from
    assert inside[4, 6, 5] == pytest.approx(5.0), "the mean of an error of 10 and of 0"
    inside[4, 6, 5] = 0
    assert inside.abs().max() < 1e-5


@pytest.mark.parametrize(("attention", "n"), [(0, 0), (3, 3), (7, 7)])
@torch.no_grad()
def test_attention_changes_nothing_until_it_is_learned(attention, n):
    detector = make(attention=attention, patch_size=32).eval()
    layers = [module for module in detector.modules() if isinstance(module, SelfAttention)]
    assert len(layers) == n
    patches = noise(2, 7, 32)
    before = detector(patches)
    assert before.shape == (2, 1, 32, 32)
    for layer in layers:
        layer.weight.fill_(1.0)
    assert torch.equal(detector(patches), before) == (n == 0)


@torch.no_grad()
def test_attention_takes_from_places_that_look_alike():
    layer = SelfAttention(8, 2)
    layer.weight.fill_(1.0)
    x = noise(2, 8, 4)
    flat = x.flatten(2)
    query, key, value = (
        torch.einsum("oc,bcn->bon", part.weight[:, :, 0, 0], flat) + part.bias[:, None]
        for part in (layer.query, layer.key, layer.value)
    )
    shares = torch.softmax(torch.einsum("bcn,bcm->bnm", query, key), dim=2)
    expected = flat + torch.einsum("bnm,bcm->bcn", shares, value)
    assert torch.allclose(layer(x).flatten(2), expected, atol=1e-5)


@torch.no_grad()
def test_the_validation_loss_is_the_l1_error_of_all_triplets():
    detector = make().eval()
    assert next(detector.stages()).keep == "best"
    detector.generator = Following(torch.tensor([0.5, 1.0, 2.0])[:, None, None])
    patches = torch.arange(7, dtype=torch.float32)[None, :, None, None].expand(5, -1, 16, 16)
    assert float(detector.validation_loss(patches)) == pytest.approx(3.5 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims is 3, but it takes slices as channels: set it to 2"),
        ({"slices": 6, "in_channels": 6}, "slices is 6; it must be an odd number from 7 on"),
        ({"in_channels": 8}, "in_channels is 8, but must be image channels times slices, a multiple of 7"),
        ({"attention": 5}, "attention is 5; use one of 0, 3, 7"),
        ({"score": "features"}, "score is 'features'; use one of 'residual', 'squared'"),
        ({"patch_size": 24}, "patch_size is 24"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        make(**arguments)
