"""Benchmarks: the same detectors, trained and tested over and over, into result files, a leaderboard and pictures.

Each experiment is a module with ``DETECTORS`` (the names that it knows, in the order of its table), ``runs``,
``perform``, ``origin`` (for a run, what it was trained on and how its settings were chosen), ``leaderboard`` and
``pictures``; see ``fashion_mnist.py``. In the table that ``leaderboard`` returns, a
column "X sd" is the spread of the column "X", and is shown behind it. ``paper_table``, if there is one, gives a table
in Markdown of our figures beside those of the paper.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch

import medanomaly
from medanomaly.data import check_case_id, require_folder, written_whole
from medanomaly.detectors import Detector, detector_class
from medanomaly.errors import ConfigError, InputError
from medanomaly.experiments.provenance import current_commit, machine, provenance_lines
from medanomaly.report.leaderboards import leaderboard_table, markdown_table
from medanomaly.report.tables import number, show, terminal
from medanomaly.training import DetectorTrainer, load_detector

EXPERIMENTS = {
    "fashion-mnist": "medanomaly.experiments.fashion_mnist",
    "toy-lesions": "medanomaly.experiments.toy_lesions",
    "white-matter": "medanomaly.experiments.white_matter",
}

# name in the tables -> (name of the detector, arguments)
DETECTOR_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "one-class-svm": ("one_class_svm", {}),
    "one-class-svm-nu0.1": ("one_class_svm", {"nu": 0.1}),
    "one-class-svm-nu0.05": ("one_class_svm", {"nu": 0.05}),
    "one-class-svm-nu0.01": ("one_class_svm", {"nu": 0.01}),
    "ganomaly-a": ("ganomaly", {"variant": "A"}),
    "ganomaly-k": ("ganomaly", {"variant": "K"}),
    "progressive-ganomaly": ("progressive_ganomaly", {}),
    "autoencoder-spatial": ("autoencoder", {"kind": "spatial"}),
    "autoencoder-dense": ("autoencoder", {"kind": "dense"}),
    "denoising-autoencoder": ("denoising_autoencoder", {}),
    "foreign-patch-interpolation": ("foreign_patch_interpolation", {}),
    "synthetic-anomalies": ("synthetic_anomalies", {}),
    "fusion": ("fusion", {}),
}


@dataclass(frozen=True)
class Run:
    """One training and its test.

    Args:
        detector: its name in the tables: a key of ``DETECTOR_SETTINGS``, or a baseline of the experiment.
        setting: which part of the experiment it belongs to: "16px", "flair-16px", "boots".
        seed: of the weights, the training and the split.
        settings: as JSON: everything else that decides the result (patch_size, max_epochs, ...).
    """

    detector: str
    setting: str
    seed: int
    settings: dict[str, Any]

    @property
    def id(self) -> str:
        """Name of the result file and of the folder of the training."""
        return f"{self.detector}_{self.setting}_seed{self.seed}"


def make_detector(name: str, seed: int, **arguments: Any) -> Detector:
    """The untrained detector ``name`` of ``DETECTOR_SETTINGS``, its weights drawn by ``seed``.

    Raises:
        ConfigError: if there is none of that name, or an argument cannot work.
    """
    if name not in DETECTOR_SETTINGS:
        raise ConfigError(f"there is no detector {name!r} to train; there are {', '.join(DETECTOR_SETTINGS)}.")
    kind, settings = DETECTOR_SETTINGS[name]
    torch.manual_seed(seed)
    return detector_class(kind)(**{**settings, **arguments})


def train_detector(
    network: Detector,
    training: Any,
    validation: Any,
    folder: Path,
    seed: int,
    max_epochs: int,
    patience: int,
    decay: bool,
    amp: bool,
) -> Detector:
    """Train ``network`` in ``folder``, on a GPU if there is one, or go on where an earlier training there stood.

    Args:
        training, validation: a ``PatchSampler``, or what has its ``__len__``, ``__iter__`` and ``set_epoch``.
        folder: for ``checkpoints/`` and the finished ``model.pt``; where that is, nothing is trained.
        seed, max_epochs, patience, decay, amp: see ``DetectorTrainer``.

    Returns:
        ``network`` with the weights of ``model.pt``, on the CPU, in eval mode.
    """
    model_file = folder / "model.pt"
    if not model_file.exists():
        DetectorTrainer(
            "cuda" if torch.cuda.is_available() else "cpu",
            max_epochs,
            training,
            network,
            validation,
            ckpt_dir=folder / "checkpoints",
            model_file=model_file,
            patience=patience,
            seed=seed,
            resume=True,
            decay=decay,
            amp=amp,
            progress=False,
        ).run()
    load_detector(network.cpu(), model_file)
    return network


def grouped(results: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The results of each (detector, setting), one a seed, in the order in which they come."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["detector"], result["setting"]), []).append(result)
    return groups


def run_benchmark(
    experiment_name: str,
    detectors: Sequence[str] | None,
    seeds: Sequence[int],
    data_root: str | Path | None,
    output: str | Path,
    reduced: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Make the runs of an experiment that are not yet made, and the leaderboard and pictures of all that are.

    What has a result file is not run again, and a run that was interrupted goes on where its training stood; so several
    processes can work on different detectors of one folder side by side.

    Args:
        experiment_name: a key of ``EXPERIMENTS``.
        detectors: names in the experiment's ``DETECTORS``; all of them if None.
        seeds: one training each; a baseline without randomness takes the first alone.
        data_root: folder of the experiment's data.
        output: gets ``<experiment>/`` (``<experiment>-reduced/``) with ``results/``, ``runs/``, ``leaderboard.csv``,
            ``leaderboard.md`` and PNGs.
        reduced: the short version, to see that all works; its figures mean nothing.
        settings: in place of the experiment's own, for runs that have them: ``{"test_patient": "patient31"}``.

    Returns:
        That folder.

    Raises:
        InputError: for an unknown experiment, detector or setting, an empty list, data that is not there, an ``output``
            that is a file, or results in it that were made with other settings.
    """
    experiment = _find_experiment(experiment_name)
    detectors = list(dict.fromkeys(experiment.DETECTORS if detectors is None else detectors))
    seeds = list(dict.fromkeys(seeds))
    _check_names(experiment_name, detectors, experiment.DETECTORS)
    if not seeds:
        raise InputError("there are no seeds: name at least one, such as --seeds 0.")
    data_root = None if data_root is None else Path(data_root)
    require_folder(output)
    folder = Path(output) / (f"{experiment_name}-reduced" if reduced else experiment_name)
    planned = _changed(experiment.runs(detectors, seeds, reduced), settings or {})
    for run in planned:
        _check_settings(run, folder)
    commit = current_commit()  # of the code that runs, whatever happens to the files meanwhile

    for n, run in enumerate(planned, start=1):
        file = folder / "results" / f"{run.id}.json"
        if file.exists():
            print(f"[{n}/{len(planned)}] {run.id}: done already, {file}", flush=True)
            continue
        print(f"[{n}/{len(planned)}] {run.id}", flush=True)
        with _timed(folder / "runs" / run.id, run.settings) as clock:
            metrics = experiment.perform(run, data_root, folder / "runs" / run.id)
        result = {
            "experiment": experiment_name,
            "detector": run.detector,
            "setting": run.setting,
            "seed": run.seed,
            "settings": run.settings,
            "changed_settings": {key: run.settings[key] for key in settings or {} if key in run.settings},
            **experiment.origin(run),
            "commit": commit,
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "version": medanomaly.__version__,
            "machine": machine(),
            "seconds": round(clock["seconds"], 1),
            "metrics": metrics,
        }
        _write_json(file, result)
        print(f"      {result['seconds']:.0f} s; {_headline(experiment.leaderboard([result]))}", flush=True)
        _write_summary(experiment, folder, data_root)
    show(leaderboard_table(_write_summary(experiment, folder, data_root), folder.name, terminal().width))
    return folder


def _find_experiment(name: str) -> ModuleType:
    if name not in EXPERIMENTS:
        raise InputError(f"there is no benchmark {name!r}; there are {', '.join(EXPERIMENTS)}.")
    return import_module(EXPERIMENTS[name])


def _check_names(experiment: str, detectors: Sequence[str], known: Sequence[str]) -> None:
    if not detectors:
        raise InputError(f"there are no detectors: name some of {', '.join(known)}.")
    for name in detectors:
        if name not in known:
            raise InputError(f"the benchmark {experiment} has no detector {name!r}; it has {', '.join(known)}.")


def _changed(planned: Sequence[Run], settings: Mapping[str, Any]) -> list[Run]:
    """The runs with other settings, where they have them."""
    known = sorted({key for run in planned for key in run.settings})
    for key in settings:
        if key not in known:
            raise InputError(f"these runs have no setting {key!r}; they have {', '.join(known)}.")
        if key.endswith("_patient"):  # it names a folder of data, and folders of results
            check_case_id(str(settings[key]), f"--set {key} is")
    return [
        replace(run, settings={key: settings.get(key, value) for key, value in run.settings.items()}) for run in planned
    ]


def _check_settings(run: Run, folder: Path) -> None:
    """Raise InputError if ``folder`` holds this run, finished or begun, with other settings."""
    wanted = json.loads(json.dumps(run.settings))  # as a file would give them back: tuples are lists
    for file in (folder / "results" / f"{run.id}.json", folder / "runs" / run.id / "run.json"):
        found = _read_json(file)["settings"] if file.exists() else wanted
        for key in sorted(wanted.keys() | found.keys()):
            if wanted.get(key) != found.get(key):
                raise InputError(
                    f"{file} was made with {key}={found.get(key)!r}, and {key}={wanted.get(key)!r} is asked for: "
                    f"choose another --output, or delete that file and {folder / 'runs' / run.id} to run it again."
                )


@contextmanager
def _timed(folder: Path, settings: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    """Seconds spent on a run, with those before an interruption: ``run.json`` keeps them, and the settings."""
    file = folder / "run.json"
    clock = {"seconds": float(_read_json(file)["seconds"]) if file.exists() else 0.0}
    _write_json(file, {"settings": settings, **clock})
    start = time.perf_counter()
    try:
        yield clock
    finally:
        clock["seconds"] += time.perf_counter() - start
        _write_json(file, {"settings": settings, **clock})


def _write_summary(experiment: ModuleType, folder: Path, data_root: Path | None) -> pd.DataFrame:
    """The leaderboard and the pictures of all results in ``folder``, whichever process made them."""
    results = [_read_json(file) for file in sorted((folder / "results").glob("*.json"))]
    place = {name: number for number, name in enumerate(experiment.DETECTORS)}
    results.sort(key=lambda result: (place.get(result["detector"], len(place)), result["setting"], result["seed"]))
    frame: pd.DataFrame = experiment.leaderboard(results)
    with written_whole(folder / "leaderboard.csv") as temporary:
        frame.to_csv(temporary, index=False)
    with written_whole(folder / "leaderboard.md") as temporary:
        parts = [markdown_table(frame), provenance_lines(results, folder, data_root)]
        if hasattr(experiment, "paper_table"):
            parts.insert(1, experiment.paper_table(results))
        temporary.write_text("\n".join(parts))
    experiment.pictures(results, folder)
    return frame


def _headline(frame: pd.DataFrame) -> str:
    """The first figures of a run's own row in the table."""
    figures = frame.select_dtypes("float").iloc[0].dropna()
    return ", ".join(f"{column} {number(value)}" for column, value in figures.iloc[:3].items())


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except ValueError as error:
        raise InputError(
            f"{file} is no result of a benchmark ({error}): delete it, and run the benchmark again."
        ) from error


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(content) + "\n")  # in one line: curves have a number a line otherwise
