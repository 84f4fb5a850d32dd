"""The one-class SVM against scikit-learn, and as a baseline (Madzia-Madzou & Kuijf, 2.2.1) on Fashion-MNIST."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.svm import OneClassSVM as ScikitOneClassSVM
from torch.nn import functional as F

from medanomaly.detectors import OneClassSVM
from medanomaly.errors import ConfigError, TrainingError

FASHION = Path(__file__).resolve().parents[3] / "shared" / "data" / "fashion_mnist"
BOOT, ANOMALIES = 9, {"dress": 3, "sandal": 5, "sneaker": 7}


def textures(n, channels=1, size=(8, 8), seed=0):
    """Patches with a brightness and a contrast of their own."""
    generator = torch.Generator().manual_seed(seed)
    level, contrast = torch.rand((2, n) + (1,) * (1 + len(size)), generator=generator)
    return level + contrast * torch.randn((n, channels, *size), generator=generator)


def fitted(samples, **settings):
    shape = {"in_channels": samples.shape[1], "patch_size": samples.shape[2], "spatial_dims": samples.ndim - 2}
    detector = OneClassSVM(**shape, **settings).eval()
    detector.fit_statistics(samples.split(64))
    return detector


def close(scores, expected):
    assert scores.shape == (len(expected), 1) and scores.dtype == torch.float32 and not scores.requires_grad
    np.testing.assert_allclose(scores[:, 0].numpy(), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (8, 8)), (2, (4, 4, 4))])
@pytest.mark.parametrize("settings", [{}, {"nu": 0.05}, {"gamma": 0.3}], ids=str)
def test_scores_are_minus_the_decision_values_of_scikit_learn(channels, size, settings):
    normal, other = textures(300, channels, size), 1.5 * textures(200, channels, size, seed=1)
    detector = fitted(normal, **settings)
    oracle = ScikitOneClassSVM(**{"nu": 0.5, "gamma": "scale"} | settings).fit(normal.flatten(1).numpy())
    expected = -oracle.decision_function(other.flatten(1).numpy())
    assert (expected > 0).any() and (expected < 0).any()
    close(detector(other), expected)
    close(detector(other[:1]), expected[:1])  # alone
    with torch.autocast("cpu", torch.bfloat16):
        close(detector(other), expected)
    detector.distances_at_once = 1000  # in many parts
    close(detector(other), expected)


@pytest.mark.parametrize("nu", [0.5, 0.1])
def test_nu_is_the_share_of_training_patches_that_lie_outside(nu):
    normal = textures(1000)
    assert float((fitted(normal, nu=nu)(normal) > 0).float().mean()) == pytest.approx(nu, abs=0.02)


def test_no_more_than_the_first_patches_are_used():
    normal, asked = textures(300), []

    def batches():
        for batch in normal.split(64):
            asked.append(len(batch))
            yield batch

    detector = OneClassSVM(patch_size=8, max_samples=100)
    detector.fit_statistics(batches())
    assert torch.equal(detector(normal), fitted(normal[:100])(normal))
    assert len(asked) == 2


def test_a_model_is_loaded_whatever_the_number_of_its_support_vectors():
    small, large, patches = fitted(textures(50)), fitted(textures(300, seed=1)), textures(20, seed=2)
    expected = large(patches)
    assert not torch.equal(small(patches), expected)
    small.load_state_dict(large.state_dict())
    assert torch.equal(small(patches), expected)
    small.fit_statistics([textures(50)])  # its memory is its own
    assert torch.equal(large(patches), expected)


def test_a_model_of_other_patches_is_refused():
    with pytest.raises(RuntimeError, match="support_vectors"):
        OneClassSVM(patch_size=16).load_state_dict(fitted(textures(50)).state_dict())


def test_without_a_fit_there_are_no_scores():
    with pytest.raises(TrainingError, match="not fitted"):
        OneClassSVM(patch_size=8)(textures(3))
    with pytest.raises(torch.jit.Error, match="not fitted"):
        torch.jit.script(OneClassSVM(patch_size=8))(textures(3))


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([textures(50), torch.full((1, 1, 8, 8), torch.nan)], "not finite"),
        ([torch.full((9, 1, 8, 8), 0.3)], "9 training patches do not differ"),
        ([textures(1).expand(9, 1, 8, 8)], "9 training patches do not differ"),
        ([], "0 training patches do not differ"),
    ],
    ids=["NaN", "constant", "equal", "none"],
)
def test_patches_that_nothing_can_be_learned_from_are_refused(batches, said):
    with pytest.raises(TrainingError, match=said):
        OneClassSVM(patch_size=8).fit_statistics(batches)


@pytest.mark.parametrize("setting", [{"nu": 0}, {"nu": 1.1}, {"gamma": 0}, {"max_samples": 1}], ids=str)
def test_settings_that_cannot_work_are_refused(setting):
    (name,) = setting
    with pytest.raises(ConfigError, match=f"{name} is {setting[name]}"):
        OneClassSVM(**setting)


@pytest.fixture(scope="module")
def fashion():
    """Images of a class in random order: (6000, 1, 32, 32), 0 to 1."""
    if not FASHION.is_dir():
        pytest.skip(f"Fashion-MNIST is not on this machine: {FASHION} is absent")
    pixels, labels = (
        np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8, offset=offset)
        for name, offset in (("train-images-idx3-ubyte.gz", 16), ("train-labels-idx1-ubyte.gz", 8))
    )
    generator = torch.Generator().manual_seed(0)
    images = {}
    for label in (BOOT, *ANOMALIES.values()):
        of_class = torch.as_tensor(pixels.reshape(-1, 1, 28, 28)[labels == label]).float() / 255
        shuffled = of_class[torch.randperm(len(of_class), generator=generator)]
        images[label] = F.interpolate(shuffled, size=(32, 32), mode="bilinear", align_corners=False)
    return images


@pytest.fixture(scope="module")
def of_boots(fashion):
    """Fitted on 4,800 boots: about 6 seconds."""
    return fitted(fashion[BOOT][:4800])


def test_half_of_the_boots_that_it_learned_from_are_flagged(fashion, of_boots):
    assert 0.48 <= float((of_boots(fashion[BOOT][:4800]) > 0).float().mean()) <= 0.52


def test_boots_as_in_the_paper(fashion, of_boots):
    """Dress: F1 0.798 in the paper. The same boots are flagged whatever they are tested beside."""
    boots, truth = fashion[BOOT][4800:], [0] * 1200 + [1] * 1200
    flagged = {name: of_boots(torch.cat([boots, fashion[n][:1200]]))[:, 0] > 0 for name, n in ANOMALIES.items()}
    assert 0.78 <= f1_score(truth, flagged["dress"]) <= 0.82
    specificities = {1 - float(flags[:1200].float().mean()) for flags in flagged.values()}
    assert len(specificities) == 1
    assert specificities.pop() == pytest.approx(0.5, abs=0.05)
