"""medanomaly: finds what does not belong in a medical image without ever having been shown a disease.

The subpackages follow the flow: ``data``, ``preprocessing``, ``patches``, ``detectors``, ``training``, ``evaluation``,
``report``, ``workflows`` (what a user runs) and ``experiments``. They are imported when they are first used, so that
the command line answers at once.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_SUBPACKAGES = (
    "data",
    "detectors",
    "errors",
    "evaluation",
    "experiments",
    "networks",
    "patches",
    "preprocessing",
    "report",
    "training",
    "workflows",
)


def __getattr__(name: str) -> ModuleType:
    if name in _SUBPACKAGES:
        return import_module(f"medanomaly.{name}")
    raise AttributeError(f"module 'medanomaly' has no attribute {name!r}")
