"""BiGAN against its papers: labels, what learns from what, averaged weights, the scores, and that it inverts itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medanomaly.detectors import BiGAN
from medanomaly.errors import ConfigError
from medanomaly.networks.averages import average_of
from medanomaly.networks.pairs import PairDiscriminator, dense


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return BiGAN(**{"features": 4, "latent_dim": 8, **arguments})


def noise(n=16, channels=1, size=16, spatial_dims=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((n, channels) + (size,) * spatial_dims, generator=generator)


@pytest.fixture(scope="module")
def trained():
    detector = make(in_channels=2, learning_rate=1e-3)
    stage = next(detector.stages())
    for step in range(30):
        detector.train().training_step(noise(32, 2, seed=step), stage)
    detector.eval().fit_statistics(noise(200, 2, seed=77).split(50))
    return detector


def test_settings_of_the_recipe_are_the_defaults():
    detector = BiGAN(patch_size=32)
    tell = detector.trained["discriminator"]
    assert detector.latent_dim == 100 and (detector.critic_weight, detector.decay) == (0.1, 0.999)
    assert tell.second[0].out_features == 512 and tell.common[0].out_features == tell.last.in_features == 1024
    assert tell.common[-1].p == 0.5
    assert sum(p.numel() for p in detector.trained["encoder"].parameters()) == pytest.approx(1.067e6, rel=1e-3)


def test_acceptance_a_the_encoder_learns_towards_0_on_the_pair_that_the_discriminator_is_taught_to_call_1():
    detector, x, z = make(), noise(6), torch.randn(6, 8)
    code, made = torch.randn(6, 8), noise(6, seed=1)
    detector.trained["discriminator"] = Constant(3.0, code)  # a logit of 3 for pairs with E(x), -3 for pairs with z
    towards_1, towards_0 = math.log(1 + math.exp(-3)), math.log(1 + math.exp(3))
    told = detector.discriminator_loss(x, code, made, z)
    players = detector.player_losses(x, code, made, z)
    assert float(told) == pytest.approx(2 * towards_1, rel=1e-5), "(x, E(x)) is 1 and (G(z), z) is 0"
    assert float(players["encoder"]) == pytest.approx(towards_0, rel=1e-5)
    assert float(players["generator"]) == pytest.approx(towards_0, rel=1e-5)


class Constant(nn.Module):
    """A discriminator that tells pairs with these codes from all others."""

    def __init__(self, logit, code):
        super().__init__()
        self.logit, self.code = logit, code

    def forward(self, image, code):
        return torch.full((len(image), 1), self.logit if code is self.code else -self.logit)


@pytest.mark.parametrize("cycle", [0.0, 1.0])
def test_each_step_moves_its_own_side_and_zero_restores_the_papers_objective(cycle):
    detector = make(cycle=cycle)
    stage = next(detector.stages())
    gradients = {}

    def look(optimizer, *_):
        side = next(name for name, other in stage.optimizers.items() if other is optimizer)
        gradients[side] = {n for n, p in detector.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}

    for optimizer in stage.optimizers.values():
        optimizer.register_step_pre_hook(look)
    losses = detector.train().training_step(noise(), stage)
    assert set(losses) == {"discriminator", "encoder", "generator", *(["cycle"] if cycle else [])}
    assert stage.keep == "last"
    assert {name.split(".")[1] for name in gradients["discriminator"]} == {"discriminator"}
    moved_by_players = gradients["players"] - gradients["discriminator"]
    assert {name.split(".")[1] for name in moved_by_players} == {"encoder", "generator"}


@torch.no_grad()
def test_acceptance_b_scores_come_from_averaged_weights():
    detector, patches = make().eval(), noise()
    before = detector(patches)
    for parameter in detector.trained.parameters():
        parameter.add_(torch.randn_like(parameter))
    assert torch.equal(detector(patches), before)
    next(iter(detector.average.parameters())).add_(1.0)
    assert not torch.equal(detector(patches), before)


def test_the_averages_follow_ever_more_slowly_up_to_their_decay():
    detector = make(decay=0.25)
    stage = next(detector.stages())
    kept = detector.average["generator"][0].weight.clone()
    for decay in (2 / 11, 0.25, 0.25):
        detector.train().training_step(noise(), stage)
        kept += (1 - decay) * (detector.trained["generator"][0].weight.detach() - kept)
        assert torch.allclose(detector.average["generator"][0].weight, kept, atol=1e-7)


@pytest.mark.slow
def test_acceptance_c_on_a_ring_of_points_the_generator_inverts_the_encoder():
    """The papers' objective alone, on points in the plane, with small dense networks."""
    torch.manual_seed(0)
    detector = make(latent_dim=1, cycle=0.0, learning_rate=2e-3)
    networks = {
        "encoder": nn.Sequential(dense([2, 64, 64], 0.0), nn.Linear(64, 1)),
        "generator": nn.Sequential(dense([1, 64, 64], 0.0), nn.Linear(64, 2)),
        "discriminator": PairDiscriminator(nn.Identity(), nn.Identity(), dense([3, 128, 128], 0.0), 128),
    }
    detector.trained = nn.ModuleDict(networks)
    detector.average = average_of(detector.trained)
    stage = next(detector.stages())

    def ring(n):
        angle = 2 * torch.pi * torch.rand(n, 1)
        return (1 + 0.05 * torch.randn(n, 1)) * torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)

    for _ in range(1000):
        detector.train().training_step(ring(128), stage)
    points = ring(500)
    with torch.no_grad():
        distances = (detector.eval().reconstruct(points) - points).norm(dim=1)
    assert distances.median() < 0.25, "two points of the ring are 1.27 apart in the mean"


@torch.no_grad()
def test_scores_follow_their_formulas(trained):
    x = noise(12, 2, seed=5)
    encode, generate, tell = (trained.average[name] for name in ("encoder", "generator", "discriminator"))
    z = encode(x)
    again = generate(z)
    residual = (x - again).abs().mean(dim=(1, 2, 3))
    features = [tell.common(torch.cat([tell.first(image), tell.second(z)], dim=1)) for image in (x, again)]
    apart = (features[0] - features[1]).abs().mean(dim=1)
    assert torch.allclose(tell(again, z), tell.last(features[1]))
    medians = trained.medians
    expected = 0.9 * residual / medians[0] + 0.1 * apart / medians[1]
    assert torch.allclose(trained(x)[:, 0], expected, rtol=1e-4)
    try:
        trained.score_kind = "cross-entropy"
        unreal = F.binary_cross_entropy_with_logits(tell(again, z), torch.ones(12, 1), reduction="none")[:, 0]
        expected = 0.9 * residual / medians[0] + 0.1 * unreal / medians[1]
        assert torch.allclose(trained(x)[:, 0], expected, rtol=1e-4)
        trained.score_kind = "residual"
        assert torch.allclose(trained(x), (x - again).abs().mean(dim=1, keepdim=True), rtol=1e-4, atol=1e-6)
        plain, trained.relative = trained(x), True
        assert torch.allclose(trained(x), plain / x.mean(dim=(1, 2, 3), keepdim=True), rtol=1e-4)
    finally:
        trained.score_kind, trained.relative = "features", False


@torch.no_grad()
def test_each_part_of_the_score_has_median_1_on_training_patches(trained):
    patches = noise(501, 2, seed=78)
    trained.fit_statistics(patches.split(100))
    relative = trained.parts(patches) / trained.medians
    assert relative.median(dim=0).values.tolist() == pytest.approx([1.0, 1.0], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "latent"}, "score is 'latent'; use one of 'features', 'cross-entropy', 'residual'"),
        ({"cycle": -1.0}, "cycle is -1.0; a weight is at least 0"),
        ({"critic_weight": 1.5}, "critic_weight is 1.5; it must be from 0 to 1"),
        ({"patch_size": 24}, "patch_size is 24, but this network is built for 16, 32 or 64"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        BiGAN(**arguments)
