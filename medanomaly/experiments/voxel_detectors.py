"""Detectors that score voxels, and their fusion: how the experiments on volumes train them, and how they are scored.

A detector is trained once and scored several ways: with either sign or both, with an intensity prior and without, with
post-processing and without. Each way is a row of its own in the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medanomaly.patches import Median, MinimumComponent
from medanomaly.workflows.benchmark import Run

# How the settings below were chosen; the result files repeat it.
CHOSEN = (
    "by made lesions (medanomaly.data.lesion_factory; shapes of 14 other patients, without their images) "
    "in the training patient and in the held-out heads, one seed; none by a test patient or a test head"
)
# In the tables: bundle, and what differs from its own settings. The rate falls to 0, and the last epochs are the best.
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "autoencoder-spatial": ("autoencoder", {"max_epochs": 5, "learning_rate": 1e-3}),
    "autoencoder-dense": ("autoencoder", {"kind": "dense", "max_epochs": 5, "learning_rate": 1e-3}),
    "foreign-patch-interpolation": ("foreign_patch_interpolation", {"max_epochs": 5}),
    "denoising-autoencoder": ("denoising_autoencoder", {"max_epochs": 5}),
    "synthetic-anomalies": ("synthetic_anomalies", {"max_epochs": 10}),
    "fusion": ("fusion", {"max_epochs": 18, "patience": 18}),
}
VOXEL_DETECTORS = tuple(TRAINED)
REDUCED: dict[str, Any] = {"max_epochs": 1, "patches_per_epoch": 320}
# ways of scoring; "post": post-processed; "prior": with smoothed intensity, which is knowledge about the disease
POST: dict[str, Any] = {"steps": [Median(3), MinimumComponent(10.0, (1.0, 1.0, 1.0))]}
PRIOR: dict[str, Any] = {"prior_weight": 1.0}
WAYS: dict[str, dict[str, Any]] = {
    "both": {"sign": "both"},
    "bright": {"sign": "bright"},
    "bright-post": {"sign": "bright", **POST},
    "bright+prior": {"sign": "bright", **PRIOR},
    "bright+prior-post": {"sign": "bright", **PRIOR, **POST},
}
UNSIGNED = ("foreign-patch-interpolation",)


def voxel_runs(
    detector: str, seeds: Sequence[int], reduced: bool, settings: Mapping[str, Any], options: Mapping[str, Any]
) -> list[Run]:
    """Every way of scoring a detector that it has: all for the fusion, the signs for the others.

    Args:
        detector: one of ``VOXEL_DETECTORS``.
        seeds: a training each.
        reduced: whether the short version is asked for.
        settings: of the experiment, for the bundle.
        options: of the experiment.
    """
    bundle, own = TRAINED[detector]
    training = {**own, **settings, **(REDUCED if reduced else {})}
    wanted = ["both"] if detector in UNSIGNED or reduced else ["both", "bright"]
    if detector == "fusion":
        wanted = ["both", "bright+prior-post"] if reduced else list(WAYS)
    ways = {way: {} if detector in UNSIGNED else WAYS[way] for way in wanted}
    return [
        Run(detector, way, seed, bundle, training, scoring, options, model=f"{detector}_seed{seed}_training")
        for way, scoring in ways.items()
        for seed in seeds
    ]
