"""T1 into T2 of real heads, learned unpaired: how like is the translation to the person's own T2?

    python -m studies.t1_to_t2 --data-root /data --output /tmp/t1_to_t2

Source: T1 of patient07 (Open MS) and of patient01 and patient04 (whole heads of the same database). Target: T2 of
patient03 and patient12, other people. Tested: the T1 of patient26 against their T2, in the brain, beside the T1
itself, its inverse, and the inverse with the histogram of T2's of the target.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.exposure import match_histograms
from skimage.metrics import structural_similarity

from medanomaly.preprocessing.chains import brain_mri
from medanomaly.workflows import translate

SPACING = [1.5, 1.5, 3.0]
SETTINGS = {
    "source_region": "given",
    "target_region": "given",
    "spacing": SPACING,
    "features": 8,
    "learning_rate": 1e-3,
    "batch_size": 8,
    "patches_per_epoch": 240,
}


def datalist(root: Path, folder: Path) -> Path:
    """The unpaired lists; the brain of Open MS is what is not 0."""
    import nibabel as nib

    def whole(name: str, kind: str) -> dict[str, str]:
        place = root / "ms_whole_head" / name
        return {"case": name, "image": str(place / f"{kind}.nii.gz"), "region": str(place / "brain_mask.nii.gz")}

    open_ms = {}
    for name in ("patient07", "patient26"):
        scan = nib.load(root / "open_ms" / name / "T1.nii.gz")
        mask = folder / f"{name}_brain.nii.gz"
        nib.save(nib.Nifti1Image((np.asarray(scan.dataobj) != 0).astype(np.uint8), scan.affine), mask)
        open_ms[name] = {"image": str(root / "open_ms" / name / "T1.nii.gz"), "region": str(mask), "case": name}
    content = {
        "training": [open_ms["patient07"], whole("patient01_scan1", "T1"), whole("patient04_scan1", "T1")],
        "target": [whole("patient03_scan1", "T2"), whole("patient12_scan1", "T2"), whole("patient12_scan2", "T2")],
        "test": [open_ms["patient26"]],
    }
    path = folder / "datalist.json"
    path.write_text(json.dumps(content))
    return path


def prepared(image: str, region: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    case = brain_mri(1, SPACING, "given")({"image": [image], "region": region, "case": "one"})
    return np.asarray(case["image"].as_tensor())[0], np.asarray(case["region"].as_tensor())[0] > 0


def likeness(made: NDArray[np.float32], true: NDArray[np.float32], brain: NDArray[np.bool_]) -> tuple[float, float]:
    """SSIM, the mean over voxels of the brain, with values cut to 0 to 1 and 0 outside; and Pearson's correlation."""
    a, b = (np.clip(np.where(brain, x, 0), 0, 1) for x in (made, true))
    _, ssim = structural_similarity(a, b, data_range=1.0, full=True)
    return float(ssim[brain].mean()), float(np.corrcoef(made[brain], true[brain])[0, 1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True)
    arguments.add_argument("--output", type=Path, required=True)
    arguments.add_argument("--epochs", type=int, default=25)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    given.output.mkdir(parents=True, exist_ok=True)
    lists, began = datalist(given.data_root, given.output), time.process_time()
    model = translate.train(lists, given.output / "model", device="cpu", settings=SETTINGS | {"epochs": given.epochs})
    minutes = (time.process_time() - began) / 60

    region = str(given.output / "patient26_brain.nii.gz")
    place = given.data_root / "open_ms" / "patient26"
    t1, brain = prepared(str(place / "T1.nii.gz"), region)
    t2, _ = prepared(str(place / "T2.nii.gz"), region)
    _, network, inferer = translate.open_model(model, "cpu")
    with torch.no_grad():
        made = np.asarray(inferer(translate.seen(t1[None], brain[None])[None], network)[0, 0])
    other, other_brain = prepared(
        *(
            str(given.data_root / "ms_whole_head" / "patient12_scan1" / name)
            for name in ("T2.nii.gz", "brain_mask.nii.gz")
        )
    )
    matched = np.zeros_like(t1)
    matched[brain] = match_histograms(1 - t1[brain], other[other_brain])
    rows = {"the T1 itself": t1, "1 - T1": 1 - t1, "1 - T1, histogram of a T2": matched, "SADGAN": made}
    for name, image in rows.items():
        ssim, r = likeness(image, t2, brain)
        print(f"{name:28s} SSIM {ssim:.3f}  correlation {r:.3f}")
    print(f"training: {minutes:.1f} CPU minutes, {given.epochs} epochs")
    draw([t1, made, t2, matched], ["T1", "translated", "T2 of the person", "1 - T1, matched"], brain, given.output)


def draw(images: list[NDArray[np.float32]], names: list[str], brain: NDArray[np.bool_], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(images), figsize=(2.4 * len(images), 6))
    for row, at in zip(axes, (brain.shape[2] // 2, brain.shape[2] * 5 // 8), strict=True):
        for axis, image, name in zip(row, images, names, strict=True):
            axis.imshow(np.where(brain, image, 0)[..., at].T, cmap="gray", vmin=0, vmax=1, origin="lower")
            axis.set_title(name if at == brain.shape[2] // 2 else "", fontsize=10)
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(folder / "t1_to_t2.png", dpi=80)


if __name__ == "__main__":
    main()
