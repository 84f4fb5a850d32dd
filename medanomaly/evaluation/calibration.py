"""What a score means: how unusual it is among the voxels of normal cases that the detector was not trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from medanomaly.data.writing import written_whole
from medanomaly.errors import ConfigError, InputError
from medanomaly.evaluation.case_metrics import case_score

Floats = npt.NDArray[np.floating[Any]]

# Steps of 1 %, then 20 a decade up to 0.99999, then the maximum, because thresholds live in the upper tail.
_PROBABILITIES = np.concatenate((np.arange(99) / 100, 1 - 10.0 ** -np.linspace(2, 5, 61), [1.0]))

LEAST_ROOM, MOST_ROOM = 15.0, 40.0  # percentiles from the mean of the normals' medians, see `misfit`


@dataclass(frozen=True)
class Calibration:
    """The empirical distribution of the voxel scores of held-out normal cases, each case counting the same.

    Attributes:
        probabilities: from 0 to 1, rising: the share of normal voxels at or below each quantile.
        quantiles: the scores at those probabilities, never falling.
        case_scores: the `case_score` of each normal case.
        source: a sentence that says which cases it was fitted on.
        settings: what the scores depend on (spacing, patch size, ...); scores made with others mean something else.
        held_out: whether the detector has never seen these cases; if it has, no rate holds for new ones.
        case_medians: of each normal case, the `percentile` of its median score; see `misfit`. None in older files.

    Examples:
        >>> cases = [np.linspace(0, highest, 1001) for highest in (1.0, 1.1, 1.2)]
        >>> normals = Calibration.fit(cases, "three made normals")
        >>> normals.percentile(np.array([0.0, 5.0])).tolist()
        [0.0, 100.0]
        >>> round(normals.case_threshold(), 3), normals.case_rate()  # of three normals, no less can be promised
        (1.195, 0.25)
    """

    probabilities: tuple[float, ...]
    quantiles: tuple[float, ...]
    case_scores: tuple[float, ...]
    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    held_out: bool = True
    case_medians: tuple[float, ...] = ()

    @property
    def n_cases(self) -> int:
        """The number of normal cases."""
        return len(self.case_scores)

    @classmethod
    def fit(
        cls,
        cases: Sequence[npt.NDArray[Any]],
        source: str,
        settings: Mapping[str, Any] | None = None,
        held_out: bool = True,
    ) -> Calibration:
        """Tabulate the scores of normal cases that took no part in training.

        Args:
            cases: for each case the voxel scores in its region, of any shape, all finite.
            source: a sentence that says which cases these are.
            settings: what the scores depend on, in values that JSON can hold.
            held_out: False if the detector was trained on these cases after all.

        Raises:
            InputError: when there is no case, or a case has no score or one that is NaN or infinite.
        """
        if len(cases) == 0:
            raise InputError("A calibration was asked of 0 normal cases; it needs at least 1. Hold out normal cases.")
        case_scores = []
        for number, case in enumerate(cases):
            try:
                case_scores.append(case_score(case))
            except InputError as error:
                raise InputError(f"Normal case {number} of {len(cases)} cannot be calibrated on. {error}") from error
        quantiles = _mixture_quantiles([np.sort(case, axis=None) for case in cases], _PROBABILITIES)
        table = (tuple(_PROBABILITIES.tolist()), tuple(quantiles.tolist()))
        fitted = cls(*table, tuple(case_scores), source, dict(settings or {}), held_out)
        return replace(fitted, case_medians=tuple(fitted._median_percentile(case) for case in cases))

    def percentile(self, scores: npt.NDArray[Any]) -> Floats:
        """Say of each score that it is more unusual than p % of normal voxels.

        Args:
            scores: raw scores or a heatmap, of any shape; NaN stays NaN.

        Returns:
            p in 0..100, of the same shape, float32 for float32 scores and else float64. It never falls as the score
            rises, but it saturates at 100 beyond the highest normal score, so rank cases by raw scores. A score that
            many normal voxels share is more unusual than those strictly below it only.
        """
        # np.interp takes the last of several equal quantiles; on the mirrored table that is the lowest probability
        mirrored, shares = -np.array(self.quantiles[::-1]), np.array(self.probabilities[::-1])
        percentile = 100 * np.interp(np.negative(scores, dtype=np.float64), mirrored, shares)
        return np.asarray(percentile, dtype=np.float32 if scores.dtype == np.float32 else np.float64)

    def voxel_threshold(self, false_positive_rate: float = 0.005) -> float:
        """The score that this share of normal voxels exceeds, in (0, 1); interpolated between tabulated quantiles.

        Below 1e-5 it is interpolated up to the highest normal score. Raises InputError outside (0, 1).
        """
        return float(np.interp(1 - _rate(false_positive_rate), self.probabilities, self.quantiles))

    def case_threshold(self, false_positive_rate: float = 0.05) -> float:
        """The lowest case score of a normal that at most this share of new normal cases will exceed, in (0, 1).

        Of n normals and one more, all drawn alike, each is as likely as any other to come at any rank. So the k-th
        lowest of the n is exceeded with a chance of (n + 1 - k) / (n + 1), and k is the first for which that is no more
        than the rate. With fewer than 1 / rate - 1 normals there is none: the highest is taken, and :meth:`case_rate`
        says what can be promised. Raises InputError outside (0, 1).
        """
        return sorted(self.case_scores)[self._case_rank(false_positive_rate) - 1]

    def case_rate(self, false_positive_rate: float = 0.05) -> float:
        """The share of new normal cases that :meth:`case_threshold` lets through at most; 1 / (n + 1) at the least."""
        return (self.n_cases + 1 - self._case_rank(false_positive_rate)) / (self.n_cases + 1)

    def case_threshold_in_words(self, false_positive_rate: float = 0.05) -> str:
        """Where the case threshold comes from and what it promises, for wherever it is shown."""
        rank, n, promised = self._case_rank(false_positive_rate), self.n_cases, self.case_rate(false_positive_rate)
        place = "the highest case score" if rank == n else f"number {rank} of {n} case scores, counted from the lowest,"
        origin = f"{place} of {self.source}"
        if not self.held_out:
            return f"{origin}: the detector has seen them, so new normal cases exceed it more often than any rate says"
        words = f"{origin}: at most {100 * promised:.3g} % of new normal cases exceed it"
        if promised > false_positive_rate:
            needed = ceil(1 / false_positive_rate - 1e-9) - 1
            words += f" ({100 * false_positive_rate:g} % would need {needed} normals)"
        return words

    def misfit(self, scores: npt.NDArray[Any]) -> str:
        """What says that a case is not of the kind that the thresholds come from; empty if nothing does.

        The median score of a case is that of its normal tissue, as long as most of it is normal. Where it lies among
        the voxels of all normals is compared with where those of the normals lie: outside the range that holds 99.9 %
        of new normal cases (Student's t, a prediction interval), it is another scanner, another sequence, or
        preprocessing that went wrong. That range reaches 15 percentiles from their mean at least, and 40 at most:
        of few normals it would hold anything.

        Args:
            scores: of a case, in its region, of any shape, all finite.
        """
        if not self.case_medians or not self.held_out:
            return ""
        n, mean = self.n_cases, float(np.mean(self.case_medians))
        room = MOST_ROOM
        if n > 1:
            spread = float(np.std(self.case_medians, ddof=1)) * np.sqrt(1 + 1 / n)
            room = min(max(LEAST_ROOM, float(stats.t.ppf(0.9995, n - 1)) * spread), MOST_ROOM)
        found = self._median_percentile(scores)
        if abs(found - mean) <= room:
            return ""
        low, high = min(self.case_medians), max(self.case_medians)
        return (
            f"its tissue scores unlike that of the normal cases behind the thresholds: its median lies above "
            f"{found:.0f} % of their voxels, their own above {low:.0f} to {high:.0f} %. Another scanner or sequence "
            "needs thresholds from normal cases of its own (medanomaly calibrate)"
        )

    def _median_percentile(self, scores: npt.NDArray[Any]) -> float:
        return float(self.percentile(np.asarray(np.median(scores))).item())

    def _case_rank(self, false_positive_rate: float) -> int:
        """Of the threshold among the case scores, from 1 for the lowest."""
        return min(ceil((self.n_cases + 1) * (1 - _rate(false_positive_rate)) - 1e-9), self.n_cases)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, at once or not at all, so that a run that is cut off leaves no half-written calibration."""
        with written_whole(Path(path)) as temporary:
            temporary.write_text(json.dumps(asdict(self), allow_nan=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], settings: Mapping[str, Any] | None = None) -> Calibration:
        """Read what `save` wrote.

        Args:
            path: the JSON file.
            settings: those of the present run, if they are to be compared with those of the calibration.

        Raises:
            InputError: when the file is missing or malformed; the message names it.
            ConfigError: when a setting differs: the heatmap would look plausible and mean nothing.
        """
        try:
            table = json.loads(Path(path).read_text(encoding="utf-8"))
            probabilities, quantiles, case_scores = (
                tuple(map(float, table[key])) for key in ("probabilities", "quantiles", "case_scores")
            )
            calibration = cls(
                probabilities,
                quantiles,
                case_scores,
                str(table["source"]),
                dict(table.get("settings", {})),
                bool(table.get("held_out", True)),
                tuple(map(float, table.get("case_medians", ()))),
            )
            calibration._check()
        except OSError as error:
            raise InputError(
                f"The calibration {path} cannot be read: {error.strerror}. Train the model with medanomaly train, "
                "which writes it (a model that a benchmark trained has none)."
            ) from error
        except KeyError as error:
            raise InputError(f"The calibration {path} lacks {error}. Fit and save it again.") from error
        except (ValueError, TypeError) as error:
            raise InputError(f"The calibration {path} is malformed: {error}. Fit and save it again.") from error
        for key, value in (settings or {}).items():
            if calibration.settings.get(key, value) != json.loads(json.dumps(value)):
                raise ConfigError(
                    f"The model beside {path} was trained with {key} = {calibration.settings[key]}, but this run has "
                    f"{key} = {value}. Use the same {key}, or train a model with the other."
                )
        return calibration

    def _check(self) -> None:
        probabilities, quantiles = np.array(self.probabilities), np.array(self.quantiles)
        if len(probabilities) < 2 or len(probabilities) != len(quantiles):
            raise ValueError(
                f"{len(probabilities)} probabilities and {len(quantiles)} quantiles, not 2 or more of each"
            )
        if probabilities[0] != 0 or probabilities[-1] != 1 or not (np.diff(probabilities) > 0).all():
            raise ValueError("the probabilities do not rise from 0 to 1")
        if not np.isfinite(quantiles).all() or not (np.diff(quantiles) >= 0).all():
            raise ValueError("the quantiles are not finite or fall")
        if self.n_cases == 0 or not np.isfinite(self.case_scores).all():
            raise ValueError("the case scores are none or not finite")


def _rate(false_positive_rate: float) -> float:
    if not 0 < false_positive_rate < 1:
        raise InputError(
            f"The false-positive rate is {false_positive_rate}; it must lie between 0 and 1, such as 0.05."
        )
    return false_positive_rate


def _mixture_quantiles(ordered: Sequence[Floats], probabilities: Floats) -> Floats:
    """Lowest scores at which the mean of the cases' distribution functions reaches the probabilities.

    Bisection down to neighbouring floats finds the very scores, without a joint sort of all voxels and their weights.
    """
    dtype = np.result_type(np.float32, *ordered)  # that of the cases, or searchsorted would copy them every time
    high = np.full(len(probabilities), max(case[-1] for case in ordered), dtype)
    low = np.nextafter(np.full_like(high, min(case[0] for case in ordered)), dtype.type(-np.inf))
    # a share that is met exactly must not be missed by rounding, and 0 is met by the lowest score, not below it
    needed = np.maximum(probabilities - 1e-12, np.finfo(np.float64).tiny)
    while True:
        middle = (low + high) / 2
        if not ((low < middle) & (middle < high)).any():
            return high
        share = np.mean([np.searchsorted(case, middle, side="right") / case.size for case in ordered], axis=0)
        reached = share >= needed
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
