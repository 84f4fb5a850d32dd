"""Volumes that are drawn from: some are held in memory, the others lie in files and are mapped while they are cut."""

from __future__ import annotations

import ctypes
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
import torch
from torch import Tensor

from medanomaly.errors import InputError
from medanomaly.preprocessing.arrays import ArrayOnDisk, as_bytes, pages, write_with_holes

HELD_BYTES, HELD_SHARE = 2**29, 0.25  # what is held if nothing else is said; on a GPU, the share of its memory
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of glibc's mallopt


class VolumeStore:
    """Keeps volumes: in memory as long as they fit, then in a file.

    What is neither held nor has a file of its own (a case in the cache) is written to one temporary file without a
    name, in ``$TMPDIR``, which no one else can open and which the system removes with the process, however it ends.

    Args:
        held_bytes: what may be held in memory; if not given, 512 MB, and on a GPU a quarter of its memory.
        device: where volumes are held.
    """

    def __init__(self, held_bytes: float | None, device: torch.device | str) -> None:
        self.device = torch.device(device)
        if held_bytes is None:
            held_bytes = HELD_BYTES
            if self.device.type == "cuda":
                held_bytes = HELD_SHARE * torch.cuda.get_device_properties(self.device).total_memory
        self.room = held_bytes
        self._file: IO[bytes] | None = None

    def has_room_for(self, volume: Tensor) -> bool:
        return volume.numel() * volume.element_size() <= self.room

    def hold(self, volume: Tensor) -> Tensor:
        """The volume (C, S0, S1, S2) in memory of its own."""
        self.room -= volume.numel() * volume.element_size()
        return volume.contiguous().to(self.device)

    def spill(self, volume: Tensor) -> ArrayOnDisk:
        """The volume in the temporary file.

        Raises:
            InputError: if the disk has no room for it.
        """
        array = np.asarray(volume.contiguous())
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it is open as long as the store lives)
            offset = pages(self._file.tell())
            self._file.seek(offset)
            write_with_holes(self._file, as_bytes(array))
        except OSError as error:
            raise InputError(
                f"the cohort is larger than may be held in memory, and {tempfile.gettempdir()} cannot take the volumes "
                f"({error}): set TMPDIR to a folder on a larger disk, or cache_dir, where prepared cases are kept."
            ) from error
        return ArrayOnDisk(self._file, offset, array.shape, array.dtype.str)


@contextmanager
def large_arrays_apart() -> Iterator[None]:
    """While it lasts, each large array has memory of its own, which goes back to the system with it (with glibc).

    From the heap, where ``prepare_network`` lets them come from, the small arrays that stay of each case would lie
    between the large ones that went, so that their memory could hardly be used again: 20 MB a case would be lost, and
    training would be slower on what is left. Afterwards the heap serves as ``prepare_network`` wants it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    mallopt(MMAP_THRESHOLD, 2**18)
    try:
        yield
    finally:
        mallopt(MMAP_THRESHOLD, 2**25)
        mallopt(TRIM_THRESHOLD, 2**26)
