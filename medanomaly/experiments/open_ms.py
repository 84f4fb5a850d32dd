"""The patients of the Open MS data (Lesjak et al. 2017) as the white-matter experiment takes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medanomaly.data import datalist_from_manifest, read_manifest, written_whole
from medanomaly.evaluation import bootstrap_over_cases
from medanomaly.evaluation.cohort_voxels import label_on_scan
from medanomaly.workflows.scorers import Scorer

REPLICATES = 200


def two_patients(data_root: Path, training: str, test: str) -> dict[str, list[dict[str, Any]]]:
    """One patient to train on and one to test on, with all channels: the sections of a datalist.

    Raises:
        InputError: if a scan is missing.
    """
    manifest = read_manifest("open_ms")
    roles = {"training": training, "test": test}
    chosen = {role: [{"case": name, "label": f"{name}/lesions.nii.gz"}] for role, name in roles.items()}
    return {**datalist_from_manifest({**manifest, **chosen}, data_root, manifest["channels"]), "validation": []}


def region_of_all_channels(case: Mapping[str, Any], folder: Path) -> str:
    """A mask file in ``folder`` of where any channel of a brain-extracted case is not 0.

    Detectors that see other channels are then measured on the same voxels.
    """
    file = folder / "regions" / f"{case['case']}.nii.gz"
    if not file.exists():
        images: list[Any] = [nib.load(path) for path in case["image"]]
        mask = np.any([np.nan_to_num(np.asarray(image.dataobj)) != 0 for image in images], axis=0)
        with written_whole(file) as temporary:
            nib.save(nib.Nifti1Image(mask.astype(np.uint8), images[0].affine), temporary)  # type: ignore[no-untyped-call]
    return str(file)


def by_slice(scorer: Scorer, case: Mapping[str, Any]) -> dict[str, Any]:
    """95 % intervals of AUROC and average precision by a bootstrap over the axial slices of one patient.

    Neighbouring slices are alike, so they are too narrow, and they say nothing of other patients.
    """
    heatmap, label = scorer.heatmap(case), label_on_scan(case)
    inside = np.isfinite(heatmap)
    slices = [z for z in range(heatmap.shape[2]) if inside[..., z].any()]
    scores, lesions = ([v[..., z][inside[..., z]] for z in slices] for v in (heatmap, label))
    found = bootstrap_over_cases(scores, lesions, REPLICATES)
    return {"intervals_over_slices": {key: list(found[key] or ()) for key in ("auroc", "average_precision")}}
