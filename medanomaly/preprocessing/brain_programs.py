"""Programs that find the brain: HD-BET, SynthStrip, or a command line of the user's own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from medanomaly.data.reading import LoadCased
from medanomaly.data.writing import save_on_grid
from medanomaly.errors import ConfigError, InputError

WORD = re.compile(r"{[^{}]*}")  # of a command line, that something is to be put in for
HD_BET_MASK = "brain_bet.nii.gz"  # what HD-BET calls the mask that belongs to brain.nii.gz

HD_BET_INSTALL = (
    "'hd-bet' was asked for, but HD-BET is not installed or not on the PATH: install it (pip install "
    "hd-bet; it brings nnU-Net, and loads its weights when it first runs), or choose --brain deepbet, "
    "which needs nothing more."
)
SYNTHSTRIP_INSTALL = (
    "'synthstrip' was asked for, but none of mri_synthstrip, synthstrip-docker and synthstrip-singularity is on the "
    "PATH: install FreeSurfer 7.3 or newer, or the script of its container (curl -O "
    "https://raw.githubusercontent.com/freesurfer/freesurfer/dev/mri_synthstrip/synthstrip-docker && chmod +x "
    "synthstrip-docker), or choose --brain deepbet, which needs nothing more."
)


def hd_bet_mask(image: MetaTensor, file: str) -> NDArray[np.float32]:
    """The brain (1, H, W, D) in the first channel of ``image`` (C, H, W, D), read from ``file``, by HD-BET 2.

    On a graphics card if torch sees one. InputError if it is not installed, or fails.
    """
    import torch

    if shutil.which("hd-bet") is None:
        raise InputError(HD_BET_INSTALL)
    device = ["-device", "cuda"] if torch.cuda.is_available() else ["-device", "cpu", "--disable_tta"]
    command = ["hd-bet", "-i", "{image}", "-o", "{folder}/brain.nii.gz", "--save_bet_mask", "--no_bet_image", *device]
    return run_program(command, image, file, HD_BET_MASK, is_reader=False)


def synthstrip_mask(image: MetaTensor, file: str) -> NDArray[np.float32]:
    """The same by SynthStrip, FreeSurfer's own or in its container."""
    for program in ("mri_synthstrip", "synthstrip-docker", "synthstrip-singularity"):
        if shutil.which(program) is not None:
            return run_program([program, "-i", "{image}", "-m", "{mask}"], image, file, is_reader=False)
    raise InputError(SYNTHSTRIP_INSTALL)


def run_program(
    command: Sequence[str], image: MetaTensor, file: str, mask_name: str = "mask.nii.gz", is_reader: bool = True
) -> NDArray[np.float32]:
    """Run a program that finds the brain, without a shell, and read the mask that it writes.

    Args:
        command: its words; ``{image}``, ``{mask}`` and ``{folder}`` in them stand for the paths of the scan, of the
            mask to be written, and of the folder that they may use, which is gone afterwards.
        image: (C, H, W, D), of which the first channel is what the program is given.
        file: it was read from.
        mask_name: what the program calls the mask in the folder.
        is_reader: whether it can read ``file`` itself, if that is one; else it gets the first channel as .nii.gz, as
            it does of a DICOM series, whose path may name the patient.

    Returns:
        The mask (1, H, W, D), 0 or 1, on the grid of the image.

    Raises:
        InputError: if the program is missing, cannot be run, fails, or writes no mask.
    """
    with tempfile.TemporaryDirectory(prefix="medanomaly_brain_") as folder:
        mask, scan = Path(folder) / mask_name, file
        if not is_reader or not os.path.exists(file):
            scan = str(Path(folder) / "image.nii.gz")
            save_on_grid(np.asarray(image[0]), Path(scan), file, np.asarray(image.affine))
        paths = {"{image}": scan, "{mask}": str(mask), "{folder}": folder}
        words = [WORD.sub(lambda word: paths[word[0]], part) for part in command]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise InputError(f"the brain extractor {words[0]!r} is not installed or not on the PATH.") from error
        except OSError as error:
            raise InputError(f"the brain extractor {words[0]!r} cannot be run: {error.strerror}.") from error
        if done.returncode != 0 or not mask.exists():
            raise InputError(
                f"the brain extractor failed on {file} (exit {done.returncode}, mask written: {mask.exists()}): "
                f"{' '.join(words)}\n{(done.stderr or done.stdout).strip()[-500:]}"
            )
        return np.asarray(LoadCased()({"image": scan, "region": str(mask)})["region"].as_tensor())


def words_of(command: str) -> list[str]:
    """The words of a command line; ConfigError if a quote stays open or it asks for more than {image} and {mask}."""
    for word in WORD.findall(command):
        if word not in ("{image}", "{mask}"):
            raise ConfigError(
                f"the brain extractor {command!r} holds {word}, but nothing is put in for other words than {{image}} "
                "and {mask}: correct it, or put the command into a script of its own."
            )
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ConfigError(
            f"the brain extractor {command!r} has a quotation mark that is not closed, or ends in a backslash "
            f"({error}): close it, or put a backslash before it if it is part of a name."
        ) from error
