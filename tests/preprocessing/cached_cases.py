"""Scans on disk, the entries of a cache's folder, and when two prepared cases are the same."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import TraceKeys

AFFINE = nib.affines.from_matvec(np.diag([-2.0, 2.0, 3.0]), [15.0, -12.0, 9.0])
ANOTHER_GRID = nib.affines.from_matvec(np.diag([2.0, 2.0, 3.0]), [-15.0, -13.0, 8.0])


def save(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def kept(folder):
    return sorted(folder.glob("*"))


def counting(chain):
    """The chain, and a list that grows with each case that is really prepared."""
    prepared, first = [], chain.transforms[0]
    chain.transforms = (lambda data: prepared.append(data) or first(data), *chain.transforms[1:])
    return chain, prepared


def content(value):
    """What can be compared, of metadata and histories; the ids of transforms differ between processes."""
    if isinstance(value, dict):
        return {str(k): content(v) for k, v in value.items() if k != TraceKeys.ID}
    if isinstance(value, list | tuple):
        return type(value)(content(v) for v in value)
    if isinstance(value, np.ndarray | torch.Tensor | np.generic | float):
        array = np.asarray(value)
        return array.dtype.str, array.shape, array.tobytes()
    return value


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert type(found[key]) is type(value), key
        if isinstance(value, torch.Tensor):
            assert found[key].dtype == value.dtype, key
            assert np.asarray(found[key]).tobytes() == np.asarray(value).tobytes(), key
        if isinstance(value, MetaTensor):
            for attribute in ("meta", "applied_operations", "pending_operations", "is_batch"):
                assert content(getattr(found[key], attribute)) == content(getattr(value, attribute)), (key, attribute)
        if not isinstance(value, torch.Tensor):
            assert found[key] == value, key
