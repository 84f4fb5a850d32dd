"""Boots among clothes: Fashion-MNIST (Madzia-Madzou & Kuijf, SPIE 2022, sections 3.1 and 4.1).

A detector learns ankle boots, and must tell boots that it has not seen from dresses, from sandals and from sneakers.
As in the paper, the images are those of the data set's training part alone, 28 x 28 pixels made 32 x 32. Mean
brightness and PCA head the table: what they can do, no network is needed for.

Every split is drawn by the seed of the run. The threshold of the table's "95 %" columns is label-free: 95 % of 300 held
out boots lie below it. "As in the paper": for an SVM, its own boundary; for the others, the threshold with the best F1
on those 300 boots and 300 anomalies of the class in question, which methods.md (22.1) finds in the paper's figures. No
test image is used for training, for early stopping or for a threshold. The SVM trains, as in the paper, on the
threshold's boots, too, so that its 95 % threshold is a little low.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from medanomaly.data.fashion_mnist import read_fashion_mnist
from medanomaly.errors import InputError
from medanomaly.evaluation import roc_curve
from medanomaly.experiments.benchmark import DETECTOR_SETTINGS, Run, grouped, make_detector, train_detector
from medanomaly.patches.layout import channels_last
from medanomaly.report import roc_panels

BASELINES = ("brightness", "pca")
DETECTORS = (
    *BASELINES,
    "one-class-svm",
    "one-class-svm-nu0.1",
    "one-class-svm-nu0.05",
    "one-class-svm-nu0.01",
    "ganomaly-a",
    "ganomaly-k",
    "progressive-ganomaly",
)
ANOMALIES = {"dress": 3, "sandal": 5, "sneaker": 7}
BOOT, SIDE = 9, 32  # label; pixels
BOOTS = {"training": 4200, "validation": 300, "threshold": 300, "test": 1200}  # 70, 5, 5 and 20 %
ANOMALIES_FOR_THRESHOLD, TEST_ANOMALIES = 300, 1200  # of each class
SETTING = "boots"

_SVM: dict[str, Any] = {
    "max_epochs": 1,
    "patience": 1,
    "batch_size": 600,
    "decay": True,
    "amp": False,
    "arguments": {"patch_size": SIDE},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "brightness": {},
    "pca": {"components": 50},
    **{name: _SVM for name, (kind, _) in DETECTOR_SETTINGS.items() if kind == "one_class_svm"},
    # Chosen on a split of its own; see docs/reproduction.md. Codes have unit size: boots differ in how much leather
    # there is, and that is no sign.
    "ganomaly-a": {
        "max_epochs": 20,
        "patience": 20,
        "decay": True,
        "batch_size": 64,
        "amp": True,
        "arguments": {"patch_size": SIDE},
    },
    "ganomaly-k": {
        "max_epochs": 14,
        "patience": 14,
        "decay": True,
        "batch_size": 128,
        "amp": True,
        "arguments": {"patch_size": SIDE, "unit_code": True},
    },
    # Epochs count at each size; the paper's 750,000 images of fading in are 179 epochs for each size that is grown.
    # Thin layers, pixel norm and few epochs reconstruct less well than the detector's defaults, and tell more.
    "progressive-ganomaly": {
        "max_epochs": 4,
        "patience": 4,
        "decay": True,
        "batch_size": 128,
        "amp": True,
        "arguments": {
            "patch_size": SIDE,
            "fade_images": 2 * BOOTS["training"],
            "features": [32, 32, 32, 32],
            "pixel_norm": True,
            "score": "modified",
        },
    },
}
REDUCED_EPOCHS = 2

Scores = NDArray[np.float64]


def runs(detectors: Sequence[str], seeds: Sequence[int], reduced: bool) -> list[Run]:
    """Every detector with every seed: the split is drawn by it, so that baselines, too, have a spread."""
    planned = []
    for detector in detectors:
        settings = SETTINGS[detector]
        if reduced and "max_epochs" in settings:
            settings = {**settings, "max_epochs": min(settings["max_epochs"], REDUCED_EPOCHS)}
            if "fade_images" in settings["arguments"]:
                settings["arguments"] = {**settings["arguments"], "fade_images": BOOTS["training"]}
        planned += [Run(detector, SETTING, seed, settings) for seed in seeds]
    return planned


def perform(run: Run, data_root: Path | None, folder: Path) -> dict[str, Any]:
    """Train on boots, score the rest, and measure.

    Args:
        run: one of :func:`runs`.
        data_root: folder of ``train-images-idx3-ubyte.gz`` and ``train-labels-idx1-ubyte.gz``.
        folder: gets the training.

    Returns:
        For each class of anomalies, what :func:`measure` returns.

    Raises:
        InputError: if a file is missing, is none of IDX, or holds too few images.
    """
    parts = split(*read_fashion_mnist(data_root), run.seed)
    score = _fitted(run, parts, folder)
    scores = {name: score(images) for name, images in parts.items() if name not in ("training", "validation")}
    return {
        anomaly: measure(
            scores["threshold"],
            scores[f"{anomaly} for threshold"],
            scores["test"],
            scores[anomaly],
            has_boundary=_is_svm(run.detector),
        )
        for anomaly in ANOMALIES
    }


def origin(run: Run) -> dict[str, str]:
    """What a run's detector was trained on and how its settings were chosen."""
    if run.detector == "brightness":
        return {"trained_on": "nothing", "settings_chosen": "none to choose"}
    return {
        "trained_on": "the boots of the run's split that are for training",
        "settings_chosen": "on a split of its own; about a fifth of its images are test images with each seed"
        if run.detector in ("ganomaly-a", "ganomaly-k", "progressive-ganomaly")
        else "given beforehand",
    }


def split(images: NDArray[np.uint8], labels: NDArray[np.uint8], seed: int) -> dict[str, Tensor]:
    """Images (n, 1, 32, 32) in [0, 1], by their purpose, which no two share: boots under the names in ``BOOTS``, and of
    each class in ``ANOMALIES`` the test images under its name, the others under "<class> for threshold".

    Raises:
        InputError: if there are too few images of a class.
    """
    random = np.random.default_rng(seed)
    parts = {}
    for label, sizes in (
        (BOOT, BOOTS),
        *(
            (label, {f"{name} for threshold": ANOMALIES_FOR_THRESHOLD, name: TEST_ANOMALIES})
            for name, label in ANOMALIES.items()
        ),
    ):
        order = random.permutation(np.flatnonzero(labels == label))
        if len(order) < sum(sizes.values()):
            raise InputError(f"there are {len(order)} images with label {label}; {sum(sizes.values())} are needed.")
        for name, numbers in zip(sizes, np.split(order, np.cumsum(list(sizes.values()))), strict=False):
            pixels = torch.from_numpy(images[numbers]).float()[:, None] / 255
            parts[name] = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear")
    return parts


def _fitted(run: Run, parts: dict[str, Tensor], folder: Path) -> Callable[[Tensor], Scores]:
    """Scores (n,) of images (n, 1, 32, 32), by what the run trains."""
    if run.detector == "brightness":
        return lambda images: images.mean(dim=(1, 2, 3)).double().numpy()
    if run.detector == "pca":
        pca = PCA(run.settings["components"], random_state=run.seed).fit(parts["training"].flatten(1).double().numpy())

        def error(images: Tensor) -> Scores:
            pixels = images.flatten(1).double().numpy()
            return np.asarray(np.square(pixels - pca.inverse_transform(pca.transform(pixels))).mean(axis=1))

        return error
    s = run.settings
    names = ("training", "validation", "threshold") if _is_svm(run.detector) else ("training",)
    detector = train_detector(
        make_detector(run.detector, run.seed, **s["arguments"]),
        ImageBatches(torch.cat([parts[name] for name in names]), s["batch_size"], run.seed),
        ImageBatches(parts["validation"], s["batch_size"], run.seed),
        folder,
        seed=run.seed,
        max_epochs=s["max_epochs"],
        patience=s["patience"],
        decay=s["decay"],
        amp=s["amp"],
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detector.to(device)

    @torch.no_grad()
    def score(images: Tensor) -> Scores:
        batches = (channels_last(batch).to(device) for batch in images.split(s["batch_size"]))
        return np.asarray(torch.cat([detector(batch).flatten(1).mean(dim=1).cpu() for batch in batches]).double())

    return score


def _is_svm(detector: str) -> bool:
    return detector in DETECTOR_SETTINGS and DETECTOR_SETTINGS[detector][0] == "one_class_svm"


class ImageBatches:
    """Batches (B, 1, 32, 32) of images that lie in memory; an epoch shows each once, in an order of its own.

    Args:
        images: (N, 1, 32, 32).
        batch_size: the last batch may be smaller.
        seed: of the order, which depends on it and the epoch alone.
    """

    def __init__(self, images: Tensor, batch_size: int, seed: int) -> None:
        self.images, self.batch_size, self.seed, self.epoch = images, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next pass has."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.images), generator=generator)
        return (channels_last(self.images[numbers]) for numbers in order.split(self.batch_size))


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
    fpr, tpr = roc_curve(scores, labels, n_points=200)
    tuned = best_f1_threshold(boots, anomalies)
    return {
        "auroc": float(roc_auc_score(labels, scores)),
        "boots_95": figures_at(float(np.percentile(boots, 95)), test_boots, test_anomalies),
        "held_out_anomalies": figures_at(tuned, test_boots, test_anomalies),
        "as_in_paper": figures_at(0.0 if has_boundary else tuned, test_boots, test_anomalies),
        "roc": {"fpr": fpr.round(5).tolist(), "tpr": tpr.round(5).tolist()},
    }


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


def leaderboard(results: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row a detector: means over seeds and their standard deviation. One threshold from boots has one specificity."""
    rows = []
    for detector, metrics in _by_detector(results).items():
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
        rows.append(row)
    return pd.DataFrame(rows)


_COLUMNS = {
    "AUROC": ("auroc",),
    "F1 (paper)": ("as_in_paper", "f1"),
    "spec. (paper)": ("as_in_paper", "specificity"),
    "F1 (95 %)": ("boots_95", "f1"),
}


def _pick(metrics: Any, path: Sequence[str]) -> float:
    for key in path:
        metrics = metrics[key]
    return float(metrics)


def _by_detector(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The metrics of each detector's seeds, in the order of the results."""
    return {detector: [result["metrics"] for result in group] for (detector, _), group in grouped(results).items()}


def pictures(results: Sequence[dict[str, Any]], output: Path) -> None:
    """``roc.png``: a panel for each class of anomalies, as figure 6 of the paper, a curve for each seed."""
    panels = {
        f"boots and {anomaly}{'es' if anomaly.endswith('s') else 's'}": {
            f"{detector}: {np.mean([m[anomaly]['auroc'] for m in metrics]):.3f}": [m[anomaly]["roc"] for m in metrics]
            for detector, metrics in _by_detector(results).items()
        }
        for anomaly in ANOMALIES
    }
    roc_panels(panels, output / "roc.png", "images")
