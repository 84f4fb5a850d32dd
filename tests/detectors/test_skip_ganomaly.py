"""Skip-GANomaly against its recipe: shapes, what trains what, what the skips carry, and the score of two parts."""

from __future__ import annotations

import copy

import pytest
import torch

from medanomaly.detectors import SkipGANomaly
from medanomaly.errors import ConfigError
from tests.detectors.test_contract import gratings


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return SkipGANomaly(**{"features": 4, "latent_dim": 8, **arguments})


@pytest.fixture(scope="module")
def trained():
    detector = make(learning_rate=0.002, noise_std=0.2).train()
    stage = next(detector.stages())
    for step in range(60):
        detector.training_step(gratings(32, 1, 2, step), stage)
    detector.eval().fit_statistics([gratings(65, 1, 2, seed) for seed in (100, 101)])
    return detector


@pytest.mark.parametrize(
    ("patch_size", "spatial_dims", "widths"),
    [
        (16, 2, [4, 8, 16, 32]),
        (32, 2, [4, 8, 16, 32, 32]),
        (64, 2, [4, 8, 16, 32, 32, 32]),
        (16, 3, [4, 8, 16, 32]),
    ],
)
@torch.no_grad()
def test_acceptance_a_it_works_at_16_32_and_64_voxels_and_its_bottom_is_one_voxel(patch_size, spatial_dims, widths):
    detector = make(in_channels=2, patch_size=patch_size, spatial_dims=spatial_dims).eval()
    patches = torch.rand((2, 2) + (patch_size,) * spatial_dims)
    assert detector.reconstruct(patches).shape == patches.shape
    assert detector.encoder(patches).shape == (2, 8) and detector.critic(patches).shape == (2, 1)
    assert detector(patches).shape == (2, 1)
    x, channels = patches, []
    for layer in detector.generator.down:
        x = layer(x)
        channels.append(x.shape[1])
    assert channels == widths and x.shape[2:] == (1,) * spatial_dims


@torch.no_grad()
def test_acceptance_b_without_what_the_skips_carry_it_reconstructs_worse(trained):
    patches = gratings(50, 1, 2, 200)
    whole, bottom = (torch.square(trained.generator(patches, skips) - patches).mean() for skips in (True, False))
    assert whole < 0.5 * bottom


@torch.no_grad()
def test_acceptance_c_the_score_is_the_weighted_sum_of_its_parts(trained):
    patches = gratings(12, 1, 2, 201)
    drawn = trained.reconstruct(patches)
    voxels = torch.square(patches - drawn).mean(dim=(1, 2, 3))
    latent = torch.square(trained.encoder(patches) - trained.encoder(drawn)).mean(dim=1)
    torch.testing.assert_close(trained.parts(patches), torch.stack([voxels, latent], dim=1))
    detector = copy.deepcopy(trained)
    detector.feature_weight = 0.3
    balanced = 0.7 * voxels / trained.scales[0] + 0.3 * latent / trained.scales[1]
    torch.testing.assert_close(detector(patches), balanced[:, None])
    detector.score_kind = "sum"
    torch.testing.assert_close(detector(patches), (0.7 * voxels + 0.3 * latent)[:, None])
    detector.score_kind = "residual"
    torch.testing.assert_close(detector(patches), (patches - drawn).abs())
    detector.relative = True
    relative = (patches - drawn).abs() / patches.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(detector(patches), relative)


@torch.no_grad()
def test_both_parts_have_median_1_on_training_patches(trained):
    parts = torch.cat([trained.parts(gratings(65, 1, 2, seed)) for seed in (100, 101)])
    torch.testing.assert_close((parts / trained.scales).median(dim=0).values, torch.ones(2))


def test_the_paper_s_numbers_are_the_defaults():
    detector = SkipGANomaly()
    assert detector.weights == (1, 50, 1) and detector.feature_weight == 0.1
    assert detector.generator.down[0][0].out_channels == 64 and detector.encoder[1][-1].out_features == 100
    for optimizer in next(detector.stages()).optimizers.values():
        assert optimizer.defaults["lr"] == 2e-4 and optimizer.defaults["betas"] == (0.5, 0.999)
    assert SkipGANomaly(spatial_dims=3).generator.down[0][0].out_channels == 32


def test_each_optimiser_moves_its_own_side_alone():
    detector, batch = make().train(), gratings(8, 1, 2, 0)
    stage = next(detector.stages())
    kept = {}
    for side, optimizer in stage.optimizers.items():

        def look(*_, side=side):
            kept[side] = {name: p.detach().clone() for name, p in detector.named_parameters()}

        optimizer.register_step_pre_hook(look)
    before = {name: p.detach().clone() for name, p in detector.named_parameters()}
    detector.training_step(batch, stage)
    moved = {name for name in before if not torch.equal(before[name], kept["critic"][name])}
    assert moved == {name for name in before if name.startswith("generator.")}
    after = {name for name, p in detector.named_parameters() if not torch.equal(p, kept["critic"][name])}
    assert after == {name for name in before if name.startswith(("encoder.", "critic_head."))}


@torch.no_grad()
def test_losses_are_those_of_the_recipe():
    detector, batch = make(noise_std=0.0).train(), gratings(8, 1, 2, 0)
    same = copy.deepcopy(detector)
    with torch.enable_grad():
        losses = detector.training_step(batch, next(detector.stages()))
    drawn = same.generator(batch)
    real, fake = same.encoder(batch), same.encoder(drawn)
    expected = {
        "adversarial": -torch.log(torch.sigmoid(same.critic_head(fake))).mean(),
        "contextual": (batch - drawn).abs().mean(),
        "latent": torch.square(real - fake).mean(),
    }
    assert set(losses) == {*expected, "critic"}
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(float(value), rel=1e-4), name


@torch.no_grad()
def test_noise_is_added_in_training_and_validation_but_not_at_test():
    detector, patches = make(noise_std=0.5).eval(), gratings(64, 1, 2, 0)
    strength = (detector._noisy(patches) - patches).flatten(1).std(dim=1)
    assert strength.min() < 0.1 and 0.1 < strength.max() < 1
    torch.testing.assert_close(detector.reconstruct(patches), detector.generator(patches))
    clean = (detector.generator(patches) - patches).abs().mean()
    assert detector.validation_loss(patches) != clean


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "latent"}, "score is 'latent'; use one of 'balanced', 'sum', 'residual'"),
        ({"feature_weight": 1.5}, "feature_weight is 1.5; .* use 0 to 1"),
        ({"noise_std": -0.1}, "noise_std is -0.1; .* use 0 or more"),
        ({"patch_size": 24}, "patch_size is 24, but this network is built for 16, 32 or 64"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SkipGANomaly(**arguments)
