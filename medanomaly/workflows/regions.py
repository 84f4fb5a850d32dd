"""The regions of scored cases, at another threshold, without scoring again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medanomaly.data import scored_cases

if TYPE_CHECKING:
    import pandas as pd


def regions(
    scores: str | Path,
    fpr: float = 0.005,
    min_ml: float = 0.05,
    *,
    case: str | None = None,
    model: str | Path | None = None,
) -> pd.DataFrame:
    """Write the regions of scored cases again: ``regions.csv``, ``.json`` and ``.nii.gz`` in the folder of each.

    Args:
        scores: folder that :func:`~medanomaly.workflows.score` wrote, or the folder of a case in it.
        fpr: the share of normal voxels above the threshold.
        min_ml: smaller regions are left out, in ml.
        case: the id of one case; all if not given.
        model: where the model that made the scores lies now, if it was moved.

    Returns:
        A row for each region of each case, see :class:`medanomaly.evaluation.Regions`, with ``case`` before.

    Raises:
        InputError: if there are no scores, their model is not there or was trained again since, or a number cannot be
            used.
    """
    import pandas as pd

    from medanomaly.evaluation import calibration_of_scores
    from medanomaly.report import region_table, show, write_regions

    folder, cases = scored_cases(scores, case)
    calibration = calibration_of_scores(folder, model)
    tables = []
    for name in cases:
        found = write_regions(folder, name, calibration, fpr, min_ml)
        show(region_table(name, found))
        tables.append(found.table.assign(case=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["case", *table.columns.drop("case")]]
