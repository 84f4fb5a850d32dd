"""The voxel metrics against scikit-learn, brute force and cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.metrics import precision_recall_curve as sklearn_precision_recall_curve
from sklearn.metrics import roc_curve as sklearn_roc_curve

from medanomaly.errors import InputError
from medanomaly.evaluation import (
    InRegionVoxelMetric,
    dice_at,
    in_region,
    precision_recall_curve,
    roc_curve,
    voxel_metrics,
)


def made(name):
    rng = np.random.default_rng(7)
    labels = rng.random(3000) < {"few positives": 0.001, "mostly positives": 0.9}.get(name, 0.1)
    labels[:2] = True, False
    scores = rng.normal(size=labels.size) + labels
    if name == "heavy ties":
        scores = np.round(scores)
    elif name == "float32 ties":
        scores = (np.round(scores * 10) / 10).astype(np.float32)
    elif name == "inverted":
        scores = -scores
    elif name == "constant":
        scores = np.full(labels.size, 0.25)
    elif name == "constant float32":
        scores = np.full(labels.size, 0.1, np.float32)
    elif name == "integers":
        scores = np.round(10 * scores).astype(np.int16)
    elif name == "large offset":
        scores = scores + 1e9
    elif name == "two voxels":
        scores, labels = scores[:2], labels[:2]
    elif name == "zero and negative zero":
        scores = np.where(labels, 0.0, -0.0)
    return scores, labels


INPUTS = [
    "distinct",
    "few positives",
    "mostly positives",
    "heavy ties",
    "float32 ties",
    "inverted",
    "constant",
    "constant float32",
    "integers",
    "large offset",
    "two voxels",
    "zero and negative zero",
]


@pytest.mark.parametrize("name", INPUTS)
def test_ranking_equals_scikit_learn(name):
    scores, labels = made(name)
    metrics = voxel_metrics(scores, labels)
    assert metrics["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics["average_precision"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert metrics["prevalence"] == np.mean(labels)
    assert metrics["n_voxels"] == labels.size


def test_a_million_float32_voxels_lose_no_precision():
    rng = np.random.default_rng(3)
    labels = rng.random(1_000_000) < 0.02
    scores = (rng.normal(size=labels.size) + labels).astype(np.float32)
    metrics = voxel_metrics(scores, labels)
    assert metrics["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert metrics["average_precision"] == pytest.approx(average_precision_score(labels, scores), abs=1e-9)


@pytest.mark.parametrize("name", INPUTS)
def test_best_dice_is_the_maximum_over_all_thresholds(name):
    scores, labels = made(name)
    distinct = np.unique(scores)
    if distinct.size > 300:  # the brute force is quadratic
        scores, labels = scores[:300], labels[:300]
        distinct = np.unique(scores)
    brute = max(f1_score(labels, scores >= threshold) for threshold in distinct)
    metrics = voxel_metrics(scores, labels)
    assert metrics["best_dice"] == pytest.approx(brute, abs=1e-12)
    assert dice_at(scores, labels, metrics["best_dice_threshold"]) == metrics["best_dice"]


@pytest.mark.parametrize("name", INPUTS)
def test_roc_curve_is_that_of_scikit_learn(name):
    scores, labels = made(name)
    fpr, tpr = roc_curve(scores, labels, n_points=10_000)
    expected_fpr, expected_tpr, _ = sklearn_roc_curve(labels, scores)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    # both are polylines that rise along fpr + tpr, which therefore says where on the curve a point lies
    at = np.linspace(0, 2, 5001)
    np.testing.assert_allclose(
        np.interp(at, fpr + tpr, fpr), np.interp(at, expected_fpr + expected_tpr, expected_fpr), atol=1e-12
    )


@pytest.mark.parametrize("name", INPUTS)
def test_precision_recall_curve_is_that_of_scikit_learn(name):
    scores, labels = made(name)
    precision, recall = precision_recall_curve(scores, labels, n_points=10_000)
    expected = sklearn_precision_recall_curve(labels, scores)
    all_of_them = set(zip(*(values.round(9).tolist() for values in expected[:2]), strict=True))
    assert set(zip(precision.round(9).tolist(), recall.round(9).tolist(), strict=True)) <= all_of_them
    # the thresholds that are left out find no further lesion voxel
    assert set(recall.round(9)) == set(expected[1].round(9)) - {0}
    assert (np.diff(recall) > 0).all() and recall[-1] == 1


def test_thinned_precision_recall_curve_is_fine_where_lesions_are_rare():
    rng = np.random.default_rng(3)
    labels = np.arange(200_000) < 400
    scores = rng.normal(size=labels.size) + 3 * labels
    precision, recall = precision_recall_curve(scores, labels, n_points=50)
    whole = dict(zip(*reversed(precision_recall_curve(scores, labels, n_points=10**6)), strict=True))
    assert 40 < len(recall) <= 50 and np.diff(recall).max() < 0.03
    assert all(whole[at] == value for at, value in zip(recall, precision, strict=True))


def test_thinned_roc_curve_stays_on_the_curve():
    scores, labels = made("distinct")
    fpr, tpr = roc_curve(scores, labels, n_points=50)
    whole_fpr, whole_tpr = roc_curve(scores, labels, n_points=100_000)
    assert len(fpr) == len(tpr) == 50 < len(whole_fpr)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()
    np.testing.assert_allclose(np.interp(fpr + tpr, whole_fpr + whole_tpr, whole_fpr), fpr, atol=1e-12)
    assert np.diff(fpr + tpr).max() == pytest.approx(2 / 49)  # the steep start is sampled as well as the flat end
    area = np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)
    assert area == pytest.approx(voxel_metrics(scores, labels)["auroc"], abs=2e-3)


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], {"auroc": 1, "average_precision": 1, "best_dice": 1, "best_dice_threshold": 2}),
        ([1, 2, 3, 4], [1, 1, 0, 0], {"auroc": 0, "best_dice": 2 / 3}),
        ([5, 5, 5, 5], [0, 1, 0, 0], {"auroc": 0.5, "average_precision": 0.25, "best_dice": 0.4}),
        ([1, 2, 2, 3], [0, 0, 1, 1], {"auroc": 3.5 / 4, "average_precision": 0.5 + 0.5 * 2 / 3}),
        ([3, 2, 1], [1, 1, 1], {"auroc": np.nan, "average_precision": 1, "best_dice": 1, "prevalence": 1}),
        (
            [3, 2, 1],
            [0, 0, 0],
            {"auroc": np.nan, "average_precision": np.nan, "best_dice": np.nan, "best_dice_threshold": np.nan},
        ),
    ],
)
def test_cases_worked_out_by_hand(scores, labels, expected):
    metrics = voxel_metrics(np.array(scores, dtype=np.float32), np.array(labels))
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, nan_ok=True)


def test_dice_at_calls_what_is_greater_than_the_threshold():
    scores, labels = np.array([1.0, 2.0, 3.0]), np.array([False, True, True])
    assert dice_at(scores, labels, 1.0) == 1
    assert dice_at(scores, labels, 2.0) == pytest.approx(2 / 3)
    assert dice_at(scores, labels, 3.0) == 0
    assert np.isnan(dice_at(scores, np.zeros(3, bool), 2.0))


def test_input_is_left_as_it_was():
    scores, labels = np.array([2.0, 3.0, 1.0]), np.array([False, True, False])
    voxel_metrics(scores, labels)
    assert scores.tolist() == [2, 3, 1] and labels.tolist() == [False, True, False]


def test_in_brain_keeps_finite_voxels_in_order():
    heatmap = np.array([[np.nan, 0.5], [0.25, np.nan]], dtype=np.float32)
    scores, labels = in_region(heatmap, np.array([[1, 2], [0, 1]]))
    assert scores.tolist() == [0.5, 0.25] and scores.dtype == np.float32
    assert labels.tolist() == [True, False] and labels.dtype == bool


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: in_region(np.zeros((2, 3)), np.zeros((3, 2))), r"\(2, 3\).*\(3, 2\)"),
        (lambda: in_region(np.full(4, np.nan), np.zeros(4)), "None of the 4 voxels"),
        (lambda: voxel_metrics(np.array([1.0, np.nan]), np.array([0, 1])), "1 of 2 scores"),
        (lambda: voxel_metrics(np.array([np.inf, 1.0]), np.array([0, 1])), "1 of 2 scores"),
        (lambda: voxel_metrics(np.zeros(3), np.zeros(2)), r"\(3,\).*\(2,\)"),
        (lambda: voxel_metrics(np.zeros(0), np.zeros(0)), r"\(0,\)"),
        (lambda: dice_at(np.array([np.nan]), np.array([1]), 0.0), "1 of 1 scores"),
        (lambda: roc_curve(np.zeros(3), np.ones(3)), "3 lesion and 0 other"),
        (lambda: precision_recall_curve(np.zeros(3), np.zeros(3)), "0 lesion voxels"),
        (lambda: roc_curve(np.arange(3), np.array([0, 1, 1]), n_points=1), "1 points"),
        (lambda: InRegionVoxelMetric("iou"), "'iou'.*auroc"),
        (lambda: InRegionVoxelMetric().aggregate(), "No batch"),
        (lambda: InRegionVoxelMetric()(torch.zeros(1, 1, 2, 2, 2)), "without labels"),
    ],
)
def test_unusable_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def batch(seed, shape):
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.rand(shape, generator=generator)
    label = (torch.rand(shape, generator=generator) < 0.2).float()
    heatmap[torch.rand(shape, generator=generator) < 0.3] = torch.nan
    return heatmap + 0.3 * label, label


@pytest.mark.parametrize("metric", ["auroc", "average_precision", "best_dice"])
def test_monai_metric_pools_batches_of_any_shape(metric):
    batches = [batch(1, (2, 1, 6, 5, 4)), batch(2, (1, 1, 3, 7, 5))]
    pooled = [in_region(heatmap.numpy(), label.numpy()) for heatmap, label in batches]
    expected = voxel_metrics(*(np.concatenate(part) for part in zip(*pooled, strict=True)))[metric]

    in_batches = InRegionVoxelMetric(metric)
    for heatmap, label in batches:
        in_batches(y_pred=MetaTensor(heatmap), y=MetaTensor(label))
    assert in_batches.aggregate() == expected

    in_lists = InRegionVoxelMetric(metric)
    in_lists([h for heatmap, _ in batches for h in heatmap], [y for _, label in batches for y in label])
    assert in_lists.aggregate() == expected

    in_batches.reset()
    in_batches(*batches[1])
    assert in_batches.aggregate() == voxel_metrics(*pooled[1])[metric]


def test_monai_metric_takes_bfloat16():
    heatmap, label = batch(4, (1, 1, 4, 4, 4))
    metric = InRegionVoxelMetric()
    metric(heatmap.bfloat16(), label)
    rounded = heatmap.bfloat16().float().numpy()
    assert metric.aggregate() == voxel_metrics(*in_region(rounded, label.numpy()))["auroc"]


def test_monai_metric_works_in_the_ignite_handler():
    batches = [batch(1, (2, 1, 4, 4, 4)), batch(2, (1, 1, 5, 4, 4))]
    engine = Engine(lambda _, data: data)
    IgniteMetricHandler(InRegionVoxelMetric(), save_details=False).attach(engine, "in_brain_auroc")
    for _ in range(2):  # the second run must not pool with the first
        engine.run(batches)
    pooled = [in_region(heatmap.numpy(), label.numpy()) for heatmap, label in batches]
    expected = voxel_metrics(*(np.concatenate(part) for part in zip(*pooled, strict=True)))["auroc"]
    assert engine.state.metrics["in_brain_auroc"] == expected
