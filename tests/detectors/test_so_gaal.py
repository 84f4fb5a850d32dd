"""SO-GAAL: who learns when, and what a score is."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from medanomaly.detectors import SOGAAL
from medanomaly.errors import ConfigError
from medanomaly.networks.gaal import outlier_generator


def blobs(n, seed=0):
    """Patches that are dark, but for a bright quarter."""
    generator = torch.Generator().manual_seed(seed)
    patches = 0.1 + 0.05 * torch.randn((n, 1, 8, 8), generator=generator)
    patches[:, :, :4, :4] += 0.6
    return patches.clamp(min=0)


@pytest.fixture(scope="module")
def trained():
    """After 60 steps of both networks and 60 of one, with the generator's weights when each stage began."""
    torch.manual_seed(0)
    detector, begun = SOGAAL(patch_size=8, hidden=16), []
    for number, stage in enumerate(detector.stages()):
        begun.append({key: value.clone() for key, value in detector.generator.state_dict().items()})
        assert stage.keep == "last"
        for step in range(60):
            losses = detector.training_step(blobs(64, 60 * number + step), stage)
            assert ("generator" in losses) == (number == 0)
    return detector, begun


def test_the_generator_learns_until_it_stops_and_is_frozen_from_then_on(trained):
    detector, (before, when_it_stopped) = trained
    now = detector.generator.state_dict()
    assert not any(torch.equal(before[key], when_it_stopped[key]) for key in now)
    assert all(torch.equal(when_it_stopped[key], now[key]) for key in now)


def test_the_first_stage_lasts_as_long_as_is_asked_for_and_the_second_as_the_trainer_says():
    first, second = SOGAAL(patch_size=8, stop_epochs=7).stages()
    assert (first.max_epochs, second.max_epochs) == (7, None)
    assert set(first.optimizers) == {"generator", "discriminator"} and set(second.optimizers) == {"discriminator"}


@torch.no_grad()
def test_noise_is_more_abnormal_than_what_was_learned(trained):
    detector, _ = trained
    noise = detector(torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert noise.mean() > detector(blobs(300)).mean() + 0.5


@torch.no_grad()
def test_a_score_is_one_minus_what_the_discriminator_says(trained):
    detector, _ = trained
    patches = torch.cat([blobs(50, seed=999), blobs(50, seed=998) + 0.3 * torch.rand(50, 1, 8, 8)])
    scores = detector(patches)
    looks_real = torch.sigmoid(detector.discriminator(patches.flatten(1)))
    torch.testing.assert_close(scores, 1 - looks_real)
    labels = [0] * 50 + [1] * 50
    assert roc_auc_score(labels, scores) + roc_auc_score(labels, looks_real) == pytest.approx(1, abs=1e-3)
    assert roc_auc_score(labels, scores) > 0.9


@torch.no_grad()
def test_the_generator_starts_as_the_identity():
    noise = torch.rand(10, 7)
    assert torch.equal(outlier_generator(7)(noise), noise)
    assert (outlier_generator(7)(noise - 0.5) >= 0).all()


@pytest.mark.parametrize("setting", [{"numbers": 0}, {"hidden": 0}, {"stop_epochs": 0}], ids=str)
def test_settings_that_cannot_work_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        SOGAAL(**setting)
