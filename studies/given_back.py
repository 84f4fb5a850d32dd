"""Asks whether detectors that make patches have learned: do they give training patches back better than a flat one?

    python -m studies.given_back --data-root /data/open_ms --results results
    python -m studies.given_back --manifest brats2013 --data-root /data/brats2013 --results results

For each detector that the benchmark of the manifest trained with seed 0 and that makes patches: the mean absolute
difference of 2,560 training patches and what it makes of them; before that, the difference of the same patches and
their own medians. A detector whose score is an error of what it makes tells nothing where its own is not the smaller.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset

from medanomaly.data import datalist_from_manifest
from medanomaly.patches import PatchSampler
from medanomaly.workflows.scorers import load_scorer
from studies.white_matter_pictures import Made

N_PATCHES, BATCH = 2560, 128


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of the patients of the manifest")
    arguments.add_argument("--manifest", choices=["open_ms", "brats2013"], default="open_ms")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the benchmark wrote")
    given = arguments.parse_args()
    cases = datalist_from_manifest(given.manifest, given.data_root)["training"]
    print("| detector | flat patches | what it makes |\n|---|---|---|")
    for weights in sorted((given.results / given.manifest / "runs").glob("*_own_seed0/model/models/model.pt")):
        scorer = load_scorer(weights.parents[1])
        if not hasattr(scorer.network, "reconstruct"):
            continue
        dataset: Any = Dataset(cases, scorer.preprocessing)
        sampler = PatchSampler(dataset, scorer.spec, batch_size=BATCH, patches_per_epoch=N_PATCHES, seed=0)
        flat, made = zip(*(errors(scorer.network, patches) for patches in sampler), strict=True)
        name = weights.parents[2].name.removesuffix("_own_seed0")
        print(f"| {name} | {sum(flat) / len(flat):.3f} | {sum(made) / len(made):.3f} |", flush=True)


@torch.no_grad()
def errors(network: torch.nn.Module, patches: torch.Tensor) -> tuple[float, float]:
    """The mean absolute difference of patches (B, C, H, W) to their medians, and to what the network makes of them.

    Of neighbouring slices, the one that is scored.
    """
    making = Made(network)
    made, seen = making(patches), patches[:, making.channel : making.channel + 1]
    medians = seen.flatten(1).median(dim=1).values.view(-1, 1, 1, 1)
    return float((seen - medians).abs().mean()), float((seen - made).abs().mean())


if __name__ == "__main__":
    main()
