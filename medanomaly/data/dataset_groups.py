"""The cases of a large dataset: groups of files, found by name or in a table of the dataset, split by patient."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medanomaly.data.datalist import HEALTHY, is_image_label
from medanomaly.data.file_patterns import fill, find, words_of
from medanomaly.data.patient_split import split_patients

LABELLED = "test"  # the section whose cases say whether they are healthy; of training cases that is known
CHANNEL = "channel"  # the word in a pattern that stands for a channel
WHOSE = ("patient", "case")  # the words that say whose a file is, the first of these that there is


@dataclass
class FoundCases:
    """What a download holds: cases by section, and in words what is wrong with it."""

    sections: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def find_group_cases(content: Mapping[str, Any], root: Path, channels: Sequence[str] | None = None) -> FoundCases:
    """The cases of a manifest's groups below ``root``, with paths from there. See :mod:`medanomaly.data.manifests`.

    Args:
        content: the manifest.
        root: the folder of the download.
        channels: of each case; the first that the manifest names if not given.
    """
    result = FoundCases()
    placed: dict[str, dict[str, str]] = {}  # whose a file is by one rule is the same person by the same rule alone
    listed: dict[str, list[dict[str, str]]] = {}  # rows of the tables, by file
    known: dict[str, set[str]] = {}  # files that a table lists, by pattern
    for group in content.get("groups", []):
        files = _files_of(group, root, content, result.problems, listed, known)
        rule = group.get("patient", "")
        owners: dict[str, list[str]] = {}
        for file, values in files.items():
            patient = whose(file, values, rule)
            if patient is None:
                result.problems.append(
                    f"the name of {root / file} does not say whose it is ({rule or group['files']}): move it away."
                )
            else:
                owners.setdefault(patient, []).append(file)
        for section, patients in split_patients(owners, group["shares"], placed.setdefault(rule, {})).items():
            result.sections.setdefault(section, []).extend(
                case_of(file, files[file], group, section, root, channels, result.problems)
                for file in sorted(file for patient in patients for file in owners[patient])
            )
    for pattern, names in known.items():
        foreign = [name for name in find(root, pattern) if name not in names]
        if foreign:
            result.problems.append(
                f"{len(foreign)} files {pattern} in {root} are in no list of {content['name']}, the first is "
                f"{foreign[0]}: move them away."
            )
    return result


def whose(file: str, values: Mapping[str, str], rule: str = "") -> str | None:
    """The patient of a file: what ``rule``, a regular expression, finds in its name, or a word of its pattern says."""
    if rule:
        found = re.search(rule, Path(file).name)
        return found[1] if found else None
    return next((values[word] for word in WHOSE if word in values), None)


def case_of(
    file: str,
    values: Mapping[str, str],
    group: Mapping[str, Any],
    section: str,
    root: Path,
    channels: Sequence[str] | None,
    problems: list[str],
) -> dict[str, Any]:
    """The entry of a datalist for a file that was found, with paths from ``root``.

    Args:
        file, values: as :func:`~medanomaly.data.file_patterns.find` gives them, and columns of a table.
        group: with ``files``, and maybe ``region`` and ``label``.
        section: where the case goes; a label that is a number is written in the test section, and where it is
            refused later: 1 among healthy cases.
        channels: of the case; ``file`` alone if not given.
        problems: what cannot be found is added.
    """
    words = [word for word in words_of(group["files"]) if word != CHANNEL]
    named = "_".join(values[word] for word in words) if words else Path(file).stem
    case: dict[str, Any] = {"case": re.sub(r"[^\w.+-]+", "-", named).lstrip("_.+-"), "image": file}
    if channels is not None:
        case["image"] = [_one_file(group["files"], {**values, CHANNEL: name}, root, problems) for name in channels]
    for key in ("region", "label"):
        if isinstance(group.get(key), str):
            case[key] = _one_file(group[key], values, root, problems)
        elif is_image_label(group.get(key)) and (section == LABELLED or (group[key] and section in HEALTHY)):
            case[key] = group[key]
    return case


def _one_file(pattern: str, values: Mapping[str, str], root: Path, problems: list[str]) -> str:
    """The path from ``root`` of the file that a pattern means; the pattern itself if there is none."""
    name = fill(pattern, values)
    if not set("*?") & set(name):
        return name
    found = list(find(root, name))
    if len(found) > 1:
        problems.append(f"{root} has {len(found)} files {name}, {found[0]} and {found[1]} among them: one is needed.")
    return found[0] if found else name


def _files_of(
    group: Mapping[str, Any],
    root: Path,
    content: Mapping[str, Any],
    problems: list[str],
    listed: dict[str, list[dict[str, str]]],
    known: dict[str, set[str]],
) -> dict[str, dict[str, str]]:
    """The files of a group: path to what the words of its pattern, and the columns of its table, say."""
    channels = content.get("channels", [])
    pattern = fill(group["files"], {CHANNEL: channels[0]} if channels else {})
    found = find(root, pattern)
    count, name, source = group.get("count"), content["name"], content["source"]
    table = group.get("table")
    if table is None:
        if count is not None and len(found) != count:
            problems.append(
                f"{root} has {len(found)} files {pattern}, but {count} are those of {name}, and with others the "
                f"split would be another: download it again ({source}), or correct the folder."
            )
        return found
    if table["file"] not in listed:
        listed[table["file"]] = read_rows(table, root, problems)
        if count is not None and listed[table["file"]] and len(listed[table["file"]]) != count:
            problems.append(
                f"{root / table['file']} has {len(listed[table['file']])} rows, but {count} are those of {name}: "
                f"get it again ({source})."
            )
    rows, words = listed[table["file"]], words_of(pattern)
    by_words = {tuple(values[word] for word in words): file for file, values in found.items()}
    places = [(row, by_words.get(tuple(row.get(word, "") for word in words))) for row in rows]
    known.setdefault(pattern, set()).update(file for _, file in places if file)
    chosen = [
        (row, file)
        for row, file in places
        if all(re.fullmatch(value, row[word]) for word, value in group.get("where", {}).items())
    ]
    missing = [fill(pattern, row) for row, file in chosen if not file]
    if missing:
        problems.append(
            f"{len(missing)} of {len(chosen)} files that {table['file']} lists are not in {root}, the first is "
            f"{missing[0]}: download {name} again ({source})."
        )
    return {file: row for row, file in chosen if file}


def read_rows(table: Mapping[str, Any], root: Path, problems: list[str]) -> list[dict[str, str]]:
    """The rows of a table of a dataset, as words and values.

    Args:
        table: its ``file``, and which word each of its ``columns`` is; or, of a list without columns, a regular
            expression that each ``line`` is, with a group for each word.
        root: the folder of the download.
        problems: what is wrong with the table is added.
    """
    path = root / table["file"]
    try:
        if "line" in table:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            matches = [re.fullmatch(table["line"], line) for line in lines]
            wrong = [line for line, match in zip(lines, matches, strict=True) if match is None]
            if wrong:
                problems.append(f"{path} has {len(wrong)} lines that cannot be read, the first is {wrong[0][:80]!r}.")
            return [match.groupdict() for match in matches if match]
        frame = read_table(path)
    except (OSError, ValueError) as error:  # of the parser, too
        problems.append(f"{path} cannot be read ({error}): it says which files are whose.")
        return []
    lacking = [column for column in table["columns"].values() if column not in frame.columns]
    if lacking:
        problems.append(f"{path} has no column {', '.join(lacking)}; its columns are {', '.join(frame.columns)}.")
        return []
    chosen = frame[list(table["columns"].values())]
    return [dict(zip(table["columns"], row, strict=True)) for row in chosen.itertuples(index=False, name=None)]


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or TSV file, every cell as the text that it is. OSError or ValueError: it cannot be read."""
    separator = "\t" if path.suffix == ".tsv" else ","
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
