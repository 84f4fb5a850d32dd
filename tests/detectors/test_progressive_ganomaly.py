"""Progressive GANomaly against its paper: fade, growth, what trains what, and the guards of the code."""

from __future__ import annotations

import copy
from functools import partial
from itertools import islice

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medanomaly.detectors import GANomaly, ProgressiveGANomaly, Stage, ganomaly
from medanomaly.errors import ConfigError, TrainingError
from medanomaly.networks.losses import critic_loss_wgan_gp


def make(patch_size=32, spatial_dims=2, seed=0, **arguments):
    torch.manual_seed(seed)
    return ProgressiveGANomaly(
        patch_size=patch_size,
        spatial_dims=spatial_dims,
        **{"features": (8,) * 5, "latent_dim": 6, "fade_images": 100, **arguments},
    )


def noise(n=8, channels=1, size=32, spatial_dims=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((n, channels) + (size,) * spatial_dims, generator=generator)


def at(detector, stage, alpha):
    detector.stage, detector.images_shown = stage, round(alpha * detector.fade_images)
    assert detector.alpha() == pytest.approx(alpha if stage else 1.0)
    return detector


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("patch_size", "last"), [(8, 0), (16, 1), (32, 2), (64, 3)])
@torch.no_grad()
def test_each_stage_doubles_the_side(patch_size, last, spatial_dims):
    detector = make(patch_size, spatial_dims, in_channels=2, features=(4,) * 5).eval()
    patches = noise(2, 2, patch_size, spatial_dims)
    assert detector.last_stage == last
    for stage, learned in enumerate(detector.stages()):
        assert detector.stage == stage and learned.name == f"{8 * 2**stage} voxels a side"
        side = 8 * 2**stage
        shown = detector.at_stage(patches)
        assert shown.shape == (2, 2) + (side,) * spatial_dims
        assert detector.critic(shown).shape == (2, 1)
        assert detector.encode(shown).shape == (2, 6)
        assert detector.decode(detector.encode(shown)).shape == shown.shape
        assert detector.reconstruct(patches).shape == patches.shape
        assert detector(patches).shape == (2, 1)
    assert detector.stage == last


def test_widths_are_those_of_the_recipe():
    def widths(detector):
        return [detector.generator.start[-2].conv.out_channels] + [
            block[0].conv.out_channels for block in detector.generator.blocks
        ]

    assert widths(ProgressiveGANomaly(patch_size=64)) == [128, 64, 32, 16, 8]
    assert widths(ProgressiveGANomaly(patch_size=32, spatial_dims=3)) == [64, 64, 64, 32]
    detector = ProgressiveGANomaly(patch_size=32, features=(512,) * 4)
    critic = [detector.trunk, detector.critic_head]
    millions = sum(p.numel() for part in critic for p in part.parameters()) / 1e6
    assert 20 < millions < 22  # ProGAN's, to 32 voxels: about 20.7


def test_settings_of_the_paper_are_the_defaults():
    detector = ProgressiveGANomaly()
    assert detector.weights == (1, 70, 10) and detector.fade_images == 750_000
    for optimizer in next(detector.stages()).optimizers.values():
        assert optimizer.defaults["lr"] == 2e-3 and optimizer.defaults["betas"] == (0.5, 0.99)


def test_acceptance_a_alpha_is_linear_and_starts_anew_at_each_growth():
    detector = make(fade_images=64)
    stages, patches = detector.stages(), noise(16)
    detector.training_step(patches, next(stages))
    assert detector.alpha() == 1.0 and detector.is_settled()  # nothing fades in stage 0
    for stage in stages:
        seen = []
        for _ in range(6):
            seen.append((detector.alpha(), stage.settled()))
            detector.training_step(patches, stage)
        assert seen == [(0.0, False), (0.25, False), (0.5, False), (0.75, False), (1.0, True), (1.0, True)]


@pytest.mark.parametrize(("stage", "spatial_dims"), [(0, 2), (1, 2), (0, 3)])
@torch.no_grad()
def test_acceptance_b_the_grown_networks_begin_as_the_old_ones(stage, spatial_dims):
    size = 32 if spatial_dims == 2 else 16
    detector = make(size, spatial_dims).double().eval()
    stages = detector.stages()
    for _ in range(stage + 1):
        next(stages)
    at(detector, stage, 1.0)
    z = torch.randn(4, 6).double()
    before = F.interpolate(detector.decode(z), scale_factor=2, mode="nearest")
    patches = detector.at_stage(noise(4, size=size, spatial_dims=spatial_dims).double())
    code, value = detector.encode(patches), detector.critic(patches)
    assert next(stages) and detector.alpha() == 0
    after = detector.decode(z)
    assert (after - before).abs().max() < 1e-6
    larger = F.interpolate(patches, scale_factor=2, mode="nearest")
    assert (detector.encode(larger) - code).abs().max() < 1e-6
    assert (detector.critic(larger) - value).abs().max() < 1e-6
    # and halfway, they are halfway
    at(detector, stage + 1, 1.0)
    whole = detector.decode(z)
    at(detector, stage + 1, 0.5)
    assert (detector.decode(z) - (before + whole) / 2).abs().max() < 1e-6


def test_acceptance_b_the_old_layers_to_and_from_images_end_without_a_gradient():
    detector = make()
    for alpha, trains in ((0.5, True), (1.0, False)):
        at(detector, 2, alpha).zero_grad()
        (
            detector.decode(torch.randn(4, 6)).square().sum() + detector.critic(detector.at_stage(noise(4))).sum()
        ).backward()
        for old in (detector.generator.to_image[1], detector.trunk.from_image[1]):
            gradients = [0.0 if p.grad is None else float(p.grad.abs().sum()) for p in old.parameters()]
            assert all(gradients) if trains else gradients == [0.0, 0.0]
        new = [*detector.generator.to_image[2].parameters(), *detector.trunk.from_image[0].parameters()]
        assert all(float(p.grad.abs().sum()) > 0 for p in new)


@torch.no_grad()
def test_real_patches_are_pooled_and_blended():
    detector, patches = make(), noise()
    quarters = patches.unflatten(2, (8, 4)).unflatten(4, (8, 4)).mean(dim=(3, 5))
    torch.testing.assert_close(detector.at_stage(patches), quarters)
    halves = patches.unflatten(2, (16, 2)).unflatten(4, (16, 2)).mean(dim=(3, 5))
    blended = 0.75 * F.interpolate(quarters, scale_factor=2) + 0.25 * halves
    torch.testing.assert_close(at(detector, 1, 0.25).at_stage(patches), blended)
    torch.testing.assert_close(at(detector, 2, 1.0).at_stage(patches), patches)


@torch.no_grad()
def test_layers_have_an_equalised_learning_rate():
    """Weights are N(0, 1) and are scaled at every call, to the same as He's initialisation."""
    torch.manual_seed(0)
    conv = ProgressiveGANomaly(features=(64, 64, 64)).generator.blocks[0][0]
    assert conv.conv.weight.std() == pytest.approx(1, abs=0.02)
    x = torch.randn(2, 64, 8, 8)
    expected = F.conv2d(x, conv.conv.weight * (2 / (64 * 9)) ** 0.5, padding=1)
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)
    assert conv(x).std() == pytest.approx(2**0.5, rel=0.1)


@torch.no_grad()
def test_codes_have_unit_size_and_only_the_critic_sees_the_batch():
    detector, patches = at(make(), 2, 1.0), noise(8)
    torch.testing.assert_close(detector.encode(patches).square().mean(dim=1), torch.ones(8))
    torch.testing.assert_close(detector.encode(patches[:2]), detector.encode(patches)[:2])
    assert not torch.allclose(detector.critic(patches)[:4], detector.critic(patches[:4]), rtol=1e-4)


@torch.no_grad()
def test_the_size_of_a_code_counts_in_the_score_but_not_in_the_image():
    """Without unit codes, a patch brighter than all normal ones has a large code, and its reconstruction has not."""
    detector = at(make(unit_code=False), 2, 1.0)
    z = torch.randn(8, 6)
    torch.testing.assert_close(detector.decode(3 * z), detector.decode(z), rtol=1e-4, atol=1e-5)
    patches = noise(8)
    assert detector.encode(100 * patches).norm() > 50 * detector.encode(patches).norm()
    assert (detector(100 * patches) > 100 * detector(patches)).all()


def step_gradients(detector, batch, number, alpha):
    found = {}
    stage = list(islice(detector.stages(), number + 1))[number]
    at(detector, number, alpha)
    stage.optimizers["generator"].register_step_pre_hook(
        lambda *_: found.update({n: p.grad.clone() for n, p in detector.named_parameters() if p.grad is not None})
    )
    detector.training_step(batch, stage)
    return found


def size_of(gradients, part):
    return sum(float(gradient.abs().sum()) for name, gradient in gradients.items() if name.startswith(part))


@pytest.mark.parametrize(("stage", "alpha"), [(0, 1.0), (1, 0.5), (2, 1.0)])
def test_only_the_contextual_loss_trains_the_trunk(stage, alpha):
    alone = {
        name: step_gradients(make(weights=weights), noise(), stage, alpha)
        for name, weights in {"adv": (1, 0, 0), "con": (0, 70, 0), "enc": (0, 0, 10)}.items()
    }
    assert size_of(alone["adv"], "trunk") == size_of(alone["enc"], "trunk") == 0 < size_of(alone["con"], "trunk")
    assert all(size_of(gradients, "generator") > 0 for gradients in alone.values())
    assert all(size_of(gradients, "encoder_head") > 0 for gradients in alone.values())
    assert all(size_of(gradients, "critic_head") == 0 for gradients in alone.values())


def test_layers_yet_to_grow_are_left_alone():
    detector = make()
    before = copy.deepcopy(detector.state_dict())
    detector.training_step(noise(), next(detector.stages()))
    changed = {name for name, value in detector.state_dict().items() if not torch.equal(value, before[name])}
    assert "generator.blocks.0.0.conv.weight" in changed and "trunk.blocks.2.0.conv.weight" in changed
    later = ("generator.blocks.1", "generator.blocks.2", "generator.to_image.1", "generator.to_image.2")
    later += ("trunk.blocks.0", "trunk.blocks.1", "trunk.from_image.0", "trunk.from_image.1")
    assert not [name for name in changed if name.startswith(later)]


def test_the_critic_loss_holds_values_near_zero():
    """ProGAN's drift term: 0.001 mean C(x)^2."""

    def critic(patches):
        return patches.flatten(1).sum(dim=1, keepdim=True)

    real, fake = noise(seed=1), noise(seed=2)
    torch.manual_seed(0)
    plain = critic_loss_wgan_gp(critic, real, fake)
    torch.manual_seed(0)
    held = critic_loss_wgan_gp(critic, real, fake, drift=1e-3)
    torch.testing.assert_close(held - plain, 1e-3 * critic(real).square().mean(), rtol=1e-3, atol=1e-4)


def test_stage_and_fade_are_saved_with_the_weights():
    detector = at(make(), 1, 0.3)
    other = make(seed=1)
    other.load_state_dict(detector.state_dict())
    assert (other.stage, other.alpha()) == (1, 0.3)


def test_a_collapsed_code_is_an_error():
    detector = make()
    with torch.no_grad():
        detector.encoder_head[1].weight.zero_()
        detector.encoder_head[1].bias.fill_(1.0)
    with pytest.raises(TrainingError, match=r"collapsed .* 0.001 are needed"):
        detector.validation_loss(noise())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"patch_size": 24}, "24"), ({"fade_images": 0}, "fade_images"), ({"features": (8, 4)}, "4 numbers")],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        make(**arguments)


def test_acceptance_d_at_8_voxels_it_trains_as_variant_k_with_these_networks(monkeypatch):
    """GANomaly's own training step, given the same networks, takes the same steps."""
    ours = make(8)
    monkeypatch.setattr(ganomaly, "critic_loss_wgan_gp", partial(critic_loss_wgan_gp, drift=1e-3))
    theirs = copy.deepcopy(ours)

    class Trunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.grown = theirs.trunk

        def forward(self, patches):
            return self.grown(patches, 0, 1.0)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = theirs.generator

        def forward(self, z):
            return self.generator(z, 0, 1.0)

    k = GANomaly(variant="K", critic="wgan-gp", latent_dim=6, features=8, unit_code=True)
    k.trunk, k.critic_head, k.decoder = Trunk(), theirs.critic_head, Decoder()
    k.encoder = k.reencoder = nn.Sequential(k.trunk, theirs.encoder_head)
    stage = next(ours.stages())
    its = {
        "generator": torch.optim.Adam([*k.encoder.parameters(), *k.decoder.parameters()], lr=2e-3, betas=(0.5, 0.99)),
        "critic": torch.optim.Adam([*k.trunk.parameters(), *k.critic_head.parameters()], lr=2e-3, betas=(0.5, 0.99)),
    }
    start, its = copy.deepcopy(ours.state_dict()), Stage("K", its)
    for step in range(3):
        patches = noise(8, size=8, seed=step)
        torch.manual_seed(step)
        losses = ours.training_step(patches, stage)
        torch.manual_seed(step)
        for name, loss in k.training_step(patches, its).items():
            torch.testing.assert_close(losses[name], loss, rtol=1e-4, atol=1e-5)
    for name, value in theirs.state_dict().items():
        if name != "_extra_state" and not name.startswith("modified"):  # patches shown; fitted later
            assert not torch.equal(value, start[name]), name
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-3, atol=1e-4)
