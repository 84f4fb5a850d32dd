"""The commands ``medanomaly data ...``: parsing only, over ``workflows.datasets``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medanomaly import terminal
from medanomaly.cli_options import AsJson, Quiet, completed_from, examples
from medanomaly.shipped import manifest_names

data = typer.Typer(help="Public datasets and your own folders: check them, and write their datalists.")


@data.command("list")
def list_datasets(quiet: Quiet = False, as_json: AsJson = False) -> None:
    """The public datasets that are known."""
    from medanomaly.workflows.datasets import datasets, datasets_in_words

    found = datasets()
    terminal.result(datasets_in_words(found), found)


@data.command()
def describe(
    name: Annotated[
        str,
        typer.Argument(
            help="Of 'data list', or a manifest of your own.", autocompletion=completed_from(manifest_names)
        ),
    ],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Source, licence, layout and split of a public dataset."""
    from medanomaly.data.manifests import read_manifest
    from medanomaly.workflows.datasets import manifest_in_words

    content = read_manifest(name)
    terminal.result(manifest_in_words(content), content)


@data.command(
    epilog=examples(
        "medanomaly data index ixi --root ~/downloads/ixi --output ixi.json",
        "medanomaly data index --root bids --pattern 'sub-{case}/anat/*_FLAIR.nii.gz' --healthy group=control",
    )
)
def index(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A public dataset, of 'data list'; or give --pattern.", autocompletion=completed_from(manifest_names)
        ),
    ] = None,
    root: Annotated[Path, typer.Option(help="Folder of the download, or of your cohort.")] = ...,  # type: ignore[assignment]
    output: Annotated[Path, typer.Option(help="The datalist, which must not be there yet.")] = Path("datalist.json"),
    pattern: Annotated[
        str | None, typer.Option(help="Your own images: 'sub-{case}/anat/*_FLAIR.nii.gz', from --root.")
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="Comma between: FLAIR,T1w, for {channel} in the pattern.")
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", "--brain", help="Pattern of the masks of the region.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Pattern of the masks of lesions.")] = None,
    healthy: Annotated[
        str | None, typer.Option(metavar="COLUMN=VALUE", help="Who is healthy: of the table, or a word of the pattern.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="CSV or TSV; participants.tsv in --root if not given.")] = None,
    shares: Annotated[
        str | None, typer.Option(help="Of the patients: training=0.7,validation=0.15,test=0.15 if not given.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read the files, only look whether they are there.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Check a download, or your own folders, and write the datalist; all that is wrong is told."""
    from medanomaly.errors import InputError
    from medanomaly.workflows import datasets

    names = None if channels is None else [channel.strip() for channel in channels.split(",") if channel.strip()]
    own = {"region": region, "label": label, "healthy": healthy, "table": table, "shares": shares}
    if (name is None) == (pattern is None):
        raise InputError("name a public dataset (see 'medanomaly data list'), or give --pattern: one of the two.")
    if name is not None:
        useless = [f"--{option}" for option, value in own.items() if value is not None]
        if useless:
            raise InputError(f"{', '.join(useless)}: of {name} the manifest says that; they go with --pattern.")
        found = datasets.index_dataset(name, root, output, names, quick)
    else:
        found = datasets.index_folder(
            str(pattern), root, output, names, region, label, healthy, table, _shares(shares), quick
        )
    terminal.result(datasets.closing_words(found, output, name), {"datalist": output if found else None, **found})


def _shares(text: str | None) -> dict[str, float] | None:
    """``training=0.7,test=0.3`` as a dictionary."""
    from medanomaly.errors import InputError

    if text is None:
        return None
    try:
        pairs = [part.split("=") for part in text.split(",") if part.strip()]
        return {name.strip(): float(share) for name, share in pairs}
    except ValueError:
        raise InputError(f"--shares {text!r} is not a list: write training=0.7,validation=0.15,test=0.15.") from None
