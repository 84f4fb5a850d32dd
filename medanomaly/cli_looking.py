"""``medanomaly regions`` and ``medanomaly view``: parsing only, over ``workflows``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medanomaly import terminal
from medanomaly.cli_options import AsJson, Quiet


def regions(
    scores: Annotated[Path, typer.Argument(help="Folder that 'medanomaly score' wrote, or that of a case in it.")],
    fpr: Annotated[float, typer.Option(help="Share of normal voxels above the threshold.")] = 0.005,
    min_ml: Annotated[float, typer.Option(help="Smallest region, in ml.")] = 0.05,
    case: Annotated[str | None, typer.Option(help="One case; all if not given.")] = None,
    model: Annotated[Path | None, typer.Option(help="The model, if it was moved since.")] = None,
    dicom_seg: Annotated[
        Path | None,
        typer.Option(
            help="The DICOM series that the case was scored from: write a DICOM segmentation that refers to it, and "
            "names the patient as it does."
        ),
    ] = None,
    series: Annotated[
        str | None, typer.Option(metavar="SERIES", help="Which series of --dicom-seg: number or description.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """List what lies together above a threshold from normals; another threshold needs no new scoring."""
    from medanomaly.workflows import regions as run

    table = run(scores, fpr, min_ml, case=case, model=model, dicom_seg=dicom_seg, series=series)
    words = f"Written: regions.csv, regions.json and regions.nii.gz in {scores}, in the folder of each case."
    if dicom_seg is not None:
        words += "\nCASE_regions.dcm beside them names the patient, as the series does that it refers to."
    terminal.result(words, table.to_dict("records"))


def view(
    scores: Annotated[Path, typer.Argument(help="Folder that 'medanomaly score' wrote, or that of a case in it.")],
    case: Annotated[str | None, typer.Option(help="Which case, if there are several.")] = None,
    slicer: Annotated[
        bool, typer.Option("--slicer", help="Write a scene of 3D Slicer, and open it if that is installed.")
    ] = False,
    slicer_path: Annotated[
        Path | None, typer.Option(help="The program, if it is neither on PATH nor in $SLICER_HOME.")
    ] = None,
    scan: Annotated[
        list[Path] | None,
        typer.Option(help="The scan, if it was moved since, or is DICOM; repeatable, in the order of the channels."),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="SERIES", help="Which DICOM series of --scan: number or description; repeatable."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Look at a scored case: its report, or with --slicer a scene of 3D Slicer."""
    from medanomaly.workflows import view as run
    from medanomaly.workflows.view import closing_words

    where, opened = run(scores, case=case, slicer=slicer, slicer_path=slicer_path, scan=scan, series=series)
    terminal.result(closing_words(where, opened), {"file": where, "opened": opened})
