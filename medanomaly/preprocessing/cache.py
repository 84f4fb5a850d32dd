"""Prepared cases on disk, found again by what they were made of."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import stat
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils import TraceKeys

import medanomaly
from medanomaly.data import dicom_headers, dicom_series, dicom_volume, films, reading
from medanomaly.data.writing import written_whole
from medanomaly.preprocessing.arrays import is_ours, space_of
from medanomaly.preprocessing.case_file import KEPT_IN, read_case, write_case
from medanomaly.preprocessing.region_origin import warn_of_mask

SUFFIX = ".case"
MOST_BYTES = 1e11  # that the folder may hold if nothing else is said


def user_cache() -> Path:
    """The folder that the bundles cache in: ``$MEDANOMALY_CACHE``, or else ``medanomaly`` in the user's cache folder.

    It is one for all models, so cases that one detector was trained on need not be prepared again for the next. A
    variable that is empty counts as not set, and ``~`` is the user's home.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("MEDANOMALY_CACHE") or caches / "medanomaly").expanduser()


class CachedCompose(Compose):
    """A chain that prepares cases and keeps them in a folder, for this and for any later process.

    A case is found by the SHA-256 of all that it depends on: the parameters of the chain, its code and the versions of
    the libraries, and the paths and contents of the case's files. Whatever of this changes, the case is prepared anew.
    (MONAI's ``PersistentDataset`` goes by paths alone.) An image is kept as it is, with holes for the air around the
    head, so that training can map it instead of holding it; a mask is kept as bits. What is read is checked whole.

    NIfTI, PNG and JPEG files and DICOM series are cached; other formats, which may keep voxels in a second
    file, are always read. The folder holds scans of patients, so it and the cases in it are made private to their
    owner, whatever their mode was. What another user wrote is never read; and in a folder of another user, or one that
    all share such as ``/tmp``, nothing is kept.

    Args:
        transforms: of the chain; they make ``image`` (C, H, W, D) and masks of 0 and 1.
        parameters: all that the result of the chain depends on, in values that JSON can hold.
        cache_dir: the folder, which may begin with ``~``; one where nothing can be kept is warned of, once, and is no
            error.
        max_bytes: what the folder may hold; the cases that were not used for the longest time go first. If not given,
            100 GB, and never more than half of the disk space that would be free without it: a cohort of 600 scans of
            256^3 voxels takes 30 to 40 GB, and one that is thrown out while it is prepared would have to be prepared
            again.
    """

    def __init__(
        self,
        transforms: Sequence[Any],
        parameters: Mapping[str, Any],
        cache_dir: str | Path,
        max_bytes: float | None = None,
    ) -> None:
        super().__init__(transforms)
        self.cache_dir, self.max_bytes = Path(cache_dir).expanduser(), max_bytes
        versions = [module.__version__ for module in (medanomaly, monai, torch, np, nib)]
        modules = (dicom_headers, dicom_series, dicom_volume, films, reading)
        readers = [Path(str(module.__file__)) for module in modules]
        code = [file.read_bytes() for file in (*sorted(Path(__file__).parent.glob("*.py")), *readers)]
        self.made_by = json.dumps([dict(parameters), versions], default=repr).encode() + b"".join(code)
        self.command = str(parameters.get("region", ""))
        self.has_warned = self.is_private = False

    def __call__(self, data: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Paths of a case to the prepared case; the same, bit for bit, whether it was kept or is made now."""
        data = reading.image_label_apart(data)
        key = None if args or kwargs else self._key(data)
        if key is None:
            return super().__call__(data, *args, **kwargs)
        entry = self.cache_dir / f"{key}{SUFFIX}"
        if not self.is_private and os.path.isdir(self.cache_dir):  # left open by an earlier version, say
            with suppress(OSError):  # which is told when something is to be kept
                self._make_private()
        made = read_case(entry)
        if made is None:
            made = {k: v for k, v in super().__call__(data).items() if torch.is_tensor(v) and v is not data.get(k)}
            for tensor in made.values():
                if isinstance(tensor, MetaTensor):  # the inverse shall not ask for the very transforms of this process
                    tensor.applied_operations = [{**s, TraceKeys.ID: TraceKeys.NONE} for s in tensor.applied_operations]
            if self._key(data) == key:  # no file was changed while it was read
                self._keep(made, entry)
        else:
            warn_of_mask(made["region"])
        return {**data, **made}

    def _key(self, case: Any) -> str | None:
        """The name of a case; None if it cannot be cached or a file is missing (the chain says so better)."""
        digest = hashlib.sha256(self.made_by)
        try:
            for name in ("image", "region", "label"):
                value = case.get(name)
                for path in value if isinstance(value, list | tuple) else [value]:
                    files = [] if path is None else _files_of(Path(path))
                    if files is None:
                        return None
                    digest.update(f"{name} {path!s}\0".encode() + b"".join(map(_file_digest, files)))
            for word in shlex.split(self.command):  # a brain extractor, or a script or weights that it is given
                file = Path(shutil.which(word) or word)
                digest.update(_file_digest(file) if file.is_file() else b"")
        except (OSError, TypeError, ValueError, AttributeError):
            return None
        return digest.hexdigest()

    def _keep(self, made: Mapping[str, torch.Tensor], entry: Path) -> None:
        try:
            self._make_private()
            with written_whole(entry) as temporary:
                image = write_case(made, temporary)
            setattr(made["image"], KEPT_IN, replace(image, file=entry))
            self._make_room()
        except (OSError, TypeError) as error:
            if not self.has_warned:
                warnings.warn(f"prepared cases are not kept, each is prepared when it is needed: {error}", stacklevel=3)
            self.has_warned = True

    def _make_private(self) -> None:
        """Make the folder, or take its and its cases' modes back to their owner's alone; OSError if it is not ours."""
        self.cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.stat(self.cache_dir)
        if not (is_ours(found) and is_ours(os.lstat(self.cache_dir))) or found.st_mode & stat.S_ISVTX:
            raise PermissionError(
                f"{self.cache_dir} is a folder of another user or one that all share: choose one of your own with "
                "cache_dir or $MEDANOMALY_CACHE"
            )
        if found.st_mode & 0o077:
            self.cache_dir.chmod(0o700)
        if not self.is_private:
            for file in self.cache_dir.glob(f"*{SUFFIX}"):
                with suppress(OSError):  # it is another user's, or gone
                    _close_to_others(file, os.lstat(file))
        self.is_private = True

    def _make_room(self) -> None:
        found = []
        for file in self.cache_dir.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):  # another process makes room, too
                found.append((file.stat(), file))
        kept = sum(space_of(status) for status, _ in found)
        limit = self.max_bytes
        if limit is None:
            limit = min(MOST_BYTES, (kept + shutil.disk_usage(self.cache_dir).free) / 2)
        excess = kept - limit
        for status, file in sorted(found, key=lambda pair: pair[0].st_mtime_ns):
            if excess <= 0:
                break
            file.unlink(missing_ok=True)
            excess -= space_of(status)


def _close_to_others(file: Path, found: os.stat_result) -> None:
    if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077 and is_ours(found):
        file.chmod(0o600)


def _files_of(path: Path) -> list[Path] | None:
    """The files that hold an image; None if they cannot be told from its path."""
    if not path.is_dir() and (path.name.endswith((".nii", ".nii.gz")) or films.is_picture(path)):
        return [path]  # by its name: it is asked for at every access to the cache
    return dicom_series.files_in(dicom_series.place_and_series(path)[0]) if dicom_series.is_dicom(path) else None


def _file_digest(file: Path) -> bytes:
    return str(file).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest()
