"""The commands ``medanomaly bundle ...``: parsing only, over ``workflows.publish``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medanomaly import terminal
from medanomaly.cli_options import AsJson, Quiet, examples

bundle = typer.Typer(help="Trained models as bundles to give away: for MONAI's commands, and for MONAI Label.")


@bundle.command(
    epilog=examples("medanomaly bundle publish flair_anomaly --model runs/mine --output published --region auto")
)
def publish(
    name: Annotated[str, typer.Argument(help="Of the bundle and its folder, such as flair_anomaly.")],
    model: Annotated[Path, typer.Option(help="Folder of a trained model.")],
    output: Annotated[Path, typer.Option(help="Where the folder NAME and NAME.zip are put.")],
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            "--brain",
            help="auto, given, nonzero, all, deepbet, hd-bet, synthstrip, or a command with {image} and {mask}; the "
            "model's own if not given. MONAI Label gives no masks.",
        ),
    ] = None,
    sign: Annotated[
        str | None, typer.Option(help="bright, dark or both, of detectors that tell; the model's own if not given.")
    ] = None,
    fpr: Annotated[float, typer.Option(help="Share of normal voxels above the threshold of the labels.")] = 0.005,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a bundle of a trained model: a folder and a zip, without what says who it was trained on."""
    from medanomaly.workflows.publish import closing_words
    from medanomaly.workflows.publish import publish as run

    folder = run(name, model, output, region=region, sign=sign, false_positive_rate=fpr)
    terminal.result(closing_words(folder), {"bundle": folder, "zip": folder.with_name(f"{folder.name}.zip")})
