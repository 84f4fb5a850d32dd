"""What a scan is, whatever its file is called: SHA-256 of voxels and of files."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np

from medanomaly.data.datalist import is_image_label
from medanomaly.data.dicom_series import is_dicom, safe_name, series_digest
from medanomaly.errors import InputError

HEADERS = (".hdr", ".img", ".mhd", ".nhdr")  # formats of several files, which share a stem


def case_digests(
    cases: Sequence[Mapping[str, Any]], keys: Iterable[str] = ("image",)
) -> dict[str, dict[str, list[str]]]:
    """The digests of the scans (or masks) under each of ``keys``, by case id; one for each channel that is a file."""
    if any(hasattr(case["image"], "numpy") for case in cases):  # prepared: tensors in place of paths
        return {c["case"]: {key: [_array_digest(c[key])] for key in keys if c.get(key) is not None} for c in cases}
    paths = {case["case"]: {key: _listed(case[key]) for key in keys if _is_file(case.get(key))} for case in cases}
    every = list(dict.fromkeys(path for case in paths.values() for files in case.values() for path in files))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        known = dict(zip(every, pool.map(scan_digest, every), strict=True))
    return {name: {key: [known[path] for path in files] for key, files in case.items()} for name, case in paths.items()}


def scan_digest(path: str | Path) -> str:
    """SHA-256 of a scan: shape and voxels of a NIfTI file, compressed or not; of other formats, the bytes of its files.

    Of a DICOM series, the bytes of its own files, whether they lie in a folder or in a zip.

    Raises:
        InputError: if a file cannot be read.
    """
    path = Path(path)
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            return _digest_of(path, *_state(path), voxels=True)
        if is_dicom(path):
            return series_digest(path)
        files = [path]
        if path.suffix in HEADERS:
            files = [file for file in path.parent.iterdir() if file.name.startswith(f"{path.stem}.")]
        digests = sorted(file_digest(file) for file in files)
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    except OSError as error:
        raise InputError(
            f"{safe_name(path)} cannot be read ({error.strerror or error}): correct the path or its rights."
        ) from error


def _array_digest(tensor: Any) -> str:
    array = np.ascontiguousarray(tensor.numpy())
    return hashlib.sha256(str((array.shape, array.dtype.str)).encode() + array.tobytes()).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of the bytes of a file."""
    return _digest_of(Path(path), *_state(Path(path)), voxels=False)


def _is_file(value: Any) -> bool:
    return value is not None and not is_image_label(value)


def _listed(value: Any) -> list[str]:
    return [str(path) for path in (value if isinstance(value, list | tuple) else [value])]


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@cache
def _digest_of(path: Path, modified: int, size: int, voxels: bool) -> str:
    """A file that has not changed is read once in a process."""
    if voxels:
        try:
            image: Any = nib.load(path)
            shape = tuple(map(int, image.shape))
            while shape[2:] and shape[-1] == 1:  # the same image, whether a trailing axis of length 1 is written or not
                shape = shape[:-1]
            return _stream_digest(path, image.dataobj.offset, str(shape))
        except Exception:  # a broken file: the readers say so better, and its bytes are what it is
            pass
    return _stream_digest(path)


def _stream_digest(path: Path, offset: int = 0, shape: str | None = None) -> str:
    digest = hashlib.sha256((shape or "").encode())
    with path.open("rb") as raw:
        file: BinaryIO = raw
        if shape is not None and raw.read(2) == b"\x1f\x8b":
            file = gzip.GzipFile(fileobj=raw)  # type: ignore[assignment]
        raw.seek(0)
        file.read(offset)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
