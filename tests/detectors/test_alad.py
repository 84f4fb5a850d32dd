"""ALAD against its paper: three games, spectral norm, and the distance of features."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medanomaly.detectors import ALAD
from medanomaly.errors import ConfigError


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return ALAD(**{"features": 4, "latent_dim": 8, **arguments})


def noise(n=16, channels=1, size=16, spatial_dims=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((n, channels) + (size,) * spatial_dims, generator=generator)


@pytest.fixture(scope="module")
def trained():
    detector = make(in_channels=2, learning_rate=1e-3)
    stage = next(detector.stages())
    for step in range(30):
        detector.train().training_step(noise(32, 2, seed=step), stage)
    detector.eval().fit_statistics(noise(200, 2, seed=77).split(50))
    return detector


@pytest.mark.parametrize(("patch_size", "channels"), [(16, [64]), (32, [64, 128]), (64, [64, 128, 256])])
def test_networks_are_those_of_the_paper_at_its_width(patch_size, channels):
    detector = ALAD(3, patch_size, features=128, spectral_norm=False)
    pairs, images, codes = (detector.trained[name] for name in ("pairs", "images", "codes"))
    convolutions = [layer for layer in images.common if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == channels
    assert convolutions[0].in_channels == 6 and convolutions[0].kernel_size == (5, 5)
    assert images.last.in_features == channels[-1] * 64
    assert [layer.out_features for layer in pairs.second if isinstance(layer, nn.Linear)] == [512, 512]
    assert pairs.last.in_features == 1024 and pairs.first[0].out_channels == 128
    assert [layer.out_features for layer in codes.common if isinstance(layer, nn.Linear)] == [64, 32]


def identity(detector):
    """A detector whose encoder gives the first number of a patch, and whose generator makes the patch of it."""
    made = copy.deepcopy(detector)
    made.average["encoder"], made.average["generator"] = nn.Identity(), nn.Identity()
    return made


@torch.no_grad()
def test_acceptance_a_the_score_is_0_where_the_reconstruction_is_the_patch(trained):
    patches = noise(6, 2)
    for kind in ("features", "residual", "both"):
        detector = identity(trained)
        detector.score_kind = kind
        assert detector(patches).abs().max() == 0 < trained(patches).min()


def test_acceptance_b_the_largest_singular_value_of_each_normalised_layer_is_at_most_1_05(trained):
    normalised = [m for m in trained.trained.modules() if hasattr(m, "parametrizations")]
    layers = [m for m in trained.trained.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.ConvTranspose2d)]
    assert {id(m) for m in normalised} == {id(m) for m in layers} - {
        id(m) for m in trained.trained["generator"].modules()
    }
    averaged = [m for n in ("encoder", "images") for m in trained.average[n].modules() if hasattr(m, "weight")]
    for layer in (*normalised, *(m for m in averaged if m.weight.ndim > 1)):
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        assert largest <= 1.05, layer
        if hasattr(layer, "parametrizations"):
            assert largest >= 0.95, layer


def test_acceptance_c_without_the_discriminator_of_codes_one_term_less():
    x, z = noise(), torch.randn(16, 8)
    others = torch.randn(16, 8), noise(seed=1), noise(seed=2), torch.randn(16, 8)
    full, without = make(dropout=0.0).eval(), make(dropout=0.0, code_discriminator=False).eval()
    for loss in ("player_losses", "discriminator_losses"):
        more, fewer = getattr(full, loss)(x, z, *others), getattr(without, loss)(x, z, *others)
        assert set(more) == {"pairs", "images", "codes"} and set(fewer) == {"pairs", "images"}
    assert len(without.trained) == len(full.trained) - 1
    for detector in (full, without):
        found = detector.train().training_step(x, next(detector.stages()))
        assert ("codes" in found) == (detector is full)


def test_the_players_have_the_labels_of_all_games_swapped():
    detector = make(dropout=0.0, spectral_norm=False).eval()
    x, z, code, made, again, recode = (
        noise(),
        torch.randn(16, 8),
        torch.randn(16, 8),
        noise(seed=1),
        noise(seed=2),
        torch.randn(16, 8),
    )
    real = {"pairs": (x, code), "images": (x, x), "codes": (z, z)}
    fake = {"pairs": (made, z), "images": (x, again), "codes": (z, recode)}
    told = detector.discriminator_losses(x, z, code, made, again, recode)
    played = detector.player_losses(x, z, code, made, again, recode)
    for name, tell in ((name, detector.trained[name]) for name in real):
        on_real, on_fake = tell(*real[name]), tell(*fake[name])
        one, nought = torch.ones(16, 1), torch.zeros(16, 1)
        bce = F.binary_cross_entropy_with_logits
        assert torch.allclose(told[name], bce(on_real, one) + bce(on_fake, nought))
        # E and G have no part in (x, x) and (z, z)
        assert torch.allclose(played[name], bce(on_fake, one) + (bce(on_real, nought) if name == "pairs" else 0.0))


@torch.no_grad()
def test_scores_follow_their_formulas(trained):
    x = noise(12, 2, seed=5)
    again = trained.average["generator"](trained.average["encoder"](x))
    images = trained.average["images"]
    features = [images.common(torch.cat([x, other], dim=1)) for other in (x, again)]
    assert images.last.in_features == features[0].shape[1]
    apart, residual = (features[0] - features[1]).abs().mean(dim=1), (x - again).abs().mean(dim=(1, 2, 3))
    assert torch.allclose(trained(x)[:, 0], apart, rtol=1e-4)
    try:
        trained.score_kind = "both"
        expected = residual / trained.medians[0] + apart / trained.medians[1]
        assert torch.allclose(trained(x)[:, 0], expected, rtol=1e-4)
        trained.score_kind = "residual"
        assert torch.allclose(trained(x), (x - again).abs().mean(dim=1, keepdim=True), rtol=1e-4, atol=1e-6)
    finally:
        trained.score_kind = "features"


@torch.no_grad()
def test_scoring_and_exporting_leave_the_estimates_of_the_norms_alone(trained):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    trained(noise(5, 2))
    torch.jit.script(trained)
    after = trained.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "latent"}, "score is 'latent'; use one of 'features', 'residual', 'both'"),
        ({"cycle": -1.0}, "cycle is -1.0; a weight is at least 0"),
        ({"patch_size": 24}, "patch_size is 24, but this network is built for 16, 32 or 64"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ALAD(**arguments)
