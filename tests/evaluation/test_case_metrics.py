"""Case scores and case metrics against scikit-learn and cases that can be worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from medanomaly.errors import InputError
from medanomaly.evaluation import case_metrics, case_score


@pytest.mark.parametrize(
    ("scores", "top_fraction", "expected"),
    [
        (np.arange(1000), 0.01, 994.5),  # the mean of 990..999
        (np.arange(1000).reshape(10, 10, 10)[::-1], 0.01, 994.5),
        (np.arange(1000, dtype=np.float32), 1.0, 499.5),
        (np.array([3.0, -1.0, 2.0]), 0.01, 3.0),  # at least one voxel
        (np.full(500, 0.25), 0.01, 0.25),
    ],
)
def test_case_score_is_the_mean_of_the_top(scores, top_fraction, expected):
    assert case_score(scores, top_fraction) == pytest.approx(expected)


def test_case_score_rises_with_a_lesion_of_half_a_percent():
    normal = np.random.default_rng(0).random(10_000)
    lesion = normal.copy()
    lesion[:50] += 1
    assert case_score(lesion) > case_score(normal) + 0.2


@pytest.mark.parametrize("threshold", [-9.0, -0.5, 0.0, 0.7, 9.0])
@pytest.mark.parametrize("decimals", [0, 9])
def test_case_metrics_equal_scikit_learn(threshold, decimals):
    rng = np.random.default_rng(5)
    abnormal = rng.random(60) < 0.4
    scores = np.round(rng.normal(size=60) + abnormal, decimals)
    called = scores > threshold
    tn, fp, fn, tp = confusion_matrix(abnormal, called).ravel()
    expected = {
        "auroc": roc_auc_score(abnormal, scores),
        "average_precision": average_precision_score(abnormal, scores),
        "accuracy": accuracy_score(abnormal, called),
        "sensitivity": recall_score(abnormal, called),
        "specificity": recall_score(~abnormal, ~called),
        "precision": precision_score(abnormal, called, zero_division=np.nan),
        "f1": f1_score(abnormal, called),
        "threshold": threshold,
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
    }
    assert case_metrics(scores, abnormal, threshold) == pytest.approx(expected, nan_ok=True)


def test_a_score_at_the_threshold_is_normal():
    metrics = case_metrics(np.array([1.0, 2.0]), np.array([False, True]), 1.0)
    assert (metrics["tp"], metrics["fp"], metrics["tn"], metrics["fn"]) == (1, 0, 1, 0)


@pytest.mark.parametrize(
    ("abnormal", "threshold", "undefined"),
    [
        ([True, True], 0.0, {"auroc", "average_precision", "specificity"}),
        ([False, False], 0.0, {"auroc", "average_precision", "sensitivity"}),
        ([False, False], 9.0, {"auroc", "average_precision", "sensitivity", "precision", "f1"}),
        ([False, True], 9.0, {"precision"}),
    ],
)
def test_undefined_ratios_are_nan(abnormal, threshold, undefined):
    metrics = case_metrics(np.array([1.0, 2.0]), np.array(abnormal), threshold)
    assert {name for name, value in metrics.items() if np.isnan(value)} == undefined


def test_case_metrics_can_be_written_as_json():
    metrics = case_metrics(np.array([1.0, 2.0], dtype=np.float32), np.array([0, 1]), 1.5)
    assert json.loads(json.dumps(metrics)) == metrics


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: case_score(np.array([])), "0 of 0"),
        (lambda: case_score(np.array([1.0, np.nan])), "1 of 2"),
        (lambda: case_score(np.ones(3), top_fraction=0), "top_fraction is 0"),
        (lambda: case_score(np.ones(3), top_fraction=1.5), "top_fraction is 1.5"),
        (lambda: case_metrics(np.ones(3), np.ones(2, bool), 0.5), r"\(3,\).*\(2,\)"),
        (lambda: case_metrics(np.array([np.nan]), np.ones(1, bool), 0.5), "1 of 1"),
        (lambda: case_metrics(np.ones(2), np.ones(2, bool), float("nan")), "threshold of the cases is NaN"),
    ],
)
def test_unusable_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
