"""What only the bundle of the fusion has: steps after scoring, and members."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medanomaly.errors import plain_error
from medanomaly.evaluation import Calibration, calibration_file
from tests.bundles.test_bundles import BUNDLES, workflow


def test_steps_change_heatmaps_and_are_part_of_what_the_model_is(cohort: Path, tmp_path: Path) -> None:
    configs, median = BUNDLES / "fusion" / "configs", [{"_target_": "medanomaly.patches.Median", "size": 3}]
    heatmaps = []
    for name, steps in (("with", median), ("without", [])):
        root = str(tmp_path / name)
        settings = {"bundle_root": root, "dataset_dir": str(cohort.parent), "spacing": [2, 2, 3], "steps": steps}
        workflow(configs, "train", **settings, max_epochs=1, patches_per_epoch=32, batch_size=16).run()
        workflow(configs, "inference", **settings).run()
        heatmaps.append(np.asarray(nib.load(tmp_path / name / "scores" / "test-0" / "test-0_heatmap.nii.gz").dataobj))
        (calibration,) = {
            json.dumps(Calibration.load(calibration_file(Path(root) / "models", sign)).settings["steps"])
            for sign in ("both", "bright", "dark")
        }
        assert calibration == ('["Median(size=3)"]' if steps else "[]")
    smoothed, raw = heatmaps
    np.testing.assert_array_equal(np.isfinite(smoothed), np.isfinite(raw))
    assert np.abs(np.diff(smoothed, axis=0))[np.isfinite(np.diff(raw, axis=0))].mean() < 0.9 * np.nanmean(
        np.abs(np.diff(raw, axis=0))
    )
    with pytest.raises(Exception, match="Failed to") as caught:
        workflow(configs, "inference", **{**settings, "steps": median}).run()
    assert "steps = ['Median(size=3)']" in str(plain_error(caught.value))


def test_scores_relative_to_places_are_part_of_what_the_model_is(cohort: Path, tmp_path: Path) -> None:
    configs, settings = BUNDLES / "fusion" / "configs", {"dataset_dir": str(cohort.parent), "spacing": [2, 2, 3]}
    settings |= {"bundle_root": str(tmp_path / "model"), "places": True}
    workflow(configs, "train", **settings, max_epochs=1, patches_per_epoch=32, batch_size=16).run()
    with np.load(tmp_path / "model" / "models" / "places.npz") as tables:
        assert sorted(tables.files) == ["both", "bright", "dark"]
    workflow(configs, "inference", **settings).run()
    found = np.asarray(nib.load(tmp_path / "model" / "scores" / "test-0" / "test-0_heatmap.nii.gz").dataobj)
    assert np.nanmin(found) < 0 < np.nanmax(found), "scores of the fusion are not below 0, these are"
    with pytest.raises(Exception, match="Failed to") as caught:
        workflow(configs, "inference", **{**settings, "places": False}).run()
    assert "places = True" in str(plain_error(caught.value))


def test_scores_relative_to_the_other_side_are_part_of_what_the_model_is(cohort: Path, tmp_path: Path) -> None:
    configs, settings = BUNDLES / "fusion" / "configs", {"dataset_dir": str(cohort.parent), "spacing": [2, 2, 3]}
    settings |= {"bundle_root": str(tmp_path / "model"), "other_side": 3}
    workflow(configs, "train", **settings, max_epochs=1, patches_per_epoch=32, batch_size=16).run()
    workflow(configs, "inference", **settings).run()
    found = np.asarray(nib.load(tmp_path / "model" / "scores" / "test-0" / "test-0_heatmap.nii.gz").dataobj)
    assert np.nanmin(found) < 0 < np.nanmax(found), "scores of the fusion are not below 0, these are"
    with pytest.raises(Exception, match="Failed to") as caught:
        workflow(configs, "inference", **{**settings, "other_side": None}).run()
    assert "other_side = 3" in str(plain_error(caught.value))


def test_the_example_of_the_fusion_works(tmp_path: Path) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", (BUNDLES / "fusion" / "docs" / "README.md").read_text(), re.DOTALL)
    settings = json.loads(f"{{{example}}}")
    made = workflow(BUNDLES / "fusion" / "configs", "inference", bundle_root=str(tmp_path), **settings)
    assert [member.in_channels for member in made.network_def.members] == [1, 2, 1]
    assert made.network_def.signed and len(made.inferer.names) == 3
    assert made.parser.get_parsed_content("settings")["prior_weight"] == 0.5
