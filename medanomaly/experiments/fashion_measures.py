"""What the Fashion-MNIST experiment measures, and its table: boots told from dresses, sandals and sneakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from medanomaly.evaluation import Calibration, roc_curve
from medanomaly.experiments.fashion_split import ANOMALIES, ANOMALIES_FOR_THRESHOLD, BOOTS, TEST_ANOMALIES
from medanomaly.report import reconstructions_figure, roc_panels
from medanomaly.workflows.benchmark import Result, grouped
from medanomaly.workflows.costs import mean_costs

ROC_POINTS = 50  # of each class in a result file
SHOWN = 3  # images of a class in the picture of a run
MOST_CURVES = 10  # detectors in a panel of ROC curves; of more, first those of the page on the paper
OF_THE_PAPER = (
    "intensity",
    "pca",
    "one-class-svm",
    "one-class-svm-nu0.1",
    "ganomaly-a",
    "ganomaly-k",
    "progressive-ganomaly",
)

Scores = NDArray[np.float64]


def measure(
    boots: Scores, anomalies: Scores, test_boots: Scores, test_anomalies: Scores, has_boundary: bool
) -> dict[str, Any]:
    """How well the test images are told apart: AUROC, ROC curve, and figures at the thresholds of the module's text.

    Args:
        boots, anomalies: scores of the images that thresholds come from.
        test_boots, test_anomalies: of the test images.
        has_boundary: whether 0 is a threshold of the detector's own, as for an SVM.
    """
    scores = np.concatenate([test_boots, test_anomalies])
    labels = np.repeat([False, True], [len(test_boots), len(test_anomalies)])
    fpr, tpr = roc_curve(scores, labels, ROC_POINTS)
    tuned = best_f1_threshold(boots, anomalies)
    return {
        "auroc": float(roc_auc_score(labels, scores)),
        "average_precision": float(average_precision_score(labels, scores)),
        "boots_95": figures_at(_threshold_of(boots), test_boots, test_anomalies),
        "held_out_anomalies": figures_at(tuned, test_boots, test_anomalies),
        "as_in_paper": figures_at(0.0 if has_boundary else tuned, test_boots, test_anomalies),
        "roc": {"fpr": fpr.round(5).tolist(), "tpr": tpr.round(5).tolist()},
    }


def _threshold_of(boots: Scores) -> float:
    """The score that at most 5 % of new boots exceed: the rule of every threshold for cases."""
    return Calibration.fit([np.array([score]) for score in boots], "held-out boots").case_threshold(0.05)


def best_f1_threshold(boots: Scores, anomalies: Scores) -> float:
    """The threshold with the best F1, in the middle between two scores; of equally good ones, the middle one."""
    scores = np.unique(np.concatenate([boots, anomalies]))
    thresholds = np.concatenate([scores[:1] - 1, (scores[:-1] + scores[1:]) / 2])
    tp, fp = (len(part) - np.searchsorted(np.sort(part), thresholds, side="right") for part in (anomalies, boots))
    f1 = 2 * tp / (tp + fp + len(anomalies))
    best = np.flatnonzero(f1 == f1.max())
    return float(thresholds[best[(len(best) - 1) // 2]])


def figures_at(threshold: float, boots: Scores, anomalies: Scores) -> dict[str, float]:
    """Accuracy, sensitivity, precision, F1 and specificity if what scores above ``threshold`` is called abnormal."""
    tp, fp = int((anomalies > threshold).sum()), int((boots > threshold).sum())
    return {
        "threshold": threshold,
        "accuracy": (tp + len(boots) - fp) / (len(boots) + len(anomalies)),
        "sensitivity": tp / len(anomalies),
        "precision": tp / max(tp + fp, 1),
        "f1": 2 * tp / (tp + fp + len(anomalies)),
        "specificity": 1 - fp / len(boots),
    }


def leaderboard(results: Sequence[Result]) -> pd.DataFrame:
    """A row a detector: means over seeds and their standard deviation. One threshold from boots has one specificity."""
    rows = []
    for (detector, _), group in grouped(results).items():
        metrics = [result["metrics"] for result in group]
        row: dict[str, Any] = {"detector": detector, "seeds": len(metrics)}
        figures = {
            f"{anomaly} {column}": [_pick(m[anomaly], path) for m in metrics]
            for anomaly in ANOMALIES
            for column, path in _COLUMNS.items()
        }
        figures["spec. (95 %)"] = [m[next(iter(ANOMALIES))]["boots_95"]["specificity"] for m in metrics]
        for column, values in figures.items():
            row[column] = float(np.mean(values))
            row[f"{column} sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
        rows.append(row | mean_costs(group, IMAGES))
    return pd.DataFrame(rows)


_COLUMNS = {
    "AUROC": ("auroc",),
    "AP": ("average_precision",),
    "F1 (paper)": ("as_in_paper", "f1"),
    "spec. (paper)": ("as_in_paper", "specificity"),
    "F1 (95 %)": ("boots_95", "f1"),
    "accuracy (95 %)": ("boots_95", "accuracy"),
    "sens. (95 %)": ("boots_95", "sensitivity"),
    "precision (95 %)": ("boots_95", "precision"),
}
# that a run scores: for thresholds and for the test
IMAGES = BOOTS["threshold"] + BOOTS["test"] + len(ANOMALIES) * (ANOMALIES_FOR_THRESHOLD + TEST_ANOMALIES)


def _pick(metrics: Any, path: Sequence[str]) -> float:
    for key in path:
        metrics = metrics.get(key, np.nan)  # results of before 2026-12 have no average precision
    return float(metrics)


def _by_detector(results: Sequence[Result]) -> dict[str, list[dict[str, Any]]]:
    """The metrics of each detector's seeds, in the order of the results."""
    return {detector: [result["metrics"] for result in group] for (detector, _), group in grouped(results).items()}


def pictures(results: Sequence[Result], output: Path) -> None:
    """``roc.png``: a panel for each class of anomalies, as figure 6 of the paper, a curve for each seed."""
    shown = _by_detector(results)
    if len(shown) > MOST_CURVES:
        first = sorted(shown, key=lambda detector: detector not in OF_THE_PAPER)[:MOST_CURVES]
        shown = {detector: metrics for detector, metrics in shown.items() if detector in first}
    panels = {
        f"boots and {anomaly}{'es' if anomaly.endswith('s') else 's'}": {
            f"{detector}: {np.mean([m[anomaly]['auroc'] for m in metrics]):.3f}": [m[anomaly]["roc"] for m in metrics]
            for detector, metrics in shown.items()
        }
        for anomaly in ANOMALIES
    }
    roc_panels(panels, output / "roc.png", "images")


def draw(network: Any, images: Mapping[str, list[Tensor]], folder: Path) -> None:
    """``reconstructions.png``: some images, and what the detector makes of them, if it makes images or maps of any.

    Args:
        network: the detector; it may have ``reconstruct``.
        images: class -> images (1, 32, 32, 1), of which the first are shown.
        folder: of the run.
    """
    patches = {part: torch.stack([image[..., 0] for image in stack[:SHOWN]]) for part, stack in images.items()}
    device = next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))
    rows: dict[str, dict[str, Any]] = {}
    for part, batch in patches.items():
        batch = batch.to(device)
        with torch.no_grad():
            if hasattr(network, "reconstruct"):
                made = network.reconstruct(batch).detach()
                rows.setdefault("reconstruction", {})[part] = made[:, 0].cpu().numpy()
                rows.setdefault("map: difference", {})[part] = (batch - made).abs().mean(dim=1).cpu().numpy()
            scores = network(batch)
            if scores.ndim == batch.ndim:
                rows.setdefault("map: score", {})[part] = scores[:, 0].cpu().numpy()
    if rows:
        shown = {part: batch[:, 0].numpy() for part, batch in patches.items()}
        reconstructions_figure(shown, rows, folder / "reconstructions.png")
