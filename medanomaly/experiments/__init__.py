"""The papers' experiments: what is their own, over the engine in ``workflows.benchmark``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from medanomaly.errors import InputError

if TYPE_CHECKING:
    from medanomaly.workflows.benchmark import Experiment

EXPERIMENTS = ("fashion-mnist", "toy-lesions", "white-matter", "augmentation")


def find_experiment(name: str, datalist: str | Path | None = None) -> Experiment:
    """The experiment of that name.

    Args:
        name: one of ``EXPERIMENTS``.
        datalist: a cohort in the form of the paper, for the experiments that take one: white-matter.

    Raises:
        InputError: if there is none of that name, or it takes no datalist.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"there is no benchmark {name!r}; there are cohort, {', '.join(EXPERIMENTS)}.")
    module = import_module(f"medanomaly.experiments.{name.replace('-', '_')}")
    if datalist is not None and name != "white-matter":
        raise InputError(f"the benchmark {name} has data of its own: leave out --datalist, or run cohort.")
    experiment: Experiment = module.white_matter(datalist) if name == "white-matter" else module.EXPERIMENT
    return experiment
