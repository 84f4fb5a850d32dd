"""Detectors that score voxels, and their fusion: settings for every experiment on volumes, and how they are scored.

A detector is trained once and scored several ways: with either sign or both, with an intensity prior and without, with
post-processing and without. Each way is a row of its own in the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from medanomaly.detectors import Detector
from medanomaly.experiments.benchmark import Run
from medanomaly.patches import Median, MinimumComponent, PatchScoreInferer, PatchSpec, Postprocessed

# How the settings below were chosen; the result files repeat it.
CHOSEN = (
    "by made lesions (medanomaly.data.lesion_factory; shapes of 14 other patients, without their images) "
    "in the training patient and in the held-out heads, one seed; none by a test patient or a test head"
)
COMMON: dict[str, Any] = {
    "patch_size": 64,
    "stride": 32,
    "batch_size": 16,
    "patches_per_epoch": 3200,
    "patience": 100,  # the rate falls to 0, and the last epochs are the best
    "decay": True,
    "amp": False,
}
REDUCED: dict[str, Any] = {"max_epochs": 1, "patches_per_epoch": 320}
# the detectors, each with how long it is trained and its arguments; what is not here is the detector's default
SETTINGS: dict[str, dict[str, Any]] = {
    "autoencoder-spatial": {"max_epochs": 5, "arguments": {"learning_rate": 1e-3}},
    "autoencoder-dense": {"max_epochs": 5, "arguments": {"learning_rate": 1e-3}},
    "foreign-patch-interpolation": {"max_epochs": 5, "arguments": {}},
    "denoising-autoencoder": {"max_epochs": 5, "arguments": {}},
    "synthetic-anomalies": {"max_epochs": 10, "arguments": {}},
    "fusion": {"max_epochs": 18, "arguments": {}},
}
VOXEL_DETECTORS = tuple(SETTINGS)
PRIOR_WEIGHT = 1.0
# ways of scoring; "post": post-processed; "prior": with smoothed intensity, which is knowledge about the disease
WAYS: dict[str, dict[str, Any]] = {
    "both": {"sign": "both"},
    "bright": {"sign": "bright"},
    "bright-post": {"sign": "bright", "steps": ["median", "minimum component"]},
    "bright+prior": {"sign": "bright", "prior_weight": PRIOR_WEIGHT},
    "bright+prior-post": {
        "sign": "bright",
        "prior_weight": PRIOR_WEIGHT,
        "steps": ["median", "minimum component"],
    },
}
UNSIGNED = ("foreign-patch-interpolation",)


def voxel_runs(
    detector: str,
    seeds: Sequence[int],
    channels: Sequence[str],
    planes: Sequence[str],
    reduced: bool,
    **more: Any,
) -> list[Run]:
    """Every way of scoring a detector that it has: all for the fusion, the signs for the others.

    Args:
        more: further settings, or others than those above.
    """
    wanted = ["both"] if detector in UNSIGNED or reduced else ["both", "bright"]
    if detector == "fusion":
        wanted = ["both", "bright+prior-post"] if reduced else list(WAYS)
    ways = {way: WAYS[way] for way in wanted}
    settings = {"channels": list(channels), "planes": list(planes), **COMMON, **SETTINGS[detector], **more}
    settings |= REDUCED if reduced else {}
    return [Run(detector, way, seed, {**settings, **how}) for way, how in ways.items() for seed in seeds]


def scorer(run: Run, network: Detector, spacing: Sequence[float]) -> Callable[..., Tensor]:
    """``score(volume, mask=brain)``, each (1, C, H, W, D), in the way of a run.

    ``network`` is set to that way: its sign and, if the run has one, its prior.
    """
    s = run.settings
    network.set_sign(s["sign"])
    if "prior_weight" in s:
        network.prior_weight = s["prior_weight"]
    inferer = PatchScoreInferer(PatchSpec(s["patch_size"], planes=s["planes"], stride=s["stride"]))
    steps: dict[str, Any] = {"median": Median(3), "minimum component": MinimumComponent(10.0, tuple(spacing))}
    whole = Postprocessed(inferer, [steps[name] for name in s.get("steps", [])])
    return lambda volume, **regions: whole(volume, network, **regions)


def training_folder(run: Run, folder: Path) -> Path:
    """Where the model is that all ways of a run share: beside the runs' own folders."""
    return folder.parent / f"{run.detector}_seed{run.seed}_training"
