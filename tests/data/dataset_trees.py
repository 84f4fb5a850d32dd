"""Small made downloads of the public datasets, in the layouts in which they are published, written down by hand."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from medanomaly.data import read_manifest

SHAPE = (6, 5, 4)  # voxels of every made image


@dataclass
class Tree:
    """A download: its images, its tables, how many files (or rows) each group of the manifest then has.

    ``whose`` finds the person in the path of an image; ``foreign`` is a file that is not of the dataset, and how many
    files make a case; a manifest that lists its cases gets a scan of another size instead.
    """

    files: Sequence[str]
    counts: Sequence[int] = ()
    tables: Mapping[str, str] = field(default_factory=dict)
    foreign: str | None = None
    whose: str = ""
    person: Callable[[str], str] | None = None

    def owner(self, path: str) -> str:
        if self.person is not None:
            return self.person(path)
        found = re.search(self.whose, path)
        assert found, f"{path} is nobody's"
        return found[0]


def _each(pattern: str, *values: object, **words: Sequence[object]) -> list[str]:
    names = [pattern]
    for word, choices in words.items():
        names = [name.replace(f"<{word}>", str(choice)) for name in names for choice in choices]
    return names


def _mura() -> Tree:
    files = []
    for number in range(30):
        name = f"MURA-v1.1/train/XR_ELBOW/patient{number:05}/study1"
        files += [f"{name}_negative/image1.png", f"{name}_negative/image2.png"] if number < 20 else []
        files += [f"{name.replace('study1', 'study2')}_positive/image1.png"] if number >= 10 else []
    tested = [
        f"MURA-v1.1/valid/XR_WRIST/patient{n}/study1_{f}/image1.png"
        for n, f in ((11185, "negative"), (11186, "positive"))
    ]
    tables = {"MURA-v1.1/train_image_paths.csv": "\n".join(files), "MURA-v1.1/valid_image_paths.csv": "\n".join(tested)}
    counts = (len(tested), len(tested), len(files), len(files))
    foreign = "MURA-v1.1/train/XR_ELBOW/patient99999/study1_negative/image1.png"
    return Tree([*files, *tested], counts, tables, foreign, "patient[0-9]+")


def _covidx() -> Tree:
    train = [(f"ANON{n}", f"CR.1.2.{n}-{i}.png", "negative") for n in range(20) for i in range(2)]
    train += [(f"ANON{n}", f"DX.1.2.{n}.png", "positive") for n in range(15, 25)]
    tested = [
        ("ANON3", "CR.9.3.png", "positive"),
        ("ANON16", "CR.9.16.png", "negative"),
        ("COVID 70", "COVID(70).png", "positive"),
    ]
    persons = {
        f"{folder}/{image}": name for folder, rows in (("train", train), ("test", tested)) for name, image, _ in rows
    }
    lines = {
        f"{folder}_COVIDx7B.txt": "\n".join(f"{name} {image} {finding} actmed" for name, image, finding in rows)
        for folder, rows in (("train", train), ("test", tested))
    }
    counts = (len(tested), len(tested), len(train), len(train))
    return Tree(list(persons), counts, lines, "train/foreign.png", person=persons.__getitem__)


def _chestxray14() -> Tree:
    rows = []
    for person in range(1, 41):
        for visit in range(3):
            finding = "No Finding" if person < 30 and visit < 2 else "Effusion|Mass"
            view = "AP" if visit == 1 and person % 5 == 0 else "PA"
            rows.append((f"{person:08}_{visit:03}.png", finding, person, view))
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,Extra"
    text = "\n".join([header, *(f"{i},{f},0,{p},50,F,{v},0" for i, f, p, v in rows)])
    files = [f"images_{1 + n // 60:03}/images/{row[0]}" for n, row in enumerate(rows)]
    tables = {"Data_Entry_2017_v2020.csv": text}
    return Tree(files, (len(rows), len(rows)), tables, "images_001/images/99999999_000.png", "[0-9]{8}")


def _listed(name: str) -> list[str]:
    """The files of a manifest that lists its cases."""
    content = read_manifest(name)
    cases = [case for section in ("training", "validation", "mixed", "test") for case in content.get(section, [])]
    return [case[key] for case in cases for key in ("image", "brain", "label") if key in case]


WMH = [
    *_each("training/Utrecht/<n>/<f>.nii.gz", n=range(0, 20, 2), f=("pre/FLAIR", "pre/T1", "wmh")),
    *_each("training/Amsterdam/GE3T/<n>/<f>.nii.gz", n=range(100, 105), f=("pre/FLAIR", "pre/T1", "wmh")),
    *_each("test/Singapore/<n>/<f>.nii.gz", n=(51, 53), f=("pre/FLAIR", "pre/T1", "wmh")),
    *_each("test/Amsterdam/Philips_VU .PETMR_01./<n>/<f>.nii.gz", n=(160,), f=("pre/FLAIR", "pre/T1", "wmh")),
]
HEADS = [
    f"{scan}/{name}.nii.gz"
    for scan in ("patient01_scan1", "patient01_scan2", "patient03_scan1")
    for name in ("FLAIR", "T2", "T1", "brain_mask")
    if (scan, name) != ("patient03_scan1", "T1")
]
TREES = {
    "brats2013": Tree(_listed("brats2013"), whose="pat[0-9]+"),
    "brats2013_mixed": Tree(_listed("brats2013_mixed"), whose="pat[0-9]+"),
    "chest_xray": Tree(
        [
            *(f"NORMAL/{('', 'NORMAL2-')[n % 2]}IM-{n:04}-{i:04}.jpeg" for n in range(115, 145) for i in (1, 2)),
            *(f"PNEUMONIA/person{n}_{kind}_{n}.jpeg" for n in range(1, 21) for kind in ("bacteria", "virus")),
        ],
        (60, 40),
        foreign="NORMAL/IM-9999-0001.jpeg",
        whose="IM-[0-9]+|person[0-9]+",
    ),
    "chestxray14": _chestxray14(),
    "covidx": _covidx(),
    "fashion_mnist": Tree(["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]),
    "ixi": Tree(
        [f"IXI-T1/IXI{n:03}-Guys-{700 + n}-T1.nii.gz" for n in range(20)],
        (20,),
        foreign="IXI-T1/IXI999-HH-1-T1.nii.gz",
        whose="IXI[0-9]+",
    ),
    "ixi_t1": Tree(_listed("ixi_t1"), whose="IXI[0-9]+"),
    "lesjak_ms": Tree(
        _each(
            "patient<n>/patient<n>_<f>.nii.gz", n=range(10, 20), f=("FLAIR", "T1W", "T2W", "brainmask", "consensus_gt")
        ),
        (10,),
        foreign="patient99/patient99_FLAIR.nii.gz",
        whose="patient[0-9]+",
    ),
    "mood": Tree(
        [
            *(f"brain_train/{n:05}.nii.gz" for n in range(20)),
            *_each("brain_toy/<f>/toy_<n>.nii.gz", f=("toy", "toy_label/pixel"), n=range(4)),
        ],
        (20, 4),
        foreign="brain_train/00999.nii.gz",
        whose="(toy_)?[0-9]+(?=.nii)",
    ),
    "ms_whole_head": Tree(HEADS, (3,), foreign="patient99_scan1/FLAIR.nii.gz", whose="patient[0-9]+"),
    "mura": _mura(),
    "open_ms": Tree(_listed("open_ms"), whose="patient[0-9]+"),
    "ribfrac": Tree(
        [
            *_each("ribfrac-train-<f>s-1/Part1/RibFrac<n>-<f>.nii.gz", f=("image", "label"), n=range(1, 11)),
            *_each("ribfrac-train-<f>s-2/Part2/RibFrac<n>-<f>.nii.gz", f=("image", "label"), n=range(301, 311)),
            *_each("ribfrac-val-<f>s/ribfrac-val-<f>s/RibFrac<n>-<f>.nii.gz", f=("image", "label"), n=(421, 422)),
        ],
        (20, 2),
        foreign="ribfrac-val-images/RibFrac999-image.nii.gz",
        whose="RibFrac[0-9]+",
    ),
    "wmh2017": Tree(WMH, (15, 3), foreign="test/Amsterdam/GE1T5/999/pre/FLAIR.nii.gz", whose="(?<=/)[0-9]+(?=/)"),
    "xvertseg": Tree(
        _each("Data1/<f>s/<f>00<n>.mhd", f=("image", "mask"), n=range(1, 4)),
        (3,),
        foreign="Data1/images/image999.mhd",
        whose="[0-9]{3}",
    ),
}


def plant(name: str, root: Path) -> dict[str, Any]:
    """Make the download of a dataset below ``root``; its manifest, with the counts and the shape of what was made."""
    tree, content = TREES[name], read_manifest(name)
    for file in tree.files:
        write(root / file)
    for file, text in tree.tables.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text + "\n")
    groups = content.get("groups", [])
    assert len(groups) == len(tree.counts)
    for group, count in zip(groups, tree.counts, strict=True):
        group["count"] = count
    if "shape" in content:
        content["shape"] = SHAPE[: len(content["shape"])]
    if "arrays" in content:
        content["arrays"] = {file: (7, 28, 28)[: len(shape)] for file, shape in content["arrays"].items()}
    return content


def write(path: Path, shape: Sequence[int] = SHAPE) -> None:
    """An image of noise in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    values = rng.integers(0, 255, tuple(shape)).astype(np.uint8)
    if path.suffix in (".png", ".jpeg"):
        Image.fromarray(values[..., 0].T).save(path)
    elif path.suffix == ".mhd":
        sizes = " ".join(map(str, shape))
        header = f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\n"
        path.write_text(f"{header}ElementDataFile = {path.stem}.raw\n")
        path.with_suffix(".raw").write_bytes(values.tobytes())
    elif "ubyte" in path.name:
        axes = (7, 28, 28) if "images" in path.name else (7,)
        axes = (axes[0] + int(tuple(shape) != SHAPE), *axes[1:])
        head = bytes([0, 0, 8, len(axes)]) + np.array(axes, ">u4").tobytes()
        path.write_bytes(gzip.compress(head + bytes(int(np.prod(axes)))))
    else:
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
