"""The command line: parsing only, over ``workflows`` and ``experiments``. Nothing heavy is imported before its time."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from medanomaly import terminal
from medanomaly.cli_bundle import bundle as bundle_commands
from medanomaly.cli_data import data
from medanomaly.cli_looking import regions, view
from medanomaly.cli_options import (
    BRAINS,
    AsJson,
    DataRoot,
    Device,
    Quiet,
    Section,
    Series,
    Setting,
    completed_from,
    examples,
    settings_of,
)
from medanomaly.cli_research import benchmark, compose
from medanomaly.cli_translate import translate
from medanomaly.shipped import bundle_names, chain_names

# Threads that wait sleep. By default they spin, and beside another process that keeps the cores busy they spin away the
# time in which the others could do the work: training took eight times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

EXIT_CODES = (
    "Exit codes: 0 done; 1 a fault of medanomaly itself, or of the machine; 2 an option or a setting cannot work; "
    "3 what was given cannot be used; 4 training went wrong; 130 interrupted."
)
START, LOOK, RESEARCH, MORE = "Start here", "Look at the results", "Compare and develop", "Data and bundles"

app = typer.Typer(
    help="Find what does not belong in a medical image, having learned from scans of healthy people only. A new scan "
    "gets a heatmap on its own grid, a table of suspicious regions and a report.",
    epilog="\n\n".join(
        [
            examples(
                "medanomaly demo",
                "medanomaly train --datalist cohort.json --output runs/mine",
                "medanomaly score scan.nii.gz --model runs/mine --output out",
                "medanomaly view out",
            ),
            EXIT_CODES,
        ]
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(rich_help_panel=START, epilog=examples("medanomaly demo --output demo --seed 0"))
def demo(
    output: Annotated[Path, typer.Option(help="Folder for everything that the demo writes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the made cohort and of the training.")] = 0,
    setting: Setting = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """The whole flow on a made cohort, in minutes, on a laptop."""
    from medanomaly.workflows.demo import closing_words
    from medanomaly.workflows.demo import demo as run

    found = run(output, seed, settings_of(setting))
    terminal.result(closing_words(output), found)


@app.command(
    rich_help_panel=START,
    epilog=examples(
        "medanomaly train --datalist cohort.json --output runs/mine",
        "medanomaly train --datalist cohort.json --output runs/mine --bundle fusion --set max_epochs=20",
        "medanomaly train --output runs/mine --resume",
    ),
)
def train(
    output: Annotated[Path, typer.Option(help="Folder of the new model, a MONAI bundle.")],
    datalist: Annotated[
        Path | None, typer.Option(help="JSON with 'training' and, better, 'validation': healthy cases only.")
    ] = None,
    bundle: Annotated[
        str,
        typer.Option(
            help="A bundle that comes with medanomaly, or the folder of one.",
            autocompletion=completed_from(bundle_names),
        ),
    ] = "ganomaly",
    data_root: DataRoot = None,
    chain: Annotated[
        str | None,
        typer.Option(
            help="The kind of image, if it is not brain MRI, such as radiograph or head_ct, or a JSON file.",
            autocompletion=completed_from(chain_names),
        ),
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
    quiet: Quiet = False,
    as_json: AsJson = False,
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
        settings=settings_of(setting),
    )
    terminal.result(closing_words(root, output), {"model": root, "weights": root / "models" / "model.pt"})


@app.command(
    rich_help_panel=START,
    epilog=examples(
        "medanomaly score scan.nii.gz --model runs/mine --output out",
        "medanomaly score flair.nii.gz t1.nii.gz --model runs/two_channels --output out --register",
        "medanomaly score dicom_folder/ --model runs/mine --output out --json",
        "medanomaly score --datalist cohort.json --model runs/mine --output out",
    ),
)
def score(
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Scans, folders, zips of DICOM; with a model of several channels, the files of one case in its order."
        ),
    ] = None,
    model: Annotated[
        Path, typer.Option(help="Folder of a trained model, or the name of one that comes with medanomaly.")
    ] = ...,  # type: ignore[assignment]
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
    series: Series = None,
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
    quiet: Quiet = False,
    as_json: AsJson = False,
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
    terminal.result(closing_words(table, output), table.to_dict("records"))


@app.command(
    rich_help_panel=START,
    epilog=examples("medanomaly calibrate --model runs/mine --datalist our_normals.json --output runs/mine_here"),
)
def calibrate(
    model: Annotated[
        Path,
        typer.Option(help="Folder of a trained model (or the name of one that comes along), which stays as it is."),
    ],
    datalist: Annotated[Path, typer.Option(help="JSON that names normal cases of your scanner.")],
    output: Annotated[Path, typer.Option(help="Folder of the model with the new thresholds.")],
    section: Section = "validation",
    data_root: DataRoot = None,
    brain: Annotated[
        str | None, typer.Option("--brain", "--region", help=f"{BRAINS}; as the model was trained if not given.")
    ] = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Take the thresholds of a model from your own normal scans, without training."""
    from medanomaly.workflows import calibrate as run
    from medanomaly.workflows.calibrate import closing_words

    root = run(model, datalist, output, section=section, data_root=data_root, region=brain, device=device)
    terminal.result(closing_words(root, output), {"model": root})


@app.command(epilog=examples("medanomaly evaluate --datalist cohort.json --scores out"), rich_help_panel=LOOK)
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
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Voxel and case metrics in the brain, beside plain intensity."""
    from medanomaly.workflows import evaluate as run

    found = run(datalist, scores, output=output, model=model, section=section, data_root=data_root, region=brain)
    folder = output or scores / "evaluation"
    terminal.result(f"Results are in {folder}: report.html, metrics.json, detectors.csv, cases.csv.", found)


look = examples("medanomaly regions out --fpr 0.001 --min-ml 0.1", "medanomaly regions out --json")
app.command(rich_help_panel=LOOK, epilog=look)(regions)
look = examples("medanomaly view out", "medanomaly view out --case case7 --slicer")
app.command(rich_help_panel=LOOK, epilog=look)(view)
app.command(
    rich_help_panel=RESEARCH,
    epilog=examples(
        "medanomaly benchmark cohort --datalist mine.json --detectors intensity,ganomaly,fusion --seeds 0,1",
        "medanomaly benchmark cohort --manifest open_ms --data-root open_ms --chain brain_mri",
        "medanomaly benchmark fashion-mnist --data-root fashion_mnist --reduced",
    ),
)(benchmark)
app.command(rich_help_panel=RESEARCH, epilog=examples("medanomaly compose bundles/my_detector"))(compose)
app.add_typer(data, name="data", no_args_is_help=True, rich_help_panel=MORE)
app.add_typer(translate, name="translate", no_args_is_help=True, rich_help_panel=MORE)
app.add_typer(bundle_commands, name="bundle", no_args_is_help=True, rich_help_panel=MORE)


def main() -> None:
    """Entry point: errors and warnings that are meant for people are printed without traces."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        app()
    except KeyboardInterrupt:
        words = "interrupted. Nothing is half-written; a training goes on with --resume, a benchmark by itself."
        terminal.tell_error(words, 130)
        sys.exit(130)
    except Exception as error:
        from medanomaly.errors import MedanomalyError

        if not isinstance(error, MedanomalyError) or os.environ.get("MEDANOMALY_TRACEBACK"):
            raise
        terminal.tell_error(str(error), error.exit_code)
        sys.exit(error.exit_code)
    finally:  # whoever calls this from Python wants to hear of what comes next
        terminal.be_quiet(False)
        terminal.answer_in_json(False)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any) -> None:
    """Of ours, what it says; of others, whose it is, too."""
    own = Path(__file__).parent in Path(filename).parents
    terminal.warn(str(message) if own else f"{category.__name__} of {Path(filename).name}: {message}")


if __name__ == "__main__":
    main()
