"""A prepared case in one file: a JSON header, then its arrays, which can be mapped.

The file is a row of pages of 4,096 bytes::

    SHA-256 of all that follows | length of the header | header (JSON) | image | masks ...

Each array begins at a page. The image is as it lies in memory, so it can be mapped; masks are bits. Long rows of
zeros (slices of air, mostly) are holes and take no space on most disks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from medanomaly.preprocessing.arrays import ArrayOnDisk, as_bytes, is_ours, nonzero_stretches, places, write_with_holes

DIGEST, LENGTH = 32, 8  # bytes
KEPT_IN = "kept_in"  # attribute of an image: the ArrayOnDisk that holds the same


def write_case(case: Mapping[str, torch.Tensor], file: Path) -> ArrayOnDisk:
    """Write tensors, of which all but ``image`` are masks of 0 and 1, to a file that only its owner can read.

    Returns:
        Where the image lies.

    Raises:
        OSError: if it cannot be written.
        TypeError: if a tensor's metadata hold something that cannot be kept.
    """
    entries: dict[str, Any] = {}
    arrays: list[NDArray[np.uint8]] = []
    for name, tensor in case.items():
        array = np.asarray(tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor)
        header = None
        if isinstance(tensor, MetaTensor):
            header = _encoded({key: value for key, value in tensor.__dict__.items() if key != KEPT_IN})
        entries[name] = {"shape": array.shape, "dtype": array.dtype.str, "header": header}
        arrays.append(as_bytes(array) if name == "image" else np.packbits(array > 0))
    text = np.frombuffer(json.dumps(entries).encode(), np.uint8)
    *offsets, end = places([array.size for array in arrays], DIGEST + LENGTH + text.size)
    content = np.zeros(end, np.uint8)
    content[DIGEST : DIGEST + LENGTH] = np.frombuffer(text.size.to_bytes(LENGTH, "little"), np.uint8)
    for offset, array in zip((DIGEST + LENGTH, *offsets), (text, *arrays), strict=True):
        content[offset : offset + array.size] = array
    content[:DIGEST] = _digest(content)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        write_with_holes(stream, content)
    image = entries["image"]
    return ArrayOnDisk(file, offsets[list(entries).index("image")], image["shape"], image["dtype"])


def read_case(file: Path) -> dict[str, torch.Tensor] | None:
    """What was kept, or None if there is nothing, it is not whole, or another user wrote it."""
    try:
        with file.open("rb") as stream:
            found = os.fstat(stream.fileno())  # of the open file: a name may come to mean another one
            if not is_ours(found) or found.st_size < DIGEST + LENGTH:
                return None
            content = np.empty(found.st_size, np.uint8)
            if stream.readinto(content.data) != len(content):
                return None
    except OSError:
        return None
    digest = content[:DIGEST].copy()
    content[:DIGEST] = 0
    if not np.array_equal(_digest(content), digest):
        return None
    with suppress(OSError):
        os.utime(file)  # it was used
    length = int.from_bytes(content[DIGEST : DIGEST + LENGTH].tobytes(), "little")
    entries = json.loads(content[DIGEST + LENGTH :][:length].tobytes())
    sizes = [_size(name, entry) for name, entry in entries.items()]
    *offsets, _ = places(sizes, DIGEST + LENGTH + length)
    case: dict[str, torch.Tensor] = {}
    for (name, entry), size, offset in zip(entries.items(), sizes, offsets, strict=True):
        values, shape, dtype = content[offset : offset + size], tuple(entry["shape"]), np.dtype(entry["dtype"])
        if name == "image":
            array = values.view(dtype).reshape(shape)
        else:
            array = np.unpackbits(values, count=prod(shape)).reshape(shape).astype(dtype)
        tensor = torch.from_numpy(array)
        if entry["header"] is not None:
            tensor = MetaTensor(tensor)
            tensor.__dict__.update(_decoded(entry["header"]))
        if name == "image":
            setattr(tensor, KEPT_IN, ArrayOnDisk(file, offset, shape, entry["dtype"]))
        case[name] = tensor
    return case


def _size(name: str, entry: Mapping[str, Any]) -> int:
    voxels: int = prod(entry["shape"])
    return voxels * int(np.dtype(entry["dtype"]).itemsize) if name == "image" else -(-voxels // 8)


def _digest(content: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """SHA-256 of some bytes, from their length and all that is not zero: air need not be looked at for long."""
    digest = hashlib.sha256(len(content).to_bytes(LENGTH, "little"))
    for start, values in nonzero_stretches(content):
        digest.update(start.to_bytes(LENGTH, "little"))
        digest.update(values.data)
    return np.frombuffer(digest.digest(), np.uint8)


def _encoded(value: Any) -> Any:
    """Metadata in values that JSON can hold, with the types of arrays, tensors and tuples; an enum is its value."""
    if isinstance(value, Enum):
        return _encoded(value.value)
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, dict):
        return ["dict", [[_encoded(key), _encoded(item)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return ["tuple" if isinstance(value, tuple) else "list", [_encoded(item) for item in value]]
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        array = np.asarray(value)
        if not array.dtype.hasobject:
            kind = next(name for name, known in KINDS.items() if isinstance(value, known))
            return [kind, [array.dtype.str, array.shape, base64.b64encode(array.tobytes()).decode()]]
    raise TypeError(f"metadata with a {type(value).__name__} cannot be kept")


KINDS = {"array": np.ndarray, "scalar": np.generic, "tensor": torch.Tensor}


def _decoded(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "dict":
        return {_decoded(key): _decoded(item) for key, item in content}
    if kind in ("list", "tuple"):
        return (tuple if kind == "tuple" else list)(_decoded(item) for item in content)
    dtype, shape, text = content
    array = np.frombuffer(base64.b64decode(text), dtype).reshape(shape).copy()
    return array if kind == "array" else array[()] if kind == "scalar" else torch.from_numpy(array)
