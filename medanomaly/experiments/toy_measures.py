"""What the toy experiment measures: heatmaps of heads with disks in them, and how normal patches are reconstructed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from medanomaly.data.lesion_factory import LesionFactory, made_shapes, shapes_from_masks
from medanomaly.evaluation import bootstrap_over_cases, roc_curve, voxel_metrics
from medanomaly.experiments.disks import disk_in_plane, insert_disk, place_disk
from medanomaly.experiments.slab_scores import SlabScores
from medanomaly.experiments.toy_heads import TISSUES, MadeLesionsd, prepare_heads
from medanomaly.patches import PatchSampler
from medanomaly.patches.layout import channels_last, device_of, plain
from medanomaly.workflows.scorers import Scorer

PLACES_SEED = 0  # of the disks' places and of the patches for the SSIM: the same for all detectors and seeds
ROC_POINTS = 25  # of each disk in a result file
REPLICATES = 200  # of the bootstrap

Heatmap = Callable[[Tensor, Tensor], Tensor]  # a version (C, H, W, D) and where it differs (H, W, D): scores (H, W, D)


class DiskHead:
    """The slices of one head in which the disks stand, and their heatmaps.

    Args:
        case: what ``prepare_heads`` makes.
        number: of the head; with ``PLACES_SEED`` it decides where the disks stand.
        scorer: of the run.
        options: of the run.
    """

    def __init__(
        self,
        case: Mapping[str, Any],
        number: int,
        scorer: Scorer,
        options: Mapping[str, Any],
    ) -> None:
        self.case, self.white_matter = str(case["case"]), float(case["white_matter"])
        self.tissue_thresholds: NDArray[np.floating[Any]] = case["tissue_thresholds"]
        self.spacing = np.linalg.norm(np.asarray(case["image"].affine)[:3, :3], axis=0)
        brain = plain(case["region"])[0] > 0
        rng = np.random.default_rng([PLACES_SEED, number])
        self.place = place_disk(brain.numpy(), self.spacing, options["diameter_mm"], options["height_mm"], rng)
        slices = slice(*self.place.slices)
        self.volume, self.brain = plain(case["image"])[..., slices].contiguous(), brain[..., slices].contiguous()
        self._score: Heatmap = lambda version, _: scorer.score(version[None], mask=self.brain[None, None])[0, 0]
        spec = scorer.spec
        if spec is not None and spec.stride <= spec.patch_size // 4:  # a voxel lies in many patches: few change
            batch_size = max(2**16 // spec.patch_size**2, 16)
            self._score = SlabScores(self.volume, self.brain, scorer.network, spec, batch_size).heatmap

    def description(self) -> dict[str, Any]:
        """What the head is, and where its disks stand."""
        return {
            "case": self.case,
            "spacing": [round(float(v), 4) for v in self.spacing],
            "white_matter_before_scaling": round(self.white_matter, 2),
            "disk_centre": self.place.centre,
            "disk_slices": self.place.slices,
        }

    def disk(self, diameter_mm: float) -> Tensor:
        """The disk's voxels in the brain: (H, W, D)."""
        in_plane = disk_in_plane(self.brain.shape[:2], self.place.centre, self.spacing, diameter_mm)
        return self.brain & torch.from_numpy(in_plane)[:, :, None]

    def version(self, disk: Tensor | None = None, intensity: float = 0.0) -> tuple[Tensor, Tensor]:
        """The volume with ``disk`` in it, and its heatmap, NaN outside the brain; both (H, W, D)."""
        changed = torch.zeros_like(self.brain) if disk is None else disk
        volume = insert_disk(self.volume, changed, intensity)
        heatmap = self._score(volume, changed)
        return volume[0], torch.where(self.brain, heatmap, torch.nan)

    def control(self) -> dict[str, dict[str, float]]:
        """Mean score, its standard deviation, mean intensity and share of the brain, by tissue, without a disk."""
        volume, heatmap = (v[self.brain].numpy() for v in self.version())
        tissue = np.digitize(volume, self.tissue_thresholds)
        return {
            name: {
                "score": float(heatmap[tissue == n].mean()),
                "score_sd": float(heatmap[tissue == n].std()),
                "intensity": float(volume[tissue == n].mean()),
                "share": float((tissue == n).mean()),
            }
            for n, name in enumerate(TISSUES)
            if (tissue == n).any()
        }


def measure_disk(heads: Sequence[DiskHead], diameter_mm: float, intensity: float) -> dict[str, Any]:
    """One disk in each of the heads: figures of each, and the ROC curve of their voxels pooled."""
    scores, labels, of_heads = [], [], []
    for head in heads:
        disk = head.disk(diameter_mm)
        scores.append(head.version(disk, intensity)[1][head.brain].numpy())
        labels.append(disk[head.brain].numpy())
        of_heads.append(voxel_metrics(scores[-1], labels[-1]))
    fpr, tpr = roc_curve(np.concatenate(scores), np.concatenate(labels), ROC_POINTS)
    result: dict[str, Any] = {"disk_voxels": [int(label.sum()) for label in labels]}
    for name in ("auroc", "average_precision"):
        values = [metrics[name] for metrics in of_heads]
        result[name] = {
            "mean": float(np.mean(values)),
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "heads": values,
        }
    result["roc"] = {"fpr": [round(float(v), 4) for v in fpr], "tpr": [round(float(v), 4) for v in tpr]}
    return result


def measure_made_lesions(
    scorer: Scorer, cases: Sequence[Mapping[str, Any]], options: Mapping[str, Any], data_root: Path | None
) -> dict[str, Any]:
    """Lesions of :class:`LesionFactory`, bright and dark, in each head; figures of all heads' voxels pooled.

    They are put into the grid of the scan ("scan"), and, for comparison, into the volume that was resampled from it
    ("resampled"), where they are sharper than what the scanner could have seen.

    The shapes are those of real lesions, of ``../open_ms/lesion_masks`` beside ``data_root``; without that folder they
    are made. The intervals (95 %) are a bootstrap over heads.

    Args:
        scorer: of the run.
        cases: with ``files``, the paths that they were prepared from.
        options: of the run; ``made_lesions`` has ``per_head`` lesions, and ``contrast``, least and most, in standard
            deviations of the tissue.
        data_root: folder of the heads.
    """
    masks = sorted((data_root.parent / "open_ms" / "lesion_masks").glob("*.nii*")) if data_root is not None else []
    shapes = shapes_from_masks(masks) if masks else made_shapes(100, np.random.default_rng(PLACES_SEED))
    kind = options["made_lesions"]
    factory = LesionFactory(shapes, n_lesions=kind["per_head"], contrast=tuple(kind["contrast"]))
    lesions, how = MadeLesionsd(factory, PLACES_SEED), (options["spacing"], options["white_matter"], 64)
    versions = {"scan": prepare_heads(*how, lesions), "resampled": Compose([prepare_heads(*how), lesions])}
    found = {
        name: _pooled(scorer.score, [prepare(case["files"]) for case in cases]) for name, prepare in versions.items()
    }
    return {
        **found,
        "shapes": f"{len(shapes)} lesions of {len(masks)} masks" if masks else f"{len(shapes)} made shapes",
    }


def _pooled(score: Callable[..., Tensor], cases: Sequence[Any]) -> dict[str, Any]:
    """Figures of heads with lesions."""
    scores, signs = [], []
    for case in cases:
        image, brain, where = (plain(case[key]) for key in ("image", "region", "label"))
        inside = brain[0].numpy() > 0
        scores.append(score(image[None], mask=brain[None])[0, 0].numpy()[inside])
        signs.append(where[0].numpy()[inside])
    pooled, sign = np.concatenate(scores), np.concatenate(signs)
    ranking = voxel_metrics(pooled, sign != 0)
    intervals = bootstrap_over_cases(scores, [s != 0 for s in signs], REPLICATES)
    return {
        **{key: ranking[key] for key in ("auroc", "average_precision", "prevalence", "n_voxels")},
        "best_dice_oracle": ranking["best_dice"],
        "intervals": {key: intervals[key] for key in ("auroc", "average_precision")},
        **{
            f"auroc_{name}": voxel_metrics(pooled[side * sign >= 0], side * sign[side * sign >= 0] > 0)["auroc"]
            for name, side in (("bright", 1), ("dark", -1))
            if (side * sign > 0).any()
        },
    }


@torch.inference_mode()
def ssim_of_normals(scorer: Scorer, cases: Sequence[Any], n_patches: int) -> dict[str, float] | None:
    """SSIM of normal patches and their reconstructions, once on the scale 0 to 1 and once on each patch's own range.

    Windows of 7 x 7 voxels, the defaults of scikit-image. The second is the stricter: where a patch is flat, noise
    counts. None if the detector reconstructs nothing.
    """
    reconstruct: Callable[[Tensor], Tensor] | None = getattr(scorer.network, "reconstruct", None)
    if reconstruct is None:
        return None
    patches = PatchSampler(cases, scorer.spec, flip=False, seed=PLACES_SEED).draw(n_patches)
    device = device_of(scorer.network, patches)
    made = torch.cat([reconstruct(channels_last(batch.to(device))).cpu() for batch in patches.split(16)])
    pairs = list(zip(patches[:, 0].numpy(), made[:, 0].float().numpy(), strict=True))
    unit = [structural_similarity(a, b, data_range=1.0) for a, b in pairs]  # type: ignore[no-untyped-call]
    own = [structural_similarity(a, b, data_range=float(np.ptp(a))) for a, b in pairs if np.ptp(a) > 0]  # type: ignore[no-untyped-call]
    return {
        "mean": float(np.mean(unit)),
        "sd": float(np.std(unit)),
        "own_range_mean": float(np.mean(own)),
        "own_range_sd": float(np.std(own)),
        "n_patches": len(unit),
    }
