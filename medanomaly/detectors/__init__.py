"""Detectors: what is learned from normal patches. One file each, found by its name.

The file is named like the bundle, and the class like the file: ``one_class_svm.py`` holds ``OneClassSVM`` (underscores
and capitals apart). A new file with such a class is a detector; no list names them.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from medanomaly.detectors.base import Detector
from medanomaly.detectors.intensity import IntensityBaseline, intensity_baselines
from medanomaly.detectors.tissue_outlier import TissueOutlier
from medanomaly.errors import ConfigError
from medanomaly.networks.stages import Stage

__all__ = [
    "Detector",
    "IntensityBaseline",
    "Stage",
    "TissueOutlier",
    "detector_class",
    "detector_names",
    "intensity_baselines",
]


def detector_class(name: str) -> type[Detector]:
    """The class of the detector ``name``, such as "one_class_svm".

    Raises:
        ConfigError: if there is no such detector; the message lists those that there are.
    """
    found = _class_in(name) if name in _files() else None
    if found is None:
        raise ConfigError(f"there is no detector {name!r}; there are {', '.join(detector_names())}.")
    return found


def detector_names() -> list[str]:
    """The names of all detectors, in alphabetical order."""
    return sorted(name for name in _files() if _class_in(name) is not None)


def __getattr__(name: str) -> Any:
    """``from medanomaly.detectors import OneClassSVM`` reads the one file that it needs."""
    for file in _files():
        if file.replace("_", "") == name.lower():
            found = _class_in(file)
            if found is not None and found.__name__ == name:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _files() -> list[str]:
    return [module.name for module in iter_modules(__path__)]


def _class_in(file: str) -> type[Detector] | None:
    """The detector that a file of this folder holds, if it holds one."""
    for name, value in vars(import_module(f"{__name__}.{file}")).items():
        if name.lower() == file.replace("_", "") and isinstance(value, type) and issubclass(value, Detector):
            return value
    return None
