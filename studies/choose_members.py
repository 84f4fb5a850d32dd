"""Which members a fusion should have: candidates trained on normal tissue, compared on made lesions in it.

    python -m studies.choose_members --data-root /data/open_ms --epochs 8

Trains every candidate on the lesion-free tissue of the training patient of the experiment white-matter-paper, puts made
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
from medanomaly.detectors import IntensityBaseline
from medanomaly.evaluation import voxel_metrics
from medanomaly.experiments.voxel_detectors import TRAINED
from medanomaly.experiments.white_matter_paper import SPACING, white_matter_paper
from medanomaly.patches.layout import plain
from medanomaly.workflows.scorers import Scorer, train_scorer

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

    experiment = white_matter_paper()
    (run, *_) = experiment.runs(["fusion"], [0], False)
    cohort = experiment.cohort(run, given.data_root, given.folder)
    settings = {**run.settings, **TRAINED["fusion"][1], "members": CANDIDATES, "max_epochs": given.epochs}
    settings |= {"patience": given.epochs}
    scorer = train_scorer("fusion", cohort, given.folder / f"{given.epochs}epochs" / "model", 0, settings, {})

    assert scorer.preprocessing is not None
    case: Any = scorer.preprocessing(dict(cohort.training[0]))
    image, region, lesions = (plain(case[key]).numpy() for key in ("image", "region", "label"))
    brain, lesion = region[0] > 0, lesions[0] > 0
    factory = LesionFactory(shapes_from_masks(sorted((given.data_root / "lesion_masks").glob("*.nii*"))), LESIONS)
    normal = brain & ~lesion
    made = [factory(image, brain, SPACING, np.random.default_rng(n), lesion)[:2] for n in range(SEED, SEED + VOLUMES)]
    names = [f"{member['detector']} {member.get('channels', 'all')}" for member in CANDIDATES]
    maps: dict[str, list[list[NDArray[np.float32]]]] = {}  # of each candidate, by sign, of each volume
    for number, name in enumerate(names):
        scorer.network.weights = [float(number == n) for n in range(len(names))]
        maps[name] = []
        for sign in ("both", "bright"):
            scorer.network.set_sign(sign)
            maps[name].append([_scores(scorer, volume, brain, normal) for volume, _ in made])
    smoothed = Scorer(IntensityBaseline("smoothed", spacing=SPACING))
    brightness = [_scores(smoothed, volume, brain, normal) for volume, _ in made]

    print(f"{'':70s} both signs: AUROC AP Dice | bright: AUROC AP Dice")
    labels = [where[normal] for _, where in made]
    print(f"{'intensity, smoothed':70s} {_figures([brightness, brightness], labels)}")
    for size in (1, 2, 3):
        for chosen in combinations(names, size):
            joined = [[np.mean([maps[n][s][v] for n in chosen], axis=0) for v in range(VOLUMES)] for s in range(2)]
            print(f"{' + '.join(chosen):70s} {_figures(joined, labels)}", flush=True)


def _scores(
    scorer: Scorer, image: NDArray[Any], brain: NDArray[np.bool_], normal: NDArray[np.bool_]
) -> NDArray[np.float32]:
    mask = torch.from_numpy(brain)[None, None]
    return np.asarray(scorer.score(torch.from_numpy(image)[None], mask=mask)[0, 0])[normal]


def _figures(scores: list[list[NDArray[np.float32]]], labels: list[NDArray[np.int8]]) -> str:
    """Pooled over volumes: all lesions by the first scores; bright ones, without the dark, by the second."""
    sign = np.concatenate(labels)
    both, bright = (np.concatenate(of_sign) for of_sign in scores)
    parts = [voxel_metrics(both, sign != 0), voxel_metrics(bright[sign >= 0], sign[sign >= 0] > 0)]
    keys = ("auroc", "average_precision", "best_dice")
    return " | ".join(" ".join(f"{part[key]:.3f}" for key in keys) for part in parts)


if __name__ == "__main__":
    main()
