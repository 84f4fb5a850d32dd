"""What a detector that learns from a single head makes of other heads: random powers in training, and none.

    python -m studies.one_head --data-root /data/ixi_t1

Trains the synthetic anomalies on one training head of the toy experiment, with ``gamma`` 0 and 0.2, puts made lesions
(``medanomaly.data.lesion_factory``, 2 to 5 standard deviations of their tissue) into the four held-out heads, and
prints AUROC and average precision of all their voxels pooled. The test heads are not read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medanomaly.data.lesion_factory import LesionFactory, shapes_from_masks
from medanomaly.detectors import IntensityBaseline
from medanomaly.evaluation import voxel_metrics
from medanomaly.experiments.toy_heads import MadeLesionsd, healthy_heads, prepare_heads
from medanomaly.patches.layout import plain
from medanomaly.workflows.scorers import Cohort, Scorer, train_scorer

SPACING, WHITE_MATTER, SIZE = (1.0, 1.0, 1.0), 1.0, 64  # on the scale of white matter 1, as the detector's defaults are
HEADS, GAMMAS, DRAWS = (3, 7), (0.0, 0.2), (20, 21)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of T1 and brain_mask (ixi_t1)")
    arguments.add_argument("--epochs", type=int, default=6, help="of 200 steps")
    arguments.add_argument("--folder", type=Path, default=Path("runs/one_head"), help="for the training")
    given = arguments.parse_args()

    cohort = healthy_heads(given.data_root, given.folder, 1)
    masks = sorted((given.data_root.parent / "open_ms" / "lesion_masks").glob("*.nii*"))
    factory = LesionFactory(shapes_from_masks(masks), n_lesions=15, contrast=(2.0, 5.0))
    made: list[Any] = [
        prepare_heads(SPACING, WHITE_MATTER, SIZE, MadeLesionsd(factory, draw))(case)
        for draw in DRAWS
        for case in cohort["validation"]
    ]
    print(f"{'':40s} AUROC, average precision")
    print(f"{'intensity':40s} {_figures(Scorer(IntensityBaseline('plain', spacing=SPACING)), made)}", flush=True)
    for head in HEADS:
        for gamma in GAMMAS:
            one: Any = prepare_heads(SPACING, WHITE_MATTER, SIZE)(cohort["training"][head])
            settings = {"gamma": gamma, "patch_size": SIZE, "stride": SIZE // 2, "batch_size": 16, "decay": True}
            settings |= {"patches_per_epoch": 3200, "max_epochs": given.epochs, "patience": given.epochs}
            folder = given.folder / f"head{head}_gamma{gamma}_{given.epochs}epochs"
            heads = Cohort([one], [], [], chain=None)
            scorer = train_scorer("synthetic_anomalies", heads, folder, 0, settings, {})
            name = f"trained on {cohort['training'][head]['case']}, gamma {gamma}"
            print(f"{name:40s} {_figures(scorer, made)}", flush=True)


@torch.inference_mode()
def _figures(scorer: Scorer, cases: list[Any]) -> str:
    scores, labels = [], []
    for case in cases:
        image, brain, where = (plain(case[key]) for key in ("image", "region", "label"))
        inside = brain[0] > 0
        scores.append(scorer.score(image[None], mask=brain[None])[0, 0][inside].numpy())
        labels.append(where[0][inside].numpy() != 0)
    figures = voxel_metrics(np.concatenate(scores), np.concatenate(labels))
    return f"{figures['auroc']:.3f} {figures['average_precision']:.3f}"


if __name__ == "__main__":
    main()
