"""Bundles joined from common and own parts: what overrides what, and overlays for another kind of image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from medanomaly.errors import ConfigError, InputError
from medanomaly.workflows.bundles import bundle_names, copy_bundle, find_bundle, find_chain
from medanomaly.workflows.compose import compose, merge, write_configs

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


def parser(folder: Path, config: str, *overlays: Path) -> ConfigParser:
    made = ConfigParser()
    made.read_config([str(folder / "configs" / f"{config}.json"), *map(str, overlays)])
    made["bundle_root"] = str(folder)
    return made


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A bundle of one's own, outside the package, with every kind of entry."""
    model = {
        "name": "mine",
        "network": "medanomaly.detectors.DenoisingAutoencoder",
        "arguments": {"features": 24, "gamma": 0.3},
        "unscored": {"learning_rate": 0.01, "sign": "both"},
        "both": {"patch_size": 32, "stride": 16},
        "train": {"max_epochs": 3, "train#dataloader#flip": False, "run#1": "$None"},
        "inference": {"inferer#progress": False},
        "evaluate": {"intensity_channel": 1},
        "metadata": {"description": "d", "references": ["r"], "network_data_format#outputs#pred#value_range": [0, 1]},
    }
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.json").write_text(json.dumps(model))
    return tmp_path / "mine"


def test_an_argument_is_named_once_and_arrives_in_its_places(made: Path) -> None:
    with pytest.raises(InputError, match="is not composed yet: medanomaly compose"):
        find_bundle(made)
    write_configs(made)
    assert find_bundle(made) == made
    for config in ("train", "inference"):
        own = parser(made, config)
        network = own.get_parsed_content("network_def")
        assert (type(network).__name__, network.gamma, network.learning_rate) == ("DenoisingAutoencoder", 0.3, 0.01)
        settings = own.get_parsed_content("settings")
        assert (settings["features"], settings["gamma"], settings["patch_size"]) == (24, 0.3, 32)
        assert not {"learning_rate", "sign"} & set(settings)


def test_a_model_overrides_any_place(made: Path) -> None:
    configs = compose(made)
    train, inference = configs["train"], configs["inference"]
    assert train["max_epochs"] == 3 and train["train"]["dataloader"]["flip"] is False
    assert train["run"][1] == "$None" and "begin_training" in train["run"][0]
    assert inference["inferer"]["progress"] is False and "@sign" in inference["run"][3]
    assert (configs["evaluate"]["name"], configs["evaluate"]["intensity_channel"]) == ("mine", 1)
    tensors = configs["metadata"]["network_data_format"]
    assert tensors["inputs"]["image"]["spatial_shape"] == tensors["outputs"]["pred"]["spatial_shape"] == [32, 32]
    assert tensors["outputs"]["pred"]["value_range"] == [0, 1]


def test_merging_changes_neither_part() -> None:
    config: dict[str, Any] = {"a": {"b": [1]}, "c": {"d": 1}}
    overlay: dict[str, Any] = {"a#b#0": 2, "+c": {"e": 3}, "+f": {"g": 4}}
    assert merge(config, overlay) == {"a": {"b": [2]}, "c": {"d": 1, "e": 3}}
    assert config == {"a": {"b": [1]}, "c": {"d": 1}} and overlay["+c"] == {"e": 3}


def test_a_copy_is_whole(tmp_path: Path) -> None:
    root = copy_bundle("ganomaly", tmp_path / "model", {})
    assert (root / "LICENSE").read_bytes() == (BUNDLES.parent / "LICENSE").read_bytes()
    readme = (root / "docs" / "README.md").read_text()
    assert readme.startswith("# GANomaly") and "## Commands" in readme and "common/README.md" not in readme
    again = copy_bundle(root, tmp_path / "again", {})
    assert (again / "docs" / "README.md").read_text() == readme


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Another kind of image: brain MRI, clipped and at another spacing."""
    overlay = {
        "spacing": [2, 2, 2],
        "clip": True,
        "patch_size": 32,
        "+more_settings": {"clip": "@clip"},
        "preprocessing#clip": "@clip",
        "metadata": {"task": "another", "network_data_format#inputs#image#modality": "CT"},
    }
    (tmp_path / "chain.json").write_text(json.dumps(overlay))
    return tmp_path / "chain.json"


@pytest.mark.parametrize("bundle", ["ganomaly", "fusion"])
def test_a_chain_reaches_every_config(bundle: str, chain: Path, tmp_path: Path) -> None:
    root = copy_bundle(bundle, tmp_path / "model", {"clip": False}, chain)
    for config in ("train", "inference", "evaluate"):
        content = json.loads((root / "configs" / f"{config}.json").read_text())
        assert (content["spacing"], content["clip"], content["preprocessing"]["clip"]) == ([2, 2, 2], False, "@clip")
        if config != "evaluate":
            settings = parser(root, config).get_parsed_content("settings")
            assert (settings["clip"], settings["patch_size"]) == (False, 32)
            assert ("steps" in settings) == (bundle == "fusion")
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (metadata["task"], image["modality"], image["spatial_shape"]) == ("another", "CT", [32, 32])


@pytest.mark.parametrize("config", ["train", "inference", "evaluate"])
@pytest.mark.filterwarnings("ignore:Can't merge entry")  # the evaluation has no settings of a calibration
def test_a_chain_is_an_overlay_of_monai_too(config: str, chain: Path) -> None:
    own = parser(BUNDLES / "ganomaly", config, chain)
    assert own.get_parsed_content("spacing") == [2, 2, 2]
    assert own.get_parsed_content("train#preprocessing" if config == "train" else "preprocessing").transforms
    assert own["preprocessing"]["clip"] == "@clip"


def test_the_chains_that_come_with_it_are_overlays(tmp_path: Path) -> None:
    for file in (BUNDLES / "common" / "chains").glob("*.json"):
        root = copy_bundle("ganomaly", tmp_path / file.stem, {}, file.stem)
        for config in ("train", "inference", "evaluate"):
            content = json.loads((root / "configs" / f"{config}.json").read_text())
            for key in references(content["preprocessing"] or {}):
                assert key in content, key


def references(component: dict[str, str]) -> list[str]:
    return [value[1:] for value in component.values() if str(value).startswith("@")]


def test_names_that_are_not_there_are_told_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"common is not a bundle .* autoencoder, .*ganomaly"):
        find_bundle("common")
    with pytest.raises(InputError, match=r"radiogram is not a chain .* radiograph"):
        find_chain("radiogram")


def test_a_setting_of_another_chain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no setting 'size'"):
        copy_bundle("ganomaly", tmp_path / "model", {"size": [32, 32]})


def test_make_bundles_changes_nothing(tmp_path: Path) -> None:
    for name in bundle_names():
        shutil.copytree(BUNDLES / name, tmp_path / name, ignore=shutil.ignore_patterns("configs"))
        write_configs(tmp_path / name)
        files = sorted(file.relative_to(BUNDLES) for file in (BUNDLES / name).rglob("*.*"))
        assert files == sorted(file.relative_to(tmp_path) for file in (tmp_path / name).rglob("*.*"))
        for file in files:
            assert (tmp_path / file).read_bytes() == (BUNDLES / file).read_bytes(), file


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no model.json"),
        ("{", "is not a JSON dictionary"),
        ("[1]", "is not a JSON dictionary"),
        ('{"name": "mine"}', "has no 'network'"),
    ],
)
def test_a_folder_that_cannot_be_composed_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.json").write_text(content)
    with pytest.raises(InputError, match=said):
        write_configs(tmp_path)
    assert not (tmp_path / "configs").exists()
