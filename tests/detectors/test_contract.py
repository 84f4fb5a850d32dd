"""What every detector must do, in 2-D and 3-D, with one channel and three. A new detector adds rows to the tables."""

from __future__ import annotations

import io

import pytest
import torch
from sklearn.metrics import roc_auc_score

from medanomaly.detectors import DETECTORS
from medanomaly.errors import ConfigError

SIZE = 16
SMALL = {"features": 4, "latent_dim": 8}
TWO = ({"detector": "denoising_autoencoder", "features": 8}, {"detector": "synthetic_anomalies", "features": 8})

# (name in DETECTORS, arguments): small networks, for what must hold of any weights
ROWS = [
    ("autoencoder", {"kind": "spatial", **SMALL}),
    ("autoencoder", {"kind": "dense", **SMALL}),
    ("denoising_autoencoder", {"features": 8}),
    ("denoising_autoencoder", {"features": 8, "sign": "bright"}),
    ("foreign_patch_interpolation", {"features": 8}),
    ("fusion", {"members": TWO, "prior_weight": 0.5}),
    ("ganomaly", {"variant": "A", "critic": "bce", **SMALL}),
    ("ganomaly", {"variant": "K", "critic": "bce", **SMALL}),
    ("ganomaly", {"variant": "K", "critic": "wgan-gp", **SMALL}),
    ("ganomaly", {"variant": "A", "critic": "bce", "score": "encoder", **SMALL}),
    ("ganomaly", {"variant": "K", "critic": "bce", "score": "residual", **SMALL}),
    ("ganomaly", {"variant": "K", "unit_code": True, **SMALL}),
    ("one_class_svm", {}),
    ("progressive_ganomaly", {**SMALL, "features": (4, 4, 4)}),
    ("synthetic_anomalies", {"features": 8}),
    ("synthetic_anomalies", {"features": 8, "sign": "dark"}),
]

LEARNING = (
    {"detector": "denoising_autoencoder", "features": 8, "noise_std": 0.5, "learning_rate": 3e-3},
    {"detector": "synthetic_anomalies", "features": 8, "learning_rate": 3e-3},
)
# (name, arguments, in_channels, spatial_dims, training steps): a few seconds each, for what must be learned
LEARNERS = [
    ("autoencoder", {"kind": "spatial", "features": 8, "latent_dim": 2, "learning_rate": 3e-3}, 1, 2, 100),
    ("autoencoder", {"kind": "spatial", "features": 8, "latent_dim": 2, "learning_rate": 3e-3}, 3, 2, 100),
    ("autoencoder", {"kind": "spatial", "features": 8, "latent_dim": 2, "learning_rate": 3e-3}, 1, 3, 60),
    ("autoencoder", {"kind": "dense", "features": 8, "latent_dim": 8, "learning_rate": 3e-3}, 1, 2, 100),
    ("autoencoder", {"kind": "dense", "features": 16, "latent_dim": 16, "learning_rate": 3e-3}, 3, 2, 200),
    ("autoencoder", {"kind": "dense", "features": 8, "latent_dim": 8, "learning_rate": 3e-3}, 1, 3, 120),
    ("denoising_autoencoder", {"features": 8, "noise_std": 0.5, "learning_rate": 3e-3}, 1, 2, 200),
    ("denoising_autoencoder", {"features": 8, "noise_std": 0.5, "learning_rate": 3e-3}, 3, 2, 200),
    ("denoising_autoencoder", {"features": 8, "noise_std": 0.5, "learning_rate": 3e-3}, 1, 3, 80),
    ("foreign_patch_interpolation", {"features": 8}, 1, 2, 150),
    ("foreign_patch_interpolation", {"features": 8}, 3, 2, 150),
    ("foreign_patch_interpolation", {"features": 8}, 1, 3, 40),
    ("fusion", {"members": LEARNING}, 1, 2, 200),
    ("fusion", {"members": LEARNING}, 3, 2, 200),
    ("fusion", {"members": LEARNING}, 1, 3, 40),
    ("ganomaly", {"variant": "A", "critic": "bce", "features": 16, "latent_dim": 16}, 1, 2, 250),
    ("ganomaly", {"variant": "A", "critic": "bce", "features": 16, "latent_dim": 16}, 3, 2, 250),
    ("ganomaly", {"variant": "A", "critic": "bce", "features": 8, "latent_dim": 16}, 1, 3, 120),
    ("ganomaly", {"variant": "K", "critic": "bce", "features": 16, "latent_dim": 16, "score": "residual"}, 3, 2, 250),
    ("ganomaly", {"variant": "K", "features": 16, "latent_dim": 16}, 1, 2, 300),  # wgan-gp, modified score
    ("ganomaly", {"variant": "K", "features": 8, "latent_dim": 16}, 1, 3, 120),
    ("progressive_ganomaly", {"features": (16, 16, 16), "latent_dim": 16, "fade_images": 640}, 1, 2, 300),
    ("progressive_ganomaly", {"features": (16, 16, 16), "latent_dim": 16, "fade_images": 640}, 1, 3, 200),
    ("one_class_svm", {}, 1, 2, 0),
    ("one_class_svm", {}, 3, 2, 0),
    ("one_class_svm", {}, 1, 3, 0),
    ("synthetic_anomalies", {"features": 8, "learning_rate": 3e-3}, 1, 2, 200),
    ("synthetic_anomalies", {"features": 8, "learning_rate": 3e-3}, 3, 2, 200),
    ("synthetic_anomalies", {"features": 8, "learning_rate": 3e-3}, 1, 3, 80),
]


def gratings(n, channels, spatial_dims, seed):
    """Normal patches: waves of one direction and length; every patch and channel has a phase of its own."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.linspace(0, 1, SIZE)
    x, y = torch.meshgrid(*[line] * spatial_dims, indexing="ij")[:2]
    phase = torch.rand((n, channels) + (1,) * spatial_dims, generator=generator)
    return 0.5 + 0.3 * torch.sin(2 * torch.pi * (1.5 * x + 0.4 * y + phase))


def turned(patches):
    """The same brightness everywhere, but another direction: no threshold tells it."""
    return patches.transpose(2, 3)


def with_square(patches):
    planted = patches.clone()
    planted[(..., *(slice(5, 10),) * (patches.ndim - 2))] = 1.2
    return planted


def make(name, arguments, channels, spatial_dims, seed=0):
    torch.manual_seed(seed)
    return DETECTORS[name](in_channels=channels, patch_size=SIZE, spatial_dims=spatial_dims, **arguments)


def train(detector, steps, seed=0):
    channels, spatial_dims = detector.in_channels, detector.spatial_dims
    torch.manual_seed(seed)
    optimizers = detector.optimizers()
    detector.train()
    for step in range(steps if optimizers else 0):
        if step == steps // 2 and detector.grow():
            optimizers = detector.optimizers()
        losses = detector.training_step(gratings(32, channels, spatial_dims, 1000 + step), optimizers)
        assert losses and all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    detector.eval()
    detector.fit_statistics([gratings(100, channels, spatial_dims, seed) for seed in (1, 2)])
    return detector


@torch.no_grad()
def auroc(detector, anomaly):
    normal, abnormal = (gratings(100, detector.in_channels, detector.spatial_dims, seed) for seed in (3, 4))
    scores = detector(torch.cat([normal, anomaly(abnormal)])).flatten(1).mean(dim=1)
    return roc_auc_score([0] * 100 + [1] * 100, scores)


def saved_and_loaded(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: "-".join(map(str, [row[0], *row[1].values()])))
def row(request):
    return request.param


@pytest.fixture(scope="module", params=[(2, 1), (2, 3), (3, 1), (3, 3)], ids=lambda p: f"{p[0]}-D, {p[1]} channels")
def setting(request, row):
    spatial_dims, channels = request.param
    return *row, channels, spatial_dims


@pytest.fixture(scope="module")
def trained(setting):
    """A detector after three steps, so that weights, running means and statistics are no longer those of the start."""
    return train(make(*setting), steps=3)


def test_every_detector_is_driven():
    assert {name for name, *_ in ROWS} == {name for name, *_ in LEARNERS} == set(DETECTORS)


def test_only_signs_that_a_detector_tells_apart_can_be_chosen(row):
    detector = make(*row, 1, 2)
    with pytest.raises(ConfigError, match="sign is 'up': use one of both, bright, dark"):
        detector.set_sign("up")
    for sign in ("bright", "dark", "both"):
        if detector.signed or sign == "both":
            detector.set_sign(sign)
            assert detector.sign == sign
        else:
            with pytest.raises(ConfigError, match="does not tell brighter from darker: its sign must be 'both'"):
                detector.set_sign(sign)


@torch.no_grad()
def test_scores_are_finite_numbers_a_patch_or_a_voxel(trained):
    patches = gratings(5, trained.in_channels, trained.spatial_dims, 7)
    scores = trained(patches)
    assert scores.shape in {(5, 1), (5, 1) + (SIZE,) * trained.spatial_dims}
    assert scores.dtype == torch.float32 and torch.isfinite(scores).all()
    assert len(scores.unique()) >= 5  # they tell patches apart


def test_validation_loss_is_a_finite_number_and_changes_nothing(trained):
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    patches = gratings(5, trained.in_channels, trained.spatial_dims, 7)
    loss = trained.validation_loss(patches)
    assert loss.ndim == 0 and torch.isfinite(loss) and loss == trained.validation_loss(patches)
    assert all(torch.equal(before[key], value) for key, value in trained.state_dict().items())


def test_the_same_seed_gives_the_same_detector(setting, trained):
    again, other = train(make(*setting), steps=3), train(make(*setting, seed=1), steps=3)
    patches = gratings(5, trained.in_channels, trained.spatial_dims, 7)
    with torch.no_grad():
        assert torch.equal(again(patches), trained(patches))
        random = bool(other.optimizers())  # a detector that is only fitted draws nothing
        assert torch.allclose(other(patches), trained(patches), rtol=1e-3) != random


@torch.no_grad()
def test_a_score_does_not_depend_on_the_other_patches_of_its_batch(trained):
    patches = gratings(6, trained.in_channels, trained.spatial_dims, 7)
    together = trained(patches)
    alone = torch.cat([trained(patch[None]) for patch in patches])
    beside_others = trained(torch.cat([100 * torch.rand_like(patches), patches]))[6:]
    scale = together.abs().max()
    assert (alone - together).abs().max() < 1e-6 * scale
    assert (beside_others - together).abs().max() < 1e-6 * scale


@torch.no_grad()
def test_saved_weights_give_equal_scores(setting, trained):
    other = make(*setting, seed=1).eval()
    patches = gratings(5, trained.in_channels, trained.spatial_dims, 7)
    if other.optimizers():  # a detector that is only fitted has no scores before
        assert not torch.equal(other(patches), trained(patches))
    other.load_state_dict(saved_and_loaded(trained.state_dict()))
    assert torch.equal(other(patches), trained(patches))


@torch.no_grad()
def test_the_exported_detector_gives_equal_scores(trained):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(trained), buffer)
    buffer.seek(0)
    exported = torch.jit.load(buffer)
    patches = gratings(5, trained.in_channels, trained.spatial_dims, 7)
    assert torch.equal(exported(patches), trained(patches))
    assert exported.in_channels == trained.in_channels  # the inferer asks for it


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda row: "-".join(map(str, [row[0], *row[1].values(), *row[2:]])))
def test_it_learns(learner):
    *setting, steps = learner
    detector = train(make(*setting), steps)
    assert auroc(detector, turned) >= 0.9
    assert auroc(detector, with_square) >= 0.9
    assert auroc(detector, lambda patches: patches) == pytest.approx(
        0.5, abs=0.15
    )  # normal patches against normal ones
