"""Draws what detectors make of slices of a patient with white-matter lesions, and the heatmaps of these slices.

    python -m studies.white_matter_pictures --data-root /data/open_ms --results results --output docs/images/brains

For each detector that the benchmark of the manifest ``open_ms`` trained: three axial slices of patient26 almost without
lesions and the three with most of them, not neighbours; what the detector makes of them, if it makes patches, stitched
as scores are; and where it sees what does not belong. Needs the trainings of the benchmark.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medanomaly.data import datalist_from_manifest
from medanomaly.patches.layout import plain
from medanomaly.report.figures import axial_picture, reconstructions_figure
from medanomaly.workflows.scorers import load_scorer

SHOWN, APART = 3, 8  # slices of each kind, and how many lie between them at least
LOWEST = 0.6  # of the voxels of brain in the fullest slice: what is shown has as many


class Made(nn.Module):
    """What a detector makes of patches, in the first channel of the slice that it scores, in place of its scores."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector, self.channel = detector, getattr(detector, "middle", 0)

    def forward(self, patches: Tensor) -> Tensor:
        made: Tensor = self.detector.reconstruct(patches)[:, self.channel : self.channel + 1]
        return made


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of the patients of open_ms")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the benchmark wrote")
    arguments.add_argument("--output", type=Path, default=Path("white_matter_pictures"), help="folder")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    (case,) = datalist_from_manifest("open_ms", given.data_root)["test"]
    for weights in sorted((given.results / "open_ms" / "runs").glob(f"*_own_seed{given.seed}/model/models/model.pt")):
        model = weights.parent.parent
        picture = given.output / f"{model.parent.name.removesuffix(f'_own_seed{given.seed}')}.png"
        draw(model, case, picture)
        print(picture)


def draw(model: Path, case: Any, picture: Path) -> None:
    scorer = load_scorer(model)
    assert scorer.preprocessing is not None
    prepared: Any = scorer.preprocessing(dict(case))
    volume, region = plain(prepared["image"]), plain(prepared["region"])
    lesions = plain(prepared["label"])[0] > 0  # on the grid of the prepared image, whose axes run to R, A and S
    few, most = chosen(lesions, region[0])
    only = torch.zeros_like(region)
    only[..., [*few, *most]] = region[..., [*few, *most]]
    rows = {}
    if hasattr(scorer.network, "reconstruct"):
        rows["what it makes"] = scorer.inferer(volume[None], Made(scorer.network), mask=only[None])
    rows["map: score"] = scorer.score(volume[None], mask=only[None])

    def shown(values: Tensor) -> dict[str, NDArray[Any]]:
        kept = torch.where(region[0] > 0, torch.as_tensor(values), 0).numpy()
        kinds = {"hardly a lesion": few, "lesions": most}
        return {title: np.stack([axial_picture(kept, z)[::-1] for z in slices]) for title, slices in kinds.items()}

    by_row = {words: shown(values[0, 0]) for words, values in rows.items()}
    reconstructions_figure(shown(volume[0]), {**by_row, "map: lesions": shown(lesions)}, picture)


def chosen(lesions: Tensor, brain: Tensor) -> tuple[list[int], list[int]]:
    """Slices with the fewest and with the most voxels of lesion, among those that show much brain."""
    area, found = brain.sum(dim=(0, 1)), lesions.sum(dim=(0, 1))
    usable = [z for z in range(len(area)) if area[z] >= LOWEST * area.max()]
    few = spread(sorted(usable, key=lambda z: (int(found[z]), -float(area[z]))))
    return few, spread([z for z in sorted(usable, key=lambda z: -int(found[z])) if z not in few])


def spread(ranked: Sequence[int]) -> list[int]:
    """The first ones that lie apart, from low to high."""
    kept: list[int] = []
    for z in ranked:
        if len(kept) < SHOWN and all(abs(z - other) >= APART for other in kept):
            kept.append(z)
    return sorted(kept)


if __name__ == "__main__":
    main()
