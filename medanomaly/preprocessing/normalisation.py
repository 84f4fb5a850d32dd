"""Intensity normalisation inside the brain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medanomaly.errors import ConfigError, InputError


class NormalisePercentiles:
    """Each channel mapped linearly: its 5th percentile in the brain to 0 and its 95th to 1 (paper 003, section 3.3).

    ``x' = (x - P5) / (P95 - P5)`` in the brain and 0 outside. Values below the one and above the other stay what they
    are: a lesion is often the brightest of all. MONAI's ``ScaleIntensityRangePercentiles`` has no mask, so the
    background would move the percentiles.

    Args:
        lower, upper: percentiles, 0 to 100.
        clip: cut at 0 and 1.
    """

    def __init__(self, lower: float = 5.0, upper: float = 95.0, clip: bool = False) -> None:
        if not 0 <= lower < upper <= 100:
            raise ConfigError(f"percentiles ({lower}, {upper}) must rise within 0 to 100.")
        self.lower, self.upper, self.clip = lower, upper, clip

    def __call__(self, image: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """``image`` (C, H, W, D) and ``brain`` (1, H, W, D) to the normalised image (C, H, W, D).

        Raises:
            InputError: if the brain is empty or a channel is constant in it.
        """
        # a plain mask: torch.where would give the result the history of the mask, whose moves are by nearest neighbour
        inside = (brain.as_tensor() if isinstance(brain, MetaTensor) else brain)[0] > 0
        values = torch.as_tensor(image)[:, inside].cpu().numpy()
        file = image.meta.get("filename_or_obj", "the image") if isinstance(image, MetaTensor) else "the image"
        if values.shape[1] == 0:
            raise InputError(f"the brain mask of {file} is empty after resampling: check the mask and the spacing.")
        low, high = np.percentile(values, [self.lower, self.upper], axis=1)
        for channel, (a, b) in enumerate(zip(low, high, strict=True)):
            if not b > a:
                raise InputError(
                    f"channel {channel} of {file} is constant in the brain (percentiles {self.lower:g} and "
                    f"{self.upper:g} are both {a:g}): is the right file named, and does the mask fit it?"
                )
        shape = (-1,) + (1,) * (image.ndim - 1)
        low_, high_ = (torch.as_tensor(p, dtype=image.dtype, device=image.device).reshape(shape) for p in (low, high))
        scaled = (image - low_) / (high_ - low_)
        if self.clip:
            scaled = scaled.clamp(0, 1)
        return torch.where(inside.to(image.device), scaled, torch.zeros_like(scaled))


class NormalisePercentilesd(MapTransform):
    """Dictionary form of :class:`NormalisePercentiles`: normalises ``image`` inside ``brain``."""

    def __init__(self, lower: float = 5.0, upper: float = 95.0, clip: bool = False) -> None:
        super().__init__(keys="image")
        self.normalise = NormalisePercentiles(lower, upper, clip)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        case["image"] = self.normalise(case["image"], case["brain"])
        return case
