"""Public datasets and one's own folders: what is known of them, whether a download is whole, and its datalist."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medanomaly.data.datalist import check_cases, is_image_label
from medanomaly.data.dataset_groups import FoundCases
from medanomaly.data.file_check import broken_arrays, broken_files
from medanomaly.data.manifests import files_of, find_cases, manifest_names, raise_problems, read_manifest
from medanomaly.data.own_folder import find_folder_cases
from medanomaly.data.writing import written_whole
from medanomaly.errors import InputError

TOLD = {
    "description": "What",
    "normal": "Normal",
    "source": "Source",
    "access": "Access",
    "licence": "Licence",
    "citation": "Cite",
    "layout": "Layout",
    "chain": "Chain",
    "region": "Region",
    "channels": "Channels",
    "split": "Split",
}


def datasets() -> list[dict[str, str]]:
    """The manifests that come with the package: ``name``, ``chain`` (the kind of image) and ``what`` it is."""
    manifests = {name: read_manifest(name) for name in manifest_names()}
    return [{"name": n, "chain": content.get("chain", ""), "what": content["name"]} for n, content in manifests.items()]


def datasets_in_words(found: Sequence[Mapping[str, str]]) -> str:
    """A line for each of :func:`datasets`."""
    width = max(len(each["name"]) for each in found)
    return "\n".join(f"{each['name']:{width}}  {each['chain']:10}  {each['what']}" for each in found)


def manifest_in_words(content: Mapping[str, Any]) -> str:
    """What :func:`~medanomaly.data.manifests.read_manifest` gives, for people."""
    lines = [content["name"], ""]
    for key, word in TOLD.items():
        value = content.get(key)
        if value:
            lines.append(f"{word}: {', '.join(value) if isinstance(value, list) else value}")
    return "\n".join(lines)


def index_dataset(
    manifest: str | Path | Mapping[str, Any],
    root: str | Path,
    output: str | Path | None = None,
    channels: Sequence[str] | None = None,
    quick: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """Check the download of a public dataset, and write its datalist.

    Args:
        manifest: see :func:`~medanomaly.data.manifests.read_manifest`, or what that gives.
        root: the folder of the download.
        output: the datalist, JSON; None writes none.
        channels: of each case, among those of the manifest; those that it names first if not given.
        quick: look whether the files are there, but do not read them.

    Returns:
        The sections of the datalist; none for a dataset that is not made of scans.

    Raises:
        InputError: with all that is wrong: files that are missing, too many, in no list, broken or of another size.
    """
    content = dict(manifest) if isinstance(manifest, Mapping) else read_manifest(manifest)
    _check_output(output)
    root = Path(root)
    found = find_cases(content, root, channels)
    if not quick:
        found.problems += broken_arrays(root, content.get("arrays", {}))
    where = f"the download of {content['name']}"
    return _written(found, root, output, quick, where, content.get("shape"))


def index_folder(
    pattern: str,
    root: str | Path,
    output: str | Path | None = None,
    channels: Sequence[str] | None = None,
    region: str | None = None,
    label: str | None = None,
    healthy: str | None = None,
    table: str | Path | None = None,
    shares: Mapping[str, float] | None = None,
    quick: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """Check one's own cohort, and write its datalist, split by patient.

    Args:
        pattern, channels, region, label, healthy, table, shares: see
            :func:`~medanomaly.data.own_folder.find_folder_cases`.
        root, output, quick: see :func:`index_dataset`.

    Raises:
        InputError: with all that is wrong.
    """
    _check_output(output)
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"the folder {root} does not exist: give that of the cohort.")
    found = find_folder_cases(root, pattern, channels, region, label, healthy, table, shares)
    files = files_of(found.sections)
    missing = [name for name in files if not (root / name).exists()]
    if missing:
        found.problems.append(f"{len(missing)} of {len(files)} files are not in {root}, the first is {missing[0]}.")
    return _written(found, root, output, quick, f"the cohort in {root}", None)


def closing_words(
    sections: Mapping[str, Sequence[Mapping[str, Any]]], output: str | Path, manifest: str | Path | None = None
) -> str:
    """What was found, and what to do with it, for the terminal."""
    if not sections:
        return f"All files are there. They are no scans, so there is no datalist: medanomaly data describe {manifest}"
    parts = []
    for section, cases in sections.items():
        labels = Counter(case["label"] for case in cases if is_image_label(case.get("label")))
        told = f" ({labels[0]} healthy, {labels[1]} not)" if labels else ""
        parts.append(f"{len(cases)} {section}{told}")
    text = f"All files are there: {', '.join(parts)}. {output} is written"
    if "training" not in sections:
        return f"{text}; nobody in it is known to be healthy, so it is for detectors that learn from 'mixed', too."
    content = {} if manifest is None else read_manifest(manifest)
    options = [f" --chain {content['chain']}"] if content.get("chain", "brain_mri") != "brain_mri" else []
    options += [f" --region {content['region']}"] if content.get("region", "given") != "given" else []
    return f"{text}:\nmedanomaly train --datalist {output}{''.join(options)} --output ..."


def _check_output(output: str | Path | None) -> None:
    if output is not None and Path(output).exists():
        raise InputError(f"{output} exists: choose another --output, or delete it.")


def _written(
    found: FoundCases,
    root: Path,
    output: str | Path | None,
    quick: bool,
    where: str,
    shape: Sequence[int] | None,
) -> dict[str, list[dict[str, Any]]]:
    if not quick:
        found.problems += broken_files(root, files_of(found.sections), shape)
    raise_problems(found.problems, f"{where} is not whole")
    sections = {section: check_cases(cases, section, where, root) for section, cases in found.sections.items()}
    if sections and output is not None:
        with written_whole(output) as temporary:
            temporary.write_text(json.dumps(sections, indent=1), encoding="utf-8")
    return sections
