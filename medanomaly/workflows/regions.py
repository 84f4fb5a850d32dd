"""The regions of scored cases, at another threshold, without scoring again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medanomaly.data import scan_of_case, scored_cases
from medanomaly.data.dicom_series import is_dicom
from medanomaly.errors import InputError
from medanomaly.terminal import show

if TYPE_CHECKING:
    import pandas as pd


def regions(
    scores: str | Path,
    fpr: float = 0.005,
    min_ml: float = 0.05,
    *,
    case: str | None = None,
    model: str | Path | None = None,
    dicom_seg: str | Path | None = None,
    series: str | int | None = None,
) -> pd.DataFrame:
    """Write the regions of scored cases again: ``regions.csv``, ``.json`` and ``.nii.gz`` in the folder of each.

    Args:
        scores: folder that :func:`~medanomaly.workflows.score` wrote, or the folder of a case in it.
        fpr: the share of normal voxels above the threshold.
        min_ml: smaller regions are left out, in ml.
        case: the id of one case; all if not given.
        model: where the model that made the scores lies now, if it was moved.
        dicom_seg, series: the DICOM folder, zip or file that the case was scored from, and which series in it. Then
            ``CASE_regions.dcm`` is written, too: a segmentation that names the patient, as its source does.

    Returns:
        A row for each region of each case, see :class:`medanomaly.evaluation.Regions`, with ``case`` before.

    Raises:
        InputError: if there are no scores, their model is not there or was trained again since, a number cannot be
            used, or ``dicom_seg`` is not what the case was scored from.
    """
    import pandas as pd

    from medanomaly.evaluation import calibration_of_scores
    from medanomaly.report import region_table, write_dicom_seg, write_regions

    folder, cases = scored_cases(scores, case)
    if dicom_seg is not None:
        if len(cases) > 1:
            raise InputError(f"--dicom-seg is the series of one case: choose one of {', '.join(cases)} with --case.")
        (image, *_) = scan_of_case(folder, cases[0], [dicom_seg], [] if series is None else [series])
        if not is_dicom(image):
            raise InputError(f"{image} is no DICOM series, so no DICOM segmentation can refer to it.")
    calibration = calibration_of_scores(folder, model)
    tables = []
    for name in cases:
        found = write_regions(folder, name, calibration, fpr, min_ml)
        show(region_table(name, found))
        tables.append(found.table.assign(case=name))
    if dicom_seg is not None:
        write_dicom_seg(folder, cases[0], image)
    table = pd.concat(tables, ignore_index=True)
    return table[["case", *table.columns.drop("case")]]
