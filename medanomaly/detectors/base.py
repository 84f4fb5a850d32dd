"""The contract of every detector."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from medanomaly.errors import ConfigError

SIGNS = ("both", "bright", "dark")


class Detector(nn.Module):
    """Learns what normal patches look like, then says how abnormal a patch is.

    A detector knows patches only: no files, volumes or metrics. In training, :meth:`training_step` is called for each
    batch and :meth:`validation_loss` after each epoch (early stopping watches it); at the end, with the best weights,
    :meth:`fit_statistics` sees training patches once more. A detector that is only fitted has no optimisers and learns
    there; one that grows says so by :meth:`grow` and :meth:`is_settled`. ``forward`` scores patches: higher is more
    abnormal, and the score of a patch depends on that patch and on training statistics alone.

    Args:
        in_channels: image channels C.
        patch_size: length of a side in voxels.
        spatial_dims: 2 for patches (B, C, H, W), 3 for (B, C, H, W, D).

    Attributes:
        signed: whether the detector can tell what is brighter from what is darker than expected.
        sign: what the score tells of: "both", "bright" or "dark".
    """

    signed = False

    def __init__(self, in_channels: int = 1, patch_size: int = 16, spatial_dims: int = 2) -> None:
        super().__init__()
        if in_channels < 1:
            raise ConfigError(f"in_channels is {in_channels}: a detector needs at least one image channel.")
        if spatial_dims not in (2, 3):
            raise ConfigError(f"spatial_dims is {spatial_dims}, but patches are 2-D or 3-D: set it to 2 or 3.")
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.spatial_dims = spatial_dims
        self.sign = "both"

    def set_sign(self, sign: str) -> None:
        """Score what is "bright" or "dark", relative to what is expected there, alone, or "both".

        Raises:
            ConfigError: for another word, or if the detector does not tell them apart.
        """
        if sign not in SIGNS:
            raise ConfigError(f"sign is {sign!r}: use one of {', '.join(SIGNS)}.")
        if sign != "both" and not self.signed:
            raise ConfigError(f"{type(self).__name__} does not tell brighter from darker: its sign must be 'both'.")
        self.sign = sign

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers that :meth:`training_step` steps, by name; none for a detector that is only fitted."""
        raise NotImplementedError

    def training_step(self, batch: Tensor, optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
        """Learn from one batch (B, C, H, W[, D]) of normal patches; returns its named losses, already stepped."""
        raise NotImplementedError

    def validation_loss(self, batch: Tensor) -> Tensor:
        """Mean loss of held-out normal patches (B, C, H, W[, D]): a scalar; lower is better."""
        raise NotImplementedError

    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Fit what the score needs to know of normal patches (for example median and MAD); nothing by default."""

    def grow(self) -> bool:
        """Go on to the next size, if there is one, and say whether; called with the best weights of this size."""
        return False

    def is_settled(self) -> bool:
        """Whether validation losses can be compared between epochs: not while new layers fade in."""
        return True

    def forward(self, patches: Tensor) -> Tensor:
        """Scores of patches (B, C, H, W[, D]): (B, 1), one a patch, or (B, 1, H, W[, D]), one a voxel."""
        raise NotImplementedError
