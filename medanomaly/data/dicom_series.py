"""DICOM series in a folder, in a zip or in a file: which there are, and the one that is meant. Headers only.

The name, the ids and the dates of a patient stay in here. A series is called by its number and a hash of its UID, such
as ``series-3-1a2b3c4d``: that is the id of its case if nobody gives another, and what messages, tables and files call
it, as folders and files are often named like the patient. Once chosen, the image of a case is ``PATH#NAME`` of it.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any

from medanomaly.data.dicom_headers import SUFFIXES, Series, read_header, series_of
from medanomaly.errors import InputError

NAME = re.compile(r"series-(?:\d+-)?[0-9a-f]{8}")
Place = tuple[str, tuple[Any, ...]]  # a path, and a state that changes with its content


def is_dicom(path: str | Path) -> bool:
    """Whether a path is a DICOM file, a zip or a folder (as one of a series), or a series that was chosen of these."""
    place, name = place_and_series(path)
    if name is not None or place.is_dir() or place.suffix.lower() in (".zip", *SUFFIXES):
        return True
    try:
        with place.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def place_and_series(path: str | Path) -> tuple[Path, str | None]:
    """The path of a folder, zip or file, and the series that was chosen there; None if none was."""
    place, mark, name = str(path).rpartition("#")
    return (Path(place), name) if mark and NAME.fullmatch(name) else (Path(path), None)


def safe_name(path: str | Path) -> str:
    """What to call an image in messages and files: the name of a series that was chosen, else its path."""
    return place_and_series(path)[1] or str(path)


def find_series(path: str | Path, choice: str | int | None = None, where: str | None = None) -> Series:
    """The series that a path and a choice mean.

    Args:
        path: a folder (with all folders in it), a zip, a file, or one of these with ``#`` and the name of a series.
        choice: its number, its description (in small or capital letters) or its name; may be left out where there is
            one series.
        where: what a message calls the place; the path if not given.

    Raises:
        InputError: if there are no DICOM images, a file is damaged, or not exactly one series is meant; the message
            lists those that there are.
    """
    place, name = place_and_series(path)
    where = where or name or str(place)
    choice = name if choice is None else choice
    found, problem = _all_series(_state(place, where))
    if problem:
        raise InputError(f"{where} {problem}")
    meant = [series for series in found if choice is None or _is_meant(series, choice)]
    if len(meant) == 1:
        return meant[0]
    if choice is None or meant:
        problem = f"holds {len(found)} DICOM series" if choice is None else f"has {len(meant)} series {choice!r}"
    else:
        problem = f"has no series {choice!r}"
    listed = "".join(f"\n  {_in_words(series)}" for series in found)
    raise InputError(
        f'{where} {problem}: choose one by its number, its description or its name (--series, or "series" in a '
        f"datalist):{listed}"
    )


def series_digest(path: str | Path) -> str:
    """SHA-256 of the files of a series, the same wherever they lie and whatever they are called, zipped or not.

    Raises:
        InputError: see :func:`find_series`, and if a zip is damaged.
        OSError: if a file cannot be read.
    """
    place, _ = place_and_series(path)
    series = find_series(path)
    try:
        return _digest_of(_state(place, safe_name(path)), series.name)
    except (zipfile.BadZipFile, zlib.error):
        raise InputError(f"{series.name} cannot be unpacked: the zip is damaged, copy it again.") from None


@contextmanager
def opened(place: Path) -> Iterator[list[tuple[str, Callable[[], IO[Any]]]]]:
    """The files of a folder or a zip, or the file itself, in the order of their paths: a name, and what opens it."""
    if place.is_dir():
        yield [(file.name, partial(_open, file)) for file in files_in(place)]
    elif place.suffix.lower() == ".zip":
        with zipfile.ZipFile(place) as archive:
            members = sorted((m for m in archive.infolist() if not m.is_dir()), key=lambda member: member.filename)
            yield [(member.filename.split("/")[-1], partial(archive.open, member)) for member in members]
    else:
        yield [(place.name, partial(_open, place))]


def _open(file: Path) -> IO[bytes]:
    return file.open("rb")


def files_in(place: Path) -> list[Path]:
    """All files of a folder, in the order of their paths; a zip or a file itself."""
    return sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]


def _state(place: Path, where: str) -> Place:
    """A place, and names, times and sizes of its files: what has not changed is read once in a process."""
    try:
        found = [(str(file), file.stat()) for file in files_in(place)]
    except OSError as error:
        raise InputError(f"{where} cannot be read ({error.strerror}): correct the path or its rights.") from None
    return str(place), tuple((name, status.st_mtime_ns, status.st_size) for name, status in found)


@lru_cache(maxsize=256)
def _all_series(state: Place) -> tuple[list[Series], str]:
    """The series in a place, and what is wrong with it; empty if nothing is."""
    groups: dict[str, list[tuple[int, Any]]] = {}
    damaged: list[int] = []
    try:
        with opened(Path(state[0])) as files:
            for number, (name, opener) in enumerate(files):
                try:
                    header = read_header(name, opener)
                except Exception:  # whatever pydicom raises, or a zip
                    damaged.append(number)
                else:
                    if header is not None:
                        groups.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((number, header))
    except (OSError, zipfile.BadZipFile) as error:
        return [], f"cannot be read ({type(error).__name__}): is it whole, and may you read it?"
    found: list[Series] = []
    for uid, members in groups.items():
        try:
            found.append(series_of(uid, members))
        except Exception:  # a value that is no number, say
            damaged += [number for number, _ in members]
    if damaged:
        return [], (
            f"holds {len(damaged)} of {len(files)} files that are damaged or locked, the first is number "
            f"{min(damaged) + 1} in the order of their names: copy them again from the scanner or the archive, or take "
            "them out if they are of no series that you need."
        )
    if not found:
        return [], f"holds no DICOM images ({len(files)} file(s)): give a folder or a zip of a series."
    return sorted(found, key=lambda series: (series.number is None, series.number or 0, series.name)), ""


def _is_meant(series: Series, choice: str | int) -> bool:
    text = str(choice).strip().lower()
    return text in (str(series.number), series.description.lower(), series.name)


def _in_words(series: Series) -> str:
    number = "no number" if series.number is None else str(series.number)
    return f"{number}: {series.shown}, {series.modality}, {len(series.frames)} image(s), {series.name}"


@lru_cache(maxsize=4096)
def _digest_of(state: Place, name: str) -> str:
    place = Path(state[0])
    wanted = {frame.file for frame in find_series(f"{place}#{name}").frames}
    digests = []
    with opened(place) as files:
        for number in sorted(wanted):
            digest = hashlib.sha256()
            with files[number][1]() as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            digests.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
