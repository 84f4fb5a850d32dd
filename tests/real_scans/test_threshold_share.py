"""Thresholds hold on new people: about 1 % of healthy heads lies above a threshold that 1 % is stated for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from studies.threshold_share import RATES, shares_of_heads

HEADS = Path(__file__).resolve().parents[3] / "shared" / "data" / "ixi_t1"

pytestmark = pytest.mark.skipif(not HEADS.is_dir(), reason=f"the real scans are not on this machine: {HEADS} is absent")


@pytest.mark.slow
def test_a_stated_share_is_found_in_held_out_heads(tmp_path: Path) -> None:
    shares = shares_of_heads(HEADS, "pca", 1, tmp_path)
    assert len(shares) == 28
    found = np.mean(list(shares.values()), axis=0)[RATES.index(0.01)]
    assert 0.005 <= found <= 0.02
