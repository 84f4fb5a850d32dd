"""How good heatmaps are, against the labels of a datalist and beside plain intensity."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medanomaly.data import read_provenance, require_folder
from medanomaly.errors import ConfigError, InputError
from medanomaly.workflows import bundles
from medanomaly.workflows.settings import check_value


def evaluate(
    datalist: str | Path,
    scores: str | Path,
    *,
    output: str | Path | None = None,
    model: str | Path | None = None,
    section: str = "test",
    data_root: str | Path | None = None,
    region: str | None = None,
) -> dict[str, Any]:
    """Voxel and case metrics in the region, beside plain intensity.

    Args:
        datalist: JSON whose section names a ``label`` for each case.
        scores: folder that :func:`~medanomaly.workflows.score` wrote.
        output: folder for the results; ``scores/evaluation`` if not given.
        model: folder of the model; the one that made the scores if not given.
        section, data_root: of the datalist; what its relative paths start from.
        region: the command that the scores were made with, if it is not the model's own.

    Returns:
        The content of ``metrics.json``: ``detectors`` holds a row each, plain intensity first.

    Raises:
        InputError: if there are no scores, or they are of another model or other scans than are there now.
        ConfigError: if the scores name a program that the user does not, see :func:`scored_settings`.
    """
    scores = Path(scores)
    target = Path(output or scores / "evaluation")
    root, settings = _of_scores(datalist, scores, target, model, section, data_root, region)
    bundles.run_bundle(root, "evaluate", **settings)
    return dict(json.loads((target / "metrics.json").read_text(encoding="utf-8")))


def compare(
    datalist: str | Path,
    scores: Sequence[str | Path],
    output: str | Path,
    *,
    section: str = "test",
    data_root: str | Path | None = None,
) -> dict[str, Any]:
    """Several detectors' scores of one cohort in one table: as :func:`evaluate`, with a row for each.

    Args:
        scores: folders that :func:`~medanomaly.workflows.score` wrote, in the order of the table.
        output: folder for the results.
        datalist, section, data_root: see :func:`evaluate`.

    Raises:
        InputError: as of :func:`evaluate`, and if two folders hold scores of detectors of the same name.
    """
    from medanomaly.evaluation import evaluate_cohort
    from medanomaly.report import write_evaluation

    sources: dict[str, Any] = {}
    calibrations: dict[str, Any] = {}
    names: list[str] = []
    for folder in map(Path, scores):
        root, settings = _of_scores(datalist, folder, Path(output), None, section, data_root, None)
        with bundles.open_bundle(root, "evaluate", **settings) as workflow:
            parser = workflow.parser
            names.append(parser.get_parsed_content("name"))
            sources.update(parser.get_parsed_content("detectors"))
            calibrations.update(parser.get_parsed_content("calibrations"))
            cases = parser.get_parsed_content("cases")
    if len(set(names)) < len(names):
        raise InputError(f"the detectors to compare are {', '.join(names)}: give each of them once.")
    result = evaluate_cohort(cases, sources, output, calibrations=calibrations)
    write_evaluation(result, output, cases, dict(zip(names, scores, strict=True)))
    return dict(json.loads((Path(output) / "metrics.json").read_text(encoding="utf-8")))


def _of_scores(
    datalist: str | Path,
    scores: Path,
    output: Path,
    model: str | Path | None,
    section: str,
    data_root: str | Path | None,
    region: str | None,
) -> tuple[Path, dict[str, Any]]:
    """The model that made scores, and the settings of their evaluation with it."""
    provenance = read_provenance(scores)
    root = Path(model or provenance["model"]).resolve()
    if model is None and not (root / "configs").is_dir():
        raise InputError(f"the model {root}, which made {scores}, is not there any more: name it with --model.")
    require_folder(output)
    settings = {
        "datalist": Path(datalist).absolute(),
        "dataset_dir": None if data_root is None else Path(data_root).absolute(),
        "section": section,
        "scores_dir": scores.absolute(),
        "output_dir": output.absolute(),
        **scored_settings(scores, provenance, root, region),
    }
    return root, settings


def scored_settings(scores: Path, provenance: Mapping[str, Any], root: Path, region: str | None) -> dict[str, Any]:
    """How scores were made, as settings for their evaluation with the model in ``root``.

    Args:
        scores: their folder.
        provenance: what its ``run.json`` says.
        root: folder of the model.
        region: the brain extractor that the user named for the evaluation.

    Raises:
        ConfigError: if ``run.json``, which somebody else may have written, names a program of its own to extract
            brains with and the user did not name it, too; or the user named another one.
    """
    from medanomaly.preprocessing.region_mask import FINDERS  # named ways run no program of somebody else's

    known, file = bundles.read_settings(root, "evaluate"), scores / "run.json"
    shared = [key for key in ("region", "sign") if key in provenance and key in known]
    settings: dict[str, Any] = {key: provenance[key] for key in shared}
    if "register" in known:
        settings["register"] = provenance.get("register") is True
    source = settings.get("region", str(known.get("region")))
    if region not in (None, source):
        raise ConfigError(f"--brain is {region!r}, but the scores were made with {source!r} ({file}): leave it out.")
    if source not in (*FINDERS, known.get("region"), region):
        check_value(f"region in {file}", source)
        raise ConfigError(
            f"{file} names the brain extractor {source!r}, which the evaluation would run again, for plain intensity: "
            f"if you trust it, add --brain {shlex.quote(source)}."
        )
    return settings
