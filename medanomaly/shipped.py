"""The folders that come with the package: in a wheel they lie in it, in a checkout beside it."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """The folder ``name``, such as "bundles" or "data_manifests"."""
    package = Path(__file__).parent
    places = (package / name, package.parent / name)
    return next((place for place in places if place.is_dir()), places[-1])
