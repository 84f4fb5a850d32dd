"""PyOD's detectors as rows of a table: their sign, and what is said where PyOD is not installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medanomaly.errors import ConfigError
from medanomaly.experiments.rivals import RIVALS, Rival, slice_scores
from medanomaly.workflows.scorers import Cohort

needs_pyod = pytest.mark.skipif(find_spec("pyod") is None, reason="needs the extra rivals (pyod)")
FEW = {"pyod-anogan": {"epochs": 3, "epochs_query": 2}, "pyod-alad": {"epochs": 50}}


def images(n, bright=False, seed=0):
    """Images (n, 1, 8, 8) that are dark at the top, or noise all over."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.rand((n, 1, 8, 8), generator=generator)
    if not bright:
        made[:, :, :6] *= 0.1
    return made


@needs_pyod
@pytest.mark.parametrize("name", RIVALS)
def test_what_was_not_learned_scores_higher(name):
    rival = Rival(name, images(600), **FEW.get(name, {}))
    normal, other = images(100, seed=1), images(100, bright=True, seed=2)
    scores = rival(torch.cat([normal, other]))
    assert scores.shape == (200, 1) and scores.dtype == torch.float32
    assert roc_auc_score([0] * 100 + [1] * 100, scores) > 0.9
    assert sum(parameter.numel() for parameter in rival.parameters()) > 1000
    if rival.upside_down:  # if this fails, PyOD has turned its scores round, and we must not
        raw = rival.model.decision_function(torch.cat([normal, other]).flatten(1).double().numpy())
        assert roc_auc_score([0] * 100 + [1] * 100, raw) < 0.1
        np.testing.assert_allclose(scores[:, 0], 1 - raw, atol=1e-6)


@needs_pyod
def test_the_same_seed_gives_the_same_scores_and_scoring_changes_nothing():
    first, again, other = (Rival("pyod-alad", images(100), seed, epochs=20) for seed in (0, 0, 1))
    new = images(10, seed=1)
    assert torch.equal(first(new), again(new)) and torch.equal(first(new), first(new))
    assert not torch.equal(first(new), other(new))


@needs_pyod
def test_it_learns_from_the_training_cases_and_scores_slices(monkeypatch):
    from medanomaly.experiments import rivals

    monkeypatch.setattr(rivals, "ALAD_EPOCHS", 1)
    cases = [{"image": image[..., None]} for image in images(64)]
    scorer = rivals.rival_scorer("pyod-alad", Cohort(cases, [], [], None), seed=0)
    new = images(5, seed=1)
    scores = scorer.score(new.movedim(0, -1)[None], mask=torch.ones(1, 1, 8, 8, 5))
    assert scores.shape == (1, 1, 1, 1, 5)
    assert torch.equal(scores.flatten(), scorer.network(new)[:, 0])
    assert scorer.training_seconds > 0 and scorer.costs()["parameters"] > 1000


def test_slices_keep_their_order():
    volume = torch.rand(1, 1, 4, 4, 3)
    mean = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.AdaptiveAvgPool1d(1))
    torch.testing.assert_close(slice_scores(volume, mean).flatten(), volume.mean(dim=(0, 1, 2, 3)))


def test_without_pyod_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyod", None)
    for name in [key for key in sys.modules if key.startswith("pyod.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        ConfigError, match=r"pyod-alad is a detector of PyOD, but .* pip install 'medanomaly\[rivals\]'"
    ):
        Rival("pyod-alad", images(10))


@needs_pyod
def test_a_rival_is_a_row_of_the_fashion_experiment_where_it_is_named(tmp_path, monkeypatch):
    from medanomaly.experiments import fashion_mnist, rivals
    from medanomaly.workflows.benchmark import run_benchmark

    parts = ("training", "validation", "threshold", "test", *fashion_mnist.ANOMALIES)
    held_out = [f"{name} for threshold" for name in fashion_mnist.ANOMALIES]
    made = {part: images(40, part in fashion_mnist.ANOMALIES or part in held_out) for part in (*parts, *held_out)}
    monkeypatch.setattr(fashion_mnist, "read_fashion_mnist", lambda root: (None, None))
    monkeypatch.setattr(fashion_mnist, "split", lambda *of: made)
    monkeypatch.setattr(fashion_mnist, "SIDE", 8)
    monkeypatch.setattr(rivals, "ALAD_EPOCHS", 20)
    assert not set(RIVALS) & set(fashion_mnist.DETECTORS)
    folder = run_benchmark(fashion_mnist.EXPERIMENT, ["pyod-so-gaal", "pyod-alad"], [0], tmp_path, tmp_path)
    table = (folder / "leaderboard.md").read_text()
    assert "pyod-alad" in table and "pyod-so-gaal" in table and "PyOD's own" in table
