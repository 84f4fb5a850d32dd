"""Reading Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): clothes, 28 x 28 pixels, in files of the IDX format."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medanomaly.errors import InputError


def read_fashion_mnist(data_root: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 28, 28), 0 to 255, and labels (N,) of the training part.

    Raises:
        InputError: if a file is missing or is not an IDX file, or they do not fit each other.
    """
    files = [Path(data_root or "") / f"train-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1")]
    for file in files:
        if data_root is None or not file.exists():
            raise InputError(f"there is no {file}: set --data-root to the folder with the files of Fashion-MNIST.")
    images, labels = read_idx(files[0], 3), read_idx(files[1], 1)
    if len(images) != len(labels):
        raise InputError(
            f"{files[0]} holds {len(images)} images and {files[1].name} {len(labels)} labels: get both anew."
        )
    return images, labels


def read_idx(file: Path, ndim: int) -> NDArray[np.uint8]:
    """An IDX file of bytes: two zeros, 8 for bytes, the number of axes, their lengths as 4 bytes each, the values."""
    try:
        content = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} is no gzip file, or is cut short ({error}): get it anew.") from error
    shape = np.frombuffer(content[4 : 4 + 4 * ndim], dtype=">u4") if len(content) >= 4 + 4 * ndim else np.zeros(ndim)
    if content[:4] != bytes([0, 0, 8, ndim]) or len(content) != 4 + 4 * ndim + np.prod(shape, dtype=np.int64):
        raise InputError(f"{file} is no whole IDX file of bytes with {ndim} axes: get it anew.")
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * ndim).reshape(shape)
