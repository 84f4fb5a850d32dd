"""What of a made head survives SADGAN's translation from CT into MR, with and without its edge branch?

    python -m studies.translation --seeds 0,1,2 --processes 2 --output studies/translation.json

Made heads (``medanomaly.data.translation_phantoms``), 32 x 32 voxels, CT and MR of different heads, lists of unequal
length; 6 further heads are tested. Dice is the mean over bone, grey matter, white matter and fluid against the labels
of the CT: of the segmenter on the translation; of the nearest class by the true MR intensities, which knows nothing of
the network; of the segmenter on MR of other heads, which nobody labelled; and of a judge, a segmenter that learned from
real MR and their labels and never saw a translation: what the first cannot be, fair to a translation that only the
segmenter reads. Edge F1 compares the translation's Sobel above 0.08 with the voxels on either side of a border.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from medanomaly.data.translation_phantoms import CLASSES, SIGNALS, edges_of, make_head
from medanomaly.generators.sadgan import SADGAN, sobel
from medanomaly.networks.unet import unet
from medanomaly.report.provenance import current_commit, machine

STEPS, BATCH, RATE, EDGE = 800, 16, 1e-3, 0.08
JUDGE_STEPS = 400


def slices(kind: str, n: int, seed: int, number: int) -> tuple[Tensor, Tensor]:
    """Slices of ``n`` heads and their labels, (4 n, 1, 32, 32) each."""
    heads = [make_head(kind, np.random.default_rng([seed, number, index]), side=32) for index in range(n)]
    stacked = [np.concatenate([np.moveaxis(head[which], 2, 0) for head in heads])[:, None] for which in (0, 1)]
    return torch.from_numpy(stacked[0]), torch.from_numpy(stacked[1]).float()


def trained(seed: int, edges: bool = True, steps: int = STEPS) -> SADGAN:
    """A model of 30 heads on CT and 40 others on MR; its rates fall to 0 over the second half."""
    ct, labels = slices("ct", 30, seed, 0)
    mr, _ = slices("mr", 40, seed, 1)
    torch.manual_seed(seed)
    model = SADGAN(32, classes=len(CLASSES), features=8, edges=edges, learning_rate=RATE)
    (stage,) = model.stages()
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in stage.optimizers.items()}
    for step in range(steps):
        for name, optimizer in stage.optimizers.items():
            optimizer.param_groups[0]["lr"] = rates[name] * min(1.0, 2 * (1 - step / steps))
        one, other = torch.randint(len(ct), (BATCH,)), torch.randint(len(mr), (BATCH,))
        model.training_step({"training": torch.cat([ct[one], labels[one]], dim=1), "target": mr[other]}, stage)
    return model.eval()


@cache
def judge(seed: int, steps: int = JUDGE_STEPS) -> nn.Module:
    """A segmenter like the model's own that learned from the MR of the training and their labels."""
    mr, labels = slices("mr", 40, seed, 1)
    torch.manual_seed(seed)
    network, loss = unet(1, len(CLASSES), 32, 2, 8), DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    for _ in range(steps):
        some = torch.randint(len(mr), (BATCH,))
        optimizer.zero_grad()
        torch.autograd.backward(loss(network(mr[some]), labels[some]))
        optimizer.step()
    return network.eval()


def dice(found: Tensor, true: Tensor) -> float:
    """Mean over the classes but the background."""
    own = [
        2 * ((found == k) & (true == k)).sum() / ((found == k).sum() + (true == k).sum())
        for k in range(1, len(CLASSES))
    ]
    return float(torch.stack(own).mean())


@torch.no_grad()
def measured(model: SADGAN, seed: int, judged_by: nn.Module) -> dict[str, float]:
    """Figures on heads that nothing was trained on."""
    ct, labels = slices("ct", 6, seed, 2)
    mr, mr_labels = slices("mr", 6, seed, 3)
    made = model.drawn(ct)[0]
    levels = torch.tensor(SIGNALS["mr"])[None, :, None, None]
    borders = torch.from_numpy(
        np.stack([edges_of(one.numpy().astype(np.uint8)[..., None])[..., 0] for one in labels[:, 0]])
    )
    found = sobel(made)[:, 0] > EDGE
    return {
        "Dice of S on translated CT": dice(model.segment(made).argmax(1, keepdim=True), labels),
        "Dice by nearest intensity": dice((made - levels).abs().argmin(1, keepdim=True), labels),
        "Dice of S on MR": dice(model.segment(mr).argmax(1, keepdim=True), mr_labels),
        "Dice of the judge on translated CT": dice(judged_by(made).argmax(1, keepdim=True), labels),
        "Dice of the judge on MR": dice(judged_by(mr).argmax(1, keepdim=True), mr_labels),
        "edge F1": float(2 * (found & borders).sum() / (found.sum() + borders.sum())),
    }


def run(job: tuple[int, bool], steps: int = STEPS) -> dict[str, float]:
    torch.set_num_threads(1)
    return measured(trained(*job, steps=steps), job[0], judge(job[0]))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", default="0,1,2")
    arguments.add_argument("--steps", type=int, default=STEPS)
    arguments.add_argument("--processes", type=int, default=1)
    arguments.add_argument("--output", type=Path)
    given = arguments.parse_args()
    began = time.time()
    jobs = [(int(seed), edges) for seed in given.seeds.split(",") for edges in (True, False)]
    rows = []
    with get_context("fork").Pool(given.processes) as pool:
        for (seed, edges), figures in zip(jobs, pool.imap(partial(run, steps=given.steps), jobs), strict=True):
            rows.append({"seed": seed, "edges": edges, **{name: round(value, 3) for name, value in figures.items()}})
            print(rows[-1], flush=True)
    for name in list(rows[0])[2:]:
        means = [float(np.mean([row[name] for row in rows if row["edges"] is edges])) for edges in (True, False)]
        print(f"{name:28s} with edges {means[0]:.3f}, without {means[1]:.3f}")
    print(f"{time.time() - began:.0f} s")
    if given.output:
        came_from = {"commit": current_commit(), "machine": machine()}
        given.output.write_text(json.dumps({"steps": given.steps, **came_from, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
