"""The binned bootstrap against a slow one that uses the exact metrics on the same draws."""

from __future__ import annotations

import numpy as np
import pytest

from medanomaly.errors import InputError
from medanomaly.evaluation import bootstrap_over_cases, voxel_metrics
from medanomaly.evaluation.bootstrap import _binned_metrics, _histograms, draw_cases

METRICS = ("auroc", "average_precision", "best_dice")


def made_cases(n_cases=8, n_voxels=2000, prevalence=0.05, decimals=9, seed=1):
    rng = np.random.default_rng(seed)
    scores, labels = [], []
    for number in range(n_cases):
        label = rng.random(n_voxels + 100 * number) < prevalence * (1 + number) / n_cases
        scores.append(np.round(rng.normal(size=label.size) + 1.5 * rng.random() * label, decimals).astype(np.float32))
        labels.append(label)
    return scores, labels


def slow_intervals(scores, labels, n_replicates, seed, confidence):
    replicates = []
    for draw in draw_cases(len(scores), n_replicates, seed):
        metrics = voxel_metrics(np.concatenate([scores[i] for i in draw]), np.concatenate([labels[i] for i in draw]))
        replicates.append([metrics[name] for name in METRICS])
    tail = (1 - confidence) / 2
    bounds = np.nanquantile(np.array(replicates), [tail, 1 - tail], axis=0)
    return {name: tuple(bounds[:, column]) for column, name in enumerate(METRICS)}


@pytest.mark.parametrize(
    ("made", "confidence"),
    [({}, 0.95), ({"decimals": 0}, 0.95), ({"prevalence": 0.001, "n_voxels": 5000}, 0.8), ({"n_cases": 2}, 0.9)],
    ids=["continuous", "heavy ties", "few positives", "two cases"],
)
def test_equals_a_slow_bootstrap_with_exact_metrics(made, confidence):
    scores, labels = made_cases(**made)
    fast = bootstrap_over_cases(scores, labels, n_replicates=120, seed=4, confidence=confidence)
    slow = slow_intervals(scores, labels, 120, 4, confidence)
    assert set(fast) == set(METRICS)
    for name in METRICS:
        assert fast[name] == pytest.approx(slow[name], abs=2e-4), name
        assert fast[name][0] < fast[name][1]


@pytest.mark.parametrize("n_bins", [100, 1000])
def test_binning_error_is_about_two_over_the_number_of_bins(n_bins):
    """20 000 lesion voxels, many more than bins, so that nothing is exact any more."""
    scores, labels = made_cases(n_cases=4, n_voxels=100_000, prevalence=0.1)
    positives, negatives = _histograms(list(zip(scores, labels, strict=True)), n_bins)
    assert positives.shape == negatives.shape and positives.shape[1] <= n_bins
    assert positives.sum(axis=1).tolist() == [np.sum(label) for label in labels]
    assert negatives.sum(axis=1).tolist() == [np.sum(~label) for label in labels]
    binned = _binned_metrics(positives.sum(0, keepdims=True), negatives.sum(0, keepdims=True))
    exact = voxel_metrics(np.concatenate(scores), np.concatenate(labels))
    for name in METRICS:
        assert 0 < abs(binned[name][0] - exact[name]) < 2 / n_bins, name


def test_precision_and_dice_are_exact_for_few_lesion_voxels():
    scores, labels = made_cases(prevalence=0.01)
    binned = _binned_metrics(
        *(h.sum(0, keepdims=True) for h in _histograms(list(zip(scores, labels, strict=True)), 1000))
    )
    exact = voxel_metrics(np.concatenate(scores), np.concatenate(labels))
    assert np.sum(np.concatenate(labels)) < 500
    assert binned["average_precision"][0] == pytest.approx(exact["average_precision"], abs=1e-12)
    assert binned["best_dice"][0] == pytest.approx(exact["best_dice"], abs=1e-12)


def test_interval_holds_the_point_value_and_follows_the_seed():
    scores, labels = made_cases()
    point = voxel_metrics(np.concatenate(scores), np.concatenate(labels))
    intervals = bootstrap_over_cases(scores, labels)
    assert all(intervals[name][0] < point[name] < intervals[name][1] for name in METRICS)
    assert bootstrap_over_cases(scores, labels) == intervals
    assert bootstrap_over_cases(scores, labels, seed=1) != intervals
    narrow = bootstrap_over_cases(scores, labels, confidence=0.5)
    assert all(intervals[name][0] < narrow[name][0] < narrow[name][1] < intervals[name][1] for name in METRICS)


def test_identical_cases_leave_no_spread():
    scores, labels = made_cases(n_cases=1)
    point = voxel_metrics(scores[0], labels[0])
    for name, interval in bootstrap_over_cases(scores * 5, labels * 5, n_replicates=20).items():
        assert interval == pytest.approx((point[name], point[name]), abs=2e-4)
        assert interval[1] - interval[0] < 1e-12


def test_no_interval_without_two_cases():
    scores, labels = made_cases(n_cases=1)
    assert bootstrap_over_cases(scores, labels) == dict.fromkeys(METRICS)
    assert bootstrap_over_cases([], []) == dict.fromkeys(METRICS)


def test_draws_without_a_lesion_are_left_out():
    scores, labels = made_cases(n_cases=2)
    labels[0][:] = False  # a quarter of the draws take only this case
    intervals = bootstrap_over_cases(scores, labels, n_replicates=100)
    slow = slow_intervals(scores, labels, 100, 0, 0.95)
    for name in METRICS:
        assert intervals[name] == pytest.approx(slow[name], abs=2e-4)
    labels[1][:] = False
    assert np.isnan(list(bootstrap_over_cases(scores, labels).values())).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n_replicates": 0}, "n_replicates=0"), ({"confidence": 1.0}, "confidence=1.0"), ({"n_bins": 3}, "n_bins=3")],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        bootstrap_over_cases(*made_cases(n_cases=2), **settings)


def test_unusable_cases_are_named():
    scores, labels = made_cases(n_cases=2)
    with pytest.raises(InputError, match="2 cases have scores and 1 labels"):
        bootstrap_over_cases(scores, labels[:1])
    scores[1][3] = np.nan
    with pytest.raises(InputError, match="1 of 2100 scores"):
        bootstrap_over_cases(scores, labels)
