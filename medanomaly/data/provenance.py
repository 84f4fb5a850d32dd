"""Which model made the heatmaps in a folder, and of which scans: ``run.json``, written and checked."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import medanomaly
from medanomaly.data.datalist import cases_from_files
from medanomaly.data.dicom_series import safe_name
from medanomaly.data.digests import case_digests, file_digest
from medanomaly.data.training_cases import check_unseen
from medanomaly.data.writing import written_whole
from medanomaly.errors import InputError

HASHES = ("model_sha256", "calibration_sha256")


def begin_scores(
    output_dir: str | Path,
    bundle_root: str | Path,
    calibration_file: str | Path,
    cases: Sequence[Mapping[str, Any]],
    sign: str = "both",
    region: Any = None,
    score_amp: bool = False,
    register: bool = False,
) -> None:
    """Write ``run.json`` before the first heatmap: the model, and the cases that were scored with it before.

    So a run that is cut off leaves no heatmaps of an unknown model. The model is told by the SHA-256 of its weights
    and of its calibration, so it may be moved or copied.

    Args:
        output_dir: folder of the heatmaps.
        bundle_root: folder of the model.
        calibration_file: the one that is used, which goes with the sign.
        cases: that are to be scored.
        sign, region, score_amp, register: how.

    Raises:
        InputError: if the folder holds heatmaps of another model, another sign, another scan under one of these ids,
            or of nobody knows which model.
    """
    output = Path(output_dir)
    model = {"model": str(Path(bundle_root).resolve()), **_hashes(bundle_root, calibration_file), "sign": sign}
    earlier: dict[str, Any] = {"cases": []}
    if (output / "run.json").exists():
        earlier = read_provenance(output)
        _check_same_model(output, earlier, model)
        _check_same_scans(output, earlier, cases)
    elif any(output.glob("*/*_heatmap.nii.gz")):
        raise InputError(
            f"{output} holds heatmaps but no run.json, so the model that made them is not known: choose another "
            "--output."
        )
    settings = {"score_amp": score_amp, **({"region": region} if isinstance(region, str) else {})}
    settings |= {"register": True} if register else {}
    epoch = chosen_epoch(bundle_root)
    settings |= {} if epoch is None else {"epoch": epoch["words"]}
    _write(output, {**model, **settings, "cases": earlier["cases"]})


def record_scores(output_dir: str | Path, cases: Sequence[Mapping[str, Any]]) -> None:
    """Add cases to ``run.json`` now that they are scored: id, image files, and the SHA-256 of each scan.

    A DICOM series is called by its safe name, see :mod:`medanomaly.data.dicom_series`.
    """
    found, digests = read_provenance(Path(output_dir)), case_digests(cases)
    known = {case["case"]: case for case in found["cases"]}
    for case in cases:
        known[case["case"]] = {
            "case": case["case"],
            "image": list(map(safe_name, case["image"])),
            "sha256": digests[case["case"]]["image"],
        }
    _write(Path(output_dir), {**found, "cases": list(known.values())})


def check_scores(
    scores_dir: str | Path,
    bundle_root: str | Path,
    calibration_file: str | Path,
    cases: Sequence[Mapping[str, Any]],
) -> None:
    """Check that an evaluation is of the model and the scans that were scored, and of scans that the model never saw.

    Warns of scans that the thresholds of the model come from.

    Raises:
        InputError: if the model was trained again since, a scan or the datalist changed since, a case was not scored,
            or the model was trained on it.
    """
    scores, digests = Path(scores_dir), case_digests(cases)
    found = read_provenance(scores)
    _check_whole(scores, found, "score again into a new folder")
    if {key: found[key] for key in HASHES} != _hashes(bundle_root, calibration_file):
        raise InputError(
            f"{scores} holds heatmaps of the model {found['model']} (sign {found['sign']}), and the weights or the "
            f"calibration in {bundle_root} are others: it was trained again since, or is another model or sign. Score "
            "again into a new folder, or name the model that made the scores with --model."
        )
    scored = {case["case"]: case["sha256"] for case in found["cases"]}
    absent = [name for name in digests if name not in scored]
    if absent:
        raise InputError(
            f"{scores / 'run.json'} does not say that the case(s) {', '.join(absent)} were scored: score them first (a "
            "run that was cut off must be run again), or correct the scores folder or the datalist."
        )
    changed = [name for name, own in digests.items() if own["image"] != scored[name]]
    if changed:
        raise InputError(
            f"the case(s) {', '.join(changed)} in {scores} were scored from other scans than they have now: the "
            "datalist or the scan changed since. Score again into a new folder, or use the datalist that was scored."
        )
    check_unseen(bundle_root, digests)


def read_provenance(scores: Path) -> dict[str, Any]:
    """What ``run.json`` in a folder of heatmaps says.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    file = scores / "run.json"
    if not file.exists():
        raise InputError(
            f"{scores} has no run.json, so the model that made its heatmaps is not known: check --scores, or score "
            "again into a new folder (with a model that was trained by this version)."
        )
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8")))
        known = [isinstance(found.get(key, ""), str) for key in ("region", *HASHES)]
        found = {"sign": "both", "cases": [], **found}
        if not all(known) or not isinstance(found["model"], str) or found["sign"] not in ("both", "bright", "dark"):
            raise ValueError(f"model {found['model']!r}, sign {found['sign']!r}, region {found.get('region')!r}")
        for case in found["cases"]:
            case["case"], case["image"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} is damaged ({error}): score again into a new folder.") from error
    return found


def scored_cases(path: str | Path, case: str | None = None) -> tuple[Path, list[str]]:
    """The folder of scores, and the ids of the cases that are meant: one, or all that were scored.

    Args:
        path: folder that scoring wrote, or the folder of a case in it.
        case: an id.

    Raises:
        InputError: if there are no scores, or no such case among them.
    """
    folder = Path(path).absolute()
    if not (folder / "run.json").exists() and (folder.parent / "run.json").exists():
        folder, case = folder.parent, folder.name if case is None else case
    names = [entry["case"] for entry in read_provenance(folder)["cases"]]
    if not names:
        raise InputError(f"{folder / 'run.json'} names no case that was scored: score again.")
    if case is not None and case not in names:
        raise InputError(f"{folder} holds no scores of a case {case!r}: its cases are {', '.join(names)}.")
    return folder, names if case is None else [case]


def scan_of_case(
    folder: str | Path, case: str, scan: Sequence[str | Path] = (), series: Sequence[str | int] = ()
) -> list[str]:
    """The files of the channels of a scored case: where ``run.json`` says, or where they lie now.

    Args:
        folder: of the scores.
        case: its id.
        scan, series: the files, if they were moved, or were DICOM, whose path is never written down; which series.

    Raises:
        InputError: if the files are not there, or are not those that were scored.
    """
    entry = next(entry for entry in read_provenance(Path(folder))["cases"] if entry["case"] == case)
    if scan:
        images = cases_from_files(scan, len(entry["image"]), series=list(series) or None)[0]["image"]
    else:
        images = entry["image"]
        absent = [image for image in images if not Path(image).exists()]
        if absent:
            raise InputError(
                f"the scan {absent[0]} of the case {case} is not known where it was (of DICOM, no path is kept): name "
                "it with --scan, once for each channel, and --series if it is DICOM."
            )
    if case_digests([{"case": case, "image": images}])[case]["image"] != entry.get("sha256"):
        raise InputError(
            f"{', '.join(map(safe_name, images))} is not the scan that the scores of the case {case} were made of: "
            "give that with --scan, or score again."
        )
    return list(map(str, images))


def chosen_epoch(bundle_root: str | Path) -> dict[str, Any] | None:
    """What ``models/epoch.json`` of a model says, if its epoch was chosen with the help of unlabelled cases.

    The figures that chose it, and ``words`` that say so wherever the model is reported.

    Raises:
        InputError: if the file is damaged.
    """
    file = Path(bundle_root) / "models" / "epoch.json"
    if not file.exists():
        return None
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8")))
        return {**found, "words": str(found["words"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged ({error}): train the model again.") from error


def _hashes(bundle_root: str | Path, calibration_file: str | Path) -> dict[str, str]:
    files = (Path(bundle_root) / "models" / "model.pt", Path(calibration_file))
    for file in files:
        if not file.exists():
            raise InputError(f"there is no {file}: train a model first, or give the folder of a trained bundle.")
    return {key: file_digest(file) for key, file in zip(HASHES, files, strict=True)}


def _check_whole(folder: Path, found: Mapping[str, Any], what_to_do: str) -> None:
    if any(key not in found for key in HASHES) or any("sha256" not in case for case in found["cases"]):
        raise InputError(
            f"{folder / 'run.json'} does not say which weights made the heatmaps (it is of an older version): "
            f"{what_to_do}."
        )


def _check_same_model(output: Path, found: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    if found["sign"] != model["sign"]:
        raise InputError(
            f"{output} holds heatmaps of the sign {found['sign']}, and {model['sign']} was asked for: choose another "
            "--output."
        )
    _check_whole(output, found, "choose another --output")
    if any(found[key] != model[key] for key in HASHES):
        raise InputError(
            f"{output} holds heatmaps of the model {found['model']} with other weights or another calibration than "
            f"{model['model']} has now: choose another --output."
        )


def _check_same_scans(output: Path, found: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> None:
    earlier, digests = {case["case"]: case for case in found["cases"]}, case_digests(cases)
    for case in cases:
        before = earlier.get(case["case"])
        if before is not None and before["sha256"] != digests[case["case"]]["image"]:
            raise InputError(
                f"{output / case['case']} holds the heatmap of {before['image'][0]}, and "
                f"{safe_name(case['image'][0])}, which has other content, would replace it: choose another --output, "
                "or use a datalist that gives each case a 'case' id."
            )


def _write(output: Path, content: Mapping[str, Any]) -> None:
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with written_whole(output / "run.json") as temporary:
        text = json.dumps({**content, "date": date, "version": medanomaly.__version__}, indent=1)
        temporary.write_text(text, encoding="utf-8")
