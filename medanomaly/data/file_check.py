"""Reading all files of a download, to find those that are broken or of another size before a training does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medanomaly.data.fashion_mnist import read_idx
from medanomaly.data.reading import read_volume
from medanomaly.errors import InputError
from medanomaly.terminal import progress

READERS = 2  # at a time; a CT takes a gigabyte


def broken_files(root: Path, files: Sequence[str], shape: Sequence[int] | None = None) -> list[str]:
    """What is wrong with each of ``files`` that is there but cannot be read, or does not have ``shape`` (voxels).

    Args:
        root: what the paths start from.
        files: images and masks, in any format that a chain reads.
        shape: of every one, if that is known; of a film, its width and height.
    """

    def problem(name: str) -> str | None:
        try:
            found = tuple(read_volume(root / name).shape)
        except InputError as error:
            return str(error)
        if shape is not None and found != (*shape, 1)[:3]:
            return f"{root / name} has {_by(found)} voxels, but {_by((*shape, 1)[:3])} are those of the dataset."
        return None

    there = [name for name in files if (root / name).exists()]
    with ThreadPoolExecutor(READERS) as pool:
        found = list(progress(pool.map(problem, there), "reading", len(there)))
    return [words for words in found if words is not None]


def broken_arrays(root: Path, arrays: Mapping[str, Sequence[int]]) -> list[str]:
    """What is wrong with each IDX file that is there but cannot be read, or does not have its shape."""
    result = []
    for name, shape in arrays.items():
        if not (root / name).exists():
            continue
        try:
            found = read_idx(root / name, len(shape)).shape
        except InputError as error:
            result.append(str(error))
            continue
        if tuple(found) != tuple(shape):
            result.append(f"{root / name} holds {_by(found)} numbers, but {_by(shape)} are those of the dataset.")
    return result


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
