"""What a patch is: one thing that travels through sampler, inferer, calibration, settings and configs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from medanomaly.errors import ConfigError, check_count

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # the axis of a (H, W, D) volume in RAS that a slice is normal to

Three = tuple[int, int, int]


@dataclass(frozen=True)
class PatchSpec:
    """The shape of patches and how they lie: squares of slices, or cubes. A whole slice is a large patch.

    A volume that is smaller than a patch is padded with zeros, centrally, so a patch that is at least as large as the
    slices (or, for cubes, the volume) is the whole of it.

    Args:
        patch_size: length of a side in voxels.
        spatial_dims: 2 for patches of slices, 3 for cubes.
        planes: for 2-D patches, "axial", "coronal", "sagittal" or several; cubes have none.
        stride: voxels between patches when a volume is scored, in every direction of the patch; training draws from
            every position.
        slices: neighbouring slices that a 2-D patch carries as channels, an odd number; the middle one is scored. A
            network sees C * slices channels: all of the first slice, then all of the next, and so on (from low to high
            in RAS). Slices beyond the border of the volume are zeros.
        crop: when a volume is scored, cut it to the box of its region first. For patches about as large as the region:
            one then holds all of a slice, where two or four would be needed to cover the background, too.
        slice_step: when a volume is scored, only every so many slices (and the last) are, and those between get the
            linear mean of the two beside; for 2-D patches of one slice. In several planes, little is lost.

    Raises:
        ConfigError: if a number or a plane cannot work.

    Examples:
        >>> spec = PatchSpec(16, planes=["axial", "coronal"], stride=4)
        >>> spec.window, spec.steps
        ((1, 16, 16), (1, 4, 4))
    """

    patch_size: int = 16
    spatial_dims: int = 2
    planes: Sequence[str] = ("axial",)
    stride: int = 4
    slices: int = 1
    crop: bool = False
    slice_step: int = 1

    def __post_init__(self) -> None:
        for name in ("patch_size", "stride", "slices", "slice_step"):
            check_count(name, getattr(self, name))
        if self.spatial_dims not in (2, 3):
            raise ConfigError(f"spatial_dims is {self.spatial_dims}, but patches are 2-D or 3-D: set it to 2 or 3.")
        if self.stride > self.patch_size:
            raise ConfigError(
                f"stride={self.stride} must be from 1 to patch_size={self.patch_size}: patches further apart would "
                "leave gaps."
            )
        if self.slices % 2 == 0 or (self.slices > 1 and self.spatial_dims == 3):
            raise ConfigError(
                f"slices is {self.slices}: 2-D patches carry an odd number of slices, so that one is in the middle; "
                "cubes carry 1."
            )
        if self.slice_step > 1 and (self.slices > 1 or self.spatial_dims == 3):
            raise ConfigError(
                f"slice_step is {self.slice_step}, which is for 2-D patches of one slice: set it to 1 for cubes and "
                "for patches of several slices."
            )
        planes = (self.planes,) if isinstance(self.planes, str) else tuple(self.planes)
        object.__setattr__(self, "planes", planes)
        if self.spatial_dims == 2 and not planes:
            raise ConfigError(
                f"planes is {planes!r}, but 2-D patches need a plane: name some of {', '.join(sorted(PLANES))}."
            )
        for plane in planes if self.spatial_dims == 2 else ():
            if plane not in PLANES:
                raise ConfigError(f"plane {plane!r} is unknown: use one of {', '.join(sorted(PLANES))}.")

    @property
    def window(self) -> Three:
        """(1, p, p) in 2-D, one voxel thick along the first axis (see ``slice_axis_first``), or (p, p, p)."""
        return (1 if self.spatial_dims == 2 else self.patch_size, self.patch_size, self.patch_size)

    @property
    def steps(self) -> Three:
        """Voxels between patches along each axis when a volume is scored: (1, s, s), or (s, s, s)."""
        return (1 if self.spatial_dims == 2 else self.stride, self.stride, self.stride)

    @property
    def cuts(self) -> tuple[str | None, ...]:
        """The planes to cut in 2-D, and a single None in 3-D, where a cube has no plane."""
        return (None,) if self.spatial_dims == 3 else tuple(self.planes)

    def in_planes(self, planes: Sequence[str] | None) -> PatchSpec:
        """The same in other ``planes``; itself for None."""
        return self if planes is None else replace(self, planes=planes)

    @property
    def settings(self) -> dict[str, Any]:
        """The fields by name, in values that JSON can hold: a score depends on each of them."""
        return {**asdict(self), "planes": list(self.planes)}
