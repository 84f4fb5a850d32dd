"""What benchmarks train: as the command does, once, resumed at any point; scored in several ways."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medanomaly.errors import ConfigError, InputError
from medanomaly.training import DetectorTrainer, load_detector
from medanomaly.workflows import bundles, scorers, train
from medanomaly.workflows.scorers import Cohort, Scorer, train_scorer

TINY = {"patch_size": 16, "stride": 16, "max_epochs": 2, "patches_per_epoch": 32, "batch_size": 16}


def prepared(n: int, seed: int = 0, channels: int = 1, lesion: float = 0.0) -> list[dict[str, Any]]:
    """Smooth prepared cases of 20 x 20 x 3 voxels; with a ``lesion`` that much brighter in each."""
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for number in range(n):
        image = 1 + 0.1 * torch.rand(channels, 20, 20, 3, generator=generator)
        image[:, 8:12, 8:12, 1] += lesion
        cases.append({"case": f"{seed}-{number}", "image": image, "region": torch.ones(1, 20, 20, 3)})
    return cases


@pytest.fixture(scope="module")
def small() -> Cohort:
    return Cohort(prepared(2), prepared(1, 1), prepared(1, 2, lesion=1.0), chain=None)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "models" / "model.pt"))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_the_same_weights_as_by_the_command_train(cohort: Path, tmp_path: Path) -> None:
    from medanomaly.data import read_datalist

    settings = {**TINY, "decay": True, "variant": "K"}
    train(cohort, tmp_path / "train", seed=3, settings={**settings, "spacing": [2, 2, 3]})
    sections = {section: read_datalist(cohort, section) for section in ("training", "validation", "test")}
    same_cases = Cohort(**sections, preparation={"spacing": [2, 2, 3]})
    scorer = train_scorer("ganomaly", same_cases, tmp_path / "bench", 3, settings, {})
    assert same(weights(tmp_path / "train"), weights(tmp_path / "bench"))
    made = [(tmp_path / folder / "models" / "calibration.json").exists() for folder in ("train", "bench")]
    assert made == [True, False], "a benchmark takes thresholds of its own"
    train_scorer("ganomaly", same_cases, tmp_path / "other", 4, settings, {})
    assert not same(weights(tmp_path / "other"), weights(tmp_path / "bench"))
    assert scorer.network.variant == "K" and not scorer.network.training
    assert scorer.spec.stride == 16


def test_a_training_is_made_once_and_its_settings_reach_the_bundle(small: Cohort, tmp_path: Path) -> None:
    train_scorer("ganomaly", small, tmp_path / "m", 5, TINY, {})
    before = (tmp_path / "m" / "models" / "model.pt").stat().st_mtime_ns
    for config in ("train", "inference"):
        written = json.loads((tmp_path / "m" / "configs" / f"{config}.json").read_text())
        assert {key: written[key] for key in ("patch_size", "stride")} == {"patch_size": 16, "stride": 16}
        assert written["preprocessing"] is None and written["in_channels"] == 1
    written = json.loads((tmp_path / "m" / "configs" / "train.json").read_text())
    assert (written["seed"], written["max_epochs"], written["batch_size"]) == (5, 2, 16)
    train_scorer("ganomaly", small, tmp_path / "m", 5, TINY, {})
    assert (tmp_path / "m" / "models" / "model.pt").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"begun with max_epochs=2, and max_epochs=1 .* delete"):
        train_scorer("ganomaly", small, tmp_path / "m", 5, {**TINY, "max_epochs": 1}, {})
    with pytest.raises(InputError, match="begun with seed=5, and seed=6"):
        train_scorer("ganomaly", small, tmp_path / "m", 6, TINY, {})
    with pytest.raises(ConfigError, match="no setting 'pach_size'"):
        train_scorer("ganomaly", small, tmp_path / "n", 5, {"pach_size": 16}, {})


class StopError(Exception):
    pass


@pytest.mark.parametrize("point", ["before the copy", "in training", "before the model", "scoring"])
def test_an_interrupted_training_comes_to_the_same_end(
    point: str, small: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_scorer("ganomaly", small, tmp_path / "whole", 0, TINY, {}).heatmap(small.test[0])

    def stop(*_: Any, **__: Any) -> None:
        raise StopError

    save = DetectorTrainer._save

    def save_and_stop(trainer: DetectorTrainer) -> None:
        save(trainer)
        raise StopError

    with pytest.MonkeyPatch.context() as patch:
        if point == "before the copy":
            patch.setattr(scorers, "copy_bundle", stop)
        elif point == "in training":
            patch.setattr(DetectorTrainer, "_save", save_and_stop)
        elif point == "before the model":
            patch.setattr(DetectorTrainer, "_finish", stop)
        else:
            patch.setattr(scorers, "load_scorer", stop)
        with pytest.raises((StopError, ConfigError)):
            train_scorer("ganomaly", small, tmp_path / "m", 0, TINY, {})
    assert (tmp_path / "m" / "models" / "model.pt").exists() == (point == "scoring")
    heatmap = train_scorer("ganomaly", small, tmp_path / "m", 0, TINY, {}).heatmap(small.test[0])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "m"))
    np.testing.assert_array_equal(heatmap, whole)


@pytest.mark.parametrize("section", ["training", "validation"])
def test_a_test_case_that_was_learned_from_is_refused(section: str, small: Cohort, tmp_path: Path) -> None:
    copy = {**getattr(small, section)[0], "case": "under another name"}
    leaking = replace(small, test=[*small.test, copy])
    with pytest.raises(InputError, match=rf"in '{section}' and the case under another name in 'test' are the same"):
        train_scorer("ganomaly", leaking, tmp_path / "m", 0, TINY, {})
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "names", [bundles.bundle_names()[::5], pytest.param(bundles.bundle_names(), marks=pytest.mark.slow)], ids=len
)
def test_every_bundle_can_be_benchmarked(names: list[str], small: Cohort, tmp_path: Path) -> None:
    cohort = replace(small, mixed=prepared(2, 3, lesion=1.0))  # for those that learn from such cases, too
    for name in names:
        few = {
            **TINY,
            "max_epochs": 1,
            "patches_per_epoch": 16,
            "fade_images": 16,
            "backbone_weights": "random",
            **({"max_samples": 16} if "svm" in name else {}),
        }
        known = bundles.settings_it_has(name, few)
        scorer = train_scorer(name, cohort, tmp_path / name, 0, known, {})
        heatmap = scorer.heatmap(small.test[0])
        assert heatmap.shape == (20, 20, 3) and np.isfinite(heatmap).all(), name


def test_ways_of_scoring_share_a_training_and_change_the_scores(small: Cohort, tmp_path: Path) -> None:
    from medanomaly.experiments.voxel_detectors import WAYS

    members = [{"detector": "denoising_autoencoder", "features": 8}, {"detector": "synthetic_anomalies", "features": 8}]
    settings = {**TINY, "max_epochs": 1, "members": members}
    (case,) = small.test
    maps = {way: train_scorer("fusion", small, tmp_path / "m", 0, settings, WAYS[way]).heatmap(case) for way in WAYS}
    ways = list(WAYS)
    for number, way in enumerate(ways):
        for other in ways[number + 1 :]:
            assert not np.array_equal(maps[way], maps[other]), (way, other)
    dark = train_scorer("fusion", small, tmp_path / "m", 0, settings, {"sign": "dark"})
    assert dark.network.sign == "dark" and not np.array_equal(dark.heatmap(case), maps["bright"])
    with pytest.raises(ConfigError, match="prior_wight"):
        scorers.load_scorer(tmp_path / "m", prior_wight=1.0)
    with pytest.raises(ConfigError, match="no setting 'stepps'"):
        scorers.load_scorer(tmp_path / "m", stepps=[1])


def test_the_heatmaps_are_those_of_the_inferer(small: Cohort, tmp_path: Path) -> None:
    from medanomaly.patches import PatchScoreInferer, PatchSpec

    scorer = train_scorer("ganomaly", small, tmp_path / "m", 0, {**TINY, "stride": 4}, {})
    network = load_detector(scorer.network, tmp_path / "m" / "models" / "model.pt")
    (case,) = small.test
    region = case["region"].clone()
    region[:, :5] = 0
    expected = PatchScoreInferer(PatchSpec(16, stride=4))(case["image"][None], network, mask=region[None])[0, 0]
    heatmap = scorer.heatmap({**case, "region": region})
    assert np.isnan(heatmap[:5]).all()
    np.testing.assert_array_equal(heatmap[5:], expected[5:])


def test_thresholds_come_from_all_voxels_of_normals_that_are_free_of_lesion(cohort: Path) -> None:
    from medanomaly.data import read_datalist
    from medanomaly.detectors import IntensityBaseline
    from medanomaly.preprocessing import brain_mri

    scorer = Scorer(IntensityBaseline(spacing=None), preprocessing=brain_mri(1, None))
    healthy, ill = read_datalist(cohort, "test")
    found = scorer.calibration([ill], held_out=False)
    heatmap = scorer.heatmap(ill)
    import nibabel as nib

    lesion = np.asarray(nib.load(ill["label"]).dataobj) > 0
    values = heatmap[np.isfinite(heatmap) & ~lesion]
    assert found.voxel_threshold() == pytest.approx(np.quantile(values, 0.995), rel=5e-3)
    assert found.source == "1 training case, because no held-out normal cases were given"
    number = scorer.calibration([{**healthy, "label": 0}], held_out=True)  # as for a film
    plain = scorer.calibration([{key: healthy[key] for key in ("case", "image", "region")}], held_out=True)
    assert number.voxel_threshold() == plain.voxel_threshold()
