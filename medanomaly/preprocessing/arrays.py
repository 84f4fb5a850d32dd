"""Arrays in files, with holes where they are zero, that can be mapped into memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PAGE = 4096  # bytes; what is mapped begins at a multiple, and holes are of whole pages
LEAST_HOLE = 2**18  # bytes; a file with many small holes is mapped page by page, which takes five times as long


@dataclass(frozen=True)
class ArrayOnDisk:
    """An array in a file.

    Args:
        file: its path, or the file itself, open, which then need not have a name.
        offset: of its first byte, a multiple of ``PAGE``.
        shape, dtype: of the array, C-contiguous.
    """

    file: Path | IO[bytes]
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def mapped(self) -> Tensor:
        """The array as a tensor whose pages are read when they are looked at, and are given back with the tensor.

        What is written to the tensor never reaches the file.

        Raises:
            OSError: if there is no such file, or it is another user's.
            ValueError: if it is too short.
        """
        if not isinstance(self.file, Path):
            return self._map(self.file)
        with self.file.open("rb") as file:
            if not is_ours(os.fstat(file.fileno())):  # of the open file: a name may come to mean another one
                raise PermissionError(f"{self.file} is of another user")
            return self._map(file)

    def _map(self, file: IO[bytes]) -> Tensor:
        return torch.from_numpy(np.memmap(file, np.dtype(self.dtype), "c", self.offset, self.shape))


def nonzero_stretches(content: NDArray[np.uint8], least_gap: int = PAGE) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The stretches of some bytes (N,) between pages that are all zeros, each with its place.

    Args:
        content: the bytes.
        least_gap: zeros in a row, in bytes, that part two stretches.
    """
    whole = len(content) // PAGE
    filled = np.ones(whole + (whole * PAGE < len(content)), bool)  # what is left of a page at the end counts as filled
    filled[:whole] = content[: whole * PAGE].view(np.uint64).reshape(whole, PAGE // 8).any(axis=1)
    found = stretches(filled)
    if len(found):
        parted = np.flatnonzero((found[1:, 0] - found[:-1, 1]) * PAGE >= least_gap)
        found = np.stack([found[np.append(0, parted + 1), 0], found[np.append(parted, -1), 1]], axis=1)
    for first, last in found.tolist():
        yield first * PAGE, content[first * PAGE : last * PAGE]


def stretches(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where the stretches of True among flags (N,) begin, and where they end (one behind the last): (n, 2)."""
    edges = np.diff(flags.view(np.int8), prepend=np.int8(0), append=np.int8(0))
    return np.stack([np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)], axis=1)


def write_with_holes(file: IO[bytes], content: NDArray[np.uint8]) -> None:
    """Write bytes (N,) from where ``file`` stands to its end; long rows of zeros become holes."""
    begin = file.tell()
    for start, values in nonzero_stretches(content, LEAST_HOLE):
        file.seek(begin + start)
        file.write(values.data)
    file.flush()
    file.truncate(begin + len(content))
    file.seek(0, os.SEEK_END)


def space_of(found: os.stat_result) -> int:
    """The bytes that a file takes on the disk, holes not counted."""
    return min(found.st_size, 512 * getattr(found, "st_blocks", found.st_size))


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes (N,) of an array."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def pages(n_bytes: int) -> int:
    """So many bytes, up to the next multiple of ``PAGE``."""
    return -(-n_bytes // PAGE) * PAGE


def places(sizes: Sequence[int], first: int = 0) -> list[int]:
    """Where arrays of these sizes in bytes begin, one after the other from ``first`` on; and last, where they end."""
    found = [pages(first)]
    for size in sizes:
        found.append(found[-1] + pages(size))
    return found


def is_ours(found: os.stat_result) -> bool:
    """Whether a file belongs to the user who runs this process."""
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()  # Windows knows no such owners
