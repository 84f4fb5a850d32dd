"""AnoGAN against its paper: what trains what, that the search finds what was drawn, and that it changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medanomaly.detectors import AnoGAN
from medanomaly.errors import ConfigError


def make(**arguments):
    torch.manual_seed(0)
    small = {"features": 8, "latent_dim": 8, "bank_size": 128, "search_steps": 40, "learning_rate": 1e-3}
    return AnoGAN(**{**small, **arguments})


def waves(n, seed=0):
    phase = torch.rand((n, 1, 1, 1), generator=torch.Generator().manual_seed(seed))
    return 0.5 + 0.3 * torch.sin(6.28 * (torch.linspace(0, 1.5, 16) + phase)).expand(-1, 1, 16, -1)


@pytest.fixture(scope="module")
def trained():
    detector = make()
    stage = next(detector.stages())
    torch.manual_seed(0)
    for step in range(60):
        detector.train().training_step(waves(32, step), stage)
    detector.eval().fit_statistics([waves(64, 100), waves(64, 101)])
    return detector


@torch.no_grad()
def start_losses(detector, patches):
    """The loss of the best start of each patch."""
    features = detector.trunk(patches)
    weights = torch.tensor([1 - detector.feature_weight, detector.feature_weight]) / detector.scales
    starts = detector.bank[detector._nearest(patches, detector.restarts)].unbind(dim=1)
    return torch.stack([detector._distances(start, patches, features) @ weights for start in starts]).min(dim=0).values


def test_acceptance_a_nearly_all_searches_end_below_their_start(trained):
    patches = torch.cat([waves(40, 7), torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))])
    codes, losses = trained.search(patches)
    assert (losses < start_losses(trained, patches)).float().mean() >= 0.95
    assert codes.abs().max() <= 3


def test_acceptance_b_scoring_leaves_the_networks_as_they_are(trained):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    trained(waves(3))
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert all(parameter.grad is None for parameter in trained.average.parameters())
    assert not any(module.training for module in trained.modules())


def test_acceptance_c_what_the_generator_drew_scores_lower_than_noise(trained):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        drawn = trained.average(torch.randn(20, 8, generator=generator))
    noise = drawn.mean() + drawn.std() * torch.randn(drawn.shape, generator=generator)
    assert trained(drawn).max() < trained(noise).min()


def test_the_score_is_the_weighted_sum_of_distances_in_units_of_their_medians(trained):
    patches = waves(4, 9)
    codes, losses = trained.search(patches)
    with torch.no_grad():
        made = trained.average(codes)
        voxels = F.l1_loss(made, patches, reduction="none").flatten(1).mean(dim=1)
        features = F.l1_loss(trained.trunk(made), trained.trunk(patches), reduction="none").flatten(1).mean(dim=1)
    expected = 0.9 * voxels / trained.scales[0] + 0.1 * features / trained.scales[1]
    assert torch.allclose(losses, expected, rtol=1e-4) and torch.allclose(trained(patches)[:, 0], losses, rtol=1e-5)


def test_relative_scores_are_divided_by_how_much_a_patch_shows(trained):
    patches = torch.cat([waves(3, 9), torch.zeros(1, 1, 16, 16)])
    plain = trained(patches)
    trained.relative = True
    relative = trained(patches)
    trained.relative = False
    assert torch.allclose(relative[:3, 0], plain[:3, 0] / patches[:3].mean(dim=(1, 2, 3)), rtol=1e-5)
    assert torch.allclose(relative[3], plain[3] / 0.05, rtol=0.1)  # a tenth of what is usual, not 0


def test_scales_are_those_of_the_nearest_drawn_images_of_training_patches(trained):
    patches = torch.cat([waves(64, 100), waves(64, 101)])
    with torch.no_grad():
        drawn = trained.average(trained.bank)
        nearest = (patches[:, None] - drawn[None]).abs().flatten(2).mean(dim=2).min(dim=1).values
    assert float(trained.scales[0]) == pytest.approx(float(nearest.median()), rel=1e-4)


def test_each_optimiser_moves_its_own_side_and_the_average_follows():
    detector = make()
    stage = next(detector.stages())
    assert stage.keep == "last"
    average = [p.clone() for p in detector.average.parameters()]
    detector.train().training_step(waves(8), stage)
    moved = [(new - old).abs().max() for new, old in zip(detector.average.parameters(), average, strict=True)]
    assert all(change > 0 for change in moved) and int(detector.steps) == 1
    held = [{id(p) for g in o.param_groups for p in g["params"]} for o in stage.optimizers.values()]
    sides = [detector.generator.parameters(), [*detector.trunk.parameters(), *detector.critic_head.parameters()]]
    assert held == [{id(p) for p in side} for side in sides]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "map"}, "score is 'map': use one of combined, residual"),
        ({"search_steps": 0}, "search_steps is 0, but a whole number of at least 1 is needed"),
        ({"restarts": 9, "bank_size": 8}, "restarts is 9, but starts are chosen among bank_size = 8: lower it"),
        ({"patch_size": 24}, "patch_size is 24"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        AnoGAN(**arguments)
