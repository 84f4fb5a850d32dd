"""Asks why some detectors rank lesions below healthy tissue: do they score what is busy, or far out?

    python -m studies.below_half --data-root /data/open_ms --results results
    python -m studies.below_half --manifest brats2013 --data-root /data/brats2013 --results results

For each detector that the benchmark of the manifest trained (``open_ms``, or ``brats2013``, whose lesion is a glioma):
its AUROC on the patient who is tested, in the whole brain, in what lies deep in it, and among voxels whose patches are
alike in mean and deviation; and how its score goes with these two properties of the patch of 16 pixels around a voxel,
the standard deviation of FLAIR and its mean (Spearman's rank correlation, healthy voxels alone). A patch of cortex,
with fluid beside it, has a large deviation; white matter, where the lesions are, a small one. Where the figure among
like patches is above 0.5 and that of the brain is not, the two properties are why. Last, for those that make patches:
how much brighter what they make is than what they see, on the mean, in healthy tissue and in lesions. One that makes
all tissue too bright errs less in lesions, which are bright.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, uniform_filter
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from medanomaly.data import datalist_from_manifest
from medanomaly.data.reading import LoadCased
from medanomaly.evaluation.cohort_voxels import label_on_scan
from medanomaly.patches.layout import plain
from medanomaly.workflows.scorers import Scorer, load_scorer
from studies.white_matter_pictures import Made

DEEP = 15  # mm from the border of the brain, at least
WINDOW = (16, 16, 1)  # voxels of 1 mm, as the patches
BINS = 30  # of the mean, and in each of them of the deviation, by what healthy voxels have


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of the patients of the manifest")
    arguments.add_argument("--manifest", choices=["open_ms", "brats2013"], default="open_ms", help="one of 1 mm voxels")
    arguments.add_argument("--results", type=Path, default=Path("results"), help="where the benchmark wrote")
    given = arguments.parse_args()
    (case,) = datalist_from_manifest(given.manifest, given.data_root)["test"]
    flair = np.asarray(LoadCased()({"image": case["image"][0]})["image"][0], dtype=np.float64)
    lesions = label_on_scan(case)
    mean = uniform_filter(flair, WINDOW)
    deviation = np.sqrt(np.maximum(uniform_filter(flair**2, WINDOW) - mean**2, 0))
    columns = ["detector", "AUROC", "AUROC, deep in the brain", "AUROC, like patches", "score and deviation"]
    columns += ["score and mean", "too bright: healthy", "too bright: lesions"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for weights in sorted((given.results / given.manifest / "runs").glob("*_own_seed0/model/models/model.pt")):
        name = weights.parents[2].name.removesuffix("_own_seed0")
        scorer = load_scorer(weights.parents[1])
        heatmap = scorer.heatmap(case)
        brain = np.isfinite(heatmap)
        deep = brain & (distance_transform_edt(brain) >= DEEP)
        healthy = brain & ~lesions
        figures = [auroc(heatmap, lesions, brain), auroc(heatmap, lesions, deep)]
        figures.append(auroc_among_like(heatmap[brain], lesions[brain], mean[brain], deviation[brain]))
        figures += [float(spearmanr(heatmap[healthy], of[healthy]).statistic) for of in (deviation, mean)]
        words = [f"{figure:.3f}" for figure in figures]
        words += [f"{figure:.3f}" for figure in too_bright(scorer, case)] if makes_patches(scorer) else ["-", "-"]
        print(f"| {name} | {' | '.join(words)} |", flush=True)


def auroc(heatmap: NDArray[Any], lesions: NDArray[Any], where: NDArray[np.bool_]) -> float:
    return float(roc_auc_score(lesions[where], heatmap[where]))


def makes_patches(scorer: Scorer) -> bool:
    return hasattr(scorer.network, "reconstruct")


def too_bright(scorer: Scorer, case: dict[str, Any]) -> list[float]:
    """The mean of what the detector makes less what it sees, stitched as scores are: in healthy tissue and in lesions.

    In units of the prepared image, of which 0 is the 5th percentile of the brain and 1 the 95th.
    """
    assert scorer.preprocessing is not None
    prepared: Any = scorer.preprocessing(dict(case))
    volume, region = plain(prepared["image"]), plain(prepared["region"])
    lesions = (plain(prepared["label"])[0] > 0).numpy()
    made = scorer.inferer(volume[None], Made(scorer.network), mask=region[None])
    more = np.asarray(made)[0, 0] - volume[0].numpy()
    brain = (region[0] > 0).numpy() & np.isfinite(more)
    return [float(more[brain & ~lesions].mean()), float(more[brain & lesions].mean())]


def auroc_among_like(
    scores: NDArray[Any], lesion: NDArray[np.bool_], mean: NDArray[Any], deviation: NDArray[Any]
) -> float:
    """The mean over lesion voxels of the share of healthy ones in their bin that score lower (half where they tie).

    All arguments are of the same voxels, (N,). A bin without healthy voxels counts as 0.5, as there is nobody to beat.
    """
    voxels = pd.DataFrame({"score": scores, "lesion": lesion, "deviation": deviation})
    voxels["mean_bin"] = np.digitize(mean, np.quantile(mean[~lesion], np.arange(1, BINS) / BINS))
    beaten = []
    for _, alike in voxels.groupby("mean_bin"):
        edges = np.quantile(alike["deviation"][~alike["lesion"]], np.arange(1, BINS) / BINS)
        for _, here in alike.groupby(np.digitize(alike["deviation"], edges)):
            others, own = np.sort(here["score"][~here["lesion"]]), here["score"][here["lesion"]]
            below = np.searchsorted(others, own) + np.searchsorted(others, own, side="right")
            beaten.append(below / (2 * len(others)) if len(others) else np.full(len(own), 0.5))
    return float(np.concatenate(beaten).mean())


if __name__ == "__main__":
    main()
