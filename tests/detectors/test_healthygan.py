"""HealthyGAN: its two equations, its losses, and who learns when."""

from __future__ import annotations

import pytest
import torch

from medanomaly.detectors import HealthyGAN
from medanomaly.detectors.healthygan import healed, redrawn
from medanomaly.errors import ConfigError


def detector(**arguments):
    torch.manual_seed(0)
    return HealthyGAN(**{"features": 4, **arguments})


def patches(n=5, channels=1, seed=1):
    return torch.rand(n, channels, 16, 16, generator=torch.Generator().manual_seed(seed))


def forced(made, mask):
    """A HealthyGAN whose generator gives this B (before tanh) everywhere, and this M (before tanh)."""
    made_of = detector()
    value = torch.tensor([made, mask]).view(1, 2, 1, 1)
    made_of.generator.forward = lambda x: value.expand(len(x), 2, *x.shape[2:])
    return made_of


def test_nothing_is_changed_where_the_mask_is_0_and_all_where_it_is_1():
    """Acceptance (a): M = 0 gives h = x; M = 1 gives h = B, and r = x."""
    x = patches()
    none, everything = forced(made=0.3, mask=-20.0), forced(made=0.3, mask=20.0)
    assert torch.equal(none.reconstruct(x), x) and torch.equal(none.score(x), torch.zeros(5, 1, 16, 16))
    made, mask = everything.parts(everything.to_tanh(x))
    assert torch.equal(mask, torch.ones_like(mask))
    intensity = made / everything.to_tanh.factor + everything.to_tanh.middle
    torch.testing.assert_close(everything.reconstruct(x), intensity)
    scaled = everything.to_tanh(x)
    assert torch.equal(redrawn(scaled, made, mask), scaled) and torch.equal(healed(scaled, made, mask), made)
    assert torch.equal(healed(scaled, made, 0 * mask), scaled)


def test_translation_and_reconstruction_add_up():
    """Acceptance (b): r(x) + h(x) = x + B, exactly, in double precision to the last digit."""
    made_of = detector().double()
    x = made_of.to_tanh(patches().double())
    made, mask = made_of.parts(x)
    assert made.abs().max() <= 1 and 0 <= mask.min() < mask.max() <= 1 and mask.shape == (5, 1, 16, 16)
    torch.testing.assert_close(redrawn(x, made, mask) + healed(x, made, mask), x + made, rtol=0, atol=1e-15)
    intensities = made_of.reconstruct(patches().double())  # what is scored heals by the same equation
    torch.testing.assert_close(made_of.to_tanh(intensities), healed(x, made, mask), rtol=0, atol=1e-14)


def test_the_losses_are_those_of_the_recipe():
    made_of = detector(weights=(0.7, 0.3, 0.2), in_channels=3)
    healthy, mixed = (made_of.to_tanh(patches(4, 3, seed)) for seed in (1, 2))
    found = made_of._generator_loss(healthy, mixed)
    terms = []
    for x, unlabelled in ((mixed, True), (healthy, False)):
        made, m = made_of.parts(x)
        h, r = m * made + (1 - m) * x, m * x + (1 - m) * made
        terms.append(-made_of.critic(h).mean())
        if unlabelled:
            terms.append(0.3 * (x - r).abs().mean())
        else:
            terms.append(0.7 * (x - made).abs().mean())
        terms.append(0.2 / 2 * (m.mean() ** 2 + (1 / ((m - 0.5).abs() + 0.01)).mean() - 1 / 0.51))
    torch.testing.assert_close(found, sum(terms))


def test_the_focus_is_0_for_an_empty_mask_and_large_for_an_unsure_one():
    from medanomaly.detectors.healthygan import _focus

    empty, full, unsure = (_focus(torch.full((2, 1, 4, 4), value)) for value in (0.0, 1.0, 0.5))
    assert empty == pytest.approx(0, abs=1e-6) and full == pytest.approx(1, abs=1e-6)
    assert unsure == pytest.approx(0.25 + 100 - 1 / 0.51, rel=1e-5)


def test_the_critic_has_two_steps_for_each_of_the_generator():
    made_of = detector()
    (stage,) = made_of.stages()
    assert stage.keep == "last" and {o.defaults["betas"] for o in stage.optimizers.values()} == {(0.5, 0.999)}
    changed = {"generator": [], "critic": []}
    for step in range(4):
        before = {name: next(getattr(made_of, name).parameters()).clone() for name in changed}
        losses = made_of.training_step({"training": patches(seed=step), "mixed": patches(seed=9 + step)}, stage)
        for name, steps in changed.items():
            steps.append(not torch.equal(before[name], next(getattr(made_of, name).parameters())))
        assert set(losses) == {"critic", "changed"} and 0 < losses["changed"] < 1
    assert changed == {"generator": [False, True, False, True], "critic": [True] * 4}


def test_what_is_removed_is_in_intensities_whatever_the_levels():
    wide, narrow = (forced(made=0.0, mask=20.0) for _ in range(2))
    wide.to_tanh = type(wide.to_tanh)(-1.0, 3.0)
    narrow.to_tanh = type(wide.to_tanh)(0.0, 2.0)
    x = patches()
    for made_of in (wide, narrow):  # B is 0 everywhere: the intensity 1
        torch.testing.assert_close(made_of.score(x), (x - 1).abs(), rtol=1e-4, atol=1e-6)
    wide.score_kind = "mean"
    torch.testing.assert_close(wide.score(x), (x - 1).abs().flatten(1).mean(dim=1, keepdim=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"score": "max"}, "score is 'max': use one of map, mean"),
        ({"critic_steps": 0}, "critic_steps is 0"),
        ({"levels": (2.0, 1.0)}, "levels are 2.0 and 1.0"),
        ({"patch_size": 20}, "patch_size is 20"),
    ],
)
def test_settings_that_cannot_be(arguments, words):
    with pytest.raises(ConfigError, match=words):
        detector(**arguments)


def test_the_critic_may_learn_faster():
    for given, expected in ((None, 0.01), (0.04, 0.04)):
        (stage,) = detector(learning_rate=0.01, critic_rate=given).stages()
        assert [stage.optimizers[name].param_groups[0]["lr"] for name in ("generator", "critic")] == [0.01, expected]
