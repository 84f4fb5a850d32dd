"""Public datasets: what ``data_manifests/NAME.json`` says of one, and the datalist of a download of it.

A manifest names the ``source``, the ``licence``, the ``layout`` and the ``split`` in words, and the way to find the
``region``. Its cases stand in it one by one, in sections as in a datalist; or, for a large dataset, as ``groups``::

    {"files": "NORMAL/*.jpeg", "count": 1341, "patient": "IM-([0-9]+)", "label": 0, "shares": {"training": 0.7, ...}}

where ``files`` is a pattern (:mod:`medanomaly.data.file_patterns`) below the root of the data, ``count`` is how many
there must be, and ``shares`` says which share of the patients goes to which section. Whose a file is says the first
group of the regular expression ``patient`` in its name, or else ``{patient}`` or ``{case}`` in the pattern. A case is
called what the words of the pattern stand for, or like its file. Patients are in the order of the SHA-256 of their
names, so the split is the same wherever it is made, and all images of one patient are on one side: who was placed by
a group above, by the same rule, stays there. ``region`` and ``label`` are patterns, too, ``{case}/lesions.nii.gz``,
or the label is a number; ``{channel}`` stands for each of the ``channels``.

Where the dataset has a table, a group names it: ``"table": {"file": "x.csv", "columns": {"image": "Image Index"}}``
says which word of ``files`` is which column (in a list without columns, ``line`` is a regular expression with named
groups), ``count`` is how many rows there must be, and ``where`` chooses among them, ``{"finding": "No Finding"}``.

Further keys: ``images`` says which file is which of several ``channels`` of cases that stand in the manifest,
``"{case}/{channel}.nii.gz"``; ``shape`` is that of all images, in voxels; ``arrays`` are files that hold all images
of a dataset, of no datalist, with their shapes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medanomaly.data.datalist import SECTIONS, check_cases
from medanomaly.data.dataset_groups import FoundCases, find_group_cases
from medanomaly.errors import InputError
from medanomaly.shipped import manifest_names, shipped

MOST_TOLD = 20  # of what is wrong with a download
NEEDED = ("name", "source", "licence", "layout", "split")


def read_manifest(manifest: str | Path) -> dict[str, Any]:
    """A manifest that comes with the package, by its name, or any other, by its path.

    Raises:
        InputError: if there is none, or it is not one.
    """
    path = Path(manifest)
    if str(manifest) in manifest_names():
        path = shipped("data_manifests") / f"{manifest}.json"
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
    found = find_cases(content, root, channels)
    raise_problems(found.problems, f"{root} is not the whole of {content['name']}")
    where = f"the manifest of {content['name']}"
    return {section: check_cases(cases, section, where, root) for section, cases in found.sections.items()}


def find_cases(content: Mapping[str, Any], data_root: Path, channels: Sequence[str] | None = None) -> FoundCases:
    """The cases of a manifest below ``data_root``, with paths from there, and what is missing or too many.

    Raises:
        InputError: if there is no such folder, or there are no such channels.
    """
    if not data_root.is_dir():
        raise InputError(
            f"the folder {data_root} does not exist: give that of {content['name']} ({content['layout']})."
        )
    _check_channels(channels, content)
    listed = {section: list(content[section]) for section in SECTIONS if section in content}
    if channels is not None:
        listed = {name: [_with_channels(case, channels, content) for case in own] for name, own in listed.items()}
    found = find_group_cases(content, data_root, channels)
    sections = {name: listed.get(name, []) + found.sections.get(name, []) for name in SECTIONS}
    sections = {name: cases for name, cases in sections.items() if name in listed or name in found.sections}
    return FoundCases(sections, [*found.problems, *_missing(sections, data_root, content)])


def raise_problems(problems: Sequence[str], where: str) -> None:
    """Raise InputError that tells all that is wrong, if anything is; the first of many."""
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        rest = len(problems) - MOST_TOLD
        lines = [*problems[:MOST_TOLD], *([f"and {rest} more"] if rest > 0 else [])]
        raise InputError(f"{where}:" + "".join(f"\n- {line}" for line in lines))


def files_of(sections: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The files that cases name, each once: images, regions and labels."""
    names: list[Any] = []
    for cases in sections.values():
        for case in cases:
            for key in ("image", "region", "brain", "label"):
                value = case.get(key)
                names += value if isinstance(value, list | tuple) else [value]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _check_channels(channels: Sequence[str] | None, content: Mapping[str, Any]) -> None:
    known = content.get("channels", [])
    unknown = [] if channels is None else [channel for channel in channels if channel not in known]
    if unknown or channels == []:
        raise InputError(
            f"{content['name']} has no channel {', '.join(unknown) or 'of no name'}: "
            + (f"choose among {', '.join(known)}." if known else "its cases have one image each; leave channels out.")
        )


def _with_channels(case: Mapping[str, Any], channels: Sequence[str], content: Mapping[str, Any]) -> dict[str, Any]:
    images = [content["images"].format(case=case["case"], channel=channel) for channel in channels]
    return {**case, "image": images}


def _missing(sections: Mapping[str, Sequence[Mapping[str, Any]]], root: Path, content: Mapping[str, Any]) -> list[str]:
    """How many files are missing, and the first of them; nothing if none is."""
    files = files_of(sections)
    missing = [name for name in [*files, *content.get("arrays", {})] if not (root / name).exists()]
    if not missing:
        return []
    return [
        f"{len(missing)} of {len(files) or len(content['arrays'])} files of {content['name']} are not in {root}, the "
        f"first is {missing[0]}: give the folder of {content['layout']}, or download it again ({content['source']})."
    ]
