"""Self-attention over the places of a feature map (Zhang et al., SAGAN, ICML 2019, arXiv 1805.08318)."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Adds to each place of a map what it takes from all places; nothing at first, as its weight starts at 0."""

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        conv, narrow = Conv[Conv.CONV, spatial_dims], max(channels // 8, 1)
        self.query, self.key = conv(channels, narrow, kernel_size=1), conv(channels, narrow, kernel_size=1)
        self.value = conv(channels, channels, kernel_size=1)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W[, D]) to the same shape."""
        query, key = self.query(x).flatten(2).transpose(1, 2), self.key(x).flatten(2).transpose(1, 2)
        value = self.value(x).flatten(2).transpose(1, 2)
        taken = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.weight * taken.transpose(1, 2).reshape(x.shape)


class UpWithAttention(nn.Module):
    """A step up in a U-Net, with self-attention behind it."""

    def __init__(self, up: nn.Module, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.up, self.attention = up, SelfAttention(channels, spatial_dims)

    def forward(self, x: Tensor, skipped: Tensor) -> Tensor:
        """The map from below and the one that skips over to here, as the step takes them."""
        result: Tensor = self.attention(self.up(x, skipped))
        return result
