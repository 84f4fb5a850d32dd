"""How well made lesions on T1 can be found at all: by a U-Net that is trained on such lesions, with their labels.

    python -m studies.made_lesions_ceiling --data-root /data/ixi_t1

No detector of ours may learn so. It shows what is left in the images: lesions of ``medanomaly.data.lesion_factory``, as
in the toy experiment (1 to 3 standard deviations of their tissue, in the 2 mm grid of the scan), are put into the
training heads, and a U-Net of the size of ours learns to segment them in axial slices of the scan's own grid. Prints
AUROC and average precision in the brain, pooled, of plain intensity and of the U-Net: three draws of lesions in the
held-out heads, and the toy experiment's own lesions in its test heads.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medanomaly.data.lesion_factory import LesionFactory, shapes_from_masks
from medanomaly.evaluation import voxel_metrics
from medanomaly.experiments.toy_heads import MadeLesionsd, healthy_heads, prepare_heads
from medanomaly.experiments.toy_measures import PLACES_SEED
from medanomaly.networks.intensities import jittered
from medanomaly.networks.unet import unet
from medanomaly.patches.layout import plain

SPACING, SIZE, BATCH, RATE = (2.0, 2.0, 2.0), 32, 32, 2e-3
COPIES, LESIONS = 4, 40  # of each training head, and in each copy
HELD_OUT_DRAWS = (0, 5, 6)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of T1 and brain_mask (ixi_t1)")
    arguments.add_argument("--steps", type=int, default=12_000, help=f"of {BATCH} patches")
    given = arguments.parse_args()

    cohort = healthy_heads(given.data_root, Path("runs"), 8)
    shapes = shapes_from_masks(sorted((given.data_root.parent / "open_ms" / "lesion_masks").glob("*.nii*")))

    def heads(section: str, draw: int, n_lesions: int = 8) -> list[dict[str, Tensor]]:
        prepare = prepare_heads(SPACING, 0.45, SIZE, MadeLesionsd(LesionFactory(shapes, n_lesions), draw))
        cases: list[Any] = [prepare(case) for case in cohort[section]]
        return [{key: plain(case[key])[0] for key in ("image", "region", "label")} for case in cases]

    training = [head for copy in range(COPIES) for head in heads("training", 100 + copy, LESIONS)]
    network = _trained(training, given.steps)
    print(f"{'':28s} plain intensity | trained with labels (AUROC, average precision)")
    for draw in HELD_OUT_DRAWS:
        print(f"{f'held-out heads, draw {draw}':28s} {_figures(network, heads('validation', draw))}", flush=True)
    print(f"{'test heads':28s} {_figures(network, heads('test', PLACES_SEED))}")


def _trained(heads: list[dict[str, Tensor]], steps: int) -> torch.nn.Module:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = unet(1, 2, SIZE, 2, 16)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.005, steps)
    for _ in range(steps):
        patches: list[Tensor] = []
        targets: list[Tensor] = []
        while len(patches) < BATCH:
            head = heads[rng.integers(len(heads))]
            row, column, z = (int(rng.integers(n)) for n in np.array(head["region"].shape) - (SIZE - 1, SIZE - 1, 0))
            window = (slice(row, row + SIZE), slice(column, column + SIZE), z)
            if (head["region"][window] > 0).float().mean() < 0.2:
                continue
            mirror = [0] if rng.random() < 0.5 else []
            patches.append(head["image"][window].flip(mirror))
            targets.append((head["label"][window] != 0).long().flip(mirror))
        logits = network(jittered(torch.stack(patches)[:, None], 0.03))
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(logits, torch.stack(targets)))
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def _figures(network: torch.nn.Module, heads: list[dict[str, Tensor]]) -> str:
    intensity, scores, labels = [], [], []
    for head in heads:
        inside = head["region"] > 0
        height, width = inside.shape[:2]
        slices = head["image"].permute(2, 0, 1)[:, None]
        logits = torch.cat([network(F.pad(z[None], (0, -width % 16, 0, -height % 16))) for z in slices])
        scores.append((logits[:, 1] - logits[:, 0])[:, :height, :width].permute(1, 2, 0)[inside].numpy())
        intensity.append(head["image"][inside].numpy())
        labels.append(head["label"][inside].numpy() != 0)
    parts = [voxel_metrics(np.concatenate(values), np.concatenate(labels)) for values in (intensity, scores)]
    return " | ".join(f"{part['auroc']:.3f} {part['average_precision']:.3f}" for part in parts)


if __name__ == "__main__":
    main()
