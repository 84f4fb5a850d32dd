"""GANomaly against its papers: shapes and sizes, what trains what, the scores, and that it reconstructs."""

from __future__ import annotations

import copy
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from medanomaly.detectors import GANomaly
from medanomaly.errors import ConfigError, TrainingError

FASHION = Path(__file__).parents[2].parent / "shared" / "data" / "fashion_mnist"
VARIANTS = [("A", "bce"), ("A", "wgan-gp"), ("K", "bce"), ("K", "wgan-gp")]


def make(variant="K", critic="wgan-gp", seed=0, **arguments):
    torch.manual_seed(seed)
    return GANomaly(**{"variant": variant, "critic": critic, "features": 4, "latent_dim": 8, **arguments})


def noise(n=16, channels=1, size=16, spatial_dims=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((n, channels) + (size,) * spatial_dims, generator=generator)


def gradients_of_a_generator_step(detector, batch):
    """Parameter name to gradient, as the generator's optimiser finds them; a parameter without one is left out."""
    found = {}

    def look(*_):
        found.update({name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None})

    stage = next(detector.stages())
    stage.optimizers["generator"].register_step_pre_hook(look)
    detector.train().training_step(batch, stage)
    return found


def size_of(gradients, part):
    return sum(float(gradient.abs().sum()) for name, gradient in gradients.items() if name.startswith(part))


@pytest.mark.parametrize(("patch_size", "millions"), [(16, 0.337), (32, 1.067), (64, 3.575)])
def test_the_encoder_has_the_papers_number_of_parameters(patch_size, millions):
    encoder = GANomaly(1, patch_size, variant="A", critic="bce").encoder
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 3) == millions


@pytest.mark.parametrize("variant", ["A", "K"])
@pytest.mark.parametrize(
    ("patch_size", "spatial_dims", "deepest"), [(16, 2, 8), (32, 2, 16), (64, 2, 32), (16, 3, 8), (32, 3, 16)]
)
@torch.no_grad()
def test_shapes(patch_size, spatial_dims, deepest, variant):
    detector = make(variant, in_channels=2, patch_size=patch_size, spatial_dims=spatial_dims).eval()
    patches = noise(3, 2, patch_size, spatial_dims)
    assert detector.trunk(patches).shape == (3, deepest) + (4,) * spatial_dims
    assert detector.critic(patches).shape == (3, 1)
    z = detector.encoder(patches)
    assert z.shape == (3, 8)
    assert detector.decoder(z).shape == patches.shape


@pytest.mark.parametrize(
    ("spatial_dims", "variant", "critic", "features", "weights", "rate", "paper"),
    [
        (2, "A", None, 64, (1, 50, 1), 2e-4, ("bce", "encoder")),
        (3, "A", None, 32, (1, 50, 1), 2e-4, ("bce", "encoder")),
        (2, "K", "bce", 64, (1, 70, 10), 2e-3, ("bce", "modified")),
        (3, "K", None, 32, (1, 70, 10), 5e-4, ("wgan-gp", "modified")),  # the paper's 2e-3 would not train here
    ],
)
def test_settings_of_the_papers_are_the_defaults(spatial_dims, variant, critic, features, weights, rate, paper):
    detector = GANomaly(spatial_dims=spatial_dims, variant=variant, critic=critic)
    assert (detector.critic_loss, detector.score_kind) == paper
    assert detector.trunk[0].out_channels == features and detector.encoder[-1][-1].out_features == 100
    assert detector.weights == weights
    for optimizer in next(detector.stages()).optimizers.values():
        assert optimizer.defaults["lr"] == rate and optimizer.defaults["betas"] == (0.5, 0.999)


def test_acceptance_a_one_encoder_in_k_and_two_in_a():
    k, a = make("K"), make("A")
    assert k.encoder is k.reencoder and k.encoder[0] is k.trunk
    parts = [{id(p) for p in part.parameters()} for part in (a.encoder, a.reencoder, a.trunk)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


@pytest.mark.parametrize(("variant", "critic"), VARIANTS)
def test_each_optimiser_holds_its_own_side(variant, critic):
    detector = make(variant, critic)
    held = {
        side: {id(p) for group in optimizer.param_groups for p in group["params"]}
        for side, optimizer in next(detector.stages()).optimizers.items()
    }

    def ids(*parts):
        return {id(p) for part in parts for p in part.parameters()}

    assert held["generator"] == ids(detector.encoder, detector.reencoder, detector.decoder)
    assert held["critic"] == ids(detector.trunk, detector.critic_head)


@pytest.mark.parametrize(("variant", "critic"), VARIANTS)
def test_a_critic_with_gradient_penalty_has_no_batch_norm(variant, critic):
    detector = make(variant, critic, patch_size=32)

    def has_norm(part):
        return any(isinstance(module, _BatchNorm) for module in part.modules())

    assert has_norm(detector.trunk) == (critic == "bce")
    assert has_norm(detector.encoder) == (critic == "bce" or variant == "A")
    assert has_norm(detector.decoder) and not has_norm(detector.critic_head)


@pytest.mark.parametrize("critic", ["bce", "wgan-gp"])
def test_only_the_contextual_loss_trains_the_trunk_of_k(critic):
    batch = noise()
    alone = {
        name: gradients_of_a_generator_step(make("K", critic, weights=weights), batch)
        for name, weights in {"adv": (1, 0, 0), "con": (0, 70, 0), "enc": (0, 0, 10), "all": (1, 70, 10)}.items()
    }
    trunk = [name for name in alone["all"] if name.startswith("trunk.")]
    assert trunk
    assert size_of(alone["adv"], "trunk") == size_of(alone["enc"], "trunk") == 0 < size_of(alone["con"], "trunk")
    for name in trunk:
        assert torch.allclose(alone["all"][name], alone["con"][name], rtol=1e-5, atol=0)
    # the decoder and the head of the code learn from all three, the critic's head from none
    for part in ("decoder", "encoder.1"):
        assert all(size_of(gradients, part) > 0 for gradients in alone.values()), part
    assert all(size_of(gradients, "critic_head") == 0 for gradients in alone.values())


@pytest.mark.parametrize("critic", ["bce", "wgan-gp"])
def test_the_encoder_loss_of_k_does_not_pull_at_the_code_of_the_input(critic):
    """Else shrinking both codes would lower it."""
    detector, batch = make("K", critic, weights=(0, 0, 10)).train(), noise()
    z = detector.encoder(batch)
    loss = 10 * ((detector.encoder(detector.decoder(z)) - z.detach()) ** 2).mean()
    learners = {n: p for n, p in detector.named_parameters() if n.startswith(("encoder.1", "decoder"))}
    expected = dict(zip(learners, torch.autograd.grad(loss, list(learners.values())), strict=True))
    found = gradients_of_a_generator_step(detector, batch)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), name


@pytest.mark.parametrize("critic", ["bce", "wgan-gp"])
def test_the_generator_step_of_a_leaves_the_discriminator_alone(critic):
    gradients = gradients_of_a_generator_step(make("A", critic), noise())
    assert size_of(gradients, "trunk") == size_of(gradients, "critic_head") == 0
    assert all(size_of(gradients, part) > 0 for part in ("encoder", "reencoder", "decoder"))


@pytest.mark.parametrize(("variant", "critic"), VARIANTS)
@torch.no_grad()
def test_losses_are_those_of_the_papers(variant, critic):
    detector, batch = make(variant, critic).train(), noise()
    same = copy.deepcopy(detector)
    with torch.enable_grad():
        losses = detector.training_step(batch, next(detector.stages()))
    z = same.encoder(batch)
    decoded = same.decoder(z)
    expected = {
        "adversarial": ((same.trunk(batch) - same.trunk(decoded)) ** 2).mean(),
        "contextual": (batch - decoded).abs().mean(),
        "encoder": ((z - same.reencoder(decoded)) ** 2).mean(),
    }
    assert set(losses) == {*expected, "critic"}
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(float(value), rel=1e-4), name


@pytest.mark.parametrize("variant", ["A", "K"])
@pytest.mark.parametrize("weights", [(3, 7, 0), (3, 0, 2), (1, 1, 1000)])
@torch.no_grad()
def test_validation_loss_is_the_weighted_contextual_and_encoder_loss(variant, weights):
    detector, batch = make(variant, weights=weights).eval(), noise()
    z = detector.encoder(batch)
    decoded = detector.decoder(z)
    contextual, encoder = (batch - decoded).abs().mean(), ((z - detector.reencoder(decoded)) ** 2).mean()
    expected = weights[1] * contextual + weights[2] * encoder
    assert float(detector.validation_loss(batch)) == pytest.approx(float(expected), rel=1e-5)


@pytest.fixture(scope="module", params=["A", "K"])
def trained(request):
    detector = make(request.param, "bce", in_channels=2, score="modified")
    stage = next(detector.stages())
    for step in range(30):
        detector.train().training_step(noise(32, 2, seed=step), stage)
    return detector.eval()


@torch.no_grad()
def test_acceptance_b_modified_errors_of_the_training_set_have_median_0_and_mad_1(trained):
    patches = noise(501, 2, seed=77)  # an odd number has one median
    trained.fit_statistics(patches.split(100))
    errors = trained.code_errors(patches)
    modified = ((errors - trained.modified.median) / (trained.modified.mad + 1e-8)).numpy()
    assert np.median(modified, axis=0) == pytest.approx(np.zeros(8), abs=1e-5)
    assert np.median(np.abs(modified), axis=0) == pytest.approx(np.ones(8), rel=1e-2)  # less than 1 by the 1e-8
    assert trained(patches)[:, 0].numpy() == pytest.approx(modified.mean(axis=1), rel=1e-4, abs=1e-4)


@torch.no_grad()
def test_acceptance_c_the_score_of_a_sample_is_unchanged_by_its_batch_mates(trained):
    trained.fit_statistics([noise(100, 2, seed=77)])
    patches = noise(20, 2, seed=78)
    together, scale = trained(patches), trained(patches).abs().max()
    alone = torch.cat([trained(patch[None]) for patch in patches])
    beside_bright_ones = trained(torch.cat([patches, 10 + patches]))[:20]
    assert (alone - together).abs().max() < 1e-6 * scale
    assert (beside_bright_ones - together).abs().max() < 1e-6 * scale


@torch.no_grad()
def test_scores_follow_their_formulas(trained):
    patches = noise(12, 2, seed=79)
    z = trained.encoder(patches)
    decoded = trained.decoder(z)
    errors = (z - trained.reencoder(decoded)) ** 2
    median, mad = errors.quantile(0.4, dim=0), errors.std(dim=0)
    trained.modified.median.copy_(median)
    trained.modified.mad.copy_(mad).index_fill_(0, torch.tensor([0, 3]), 0.0)  # two elements of the code never varied
    alive = [1, 2, 4, 5, 6, 7]
    expected = {
        "encoder": errors.mean(dim=1, keepdim=True),
        "modified": ((errors - median) / (mad + 1e-8))[:, alive].mean(dim=1, keepdim=True),
        "residual": (patches - decoded).abs().mean(dim=1, keepdim=True),
    }
    for trained.score_kind, scores in expected.items():
        assert torch.allclose(trained(patches), scores, rtol=1e-4, atol=1e-7), trained.score_kind
    trained.score_kind = "modified"
    trained.modified.mad.zero_()  # all died: the plain errors are left
    assert torch.allclose(trained(patches), expected["encoder"], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_collapsed_code_is_refused(value):
    detector = make()
    torch.nn.init.constant_(detector.encoder[1][-1].weight, value)
    with pytest.raises(TrainingError, match="the latent code collapsed or is not finite"):
        detector.eval().fit_statistics([noise()])


@pytest.mark.parametrize(("variant", "critic", "batch_size"), [("A", "bce", 64), ("K", "wgan-gp", 128)])
def test_acceptance_d_one_epoch_on_boots_lowers_the_contextual_loss_by_30_percent(variant, critic, batch_size):
    if not FASHION.exists():
        pytest.skip(f"Fashion-MNIST is not at {FASHION}")
    images, labels = (
        np.frombuffer(gzip.decompress((FASHION / f"train-{name}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for name, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    boots = torch.as_tensor(images.reshape(-1, 1, 28, 28)[labels == 9]).float() / 255
    boots = F.interpolate(boots, size=(16, 16), mode="bilinear", antialias=True)
    training, held_out = boots[:4200], boots[4200:4500]
    detector = make(variant, critic, features=64, latent_dim=100)

    @torch.no_grad()
    def contextual_loss():
        detector.eval()
        return float((held_out - detector.decoder(detector.encoder(held_out))).abs().mean())

    before, stage = contextual_loss(), next(detector.stages())
    for batch in training.split(batch_size):
        detector.train().training_step(batch, stage)
    assert contextual_loss() < 0.7 * before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "B"}, "variant is 'B'; use one of 'A', 'K'"),
        ({"critic": "hinge"}, "critic is 'hinge'; use one of 'bce', 'wgan-gp'"),
        ({"score": "latent"}, "score is 'latent'; use one of 'encoder', 'modified', 'residual'"),
        ({"patch_size": 24}, "patch_size is 24, but this network is built for 16, 32 or 64"),
        ({"patch_size": 0}, "patch_size is 0, but this network is built for 16, 32 or 64"),
        ({"spatial_dims": 4}, "spatial_dims is 4"),
        ({"in_channels": 0}, "in_channels is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        GANomaly(**arguments)
