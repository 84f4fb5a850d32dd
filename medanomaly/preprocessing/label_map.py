"""A heatmap as labels on the grid of the scan, for programs that show label maps alone, such as MONAI Label."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform

from medanomaly.data.datalist import check_case_ids
from medanomaly.data.reading import AFFINE_TOLERANCE
from medanomaly.data.writing import SaveHeatmapd
from medanomaly.errors import InputError
from medanomaly.preprocessing.inverse import heatmap_to_scan, saving_steps


def heatmap_to_labels(
    preprocessing: Compose,
    threshold: float,
    output_dir: str | Path | None = None,
    display: Callable[[Any], Any] | None = None,
    monailabel_dir: str | Path | None = None,
) -> Compose:
    """As :func:`heatmap_to_scan`, files included, and then ``pred`` as labels: 1 above ``threshold``, 0 elsewhere.

    MONAI Label takes ``pred`` as the result. It names no cases, so the maps of what it asks for are called like the
    scan's file, in a folder of their own: those in ``output_dir`` belong to a run that says which model made them.

    Args:
        preprocessing, output_dir, display: see :func:`heatmap_to_scan`.
        threshold: a raw score.
        monailabel_dir: folder for the maps of cases without an id; None writes none.
    """
    steps = list(heatmap_to_scan(preprocessing).transforms)
    if output_dir is not None:
        other = None if monailabel_dir is None else SaveHeatmapd(monailabel_dir, display)
        steps.append(_SaveAnyd(Compose(saving_steps(output_dir, display)), other))
    return Compose([*steps, LabelMapd(threshold)])


class LabelMapd(MapTransform):
    """``pred``, raw scores (1, H, W, D) on the scan's grid, to labels: a NumPy array of uint8, 1 above ``threshold``.

    What is not a score (NaN) is 0. The metadata of ``image`` are made to say which grid that is, as the last step of
    MONAI Label reads there: it would otherwise resize the labels of a file with an axis more or less, and place those
    of a file that is not NIfTI anywhere.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__(keys="pred")
        self.threshold = float(threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        scores, image = case["pred"], case["image"]
        labels = (np.asarray(torch.as_tensor(scores).cpu()) > self.threshold).astype(np.uint8)
        affine, known = np.asarray(scores.affine, np.float64), image.meta.get("original_affine")
        if known is not None and np.shape(known) == affine.shape:
            exact = np.asarray(known, np.float64)  # without the rounding of the way there and back
            affine = exact if np.allclose(exact, affine, rtol=0, atol=AFFINE_TOLERANCE) else affine
        grid = {"spatial_shape": np.asarray(labels.shape[1:]), "original_affine": affine}
        case["image"] = MetaTensor(image, meta={**image.meta, **grid}, applied_operations=image.applied_operations)
        case["pred"] = labels
        return case


class _SaveAnyd(MapTransform):
    """Save a case with an id by ``save``, and the maps of one without by ``other``; there, a failure only warns."""

    def __init__(self, save: Compose, other: SaveHeatmapd | None) -> None:
        super().__init__(keys="pred")
        self.save, self.other = save, other

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        if "case" in case:
            return dict(self.save(case))
        if self.other is not None:
            try:
                (named,) = check_case_ids([{"image": [case["image"].meta["filename_or_obj"]]}], "MONAI Label")
                self.other({**case, "case": named["case"]})
            except (InputError, OSError) as error:  # the labels are what was asked for
                warnings.warn(f"the heatmap is not kept: {error}", stacklevel=2)
        return case
