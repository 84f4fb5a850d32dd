"""The healthy heads of the toy experiment, with intensities of Madzia-Madzou & Kuijf: white matter 0.4 to 0.5."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, MapTransform, Orientationd, Spacingd
from monai.utils import convert_to_dst_type
from numpy.typing import NDArray
from skimage.filters import threshold_multiotsu

from medanomaly.data import LoadCased, datalist_from_manifest, make_demo_cohort, read_datalist
from medanomaly.data.demo_cohort import CONTRASTS
from medanomaly.data.lesion_factory import LesionFactory
from medanomaly.errors import InputError
from medanomaly.preprocessing.normalisation import apart_from_background
from medanomaly.preprocessing.region_mask import RegionMaskd

TISSUES = ("csf", "grey matter", "white matter")  # from dark to bright, as T1 has them
DEMO_SUBJECTS = {"n_training": 8, "n_validation": 3}

Cohort = dict[str, list[dict[str, Any]]]


def healthy_heads(data_root: Path | None, folder: Path, n_volumes: int) -> Cohort:
    """The cases to train, to validate and to test with; all are healthy, one T1 image each.

    Args:
        data_root: the folder of ``T1`` and ``brain_mask``; None takes the made demo cohort.
        folder: for the made cohort.
        n_volumes: test cases.

    Raises:
        InputError: if a file is missing, or there are fewer test cases.
    """
    cohort = _made_heads(folder, n_volumes) if data_root is None else _ixi_heads(data_root)
    if len(cohort["test"]) < n_volumes:
        raise InputError(
            f"{n_volumes} healthy heads are needed to test with, but the cohort has {len(cohort['test'])}: lower "
            "n_volumes."
        )
    cohort["test"] = cohort["test"][:n_volumes]
    return cohort


def _ixi_heads(data_root: Path) -> Cohort:
    return datalist_from_manifest("ixi_t1", data_root)


def _made_heads(folder: Path, n_volumes: int) -> Cohort:
    datalist = folder / "cohort" / "datalist.json"
    if not datalist.exists():  # every second test subject has lesions
        make_demo_cohort(datalist.parent, **DEMO_SUBJECTS, n_test=2 * n_volumes)
    cohort = {section: read_datalist(datalist, section) for section in ("training", "validation", "test")}
    cohort["test"] = [case for case in cohort["test"] if not np.any(nib.load(case["label"]).dataobj)]  # type: ignore[attr-defined]
    t1 = list(CONTRASTS).index("t1")
    return {
        section: [{"case": case["case"], "image": [case["image"][t1]], "region": case["region"]} for case in cases]
        for section, cases in cohort.items()
    }


def prepare_heads(
    spacing: Sequence[float], white_matter: float, margin: int, lesions: MapTransform | None = None
) -> Compose:
    """Paths of a case to ``image`` and ``brain`` (1, H, W, D): RAS, at ``spacing``, the white matter at its level.

    The volume is cut to the brain. See :class:`WhiteMatterToLeveld` for what it adds to the case.

    Args:
        spacing: voxel size in mm.
        white_matter: level of the white matter.
        margin: voxels kept around the brain in axial slices: the side of a patch, so that none is lost.
        lesions: puts lesions into the head, on the grid of the scan: put in later, they would lack the blur of
            resampling, and a detector would find that. It gives ``label``, which is resampled, too.
    """
    brain, keys = ("image", "region"), ("image", "region", *(() if lesions is None else ("label",)))
    modes = ("bilinear", "nearest", "nearest")[: len(keys)]
    return Compose(
        [
            LoadCased(1),
            RegionMaskd("given"),
            Orientationd(brain, axcodes="RAS", labels=None),
            *(() if lesions is None else (lesions,)),
            Spacingd(keys, pixdim=tuple(spacing), mode=modes, dtype=np.float32),
            CropForegroundd(keys, source_key="region", margin=(margin, margin, 0), allow_smaller=True),
            WhiteMatterToLeveld(white_matter),
        ]
    )


def tissue_thresholds(values: NDArray[np.floating[Any]], file: str = "the image") -> NDArray[np.floating[Any]]:
    """The two intensities that part CSF, grey and white matter on T1: Otsu's criterion for three classes.

    Args:
        values: (N,) of the brain.
        file: named in the error.

    Raises:
        InputError: if the values have fewer than three levels.
    """
    usual = values[values <= np.percentile(values, 99.9)]  # vessels would take most of the histogram's bins
    try:
        thresholds: NDArray[np.floating[Any]] = threshold_multiotsu(usual, classes=3, nbins=128)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise InputError(
            f"the brain in {file} has no three tissues ({error}): are it and its brain mask those of a T1?"
        ) from error
    return thresholds


class MadeLesionsd(MapTransform):
    """Puts made lesions into ``image`` and adds ``label`` (1, H, W, D): 1 where brighter, -1 where darker, else 0.

    Args:
        factory: what makes them.
        seed: of the lesions, with the case's id.
    """

    def __init__(self, factory: LesionFactory, seed: int = 0) -> None:
        super().__init__(keys="image")
        self.factory, self.seed = factory, seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        image, brain = (np.asarray(case[key].as_tensor()) for key in ("image", "region"))
        spacing = np.linalg.norm(np.asarray(case["image"].affine)[:3, :3], axis=0)
        rng = np.random.default_rng([self.seed, *str(case["case"]).encode()])
        made, where = self.factory(image, brain[0] > 0, spacing.tolist(), rng)
        case["image"] = MetaTensor(torch.from_numpy(made), meta=case["image"].meta)
        case["label"] = MetaTensor(torch.from_numpy(where[None].astype(np.float32)), meta=case["region"].meta)
        return case


class WhiteMatterToLeveld(MapTransform):
    """Multiply ``image`` so that the median of the white matter in ``brain`` becomes ``level``; 0 outside the brain.

    White matter is the brightest of the three classes of :func:`tissue_thresholds`. (The mode of the histogram will
    not do: in scans with a bias field it is often that of the grey matter.) The case gets ``white_matter``, the
    median before, and ``tissue_thresholds``, on the new scale.
    """

    def __init__(self, level: float = 0.45) -> None:
        super().__init__(keys="image")
        self.level = level

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        inside = case["region"] > 0
        values = np.asarray(case["image"].as_tensor()[inside.as_tensor()])
        thresholds = tissue_thresholds(values, str(case["image"].meta.get("filename_or_obj", "the image")))
        median = float(np.median(values[values > thresholds[-1]]))
        scale = self.level / median
        scaled = np.asarray(case["image"].as_tensor()) * np.float32(scale)
        levelled = np.where(np.asarray(inside.as_tensor()), apart_from_background(scaled), np.float32(0))
        case["image"] = convert_to_dst_type(levelled, case["image"])[0]
        case["white_matter"], case["tissue_thresholds"] = median, thresholds * scale
        return case
