"""The folders that come with the package, and what is in them: in a wheel they lie in it, in a checkout beside it."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """The folder ``name``, such as "bundles" or "data_manifests"."""
    package = Path(__file__).parent
    places = (package / name, package.parent / name)
    return next((place for place in places if place.is_dir()), places[-1])


def bundle_names() -> list[str]:
    """The bundles that come with the package."""
    return sorted(file.parents[1].name for file in shipped("bundles").glob("*/configs/metadata.json"))


def chain_names() -> list[str]:
    """The overlays that make a bundle one for another kind of image."""
    return sorted(file.stem for file in shipped("bundles").glob("common/chains/*.json"))


def manifest_names() -> list[str]:
    """The manifests of public datasets that come with the package."""
    return sorted(file.stem for file in shipped("data_manifests").glob("*.json"))


def model_names() -> list[str]:
    """The trained models that come with the package."""
    return sorted(file.parents[1].name for file in shipped("models").glob("*/models/model.pt"))
