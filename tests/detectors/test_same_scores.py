"""Scores of every detector are what they were: those in scores.json, with weights that no random number made.

``python -m tests.detectors.test_same_scores`` writes the file anew. A new detector need not be in it: it is added when
its scores are meant to stay as they are.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.detectors.catalogue import CATALOGUE
from tests.detectors.made_weights import fill, patches_for

FILE = Path(__file__).with_name("scores.json")
KEPT = json.loads(FILE.read_text())
ROWS = {
    f"{entry.name} {json.dumps(dict(arguments))} {spatial_dims}-D": (entry.name, arguments, spatial_dims, 2 * channels)
    for entry in CATALOGUE
    for arguments in entry.variants
    for spatial_dims, channels in entry.kinds[::2]  # of each number of dimensions, the first
}


def scores(name, arguments, spatial_dims, channels, kind=None):
    """Of five patches: 20 numbers at most, spread over them."""
    if kind is None:
        from medanomaly.detectors import detector_class as kind
    torch.manual_seed(0)
    detector = fill(kind(name)(in_channels=channels, patch_size=16, spatial_dims=spatial_dims, **arguments))
    with torch.no_grad():
        found = detector(patches_for(detector)).flatten()
    return found[:: max(len(found) // 19, 1)].double()


@pytest.mark.parametrize("row", ROWS)
def test_scores_are_what_they_were(row):
    if row not in KEPT:
        pytest.skip("none are kept yet: python -m tests.detectors.test_same_scores keeps them")
    expected = torch.tensor(KEPT[row], dtype=torch.float64)
    found = scores(*ROWS[row])
    assert expected.std() > 0, "a constant would prove nothing"
    # single precision and another processor's kernels: 1.3e-5 at most, where codes that are nearly equal are subtracted
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_scores_are_kept_of_every_variant_of_a_detector_or_of_none():
    of = {row: row.split()[0] for row in ROWS}
    assert list(KEPT) == [row for row in ROWS if of[row] in {of.get(kept) for kept in KEPT}]


def write(kind=None):
    rows = {row: [float(f"{value:.9g}") for value in scores(*what, kind)] for row, what in ROWS.items()}
    lines = ",\n".join(f"{json.dumps(row)}: {json.dumps(values)}" for row, values in rows.items())
    FILE.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    write()
