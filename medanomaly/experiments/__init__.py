"""The papers' experiments: what is their own, over the engine in ``workflows.benchmark``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from medanomaly.errors import InputError

if TYPE_CHECKING:
    from medanomaly.workflows.benchmark import Experiment

EXPERIMENTS = ("fashion-mnist", "toy-lesions", "white-matter-paper", "white-matter", "tumours", "augmentation")
WITH_DATALIST = ("white-matter-paper", "white-matter", "tumours")


def find_experiment(name: str, datalist: str | Path | None = None, data_root: str | Path | None = None) -> Experiment:
    """The experiment of that name.

    Args:
        name: one of ``EXPERIMENTS``.
        datalist: a cohort of one's own, for the experiments that take one: ``WITH_DATALIST``.
        data_root: folder of the data, for experiments that find out there who takes part.

    Raises:
        InputError: if there is none of that name, or it takes no datalist, or there is nobody to take part.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"there is no benchmark {name!r}; there are cohort, {', '.join(EXPERIMENTS)}.")
    if datalist is not None and name not in WITH_DATALIST:
        raise InputError(f"the benchmark {name} has data of its own: leave out --datalist, or run cohort.")
    if name == "white-matter-paper":
        from medanomaly.experiments.white_matter_paper import white_matter_paper

        return white_matter_paper(datalist)
    if name in WITH_DATALIST:
        from medanomaly.experiments.unseen_people import unseen_people

        return unseen_people(name, datalist, data_root)
    experiment: Experiment = import_module(f"medanomaly.experiments.{name.replace('-', '_')}").EXPERIMENT
    return experiment
