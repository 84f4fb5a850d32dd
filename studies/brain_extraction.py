"""How well deepbet finds the brain of whole heads, and what the check of masks says of its masks and of given ones.

    python -m studies.brain_extraction --data-root /data

Runs ``medanomaly.preprocessing.deepbet_mask`` on the 28 T1 heads of ``ixi_t1`` and on the FLAIR, T1 and T2 of
``ms_whole_head``, each as it was scanned. Where a mask is given on the same grid (T1 of ``ixi_t1``, FLAIR), prints
the Dice against it; of all, volume, seconds of the processor, and what is odd about the mask.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from medanomaly.data import LoadCased
from medanomaly.preprocessing import brain_mask_problems, deepbet_mask


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, required=True, help="folder of ixi_t1 and ms_whole_head")
    root = arguments.parse_args().data_root

    groups: dict[str, list[tuple[Path, Path | None]]] = {"ixi_t1, T1": [], "ms_whole_head, FLAIR": []}
    for scan in sorted((root / "ixi_t1" / "T1").glob("*.nii.gz")):
        mask = root / "ixi_t1" / "brain_mask" / scan.name.replace("_T1", "_brain_mask")
        groups["ixi_t1, T1"].append((scan, mask))
    for channel in ("FLAIR", "T1", "T2"):
        scans = sorted((root / "ms_whole_head").glob(f"*/{channel}.nii.gz"))
        drawn = channel == "FLAIR"
        groups[f"ms_whole_head, {channel}"] = [(s, s.with_name("brain_mask.nii.gz") if drawn else None) for s in scans]

    for name, files in groups.items():
        print(f"\n{name}\n{'scan':28s} {'Dice':>6s} {'ml':>6s} {'given':>6s} {'CPU s':>6s}  the check says")
        rows = np.array([_row(scan, mask) for scan, mask in files])
        dice, seconds = rows[:, 0], rows[:, 1]
        known = "" if np.isnan(dice).all() else f"Dice {np.nanmean(dice):.3f}, least {np.nanmin(dice):.3f}; "
        print(f"mean: {known}CPU {seconds.mean():.1f} s, most {seconds.max():.1f} s", flush=True)


def _row(scan: Path, given: Path | None) -> tuple[float, float]:
    case = LoadCased(1)({"image": str(scan), **({} if given is None else {"region": str(given)})})
    image: MetaTensor = case["image"]
    begin = time.process_time()
    found = deepbet_mask(image)
    seconds = time.process_time() - begin
    voxel = abs(np.linalg.det(np.asarray(image.affine)[:3, :3])) / 1000
    dice, volume = float("nan"), ""
    said = [f"deepbet: {problem}" for problem in brain_mask_problems(found, image)]
    if given is not None:
        drawn = np.asarray(case["region"].as_tensor()[0]) > 0
        dice = 2 * np.count_nonzero(found & drawn) / (np.count_nonzero(found) + np.count_nonzero(drawn))
        volume = f"{drawn.sum() * voxel:.0f}"
        said += [f"given: {problem}" for problem in brain_mask_problems(drawn, image)]
    name = scan.stem.removesuffix(".nii") if scan.parent.name == "T1" else f"{scan.parent.name} {scan.name[:-7]}"
    told = "; ".join(said) or "-"
    print(f"{name:28s} {dice:6.3f} {found.sum() * voxel:6.0f} {volume:>6s} {seconds:6.1f}  {told}", flush=True)
    return dice, seconds


if __name__ == "__main__":
    main()
