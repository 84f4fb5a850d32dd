"""Boots among clothes: Fashion-MNIST (Madzia-Madzou & Kuijf, SPIE 2022, sections 3.1 and 4.1).

A detector learns ankle boots, and must tell boots that it has not seen from dresses, from sandals and from sneakers.
As in the paper, the images are those of the data set's training part alone, 28 x 28 pixels made 32 x 32. Mean
brightness, darkness and PCA head the table: what they can do, no network is needed for.

Every split is drawn by the seed of the run. The threshold of the table's "95 %" columns is label-free: 95 % of 300 held
out boots lie below it. "As in the paper": for an SVM, its own boundary; for the others, the threshold with the best F1
on those 300 boots and 300 anomalies of the class in question, which the paper's figures suggest. No test image is used
for training, for early stopping or for a threshold. The SVM trains, as in the paper, on the threshold's boots, too, so
that its 95 % threshold is a little low.

PyOD's detectors (``pyod-so-gaal``, ...) are rows where they are named: see :mod:`medanomaly.experiments.rivals`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medanomaly.data.fashion_mnist import read_fashion_mnist
from medanomaly.experiments.fashion_detectors import COMMON, TRAINED
from medanomaly.experiments.fashion_measures import Scores, draw, leaderboard, measure, pictures
from medanomaly.experiments.fashion_split import ANOMALIES, BOOTS, SIDE, split
from medanomaly.experiments.rivals import RIVALS, rival_scorer
from medanomaly.workflows.benchmark import Experiment, Run
from medanomaly.workflows.scorers import Cohort, Scorer

SETTING = "boots"

DETECTORS = ("intensity", "intensity-inverted", *TRAINED)  # mean brightness of an image, and how dark it is
REDUCED_EPOCHS = {"max_epochs": 2, "stop_epochs": 1}


def runs(detectors: Sequence[str], seeds: Sequence[int], reduced: bool) -> list[Run]:
    """Every detector with every seed: the split is drawn by it, so that baselines, too, have a spread."""
    planned = []
    for detector in detectors:
        bundle, own = TRAINED.get(detector, (None, {}))
        settings = {**COMMON, **own} if bundle else {}
        if bundle == "one_class_svm":
            del settings["patches_per_epoch"]  # its own: as many as it fits on
        if reduced:
            settings |= {key: n for key, n in REDUCED_EPOCHS.items() if key in settings}
            settings |= {"fade_images": BOOTS["training"]} if "fade_images" in settings else {}
        planned += [Run(detector, SETTING, seed, bundle, settings) for seed in seeds]
    return planned


def cohort(run: Run, data_root: Path | None, folder: Path) -> Cohort:
    """The images of the run's split; ``part`` says of each one what it is for. ``folder`` is not used.

    Raises:
        InputError: if a file of the data is missing, is not an IDX file, or holds too few images.
    """
    parts = split(*read_fashion_mnist(data_root), run.seed)
    is_svm = run.bundle == "one_class_svm"
    training = ("training", "validation", "threshold") if is_svm else ("training",)
    return Cohort(
        training=[case for part in training for case in _cases(part, parts[part])],
        validation=[] if is_svm else _cases("validation", parts["validation"]),
        test=[case for part in ("test", *ANOMALIES) for case in _cases(part, parts[part])],
        chain=None,
        tuning=[case for part in parts if "threshold" in part for case in _cases(part, parts[part])],
    )


def _cases(part: str, images: Tensor) -> list[dict[str, Any]]:
    """Images (n, 1, 32, 32) as prepared cases: volumes of one slice, of which everything counts."""
    everything = torch.ones(1, SIDE, SIDE, 1)
    return [
        {"case": f"{part} {n}", "image": image[..., None], "region": everything, "part": part}
        for n, image in enumerate(images)
    ]


def measure_run(run: Run, scorer: Scorer, cohort: Cohort, data_root: Path | None, folder: Path) -> dict[str, Any]:
    """For each class of anomalies, what :func:`measure` returns."""
    images: dict[str, list[Tensor]] = {}
    for case in (*cohort.tuning, *cohort.test):
        images.setdefault(case["part"], []).append(case["image"])
    of: dict[str, Scores] = {}
    for part, slices in images.items():  # as the slices of one volume: an image is one patch, whatever is beside it
        volume = torch.cat(slices, dim=-1)[None]
        of[part] = np.asarray(scorer.score(volume, mask=torch.ones_like(volume))[0, 0].mean(dim=(0, 1)).double())
    if scorer.network is not None:
        draw(scorer.network, {"boot": images["test"], **{name: images[name] for name in ANOMALIES}}, folder)
    has_boundary = run.bundle == "one_class_svm"
    return {
        name: measure(of["threshold"], of[f"{name} for threshold"], of["test"], of[name], has_boundary)
        for name in ANOMALIES
    }


def origin(run: Run) -> dict[str, str]:
    """What a run's detector was trained on and how its settings were chosen."""
    boots = "the boots of the run's split that are for training"
    if run.detector in RIVALS:
        but = ", but for as many steps as 20 epochs have" if run.detector == "pyod-alad" else ""
        return {"trained_on": boots, "settings_chosen": f"PyOD's own{but}"}
    if run.bundle is None:
        return {"trained_on": "nothing", "settings_chosen": "none to choose"}
    chosen = "on splits of their own; about a fifth of their images are test images with each seed"
    return {
        "trained_on": boots,
        "settings_chosen": chosen if "max_epochs" in run.settings else "given beforehand",
    }


EXPERIMENT = Experiment(
    "fashion-mnist",
    DETECTORS,
    runs,
    cohort,
    measure_run,
    leaderboard,
    origin,
    pictures,
    rivals={name: partial(rival_scorer, name) for name in RIVALS},
)
