"""Lesion by lesion, against a count with another library, and known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from medanomaly.evaluation.lesion_metrics import lesion_metrics


def test_known_lesions_are_counted_by_size_and_what_touches_none_is_false() -> None:
    lesions, heatmap = np.zeros((40, 40, 40), bool), np.zeros((40, 40, 40))
    lesions[2:5, 2:5, 2:5] = True  # 0.027 ml, found at a corner
    lesions[10:16, 10:16, 10:16] = True  # 0.216 ml, not found
    lesions[20:32, 20:32, 20:32] = True  # 1.728 ml, found by two findings
    heatmap[4, 4, 4] = heatmap[21, 21, 21] = heatmap[30, 30, 30] = 2
    heatmap[2:5, 30:34, 2] = 2  # false: 0.012 ml
    heatmap[36, 36, 36] = 2  # too small to be a finding
    heatmap[38:] = np.nan
    lesions[39, 0, 0] = True  # outside the region: nobody's to find
    found = lesion_metrics(heatmap, lesions, 1.0, (1, 1, 1))
    assert (found["lesions"], found["false_positives"]) == (3, 1)
    assert found["sensitivity"] == pytest.approx(2 / 3)
    assert [(row["lesions"], row["found"]) for row in found["by_size"]] == [(1, 1), (1, 0), (1, 1)]
    assert found["by_size"][2]["ml"] == [1.0, None]
    assert lesion_metrics(heatmap, lesions, 1.0, (2, 1, 1))["false_positives"] == 1
    assert lesion_metrics(heatmap, lesions, 1.0, (0.5, 1, 1))["false_positives"] == 0


def test_random_maps_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        noise = ndimage.gaussian_filter(rng.normal(size=(2, 24, 20, 22)), (0, 1.5, 1.5, 1.5))
        lesions, heatmap = noise[0] > np.quantile(noise[0], 0.93), noise[1] + noise[0]
        threshold = float(np.quantile(heatmap, 0.9))
        cube = np.ones((3, 3, 3))
        numbered, count = ndimage.label(lesions, cube)
        hits = sum(bool((heatmap[numbered == n] > threshold).any()) for n in range(1, count + 1))
        findings, n_findings = ndimage.label(heatmap > threshold, cube)
        false = sum(not lesions[findings == n].any() and (findings == n).sum() >= 10 for n in range(1, n_findings + 1))
        found = lesion_metrics(heatmap, lesions, threshold, (1, 1, 1))
        assert (found["lesions"], found["false_positives"]) == (count, false)
        assert found["sensitivity"] == pytest.approx(hits / count)
        assert sum(row["found"] for row in found["by_size"]) == hits


def test_without_lesions_the_sensitivity_is_undefined() -> None:
    found = lesion_metrics(np.ones((4, 4, 4)), np.zeros((4, 4, 4), bool), 2.0, (1, 1, 1))
    assert found["lesions"] == found["false_positives"] == 0 and math.isnan(found["sensitivity"])
