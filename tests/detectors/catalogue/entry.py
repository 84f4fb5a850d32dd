"""What the contract suite and the tests of the bundles need to know of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Learner:
    """A detector that learns the toy task, in a few seconds if it is not slow."""

    arguments: Mapping[str, Any]
    in_channels: int
    spatial_dims: int
    steps: int  # of training, over all stages; 0 for what is only fitted
    slow: bool = False  # for ``make test-all`` alone: it takes more than some seconds


@dataclass(frozen=True)
class Entry:
    """What tests need to know of a detector."""

    name: str  # of its file and its bundle
    variants: tuple[Mapping[str, Any], ...]  # arguments of small networks, for what must hold of any weights
    learners: tuple[Learner, ...]
    own_settings: Mapping[str, Any] = field(default_factory=dict)  # of its bundle alone, other than the defaults
    fast: Mapping[str, Any] = field(default_factory=dict)  # with which the bundle trains in seconds
    needs: Mapping[str, Any] = field(default_factory=dict)  # settings without which the bundle does not train
    kinds: tuple[tuple[int, int], ...] = ((2, 1), (2, 3), (3, 1), (3, 3))  # (spatial_dims, in_channels) to drive
    random: bool = True  # whether the seed matters; not for what is fitted by a formula
    fitted: bool = False  # at once: no stages, no epochs to go on from, no losses to log
    signed: bool = False  # tells brighter from darker, and its bundle has the setting ``sign``
    residual: bool = False  # its score is what is brighter plus what is darker


SMALL = {"features": 4, "latent_dim": 8}


def learners(arguments: Mapping[str, Any], *rows: tuple[int, int, int], slow: bool = False) -> tuple[Learner, ...]:
    """The same arguments with several (in_channels, spatial_dims, steps)."""
    return tuple(Learner(arguments, *row, slow=slow) for row in rows)
