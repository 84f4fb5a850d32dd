"""MO-GAAL: what each generator aims at, how many outliers it makes, and who learns when."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medanomaly.detectors import MOGAAL
from medanomaly.detectors.mo_gaal import shares
from medanomaly.errors import ConfigError
from medanomaly.networks.stages import Stage


def made(**settings):
    torch.manual_seed(0)
    return MOGAAL(patch_size=8, hidden=16, **settings)


def patches(n, seed=0):
    """Patches that are dark, but for a bright quarter."""
    generator = torch.Generator().manual_seed(seed)
    dark = 0.1 + 0.05 * torch.randn((n, 1, 8, 8), generator=generator)
    dark[:, :, :4, :4] += 0.6
    return dark.clamp(min=0)


def test_the_generators_make_fewer_and_fewer_outliers():
    assert shares(550, 10) == [100, 90, 80, 70, 60, 50, 40, 30, 20, 10]


@pytest.mark.parametrize(("n", "k"), [(500, 10), (128, 10), (16, 10), (1, 10), (7, 1), (32, 3)])
def test_of_any_batch_the_shares_are_as_near_as_whole_numbers_come(n, k):
    found = shares(n, k)
    wanted = [n * 2 * (k - i) / (k * (k + 1)) for i in range(k)]
    assert sum(found) == n
    assert all(abs(share - exact) < 1 for share, exact in zip(found, wanted, strict=True))


def test_targets_are_quantiles_of_what_the_discriminator_says_of_real_vectors():
    detector, real = made(generators=5), torch.rand(200, 64)
    looks_real = torch.sigmoid(detector.discriminator(real)).detach().numpy()
    targets = detector.targets(real)
    assert targets == sorted(targets)
    np.testing.assert_allclose(targets, np.quantile(looks_real, [0, 0.2, 0.4, 0.6, 0.8]), rtol=1e-5)


def test_of_one_generator_the_target_is_the_least_real_and_not_1():
    detector, real = made(generators=1), torch.rand(200, 64)
    looks_real = torch.sigmoid(detector.discriminator(real)).detach()
    assert detector.targets(real) == [pytest.approx(float(looks_real.min()))]
    losses = detector.training_step(patches(32), next(detector.stages()))
    assert set(losses) == {"discriminator", "generators"}


def test_what_a_generator_makes_moves_towards_its_own_target():
    """Against a discriminator that stands still, each ends at what it aims at, and so the generators spread."""
    detector, real = made(generators=4), torch.rand(400, 64)
    with torch.no_grad():
        detector.discriminator[-1].weight *= 5  # an opinion of each, so that the targets are far apart
    stage = Stage(
        "generators",
        {
            "generators": torch.optim.SGD(detector.generators.parameters(), lr=0.05, momentum=0.9),
            "discriminator": torch.optim.SGD(detector.discriminator.parameters(), lr=0.0),
        },
    )
    for _ in range(150):
        detector.training_step(real.view(-1, 1, 8, 8), stage)
    noise = torch.rand(400, 64)
    means = [float(torch.sigmoid(detector.discriminator(g(noise))).mean().detach()) for g in detector.generators]
    np.testing.assert_allclose(means, detector.targets(real), atol=0.1)
    assert max(means) - min(means) > 0.2


def test_the_generators_are_frozen_once_they_have_stopped():
    detector, now = made(generators=3), []
    for stage in detector.stages():
        for step in range(3):
            detector.training_step(patches(32, step), stage)
        now.append({key: value.clone() for key, value in detector.state_dict().items()})
    same = {key for key in now[0] if torch.equal(now[0][key], now[1][key])}
    assert same == {key for key in now[0] if key.startswith("generators.")}


def test_noise_is_more_abnormal_than_what_was_learned():
    detector = made(generators=3)
    for stage in detector.stages():
        for step in range(60):
            detector.training_step(patches(64, step), stage)
    assert detector(torch.rand(300, 1, 8, 8)).mean() > detector(patches(300)).mean() + 0.5


@pytest.mark.parametrize("setting", [{"generators": 0}, {"numbers": 0}, {"hidden": 0}, {"stop_epochs": 0}], ids=str)
def test_settings_that_cannot_work_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        MOGAAL(**setting)
