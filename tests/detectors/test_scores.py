"""What scores are made of, by hand."""

from __future__ import annotations

import torch

from medanomaly.detectors.scores import signed_residual


def test_a_residual_has_a_bright_and_a_dark_part():
    residual = torch.tensor([3.0, -2.0, 0.0, 1.0, 5.0, -6.0]).view(1, 2, 1, 3)  # the second channel: 1, 5, -6
    parts = {sign: signed_residual(residual, sign).flatten().tolist() for sign in ("both", "bright", "dark")}
    assert parts == {"both": [2.0, 3.5, 3.0], "bright": [3.0, 0.0, 0.0], "dark": [0.0, 2.0, 0.0]}
    assert signed_residual(torch.rand(2, 3, 4, 4, 4), "bright").shape == (2, 1, 4, 4, 4)
