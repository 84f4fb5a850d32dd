"""One entry for each detector: what the contract suite and the tests of the bundles need to know of it.

A new detector is driven everywhere by one more entry. Everything here is small: an entry costs seconds, not minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Learner:
    """A detector that learns the toy task in a few seconds."""

    arguments: Mapping[str, Any]
    in_channels: int
    spatial_dims: int
    steps: int  # of training, over all stages; 0 for what is only fitted


@dataclass(frozen=True)
class Entry:
    """What tests need to know of a detector."""

    name: str  # of its file and its bundle
    variants: tuple[Mapping[str, Any], ...]  # arguments of small networks, for what must hold of any weights
    learners: tuple[Learner, ...]
    own_settings: Mapping[str, Any] = field(default_factory=dict)  # of its bundle alone, other than the defaults
    fast: Mapping[str, Any] = field(default_factory=dict)  # with which the bundle trains in seconds
    kinds: tuple[tuple[int, int], ...] = ((2, 1), (2, 3), (3, 1), (3, 3))  # (spatial_dims, in_channels) to drive
    random: bool = True  # whether the seed matters; not for what is fitted by a formula
    fitted: bool = False  # at once: no stages, no epochs to go on from, no losses to log
    signed: bool = False  # tells brighter from darker, and its bundle has the setting ``sign``
    residual: bool = False  # its score is what is brighter plus what is darker


SMALL = {"features": 4, "latent_dim": 8}


def learners(arguments: Mapping[str, Any], *rows: tuple[int, int, int]) -> tuple[Learner, ...]:
    """The same arguments with several (in_channels, spatial_dims, steps)."""
    return tuple(Learner(arguments, *row) for row in rows)


CATALOGUE = (
    Entry(
        "autoencoder",
        variants=(
            {"kind": "spatial", **SMALL},
            {"kind": "dense", **SMALL},
        ),
        learners=(
            *learners(
                {"kind": "spatial", "features": 8, "latent_dim": 2, "learning_rate": 0.003},
                (1, 2, 100),
                (3, 2, 100),
                (1, 3, 60),
            ),
            *learners(
                {"kind": "dense", "features": 8, "latent_dim": 8, "learning_rate": 0.003}, (1, 2, 100), (1, 3, 120)
            ),
            *learners({"kind": "dense", "features": 16, "latent_dim": 16, "learning_rate": 0.003}, (3, 2, 200)),
        ),
        own_settings={"kind": "dense", "features": 6, "latent_dim": 12, "jitter": 0.05},
        fast={"features": 8, "latent_dim": 16},
        signed=True,
        residual=True,
    ),
    Entry(
        "denoising_autoencoder",
        variants=(
            {"features": 8},
            {"features": 8, "sign": "bright"},
        ),
        learners=learners(
            {"features": 8, "noise_std": 0.5, "learning_rate": 0.003}, (1, 2, 200), (3, 2, 200), (1, 3, 80)
        ),
        own_settings={"features": 16, "noise_std": 0.3, "noise_voxels": 4, "jitter": 0.0, "gamma": 0.1},
        fast={"features": 8},
        signed=True,
        residual=True,
    ),
    Entry(
        "foreign_patch_interpolation",
        variants=({"features": 8},),
        learners=learners({"features": 8}, (1, 2, 150), (3, 2, 150), (1, 3, 40)),
        own_settings={"features": 16},
        fast={"features": 8},
    ),
    Entry(
        "fusion",
        variants=(
            {
                "members": (
                    {"detector": "denoising_autoencoder", "features": 8},
                    {"detector": "synthetic_anomalies", "features": 8},
                ),
                "prior_weight": 0.5,
            },
        ),
        learners=learners(
            {
                "members": (
                    {"detector": "denoising_autoencoder", "features": 8, "noise_std": 0.5, "learning_rate": 0.003},
                    {"detector": "synthetic_anomalies", "features": 8, "learning_rate": 0.003},
                )
            },
            (1, 2, 200),
            (3, 2, 200),
            (1, 3, 25),
        ),
        own_settings={
            "members": [
                {"detector": "denoising_autoencoder", "features": 8, "channels": [0], "weight": 2.0},
                {"detector": "ganomaly", "patch_size": 16, "stride": 16, "features": 4, "latent_dim": 8},
            ],
            "prior_weight": 0.5,
            "prior_channel": 0,
            "steps": [{"_target_": "medanomaly.patches.EdgeWeight", "width_mm": 4.0, "spacing": "@spacing"}],
        },
        fast={
            "members": [
                {"detector": "denoising_autoencoder", "features": 8},
                {"detector": "synthetic_anomalies", "features": 8},
            ]
        },
        signed=True,
    ),
    Entry(
        "ganomaly",
        variants=(
            {"variant": "A", "critic": "bce", **SMALL},
            {"variant": "K", "critic": "bce", **SMALL},
            {"variant": "K", "critic": "wgan-gp", **SMALL},
            {"variant": "K", "critic": "bce", "score": "residual", **SMALL},
            {"variant": "K", "unit_code": True, **SMALL},
        ),
        learners=(
            *learners({"variant": "A", "critic": "bce", "features": 16, "latent_dim": 16}, (1, 2, 250), (3, 2, 250)),
            *learners({"variant": "A", "critic": "bce", "features": 8, "latent_dim": 16}, (1, 3, 120)),
            *learners(
                {"variant": "K", "critic": "bce", "features": 16, "latent_dim": 16, "score": "residual"}, (3, 2, 250)
            ),
            *learners({"variant": "K", "features": 16, "latent_dim": 16}, (1, 2, 300)),
            *learners({"variant": "K", "features": 8, "latent_dim": 16}, (1, 3, 120)),
        ),
        own_settings={"variant": "K", "critic": "wgan-gp", "unit_code": True, "score": "residual"},
    ),
    Entry(
        "one_class_svm",
        variants=({},),
        learners=learners({}, (1, 2, 0), (3, 2, 0), (1, 3, 0)),
        own_settings={"nu": 0.1, "max_samples": 12},
        fitted=True,
        random=False,
    ),
    Entry(
        "pca",
        variants=({"n_components": 8},),
        learners=learners({"n_components": 8}, (1, 2, 0), (3, 2, 0), (1, 3, 0)),
        own_settings={"n_components": 4, "max_samples": 12},
        fitted=True,
        random=False,
    ),
    Entry(
        "progressive_ganomaly",
        variants=({"features": (4, 4, 4), "latent_dim": 8},),
        learners=(
            *learners({"features": (16, 16, 16), "latent_dim": 16, "fade_images": 640}, (1, 2, 300)),
            *learners({"features": (8, 8, 8), "latent_dim": 16, "fade_images": 320}, (1, 3, 80)),
        ),
        own_settings={
            "features": [8, 8, 6],
            "latent_dim": 20,
            "fade_images": 32,
            "unit_code": False,
            "score": "modified",
        },
        fast={"features": [16, 16, 16, 16], "fade_images": 64},
    ),
    Entry(
        "synthetic_anomalies",
        variants=(
            {"features": 8},
            {"features": 8, "sign": "dark"},
        ),
        learners=learners({"features": 8, "learning_rate": 0.003}, (1, 2, 200), (3, 2, 200), (1, 3, 40)),
        own_settings={
            "features": 16,
            "radius": [2.0, 8.0],
            "contrast": [0.2, 1.0],
            "levels": [0.0, 1.0],
            "texture": 0.1,
            "voxels_of_scan": 2,
            "fineness": 0.1,
            "jitter": 0.0,
            "gamma": 0.1,
        },
        fast={"features": 8},
        signed=True,
    ),
)
BY_NAME = {entry.name: entry for entry in CATALOGUE}
