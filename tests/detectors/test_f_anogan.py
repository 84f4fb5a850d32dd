"""f-AnoGAN against its paper: its networks, what each stage trains, and its score."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medanomaly.detectors import FAnoGAN
from medanomaly.errors import ConfigError
from medanomaly.networks.residual_gan import residual_generator, residual_trunk


def make(**arguments):
    torch.manual_seed(0)
    return FAnoGAN(**{"features": 4, "latent_dim": 8, **arguments})


def noise(n=16, seed=0, channels=1, size=16, dims=2):
    return torch.rand((n, channels) + (size,) * dims, generator=torch.Generator().manual_seed(seed))


def in_stage(detector, number):
    """The detector in its stage ``number``, after a few steps of those before."""
    for at, stage in enumerate(detector.train().stages()):
        if at == number:
            return stage
        for step in range(6):
            detector.training_step(noise(seed=step), stage)
    raise AssertionError(number)


def weights_of(*parts):
    return [value.clone() for part in parts for value in part.state_dict().values()]


@pytest.mark.parametrize(
    ("patch_size", "dims", "start", "up", "down"),
    [
        (16, 2, 128, [128, 64], [128, 256]),
        (32, 2, 256, [256, 128, 64], [128, 256, 512]),
        (64, 2, 512, [512, 256, 128, 64], [128, 256, 512, 512]),
        (16, 3, 128, [128, 64], [128, 256]),
    ],
)
def test_channels_are_those_of_the_paper(patch_size, dims, start, up, down):
    with torch.device("meta"):
        generator = residual_generator(3, patch_size, dims, 64, 128)
        trunk = residual_trunk(3, patch_size, dims, 64, "layer")
        assert generator[0].out_features == start * 4**dims and trunk[0].out_channels == 64
        assert [block.main[-1].out_channels for block in generator[2:-3]] == up
        assert [block.main[-1].out_channels for block in trunk[1:-1]] == down
        patches = generator(torch.zeros(2, 128))
        assert patches.shape == (2, 3) + (patch_size,) * dims
        assert trunk(patches).shape == (2, down[-1] * 4**dims)


def test_the_critic_does_not_mix_patches():
    detector = make().train()
    patches = noise(6)
    assert torch.allclose(detector.critic(patches)[:1], detector.critic(patches[:1]), atol=1e-5)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in detector.trunk.modules())
    shifted = detector.trunk[1].main[0](10 + 5 * noise(4, channels=4))
    assert torch.allclose(shifted.flatten(1).mean(dim=1), torch.zeros(4), atol=1e-4)  # of all features of a patch
    assert torch.allclose(shifted.flatten(1).std(dim=1), torch.ones(4), atol=1e-2)


def test_the_generator_learns_after_every_so_many_steps_of_the_critic():
    detector = make(critic_steps=3)
    stage = in_stage(detector, 0)
    assert stage.keep == "last" and int(detector.steps) == 0
    for step in range(1, 7):
        before = [p.clone() for p in detector.generator.parameters()]
        critic = weights_of(detector.trunk)
        detector.training_step(noise(seed=step), stage)
        assert all(map(torch.equal, before, detector.generator.parameters())) == (step % 3 != 0), step
        assert not all(map(torch.equal, critic, weights_of(detector.trunk)))


def test_the_first_step_of_the_encoder_is_no_longer_than_the_others():
    """Those of RMSprop are ten times as long, and the encoder's tanh may never come back."""
    detector = make(encoder_learning_rate=1e-3)
    stage = in_stage(detector, 1)
    before = [parameter.detach().clone() for parameter in detector.encoder.parameters()]
    detector.training_step(noise(), stage)
    moved = max(float((a - b).abs().max()) for a, b in zip(before, detector.encoder.parameters(), strict=True))
    assert 0.9e-3 < moved < 1.1e-3


def test_optimisers_are_those_of_the_paper_but_the_encoders():
    stages = list(make(encoder_learning_rate=5e-5).stages())
    for optimizer in stages[0].optimizers.values():
        assert isinstance(optimizer, torch.optim.Adam)
        assert optimizer.defaults["betas"] == (0, 0.9) and optimizer.defaults["lr"] == 1e-4
    (encoder,) = stages[1].optimizers.values()
    assert encoder.defaults["betas"] == (0, 0.99) and encoder.defaults["lr"] == 5e-5  # RMSprop, corrected
    assert stages[1].keep == "best"


def test_acceptance_a_the_second_stage_leaves_the_gan_bit_for_bit():
    detector = make()
    stage = in_stage(detector, 1)
    gan = detector.generator, detector.trunk, detector.critic_head
    before, encoder = weights_of(*gan), weights_of(detector.encoder)
    for parameter in detector.parameters():
        parameter.grad = None
    for step in range(3):
        detector.train().training_step(noise(seed=step), stage)
    assert all(map(torch.equal, before, weights_of(*gan)))
    assert not any(map(torch.equal, encoder, weights_of(detector.encoder)))
    assert all(parameter.grad is None for part in gan for parameter in part.parameters())


@torch.no_grad()
def test_acceptance_b_without_features_the_loss_is_the_squared_error():
    patches = noise()
    plain, full = (make(feature_weight=weight).eval() for weight in (0.0, 2.0))
    error = torch.square(patches - plain.generator(plain.encoder(patches))).mean()
    assert torch.allclose(plain.validation_loss(patches), error)
    assert torch.allclose(plain(patches).mean(), error, rtol=1e-5)
    made = full.reconstruct(patches)
    features = torch.square(full.trunk(patches) - full.trunk(made)).mean()
    assert torch.allclose(full.validation_loss(patches), error + 2 * features, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("score", ["combined", "residual"])
def test_acceptance_c_one_pass_scores_a_patch(score):
    detector, seen = make(score=score).eval(), []
    for part in (detector.encoder, detector.generator):
        part.register_forward_hook(lambda part, given, made: seen.append(len(given[0])))
    detector(noise(5))
    assert seen == [5, 5]


@torch.no_grad()
@pytest.mark.parametrize("score", ["combined", "residual"])
def test_relative_scores_are_divided_by_how_much_a_patch_shows(score):
    detector, plain = (make(relative=relative, score=score).eval() for relative in (True, False))
    detector.fit_statistics([noise(32)])
    patches = noise(4, seed=5)
    strength = patches.abs().mean(dim=(1, 2, 3))
    assert torch.allclose(detector(patches).flatten(1), plain(patches).flatten(1) / strength[:, None], rtol=1e-5)


def test_a_code_reaches_all_that_the_generator_knows_of_whatever_its_size():
    detector = make().eval()
    z = torch.randn(4, 8)
    assert torch.allclose(detector.generator(z), detector.generator(0.1 * z), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "map"}, "score is 'map': use one of combined, residual"),
        ({"code": "relu"}, "code is 'relu': use one of tanh, linear"),
        ({"critic_steps": 0}, "critic_steps is 0, but a whole number of at least 1 is needed"),
        ({"patch_size": 24}, "patch_size is 24, but this network is built for 16, 32 or 64"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FAnoGAN(**arguments)
