"""Patches as short vectors, for networks that know no images."""

from __future__ import annotations

from monai.networks.layers.factories import Pool
from torch import Tensor, nn

from medanomaly.errors import ConfigError


class Vectors(nn.Module):
    """Patches averaged down to at most ``most`` numbers, and flattened: (B, C, H, W[, D]) to (B, size).

    The largest side s is taken with ``C * s^2`` (3-D: ``C * s^3``) at most ``most``. Means of voxels stay as bright as
    the voxels were, so prepared patches become vectors with numbers about 0 to 1, and nothing has to be fitted. Of
    principal components scaled to 0 to 1, the discriminators of SO- and MO-GAAL learned far less (Fashion-MNIST).

    Raises:
        ConfigError: if ``most`` is smaller than the number of channels.
    """

    def __init__(self, in_channels: int, patch_size: int, spatial_dims: int, most: int) -> None:
        super().__init__()
        if most < in_channels:
            raise ConfigError(f"numbers is {most}, but a vector needs at least one for each of {in_channels} channels.")
        side = max(side for side in range(1, patch_size + 1) if in_channels * side**spatial_dims <= most or side == 1)
        self.size = in_channels * side**spatial_dims
        self.pool = Pool[Pool.ADAPTIVEAVG, spatial_dims](side)

    def forward(self, patches: Tensor) -> Tensor:
        vectors: Tensor = self.pool(patches)
        return vectors.flatten(1)
