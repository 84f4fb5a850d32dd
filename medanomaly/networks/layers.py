"""Layers without weights that networks of several kinds share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FlattenChannelsLast(nn.Module):
    """(B, C, H, W[, D]) to (B, H * W [* D] * C), which copies nothing if the channels lie last in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).flatten(1)


class UnflattenChannelsLast(nn.Module):
    """(B, H * W [* D] * C) to (B, C, H, W[, D]) with the channels last in memory; ``shape`` is (H, W[, D], C)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = list(shape)

    def forward(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 1, self.shape).movedim(-1, 1)


class UnitRMS(nn.Module):
    """``x`` divided by its root mean square over dimension 1: ProGAN's pixel norm, and the guard of codes.

    A code that is not held to one size can shrink while the decoder enlarges it again: all differences between codes
    vanish, and with them the score.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(torch.square(x).mean(dim=1, keepdim=True) + 1e-8)
