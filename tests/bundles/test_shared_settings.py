"""Settings that every bundle of volumes has, tried with one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from medanomaly.errors import plain_error
from tests.bundles.test_bundles import BUNDLES, workflow


def test_quartiles_are_part_of_what_the_model_is_and_training_has_planes_of_its_own(
    cohort: Path, tmp_path: Path
) -> None:
    configs = BUNDLES / "synthetic_anomalies" / "configs"
    settings = {"bundle_root": str(tmp_path), "dataset_dir": str(cohort.parent), "spacing": [3, 3, 3]}
    settings |= {"patch_size": 16, "planes": ["axial", "coronal"], "quartiles": [[0.4, 0.6, 0.8]]}
    short = {"max_epochs": 1, "patches_per_epoch": 16, "batch_size": 16}
    training = workflow(configs, "train", **settings, **short, training_planes=["sagittal"])
    training.run()
    samplers = (training.parser.get_parsed_content(f"{part}#dataloader") for part in ("train", "validate"))
    assert [sampler.spec.planes for sampler in samplers] == [("sagittal",)] * 2
    assert training.parser.get_parsed_content("train#inferer").spec.planes == ("axial", "coronal")
    workflow(configs, "inference", **settings).run()
    with pytest.raises(Exception, match="Failed to") as caught:
        workflow(configs, "inference", **{**settings, "quartiles": None}).run()
    assert "quartiles = [[0.4, 0.6, 0.8]]" in str(plain_error(caught.value))
