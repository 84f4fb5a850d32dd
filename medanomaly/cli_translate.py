"""The commands ``medanomaly translate ...``: parsing only, over ``workflows.translate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medanomaly import terminal
from medanomaly.cli_options import AsJson, DataRoot, Device, Quiet, Setting, examples, settings_of

translate = typer.Typer(
    help="Experimental: translate one kind of scan into another, such as CT into MR, learned from scans that are not "
    "paired (SADGAN), and segment the other kind by the labels of the first."
)

Scans = Annotated[list[Path], typer.Argument(help="Scans, one a case.")]
Model = Annotated[Path, typer.Option(help="Folder that 'translate train' wrote.")]
Output = Annotated[Path, typer.Option(help="Folder for the results.")]
Region = Annotated[
    str | None, typer.Option("--brain", "--region", help="A mask file, or a way to find it; as trained if not given.")
]


@translate.command(
    epilog=examples(
        "medanomaly translate train --datalist unpaired.json --output runs/t1_to_t2",
        "medanomaly translate train --datalist ct.json --output runs/ct --set source=bone_ct --set target_region=all",
        "medanomaly translate train --output runs/t1_to_t2 --resume",
    )
)
def train(
    output: Annotated[Path, typer.Option(help="Folder of the new model.")],
    datalist: Annotated[
        Path | None, typer.Option(help="JSON with 'training' (source), 'target' and, with labels, 'validation'.")
    ] = None,
    data_root: DataRoot = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --output.")] = False,
    device: Device = None,
    setting: Setting = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn to translate the scans under 'training' into the kind of those under 'target'."""
    from medanomaly.workflows import translate as workflow

    root = workflow.train(
        datalist, output, data_root=data_root, resume=resume, device=device, settings=settings_of(setting)
    )
    words = f"\nThe model is in {root}. Use it:\n  medanomaly translate run SCAN --model {output} --output out"
    terminal.result(words, {"model": root})


@translate.command(epilog=examples("medanomaly translate run t1.nii.gz --model runs/t1_to_t2 --output out"))
def run(
    scans: Scans,
    model: Model,
    output: Output,
    region: Region = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Translate scans of the first kind, each on its own grid."""
    from medanomaly.workflows import translate as workflow

    written = workflow.translate(scans, model, output, region=region, device=device)
    terminal.result("\n".join(f"Translated: {path}" for path in written), {"translated": written})


@translate.command(epilog=examples("medanomaly translate segment mr.nii.gz --model runs/ct_to_mr --output out"))
def segment(
    scans: Scans,
    model: Model,
    output: Output,
    kind: Annotated[str, typer.Option(help="target, or source, which is translated first.")] = "target",
    region: Region = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Segment scans of the second kind by the labels of the first, each on its own grid."""
    from medanomaly.workflows import translate as workflow

    written = workflow.segment(scans, model, output, kind=kind, region=region, device=device)
    terminal.result("\n".join(f"Segmented: {path}" for path in written), {"segmentation": written})
