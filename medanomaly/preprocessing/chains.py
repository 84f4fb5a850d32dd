"""The ready chains: a brain MRI, a CT or a radiograph into the space where detectors work."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, MapTransform, Orientationd, Spacingd

from medanomaly.data.reading import LoadCased
from medanomaly.errors import ConfigError
from medanomaly.preprocessing.bias_correction import CorrectBiasd
from medanomaly.preprocessing.cache import CachedCompose
from medanomaly.preprocessing.channels import AlignChannels, CoveredRegiond
from medanomaly.preprocessing.context import TissueContextd
from medanomaly.preprocessing.film_grid import KEYS, FilmOrientationd, FilmResized, OneSliced
from medanomaly.preprocessing.inverse import LABEL_ON_SCAN, REGION_ON_SCAN, inside_of
from medanomaly.preprocessing.normalisation import NormalisePercentilesd, WindowHounsfieldd
from medanomaly.preprocessing.plausible_grid import PlausibleGridd
from medanomaly.preprocessing.region_mask import RegionFinder, RegionMaskd

REGISTERED_WITH = ("SimpleITK", "scipy", "nilearn")  # the last has the template
LEAST_LESION = 1e-4  # share of a resampled voxel that is lesion: less is the rounding of coordinates


def brain_mri(
    in_channels: int | None = None,
    spacing: Sequence[float] | None = (1.0, 1.0, 1.0),
    region: str | RegionFinder = "auto",
    percentiles: tuple[float, float] = (5.0, 95.0),
    clip: bool = False,
    bias_correction: bool = False,
    cache_dir: str | Path | None = None,
    register: bool = False,
    context: Sequence[str] = (),
    quartiles: Sequence[Sequence[float]] | None = None,
) -> Compose:
    """Paths of a case to its ``image`` (C, H, W, D) and ``region`` (1, H, W, D): RAS, at ``spacing``, normalised.

    Read, look at the voxel sizes, find the brain and check its mask, reorient to RAS (axes are permuted and flipped, so
    an oblique scan stays oblique), resample (image linearly, the brain by nearest neighbour, the label so that every
    voxel that holds any lesion counts: it is there to keep lesions out of training), normalise inside the brain. The
    moves are recorded for the inverse.

    Args:
        in_channels: how many images a case must have; None for any number.
        spacing: voxel size in mm; None keeps the scan's own.
        region: see :class:`RegionMaskd`.
        percentiles, clip, quartiles: see :class:`NormalisePercentiles`; maps of ``context`` have no quartiles.
        bias_correction: take out the smooth field of the coil by N4 first, see :class:`CorrectBiasd`; takes seconds to
            minutes a channel. A detector must be trained as it scores.
        cache_dir: where prepared cases are kept, see :class:`CachedCompose`; None keeps none. What a callable
            ``region`` depends on cannot be known, so its cases are never kept.
        register: bring the further images of a case onto the grid of the first, by a rigid registration, see
            :class:`AlignChannels`; without it, images on other grids are refused.
        context: maps of a template, "grey" and "white", as further channels after those of the case, see
            :class:`TissueContextd`: a detector gets ``in_channels`` and as many more as there are maps.

    Raises:
        ConfigError: if ``spacing`` is not three numbers above 0, or ``context`` names no map.
    """
    steps = _steps_of_volumes(in_channels, spacing, region, register, True, bias_correction)
    steps.append(NormalisePercentilesd(*percentiles, clip, quartiles))
    if context:
        steps.append(TissueContextd(context))
    parameters: dict[str, Any] = {"in_channels": in_channels, "spacing": spacing, "percentiles": percentiles}
    parameters |= {
        "clip": clip,
        "bias_correction": bias_correction,
        "quartiles": quartiles,
        **_registered(register, context),
    }
    return _kept(steps, parameters, region, cache_dir)


def head_ct(
    in_channels: int | None = None,
    spacing: Sequence[float] | None = (1.0, 1.0, 1.0),
    region: str | RegionFinder = "given",
    window: tuple[float, float] = (0.0, 80.0),
    cache_dir: str | Path | None = None,
    register: bool = False,
) -> Compose:
    """Paths of a case to its ``image`` (C, H, W, D) and ``region`` (1, H, W, D): RAS, at ``spacing``, 0 to 1.

    As :func:`brain_mri`, but for the last step: values in HU mean the same in every CT, so they are cut at the ends of
    ``window`` and mapped to 0 to 1, and no percentiles of the case are taken.

    Args:
        in_channels, spacing, region, cache_dir, register: see :func:`brain_mri`.
        window: lower and upper end in HU; 0 to 80 shows brain and blood.

    Raises:
        ConfigError: if ``spacing`` is not three numbers above 0, ``window`` is not two that rise, or ``region`` is a
            way to find the brain in MRI.
    """
    if region in ("auto", "deepbet", "hd-bet"):
        raise ConfigError(
            f"region is {region!r}, which finds the brain in MRI and not in CT: name masks in the datalist (region "
            "'given'), or use 'synthstrip' or a command of your own."
        )
    steps = [*_steps_of_volumes(in_channels, spacing, region, register), WindowHounsfieldd(*window)]
    parameters = {"chain": "ct", "in_channels": in_channels, "spacing": spacing, "window": window}
    parameters |= _registered(register)
    return _kept(steps, parameters, region, cache_dir)


def bone_ct(
    in_channels: int | None = None,
    spacing: Sequence[float] | None = (1.0, 1.0, 1.0),
    region: str | RegionFinder = "all",
    window: tuple[float, float] = (-200.0, 1000.0),
    cache_dir: str | Path | None = None,
    register: bool = False,
) -> Compose:
    """As :func:`head_ct`, in a ``window`` that shows bone, of all of the image if no other ``region`` is given."""
    return head_ct(in_channels, spacing, region, window, cache_dir, register)


def radiograph(
    in_channels: int | None = None,
    size: Sequence[int] | None = None,
    region: str | RegionFinder = "all",
    percentiles: tuple[float, float] = (1.0, 99.0),
    clip: bool = False,
    cache_dir: str | Path | None = None,
) -> Compose:
    """Paths of a case to its ``image`` (C, W, H, 1) and ``region`` (1, W, H, 1): one slice, of ``size``, normalised.

    Read, find the region, turn, resize (image linearly after smoothing, the region by nearest neighbour, the label so
    that every pixel that holds any lesion counts), normalise inside the region. The moves are recorded for the inverse.

    The axes are those of :func:`brain_mri` and the same for every format: the first runs to the patient's right, which
    is to the left of the picture, the second up; so the axial plane is the picture, W its width and H its height.
    All films of a cohort become as wide and as high as ``size`` says, whatever their aspect ratio: one that was padded
    instead would have a border that is not of the patient and as wide as its detector was narrow, and a detector that
    takes whole films would learn that. What was cut off or never shown cannot be brought back either way.

    Args:
        in_channels: how many channels a case must have; None for any number.
        size: height and width in pixels to which films are resized; None keeps each film's own.
        region: see :class:`RegionMaskd`.
        percentiles, clip: see :class:`NormalisePercentiles`. Only one in a hundred pixels is left beyond either end,
            as the dark of a film that no ray was stopped in, and its letters, are no lesions.
        cache_dir: see :func:`brain_mri`.

    Raises:
        ConfigError: if ``size`` is not two whole numbers above 0.
    """
    if size is not None and not _is_size(size):
        raise ConfigError(f"size is {size!r}: give height and width in pixels, such as [256, 256], or null.")
    steps: list[Any] = [
        LoadCased(in_channels),
        OneSliced(),
        RegionMaskd(region),
        _KeepMasksd(),
        FilmOrientationd(),
    ]
    if size is not None:
        steps += [FilmResized(size), _AnyLesiond()]
    steps.append(NormalisePercentilesd(*percentiles, clip))
    parameters = {"in_channels": in_channels, "size": size, "percentiles": percentiles, "clip": clip}
    return _kept(steps, parameters, region, cache_dir)


def _steps_of_volumes(
    in_channels: int | None,
    spacing: Sequence[float] | None,
    region: str | RegionFinder,
    register: bool,
    is_brain_mri: bool = False,
    bias_correction: bool = False,
) -> list[Any]:
    """Read, look at the voxel sizes, find the region, correct the bias if asked for, reorient and resample."""
    if spacing is not None and not _is_spacing(spacing):
        raise ConfigError(f"spacing is {spacing!r}: give three voxel sizes in mm above 0, such as [1, 1, 3], or null.")
    steps: list[Any] = [
        LoadCased(in_channels, AlignChannels() if register else None),
        PlausibleGridd(spacing),  # before an extractor works on what will be refused
        RegionMaskd(region, is_brain_mri),
        *([CoveredRegiond()] if register else []),
        *([CorrectBiasd()] if bias_correction else []),
        _KeepMasksd(),
        Orientationd(KEYS, axcodes="RAS", labels=None, allow_missing_keys=True),
    ]
    if spacing is not None:
        modes = ("bilinear", "nearest", "bilinear")
        steps.append(
            _VolumeSpacingd(KEYS, pixdim=tuple(spacing), mode=modes, dtype=np.float32, allow_missing_keys=True)
        )
        steps.append(_AnyLesiond())
    return steps


def _registered(register: bool, context: Sequence[str] = ()) -> dict[str, Any]:
    """What the result of a registration depends on, beside the case."""
    if not (register or context):
        return {}
    return {"register": register, "context": list(context), "versions": [version(name) for name in REGISTERED_WITH]}


def _kept(
    steps: Sequence[Any],
    parameters: Mapping[str, Any],
    region: str | RegionFinder,
    cache_dir: str | Path | None,
) -> Compose:
    """The chain, with a cache where there is a folder for it and the region is known by its name."""
    if cache_dir is None or callable(region):
        return Compose(steps)
    return CachedCompose(steps, {**parameters, "region": region}, cache_dir)


def _is_size(size: Any) -> bool:
    return isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)


def _is_spacing(spacing: Any) -> bool:
    return (
        isinstance(spacing, list | tuple)
        and len(spacing) == 3
        and all(isinstance(s, int | float) and s > 0 for s in spacing)
    )


class _VolumeSpacingd(Spacingd):
    """MONAI's, shown volumes alone: it takes another key with "image_" for metadata, as MONAI Label's "image_path"."""

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        return {**data, **super().__call__({key: data[key] for key in self.key_iterator(dict(data))}, lazy)}


class _KeepMasksd(MapTransform):
    """Keep ``region`` and ``label`` as they lie on the scan, as booleans (1, H, W, D) that nothing moves."""

    def __init__(self) -> None:
        super().__init__(keys=KEYS[1:], allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        for key, kept in (("region", REGION_ON_SCAN), ("label", LABEL_ON_SCAN)):
            if case.get(key) is not None:
                case[kept] = torch.from_numpy(inside_of(case[key])[None])
        return case


class _AnyLesiond(MapTransform):
    """A label that was resampled linearly to 1 wherever a voxel holds any lesion, and 0 elsewhere."""

    def __init__(self) -> None:
        super().__init__(keys="label", allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        if case.get("label") is not None:
            case["label"] = (case["label"] > LEAST_LESION).float()
        return case
