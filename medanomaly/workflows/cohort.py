"""A leaderboard on a cohort of one's own: any bundles, trained on its healthy cases and tested on its labelled ones.

Labels may be masks, and the table tells how well lesions are found voxel by voxel; or 0 and 1, and it tells how well
whole images are told apart. Thresholds come from the cases under ``validation``, or, without any, from the lesion-free
tissue of the training cases. Brightness heads the table, on the same voxels and with thresholds from the same normals.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import pydoc
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medanomaly.data import read_datalist, unlabelled
from medanomaly.data.datalist import is_image_label
from medanomaly.data.digests import case_digests
from medanomaly.data.manifests import datalist_from_manifest, read_manifest
from medanomaly.data.training_cases import check_apart, mixed_of
from medanomaly.errors import ConfigError, InputError
from medanomaly.evaluation import evaluate_cohort
from medanomaly.evaluation.cohort import require_labels
from medanomaly.evaluation.cohort_voxels import CURVES
from medanomaly.evaluation.voxel_metrics import thinned
from medanomaly.terminal import say
from medanomaly.workflows.benchmark import BASELINES, OF_WHOLE_IMAGES, Experiment, Run, run_benchmark
from medanomaly.workflows.bundles import (
    bundle_names,
    find_bundle,
    find_chain,
    open_training,
    read_settings,
    settings_it_has,
)
from medanomaly.workflows.cohort_table import roc_curves, shown_table
from medanomaly.workflows.compose import merge
from medanomaly.workflows.scorers import CHAINS, OVERLAYS, Cohort, Scorer

# settings of bundles that the benchmark sees to itself, and what decides them
RESERVED = {
    "seed": "--seeds",
    "in_channels": "the images of a case",
    **dict.fromkeys(
        ("datalist", "dataset_dir", "training_cases", "held_out_cases", "mixed_cases"), "--datalist and --data-root"
    ),
    "resume": "what is in --output",
}
ROC_POINTS = 100  # in a result file
PLAIN = ("pca", "one_class_svm", "nearest_neighbours")  # bundles that learn and are baselines: their rows come first


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
            and 1, under ``test``; for detectors that learn from them, unlabelled ones under ``mixed``. Or none, and a
            manifest.
        detectors: baselines ("intensity", "intensity-smoothed", ...), bundles, and folders of bundles
            of one's own; if not given, all that come with the package, can learn from the cohort and lack no setting.
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
        InputError: if a file, a section or the label of a test case is missing, a name unknown, a case is in two
            sections by content, or ``output`` holds results of other settings or cases.
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
    named = None if detectors is None else [Path(name).name if Path(name) in folders else name for name in detectors]
    if detectors is None:
        for name in [name for name in experiment.named_only if name not in OF_WHOLE_IMAGES]:
            lacks = "--set backbone_weights=..." if _lacks_weights(name, given) else "cases under 'mixed'"
            say(f"Left out, as it needs {lacks}: {name}")
    folder = run_benchmark(experiment, named, seeds, data_root, output, reduced)
    return pd.read_csv(folder / "leaderboard.csv")


def _lacks_weights(bundle: str, settings: Mapping[str, Any]) -> bool:
    """Whether it needs weights that do not come with it, and ``settings`` name none."""
    known = {**read_settings(find_bundle(bundle), "train"), **settings}
    return known.get("backbone_weights", "") is None


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
        datalist: JSON with ``training``, ``test``, and maybe ``validation`` and ``mixed``; None with a manifest.
        data_root: what relative paths in it start from; its own folder if not given.
        chain: how cases are prepared: "brain_mri", "radiograph", "head_ct" or "bone_ct".
        settings: for all bundles that have them, such as ``spacing``, ``region`` or ``max_epochs``.
        manifest: see :func:`benchmark`.
        bundles: folders of further ones, which tables call by the folder's name.

    Raises:
        InputError: if the datalist, a file, a section or the label of a test case is missing, or a test case is one to
            train on or to validate with, by content, or a detector needs cases under ``mixed`` and there are none.
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
    for section, others in (("training", "test"), ("validation", "test"), ("mixed", "test"), ("mixed", "validation")):
        check_apart(sections[section], section, sections[others], others)
    for key in RESERVED.keys() & (settings or {}).keys():
        raise ConfigError(f"{key} cannot be set in a benchmark: {RESERVED[key]} decides it.")
    names = [*PLAIN, *(name for name in bundle_names() if name not in PLAIN)]
    places: dict[str, str] = {name: name for name in names} | {path.name: str(path) for path in bundles}
    own = {name: settings_it_has(at, settings or {}, OVERLAYS.get(chain, chain)) for name, at in places.items()}
    for key in settings or {}:
        if not any(key in has for has in own.values()):
            raise ConfigError(f"no bundle has a setting {key!r}: see the README of a bundle for those that it has.")

    preparation = _preparation(chain, settings or {})
    channel = {"channel": settings["intensity_channel"]} if settings and "intensity_channel" in settings else {}
    healthy_or_tested = {section: fingerprint(cases) for section, cases in sections.items() if section != "mixed"}
    options = {"cases": healthy_or_tested, "chain": chain}
    options["preparation"] = {key: value for key, value in preparation.items() if key != "cache_dir"}
    # of those that learn from it alone, so that others need not be run again where a cohort gets such a section
    with_mixed = {**options, "mixed": fingerprint(unlabelled(sections["mixed"]))}

    def runs(detectors: Sequence[str], seeds: Sequence[int], reduced: bool) -> list[Run]:
        short = {"max_epochs": 1} if reduced else {}
        planned = []
        for name in detectors:
            if name in BASELINES or name in OF_WHOLE_IMAGES:
                planned.append(Run(name, "own", seeds[0], scoring=channel, options=options))
                continue
            asked = {"in_channels": next(iter(channels)), **own[name]}
            training = open_training(places[name], asked, OVERLAYS.get(chain, chain))
            streams = training.get_parsed_content("network_def").streams
            mixed_of(streams, sections["mixed"], str(source))
            for seed in seeds:
                settings = {**own[name], **short}
                run = Run(name, "own", seed, places[name], settings, {}, with_mixed if "mixed" in streams else options)
                planned += _of_both_epochs(run) if training.get("choose_epoch") == "pseudo_auc" else [run]
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
        (*BASELINES, *OF_WHOLE_IMAGES, *own),
        runs,
        cohort,
        measure_cohort,
        shown_table,
        lambda run: {
            "trained_on": _trained_on(run, trained_on, len(sections["mixed"])) if run.bundle else "nothing",
            "settings_chosen": "those of the bundle, but for what the command line says" if run.bundle else "given",
        },
        roc_curves,
        arguments=arguments,
        shared=tuple(with_mixed),
        named_only=[
            *OF_WHOLE_IMAGES,
            *(
                name
                for name, at in places.items()
                if _lacks_weights(at, settings or {}) or (not sections["mixed"] and _learns_from_mixed(at))
            ),
        ],
    )


def _learns_from_mixed(bundle: str) -> bool:
    """Whether a bundle as it comes learns from healthy and diseased cases that are not told apart."""
    kind = pydoc.locate(read_settings(find_bundle(bundle), "train")["network_def"]["_target_"])
    return "mixed" in getattr(kind, "streams", ())


def _of_both_epochs(run: Run) -> list[Run]:
    """The run with the epoch that pseudo-AUC chose, and one that scores the last epoch of the same training."""
    chosen = replace(run, setting="pseudo-auc")
    return [chosen, replace(run, setting="last-epoch", scoring={"weights": "model_last.pt"}, model=chosen.id)]


def _trained_on(run: Run, healthy: str, n_mixed: int) -> str:
    words = f"{healthy} and {n_mixed} under 'mixed', not told apart" if "mixed" in run.options else healthy
    if run.setting == "pseudo-auc":
        words += "; the epoch was chosen by pseudo-AUC on these (transductive for them, not for the test cases)"
    return words


def _preparation(chain: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the chain: those that the bundles have, and in their place those that a user sets."""
    known = inspect.signature(CHAINS[chain]).parameters.keys()
    overlay = {} if OVERLAYS.get(chain, chain) is None else json.loads(find_chain(chain).read_text(encoding="utf-8"))
    config = merge(read_settings(find_bundle(bundle_names()[0]), "inference"), overlay)
    asked = {re.sub("^preprocessing(#|::)", "", key): value for key, value in settings.items()}
    chosen = {key: value for key, value in {**config, **asked}.items() if key in known}
    off = {"in_channels", "cache_dir", *(key for key in ("register", "context", "quartiles") if not chosen.get(key))}
    return {key: value for key, value in chosen.items() if key in asked or key not in off}


def fingerprint(cases: Sequence[Mapping[str, Any]]) -> str:
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
        wanted = {"training": True, "validation": False, "mixed": False, "test": True}
        return {section: read(section, required=required) for section, required in wanted.items()}
    if data_root is None:
        raise InputError(f"the manifest {manifest} needs the folder of the download: give --data-root.")
    found = datalist_from_manifest(manifest, data_root)
    return {section: found.get(section, []) for section in ("training", "validation", "mixed", "test")}


def measure_cohort(run: Run, scorer: Scorer, cohort: Cohort, data_root: Path | None, folder: Path) -> dict[str, Any]:
    """What :func:`evaluate_cohort` says of a detector; the table of its cases goes into ``folder``."""
    calibration = scorer.calibration(cohort.normals, held_out=bool(cohort.validation))
    sources, calibrations = {run.detector: scorer.heatmap}, {run.detector: calibration}
    found = evaluate_cohort(cohort.test, sources, folder / "evaluation", calibrations=calibrations)
    (row,) = found["detectors"]
    kept = {key: row[key] for key in row if key not in ("name", "cases", *CURVES)}
    curve = row.get("roc") or row.get("case_roc")
    if curve is not None:
        rates = thinned(np.array(curve["fpr"]), np.array(curve["tpr"]), ROC_POINTS)
        kept["roc"] = {name: rate.round(5).tolist() for name, rate in zip(("fpr", "tpr"), rates, strict=True)}
    epoch = scorer.epoch if run.setting == "pseudo-auc" else None
    chosen = {} if epoch is None else {"epoch": epoch}
    return {**kept, **chosen, "threshold_from": calibration.source, "n_cases": found["n_cases"]}
