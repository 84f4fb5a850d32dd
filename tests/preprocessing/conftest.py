"""A case on disk, and a folder to keep it in when it is prepared."""

from __future__ import annotations

import numpy as np
import pytest

from tests.preprocessing.cached_cases import ANOTHER_GRID, save


@pytest.fixture
def case(tmp_path):
    """A case of two channels, with a mask on another grid and a label."""
    rng, shape = np.random.default_rng(0), (14, 13, 9)
    inside = np.zeros(shape, np.uint8)
    inside[3:12, 2:11, 1:8] = 1
    air = np.pad(np.ones([side - 2 for side in shape]), 1)
    folder = tmp_path / "scan"
    folder.mkdir()
    return {
        "image": [
            save(folder / f"{n}.nii.gz", (air * rng.normal(100, 20, shape)).astype(np.float32)) for n in range(2)
        ],
        "region": save(folder / "brain.nii.gz", inside, ANOTHER_GRID),
        "label": save(folder / "label.nii", inside * (rng.random(shape) < 0.1).astype(np.uint8)),
        "case": "a",
    }


@pytest.fixture
def folder(tmp_path):
    """Where a cache is to be; not made yet."""
    return tmp_path / "cache"
