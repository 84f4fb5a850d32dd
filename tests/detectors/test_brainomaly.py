"""Brainomaly: its additive form, the identity that it can reach, and its losses."""

from __future__ import annotations

import pytest
import torch

from medanomaly.detectors import Brainomaly
from medanomaly.errors import ConfigError


def detector(**arguments):
    torch.manual_seed(0)
    return Brainomaly(**{"features": 4, **arguments})


def patches(n=5, channels=1, seed=1):
    return torch.rand(n, channels, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_the_identity_can_be_reached_at_both_ends_of_the_levels():
    """a(x) = atanh(x) - x gives x back; at +-1 that would be infinite, at +-0.9 it is 0.57 at most."""
    made_of = detector(levels=(-0.5, 2.0))
    x = torch.linspace(-0.5, 2.0, 256).view(1, 1, 16, 16)
    added = torch.atanh(made_of.to_tanh(x)) - made_of.to_tanh(x)
    assert torch.isfinite(added).all() and added.abs().max() == pytest.approx(0.5722, abs=1e-3)
    made_of.generator.forward = lambda scaled: torch.atanh(scaled) - scaled
    torch.testing.assert_close(made_of.reconstruct(x), x, rtol=1e-4, atol=1e-5)
    assert made_of.score(x).max() < 1e-5


def test_the_translation_is_tanh_of_the_sum():
    made_of = detector(in_channels=3)
    x = patches(channels=3)
    scaled = (x - 0.75) * 1.8 / 2.5
    expected = torch.tanh(scaled + made_of.generator(scaled)) * 2.5 / 1.8 + 0.75
    torch.testing.assert_close(made_of.reconstruct(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made_of.score(x), (x - expected).abs().mean(dim=1, keepdim=True), rtol=1e-3, atol=1e-5)


def test_the_losses_are_those_of_the_recipe():
    made_of = detector(identity_weight=0.7)
    healthy, mixed = (made_of.to_tanh(patches(4, seed=seed)) for seed in (1, 2))
    expected = (
        0.7 * (healthy - made_of.translated(healthy)).abs().mean() - made_of.critic(made_of.translated(mixed)).mean()
    )
    torch.testing.assert_close(made_of._generator_loss(healthy, mixed), expected)


def test_the_critic_has_two_steps_for_each_of_the_generator():
    made_of = detector()
    (stage,) = made_of.stages()
    changed = {"generator": [], "critic": []}
    for step in range(4):
        before = {name: next(getattr(made_of, name).parameters()).clone() for name in changed}
        made_of.training_step({"training": patches(seed=step), "mixed": patches(seed=9 + step)}, stage)
        for name, steps in changed.items():
            steps.append(not torch.equal(before[name], next(getattr(made_of, name).parameters())))
    assert stage.keep == "last"
    assert changed == {"generator": [False, True, False, True], "critic": [True] * 4}


@pytest.mark.parametrize(
    ("arguments", "words"), [({"score": "max"}, "score is 'max'"), ({"critic_steps": 0}, "critic_steps is 0")]
)
def test_settings_that_cannot_be(arguments, words):
    with pytest.raises(ConfigError, match=words):
        detector(**arguments)


def test_the_critic_may_learn_faster():
    for given, expected in ((None, 0.01), (0.04, 0.04)):
        (stage,) = detector(learning_rate=0.01, critic_rate=given).stages()
        assert [stage.optimizers[name].param_groups[0]["lr"] for name in ("generator", "critic")] == [0.01, expected]
