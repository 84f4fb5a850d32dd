"""Public datasets: what ``data_manifests/NAME.json`` says of one, and the datalist of a download of it.

A manifest names the ``source``, the ``licence``, the ``layout`` and the ``split`` in words, and the way to find the
``region``. Its cases stand in it one by one, in sections as in a datalist; or, for a large dataset, as ``groups``::

    {"files": "NORMAL/*.jpeg", "count": 1341, "patient": "IM-([0-9]+)", "label": 0, "shares": {"training": 0.7, ...}}

where ``files`` are found below the root of the data, ``count`` is how many there must be, the first group of the
regular expression ``patient`` in a file's name is whose it is, and ``shares`` says which share of the patients goes to
which section. Patients are in the order of the SHA-256 of their names, so the split is the same wherever it is made,
and all images of one patient are on one side. Where cases have several ``channels``, ``images`` says which file is
which: ``"{case}/{channel}.nii.gz"``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import medanomaly
from medanomaly.data.datalist import SECTIONS, check_cases
from medanomaly.errors import InputError

LABELLED = "test"  # the section whose cases say whether they are healthy; of training cases that is known
NEEDED = ("name", "source", "licence", "layout", "split")


def manifest_names() -> list[str]:
    """The names of the manifests that come with the package."""
    return sorted(file.stem for file in _folder().glob("*.json"))


def read_manifest(manifest: str | Path) -> dict[str, Any]:
    """A manifest that comes with the package, by its name, or any other, by its path.

    Raises:
        InputError: if there is none, or it is not one.
    """
    path = Path(manifest)
    if str(manifest) in manifest_names():
        path = _folder() / f"{manifest}.json"
    if not path.is_file():
        raise InputError(f"there is no manifest {manifest}: name one of {', '.join(manifest_names())}, or a JSON file.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): mend it there.") from error
    missing = [key for key in NEEDED if key not in content] if isinstance(content, dict) else NEEDED
    if missing:
        raise InputError(f"{path} is not a manifest of a dataset: it lacks {', '.join(missing)}.")
    return dict(content)


def datalist_from_manifest(
    manifest: str | Path | Mapping[str, Any], data_root: str | Path, channels: Sequence[str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """The sections of a dataset, each a list of cases with absolute paths, as :func:`read_datalist` gives them.

    Written as JSON, the result is a datalist.

    Args:
        manifest: see :func:`read_manifest`, or what that gives.
        data_root: the folder of the download, from which the paths in the manifest start.
        channels: of each case, in the order in which a detector is to see them; None takes the images that the
            manifest names, and all channels are those of ``manifest["channels"]``.

    Raises:
        InputError: if files are missing or too many, or there are no such channels.
    """
    content = dict(manifest) if isinstance(manifest, Mapping) else read_manifest(manifest)
    root = Path(data_root)
    if not root.is_dir():
        raise InputError(f"the folder {root} does not exist: give that of {content['name']} ({content['layout']}).")
    where = f"the manifest of {content['name']}"
    sections = {section: list(content[section]) for section in SECTIONS if section in content}
    for group in content.get("groups", []):
        for section, cases in _split(group, root, content).items():
            sections.setdefault(section, []).extend(cases)
    if channels is not None:
        sections = {name: [_with_channels(case, channels, content) for case in own] for name, own in sections.items()}
    _check_files(sections, root, content)
    return {
        section: check_cases(sections[section], section, where, root) for section in SECTIONS if section in sections
    }


def _folder() -> Path:
    package = Path(medanomaly.__file__).parent
    places = [root / "data_manifests" for root in (package, package.parent)]  # a wheel, a checkout
    return next((place for place in places if place.is_dir()), places[-1])


def _split(group: Mapping[str, Any], root: Path, content: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The cases of a group of files, by section: each patient is in one section, or in none."""
    files = sorted(file.relative_to(root) for file in root.glob(group["files"]))
    if len(files) != group["count"]:
        raise InputError(
            f"{root} has {len(files)} files {group['files']}, but {group['count']} are those of {content['name']}, and "
            f"with others the split would be another: download it again ({content['source']}), or correct the folder."
        )
    owners: dict[str, list[Path]] = {}
    for file in files:
        found = re.search(group["patient"], file.name)
        if found is None:
            raise InputError(f"the name of {root / file} does not say whose it is ({group['patient']}): move it away.")
        owners.setdefault(found[1], []).append(file)
    patients = sorted(owners, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    result: dict[str, list[dict[str, Any]]] = {}
    share, first = 0.0, 0
    for section, own in group["shares"].items():
        share += own
        last = round(share * len(patients))
        chosen = sorted(file for patient in patients[first:last] for file in owners[patient])
        label = {"label": group["label"]} if section == LABELLED else {}
        result[section] = [{"case": file.stem, "image": file.as_posix(), **label} for file in chosen]
        first = last
    return result


def _with_channels(case: Mapping[str, Any], channels: Sequence[str], content: Mapping[str, Any]) -> dict[str, Any]:
    known = content.get("channels", [])
    unknown = [channel for channel in channels if channel not in known]
    if unknown or not channels:
        raise InputError(
            f"{content['name']} has no channel {', '.join(unknown) or 'of no name'}: "
            + (f"choose among {', '.join(known)}." if known else "its cases have one image each; leave channels out.")
        )
    images = [content["images"].format(case=case["case"], channel=channel) for channel in channels]
    return {**case, "image": images}


def _check_files(sections: Mapping[str, Sequence[Mapping[str, Any]]], root: Path, content: Mapping[str, Any]) -> None:
    """Raise InputError if files are missing, with how many and the first of them."""
    names: list[Any] = []
    for cases in sections.values():
        for case in cases:
            for key in ("image", "region", "brain", "label"):
                value = case.get(key)
                names += value if isinstance(value, list | tuple) else [value]
    files = dict.fromkeys(name for name in names if isinstance(name, str))
    missing = [name for name in files if not (root / name).exists()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(files)} files of {content['name']} are not in {root}, the first is {missing[0]}: "
            f"give the folder of {content['layout']}, or download it again ({content['source']})."
        )
