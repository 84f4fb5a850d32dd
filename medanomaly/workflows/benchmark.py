"""Benchmarks: bundles with settings, trained and tested over and over, into result files, a leaderboard and pictures.

An experiment says what is its own: which runs there are, the cohort of a run, what is measured, and the table. What it
does not say is the same for all: training from the bundle, going on after an interruption, one file a run, provenance.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

import medanomaly
from medanomaly.data import check_case_id, require_folder, written_whole
from medanomaly.detectors import IntensityBaseline, TissueOutlier
from medanomaly.errors import InputError
from medanomaly.evaluation.cohort import without_nan
from medanomaly.report.leaderboards import leaderboard_table, markdown_table
from medanomaly.report.provenance import current_commit, machine, provenance_lines
from medanomaly.report.tables import number
from medanomaly.terminal import say, show, table_width
from medanomaly.workflows.costs import seconds_in, timed
from medanomaly.workflows.scorers import Cohort, Scorer, differences, train_scorer

BASELINES: dict[str, Callable[..., Any]] = {
    "intensity": partial(IntensityBaseline, "plain"),
    "intensity-smoothed": partial(IntensityBaseline, "smoothed"),
    "intensity-equalised": partial(IntensityBaseline, "equalised"),
    "intensity-inverted": partial(IntensityBaseline, "inverted"),
    "tissue-outlier": partial(TissueOutlier, "both"),
    "tissue-outlier-bright": partial(TissueOutlier, "bright"),
}
OF_WHOLE_IMAGES: dict[str, Callable[..., Any]] = {"intensity-mean": partial(IntensityBaseline, "mean")}  # not of voxels

Result = Mapping[str, Any]  # what a result file holds


@dataclass(frozen=True)
class Run:
    """One training and its test, or one way of scoring a training that several runs share.

    Args:
        detector: its name in the tables.
        setting: which part of the experiment it belongs to: "16px", "flair-16px", "bright".
        seed: of the weights, the training and whatever the experiment draws.
        bundle: what is trained; None for a baseline.
        settings: of the bundle, where they differ from its own.
        scoring: of scoring alone: ``sign``, ``steps``, ...
        options: of the experiment; a user can change them.
        model: the folder of the training; runs with the same one share it. The run's own if not given.
    """

    detector: str
    setting: str
    seed: int
    bundle: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    scoring: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""

    @property
    def id(self) -> str:
        """Name of the result file."""
        return f"{self.detector}_{self.setting}_seed{self.seed}"

    @property
    def record(self) -> dict[str, Any]:
        """Everything that decides the result, as a file gives it back."""
        parts = {"bundle": self.bundle, "settings": self.settings, "scoring": self.scoring, "options": self.options}
        return dict(json.loads(json.dumps(parts, default=repr)))


@dataclass(frozen=True)
class Experiment:
    """What is an experiment's own.

    Args:
        name: of its folder and on the command line.
        detectors: names in the tables, in their order, baselines first.
        runs: the runs of some detectors with some seeds, in full or reduced.
        cohort: of a run, from the folder of the data and a folder for what is made.
        measure: the metrics of a run, from its scorer, its cohort, the folder of the data and one for what is drawn.
        leaderboard: the table of results; a column "X sd" is the spread of the column "X".
        origin: what a run was trained on and how its settings were chosen: ``trained_on``, ``settings_chosen``.
        pictures: draws what it draws of all results into the folder of the experiment.
        further_table: Markdown below the leaderboard, such as the figures of the paper beside ours.
        arguments: words of the command line that the experiment was made from; its name, if not given.
        shared: options that all results in a folder must have alike, so that rows are measured on equal terms.
        rivals: detectors of other packages, each with what trains it on a cohort with a seed; they are run where they
            are named, and not with all.
        named_only: those of ``detectors`` that are run where they are named, and not with all.
        perform: in place of ``cohort`` and ``measure``, where a run is no training of a bundle: the metrics and the
            costs of a run, from the folder of the data and that of the experiment.
    """

    name: str
    detectors: Sequence[str]
    runs: Callable[[Sequence[str], Sequence[int], bool], list[Run]]
    cohort: Callable[[Run, Path | None, Path], Cohort] | None
    measure: Callable[[Run, Scorer, Cohort, Path | None, Path], dict[str, Any]] | None
    leaderboard: Callable[[Sequence[Result]], pd.DataFrame]
    origin: Callable[[Run], dict[str, str]]
    pictures: Callable[[Sequence[Result], Path], None] = lambda results, folder: None
    further_table: Callable[[Sequence[Result]], str] | None = None
    arguments: Sequence[str] = ()
    shared: Sequence[str] = ()
    rivals: Mapping[str, Callable[[Cohort, int], Scorer]] = field(default_factory=dict)
    named_only: Sequence[str] = ()
    perform: Callable[[Run, Path | None, Path], tuple[dict[str, Any], dict[str, float]]] | None = None


def run_benchmark(
    experiment: Experiment,
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
        experiment: what to run.
        detectors: names in ``experiment.detectors``, all of them if None, or in ``experiment.rivals``.
        seeds: one training each; a baseline without randomness takes the first alone.
        data_root: folder of the experiment's data.
        output: gets ``<experiment>/`` (``<experiment>-reduced/``) with ``results/``, ``runs/``, ``leaderboard.csv``,
            ``leaderboard.md`` and PNGs.
        reduced: the short version, to see that all works; its figures mean nothing.
        settings: in place of the experiment's options or the bundles' settings, for runs that have them.

    Returns:
        That folder.

    Raises:
        InputError: for an unknown detector or setting, an empty list, data that is not there, an ``output`` that is a
            file, or results in it that were made with other settings.
    """
    all_of_them = [name for name in experiment.detectors if name not in experiment.named_only]
    chosen = list(dict.fromkeys(all_of_them if detectors is None else detectors))
    seeds = list(dict.fromkeys(seeds))
    _check_names(experiment, chosen)
    if not seeds:
        raise InputError("there are no seeds: name at least one, such as --seeds 0.")
    data_root = None if data_root is None else Path(data_root)
    require_folder(output)
    folder = Path(output) / (f"{experiment.name}-reduced" if reduced else experiment.name)
    planned = _changed(experiment.runs(chosen, seeds, reduced), settings or {})
    for run in planned:
        _check_settings(run, folder)
    _check_shared(experiment, planned, folder)
    commit = current_commit()  # of the code that runs, whatever happens to the files meanwhile

    for n, run in enumerate(planned, start=1):
        file = folder / "results" / f"{run.id}.json"
        if file.exists():
            say(f"[{n}/{len(planned)}] {run.id}: done already, {file}")
            continue
        say(f"[{n}/{len(planned)}] {run.id}")
        own = folder / "runs" / run.id
        _write_json(own / "run.json", {"settings": run.record})
        with timed(own / "seconds.json"):
            metrics, costs = _perform(experiment, run, data_root, folder)
        result = {
            "experiment": experiment.name,
            "detector": run.detector,
            "setting": run.setting,
            "seed": run.seed,
            "settings": run.record,
            "arguments": list(experiment.arguments) or [experiment.name],
            "changed_settings": dict(settings or {}),
            **experiment.origin(run),
            "commit": commit,
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "version": medanomaly.__version__,
            "machine": machine(),
            "seconds": round(seconds_in(own / "seconds.json"), 1),
            "costs": costs,
            "metrics": without_nan(metrics),
        }
        _write_json(file, result)
        say(f"      {result['seconds']:.0f} s; {_headline(experiment.leaderboard([result]))}")
        write_summary(experiment, folder, data_root)
    show(leaderboard_table(write_summary(experiment, folder, data_root), folder.name, table_width()))
    return folder


def _perform(
    experiment: Experiment, run: Run, data_root: Path | None, folder: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """What is measured of a run, and what it cost."""
    if experiment.perform is not None:
        return experiment.perform(run, data_root, folder)
    assert experiment.cohort is not None and experiment.measure is not None
    cohort = experiment.cohort(run, data_root, folder / "runs" / "data")
    if run.detector in experiment.rivals:
        scorer = experiment.rivals[run.detector](cohort, run.seed)
    elif run.bundle is None:
        spacing = cohort.preparation.get("spacing")
        baseline = (BASELINES | OF_WHOLE_IMAGES)[run.detector](**{"spacing": spacing, **run.scoring})
        scorer = Scorer(baseline, preprocessing=cohort.preprocessing())
    else:
        model = folder / "runs" / (run.model or run.id) / "model"
        scorer = train_scorer(run.bundle, cohort, model, run.seed, run.settings, run.scoring)
    return experiment.measure(run, scorer, cohort, data_root, folder / "runs" / run.id), scorer.costs()


def grouped(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """The results of each (detector, setting), one a seed, in the order in which they come."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result["detector"], result["setting"]), []).append(result)
    return groups


def check_same(results: Sequence[Result], keys: Sequence[str]) -> None:
    """Raise InputError if results differ in metrics that all rows of a table must share, such as "voxels.n_voxels"."""
    for key in keys:
        found: dict[str, str] = {}
        for result in results:
            value: Any = result["metrics"]
            for part in key.split("."):
                value = (value or {}).get(part)
            text = json.dumps(value, default=str)
            found.setdefault(text, f"{result['detector']}, {result['setting']}, seed {result['seed']}")
        if len(found) > 1:
            named = "; ".join(f"{example} has {text[:60]}" for text, example in found.items())
            raise InputError(
                f"the results do not share one {key.split('.')[-1]}: {named}. Rows of one table are measured on equal "
                "terms: delete the result files of the earlier ones, and run the benchmark again."
            )


def write_summary(experiment: Experiment, folder: Path, data_root: Path | None) -> pd.DataFrame:
    """The leaderboard and the pictures of all results in ``folder``, whichever process made them."""
    results = [_read_json(file) for file in sorted((folder / "results").glob("*.json"))]
    place = {name: number for number, name in enumerate([*experiment.detectors, *experiment.rivals])}
    results.sort(key=lambda result: (place.get(result["detector"], len(place)), result["setting"], result["seed"]))
    frame = experiment.leaderboard(results)
    with written_whole(folder / "leaderboard.csv") as temporary:
        frame.to_csv(temporary, index=False)
    with written_whole(folder / "leaderboard.md") as temporary:
        parts = [markdown_table(frame), provenance_lines(results, folder, data_root)]
        if experiment.further_table is not None:
            parts.insert(1, experiment.further_table(results))
        temporary.write_text("\n".join(parts), encoding="utf-8")
    experiment.pictures(results, folder)
    return frame


def _check_names(experiment: Experiment, detectors: Sequence[str]) -> None:
    names = [*experiment.detectors, *experiment.rivals]
    known = ", ".join(names)
    if not detectors:
        raise InputError(f"there are no detectors: name some of {known}.")
    for name in detectors:
        if name not in names:
            raise InputError(f"the benchmark {experiment.name} has no detector {name!r}; it has {known}.")


def _changed(planned: Sequence[Run], settings: Mapping[str, Any]) -> list[Run]:
    """The runs with other options or settings, where they have them."""
    places = ("options", "settings")
    known = sorted({key for run in planned for place in places for key in getattr(run, place)})
    for key in settings:
        if key not in known:
            raise InputError(f"these runs have no setting {key!r}; they have {', '.join(known)}.")
        if key.endswith("_patient"):  # it names a folder of data, and folders of results
            check_case_id(str(settings[key]), f"--set {key} is")

    def chosen(own: Mapping[str, Any]) -> dict[str, Any]:
        return {key: settings.get(key, value) for key, value in own.items()}

    return [replace(run, options=chosen(run.options), settings=chosen(run.settings)) for run in planned]


def _check_settings(run: Run, folder: Path) -> None:
    """Raise InputError if ``folder`` holds this run, finished or begun, with other settings."""
    wanted = _flat(run.record)
    for file in (folder / "results" / f"{run.id}.json", folder / "runs" / run.id / "run.json"):
        found = _flat(_read_json(file)["settings"]) if file.exists() else wanted
        for key in differences(found, wanted):
            raise InputError(
                f"{file} was made with {key}={found.get(key)!r}, and {key}={wanted.get(key)!r} is asked for: "
                f"choose another --output, or delete that file and {folder / 'runs' / run.id} to run it again."
            )


def _check_shared(experiment: Experiment, planned: Sequence[Run], folder: Path) -> None:
    """Raise InputError if results in ``folder`` were measured on other terms than the runs that are planned."""
    for file in sorted((folder / "results").glob("*.json")):
        found = _read_json(file)["settings"].get("options", {})
        for run, key in product(planned, experiment.shared):
            wanted = run.record["options"]
            if key in wanted and key in found and wanted[key] != found[key]:
                raise InputError(
                    f"{file} was made with {key}={found[key]!r}, and {key}={wanted[key]!r} is asked for: rows of one "
                    "table are measured on equal terms, so choose another --output, or delete the results there."
                )


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a record by their own names."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= value if key in ("settings", "scoring", "options") else {key: value}
    return flat


def _headline(frame: pd.DataFrame) -> str:
    """The first figures of a run's own row in the table."""
    figures = frame.select_dtypes("float").iloc[0].dropna()
    return ", ".join(f"{column} {number(value)}" for column, value in figures.iloc[:3].items())


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(
            f"{file} is not a result of a benchmark ({error}): delete it, and run the benchmark again."
        ) from error


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
