"""Cohorts: a datalist JSON in MONAI's form, checked before any volume is read."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medanomaly.data.dicom_series import is_dicom, place_and_series, safe_name
from medanomaly.data.dicom_volume import choose_series
from medanomaly.data.films import PICTURES
from medanomaly.errors import InputError

SECTIONS = ("training", "validation", "test", "mixed")
HEALTHY = ("training", "validation")  # detectors learn from the one, thresholds come from the other
CASE_KEYS = ("image", "series", "region", "label", "case")
OTHER_NAMES = {"brain": "region"}  # what the region is in a cohort of heads
CASE_ID = re.compile(r"[^\W_][\w.+-]*(?: [\w.+-]+)*")


def read_datalist(
    datalist: str | Path | None,
    section: str,
    base_dir: str | Path | None = None,
    required: bool = True,
    skip_missing: bool = False,
) -> list[dict[str, Any]]:
    """The cases of one section, with absolute paths and a ``case`` id each.

    A datalist is ``{"training": [...], "validation": [...], "test": [...], "mixed": [...]}``, where mixed is healthy
    and diseased, not told apart, for detectors that learn from both. A case is ``{"image": path or [path, ...],
    "region": path, "label": path or number, "case": id}``, where only ``image`` is needed and several image paths are
    channels. The region is the mask in which scores mean something; it may be called "brain". The label is a mask of
    lesions, or, where nobody has drawn what is abnormal, 0 for a healthy case and 1 for another.

    An image may be a DICOM series: a folder, a zip or a file. Where several series lie in it, ``"series"`` chooses one
    by number or description; a list of them are channels. A case of a DICOM series that has no ``case`` is called by
    the number of the series and a hash, as its files may be named like the patient.

    Args:
        datalist: the JSON file; None, the default of the bundles, gives no cases.
        section: which list.
        base_dir: what relative paths start from; the folder of the datalist if not given.
        required: whether a section that is missing or empty is an error.
        skip_missing: leave out a case one of whose files does not exist, in place of an error.

    Raises:
        InputError: if the file or an image is missing, the JSON is broken, a section or a key is misspelt, or a case
            to train on or to take thresholds from has the label 1.
    """
    if datalist is None:
        return []
    path = Path(datalist)
    content = _load_json(path)
    base = Path(base_dir) if base_dir is not None else path.parent
    cases = content.get(section)
    if not cases:
        near = difflib.get_close_matches(
            section, [k for k in content if k not in SECTIONS or section not in SECTIONS], 1
        )
        if near or required:
            hint = "Add the section."
            if near:
                hint = f"Did you mean {'to call ' if section in SECTIONS else ''}{near[0]!r}"
                hint += f" {section!r}?" if section in SECTIONS else "?"
            raise InputError(f"{path} has no cases in {section!r}; its keys are {sorted(content)}. {hint}")
        return []
    if not isinstance(cases, list):
        raise InputError(f"{path}: {section!r} is a {type(cases).__name__}, but a list of cases is needed.")
    return check_cases(cases, section, str(path), base, skip_missing)


def check_cases(
    cases: Sequence[Any], section: str, where: str, base: Path, skip_missing: bool = False
) -> list[dict[str, Any]]:
    """The entries of a section as :func:`read_datalist` gives them; ``where`` is what messages name."""
    result = [
        _check_case(case, f"{where}, {section!r}, entry {n}", base)
        for n, case in enumerate(cases, start=1)
        if not (skip_missing and _is_missing(case, base))
    ]
    check_healthy(result, section, where)
    return check_case_ids(result, where)


def check_healthy(cases: Sequence[Mapping[str, Any]], section: str, where: str) -> None:
    """Raise InputError if a case that a detector learns from, or that thresholds come from, has the label 1.

    Lesions in a mask are no such thing: what they touch is left out.
    """
    wrong = [
        str(case.get("case", safe_name(case["image"][0])))
        for case in cases
        if is_image_label(case.get("label")) and case["label"]
    ]
    if wrong and section in HEALTHY:
        raise InputError(
            f"{where}: {', '.join(wrong[:5])}{' and others' if wrong[5:] else ''} in {section!r} have the label 1, but "
            "detectors learn from healthy cases and take their thresholds from them: move these to 'test', or to "
            "'mixed' for a detector that learns from healthy and diseased cases together."
        )


def unlabelled(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Cases without their labels: those under ``mixed`` are not told apart, and no patch of a lesion is left out."""
    return [{key: value for key, value in case.items() if key != "label"} for case in cases]


def is_image_label(label: Any) -> bool:
    """Whether the label of a case is a number, of the whole image, and not a mask."""
    return isinstance(label, int | float) and not isinstance(label, bool)


def require_cases(cases: Sequence[Any]) -> None:
    """Raise InputError if there are no cases, so that a run with nothing to do does not look like a success."""
    if len(cases) == 0:
        raise InputError(
            "there are no cases: set dataset_dir (or datalist) to a cohort that has the section asked for."
        )


def cases_from_files(
    images: Sequence[str | Path],
    in_channels: int = 1,
    brain: str | Path | None = None,
    series: Sequence[str | int] | None = None,
) -> list[dict[str, Any]]:
    """Cases from scans named on a command line.

    Args:
        images: with ``in_channels`` 1, each file is a case, and a folder stands for the NIfTI, PNG and JPEG files in
            it, or is a DICOM series; else the files are the channels of one case, in the order of the model's channels.
        in_channels: channels that the model needs.
        brain: a mask file of the region, if there is one case.
        series: numbers or descriptions of DICOM series: one for all images, one for each, or several of one place.

    Raises:
        InputError: if a file is missing, or the number of files does not fit the channels.
    """
    files: list[Path] = []
    for image in map(Path, images):
        found = sorted(file for file in image.iterdir() if _is_scan(file)) if image.is_dir() else []
        files += found or [image]  # a folder without such files may be a DICOM series
    pairs = _with_series(files, series, "command line")
    if in_channels > 1 and len(pairs) != in_channels:
        raise InputError(
            f"{len(pairs)} image file(s) were given, but the model takes {in_channels} channels: name the "
            f"{in_channels} files of one case in the model's order, or use a datalist for several cases."
        )
    if brain is not None and in_channels == 1 and len(pairs) != 1:
        raise InputError(
            f"one mask was given for {len(pairs)} scans: use a datalist with a 'region' (or 'brain') for each case."
        )
    groups = [pairs] if in_channels > 1 else [[pair] for pair in pairs]
    entries = []
    for number, group in enumerate(groups, start=1):
        entry = {"image": [image for image, _ in group], "series": [choice for _, choice in group], "region": brain}
        where = "command line" if len(groups) == 1 else f"command line, scan {number}"
        entries.append(_check_case(entry, where, Path()))
    return check_case_ids(entries, "command line")


def _with_series(images: Sequence[Any], series: Any, where: str) -> list[tuple[Any, str | int | None]]:
    """The images of a case, each with the DICOM series that is wanted of it; None where nothing is said."""
    choices = list(series) if isinstance(series, list | tuple) else [series]
    if len(images) == 1:
        images = [*images] * max(len(choices), 1)
    if len(choices) == 1 and len(images) > 1:
        choices = [choices[0] if is_dicom(image) else None for image in images]
    choices = choices or [None] * len(images)
    if len(choices) != len(images):
        raise InputError(
            f"{where}: {len(choices)} series for {len(images)} images: name one for all images, or one for each."
        )
    for image, choice in zip(images, choices, strict=True):
        if choice is not None and not is_dicom(image):
            raise InputError(f"{where}: a series ({choice!r}) of {image}, which is no DICOM folder, zip or file.")
    return list(zip(images, choices, strict=True))


def _is_scan(file: Path) -> bool:
    return ".nii" in file.name or (file.suffix.lower() in PICTURES and not file.name.startswith("."))


def check_case_ids(cases: list[dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """Give each case without an id the name of its file, or of its folder where file names repeat; ids are unique."""
    stems = [Path(safe_name(case["image"][0])).name.split(".")[0] for case in cases]
    use_folder = len(set(stems)) < len(stems)
    for case, stem in zip(cases, stems, strict=True):
        if "case" not in case:
            file = Path(safe_name(case["image"][0]))
            name = file.parent.name if use_folder and not is_dicom(case["image"][0]) else stem
            case["case"] = check_case_id(
                name, f"{where}: {file} gives the case id", "rename it, or give a 'case' in a datalist"
            )
    ids = [case["case"] for case in cases]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise InputError(f"{where}: the case ids {twice} appear more than once; give each case its own 'case'.")
    return cases


def _load_json(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise InputError(f"{path} is a folder, but a datalist is a JSON file: give for example {path}/datalist.json.")
    if not path.exists():
        raise InputError(
            f"the datalist {path} does not exist: give the path of a datalist JSON (see README, 'Your data')."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # broken JSON, or not even text
        raise InputError(f"{path} is not valid JSON ({error}): mend it there.") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}, but an object with {', '.join(SECTIONS)} is needed."
        )
    return content


def _check_case(case: Any, where: str, base: Path) -> dict[str, Any]:
    if not isinstance(case, dict):
        raise InputError(f"{where} is {case!r}, but an object with the key 'image' is needed.")
    for key, meant in OTHER_NAMES.items():
        if case.get(key) is not None and case.get(meant) is not None:
            raise InputError(f"{where} has {key!r} and {meant!r}, two names of one thing: remove one of them.")
    case = {OTHER_NAMES.get(key, key): value for key, value in case.items()}
    for key in case:
        if key not in CASE_KEYS:
            near = difflib.get_close_matches(str(key), (*CASE_KEYS, *OTHER_NAMES), 1)
            hint = f"Did you mean {near[0]!r}?" if near else "Remove it."
            raise InputError(f"{where}: unknown key {key!r}; a case has {', '.join(CASE_KEYS)}. {hint}")
    if not case.get("image"):
        raise InputError(f"{where} has no 'image': give the path of the scan, or a list of paths, one a channel.")
    images = case["image"] if isinstance(case["image"], list | tuple) else [case["image"]]
    found = _with_series([_existing(base, image, where) for image in images], case.get("series"), where)
    result: dict[str, Any] = {"image": [_chosen(image, choice, where) for image, choice in found]}
    label = case.get("label")
    if isinstance(label, bool) or (is_image_label(label) and label not in (0, 1)):
        raise InputError(
            f"{where}: the label is {label!r}; give a mask file, or 0 for a healthy case and 1 for another."
        )
    for key in ("region", "label"):
        if key == "label" and is_image_label(label):
            result[key] = int(label)
        elif case.get(key) is not None:
            result[key] = _chosen(_existing(base, case[key], where), None, f"{where}, {key!r}")
    if case.get("case") is not None:
        result["case"] = check_case_id(str(case["case"]), f"{where}: the case id is")
    return result


def _is_missing(case: Any, base: Path) -> bool:
    keys = ("image", "region", *OTHER_NAMES, "label")
    values = [case.get(key) for key in keys if not is_image_label(case.get(key))] if isinstance(case, dict) else []
    names = [name for value in values for name in (value if isinstance(value, list | tuple) else [value])]
    return any(name is not None and not place_and_series(base / str(name))[0].exists() for name in names)


def _existing(base: Path, name: Any, where: str) -> Path:
    path = (base / str(name)).absolute()
    if not path.exists() and not place_and_series(path)[0].exists():
        raise InputError(f"{where}: the file {path} does not exist: correct the path, or its base folder {base}.")
    return path


def _chosen(image: Path, choice: str | int | None, where: str) -> str:
    """The path of an image, with the series that is meant if it is DICOM."""
    return choose_series(image, choice, where) if is_dicom(image) else str(image)


def check_case_id(case: str, where: str, what_to_do: str = "choose another") -> str:
    """``case``, if it can name a folder of results and nothing else: no way out of the output folder, no code.

    Raises:
        InputError: if it is not a word, nor words with single spaces, of letters, digits, "-", "_", "." and "+".
    """
    if not CASE_ID.fullmatch(unicodedata.normalize("NFC", case)):  # a Mac writes an accent as a character of its own
        raise InputError(
            f"{where} {case!r}, which cannot name a folder of results: letters, digits, '-', '_', '.', '+' and single "
            f"spaces between them are allowed, and it must begin with a letter or digit; {what_to_do}."
        )
    return case
