"""Makes the models that come with the package: brain_flair (FLAIR, T1 and T2) and brain_t1.

    python -m studies.shipped_models --data-root /data --output runs/shipped

``brain_flair`` learns from people with multiple sclerosis: the two of ``open_ms``, without what touches their lesions,
and the scans of three of ``ms_whole_head``, lesions included, as nobody has drawn them; its thresholds come from the
fourth. ``brain_t1`` learns from nine healthy heads of ``ixi_t1`` and the T1 of ``open_ms``, and has its thresholds from
the nineteen other heads. Settings are those of the experiments white-matter and tumours, which say how
they were chosen.

Each training goes to ``--output/NAME``; what is needed to score is copied to ``models/NAME``, without any path of this
machine: configs, weights and calibration. The model card is written by hand, with figures of held-out people; those of
``brain_t1`` are printed by

    python -m studies.shipped_models --data-root /data --output runs/shipped --check

which takes each of the nineteen heads in turn as new, with thresholds from the eighteen others.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from medanomaly.evaluation import Calibration
from medanomaly.experiments.unseen_people import DISEASES, QUARTILES, TUMOURS, WHITE_MATTER, sections_of
from medanomaly.shipped import shipped
from medanomaly.workflows import train
from medanomaly.workflows.bundles import FURTHER
from medanomaly.workflows.compose import config_text
from medanomaly.workflows.publish import ONES_OWN
from medanomaly.workflows.scorers import load_scorer

N_TRAINED = 9  # of the heads of IXI; nineteen more are what a promise of 5 % of false alarms needs
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of open_ms, ms_whole_head, ixi_t1")
    arguments.add_argument("--output", type=Path, default=Path("runs/shipped"), help="for the trainings")
    arguments.add_argument("--only", choices=("brain_flair", "brain_t1"), help="one of the two")
    arguments.add_argument("--epochs", type=int, help="fewer, to see that it works")
    arguments.add_argument("--check", action="store_true", help="figures of brain_t1, once it is trained")
    given = arguments.parse_args()
    root = given.data_root.resolve()
    if given.check:
        check_t1(given.output / "brain_t1", brain_t1(root)[0]["validation"])
        return
    short = {} if given.epochs is None else {"max_epochs": given.epochs}
    for name, (cases, settings) in {"brain_flair": brain_flair(root), "brain_t1": brain_t1(root)}.items():
        if given.only not in (None, name):
            continue
        given.output.mkdir(parents=True, exist_ok=True)
        datalist = given.output / f"{name}.json"
        datalist.write_text(json.dumps(cases, indent=1), encoding="utf-8")
        begun = (given.output / name / "checkpoints" / "last.pt").exists()
        if not (given.output / name / "models" / "calibration.json").exists():
            more: dict[str, Any] = {"resume": True} if begun else {"settings": {**settings, **short}}
            train(datalist, given.output / name, bundle="fusion", **more)
        copy_model(given.output / name, ROOT / "models" / name)


def brain_flair(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The datalist and the settings; brains are found as they will be for a user, so no masks are named."""
    sections = sections_of(DISEASES["white-matter"], None, root)
    cases = {
        "training": [*map(without_mask, sections["test"]), *map(without_mask, sections["training"])],
        "validation": list(map(without_mask, sections["validation"])),
    }
    return cases, {**WHITE_MATTER, "register": True, "stride": 48, "other_side": 8.0}


def brain_t1(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same; 2 mm, as the heads of IXI are."""
    heads = [
        {"case": file.name.partition(".")[0], "image": [str(file)]}
        for file in sorted((root / "ixi_t1" / "T1").iterdir())
    ]
    patients = [
        {"case": case["case"], "image": case["image"][1:2], "label": case["label"]}
        for case in sections_of(DISEASES["white-matter"], None, root)["test"]
    ]
    cases = {"training": [*heads[:N_TRAINED], *patients], "validation": heads[N_TRAINED:]}
    settings = {**TUMOURS, "training_planes": None, "quartiles": QUARTILES[1:2], "spacing": [2.0, 2.0, 2.0]}
    return cases, settings


def check_t1(model: Path, heads: list[dict[str, Any]]) -> None:
    """Prints the share of each head's brain above thresholds from the others."""
    heatmap = load_scorer(model).heatmap
    scores = [values[np.isfinite(values)] for values in (heatmap({**case, "region": None}) for case in heads)]
    for rate in (0.01, 0.005):
        shares = []
        for n, own in enumerate(scores):
            others = Calibration.fit(scores[:n] + scores[n + 1 :], "the other heads")
            shares.append(100 * float((own > others.voxel_threshold(rate)).mean()))
        print(
            f"{len(heads)} healthy heads, each with thresholds from the others: {100 * rate:g} % of normal voxels "
            f"promised, {np.mean(shares):.2f} % found in the mean ({min(shares):.2f} to {max(shares):.2f})"
        )


def without_mask(case: dict[str, Any]) -> dict[str, Any]:
    return {key: case[key] for key in ("case", "image", "label") if case.get(key) is not None}


def copy_model(trained_model: Path, output: Path) -> None:
    """What scoring needs of a training, as a bundle that names no place of this machine."""
    common = json.loads((shipped("bundles") / "common" / "inference.json").read_text(encoding="utf-8"))
    for folder in ("configs", "models"):
        shutil.rmtree(output / folder, ignore_errors=True)
        (output / folder).mkdir(parents=True)
    for file in ("inference.json", "evaluate.json"):
        config = json.loads((trained_model / "configs" / file).read_text(encoding="utf-8"))
        config.update({key: common[key] for key in ONES_OWN if key in config})
        (output / "configs" / file).write_text(config_text(config), encoding="utf-8")
    for file in ("metadata.json", "logging.conf"):
        shutil.copy(trained_model / "configs" / file, output / "configs")
    made = trained_model / "models"
    further = [path for path in (made / name for name in FURTHER) if path.exists()]
    for path in [made / "model.pt", *made.glob("calibration*.json"), *further]:
        shutil.copy(path, output / "models")
    shutil.copy(trained_model / "LICENSE", output)


if __name__ == "__main__":
    main()
