"""Look at a scored case: its report in the browser, or a scene of 3D Slicer."""

from __future__ import annotations

import os
import shutil
import subprocess
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from medanomaly.data import scan_of_case, scored_cases
from medanomaly.errors import InputError

SLICER_PROGRAMS = ("Slicer", "Slicer.exe", "Contents/MacOS/Slicer")
ON_A_MAC = "/Applications/Slicer.app"


def view(
    scores: str | Path,
    *,
    case: str | None = None,
    slicer: bool = False,
    slicer_path: str | Path | None = None,
    scan: Sequence[str | Path] | None = None,
    series: Sequence[str | int] | None = None,
) -> tuple[Path, bool]:
    """Open the report of a case or of a cohort, or write a scene of 3D Slicer and open that.

    Args:
        scores: folder that :func:`~medanomaly.workflows.score` wrote, or the folder of a case in it.
        case: the id of a case; needed for a scene if there are several.
        slicer: a scene of 3D Slicer in place of the report.
        slicer_path: the program; looked for on ``PATH`` and in ``$SLICER_HOME`` if not given.
        scan, series: the files of the case's channels, if they were moved since, or are DICOM.

    Returns:
        The report or the ``.mrml`` file, and whether a program was started on it.

    Raises:
        InputError: if there is no such case, no report (of several cases, that of their evaluation), its scan is not
            there, or ``slicer_path`` is no program.
    """
    folder, cases = scored_cases(scores, case)
    if not slicer:
        several = len(cases) > 1
        report = (folder / "evaluation" if several else folder / cases[0]) / "report.html"
        if not report.exists() and several:
            raise InputError(
                f"{folder} holds several cases, and no report of them together: run medanomaly evaluate first, or "
                f"choose one of {', '.join(cases)} with --case."
            )
        if not report.exists():
            raise InputError(
                f"there is no report {report}: score the case again without --no-report, or look at it in 3D Slicer "
                "with --slicer."
            )
        return report, webbrowser.open(report.as_uri())
    if len(cases) > 1:
        raise InputError(f"{folder} holds several cases: choose one of {', '.join(cases)} with --case.")
    from medanomaly.report import write_slicer_scene

    program = find_slicer(slicer_path)
    scene = write_slicer_scene(folder, cases[0], scan_of_case(folder, cases[0], scan or (), series or ()))
    if program is not None:
        quiet = subprocess.DEVNULL  # and a session of its own, so that it stays when this program ends
        subprocess.Popen([program, str(scene)], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    return scene, program is not None


def find_slicer(path: str | Path | None = None) -> str | None:
    """The program 3D Slicer: ``path`` or what is in that folder, or in ``$SLICER_HOME``, or on ``PATH``; None if not.

    Raises:
        InputError: if ``path`` is given and leads to no program.
    """
    place = Path(path if path is not None else os.environ.get("SLICER_HOME") or ON_A_MAC)
    for file in (place, *(place / name for name in SLICER_PROGRAMS)):
        if file.is_file() and os.access(file, os.X_OK):
            return str(file)
    if path is not None:
        raise InputError(f"there is no program 3D Slicer at {path}: give the program, or the folder that it lies in.")
    return shutil.which("Slicer")


def closing_words(where: Path, opened: bool) -> str:
    """What was written, and how to open it if that was not done, for the terminal."""
    if where.suffix != ".mrml":
        return f"The report is {where}." if opened else f"Open {where} in a browser."
    words = f"The scene is {where}; the same in one file, to pass on, is {where.with_suffix('.mrb').name} beside it.\n"
    if opened:
        return words + "3D Slicer is starting on it."
    return words + (
        "3D Slicer was not found on PATH or in $SLICER_HOME: drag the scene into its window, or name the program with "
        "--slicer-path."
    )
