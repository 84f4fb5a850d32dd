"""A leaderboard on a cohort of one's own: any bundles, trained on its healthy cases and tested on its labelled ones.

Labels may be masks, and the table tells how well lesions are found voxel by voxel; or 0 and 1, and it tells how well
whole images are told apart. Thresholds come from the cases under ``validation``, or, without any, from the lesion-free
tissue of the training cases. Brightness heads the table, on the same voxels and with thresholds from the same normals.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medanomaly.data import read_datalist
from medanomaly.data.datalist import is_image_label
from medanomaly.data.digests import case_digests
from medanomaly.data.manifests import datalist_from_manifest, read_manifest
from medanomaly.data.training_cases import check_apart
from medanomaly.errors import ConfigError, InputError
from medanomaly.evaluation import evaluate_cohort
from medanomaly.evaluation.cohort import require_labels
from medanomaly.evaluation.voxel_metrics import thinned
from medanomaly.report import roc_panels
from medanomaly.workflows.benchmark import BASELINES, Experiment, Result, Run, check_same, grouped, run_benchmark
from medanomaly.workflows.bundles import bundle_names, find_bundle, find_chain, read_settings, settings_it_has
from medanomaly.workflows.compose import merge
from medanomaly.workflows.costs import mean_costs
from medanomaly.workflows.scorers import CHAINS, OVERLAYS, Cohort, Scorer

# of the table: name and place in the metrics; what no row has is left out
VOXEL_COLUMNS = {
    "AUROC": "voxels.auroc",
    "AP": "voxels.average_precision",
    "best Dice (oracle)": "voxels.best_dice",
    "Dice at 0.5 % of normals": "at_threshold.dice",
}
CASE_COLUMNS = {
    "case AUROC": "case_level.auroc",
    "case AP": "case_level.average_precision",
    "case accuracy": "case_level.accuracy",
    "case sensitivity": "case_level.sensitivity",
    "case specificity": "case_level.specificity",
    "case precision": "case_level.precision",
    "case F1": "case_level.f1",
}
MAIN = ("AUROC", "AP")  # which have intervals in the table
# settings of bundles that the benchmark sees to itself, and what decides them
RESERVED = {
    "seed": "--seeds",
    "in_channels": "the images of a case",
    **dict.fromkeys(("datalist", "dataset_dir", "training_cases", "held_out_cases"), "--datalist and --data-root"),
    "resume": "what is in --output",
}
ROC_POINTS = 100  # in a result file


def benchmark(
    datalist: str | Path | None = None,
    detectors: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    output: str | Path = "results",
    *,
    manifest: str | Path | None = None,
    data_root: str | Path | None = None,
    chain: str | None = None,
    region: str | None = None,
    settings: Mapping[str, Any] | None = None,
    reduced: bool = False,
) -> pd.DataFrame:
    """Train and test detectors on a cohort: ``output/cohort/`` gets a leaderboard, ROC curves, and a file a run.

    Args:
        datalist: JSON with healthy cases under ``training`` and, better, ``validation``, and labelled ones, masks or 0
            and 1, under ``test``; or none, and a manifest.
        detectors: baselines ("intensity", "intensity-smoothed", ...), bundles, and folders of bundles
            of one's own; if not given, all that come with the package, but for those that need ``backbone_weights``.
        seeds: a training each; a baseline is measured once.
        output: what is there is not run again.
        manifest: of a public dataset, by its name or its path, in place of a datalist; the folder in ``output`` is
            named after it.
        data_root: what relative paths in the datalist start from, its own folder if not given; with a manifest, the
            folder of the download.
        chain: how cases are prepared: "brain_mri", "radiograph", "head_ct" or "bone_ct"; what the manifest says, or
            brain MRI, if not given.
        region: auto, given, nonzero, all, deepbet, hd-bet, synthstrip, or a command with ``{image}`` and
            ``{mask}``; what the manifest says, or the
            chain's own, if not given.
        settings: for all bundles that have them, such as ``spacing`` or ``max_epochs``.
        reduced: one epoch, to see that all works; the figures mean nothing.

    Returns:
        The leaderboard.

    Raises:
        InputError: if a file, a section or the label of a test case is missing, a name unknown, a test case is a
            training or validation case by content, or ``output`` holds results of other settings or cases.
        ConfigError: for a setting that no bundle has.
    """
    if (datalist is None) == (manifest is None):
        raise InputError(
            "name the datalist of the cohort (--datalist; see README, 'Your data'), or a public dataset (--manifest): "
            "one of the two."
        )
    of = {} if manifest is None else read_manifest(manifest)
    region = region or of.get("region")
    given = {**({} if region is None else {"region": region}), **(settings or {})}
    folders = [Path(name) for name in detectors or () if (Path(name) / "configs").is_dir()]
    experiment = cohort_experiment(
        datalist, data_root, chain or of.get("chain", "brain_mri"), given, manifest, bundles=folders
    )
    if detectors is None:
        named = _as_they_come(experiment.detectors, given)
    else:
        named = [Path(name).name if Path(name) in folders else name for name in detectors]
    folder = run_benchmark(experiment, named, seeds, data_root, output, reduced)
    return pd.read_csv(folder / "leaderboard.csv")


def _as_they_come(detectors: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """Baselines, and bundles that train without a further setting: some need weights that do not come with them."""
    lacking = [
        name
        for name in detectors
        if name not in BASELINES and read_settings(find_bundle(name), "train").get("backbone_weights", "") is None
    ]
    if not lacking or "backbone_weights" in settings:
        return list(detectors)
    print(f"Left out, as they need --set backbone_weights=... (see their READMEs): {', '.join(lacking)}.")
    return [name for name in detectors if name not in lacking]


def cohort_experiment(
    datalist: str | Path | None,
    data_root: str | Path | None = None,
    chain: str = "brain_mri",
    settings: Mapping[str, Any] | None = None,
    manifest: str | Path | None = None,
    bundles: Sequence[Path] = (),
) -> Experiment:
    """The experiment that a datalist makes, or a manifest.

    Args:
        datalist: JSON with ``training``, maybe ``validation``, and ``test``; None with a manifest.
        data_root: what relative paths in it start from; its own folder if not given.
        chain: how cases are prepared: "brain_mri", "radiograph", "head_ct" or "bone_ct".
        settings: for all bundles that have them, such as ``spacing``, ``region`` or ``max_epochs``.
        manifest: see :func:`benchmark`.
        bundles: folders of further ones, which tables call by the folder's name.

    Raises:
        InputError: if the datalist, a file, a section or the label of a test case is missing, or a test case is one to
            train on or to validate with, by content.
        ConfigError: for a setting that no bundle has, or that is not for a user to set.
    """
    sections = _sections(datalist, manifest, data_root)
    source = Path(str(datalist or manifest))
    channels = {len(case["image"]) for cases in sections.values() for case in cases}
    if len(channels) > 1:
        raise InputError(f"{source}: cases have {sorted(channels)} images, but all need the same channels.")
    if chain not in CHAINS:
        raise ConfigError(f"chain is {chain!r}: use one of {', '.join(CHAINS)}.")
    require_labels(sections["test"])
    for section in ("training", "validation"):
        check_apart(sections[section], section, sections["test"], "test")
    for key in RESERVED.keys() & (settings or {}).keys():
        raise ConfigError(f"{key} cannot be set in a benchmark: {RESERVED[key]} decides it.")
    places: dict[str, str] = {name: name for name in bundle_names()} | {path.name: str(path) for path in bundles}
    own = {name: settings_it_has(at, settings or {}, OVERLAYS.get(chain, chain)) for name, at in places.items()}
    for key in settings or {}:
        if not any(key in has for has in own.values()):
            raise ConfigError(f"no bundle has a setting {key!r}: see the README of a bundle for those that it has.")

    preparation = _preparation(chain, settings or {})
    channel = {"channel": settings["intensity_channel"]} if settings and "intensity_channel" in settings else {}
    options = {"cases": {section: _fingerprint(cases) for section, cases in sections.items()}, "chain": chain}
    options["preparation"] = {key: value for key, value in preparation.items() if key != "cache_dir"}

    def runs(detectors: Sequence[str], seeds: Sequence[int], reduced: bool) -> list[Run]:
        short = {"max_epochs": 1} if reduced else {}
        planned = []
        for name in detectors:
            if name in BASELINES:
                planned.append(Run(name, "own", seeds[0], scoring=channel, options=options))
            else:
                planned += [Run(name, "own", seed, places[name], {**own[name], **short}, {}, options) for seed in seeds]
        return planned

    def cohort(run: Run, data_root: Path | None, folder: Path) -> Cohort:
        return Cohort(**sections, chain=chain, preparation=preparation, n_channels=next(iter(channels)))

    arguments = [
        "cohort",
        "--datalist" if manifest is None else "--manifest",
        str(source),
        *(() if chain == "brain_mri" else ("--chain", chain)),
    ]
    for key, value in (settings or {}).items():
        shown = value if isinstance(value, str) else json.dumps(value)
        arguments += ["--brain", shown] if key == "region" else ["--set", f"{key}={shown}"]
    trained_on = f"the {len(sections['training'])} training cases of {source.name}"
    return Experiment(
        "cohort" if manifest is None else source.stem,
        (*BASELINES, *own),
        runs,
        cohort,
        measure_cohort,
        lambda results: cohort_table(results).drop(columns="setting"),
        lambda run: {
            "trained_on": trained_on if run.bundle else "nothing",
            "settings_chosen": "those of the bundle, but for what the command line says" if run.bundle else "given",
        },
        roc_curves,
        arguments=arguments,
        shared=tuple(options),
    )


def _preparation(chain: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the chain: those that the bundles have, and in their place those that a user sets."""
    known = inspect.signature(CHAINS[chain]).parameters.keys()
    overlay = {} if OVERLAYS.get(chain, chain) is None else json.loads(find_chain(chain).read_text())
    config = merge(read_settings(find_bundle(bundle_names()[0]), "inference"), overlay)
    asked = {re.sub("^preprocessing(#|::)", "", key): value for key, value in settings.items()}
    chosen = {key: value for key, value in {**config, **asked}.items() if key in known}
    off = {"in_channels", "cache_dir", *(key for key in ("register", "context") if not chosen.get(key))}
    return {key: value for key, value in chosen.items() if key in asked or key not in off}


def _fingerprint(cases: Sequence[Mapping[str, Any]]) -> str:
    """What cases hold, whatever their files are called: changed scans, masks or labels change it."""
    digests = case_digests(cases, ("image", "region", "label"))
    numbers = {case["case"]: case["label"] for case in cases if is_image_label(case.get("label"))}
    text = json.dumps([digests, numbers], sort_keys=True)
    return f"{len(cases)} cases, {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _sections(
    datalist: str | Path | None, manifest: str | Path | None, data_root: str | Path | None
) -> dict[str, list[dict[str, Any]]]:
    if manifest is None:
        read = partial(read_datalist, datalist, base_dir=data_root)
        return {"training": read("training"), "validation": read("validation", required=False), "test": read("test")}
    if data_root is None:
        raise InputError(f"the manifest {manifest} needs the folder of the download: give --data-root.")
    found = datalist_from_manifest(manifest, data_root)
    return {section: found.get(section, []) for section in ("training", "validation", "test")}


def measure_cohort(run: Run, scorer: Scorer, cohort: Cohort, data_root: Path | None, folder: Path) -> dict[str, Any]:
    """What :func:`evaluate_cohort` says of a detector; the table of its cases goes into ``folder``."""
    calibration = scorer.calibration(cohort.normals, held_out=bool(cohort.validation))
    sources, calibrations = {run.detector: scorer.heatmap}, {run.detector: calibration}
    found = evaluate_cohort(cohort.test, sources, folder / "evaluation", calibrations=calibrations)
    (row,) = found["detectors"]
    kept = {key: row[key] for key in row if key not in ("name", "cases", "roc", "case_roc")}
    curve = row.get("roc") or row.get("case_roc")
    if curve is not None:
        rates = thinned(np.array(curve["fpr"]), np.array(curve["tpr"]), ROC_POINTS)
        kept["roc"] = {name: rate.round(5).tolist() for name, rate in zip(("fpr", "tpr"), rates, strict=True)}
    return {**kept, "threshold_from": calibration.source, "n_cases": found["n_cases"]}


def cohort_table(results: Sequence[Result]) -> pd.DataFrame:
    """A row a detector and setting: means over seeds and their standard deviations ("... sd"), intervals over cases.

    Raises:
        InputError: if results were not measured on equal terms: other voxels, or thresholds from other normals.
    """
    check_same(results, ("voxels.n_voxels", "n_cases", "threshold_from"))
    rows = []
    for (detector, setting), group in grouped(results).items():
        table = pd.json_normalize([dict(result["metrics"]) for result in group])
        row: dict[str, Any] = {"detector": detector, "setting": setting, "seeds": len(table)}
        for column, key in {**VOXEL_COLUMNS, **CASE_COLUMNS}.items():
            if key not in table:
                continue
            values = pd.to_numeric(table[key])  # what is undefined is None
            row[column], row[f"{column} sd"] = float(values.mean()), float(values.std())
            place = "intervals" if key.startswith("voxels.") else "case_level.intervals"
            low, high = (f"{place}.{key.split('.')[-1]}.{end}" for end in ("low", "high"))
            is_main = column in MAIN or ("voxels.auroc" not in table and column.removeprefix("case ") in MAIN)
            if is_main and low in table and table[low].notna().all():
                row[f"{column}, 95 % over cases"] = f"{table[low].mean():.3f} to {table[high].mean():.3f}"
        rows.append(row | mean_costs(group))
    frame = pd.DataFrame(rows)
    undefined = [column for column in (*VOXEL_COLUMNS, *CASE_COLUMNS) if column in frame and frame[column].isna().all()]
    return frame.drop(columns=[name for name in frame if name.removesuffix(" sd").split(",")[0] in undefined])


def roc_curves(results: Sequence[Result], folder: Path) -> None:
    """``roc.png``: a curve for each detector and seed, with the mean AUROC in the legend."""
    curves = {
        f"{detector}, {setting}: {np.mean([_auroc(r) for r in group]):.3f}": [r["metrics"]["roc"] for r in group]
        for (detector, setting), group in grouped(results).items()
        if all("roc" in r["metrics"] for r in group)
    }
    if curves:
        what = "voxels in the region" if all("voxels" in r["metrics"] for r in results) else "images"
        roc_panels({folder.name: curves}, folder / "roc.png", what)


def _auroc(result: Result) -> float:
    metrics = result["metrics"]
    return float(metrics["voxels" if "voxels" in metrics else "case_level"]["auroc"])
