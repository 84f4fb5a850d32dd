"""What a benchmark compares: detectors trained from their bundles, and baselines, all asked for heatmaps alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import Tensor

from medanomaly.data import chosen_epoch, written_whole
from medanomaly.data.training_cases import check_apart
from medanomaly.errors import ConfigError, InputError
from medanomaly.evaluation import Calibration
from medanomaly.evaluation.cohort_voxels import calibration_of
from medanomaly.evaluation.heatmaps import HeatmapOnTheSpot
from medanomaly.preprocessing import bone_ct, brain_mri, head_ct, radiograph, user_cache
from medanomaly.training import load_detector
from medanomaly.workflows.bundles import copy_bundle, find_bundle, read_settings, run_bundle, settings_it_has
from medanomaly.workflows.costs import TimedInferer, parameters_of, seconds_in, timed
from medanomaly.workflows.settings import apply_settings

Case = Mapping[str, Any]
CHAINS: dict[str, Callable[..., Compose]] = {
    "brain_mri": brain_mri,
    "radiograph": radiograph,
    "head_ct": head_ct,
    "bone_ct": bone_ct,
}
# what makes the configs of a bundle fit a cohort, where it is not the name of the chain
OVERLAYS: dict[str | None, str | None] = {"brain_mri": None, None: "prepared"}


@dataclass(frozen=True)
class Cohort:
    """What a detector learns from and is tested on.

    Args:
        training: healthy cases; what touches a ``label`` is left out.
        validation: healthy cases for early stopping and for thresholds; the training cases serve if there are none.
        test: cases with ``label``; none of them may be a training or a validation case, whatever it is called.
        chain: how cases are prepared: a name of ``CHAINS``, from paths as ``read_datalist`` gives them; None for
            cases that are prepared already, with ``image`` (C, H, W, D) and ``region`` (1, H, W, D) as tensors.
        preparation: arguments of the chain, the same for all rows of a table: ``spacing``, ``region``, ...
        n_channels: images of a case.
        mixed: healthy and diseased cases, not told apart, for detectors that learn from these, too.
        tuning: further cases that an experiment chooses thresholds with; a detector may know them.
    """

    training: Sequence[Case]
    validation: Sequence[Case]
    test: Sequence[Case]
    chain: str | None = "brain_mri"
    preparation: Mapping[str, Any] = field(default_factory=dict)
    n_channels: int = 1
    mixed: Sequence[Case] = ()
    tuning: Sequence[Case] = ()

    @property
    def normals(self) -> Sequence[Case]:
        """The cases that thresholds come from."""
        return self.validation or self.training

    def preprocessing(self) -> Compose | None:
        """The chain for baselines; a detector has that of its bundle."""
        if self.chain is None:
            return None
        return CHAINS[self.chain](**{"cache_dir": user_cache(), **self.preparation, "in_channels": self.n_channels})


class Scorer:
    """A detector, or a baseline, that gives heatmaps of cases.

    Args:
        inferer: called as ``inferer(volume, network, mask=region)``.
        network: the trained detector; None for a baseline.
        preprocessing: the chain that prepares a case; None if cases come prepared.
        spec: what a patch is; None for a baseline.
    """

    def __init__(
        self,
        inferer: Callable[..., Tensor],
        network: Any = None,
        preprocessing: Compose | None = None,
        spec: Any = None,
    ) -> None:
        self.inferer, self.network, self.preprocessing, self.spec = TimedInferer(inferer), network, preprocessing, spec
        self.training_seconds = 0.0
        self.epoch: Mapping[str, Any] | None = None  # which of its training, if unlabelled cases chose it
        self._last: tuple[Case, NDArray[np.float32]] | None = None
        self._of_file = None if preprocessing is None else HeatmapOnTheSpot(preprocessing, self.inferer, network)

    def heatmap(self, case: Case) -> NDArray[np.float32]:
        """Scores (H, W, D) on the grid of the scan, or, of a prepared case, on its own; NaN outside the region.

        That of the last case is kept, as it is often asked for twice.
        """
        if self._last is None or self._last[0] is not case:
            self._last = (case, self._of_file(case) if self._of_file is not None else self._of_prepared(case))
        return self._last[1]

    def _of_prepared(self, case: Case) -> NDArray[np.float32]:
        volume, region = (torch.as_tensor(case[key]) for key in ("image", "region"))
        scores = torch.as_tensor(self.score(volume[None], mask=region[None])[0, 0])
        return np.asarray(torch.where(region[0] > 0, scores, torch.nan), dtype=np.float32)

    def score(self, volume: Tensor, **regions: Tensor) -> Tensor:
        """Scores (B, 1, H, W, D) of prepared volumes (B, C, H, W, D); ``regions`` as the inferer takes them."""
        return self.inferer(volume, self.network, **regions)

    def costs(self) -> dict[str, float]:
        """Seconds of its training and of scoring so far, how many volumes that were, and what it has learned."""
        return {
            "training_seconds": round(self.training_seconds, 1),
            "scoring_seconds": round(self.inferer.seconds, 3),
            "volumes": self.inferer.volumes,
            "parameters": parameters_of(self.network),
        }

    def calibration(self, normals: Sequence[Case], held_out: bool) -> Calibration:
        """Of the scores of normal cases, all voxels of the region that are free of lesion, scored as test cases are.

        (``calibrate``, for cases that are to be scored in daily use, leaves out the patches that touch a lesion, too.
        Brightness has no patches, and all rows of a table are to have their thresholds from the same voxels.)
        """
        return calibration_of(self.heatmap, normals, held_out)


def train_scorer(
    bundle: str, cohort: Cohort, folder: Path, seed: int, settings: Mapping[str, Any], scoring: Mapping[str, Any]
) -> Scorer:
    """Train a bundle on a cohort in ``folder``, or go on where an earlier training there stood, and load it.

    Args:
        bundle: its name, or its folder.
        cohort: whose training and validation cases are used.
        folder: becomes a bundle of its own, without the calibration that scoring new scans with it would need.
        seed: of the training.
        settings: of the bundle, in place of its own values.
        scoring: settings of scoring alone, such as ``sign``, or ``weights``: several scorers can share one training.

    Raises:
        InputError: if ``folder`` holds a training with other settings, or a test case is one of another section by what
            it holds.
        ConfigError: for a setting that the bundle does not have.
    """
    trained = {"training": cohort.training, "validation": cohort.validation, "mixed": cohort.mixed}
    for section, cases in trained.items():
        check_apart(cases, section, cohort.test, "test")
    chain = OVERLAYS.get(cohort.chain, cohort.chain)
    own = {**_of_bundle(bundle, cohort.preparation), "in_channels": cohort.n_channels, "seed": seed, **settings}
    _keep_settings(folder, {"bundle": str(bundle), "chain": chain, **own})
    clock = folder.with_name(f"{folder.name}_seconds.json")
    if not (folder / "models" / "model.pt").exists():
        # without bars, and without the thresholds of daily use: a benchmark takes its own
        nested = ("inferer", *("inferer" + depth * "#inferer" for depth in (1, 2, 3)))
        bars = ("train#trainer#progress", *(f"{inferer}#progress" for inferer in nested))
        off = dict.fromkeys((*bars, "calibrate"), False)
        copy_bundle(bundle, folder, {**settings_it_has(bundle, off), **own}, chain=chain)
        given = {"training_cases": tuple(cohort.training), "held_out_cases": tuple(cohort.validation)}
        if "mixed_cases" in read_settings(folder, "train"):
            given["mixed_cases"] = tuple(cohort.mixed)
        with timed(clock):
            run_bundle(folder, "train", resume=True, **given)
    scorer = load_scorer(folder, **scoring)
    scorer.training_seconds, scorer.epoch = seconds_in(clock), chosen_epoch(folder)
    return scorer


def _of_bundle(bundle: str, preparation: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the chain as settings of a bundle, where some are settings of their own."""
    known = read_settings(find_bundle(bundle), "inference")
    alone = {"size", "window"}  # of the chains of films and of CT, which the bundle gets with its overlay
    return {key if key in known or key in alone else f"preprocessing#{key}": v for key, v in preparation.items()}


def _keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down, beside its folder, what a training is made with; InputError if it was begun with other settings."""
    file = folder.with_name(f"{folder.name}.json")
    wanted = json.loads(json.dumps(settings))
    found = json.loads(file.read_text(encoding="utf-8")) if folder.exists() and file.exists() else wanted
    for key in differences(found, wanted):
        raise InputError(
            f"the training in {folder} was begun with {key}={found.get(key)!r}, and {key}={wanted.get(key)!r} is "
            f"asked for: choose another folder, or delete {folder} to train again."
        )
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(wanted), encoding="utf-8")


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The names of settings that are not the same in both, in alphabetical order."""
    return [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]


def load_scorer(model: str | Path, weights: str = "model.pt", **scoring: Any) -> Scorer:
    """The trained detector in ``model``, with its chain and inferer, on a GPU if there is one.

    Args:
        model: folder of a bundle.
        weights: a file in its ``models``; "model_last.pt" is the last epoch, where another was chosen.
        scoring: settings of its ``inference.json``: values, or objects that take their place.

    Raises:
        InputError: if there is no model.
        ConfigError: for a setting that it does not have.
    """
    content = read_settings(Path(model), "inference")
    plain = {key: value for key, value in scoring.items() if isinstance(value, str | int | float | bool)}
    apply_settings(plain, [content], str(model))
    for key in scoring.keys() - plain.keys():
        if key not in content:
            raise ConfigError(f"{model} has no setting {key!r} for scoring.")
        content[key] = scoring[key]
    content["bundle_root"] = str(model)
    parser = ConfigParser(content)
    network: Any = load_detector(parser.get_parsed_content("network_def"), Path(model) / "models" / weights)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    preprocessing = parser.get_parsed_content("preprocessing") if content.get("preprocessing") else None
    inferer, spec = (parser.get_parsed_content(key) for key in ("inferer", "spec"))
    return Scorer(inferer, network, preprocessing, spec)
