"""Which members a fusion should have: candidates trained on normal tissue, compared on made lesions in it.

    python -m studies.choose_members --data-root /data/open_ms --epochs 8

Trains every candidate on the lesion-free tissue of the training patient of the white-matter experiment, puts made
lesions (``medanomaly.data.lesion_factory``) into that patient, away from the real ones, and prints AUROC, average
precision and best Dice of every candidate and of every fusion of two or three, with both signs and for bright lesions
alone. The test patient is not read.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medanomaly.data.lesion_factory import LesionFactory, shapes_from_masks
from medanomaly.detectors import Fusion, IntensityBaseline
from medanomaly.evaluation import voxel_metrics
from medanomaly.experiments import white_matter
from medanomaly.experiments.benchmark import Run
from medanomaly.experiments.voxel_detectors import COMMON, SETTINGS
from medanomaly.patches import PatchScoreInferer, PatchSpec
from medanomaly.preprocessing import brain_mri, user_cache

CANDIDATES: list[dict[str, Any]] = [
    {"detector": "denoising_autoencoder", "channels": [0]},
    {"detector": "denoising_autoencoder"},
    {"detector": "synthetic_anomalies", "channels": [0]},
    {"detector": "synthetic_anomalies", "channels": [0, 1]},
    {"detector": "synthetic_anomalies"},
]
VOLUMES, LESIONS, SEED = 4, 25, 10  # made, each with so many lesions


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of patient07 and lesion_masks")
    arguments.add_argument("--epochs", type=int, default=8, help="of 200 steps")
    arguments.add_argument("--folder", type=Path, default=Path("runs/choose_members"), help="for the training")
    given = arguments.parse_args()

    channels = white_matter.ALL_CHANNELS
    prepare = brain_mri(len(channels), white_matter.SPACING, "nonzero", cache_dir=user_cache())
    patient = white_matter.Patient(white_matter.TRAINING_PATIENT, given.data_root, prepare, len(channels))
    settings = {"channels": channels, "planes": white_matter.PLANES, **COMMON, **SETTINGS["fusion"]}
    settings |= {"max_epochs": given.epochs, "arguments": {"members": CANDIDATES}}
    run, held_out = Run("fusion", "both", 0, settings), white_matter.held_out_slices(patient.brain)
    fusion = white_matter.train(run, patient, held_out, given.folder)
    assert isinstance(fusion, Fusion)

    factory = LesionFactory(shapes_from_masks(sorted((given.data_root / "lesion_masks").glob("*.nii*"))), LESIONS)
    normal = patient.brain & ~patient.lesions
    made = [
        factory(patient.image.numpy(), patient.brain, white_matter.SPACING, np.random.default_rng(n), patient.lesions)
        for n in range(SEED, SEED + VOLUMES)
    ]
    inferer = PatchScoreInferer(PatchSpec(settings["patch_size"], planes=settings["planes"], stride=settings["stride"]))
    names = [f"{member['detector']} {member.get('channels', 'all')}" for member in CANDIDATES]
    maps: dict[str, list[list[NDArray[np.float32]]]] = {}  # of each candidate, by sign, of each volume
    for number, name in enumerate(names):
        fusion.weights = [float(number == n) for n in range(len(names))]
        maps[name] = []
        for sign in ("both", "bright"):
            fusion.set_sign(sign)
            maps[name].append([_scores(inferer, image, patient, normal, fusion) for image, _ in made])
    smoothed = IntensityBaseline("smoothed", spacing=white_matter.SPACING)
    brightness = [_scores(smoothed, image, patient, normal, None) for image, _ in made]

    print(f"{'':70s} both signs: AUROC AP Dice | bright: AUROC AP Dice")
    labels = [where[normal] for _, where in made]
    print(f"{'intensity, smoothed':70s} {_figures([brightness, brightness], labels)}")
    for size in (1, 2, 3):
        for chosen in combinations(names, size):
            joined = [[np.mean([maps[n][s][v] for n in chosen], axis=0) for v in range(VOLUMES)] for s in range(2)]
            print(f"{' + '.join(chosen):70s} {_figures(joined, labels)}", flush=True)


def _scores(
    inferer: Any, image: NDArray[Any], patient: white_matter.Patient, normal: NDArray[np.bool_], network: Any
) -> NDArray[np.float32]:
    brain = torch.from_numpy(patient.brain)[None, None]
    heatmap = inferer(torch.from_numpy(image)[None], network, mask=brain)[0, 0]
    return np.asarray(heatmap)[normal]


def _figures(scores: list[list[NDArray[np.float32]]], labels: list[NDArray[np.int8]]) -> str:
    """Pooled over volumes: all lesions by the first scores; bright ones, without the dark, by the second."""
    sign = np.concatenate(labels)
    both, bright = (np.concatenate(of_sign) for of_sign in scores)
    parts = [voxel_metrics(both, sign != 0), voxel_metrics(bright[sign >= 0], sign[sign >= 0] > 0)]
    keys = ("auroc", "average_precision", "best_dice")
    return " | ".join(" ".join(f"{part[key]:.3f}" for key in keys) for part in parts)


if __name__ == "__main__":
    main()
