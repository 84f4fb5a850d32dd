"""Intensity normalisation inside the region: the brain of a head, all of a film."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from numpy.typing import NDArray

from medanomaly.errors import ConfigError, InputError

NOT_BACKGROUND = 1e-6  # what a voxel of exactly 0 in the region becomes


def apart_from_background(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Values of voxels in the region, of any shape, none of which is 0: 0 means background, and detectors score it 0.

    In scans of few levels several percent of a brain can lie exactly at the percentile that becomes 0.
    """
    return np.where(values == 0, values.dtype.type(NOT_BACKGROUND), values)


class NormalisePercentiles:
    """Each channel mapped linearly: its 5th percentile in the region to 0 and its 95th to 1 (Madzia-Madzou & Kuijf
    2022, section 3.3, of brains).

    ``x' = (x - P5) / (P95 - P5)`` in the region and 0 outside; a voxel in it that would be exactly 0 is 1e-6, so that
    it is not taken for background. Values below the one and above the other stay what they
    are: a lesion is often the brightest of all. MONAI's ``ScaleIntensityRangePercentiles`` has no mask, so the
    background would move the percentiles.

    Args:
        lower, upper: percentiles, 0 to 100.
        clip: cut at 0 and 1.
        quartiles: where the 25th, 50th and 75th percentiles then go, between 0 and 1, by straight lines from each to
            the next: three numbers for each channel. What is below 0 or above 1 stays. Scanners differ in how far
            grey and white matter lie apart; landmarks of a standard scale are for that (Nyul and Udupa, Magnetic
            Resonance in Medicine 42:1072, 1999). Not for lesions that fill a fifth of the brain, as they move the
            quartiles. None leaves them where they are.
    """

    def __init__(
        self,
        lower: float = 5.0,
        upper: float = 95.0,
        clip: bool = False,
        quartiles: Sequence[Sequence[float]] | None = None,
    ) -> None:
        if not 0 <= lower < upper <= 100:
            raise ConfigError(f"percentiles ({lower}, {upper}) must rise within 0 to 100.")
        self.lower, self.upper, self.clip = lower, upper, clip
        self.quartiles = None if quartiles is None else [(0.0, *map(float, np.ravel(q)), 1.0) for q in quartiles]
        for marks in self.quartiles or ():
            if len(marks) != 5 or not np.all(np.diff(marks) > 0):
                raise ConfigError(
                    f"quartiles has {list(marks[1:-1])}: give three numbers for each channel that rise within 0 to 1."
                )

    def __call__(self, image: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
        """``image`` (C, H, W, D) and ``region`` (1, H, W, D) to the normalised image (C, H, W, D).

        Raises:
            InputError: if the region is empty, a channel is constant in it, or its quartiles are to be moved and two
                of them are one value.
            ConfigError: if there are quartiles for another number of channels.
        """
        inside = _array(region)[0] > 0
        values = np.stack([channel[inside] for channel in _array(image)])  # [:, inside] takes ten times as long
        file = image.meta.get("filename_or_obj", "the image") if isinstance(image, MetaTensor) else "the image"
        if values.shape[1] == 0:
            raise InputError(
                f"the region of {file} is empty after resampling: check its mask, and the spacing or size."
            )
        low, high = np.percentile(values, [self.lower, self.upper], axis=1)
        for number, (a, b) in enumerate(zip(low, high, strict=True)):
            if not b > a:
                raise InputError(
                    f"channel {number} of {file} is constant in the region (percentiles {self.lower:g} and "
                    f"{self.upper:g} are both {a:g}): is the right file named, and does the mask fit it?"
                )
        low_, high_ = (p.astype(values.dtype)[:, None] for p in (low, high))
        scaled = (values - low_) / (high_ - low_)
        if self.quartiles is not None:
            scaled = self._on_standard_scale(scaled, file)
        normalised = np.zeros(image.shape, scaled.dtype)
        for channel, in_region in zip(normalised, scaled, strict=True):
            channel[inside] = apart_from_background(np.clip(in_region, 0, 1) if self.clip else in_region)
        # with the affine and the history of the image; those of the mask have moves by nearest neighbour
        result: torch.Tensor = convert_to_dst_type(normalised, image, scaled.dtype)[0]
        return result

    def _on_standard_scale(self, scaled: NDArray[np.floating[Any]], file: Any) -> NDArray[np.floating[Any]]:
        """Channels (C, N), ``lower`` at 0 and ``upper`` at 1, with their quartiles where they are to be."""
        assert self.quartiles is not None
        if len(self.quartiles) != len(scaled):
            raise ConfigError(
                f"quartiles are given for {len(self.quartiles)} channels, but {file} has {len(scaled)}: give three "
                "numbers for each channel."
            )
        moved = np.empty_like(scaled)
        for number, (channel, marks) in enumerate(zip(scaled, self.quartiles, strict=True)):
            found = [0.0, *np.percentile(channel, [25, 50, 75]), 1.0]
            if not np.all(np.diff(found) > 0):
                raise InputError(
                    f"channel {number} of {file} cannot be brought to the standard scale: its percentiles "
                    f"{self.lower:g}, 25, 50, 75 and {self.upper:g} do not rise (as shares of the way from the first "
                    f"to the last: {', '.join(f'{value:.3g}' for value in found)}). Is the right file named?"
                )
            between = (channel >= 0) & (channel <= 1)
            moved[number] = np.where(between, np.interp(channel, found, marks), channel)
        return moved


def _array(volume: torch.Tensor) -> NDArray[Any]:
    return np.asarray((volume.as_tensor() if isinstance(volume, MetaTensor) else volume).cpu())


class NormalisePercentilesd(MapTransform):
    """Dictionary form of :class:`NormalisePercentiles`: normalises ``image`` inside ``region``."""

    def __init__(
        self,
        lower: float = 5.0,
        upper: float = 95.0,
        clip: bool = False,
        quartiles: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__(keys="image")
        self.normalise = NormalisePercentiles(lower, upper, clip, quartiles)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        case["image"] = self.normalise(case["image"], case["region"])
        return case


class WindowHounsfieldd(MapTransform):
    """Map ``image`` (C, H, W, D), in HU, to 0 to 1 inside ``region``: the window that a radiologist sets for CT.

    ``x' = (x - lower) / (upper - lower)``, cut at 0 and 1, in the region and 0 outside; a voxel in it that would be
    exactly 0 is 1e-6, so that it is not taken for background.

    Args:
        lower, upper: ends of the window in HU.

    Raises:
        ConfigError: if they do not rise.
        InputError: if the region is empty, or none of it lies within the window: the values are not in HU.
    """

    def __init__(self, lower: float, upper: float) -> None:
        super().__init__(keys="image")
        if not lower < upper:
            raise ConfigError(f"window ({lower}, {upper}) must rise: give its ends in HU, such as [0, 80].")
        self.lower, self.upper = lower, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        image, inside = case["image"], _array(case["region"])[0] > 0
        file = image.meta.get("filename_or_obj", "the image") if isinstance(image, MetaTensor) else "the image"
        windowed = np.zeros(image.shape, np.float32)
        for number, (channel, result) in enumerate(zip(_array(image), windowed, strict=True)):
            scaled = (channel[inside] - np.float32(self.lower)) / np.float32(self.upper - self.lower)
            if not ((scaled > 0) & (scaled < 1)).any():
                found = f"{channel[inside].min():g} to {channel[inside].max():g}" if scaled.size else "no voxels"
                raise InputError(
                    f"channel {number} of {file} has nothing within {self.lower:g} to {self.upper:g} HU in the region "
                    f"({found}): is it a CT in HU, with slope and intercept applied, and does the mask fit it?"
                )
            result[inside] = apart_from_background(np.clip(scaled, 0, 1))
        case["image"] = convert_to_dst_type(windowed, image, windowed.dtype)[0]
        return case
