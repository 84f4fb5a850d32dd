"""Draws what detectors make of chest films: healthy ones and films of pneumonia that they have not seen.

    python -m studies.film_pictures --data-root /data/chest_xray --results results --output docs/images/films

For each detector that the benchmark of chest films trained: three healthy test films and three with pneumonia, the
first ones of the manifest; what the detector makes of each, if it makes films, and below that where it sees what does
not belong. Needs the trainings of the benchmark; a second seed of a detector is passed over.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from medanomaly.data import datalist_from_manifest
from medanomaly.patches.layout import plain
from medanomaly.report.figures import reconstructions_figure
from medanomaly.workflows.scorers import load_scorer

CLASSES = {0: "healthy", 1: "pneumonia"}
SHOWN = 3  # films of each class


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of chest_xray")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the benchmark wrote")
    arguments.add_argument("--output", type=Path, default=Path("film_pictures"), help="folder; a picture a detector")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    test = datalist_from_manifest("chest_xray", given.data_root)["test"]
    shown = [case for label in CLASSES for case in [c for c in test if c["label"] == label][:SHOWN]]
    runs = given.results / "chest_xray" / "runs"
    for weights in sorted(runs.glob(f"*_seed{given.seed}/model/models/model.pt")):  # not of trainings under way
        model = weights.parent.parent
        name = model.parent.name.removesuffix(f"_seed{given.seed}").removesuffix("_own").removesuffix("_pseudo-auc")
        # of a film's score, those of frozen features keep the highest place of a map: the map is what is drawn
        scorer = load_scorer(model, **({"score": "map"} if name.startswith(("padim", "patchcore")) else {}))
        assert scorer.preprocessing is not None
        prepared: list[Any] = [scorer.preprocessing(dict(case)) for case in shown]
        films = torch.stack([plain(case["image"])[..., 0] for case in prepared])
        rows = {}
        with torch.no_grad():
            if hasattr(scorer.network, "reconstruct"):
                made = scorer.network.reconstruct(films)
                rows = {"what it makes": made, "map: difference": (films - made).abs()}
            scores = scorer.network(films)
        if scores.ndim == films.ndim:
            rows["map: score"] = scores
        if rows:
            by_row = {words: by_class(values) for words, values in rows.items()}
            reconstructions_figure(by_class(films), by_row, given.output / f"{name}.png")
        print(f"{name}: {given.output / f'{name}.png' if rows else 'a score a film, and no map'}")


def by_class(films: torch.Tensor) -> dict[str, NDArray[Any]]:
    """Films (n, 1, x, y), x from left to right and y upwards, as radiologists look at them, by class."""
    upright = films[:, 0].flip(1, 2).transpose(1, 2).numpy()
    return {word: upright[n * SHOWN : (n + 1) * SHOWN] for n, word in enumerate(CLASSES.values())}


if __name__ == "__main__":
    main()
