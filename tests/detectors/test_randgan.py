"""RandGAN against its recipe: shapes, what it is shown and when, losses, the search, and the scores."""

from __future__ import annotations

import pytest
import torch

from medanomaly.detectors import RandGAN
from medanomaly.errors import ConfigError
from tests.detectors.test_contract import gratings


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    small = {"features": 8, "latent_dim": 8, "search_steps": 3, "restarts": 1, "bank_size": 16}
    return RandGAN(**{**small, **arguments})


def conditions_of_a_step(detector, batch, seed=0):
    """What the generator is shown in a training step."""
    shown = []
    handle = detector.generator.look.register_forward_hook(lambda _, inputs, output: shown.append(inputs[0].clone()))
    torch.manual_seed(seed)
    detector.train().training_step(batch, next(detector.stages()))
    handle.remove()
    (condition,) = shown
    return condition


def grey(n, first):
    """Patches that can be told apart by their brightness: first, first + 1, ... hundredths."""
    return (torch.arange(first, first + n) / 100).view(n, 1, 1, 1).expand(n, 1, 16, 16).clone()


def hundredths(images):
    return [round(float(image.mean() + 1) * 50) for image in images]


@pytest.mark.parametrize("size", [16, 32, 64])
@torch.no_grad()
def test_shapes_and_acceptance_c_the_output_lies_in_minus_1_to_1(size):
    detector = make(in_channels=2, patch_size=size).eval()
    looked = detector.generator.look(torch.randn(3, 2, size, size))
    assert looked.shape == (3, 8, size // 2, size // 2) == detector.generator.noise(torch.rand(3, 8)).shape
    images = detector.generator(100 * torch.randn(3, 8), looked)
    assert images.shape == (3, 2, size, size) and images.min() >= -1 and images.max() <= 1
    assert detector.critic(images).shape == (3, 1)
    assert detector.trunk(images).shape == (3, 32, size // 4, size // 4)


def test_acceptance_a_the_image_shown_is_drawn_independently_of_the_real_batch():
    shown = []
    for real in (grey(16, 20), grey(16, 60).flip(0)):  # what is real in the second step
        detector = make()
        conditions_of_a_step(detector, grey(16, 0))
        shown.append(hundredths(conditions_of_a_step(detector, real, seed=7)))
    assert shown[0] == shown[1] and len(set(shown[0])) > 4
    assert set(shown[0]) <= set(range(16)), "an image of the batch before"
    other = make()
    conditions_of_a_step(other, grey(16, 0))
    assert hundredths(conditions_of_a_step(other, grey(16, 20), seed=8)) != shown[0]


def test_the_bank_holds_the_newest_images_whatever_the_size_of_batches():
    detector = make()
    for first in (0, 10, 20):
        conditions_of_a_step(detector, grey(10, first))
    assert sorted(hundredths(detector.bank)) == list(range(14, 30))
    conditions_of_a_step(detector, grey(40, 40))
    assert len(set(hundredths(detector.bank))) == 16 and min(hundredths(detector.bank)) >= 40


@torch.no_grad()
def test_acceptance_b_at_test_it_is_shown_a_normal_image_or_if_asked_the_patch_itself():
    def fitted(**arguments):
        detector = make(**arguments).eval()
        detector.fit_statistics([grey(4, 10), grey(30, 50)])
        return detector

    def shown(detector, patches):
        seen = []
        handle = detector.generator.look.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].clone()))
        detector(patches)
        handle.remove()
        return hundredths(torch.cat(seen))[: len(patches)]

    patches = grey(3, 11) + torch.tensor([0.0, 0.48, 5.0]).view(3, 1, 1, 1)
    assert shown(fitted(bank_size=1), patches) == [10, 10, 10], "one random normal image for all"
    assert shown(fitted(query_as_condition=True), patches) == [11, 60, 513]
    detector = fitted()  # the one of 16 from which the image that is most like the patch is drawn
    kept = [*range(10, 14), *range(50, 62)]
    assert hundredths(detector.bank) == kept
    drawn = detector.generator((detector.starts.expand(16, -1) + 1) / 2, detector.generator.look(detector.bank))
    torch.testing.assert_close(detector.drawn, drawn, rtol=1e-4, atol=1e-5)
    queries = torch.cat([(drawn[[3, 12]] + 1) / 2, patches[2:]])
    apart = (drawn - (2 * queries - 1)[:, None]).abs().mean(dim=(2, 3, 4))
    assert apart.argmin(dim=1)[:2].tolist() == [3, 12]
    assert shown(detector, queries) == [kept[place] for place in apart.argmin(dim=1)]


@torch.no_grad()
def test_the_discriminator_sees_how_much_images_differ_but_its_features_do_not():
    detector = make().eval()
    same, mixed = grey(4, 50)[[0, 0, 0, 0]], grey(4, 50)[[0, 1, 2, 3]]
    assert not torch.allclose(detector.critic(same)[:1], detector.critic(mixed)[:1])
    torch.testing.assert_close(detector.trunk(same)[:1], detector.trunk(mixed)[:1])


def test_losses_are_those_of_the_recipe_and_each_optimiser_moves_its_own_side():
    detector, batch = make(), gratings(8, 1, 2, 0)
    stage = next(detector.stages())
    assert stage.keep == "last"
    assert [optimizer.defaults["betas"] for optimizer in stage.optimizers.values()] == [(0, 0.99)] * 2  # RMSprop's
    made = []
    detector.generator.register_forward_hook(lambda _, inputs, output: made.append(output.detach()))
    before = {name: p.detach().clone() for name, p in detector.named_parameters()}
    values = {}

    def look(*_):
        values["critic"] = (detector.critic(2 * batch - 1) - 1).square().mean() + detector.critic(
            made[0]
        ).square().mean()
        values["generator_moved"] = any(
            not torch.equal(p, before[name]) for name, p in detector.named_parameters() if name.startswith("generator")
        )

    stage.optimizers["critic"].register_step_pre_hook(look)
    stage.optimizers["generator"].register_step_pre_hook(
        lambda *_: values.update(generator=(detector.critic(made[0]) - 1).square().mean())
    )
    losses = detector.train().training_step(batch, stage)
    assert set(losses) == {"critic", "generator"} and not values["generator_moved"]
    for name, value in losses.items():
        assert float(value) == pytest.approx(float(values[name].detach()), rel=1e-5), name
    assert all(not torch.equal(p, before[name]) for name, p in detector.named_parameters() if "weight" in name)
    gradients = [p.grad.abs().max() for p in detector.parameters() if p.grad is not None]
    assert max(gradients) <= 1


@torch.no_grad()
def test_the_score_is_what_the_search_leaves_and_a_longer_search_leaves_less():
    detector = make(search_steps=8, restarts=2).eval()
    detector.fit_statistics([gratings(20, 1, 2, 0)])
    patches = gratings(5, 1, 2, 1)
    codes, losses, looked = detector.search(patches)
    assert codes.abs().max() <= 1
    images = detector.generator((codes + 1) / 2, looked)
    voxels = (images - (2 * patches - 1)).abs().mean(dim=(1, 2, 3))
    features = (detector.trunk(images) - detector.trunk(2 * patches - 1)).abs().mean(dim=(1, 2, 3))
    expected = 0.9 * voxels / detector.scales[0] + 0.1 * features / detector.scales[1]
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(detector(patches), losses[:, None])
    torch.testing.assert_close(detector.reconstruct(patches), (images + 1) / 2, rtol=1e-4, atol=1e-5)
    detector.search_steps = 1
    assert (detector.search(patches)[1] > losses).all()
    detector.score_kind, detector.relative = "residual", True
    expected = (patches - detector.reconstruct(patches)).abs() / patches.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(detector(patches), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims is 3, but RandGAN is a method for images: set it to 2"),
        ({"score": "latent"}, "score is 'latent'; use one of 'combined', 'residual'"),
        ({"features": 12}, "features is 12, but an inception block needs a multiple of 8"),
        ({"bank_size": 0}, "bank_size is 0, but a whole number of at least 1 is needed"),
        ({"patch_size": 24}, "patch_size is 24, but this network is built for 16, 32 or 64"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        RandGAN(**arguments)
