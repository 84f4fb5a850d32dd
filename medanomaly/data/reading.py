"""Reading a case: channels, mask of the region and lesion label on one grid, or a plain error."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform, ResampleToMatch
from numpy.typing import NDArray

from medanomaly.data.datalist import is_image_label
from medanomaly.data.dicom_series import is_dicom, safe_name
from medanomaly.data.dicom_volume import read_dicom
from medanomaly.data.films import directions_of, is_jpeg, is_picture, read_picture, with_third_axis
from medanomaly.errors import InputError

AFFINE_TOLERANCE = 1e-3  # mm; headers written by different tools round differently
INSIDE = 0.5  # from this value on a voxel belongs to a mask, so that probabilities and labels can be masks
# from channels (1, H, W, D) on grids of their own, and what messages call them, to all on the first one's grid
# (C, H, W, D), and where each of them shows something (1, H, W, D)
Aligner = Callable[[Sequence[MetaTensor], Sequence[str]], tuple[MetaTensor, torch.Tensor]]
COVERED = "covered"  # key of the latter
IMAGE_LABEL = "image_label"  # 0 or 1 of a case whose label is a number, apart from `label`, which is a mask of voxels


class LoadCased(MapTransform):
    """Paths of a case to MetaTensors: ``image`` (C, H, W, D) float32, ``region`` and ``label`` (1, H, W, D).

    Any format that MONAI's readers take, see :func:`read_volume`. Channels must lie on one grid. A mask on another grid
    is resampled to the image's by nearest neighbour in world space; before, it is cut at one half. NaNs (background in
    some tools' output) become 0. A mask of a picture, or a picture of a mask, must have the pixels of the image, as how
    large those of a picture are is not known. A label that is a number (0: healthy, 1: not) is kept under
    ``image_label``, as it is: ``label`` is a mask of voxels wherever it is there.

    Args:
        in_channels: how many channels ``image`` must have; None for any number.
        align: brings the further channels onto the grid of the first, wherever they lie; if not given, channels on
            other grids are refused. The case then has ``covered`` (1, H, W, D), too: where all channels show something.

    Raises:
        InputError: a file that cannot be read, is not a volume or film of real numbers, has an affine that places no
            voxels, or does not fit its channels or its mask.
    """

    def __init__(self, in_channels: int | None = None, align: Aligner | None = None) -> None:
        super().__init__(keys=("image", "region", "label"), allow_missing_keys=True)
        self.in_channels, self.align = in_channels, align

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = image_label_apart(data)
        paths = case["image"] if isinstance(case["image"], list | tuple) else [case["image"]]
        if self.in_channels is not None and len(paths) != self.in_channels:
            raise InputError(
                f"the case {case.get('case') or safe_name(paths[0])} has {len(paths)} image channel(s) "
                f"({_names(paths)}), but the model takes "
                f"{self.in_channels}: give one file a channel, or a model trained on these channels."
            )
        if self.align is not None and len(paths) > 1:
            image, case[COVERED] = self.align([read_channels([path]) for path in paths], list(map(safe_name, paths)))
        else:
            image = read_channels(paths)
        case["image"] = image
        for key in ("region", "label"):
            if case.get(key) is not None:
                case[key] = _on_grid_of(image, read_volume(case[key]), safe_name(case[key]), safe_name(paths[0]))
        return case


def image_label_apart(data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """The case, with a label that is a number under ``image_label``, where nothing takes it for a mask of voxels."""
    case = dict(data)
    if is_image_label(case.get("label")):
        case[IMAGE_LABEL] = int(case.pop("label"))
    return case


def read_volume(path: str | Path) -> MetaTensor:
    """One volume (H, W, D), float32, in the orientation of its file; a trailing axis of length 1 is dropped.

    An image is a volume of one slice: a PNG or JPEG picture (see :mod:`medanomaly.data.films` for its axes), a NIfTI
    file (H, W), or a DICOM file of one frame. A DICOM series is a folder, a zip or a file, see
    :mod:`medanomaly.data.dicom_series`. DICOM values are rescaled by the header's slope and intercept, and inverted
    where it says MONOCHROME1, so that bright is bright.

    Raises:
        InputError: if the file cannot be read, is neither 3-D nor a film, holds complex numbers or colours, or has a
            useless affine.
    """
    if is_picture(path):
        return read_picture(path)
    if is_dicom(path):
        return read_dicom(path)
    affine = _checked_header(path)
    try:
        volume: MetaTensor = _loader()(str(path))
    except Exception as error:  # the readers raise whatever their library raises
        raise InputError(f"{path} cannot be read as an image: {_first_line(error)}. Is the file complete?") from error
    if volume.ndim == 4 and volume.shape[-1] == 1:
        volume = MetaTensor(volume[..., 0], meta=dict(volume.meta))
    if volume.ndim == 2 and affine is not None:  # of other formats it is not known which way a picture is turned
        affine = with_third_axis(affine)
        volume = MetaTensor(volume[..., None], meta=dict(volume.meta) | {"affine": torch.from_numpy(affine)})
    if volume.ndim != 3:
        shape = tuple(volume.shape)
        if volume.ndim == 2 or (volume.ndim == 4 and shape[2] == 1 and shape[3] in (3, 4)):
            raise InputError(
                f"{path} is an image of shape {shape}, but images are read from grey PNG, JPEG, NIfTI or DICOM files: "
                "convert it to one of these."
            )
        raise InputError(
            f"{path} is {volume.ndim}-D with shape {shape}, but a 3-D volume or an image is needed: split it into "
            "one file a volume (with fslsplit or nibabel.four_to_three, say) and list those you need as channels."
        )
    affine = volume.affine.numpy() if affine is None else affine  # as it was before the reader mended NaNs
    if not np.isfinite(affine).all() or not abs(np.linalg.det(directions_of(affine))) > 1e-4:
        raise InputError(
            f"the affine of {path} is {np.round(affine[:3], 3).tolist()}, but it must give each axis a direction and a "
            "size of its own: correct the sform and the qform of the header (with fslorient or nibabel, say), or "
            "convert the scan again from DICOM."
        )
    return volume


def read_display(path: str | Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A display map that scoring wrote (H, W, D), 0 to 100: percent of normal voxels that score lower; and its affine.

    In a PNG file, whose values end at 255, 100 is 255.
    """
    volume = read_volume(path)
    values = np.asarray(volume.as_tensor(), np.float32)
    return values / np.float32(2.55) if is_picture(path) else values, np.asarray(volume.affine, np.float64)


@cache
def _loader() -> LoadImage:
    """MONAI's readers, made once: one of them says twice, when it is made, that it lacks what graphics cards need."""
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LoadImage(image_only=True, dtype=np.float32)


def _checked_header(path: str | Path) -> NDArray[np.float64] | None:
    """The affine (4, 4) in the header of a NIfTI file; None for other files, and for those that cannot be read.

    Raises:
        InputError: if its voxels are not real numbers; casting would drop the imaginary part without a word.
    """
    if not str(path).endswith((".nii", ".nii.gz")):
        return None
    try:
        header: Any = nib.load(path)
        kind, affine = header.get_data_dtype(), np.asarray(header.affine, np.float64)
    except Exception:  # the reader says it better
        return None
    if kind.kind == "c":
        raise InputError(
            f"{path} holds {kind} voxels, but real numbers are needed: write the magnitude of the complex image to a "
            "file of its own, and give that."
        )
    if kind.names is not None:
        raise InputError(
            f"{path} holds colours ({', '.join(kind.names)}), but one real number a voxel is needed: give the scan "
            "itself, or write each colour to a file of its own and give them as channels."
        )
    return affine


def read_channels(paths: Sequence[str | Path]) -> MetaTensor:
    """Volumes on one grid as channels: (C, H, W, D) float32 with the header of the first."""
    volumes = [read_volume(path) for path in paths]
    first = volumes[0]
    for path, volume in zip(paths[1:], volumes[1:], strict=True):
        if not _same_grid(volume, first):
            raise InputError(
                f"{safe_name(path)} does not lie on the grid of {safe_name(paths[0])} (shape {tuple(volume.shape)} "
                f"against {tuple(first.shape)}, or another affine): have it registered to that scan with --register "
                "(--set register=true in training), or register and resample it first."
            )
    stacked = np.stack([volume.as_tensor().numpy() for volume in volumes])
    if not np.isfinite(stacked).all():
        stacked[np.isnan(stacked)] = 0  # and not nan_to_num, which would make a huge number of an infinite one
        if np.isinf(stacked).any():
            raise InputError(f"{_names(paths)} holds infinite values: write it again without them.")
    meta = dict(first.meta)
    if not is_dicom(paths[0]):  # whose path may name the patient
        meta["filename_or_obj"] = str(paths[0])
    return MetaTensor(torch.from_numpy(stacked), meta=meta)


def _on_grid_of(image: MetaTensor, mask: MetaTensor, path: str, image_path: str) -> MetaTensor:
    """``mask`` (H, W, D) as (1, H, W, D) of 0 and 1 on the grid of ``image``."""
    drawn = mask.as_tensor().numpy() >= INSIDE  # NaN is not
    binary = MetaTensor(torch.from_numpy(drawn[None].astype(np.float32)), meta=dict(mask.meta))
    if is_jpeg(path):
        raise InputError(f"{path} is a JPEG picture, which does not keep a mask as it was drawn: write it as PNG.")
    if not _same_grid(mask, image) and (is_picture(path) or is_picture(image_path)):
        if not _are_pixels_of(image, mask):
            raise InputError(
                f"{path} ({_pixels(mask)}) does not lie on the grid of {image_path} ({_pixels(image)}), and how large "
                "the pixels of a picture are is not known: give a mask that has the pixels of the image."
            )
        binary = MetaTensor(binary.as_tensor(), meta=dict(image.meta))
    elif not _same_grid(mask, image):
        resampled: Any = ResampleToMatch(mode="nearest", padding_mode="zeros")(binary, img_dst=image)
        # the resampling belongs to reading: leave no trace of it for the inverse
        binary = MetaTensor(resampled.as_tensor(), meta=dict(image.meta))
        if drawn.any() and not binary.any():
            raise InputError(
                f"{path} and {image_path} share no voxel in world space: one of the two has a wrong header, they are "
                "of different subjects, or all that is drawn is smaller than a voxel of the scan."
            )
    binary.affine = image.affine
    return binary


def _are_pixels_of(image: MetaTensor, picture: MetaTensor) -> bool:
    """Whether one is a picture of as many pixels as the other, and both lie as they are seen, whatever their size."""
    seen = all(nib.aff2axcodes(volume.affine.numpy()) == ("L", "P", "S") for volume in (image, picture))
    return seen and tuple(image.shape[-3:]) == tuple(picture.shape[-3:])


def _pixels(volume: MetaTensor) -> str:
    return " x ".join(map(str, volume.shape[-3:]))


def _same_grid(a: MetaTensor, b: MetaTensor) -> bool:
    """Whether two volumes, (H, W, D) or with channels before, have the same voxels in world space."""
    same_affine = torch.allclose(a.affine.double(), b.affine.double(), rtol=0, atol=AFFINE_TOLERANCE)
    return tuple(a.shape[-3:]) == tuple(b.shape[-3:]) and same_affine


def _names(paths: Sequence[str | Path]) -> str:
    return ", ".join(map(safe_name, paths))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
