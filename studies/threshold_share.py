"""Do thresholds hold on new people: which share of a healthy head lies above a threshold that 1 % is stated for?

    python -m studies.threshold_share --data-root /data/ixi_t1 --detectors pca,ganomaly

The 28 heads of ``ixi_t1`` are dealt into four groups by a seed. In turn each group of seven is tested; of the other 21,
five are held out for thresholds and 16 are trained on. So each head is scored by a model that knows nothing of it. For
each detector it prints the share of the brain above the stated rates: the mean over the heads, and the heads' range.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medanomaly import terminal, workflows
from medanomaly.data import heatmap_path, read_manifest
from medanomaly.evaluation import Calibration

RATES = (0.005, 0.01, 0.05)
SETTINGS = {  # short trainings on 2 cores: how good a detector is does not matter here
    "pca": {},
    "ganomaly": {"max_epochs": 4, "patches_per_epoch": 12800},
    "denoising_autoencoder": {"max_epochs": 4, "patches_per_epoch": 1600, "patch_size": 32, "stride": 16},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of ixi_t1")
    arguments.add_argument("--detectors", default="pca", help=f"comma between; of {', '.join(SETTINGS)}")
    arguments.add_argument("--seed", type=int, default=0, help="of the groups and the trainings")
    given = arguments.parse_args()
    terminal.be_quiet()
    for detector in given.detectors.split(","):
        with tempfile.TemporaryDirectory() as folder:
            shares = shares_of_heads(given.data_root, detector, given.seed, Path(folder))
        print(f"{detector}, {len(shares)} heads, seed {given.seed}")
        for rate, of_heads in zip(RATES, np.transpose(list(shares.values())), strict=True):
            low, high = of_heads.min(), of_heads.max()
            print(
                f"  stated {rate:6.1%}  found {of_heads.mean():7.2%} in the mean, {low:.2%} to {high:.2%}", flush=True
            )


def shares_of_heads(root: Path, detector: str, seed: int, folder: Path) -> dict[str, list[float]]:
    """For each head, the share of its brain above the threshold of each of ``RATES``."""
    manifest = read_manifest("ixi_t1")
    heads = [head for section in ("training", "validation", "test") for head in manifest[section]]
    groups = np.array_split(np.random.default_rng(seed).permutation(len(heads)), 4)
    shares = {}
    for number, group in enumerate(groups):
        others = [heads[n] for n in np.concatenate([*groups[number + 1 :], *groups[:number]])]
        sections = {"training": others[5:], "validation": others[:5], "test": [heads[n] for n in group]}
        shares |= _shares_of_group(root, detector, seed, folder / str(number), sections)
    return shares


def _shares_of_group(
    root: Path, detector: str, seed: int, folder: Path, sections: dict[str, Any]
) -> dict[str, list[float]]:
    folder.mkdir()
    datalist = folder / "datalist.json"
    datalist.write_text(json.dumps(sections))
    settings = {"spacing": [2.0, 2.0, 2.0], "region": "given", **SETTINGS[detector]}
    given = {"data_root": root, "device": "cpu"}
    model = workflows.train(datalist, folder / "model", bundle=detector, seed=seed, settings=settings, **given)
    workflows.score(model=model, output=folder / "scores", datalist=datalist, report=False, **given)
    calibration = Calibration.load(model / "models" / "calibration.json")
    shares = {}
    for head in sections["test"]:
        heatmap: Any = nib.load(heatmap_path(folder / "scores", head["case"]))
        scores = np.asarray(heatmap.dataobj)
        scores = scores[np.isfinite(scores)]
        shares[head["case"]] = [float(np.mean(scores > calibration.voxel_threshold(rate))) for rate in RATES]
    return shares


if __name__ == "__main__":
    main()
