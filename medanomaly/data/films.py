"""Films: a PNG or JPEG picture as a volume of one slice.

A picture of ``H`` rows and ``W`` columns becomes (W, H, 1): the first axis runs along the columns, from the left edge
to the right, the second down the rows, as NIfTI, ITK and DICOM readers order them. The affine is that of an axial slice
that is looked at as radiologists do: the right edge of the picture is the patient's left, its lower edge posterior (for
a film of the chest, read "down"). A NIfTI heatmap on this grid lies over the picture in a viewer that opens both, and
over the same film as DICOM but for the size of its pixels. A pixel of a picture is 1 mm: the dots per inch that some
files hold are of a printer, not of a detector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from PIL import Image

from medanomaly.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg")  # in small or capital letters
AS_SEEN = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS, mm: columns run to the patient's left, rows to the back
TURNED = 0x0112  # the EXIF tag that says how a picture is to be turned before it is shown
MONAI_NAME = "filename_or_obj"
AS_GREY = "write it again in grey (with ImageMagick: convert in.png -colorspace Gray out.png)"


def is_picture(path: str | Path) -> bool:
    """Whether a file is a PNG or JPEG picture, by its name."""
    return Path(path).suffix.lower() in PICTURES


def is_jpeg(path: str | Path) -> bool:
    """Whether a file is a JPEG picture, by its name; what was drawn in one has blurred edges."""
    return is_picture(path) and Path(path).suffix.lower() != ".png"


def read_picture(path: str | Path) -> MetaTensor:
    """A grey picture of H rows and W columns as a volume (W, H, 1), float32, 0 to 255, or to 65535 of 16 bits.

    A colour picture whose channels are equal is grey, and so is a palette of greys; an alpha channel that hides
    nothing is dropped.

    Raises:
        InputError: if the file cannot be read, shows colours, has transparent parts, has 16 bits in several channels
            (which would be cut to 8), or is to be turned before it is shown.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            pixels = _grey(picture, str(path))
            turned = picture.getexif().get(TURNED, 1)
    except InputError:
        raise
    except Exception as error:  # Pillow raises whatever its decoders raise
        raise InputError(f"{path} cannot be read as an image: {error}. Is the file complete?") from error
    if turned not in (0, 1):
        raise InputError(
            f"{path} is stored turned or mirrored (EXIF orientation {turned}), so a heatmap would not lie over what is "
            "seen: write it again as it is to be seen (with ImageMagick: convert in.jpg -auto-orient out.jpg)."
        )
    volume = torch.from_numpy(np.ascontiguousarray(pixels.T[..., None], np.float32))
    return MetaTensor(
        volume, affine=torch.from_numpy(AS_SEEN), meta={MONAI_NAME: str(path), "original_affine": AS_SEEN}
    )


def with_third_axis(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine (4, 4) of an image; a third axis without a size becomes 1 mm at right angles to the others.

    Some tools write one that is 0 for an image of two axes.
    """
    mended: NDArray[np.float64] = affine.copy()
    if not np.linalg.norm(mended[:3, 2]) > 0:
        across = np.cross(*directions_of(affine)[:, :2].T)
        mended[:3, 2] = across * (-1 if across[np.argmax(np.abs(across))] < 0 else 1)
    return mended


def directions_of(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The directions of the axes as columns of length 1 (3, 3); zeros where an axis has none."""
    columns = affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    directions: NDArray[np.float64] = np.divide(columns, lengths, out=np.zeros((3, 3)), where=lengths > 0)
    return directions


def _grey(picture: Image.Image, path: str) -> NDArray[Any]:
    """The pixels (H, W) of a picture whose channels say the same."""
    if _has_16_bits(path) and picture.mode in ("LA", "RGB", "RGBA"):
        raise InputError(f"{path} has several channels of 16 bits, which would be cut to 8: {AS_GREY}.")
    if picture.mode in ("1", "L", "I", "F") or picture.mode.startswith("I;16"):
        _check_opaque(picture.info.get("transparency"), path)
        return np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    pixels = np.asarray(picture.convert("RGBA"))
    _check_opaque(None if (pixels[..., 3] == 255).all() else "alpha", path)
    colours = pixels[..., :3]
    if (colours != colours[..., :1]).any():
        raise InputError(f"{path} shows colours, but one number a pixel is needed: {AS_GREY}, if it is a film.")
    return colours[..., 0]


def _check_opaque(transparency: object, path: str) -> None:
    if transparency is not None:
        raise InputError(
            f"{path} has transparent parts, and what lies there is not known: write it again without an alpha channel."
        )


def _has_16_bits(path: str) -> bool:
    """Whether a PNG file has 16 bits a channel; Pillow says so of grey ones alone."""
    with open(path, "rb") as file:
        head = file.read(25)
    return head[:8] == b"\x89PNG\r\n\x1a\n" and head[24:25] == b"\x10"
