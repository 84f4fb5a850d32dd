"""The command line: parsing only, over ``workflows`` and ``experiments``. Nothing heavy is imported before its time."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from medanomaly.cli_bundle import bundle as bundle_commands
from medanomaly.cli_data import data
from medanomaly.cli_looking import regions, view

# Threads that wait sleep. By default they spin, and beside another process that keeps the cores busy they spin away the
# time in which the others could do the work: training took eight times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

app = typer.Typer(
    help="Find what does not belong in a medical image, having learned from scans of healthy people only.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data, name="data", no_args_is_help=True)
app.add_typer(bundle_commands, name="bundle", no_args_is_help=True)

Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; the GPU if there is one, when not given.")]
BRAINS = "auto (the case's own mask, or deepbet), given, nonzero, all, deepbet, hd-bet, synthstrip, or a command"
DataRoot = Annotated[Path | None, typer.Option(help="What relative paths in the datalist start from.")]
Section = Annotated[str, typer.Option(help="Section of the datalist.")]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the bundle, such as patch_size=32; repeatable."),
]


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for everything that the demo writes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the made cohort and of the training.")] = 0,
    setting: Setting = None,
) -> None:
    """The whole flow on a made cohort, in minutes, on a laptop."""
    from medanomaly.workflows.demo import closing_words
    from medanomaly.workflows.demo import demo as run

    run(output, seed, _settings(setting))
    print(closing_words(output))


@app.command()
def train(
    output: Annotated[Path, typer.Option(help="Folder of the new model, a MONAI bundle.")],
    datalist: Annotated[
        Path | None, typer.Option(help="JSON with 'training' and, better, 'validation': healthy cases only.")
    ] = None,
    bundle: Annotated[
        str, typer.Option(help="A bundle that comes with medanomaly, or the folder of one.")
    ] = "ganomaly",
    data_root: DataRoot = None,
    chain: Annotated[
        str | None,
        typer.Option(help="The kind of image, if it is not brain MRI, such as radiograph or head_ct, or a JSON file."),
    ] = None,
    brain: Annotated[
        str | None,
        typer.Option(
            "--brain",
            "--region",
            help=f"{BRAINS}; auto if not given.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, patches and noise; 0 if not given.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in --output, with its data and settings.")
    ] = False,
    device: Device = None,
    setting: Setting = None,
) -> None:
    """Train a detector on healthy scans; go on with --resume."""
    from medanomaly.workflows.train import closing_words
    from medanomaly.workflows.train import train as run

    root = run(
        datalist,
        output,
        bundle=bundle,
        chain=chain,
        data_root=data_root,
        region=brain,
        epochs=epochs,
        seed=seed,
        resume=resume,
        device=device,
        settings=_settings(setting),
    )
    print(closing_words(root, output))


@app.command()
def score(
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Scans, folders, zips of DICOM; with a model of several channels, the files of one case in its order."
        ),
    ] = None,
    model: Annotated[Path, typer.Option(help="Folder of a trained model.")] = ...,  # type: ignore[assignment]
    output: Annotated[Path, typer.Option(help="Folder for the heatmaps.")] = ...,  # type: ignore[assignment]
    datalist: Annotated[Path | None, typer.Option(help="Score a cohort instead of single scans.")] = None,
    section: Section = "test",
    data_root: DataRoot = None,
    brain: Annotated[
        str | None,
        typer.Option(
            "--brain",
            "--region",
            help=f"A mask file, {BRAINS}; the model's own way, mostly auto, if not given.",
        ),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="NUMBER|DESCRIPTION", help="Which DICOM series of a folder or zip; repeatable."),
    ] = None,
    register: Annotated[
        bool,
        typer.Option("--register", help="Align the further channels of a case with the first; they may lie anywhere."),
    ] = False,
    sign: Annotated[
        str | None,
        typer.Option(
            help="bright, dark or both, of detectors that tell; both, unless the model was trained otherwise."
        ),
    ] = None,
    amp: Annotated[
        bool, typer.Option("--amp", help="Score in bfloat16: faster where the processor has it, and nearly the same.")
    ] = False,
    device: Device = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write a report for each case, an HTML file to look at.")
    ] = True,
) -> None:
    """Write a heatmap for each scan, on the grid of that scan."""
    from medanomaly.workflows import score as run
    from medanomaly.workflows.score import closing_words

    table = run(
        scans,
        model,
        output,
        datalist=datalist,
        section=section,
        data_root=data_root,
        region=brain,
        series=series,
        register=register,
        sign=sign,
        amp=amp,
        device=device,
        report=report,
    )
    print(closing_words(table, output))


@app.command()
def evaluate(
    datalist: Annotated[Path, typer.Option(help="JSON whose section names a 'label' for each case.")],
    scores: Annotated[Path, typer.Option(help="Folder that 'medanomaly score' wrote.")],
    output: Annotated[Path | None, typer.Option(help="Folder for the results; SCORES/evaluation if not given.")] = None,
    model: Annotated[Path | None, typer.Option(help="The model; if not given, the one that made the scores.")] = None,
    section: Section = "test",
    data_root: DataRoot = None,
    brain: Annotated[
        str | None,
        typer.Option("--brain", "--region", help="The command that the scores were made with, if not the model's own."),
    ] = None,
) -> None:
    """Voxel and case metrics in the brain, beside plain intensity."""
    from medanomaly.workflows import evaluate as run

    run(datalist, scores, output=output, model=model, section=section, data_root=data_root, region=brain)
    print(f"Results are in {output or scores / 'evaluation'}: report.html, metrics.json, detectors.csv, cases.csv.")


app.command()(regions)
app.command()(view)


@app.command()
def benchmark(
    name: Annotated[str, typer.Argument(help="cohort, for one of your own; fashion-mnist, toy-lesions, white-matter.")],
    datalist: Annotated[
        Path | None, typer.Option(help="Of cohort, and of white-matter: JSON with 'training' and 'test'.")
    ] = None,
    manifest: Annotated[
        str | None, typer.Option(help="Of cohort: a public dataset, such as open_ms, in place of a datalist.")
    ] = None,
    detectors: Annotated[str | None, typer.Option(help="Names, comma between; all of them if not given.")] = None,
    seeds: Annotated[str, typer.Option(help="Whole numbers, comma between; a training for each.")] = "0,1,2",
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the benchmark's data; what relative paths in --datalist start from.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the results; what is there is not run again.")] = Path(
        "results"
    ),
    chain: Annotated[
        str | None,
        typer.Option(help="Of cohort: how to prepare: brain_mri (if not given), radiograph, head_ct, bone_ct."),
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
            settings=_settings(setting),
            reduced=reduced,
        )
    else:
        run_benchmark(find_experiment(name, datalist), names, numbers, data_root, output, reduced, _settings(setting))
    named = Path(manifest).stem if manifest else name
    folder = output / (f"{named}-reduced" if reduced else named)
    print(
        f"\nResults are in {folder}: leaderboard.md, leaderboard.csv, pictures, and results/ with a file for each run."
    )


@app.command()
def compose(
    bundles: Annotated[list[Path], typer.Argument(help="Folders of bundles, each with a model.json.")],
) -> None:
    """Write the configs of a detector of your own: what all bundles share, and its model.json."""
    from medanomaly.workflows.compose import write_configs

    for bundle in bundles:
        write_configs(bundle)
        print(f"{bundle}/configs is written: medanomaly train --bundle {bundle} ...")


def main() -> None:
    """Entry point: errors that are meant for people end with their message and exit code 1."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        app()
    except KeyboardInterrupt:
        print(
            "\nInterrupted. Nothing is half-written; a training goes on with --resume, a benchmark by itself.",
            file=sys.stderr,
        )
        sys.exit(130)
    except Exception as error:
        from medanomaly.errors import MedanomalyError

        if not isinstance(error, MedanomalyError) or os.environ.get("MEDANOMALY_TRACEBACK"):
            raise
        print(f"\nError: {error}", file=sys.stderr)
        sys.exit(1)


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` pairs; a value that is JSON is read as such, anything else is text."""
    from medanomaly.errors import ConfigError

    settings: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair!r} has no value: write KEY=VALUE, such as --set patch_size=32.")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings


if __name__ == "__main__":
    main()
