"""A setting arrives where it belongs, or is refused with the nearest name: none is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle.workflows import ConfigWorkflow

from medanomaly.errors import ConfigError
from medanomaly.workflows.bundles import copy_bundle, run_bundle

KINDS = ("train", "inference", "evaluate")


def copied(folder: Path, bundle: str = "ganomaly", **settings: Any) -> dict[str, Any]:
    root = copy_bundle(bundle, folder, settings)
    return {kind: json.loads((root / "configs" / f"{kind}.json").read_text()) for kind in KINDS}


@pytest.mark.parametrize("bundle", ["ganomaly", "denoising_autoencoder"])  # without and with a setting of that name
@pytest.mark.parametrize("key", ["network_def#learning_rate", "network_def::learning_rate"])
def test_a_learning_rate_arrives_in_the_optimiser(bundle: str, key: str, cohort: Path, tmp_path: Path) -> None:
    configs = copied(tmp_path, bundle, **{key: 1.25e-4, "datalist": str(cohort), "spacing": [2, 2, 3]})
    assert configs["train"]["network_def"]["learning_rate"] == 1.25e-4
    assert configs["train"]["network_def"] == configs["inference"]["network_def"]
    workflow = ConfigWorkflow(str(tmp_path / "configs" / "train.json"), workflow_type="train", logging_file=False)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train::trainer")
    optimizers = next(trainer.detector.stages()).optimizers
    assert {group["lr"] for optimizer in optimizers.values() for group in optimizer.param_groups} == {1.25e-4}


def test_a_deeper_setting_arrives(cohort: Path, tmp_path: Path) -> None:
    keys = {"train#trainer#patience": 3, "train::trainer#progress": False, "train#handlers#0#tag_name": "x"}
    configs = copied(tmp_path, **keys, datalist=str(cohort), spacing=[2, 2, 3])
    assert configs["train"]["train"]["trainer"]["patience"] == 3
    assert configs["train"]["train"]["handlers"][0]["tag_name"] == "x", "a component by MONAI's short name"
    workflow = ConfigWorkflow(str(tmp_path / "configs" / "train.json"), workflow_type="train", logging_file=False)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train::trainer")
    assert trainer.early_stopping.patience == 3 and trainer.progress is False


def test_a_setting_arrives_in_every_config_that_has_its_place(tmp_path: Path) -> None:
    configs = copied(tmp_path, **{"preprocessing#spacing": [2, 2, 2], "spatial_dims": 3, "inferer#progress": False})
    assert configs["inference"]["preprocessing"]["spacing"] == configs["evaluate"]["preprocessing"]["spacing"]
    assert configs["train"]["spatial_dims"] == configs["inference"]["spatial_dims"] == 3
    assert configs["inference"]["inferer"]["progress"] is False


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("network_def#learnin_rate", "Did you mean 'network_def#learning_rate'"),
        ("network_def::latent_dims", "Did you mean 'network_def#latent_dim'"),
        ("network_deff#learning_rate", "Did you mean 'network_def'"),
        ("train#trainr#patience", "Did you mean 'train#trainer'"),
        ("train#trainer#patiense", "Did you mean 'train#trainer#patience'"),
        ("train#handlers#0#log_dirs", "Did you mean 'train#handlers#0#log_dir'"),
        ("train#handlers#7", "no setting 'train#handlers#7'"),
        ("patch_size#0", "patch_size has no parts"),
        ("validate#preprocessing#spacing", "validate#preprocessing has no parts"),
        ("network_def", "set one of network_def#in_channels"),
        ("train", "set one of train#preprocessing"),
        ("bundle_root", "bundle_root='x' cannot be set"),
        ("epochs", "Did you mean 'max_epochs'"),
        ("xyz", "It has amp, baselines, batch_size"),
    ],
)
def test_a_setting_without_a_place_is_refused(key: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        copied(tmp_path / "m", **{key: "x"})
    assert words in str(caught.value)
    assert not (tmp_path / "m").exists()
    root = copy_bundle("ganomaly", tmp_path / "whole", {})
    if key not in ("xyz", "epochs"):
        with pytest.raises(ConfigError):
            run_bundle(root, "train", **{key: "x"})
