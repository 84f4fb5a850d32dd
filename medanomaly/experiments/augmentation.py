"""Do synthetic films help? Generators of chest films, judged by indices, and a classifier trained with their films.

A generator (DCGAN, four of them on a grid, progressively grown GAN, DDPM) is trained for each class on the training
films of that class alone. MONAI's DenseNet-121 then learns normal from pneumonia with 0, 25, 50, 100 and 200 %
synthetic films, and with classes that they fill up to the same size, and is tested on real films of other patients at
the probability 0.5. Its epochs are chosen by real held-out films. An epoch has as many steps in all rows, those of the
real films alone, so that what helps is what films show and not that there are more steps.

What the indices are measured on is the classifier that learned from the real training films alone (seed 0): weights of
ImageNet are not at hand without a network, and it knows chest films. ``--set features=random`` takes random weights, to
see that all works. Synthetic films are compared with held-out ones, which neither it nor a generator has learned from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from medanomaly.data.writing import written_whole
from medanomaly.errors import ConfigError
from medanomaly.evaluation.bootstrap import bootstrap_of_cases
from medanomaly.evaluation.case_metrics import case_metrics
from medanomaly.experiments.augmentation_classifier import new_classifier, probabilities, trained_classifier
from medanomaly.experiments.augmentation_films import CLASSES, Films, read_films, with_synthetic
from medanomaly.experiments.augmentation_generators import synthetic_films
from medanomaly.experiments.augmentation_quality import FrozenFeatures, nearest, quality
from medanomaly.experiments.augmentation_results import leaderboard, quality_table
from medanomaly.report.synthetic_films import synthetic_films_figure
from medanomaly.workflows.benchmark import Experiment, Run
from medanomaly.workflows.costs import parameters_of

REAL = "real"  # films alone
LEVELS: dict[str, float | str] = {
    "plus-025": 0.25,
    "plus-050": 0.5,
    "plus-100": 1.0,
    "plus-200": 2.0,
    "balanced": "balanced",
}
OPTIONS: dict[str, Any] = {
    "size": 64,
    "normal_films": 300,  # to train on
    "pneumonia_films": 600,
    "epochs": 18,
    "patience": 6,
    "batch_size": 32,
    "learning_rate": 1e-4,
    "amp": True,
    "features": "classifier",
}
GRID = {"rows": 2, "columns": 2, "quality_samples": 64}  # more would take longer than the training
_TRAINING = {"generator_seed": 0, "generator_amp": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "gan": {"generator_epochs": 300, "generator_batch": 32, **_TRAINING},
    # as many batches in all: an epoch of the grid is one of each of its four cells
    "gan-grid": {"generator_epochs": 75, "generator_batch": 32, "grid": GRID, **_TRAINING},
    "progan": {"generator_epochs": 20, "generator_batch": 16, "fade_images": 10_000, **_TRAINING},  # of each size
    "ddpm": {"generator_epochs": 60, "generator_batch": 16, "steps": 50, "amp": True, **_TRAINING},
}
REDUCED: dict[str, Any] = {"normal_films": 60, "pneumonia_films": 120, "epochs": 6}
REDUCED_SETTINGS: dict[str, dict[str, Any]] = {
    "gan": {"generator_epochs": 10},
    "gan-grid": {"generator_epochs": 3},
    "progan": {"generator_epochs": 1, "fade_images": 100},
    "ddpm": {"generator_epochs": 2, "steps": 10},
}
SHOWN = 6  # synthetic films of a class in a picture


def runs(detectors: Sequence[str], seeds: Sequence[int], reduced: bool) -> list[Run]:
    """A classifier for each level and seed; reduced, the levels 100 % and balanced."""
    options = {**OPTIONS, **(REDUCED if reduced else {})}
    planned = []
    for detector in detectors:
        levels = [level for level in LEVELS if not reduced or level in ("plus-100", "balanced")]
        settings = {**SETTINGS.get(detector, {}), **(REDUCED_SETTINGS.get(detector, {}) if reduced else {})}
        for level in ["plus-000"] if detector == REAL else levels:
            planned += [Run(detector, level, seed, settings=settings, options=options) for seed in seeds]
    return planned


def perform(run: Run, data_root: Path | None, folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Train the classifier of a run and test it; make what it needs and is not there yet.

    Returns:
        Figures on the test films with intervals over films, the epoch, how many films it learned from, and of which
        quality the synthetic ones are, with the seconds of their generator; and the costs of the classifier.
    """
    o = run.options
    films = _films(data_root, o["size"], (o["normal_films"], o["pneumonia_films"]))
    made: dict[int, torch.Tensor] = {}
    metrics: dict[str, Any] = {}
    if run.detector != REAL:
        made, spent = _made(run, films, folder)
        metrics["generator"] = {**_quality(run, films, made, folder), "seconds": round(spent, 1)}
    training = with_synthetic(films["training"], made, LEVELS.get(run.setting, 0.0))
    n_real, place = len(films["training"].images), _place(folder, run.id)
    network, record = trained_classifier(training, films["validation"], n_real, run.seed, o, place)
    start = time.perf_counter()
    scores = probabilities(network, films["test"].images).double().numpy()
    costs = {
        "training_seconds": record["seconds"],
        "scoring_seconds": round(time.perf_counter() - start, 3),
        "volumes": len(scores),
        "parameters": parameters_of(network),
    }
    abnormal = films["test"].labels.numpy() == 1
    found = bootstrap_of_cases(scores, abnormal, threshold=0.5)
    metrics |= case_metrics(scores, abnormal, threshold=0.5)
    metrics["intervals"] = {key: None if pair is None else list(pair) for key, pair in found.items()}
    metrics |= {"epoch": record["epoch"], "validation_auc": record["validation_auc"]}
    metrics["training_films"] = torch.bincount(training.labels, minlength=len(CLASSES)).tolist()
    metrics["n_cases"] = len(scores)
    return metrics, costs


@cache
def _films(data_root: Path | None, size: int, most: tuple[int, int]) -> dict[str, Films]:
    """Those of several runs are read once."""
    return read_films(data_root, size, most)


def _made(run: Run, films: dict[str, Films], folder: Path) -> tuple[dict[int, torch.Tensor], float]:
    """As many as the highest level asks for, whatever the run's own."""
    counts = [len(films["training"].of_class(label).images) for label in range(len(CLASSES))]
    wanted = {label: max(2 * count, max(counts) - count) for label, count in enumerate(counts)}
    return synthetic_films(run.detector, films, wanted, run.settings, folder / "runs" / "generators" / run.detector)


def _quality(run: Run, films: dict[str, Films], made: dict[int, torch.Tensor], folder: Path) -> dict[str, Any]:
    """Of a generator's films, and of real training films beside them, measured once; draws the picture, too."""
    file = folder / "runs" / "generators" / run.detector / "quality.json"
    if file.exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    of = {
        section: {label: films[section].of_class(label).images for label in range(len(CLASSES))}
        for section in ("training", "validation")
    }
    _draw(made, of["training"], folder / f"synthetic_{run.detector}.png")
    features = frozen_features(films, run.options, folder)
    found = {
        "made": quality(features, made, of["validation"], of["training"]),
        "real": quality(features, of["validation"], of["training"], of["training"]),
    }
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(found), encoding="utf-8")
    return found


def frozen_features(films: dict[str, Films], options: Any, folder: Path) -> FrozenFeatures:
    """Of the classifier that learned from real films alone, with seed 0, or of one with random weights.

    Raises:
        ConfigError: if ``features`` is neither "classifier" nor "random".
    """
    if options["features"] == "random":
        torch.manual_seed(0)
        network = new_classifier()
    elif options["features"] == "classifier":
        place = _place(folder, Run(REAL, "plus-000", 0).id)
        real = films["training"]
        network, _ = trained_classifier(real, films["validation"], len(real.images), 0, options, place)
    else:
        raise ConfigError(f"features is {options['features']!r}: use 'classifier' or 'random'.")
    return FrozenFeatures(network, films["training"].images)


def _place(folder: Path, run_id: str) -> Path:
    return folder / "runs" / run_id / "classifier.pt"


def _draw(made: dict[int, torch.Tensor], training: dict[int, torch.Tensor], path: Path) -> None:
    rows = {}
    for label, name in enumerate(CLASSES):
        shown = made[label][:SHOWN]
        rows[f"{name}, synthetic"] = shown[:, 0].numpy()
        rows[f"{name}, nearest training film"] = training[label][nearest(shown, training[label])[1], 0].numpy()
    synthetic_films_figure(rows, path)


def origin(run: Run) -> dict[str, str]:
    """What a run's classifier was trained on and how its settings were chosen."""
    real = "real training films"
    with_made = real if run.detector == REAL else f"{real}, and films of {run.detector}, which learned from the same"
    return {"trained_on": with_made, "settings_chosen": "beforehand, by what they take"}


EXPERIMENT = Experiment(
    "augmentation",
    (REAL, *SETTINGS),
    runs,
    None,
    None,
    leaderboard,
    origin,
    further_table=quality_table,
    shared=tuple(OPTIONS),
    perform=perform,
)
