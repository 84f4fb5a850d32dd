"""ALOCC against its recipe: shapes, what trains what, the noise and its target, the scores, and what ends training."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from medanomaly.detectors import ALOCC
from medanomaly.errors import ConfigError
from tests.detectors.test_contract import gratings, train

BUNDLE = Path(__file__).parents[2] / "bundles" / "alocc"


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return ALOCC(**{"features": 4, **arguments})


@pytest.mark.parametrize(
    ("patch_size", "spatial_dims", "widths", "kernel"),
    [(16, 2, [4, 8], 5), (32, 2, [4, 8, 16], 5), (64, 2, [4, 8, 16, 32], 5), (16, 3, [4, 8], 3)],
)
@torch.no_grad()
def test_refiner_and_classifier_halve_down_to_four_voxels(patch_size, spatial_dims, widths, kernel):
    detector = make(in_channels=2, patch_size=patch_size, spatial_dims=spatial_dims).eval()
    patches = torch.rand((2, 2) + (patch_size,) * spatial_dims)
    for part in (detector.refiner[0], detector.critic[0]):
        convolutions = [layer for layer in part if hasattr(layer, "stride")]
        assert [layer.out_channels for layer in convolutions] == widths
        assert all(layer.kernel_size == (kernel,) * spatial_dims for layer in convolutions)
        assert part(patches).shape == (2, widths[-1]) + (4,) * spatial_dims
    assert detector.reconstruct(patches).shape == patches.shape and detector.critic(patches).shape == (2, 1)


def test_acceptance_a_scores_of_the_classifier_lie_in_0_to_1_and_are_what_is_missing_to_real():
    detector = train(make(), steps=3, n=8)
    patches = torch.cat([gratings(10, 1, 2, 0), 50 * torch.rand(10, 1, 16, 16)])
    detector.requires_grad_(False)
    refined = detector.refiner(patches)
    for detector.score_kind, seen in (("refined", refined), ("plain", patches)):
        scores = detector(patches)
        torch.testing.assert_close(scores, 1 - torch.sigmoid(detector.critic(seen)))
        assert scores.shape == (20, 1) and scores.min() >= 0 and scores.max() <= 1
    detector.score_kind = "residual"
    torch.testing.assert_close(detector(patches), (patches - refined).abs())
    detector.relative = True
    usual = detector.strength.least * 10
    assert float(usual) == pytest.approx(0.5, abs=0.02)
    relative = (patches - refined).abs() / patches.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(detector(patches), relative)


def test_acceptance_b_the_refiner_gets_noise_and_its_loss_is_against_the_clean_patch():
    detector, batch = make(noise_std=0.7).train(), gratings(16, 1, 2, 0)
    given = []
    handle = detector.refiner.register_forward_hook(lambda _, inputs, output: given.append((inputs[0], output)))
    losses = detector.training_step(batch, next(detector.stages()))
    handle.remove()
    ((noisy, refined),) = given
    strength = (noisy - batch).flatten(1).std(dim=1)
    assert strength.min() > 0 and strength.max() > 2 * strength.min()  # each patch has a strength of its own
    expected = torch.square(refined - batch).sum(dim=(1, 2, 3)).mean()
    assert float(losses["reconstruction"]) == pytest.approx(float(expected.detach()), rel=1e-5)


@torch.no_grad()
def test_acceptance_c_training_ends_by_the_error_of_the_refiner_on_normal_patches():
    detector, batch = make().eval(), gratings(16, 1, 2, 0)
    assert next(detector.stages()).keep == "best"
    loss = detector.validation_loss(batch)
    detector.critic.apply(lambda layer: layer.reset_parameters() if hasattr(layer, "reset_parameters") else None)
    assert detector.validation_loss(batch) == loss
    silent = make(noise_std=0.0).eval()
    torch.testing.assert_close(silent.validation_loss(batch), torch.square(silent.refiner(batch) - batch).mean())
    plan = json.loads((BUNDLE / "model.json").read_text())["train"]
    assert (plan["patience"], plan["max_epochs"]) == (5, 40)


def test_each_optimiser_holds_its_own_side_and_the_adversarial_loss_moves_the_refiner():
    detector = make()
    held = {
        side: {id(p) for group in optimizer.param_groups for p in group["params"]}
        for side, optimizer in next(detector.stages()).optimizers.items()
    }
    assert held["refiner"] == {id(p) for p in detector.refiner.parameters()}
    assert held["critic"] == {id(p) for p in detector.critic.parameters()}
    batch = gratings(8, 1, 2, 0)
    detector = make(reconstruction_weight=0.0).train()
    before = copy.deepcopy(detector.refiner)
    losses = detector.training_step(batch, next(detector.stages()))
    assert set(losses) == {"adversarial", "reconstruction", "critic"}
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), detector.refiner.parameters(), strict=True)]
    assert all(moved)


def test_the_paper_s_numbers_are_the_defaults():
    assert ALOCC().reconstruction_weight == 0.4
    assert ALOCC(spatial_dims=3).critic[0][0].out_channels == 32 and ALOCC().critic[0][0].out_channels == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "latent"}, "score is 'latent'; use one of 'refined', 'plain', 'residual'"),
        ({"noise_std": -0.1}, "noise_std is -0.1; .* use 0 or more"),
        ({"score": "refined", "relative": True}, "relative divides residuals, but score is 'refined'"),
        ({"patch_size": 24}, "patch_size is 24, but this network is built for 16, 32 or 64"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ALOCC(**arguments)
