"""LSTM MAD-GAN: what a score is made of, and who learns when."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medanomaly.detectors import LSTMMADGAN
from medanomaly.errors import ConfigError, TrainingError

SMALL = {"features": 6, "latent_dim": 3}


def made(channels=1, spatial_dims=2, **settings):
    torch.manual_seed(0)
    return LSTMMADGAN(channels, 8, spatial_dims, **{**SMALL, **settings}).eval()


@pytest.mark.parametrize(("channels", "spatial_dims"), [(1, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("settings", [{}, {"window": 4}, {"window": 5, "step": 2}], ids=str)
@torch.no_grad()
def test_what_comes_out_has_the_shape_of_what_goes_in(channels, spatial_dims, settings):
    detector, patches = made(channels, spatial_dims, **settings), torch.rand(5, channels, *[8] * spatial_dims)
    assert detector.reconstruct(patches).shape == patches.shape
    assert detector(patches).shape == patches[:, :1].shape


@torch.no_grad()
def test_a_score_is_the_residual_and_what_the_discriminator_doubts_both_against_their_means():
    detector, patches, normal = made(2, critic_weight=0.3), torch.rand(6, 2, 8, 8), 0.2 * torch.rand(40, 2, 8, 8)

    def parts(x):
        looks_real = torch.sigmoid(detector.discriminator(x.transpose(1, 2).flatten(2)))  # a row at a time
        residual = (x - detector.reconstruct(x)).abs().mean(dim=1, keepdim=True)
        return residual, (1 - looks_real)[:, None].expand_as(residual)

    residual, doubt = parts(patches)
    torch.testing.assert_close(detector(patches), 0.7 * residual + 0.3 * doubt)
    detector.fit_statistics(normal.split(16))
    means = [part.mean() for part in parts(normal)]
    torch.testing.assert_close(detector(patches), 0.7 * residual / means[0] + 0.3 * doubt / means[1])
    torch.testing.assert_close(detector(normal).mean(), torch.tensor(1.0), rtol=1e-4, atol=0)

    detector.relative = True
    detector.fit_statistics(normal.split(16))
    amounts = [x.mean(dim=(1, 2, 3), keepdim=True) for x in (patches, normal)]  # none is below 0
    mean = (parts(normal)[0] / amounts[1]).mean()
    torch.testing.assert_close(detector(patches), 0.7 * residual / amounts[0] / mean + 0.3 * doubt / means[1])


def test_of_networks_that_are_broken_nothing_is_fitted():
    detector = made()
    torch.nn.init.constant_(detector.discriminator.linear.bias, torch.inf)
    with pytest.raises(TrainingError, match=r"doubt 0\.0, but both must be above 0 and finite"):
        detector.fit_statistics([torch.rand(16, 1, 8, 8)])


@torch.no_grad()
def test_what_was_made_of_codes_that_the_encoder_finds_has_no_residual():
    detector = made(critic_weight=0.0)
    detector.encoder = torch.nn.Linear(8, 3)  # a step at a time, so that the codes can be known
    codes = detector.encode(torch.rand(5, 8, 8))
    series = detector.generator(codes)
    detector.encode = lambda windows: codes
    assert detector(series[:, None]).max() < 1e-6


def test_codes_have_the_size_of_the_noise_that_the_generator_was_trained_on():
    detector, windows = made(), torch.rand(5, 8, 8)
    for codes in (detector.noise(windows), detector.encode(100 * windows)):
        assert codes.shape == (5, 8, 3)
        torch.testing.assert_close(codes.square().mean(dim=2), torch.ones(5, 8), rtol=1e-4, atol=1e-4)


def test_the_gan_learns_first_and_then_the_encoder_with_its_generator():
    detector, patches, states = made(), torch.rand(16, 1, 8, 8), []
    detector.train()
    for stage in detector.stages():
        before = {key: value.clone() for key, value in detector.state_dict().items()}
        for _ in range(3):
            losses = detector.training_step(patches, stage)
        states.append(
            ({k.split(".")[0] for k, v in detector.state_dict().items() if not torch.equal(v, before[k])}, losses)
        )
    (in_gan, gan_losses), (in_encoder, encoder_losses) = states
    assert in_gan == {"generator", "discriminator"} == set(gan_losses)
    assert in_encoder == {"encoder", "generator"} and set(encoder_losses) == {"reconstruction"}
    assert [stage.keep for stage in detector.stages()] == ["last", "best"]


def test_the_encoder_is_judged_by_what_is_made_of_its_codes():
    detector, patches = made(), torch.rand(16, 1, 8, 8)
    expected = F.mse_loss(detector.reconstruct(patches), patches).detach()
    torch.testing.assert_close(detector.validation_loss(patches), expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window": 9}, "window is 9, but a patch has 8 steps"),
        ({"window": 0}, "window is 0"),
        ({"window": 4, "step": 5}, "step is 5, but windows of 4"),
        ({"critic_weight": 1.5}, "critic_weight is 1.5"),
        ({"latent_dim": 0}, "latent_dim is 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        made(**settings)
