"""``medanomaly benchmark`` and ``medanomaly compose``: parsing only, over ``workflows`` and ``experiments``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medanomaly import terminal
from medanomaly.cli_options import (
    BRAINS,
    AsJson,
    Quiet,
    benchmark_detectors,
    benchmarks,
    completed_from,
    settings_of,
)
from medanomaly.shipped import chain_names, manifest_names


def benchmark(
    name: Annotated[
        str,
        typer.Argument(
            help="cohort, for one of your own; fashion-mnist, toy-lesions, white-matter-paper, white-matter, tumours, "
            "augmentation.",
            autocompletion=completed_from(benchmarks),
        ),
    ],
    datalist: Annotated[
        Path | None, typer.Option(help="Of cohort, white-matter(-paper), tumours: JSON with 'training' and 'test'.")
    ] = None,
    manifest: Annotated[
        str | None,
        typer.Option(
            help="Of cohort: a public dataset, such as open_ms, in place of a datalist.",
            autocompletion=completed_from(manifest_names),
        ),
    ] = None,
    detectors: Annotated[
        str | None,
        typer.Option(
            help="Names, comma between; all of them if not given.", autocompletion=completed_from(benchmark_detectors)
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Whole numbers, comma between; a training for each.")] = "0,1,2",
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the benchmark's data; what relative paths in --datalist start from.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the results; what is there is not run again.")] = Path(
        "results"
    ),
    chain: Annotated[
        str | None,
        typer.Option(
            help="Of cohort: how to prepare: brain_mri (if not given), radiograph, head_ct, bone_ct.",
            autocompletion=completed_from(chain_names),
        ),
    ] = None,
    brain: Annotated[
        str | None,
        typer.Option(help=f"Of cohort: {BRAINS}."),
    ] = None,
    reduced: Annotated[
        bool, typer.Option("--reduced", help="A short version, to see that all works; its figures mean nothing.")
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of the runs, such as test_patient=patient31; repeatable."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train and test detectors: a leaderboard, pictures, and a file for each run."""
    from medanomaly import workflows
    from medanomaly.errors import InputError
    from medanomaly.experiments import find_experiment
    from medanomaly.workflows.benchmark import run_benchmark

    try:
        numbers = [int(seed) for seed in seeds.split(",") if seed.strip()]
    except ValueError:
        raise InputError(f"--seeds {seeds!r} is not a list of whole numbers: write --seeds 0,1,2.") from None
    names = None if detectors is None else [name.strip() for name in detectors.split(",") if name.strip()]
    if name == "cohort":
        workflows.benchmark(
            datalist,
            names,
            numbers,
            output,
            manifest=manifest,
            data_root=data_root,
            chain=chain,
            region=brain,
            settings=settings_of(setting),
            reduced=reduced,
        )
    else:
        run_benchmark(
            find_experiment(name, datalist, data_root), names, numbers, data_root, output, reduced, settings_of(setting)
        )
    named = Path(manifest).stem if manifest else name
    folder = output / (f"{named}-reduced" if reduced else named)
    words = "leaderboard.md, leaderboard.csv, pictures, and results/ with a file for each run"
    found = {"folder": folder, "leaderboard": _rows(folder / "leaderboard.csv")} if as_json else None
    terminal.result(f"\nResults are in {folder}: {words}.", found)


def compose(
    bundles: Annotated[list[Path], typer.Argument(help="Folders of bundles, each with a model.json.")],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the configs of a detector of your own: what all bundles share, and its model.json."""
    from medanomaly.workflows.compose import write_configs

    for bundle in bundles:
        write_configs(bundle)
    words = [f"{bundle}/configs is written: medanomaly train --bundle {bundle} ..." for bundle in bundles]
    terminal.result("\n".join(words), {"bundles": bundles})


def _rows(file: Path) -> list[dict[str, Any]]:
    import pandas as pd

    return [{str(key): value for key, value in row.items()} for row in pd.read_csv(file).to_dict("records")]
