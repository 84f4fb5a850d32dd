"""The next batch while the present one is worked on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from monai.data import DataLoader


class PrefetchDataLoader(DataLoader):
    """MONAI's ``DataLoader`` that prepares one batch ahead, in a thread, so that no copy between processes is needed.

    An error in the thread reaches the loop as it is, at the batch that it belongs to. (After one, MONAI's
    ``ThreadDataLoader`` ends as if there were no more cases.)
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches, end = super().__iter__(), object()
        with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
            coming = pool.submit(next, batches, end)
            while (batch := coming.result()) is not end:
                coming = pool.submit(next, batches, end)
                yield batch
