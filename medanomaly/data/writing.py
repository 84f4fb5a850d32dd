"""Writing a heatmap on the grid of the scan that it belongs to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import MapTransform
from numpy.typing import NDArray
from PIL import Image

from medanomaly.data.films import is_picture, with_third_axis
from medanomaly.errors import InputError


class SaveHeatmapd(MapTransform):
    """Write ``<output_dir>/<case>/<case>_heatmap.nii.gz`` and ``..._display.nii.gz`` for a case.

    The first is the raw map, NaN outside the region; the second is for viewers: 0 outside the region and, inside, what
    ``display`` makes of the scores (nothing if it is None). Both are float32 on the grid of the case's first image
    file: same shape, affine, units and codes.

    Where that is a PNG or JPEG picture, the second is ``..._display.png``, grey, as wide and as high as the picture,
    to be laid over it: 0 to 255 where ``display`` gives 0 to 100. If it is None, the lowest score of the case is 0 and
    the highest 255.

    Args:
        output_dir: folder of the results.
        display: scores (n_voxels,) of the region to display values, voxel by voxel; must keep the order.
    """

    def __init__(
        self, output_dir: str | Path, display: Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]] | None = None
    ) -> None:
        super().__init__(keys="pred")
        self.output_dir = Path(output_dir)
        self.display = display

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        heatmap = np.asarray(torch.as_tensor(case["pred"]).cpu(), dtype=np.float32)[0]
        scan, affine = case["image"].meta["filename_or_obj"], np.asarray(case["pred"].affine)

        def save(volume: NDArray[np.float32], kind: str) -> None:
            save_on_grid(volume, heatmap_path(self.output_dir, case["case"], kind), scan, affine)

        with ThreadPoolExecutor(1) as pool:  # compressing takes long and does not need the interpreter
            raw = pool.submit(save, heatmap, "heatmap")
            inside = ~np.isnan(heatmap)
            shown = np.zeros_like(heatmap)
            shown[inside] = heatmap[inside] if self.display is None else self.display(heatmap[inside])
            if is_picture(scan):
                if self.display is None and inside.any():
                    low, high = shown[inside].min(), shown[inside].max()
                    shown[inside] = 100 * (shown[inside] - low) / (high - low if high > low else 1)
                save_as_picture(shown, display_path(self.output_dir, case["case"], scan))
            else:
                save(shown, "display")
            raw.result()
        return case


def heatmap_path(folder: str | Path, case: str, kind: str = "heatmap") -> Path:
    """Where the map of a case lies: ``kind`` is "heatmap" for the raw one, "display" for the one to look at."""
    return Path(folder) / case / f"{case}_{kind}.nii.gz"


def display_path(folder: str | Path, case: str, scan: str | Path) -> Path:
    """Where the map to look at lies: a PNG file if the case's first image ``scan`` is a picture, or else NIfTI."""
    path = heatmap_path(folder, case, "display")
    return path.with_name(f"{case}_display.png") if is_picture(scan) else path


def save_as_picture(volume: NDArray[Any], path: Path) -> None:
    """Write ``volume`` (W, H, 1), 0 to 100, as a grey PNG file of W columns and H rows, 0 to 255, whole or not at all.

    The axes are those of :func:`medanomaly.data.films.read_picture`.
    """
    grey = np.clip(np.rint(volume[..., 0].T * 2.55), 0, 255).astype(np.uint8)
    with written_whole(path) as temporary:
        Image.fromarray(grey).save(temporary, format="PNG")


def save_on_grid(
    volume: NDArray[Any], path: Path, scan: str | Path, affine: NDArray[Any], dtype: type = np.float32
) -> None:
    """Write ``volume`` (H, W, D) as NIfTI of ``dtype`` on the grid of ``scan``, or on ``affine`` if that is no NIfTI.

    The file appears under its name only when it is complete.

    Raises:
        InputError: if the volume does not have the shape of the scan.
    """
    image = nib.Nifti1Image(np.asarray(volume, dtype), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, "scanner")
    image.set_qform(affine, "scanner")  # without shear, of which rounding in DICOM headers leaves a trace
    if str(scan).endswith((".nii", ".nii.gz")):
        reference: Any = nib.load(scan)
        shape = (*reference.shape, 1)[:3]  # an image is a volume of one slice
        if shape != volume.shape:
            raise InputError(f"a map of shape {volume.shape} cannot be written on the grid of {scan}, {shape}.")
        grid = with_third_axis(reference.affine)
        image = nib.Nifti1Image(np.asarray(volume, dtype), grid)
        image.header["xyzt_units"] = reference.header["xyzt_units"]
        whole = np.array_equal(grid, reference.affine)
        for get, put in (("get_sform", "set_sform"), ("get_qform", "set_qform")):
            matrix, code = getattr(reference if whole else image, get)(coded=True)
            getattr(image, put)(matrix, int(code))
    with written_whole(path) as temporary:
        nib.save(image, temporary)


def require_folder(output: str | Path) -> None:
    """Raise InputError if ``output`` is not a folder and cannot become one, as a file is in its place or above it."""
    path = Path(output).absolute()
    nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not os.path.isdir(nearest):
        kind = "a file" if nearest.exists() else "a link to nothing"
        raise InputError(f"the output {path} must be a folder, but {nearest} is {kind}: choose another --output.")


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes ``path`` when the block ends well: no file is ever half-written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}_{threading.get_ident()}_{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
