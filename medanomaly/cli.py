"""The command line: a thin face over bundles and experiments. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Find what does not belong in a medical image, having learned from scans of healthy people only.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; the GPU if there is one, when not given.")]
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
    from medanomaly.experiments.demo import closing_words, run_demo

    run_demo(output, seed, **_settings(setting))
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
    data_root: Annotated[Path | None, typer.Option(help="What relative paths in the datalist start from.")] = None,
    brain: Annotated[str | None, typer.Option(help="given, nonzero, or a command with {image} and {mask}.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, patches and noise; 0 if not given.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in --output, with its data and settings.")
    ] = False,
    device: Device = None,
    setting: Setting = None,
) -> None:
    """Train a detector on healthy scans; go on with --resume."""
    from medanomaly.data import read_datalist
    from medanomaly.errors import ConfigError, InputError
    from medanomaly.experiments.bundles import copy_bundle, read_settings, run_bundle

    data: dict[str, Path] = {}  # what --resume is given, to compare with what the training was begun with
    most_epochs = {} if epochs is None else {"max_epochs": epochs}
    begun = (output / "checkpoints" / "last.pt").exists()
    if not begun and (output / "models" / "model.pt").exists():  # fitted at once, or checkpoints that were deleted
        raise InputError(
            f"{output} holds a finished model without checkpoints, so there is nothing to go on with: choose another "
            f"--output, or delete {output / 'models'} to train it again."
        )
    if resume and not begun:
        raise InputError(f"there is no training to go on with in {output}: correct --output, or leave out --resume.")
    if resume:
        if setting or brain is not None or seed is not None:
            raise ConfigError(f"--resume goes on with the settings in {output}: leave out --set, --brain and --seed.")
        root = output.resolve()
        if datalist is not None:
            data["datalist"] = datalist.absolute()
        if data_root is not None:
            data["dataset_dir"] = data_root.absolute()
    elif begun:
        raise InputError(f"{output} holds a training already: go on with it by --resume, or choose another --output.")
    else:
        if datalist is None:
            raise InputError("there is nothing to train on: name a datalist with --datalist (see README, 'Your data').")
        settings = {
            "dataset_dir": None if data_root is None else data_root.absolute(),
            "datalist": datalist.absolute(),
            "in_channels": len(read_datalist(datalist, "training", data_root)[0]["image"]),
            "seed": seed or 0,
            **({"region": brain} if brain is not None else {}),
            **most_epochs,
            **_settings(setting),
        }
        root = copy_bundle(bundle, output, settings)
    run_bundle(root, "train", resume=resume, **data, **most_epochs, **_device(device))
    trained = read_settings(root, "inference")
    channels = trained["in_channels"]
    scans = "SCAN" if channels == 1 else " ".join(f"CHANNEL{n + 1}" for n in range(channels))
    mask = "--brain MASK " if trained["region"] == "given" else ""
    print(f"\nThe model is in {root}. Score scans with it:")
    print(f"  medanomaly score {scans} {mask}--model {output} --output out")


@app.command()
def score(
    scans: Annotated[
        list[Path] | None,
        typer.Argument(help="Scans or folders; with a model of several channels, the files of one case in its order."),
    ] = None,
    model: Annotated[Path, typer.Option(help="Folder of a trained model.")] = ...,  # type: ignore[assignment]
    output: Annotated[Path, typer.Option(help="Folder for the heatmaps.")] = ...,  # type: ignore[assignment]
    datalist: Annotated[Path | None, typer.Option(help="Score a cohort instead of single scans.")] = None,
    section: Annotated[str, typer.Option(help="Section of the datalist.")] = "test",
    data_root: Annotated[Path | None, typer.Option(help="What relative paths in the datalist start from.")] = None,
    brain: Annotated[
        str | None,
        typer.Option(
            help="A mask file, 'given' (each case names its own), 'nonzero', or a command with {image} and {mask}."
        ),
    ] = None,
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
) -> None:
    """Write a heatmap for each scan, on the grid of that scan."""
    from medanomaly.data import cases_from_files, read_datalist, require_folder
    from medanomaly.errors import InputError
    from medanomaly.experiments.bundles import read_settings, run_bundle, sign_setting

    if bool(scans) == bool(datalist):
        raise InputError("name the scans to score, or a cohort with --datalist (one of the two).")
    require_folder(output)
    settings: dict[str, Any] = {"output_dir": output.absolute(), **_device(device), **sign_setting(model, sign)}
    if amp:
        settings["score_amp"] = True
    is_source = brain in ("given", "nonzero") or (brain is not None and "{mask}" in brain)
    if is_source:
        settings["region"] = brain
    if datalist is not None:
        if brain is not None and not is_source:
            raise InputError(
                "--brain with a mask file goes with a single scan; in a datalist, each case names its own 'brain'."
            )
        cases = read_datalist(datalist, section, data_root)
    else:
        channels = int(read_settings(model, "inference")["in_channels"])
        cases = cases_from_files(scans or [], channels, None if is_source else brain)
        if brain is not None and not is_source:
            settings["region"] = "given"
    run_bundle(model.resolve(), "inference", cases=tuple(cases), **settings)
    print(
        f"Heatmaps are in {output}/CASE/: load CASE_display.nii.gz over the scan (0 to 100: percent of normal brain "
        "that scores lower)."
    )


@app.command()
def evaluate(
    datalist: Annotated[Path, typer.Option(help="JSON whose section names a 'label' for each case.")],
    scores: Annotated[Path, typer.Option(help="Folder that 'medanomaly score' wrote.")],
    output: Annotated[Path | None, typer.Option(help="Folder for the results; SCORES/evaluation if not given.")] = None,
    model: Annotated[Path | None, typer.Option(help="The model; if not given, the one that made the scores.")] = None,
    section: Annotated[str, typer.Option(help="Section of the datalist.")] = "test",
    data_root: Annotated[Path | None, typer.Option(help="What relative paths in the datalist start from.")] = None,
    brain: Annotated[
        str | None, typer.Option(help="The command that the scores were made with, if it is not the model's own.")
    ] = None,
) -> None:
    """Voxel and case metrics in the brain, beside plain intensity."""
    from medanomaly.data import read_provenance, require_folder
    from medanomaly.errors import InputError
    from medanomaly.experiments.bundles import run_bundle, scored_settings

    provenance = read_provenance(scores)
    root = (model or Path(provenance["model"])).resolve()
    if model is None and not (root / "configs").is_dir():
        raise InputError(f"the model {root}, which made {scores}, is not there any more: name it with --model.")
    target = output or scores / "evaluation"
    require_folder(target)
    run_bundle(
        root,
        "evaluate",
        datalist=datalist.absolute(),
        dataset_dir=None if data_root is None else data_root.absolute(),
        section=section,
        scores_dir=scores.absolute(),
        output_dir=target.absolute(),
        **scored_settings(scores, provenance, root, brain),
    )
    print(f"Results are in {target}: metrics.json, detectors.csv, cases.csv, roc.png.")


@app.command()
def benchmark(
    name: Annotated[str, typer.Argument(help="fashion-mnist, toy-lesions or white-matter.")],
    detectors: Annotated[str | None, typer.Option(help="Names, comma between; all of them if not given.")] = None,
    seeds: Annotated[str, typer.Option(help="Whole numbers, comma between; a training for each.")] = "0,1,2",
    data_root: Annotated[Path | None, typer.Option(help="Folder of the benchmark's data.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the results; what is there is not run again.")] = Path(
        "results"
    ),
    reduced: Annotated[
        bool, typer.Option("--reduced", help="A short version, to see that all works; its figures mean nothing.")
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of the runs, such as test_patient=patient31; repeatable."),
    ] = None,
) -> None:
    """Train and test detectors on an experiment of a paper: a leaderboard, pictures, and a file for each run."""
    from medanomaly.errors import InputError

    try:
        numbers = [int(seed) for seed in seeds.split(",") if seed.strip()]
    except ValueError:
        raise InputError(f"--seeds {seeds!r} is no list of whole numbers: write --seeds 0,1,2.") from None
    names = None if detectors is None else [name.strip() for name in detectors.split(",") if name.strip()]
    from medanomaly.experiments.benchmark import run_benchmark

    folder = run_benchmark(name, names, numbers, data_root, output, reduced, _settings(setting))
    print(
        f"\nResults are in {folder}: leaderboard.md, leaderboard.csv, pictures, and results/ with a file for each run."
    )


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


def _device(device: str | None) -> dict[str, Any]:
    """The setting for ``--device``, if it names a device that this machine has."""
    if device is None:
        return {}
    import torch

    from medanomaly.errors import ConfigError

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {device} cannot be used here ({reason}): use cpu, or cuda with a GPU.") from error
    return {"device": torch.device(device)}


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
