"""The cases of one's own folders, BIDS among them, found by a pattern of file names and split by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medanomaly.data.datalist import SECTIONS
from medanomaly.data.dataset_groups import CHANNEL, WHOSE, FoundCases, case_of, read_table, whose
from medanomaly.data.file_patterns import fill, find, words_of
from medanomaly.data.patient_split import split_patients
from medanomaly.errors import InputError
from medanomaly.terminal import say

SHARES = {"training": 0.7, "validation": 0.15, "test": 0.15}
BIDS_TABLE, BIDS_PATIENT, BIDS_PREFIX = "participants.tsv", "participant_id", "sub-"


def find_folder_cases(
    root: Path,
    pattern: str,
    channels: Sequence[str] | None = None,
    region: str | None = None,
    label: str | None = None,
    healthy: str | None = None,
    table: str | Path | None = None,
    shares: Mapping[str, float] | None = None,
) -> FoundCases:
    """The cases below ``root`` by section, with paths from there, and in words what is missing or not clear.

    Healthy patients go to the sections in the order of the SHA-256 of their names; all others are tested, or, where
    there is a share for ``mixed``, split between it and ``test`` as the healthy of these two are. Without ``healthy``,
    nobody is told apart: all are split, as healthy people, or as patients whose lesions ``label`` shows.

    Args:
        root: of the cohort.
        pattern: of the images, see :mod:`medanomaly.data.file_patterns`. ``{patient}``, or else ``{case}``, is whose
            one is; ``{channel}`` is each of ``channels``.
        channels: of each case, in order.
        region, label: patterns of masks, with words of ``pattern``. Healthy patients may be without lesion masks, if
            none has one: they are not tested then, as that would need masks of zeros.
        healthy: ``WORD=VALUE``, a word of the pattern or a column of ``table``, of those who are healthy.
        table: CSV, or TSV; ``participants.tsv`` of the root if not given. Its column ``participant_id``, or the first,
            says whose a row is, with or without ``sub-``.
        shares: section to share of the (healthy) patients; 70, 15 and 15 % to train, to hold out and to test.

    Raises:
        InputError: if nothing is found, or a word, a channel, a column or a section has no meaning.
    """
    words, shares = words_of(pattern), SHARES if shares is None else shares
    _check(words, channels, shares)
    found = find(root, fill(pattern, {CHANNEL: channels[0]} if channels else {}))
    if not found:
        raise InputError(
            f"{root} has no file {pattern}: '*' stands for a part of one name, '**/' for any folders, and "
            "{case} for what a case is called, such as 'sub-{case}/anat/*_FLAIR.nii.gz'."
        )
    owners: dict[str, list[str]] = {}
    for file, values in found.items():
        owners.setdefault(str(whose(file, values)), []).append(file)
    result = FoundCases()
    ill = _ill(found, owners, healthy, table, root, result.problems)
    group = {"files": pattern, "region": region, "label": label}
    groups: list[tuple[Mapping[str, Any], set[str], Mapping[str, float]]] = [(group, set(found), shares)]
    if healthy is not None:
        normal = set(found) - ill
        marks = [find(root, fill(label, found[file])) for file in normal] if label else []
        without = label is not None and not any(marks)
        healthy_shares = {name: share for name, share in shares.items() if name != "test"} if without else shares
        own = label if label is not None and not without else None if without else 0
        groups = [
            ({**group, "label": own}, normal, healthy_shares),
            ({**group, "label": label if label is not None else 1}, ill, _shares_of_the_ill(shares)),
        ]
    placed: dict[str, str] = {}
    left_out = 0
    for chosen, files, own_shares in groups:
        names = [name for name in owners if files & set(owners[name])]
        kept_apart = [name for name in names if name in placed and placed[name] not in own_shares]
        left_out += sum(len(files & set(owners[name])) for name in kept_apart)
        for section, patients in split_patients(names, own_shares, placed).items():
            result.sections.setdefault(section, []).extend(
                case_of(file, found[file], chosen, section, root, channels, result.problems)
                for file in sorted(file for patient in patients for file in owners[patient] if file in files)
            )
    if left_out:
        say(
            f"{left_out} cases are left out: their patients have healthy scans under 'training' or 'validation', "
            "too. If they are other people of the same name, give them names of their own."
        )
    result.sections = {name: result.sections[name] for name in SECTIONS if result.sections.get(name)}
    return result


def _check(words: Sequence[str], channels: Sequence[str] | None, shares: Mapping[str, float]) -> None:
    """Raise InputError for a pattern, channels or shares that say too little or too much."""
    if not set(words) & set(WHOSE):
        raise InputError(
            "the pattern does not say whose a file is: put {case} in the place of what a case is called, or {patient} "
            "in that of the patient, if one has several, such as 'sub-{patient}/ses-{visit}/anat/*_FLAIR.nii.gz'."
        )
    if (CHANNEL in words) != bool(channels):
        raise InputError(
            "{channel} in the pattern and --channels belong together: 'sub-{case}/anat/*_{channel}.nii.gz' with "
            "--channels FLAIR,T1w."
        )
    wrong = [name for name, share in shares.items() if name not in SECTIONS or not 0 <= share <= 1]
    if wrong or not 0 < sum(shares.values()) <= 1 + 1e-9:
        raise InputError(
            f"the shares {dict(shares)} must be of the sections {', '.join(SECTIONS)}, each 0 to 1, at most 1 in all."
        )


def _shares_of_the_ill(shares: Mapping[str, float]) -> dict[str, float]:
    """All to be tested, unless healthy ones go to ``mixed``: then as many of the ill there as of the healthy."""
    mixed, test = shares.get("mixed", 0.0), shares.get("test", 0.0)
    return {"test": 1.0} if mixed == 0 else {"mixed": mixed / (mixed + test), "test": test / (mixed + test)}


def _ill(
    found: Mapping[str, Mapping[str, str]],
    owners: Mapping[str, Sequence[str]],
    healthy: str | None,
    table: str | Path | None,
    root: Path,
    problems: list[str],
) -> set[str]:
    """The files of those who are not healthy."""
    if healthy is None:
        return set()
    word, equals, value = healthy.partition("=")
    if not equals:
        raise InputError(f"--healthy {healthy!r} has no value: write COLUMN=VALUE, such as --healthy group=control.")
    if all(word in values for values in found.values()):
        ill = {file for file, values in found.items() if values[word] != value}
    else:
        says = _column(Path(table) if table is not None else root / BIDS_TABLE, word)
        lacking = sorted(set(owners) - set(says))
        if lacking:
            problems.append(
                f"{len(lacking)} patients are in no row of {table or BIDS_TABLE}, the first is {lacking[0]}: whether "
                "they are healthy is not known. Add them, or move their files away."
            )
        ill = {file for name, files in owners.items() for file in files if says.get(name) != value}
    if len(ill) == len(found):
        raise InputError(f"nobody is healthy: {word} is {value!r} of no patient. Correct --healthy.")
    return ill


def _column(table: Path, column: str) -> dict[str, str]:
    """Patient to what a column of a table says."""
    if not table.is_file():
        raise InputError(f"{column} is no word of the pattern, and the table {table} does not exist: give --table.")
    try:
        frame = read_table(table)
    except ValueError as error:
        raise InputError(f"{table} is not a table that can be read ({error}): write it as CSV or TSV.") from error
    if column not in frame.columns:
        raise InputError(f"{table} has no column {column}: choose among {', '.join(frame.columns)}.")
    names = frame[BIDS_PATIENT if BIDS_PATIENT in frame.columns else frame.columns[0]]
    says = dict(zip(names, frame[column], strict=True))
    return says | {name.removeprefix(BIDS_PREFIX): value for name, value in says.items()}
