"""One file for each detector, named like it: what the contract suite and the tests of the bundles need to know.

A new detector is driven everywhere by one more file. Everything here is small: an entry costs seconds, not minutes.
"""

from importlib import import_module
from pkgutil import iter_modules

from tests.detectors.catalogue.entry import Entry, Learner

FILES = sorted(module.name for module in iter_modules(__path__) if module.name != "entry")
CATALOGUE: tuple[Entry, ...] = tuple(import_module(f"{__name__}.{name}").ENTRY for name in FILES)
BY_NAME = {entry.name: entry for entry in CATALOGUE}

__all__ = ["BY_NAME", "CATALOGUE", "Entry", "Learner"]
