"""The real JSON of every bundle, through monai.bundle, on small made NIfTI files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_metadata, verify_net_in_out
from monai.bundle.workflows import ConfigWorkflow

from medanomaly.detectors import detector_class
from medanomaly.errors import plain_error
from medanomaly.evaluation import Calibration
from medanomaly.workflows.bundles import copy_bundle
from medanomaly.workflows.compose import compose, config_text
from tests.detectors.catalogue import BY_NAME

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = sorted(path.parent.name for path in BUNDLES.glob("*/model.json"))
SMALL = {"max_epochs": 1, "patches_per_epoch": 128, "batch_size": 64}
# What the configs share is tried with bundles of every kind each time, and with all of them by make test-all.
EVERY_KIND = ("fusion", "ganomaly", "one_class_svm", "progressive_ganomaly", "synthetic_anomalies")
of_every_kind = pytest.mark.parametrize(
    "configs",
    [pytest.param(name, marks=() if name in EVERY_KIND else pytest.mark.slow) for name in NAMES],
    indirect=True,
    scope="module",
)


def workflow(configs: Path, config: str, **settings: object) -> ConfigWorkflow:
    kind = "train" if config == "train" else "infer"
    if config != "evaluate":
        entry = BY_NAME[configs.parent.name]
        settings = {**entry.fast, **entry.needs, **settings}
    if config == "inference":
        settings = {"report": False, **settings}
    made = ConfigWorkflow(str(configs / f"{config}.json"), workflow_type=kind, logging_file=False, **settings)
    made.initialize()
    return made


@pytest.fixture(scope="module", params=NAMES)
def configs(request: pytest.FixtureRequest) -> Path:
    return BUNDLES / request.param / "configs"


@pytest.fixture(scope="module")
def trained(configs: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(configs.parent.name)
    workflow(configs, "train", bundle_root=str(root), dataset_dir=str(cohort.parent), spacing=[2, 2, 3], **SMALL).run()
    return root


@pytest.fixture(scope="module")
def scored(configs: Path, cohort: Path, trained: Path) -> Path:
    workflow(configs, "inference", bundle_root=str(trained), dataset_dir=str(cohort.parent), spacing=[2, 2, 3]).run()
    return trained / "scores"


@pytest.mark.parametrize("config", ["train", "inference"])
@pytest.mark.parametrize("with_data", [False, True])
def test_properties_are_complete(configs: Path, config: str, with_data: bool, cohort: Path, tmp_path: Path) -> None:
    settings = {"dataset_dir": str(cohort.parent)} if with_data else {}
    assert workflow(configs, config, bundle_root=str(tmp_path), **settings).check_properties() == []


def test_what_is_committed_is_what_is_composed(configs: Path) -> None:
    for config, content in compose(configs.parent).items():
        assert (configs / f"{config}.json").read_text() == config_text(content), "make bundles"
    assert (configs / "logging.conf").read_bytes() == (BUNDLES / "common" / "logging.conf").read_bytes()


def test_configs_agree_on_what_the_model_is(configs: Path) -> None:
    train, inference, evaluate = (
        json.loads((configs / f"{c}.json").read_text()) for c in ("train", "inference", "evaluate")
    )
    shared = {*re.findall(r"@(\w+)", train["settings"]), *train["more_settings"]}
    own = BY_NAME[configs.parent.name].own_settings
    assert {"in_channels", "spacing", "spec", *own} <= shared
    for key in [*shared, "region", "network_def", "settings", "preprocessing"]:
        assert train[key] == inference[key], key
        assert key not in evaluate or evaluate[key] == train[key], key
    assert train["train"]["preprocessing"] == "@preprocessing"


def test_a_bundle_is_what_is_its_own(configs: Path) -> None:
    written = [file for file in configs.parent.rglob("*") if file.is_file() and file.parent != configs]
    assert {str(file.relative_to(configs.parent)) for file in written} == {"model.json", "docs/README.md"}
    assert len((configs.parent / "model.json").read_text().splitlines()) < 50
    assert "common/README.md" in (configs.parent / "docs" / "README.md").read_text().splitlines()[-1]


def test_metadata_follows_the_specification(configs: Path) -> None:
    schema = Path(__file__).with_name("meta_schema.json")
    verify_metadata(meta_file=str(configs / "metadata.json"), filepath=str(schema))


@pytest.mark.parametrize("config", ["train", "inference"])
def test_network_takes_and_gives_what_the_metadata_says(configs: Path, config: str, trained: Path) -> None:
    verify_net_in_out(
        net_id="loaded",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / f"{config}.json"),
        device="cpu",
        loaded=f"$medanomaly.training.load_detector(@network_def, '{trained}/models/model.pt')",
        **BY_NAME[configs.parent.name].fast,
    )


def test_exports_to_torchscript_with_equal_scores(configs: Path, trained: Path, tmp_path: Path) -> None:
    if not detector_class(configs.parent.name).exportable:
        pytest.skip("it cannot be exported; the contract suite asks for the message")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        **BY_NAME[configs.parent.name].fast,
    )
    exported = torch.jit.load(str(tmp_path / "model.ts")).eval()
    network = workflow(configs, "inference").network_def
    network.load_state_dict(torch.load(trained / "models" / "model.pt", weights_only=True))
    patches = torch.rand(5, network.in_channels, *[network.patch_size] * 2)
    torch.testing.assert_close(exported(patches), network.eval()(patches))


def test_a_trained_bundle_holds_one_model_and_no_leftovers(configs: Path, trained: Path, tmp_path: Path) -> None:
    signs = ["_bright", "_dark"] if BY_NAME[configs.parent.name].signed else []
    baselines = ["_intensity", "_intensity_equalised", "_intensity_smoothed"]
    calibrations = [f"calibration{which}.json" for which in ("", *signs, *baselines)]
    assert sorted(p.name for p in (trained / "models").iterdir()) == [*calibrations, "cases.json", "model.pt"]
    if BY_NAME[configs.parent.name].fitted:
        assert {p.name for p in trained.iterdir()} <= {"models", "scores"}
    else:
        kept = {stage.keep for stage in workflow(configs, "inference", bundle_root=str(tmp_path)).network_def.stages()}
        expected = ["best.pt", "last.pt"] if "best" in kept else ["last.pt"]
        assert sorted(p.name for p in (trained / "checkpoints").iterdir()) == expected
        assert list((trained / "logs").iterdir()), "TensorBoard events"


def test_heatmaps_lie_on_the_grid_of_the_scans(scored: Path, cohort: Path) -> None:
    for case in json.loads(cohort.read_text())["test"]:
        scan, brain = (nib.load(cohort.parent / case[key]) for key in ("image", "region"))
        inside = np.asarray(brain.dataobj) > 0
        for kind in ("heatmap", "display"):
            written = nib.load(scored / case["case"] / f"{case['case']}_{kind}.nii.gz")
            assert written.shape == scan.shape
            np.testing.assert_allclose(written.affine, scan.affine, atol=1e-5)
            values = np.asarray(written.dataobj)
            if kind == "heatmap":
                np.testing.assert_array_equal(np.isfinite(values), inside)
            else:
                assert (values[~inside] == 0).all()
                assert values.min() >= 0
                assert 50 < values.max() <= 100


@of_every_kind
def test_evaluation_writes_every_table(
    configs: Path, scored: Path, trained: Path, cohort: Path, tmp_path: Path
) -> None:
    settings = {"bundle_root": str(trained), "dataset_dir": str(cohort.parent), "spacing": [2, 2, 3]}
    workflow(configs, "evaluate", **settings, output_dir=str(tmp_path)).run()
    result = json.loads((tmp_path / "metrics.json").read_text())
    metadata = json.loads((configs / "metadata.json").read_text())
    names = [row["name"] for row in result["detectors"]]
    assert names == ["intensity", "intensity, smoothed", "intensity, equalised", metadata["name"]]
    assert result["detectors"][0]["voxels"]["auroc"] > 0.99, "the lesion is far brighter than all else"
    assert {p.name for p in tmp_path.iterdir()} == {
        "metrics.json",
        "detectors.csv",
        "cases.csv",
        "roc.png",
        "report.html",
    }


@of_every_kind
@pytest.mark.parametrize(
    "settings",
    [
        {"spatial_dims": 3, "patch_size": 16, "stride": 4},
        {"planes": ["axial", "coronal", "sagittal"]},
        {"patch_size": 32, "stride": 8},
        "its own",
        {"spacing": None},
    ],
    ids=str,
)
def test_settings_of_the_model_reach_every_part(
    configs: Path, settings: dict[str, object] | str, cohort: Path, tmp_path: Path
) -> None:
    entry = BY_NAME[configs.parent.name]
    if not isinstance(settings, dict):
        settings = entry.own_settings
    if settings.get("spatial_dims", 2) not in {dims for dims, _ in entry.kinds}:
        pytest.skip("it is a method for 2-D; its own tests ask for the message")
    common = {"bundle_root": str(tmp_path), "dataset_dir": str(cohort.parent), "spacing": [3, 3, 3], **settings}
    workflow(configs, "train", **common, max_epochs=1, patches_per_epoch=16, batch_size=16).run()
    workflow(configs, "inference", **common).run()
    for case in json.loads(cohort.read_text())["test"]:
        heatmap, brain = (
            np.asarray(nib.load(path).dataobj)
            for path in (
                tmp_path / "scores" / case["case"] / f"{case['case']}_heatmap.nii.gz",
                cohort.parent / case["region"],
            )
        )
        np.testing.assert_array_equal(np.isfinite(heatmap), brain > 0)
        assert heatmap[brain > 0].std() > 0


def test_a_sign_is_chosen_when_scans_are_scored(configs: Path, trained: Path, cohort: Path, tmp_path: Path) -> None:
    if not BY_NAME[configs.parent.name].signed:
        pytest.skip("its score has no sign")
    settings = {"bundle_root": str(trained), "dataset_dir": str(cohort.parent), "spacing": [2, 2, 3]}
    values = {}
    for sign in ("both", "bright", "dark"):
        output = tmp_path / sign
        workflow(configs, "inference", **settings, sign=sign, output_dir=str(output)).run()
        workflow(configs, "evaluate", **settings, sign=sign, scores_dir=str(output)).run()
        heatmap, display = (
            np.asarray(nib.load(output / "test-0" / f"test-0_{kind}.nii.gz").dataobj) for kind in ("heatmap", "display")
        )
        brain = np.isfinite(heatmap)
        file = "calibration.json" if sign == "both" else f"calibration_{sign}.json"
        percentile = Calibration.load(trained / "models" / file).percentile(heatmap[brain])
        # the display is made on the grid of the patches, before the way back to the scan's
        assert np.abs(percentile - display[brain]).mean() < 5, sign
        values[sign] = heatmap[brain]
        assert (output / "evaluation" / "metrics.json").exists()
    if BY_NAME[configs.parent.name].residual:
        np.testing.assert_allclose(values["bright"] + values["dark"], values["both"], rtol=1e-3, atol=1e-5)
    assert (values["bright"] > values["dark"]).any() and (values["bright"] < values["dark"]).any()
    with pytest.raises(Exception, match="Failed to") as caught:
        workflow(configs, "inference", **settings, sign="up", output_dir=str(tmp_path / "up")).run()
    assert "sign is 'up': use one of both, bright, dark" in str(plain_error(caught.value))


@of_every_kind
def test_cases_are_prepared_once_for_all_runs(
    configs: Path, scored: Path, trained: Path, cohort: Path, tmp_path: Path
) -> None:
    cache = Path(os.environ["MEDANOMALY_CACHE"])
    kept = sorted(cache.iterdir())
    settings = {"bundle_root": str(trained), "dataset_dir": str(cohort.parent), "spacing": [2, 2, 3]}
    assert len(kept) >= 5, "2 training, 1 validation, 2 test"
    workflow(configs, "inference", **settings, output_dir=str(tmp_path / "cached")).run()
    workflow(
        configs, "inference", **settings, output_dir=str(tmp_path / "anew"), cache_dir=str(tmp_path / "cache")
    ).run()
    workflow(configs, "inference", **settings, output_dir=str(tmp_path / "uncached"), cache_dir=None).run()
    assert sorted(cache.iterdir()) == kept
    assert len(list((tmp_path / "cache").iterdir())) == 2
    for path in scored.glob("test-*/*.nii.gz"):
        first = np.asarray(nib.load(path).dataobj)
        for output in ("cached", "anew", "uncached"):
            again = np.asarray(nib.load(tmp_path / output / path.relative_to(scored)).dataobj)
            np.testing.assert_array_equal(again, first)


@of_every_kind
def test_a_broken_scan_stops_scoring_with_its_name_after_the_scans_before_it(
    configs: Path, trained: Path, cohort: Path, tmp_path: Path
) -> None:
    content = json.loads(cohort.read_text())
    broken = cohort.parent / "broken.nii.gz"
    broken.write_bytes((cohort.parent / content["test"][0]["image"]).read_bytes()[:3000])
    content["test"].insert(1, {**content["test"][1], "image": broken.name, "case": "broken"})
    (cohort.parent / "with_broken.json").write_text(json.dumps(content))
    settings = {"bundle_root": str(trained), "datalist": str(cohort.parent / "with_broken.json"), "spacing": [2, 2, 3]}
    with pytest.raises(Exception, match="Failed to") as caught:
        workflow(configs, "inference", **settings, output_dir=str(tmp_path)).run()
    assert "broken.nii.gz cannot be read as an image" in str(plain_error(caught.value))
    assert sorted(path.name for path in tmp_path.glob("*")) == ["run.json", "test-0"]


@of_every_kind
@pytest.mark.parametrize("config", ["train", "inference", "evaluate"])
def test_a_run_without_data_is_an_error(configs: Path, config: str, tmp_path: Path, trained: Path) -> None:
    root = tmp_path if config == "train" else trained
    with pytest.raises(Exception, match="Failed to") as caught:
        workflow(configs, config, bundle_root=str(root), spacing=[2, 2, 3]).run()
    assert "cases" in str(plain_error(caught.value)) and "dataset_dir" in str(plain_error(caught.value))


def test_other_settings_than_the_model_was_trained_with_are_refused(configs: Path, trained: Path, cohort: Path) -> None:
    with pytest.raises(Exception, match="Failed to") as caught:
        workflow(
            configs, "inference", bundle_root=str(trained), dataset_dir=str(cohort.parent), spacing=[1, 1, 1]
        ).run()
    assert "spacing = [2, 2, 3]" in str(plain_error(caught.value))


@of_every_kind
@pytest.mark.parametrize("patch_size", [16, 32, pytest.param(64, marks=pytest.mark.slow)])
def test_the_patch_size_alone_can_be_changed(configs: Path, patch_size: int, cohort: Path, tmp_path: Path) -> None:
    """The bundle as it comes, no other setting made but what it needs: it is built, learns, scores a volume."""
    asked = {**BY_NAME[configs.parent.name].needs, "patch_size": patch_size}
    root = copy_bundle(configs.parent.name, tmp_path / "model", asked)
    asked = {"dataset_dir": str(cohort.parent), "spacing": [2, 2, 3], "patches_per_epoch": 16, "batch_size": 16}
    train, inference = ConfigParser(), ConfigParser()
    for parser, config in ((train, "train"), (inference, "inference")):
        parser.read_config(str(root / "configs" / f"{config}.json"))
        parser.update(asked)
    settings = train.get_parsed_content("settings")
    assert settings == inference.get_parsed_content("settings")
    assert json.loads(json.dumps(settings)) == settings, "what a calibration keeps is numbers and words"
    default = json.loads((configs / "inference.json").read_text())["patch_size"]
    assert settings["stride"] == (4 if default == 16 else patch_size // 2)
    network = train.get_parsed_content("network_def")
    inference.get_parsed_content("network_def").load_state_dict(network.state_dict())
    sampler = train.get_parsed_content("train#dataloader")
    patches = next(iter(sampler))
    assert patches.shape[2:] == (patch_size, patch_size)
    stage = next(network.stages(), None)
    batch = patches if network.streams == ("training",) else dict.fromkeys(network.streams, patches)
    losses = {} if stage is None else network.training_step(batch, stage)
    assert all(torch.isfinite(loss) for loss in losses.values())
    network.fit_statistics([patches])
    network.eval()
    volume = torch.rand(1, 1, patch_size + 4, patch_size + 4, 2)
    for parser, key in ((train, "train#inferer"), (inference, "inferer")):
        assert torch.isfinite(parser.get_parsed_content(key)(volume, network)).all()
    metadata = json.loads((root / "configs" / "metadata.json").read_text())["network_data_format"]
    assert metadata["inputs"]["image"]["spatial_shape"] == [patch_size, patch_size]


def test_the_defaults_are_what_they_were(configs: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(configs / "inference.json"))
    patch_size, stride = (parser.get_parsed_content(key) for key in ("patch_size", "stride"))
    assert (patch_size, stride) in ((16, 4), (64, 32))
