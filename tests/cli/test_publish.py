"""A trained model as a bundle to give away: what is in it, what is not, and that it runs elsewhere as it does here."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out
from monai.bundle.workflows import ConfigWorkflow

from medanomaly.errors import ConfigError, InputError
from medanomaly.evaluation import Calibration
from medanomaly.workflows import publish
from medanomaly.workflows.publish import closing_words
from tests.cli.label_server import LabelServer
from tests.detectors.catalogue import BY_NAME

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "LICENSE",
    "configs/inference.json",
    "configs/logging.conf",
    "configs/metadata.json",
    "docs/README.md",
    "docs/provenance.json",
    "models/calibration.json",
    "models/model.pt",
}


def values(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def files_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def published(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish("flair_anomaly", trained, tmp_path_factory.mktemp("published"), region="nonzero")


@pytest.fixture
def elsewhere(published: Path, tmp_path: Path) -> Path:
    """The bundle out of its zip, in another folder."""
    with zipfile.ZipFile(published.with_suffix(".zip")) as archive:
        archive.extractall(tmp_path / "elsewhere")
    return tmp_path / "elsewhere" / published.name


def test_folder_and_zip_hold_what_is_needed_and_nothing_else(published: Path, elsewhere: Path) -> None:
    assert {path.name for path in published.parent.iterdir()} == {"flair_anomaly", "flair_anomaly.zip"}
    assert files_in(published) == FILES == files_in(elsewhere)
    assert all((published / file).read_bytes() == (elsewhere / file).read_bytes() for file in FILES)
    assert published.stat().st_mode & 0o777 == (published / "models").stat().st_mode & 0o777 == 0o755
    weights = torch.load(published / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values()), "no state of an optimiser"


def test_nothing_tells_of_this_machine_or_of_who_was_trained_on(
    published: Path, elsewhere: Path, trained: Path, cohort: Path
) -> None:
    record = json.loads((trained / "models" / "cases.json").read_text())
    cases = {**record["training"], **record["validation"]}
    secrets = {*cases, *(digest for case in cases.values() for digest in case["image"]), str(Path.home())}
    secrets |= {str(trained), trained.parent.name, str(cohort), cohort.parent.name, "image0", str(published.parent)}
    assert {"training-0", "validation-0"} <= secrets and len(secrets) >= 12
    for file in [*FILES, ""]:
        content = published.with_suffix(".zip").read_bytes() if not file else (elsewhere / file).read_bytes()
        assert [secret for secret in secrets if secret.encode() in content] == [], file


def test_metadata_are_those_of_the_specification_and_name_the_labels(published: Path) -> None:
    metadata = published / "configs" / "metadata.json"
    verify_metadata(meta_file=str(metadata), filepath=str(ROOT / "tests" / "bundles" / "meta_schema.json"))
    config = str(published / "configs" / "inference.json")
    verify_net_in_out(net_id="network_def", meta_file=str(metadata), config_file=config, device="cpu")
    content = json.loads(metadata.read_text())
    tensors = content["network_data_format"]
    assert tensors["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "anomaly"}
    assert tensors["inputs"]["image"]["spatial_shape"] == [16, 16]
    assert content["monai_version"] == __import__("monai").__version__
    assert content["data_source"] == "3 cases, not named"


def test_the_copy_gives_the_heatmaps_of_the_model_from_its_own_folder(
    elsewhere: Path, published: Path, scores: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(elsewhere)
    settings = {"dataset_dir": str(cohort.parent), "output_dir": str(tmp_path / "out")}
    run = ConfigWorkflow("configs/inference.json", workflow_type="infer", **settings)
    run.initialize()
    assert run.check_properties() == []
    run.run()
    for kind in ("heatmap", "display"):
        for case in ("test-0", "test-1"):
            file = f"{case}/{case}_{kind}.nii.gz"
            np.testing.assert_array_equal(values(tmp_path / "out" / file), values(scores / file))
    assert files_in(tmp_path / "out" / "test-0") == files_in(scores / "test-0"), "all that scoring writes"
    assert files_in(elsewhere) == FILES, "it writes where it is told to"


def test_the_copy_scores_by_the_command(
    command: Callable[..., int], elsewhere: Path, scores: Path, cohort: Path, tmp_path: Path
) -> None:
    scan = cohort.parent / "test-1" / "image0.nii.gz"
    assert command("score", scan, "--model", elsewhere, "--output", tmp_path / "out") == 0
    alone = values(tmp_path / "out" / "image0" / "image0_heatmap.nii.gz")
    np.testing.assert_array_equal(alone, values(scores / "test-1" / "test-1_heatmap.nii.gz"))


def test_a_label_server_gets_the_labels_of_score_and_threshold(
    elsewhere: Path, trained: Path, scores: Path, cohort: Path, tmp_path: Path
) -> None:
    server = LabelServer(elsewhere)
    assert server.labels == {"anomaly": 1} and server.weights == ["model.pt"]
    threshold = Calibration.load(trained / "models" / "calibration.json").voxel_threshold(0.005)
    for case in ("test-1", "test-0"):
        scan = nib.load(cohort.parent / case / "image0.nii.gz")
        heatmap = values(scores / case / f"{case}_heatmap.nii.gz")
        labels = nib.load(server.infer(Path(scan.get_filename()), tmp_path / f"{case}.nii.gz"))
        assert labels.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(labels.dataobj), heatmap > threshold)
        np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-4)
        kept = elsewhere / "monailabel" / "image0" / "image0_heatmap.nii.gz"
        np.testing.assert_array_equal(values(kept), heatmap)
        if case == "test-1":
            lesion = values(cohort.parent / case / "label.nii.gz") > 0
            assert np.asarray(labels.dataobj)[lesion].mean() > 0.5 > np.asarray(labels.dataobj)[~lesion].mean()


def test_labels_of_a_file_with_an_axis_too_many_have_the_grid_of_its_voxels(
    elsewhere: Path, scores: Path, cohort: Path, tmp_path: Path
) -> None:
    scan = nib.load(cohort.parent / "test-1" / "image0.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(scan.dataobj)[..., None], scan.affine), tmp_path / "four.nii.gz")
    server = LabelServer(elsewhere)
    first = server.infer(Path(scan.get_filename()), tmp_path / "a.nii.gz")
    second = server.infer(tmp_path / "four.nii.gz", tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(values(second), values(first))


def test_the_share_of_normals_above_the_threshold_is_chosen_and_stated(
    command: Callable[..., int], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "bundle",
        "publish",
        "wide",
        "--model",
        trained,
        "--output",
        tmp_path,
        "--fpr",
        0.05,
        "--region",
        "given",
    ]
    assert command(*arguments) == 0
    threshold = Calibration.load(trained / "models" / "calibration.json").voxel_threshold(0.05)
    told = f"1 (anomaly) where the score is above {threshold:.4g}, as in 5 % of the voxels of normal cases"
    printed = capsys.readouterr().out
    assert told in printed and told in (tmp_path / "wide" / "docs" / "README.md").read_text()
    assert "MONAI Label gives none" in printed, "its masks are given"
    parser = ConfigParser()
    parser.read_config(str(tmp_path / "wide" / "configs" / "inference.json"))
    parser["bundle_root"] = str(tmp_path / "wide")
    assert parser.get_parsed_content("postprocessing").transforms[-1].threshold == threshold


def test_a_label_server_is_told_plainly_that_masks_are_missing(trained: Path, cohort: Path, tmp_path: Path) -> None:
    server = LabelServer(publish("masks", trained, tmp_path, region="given"))
    with pytest.raises(InputError, match="has no brain mask"):
        server.infer(cohort.parent / "test-1" / "image0.nii.gz", tmp_path / "labels.nii.gz")


def test_the_card_and_the_provenance_say_what_it_is(published: Path, trained: Path) -> None:
    card = (published / "docs" / "README.md").read_text()
    calibration = Calibration.load(trained / "models" / "calibration.json")
    for told in (
        "Research only",
        "2 under `training`, 1 under `validation`",
        "1 held-out normal case",
        calibration.case_threshold_in_words(),
        "| spacing | `[2, 2, 3]` |",
        "| region | `nonzero` |",
        "| patches_per_epoch | `128` |",
        "neither a diagnosis nor a segmentation",
    ):
        assert told in card, told
    assert "pieces of training images" not in card
    told = json.loads((published / "docs" / "provenance.json").read_text())
    assert set(told["sha256"]) == FILES - {"docs/provenance.json"}
    for file, digest in told["sha256"].items():
        assert hashlib.sha256((published / file).read_bytes()).hexdigest() == digest
    assert {"published", "trained_with", "published_with"} <= set(told)


def test_a_model_that_keeps_training_patches_says_so(
    command: Callable[..., int], small: list[str], cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--bundle", "one_class_svm", *small, "--set", "max_samples=20", "--brain", "nonzero"]
    assert command("train", "--datalist", cohort, "--output", tmp_path / "svm", *model) == 0
    assert command("bundle", "publish", "svm", "--model", tmp_path / "svm", "--output", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "Warning: The model file holds pieces of training images" in printed
    assert "MONAI Label gives none" not in printed, "it finds the brain itself"
    card = (tmp_path / "out" / "svm" / "docs" / "README.md").read_text()
    assert card.count("pieces of training images") == 2, "where it says what it learned from, and among the limits"


def edit(file: Path, **content: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **content}))


def without_calibration(model: Path) -> None:
    (model / "models" / "calibration.json").unlink()


def without_weights(model: Path) -> None:
    (model / "models" / "model.pt").unlink()


def without_configs(model: Path) -> None:
    shutil.rmtree(model / "configs")


def of_another_network(model: Path) -> None:
    edit(model / "configs" / "inference.json", variant="K")


def of_another_spacing(model: Path) -> None:
    edit(model / "configs" / "inference.json", spacing=[1, 1, 1])


def with_a_program(model: Path) -> None:
    edit(model / "configs" / "inference.json", region="/opt/bet -i {image} -o {mask}")


def with_a_place(model: Path) -> None:
    edit(model / "configs" / "inference.json", more_settings={"atlas": f"see {model}/atlas"})


def prepared(model: Path) -> None:
    edit(model / "configs" / "inference.json", preprocessing=None)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_configs, "no configs/inference.json: give the folder of a trained model"),
        (without_weights, "no models/model.pt, so it is not a trained model"),
        (without_calibration, r"calibration.json cannot be read: .*Train the model with medanomaly train"),
        (of_another_network, "do not fit the network"),
        (of_another_spacing, r"was trained with spacing = \[2, 2, 3\]"),
        (with_a_program, "setting region .* names a place on this machine.*give --region"),
        (with_a_place, "setting more_settings#atlas .* names a place on this machine"),
        (prepared, "needs a preprocessing chain"),
    ],
)
def test_a_model_that_cannot_be_published_is_refused(
    spoil: Callable[[Path], None], message: str, model: Path, tmp_path: Path
) -> None:
    spoil(model)
    with pytest.raises((InputError, ConfigError), match=message):
        publish("anomaly", model, tmp_path / "out")
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("out/.*"))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("../anomaly", {}, "it is that of a folder"),
        ("", {}, "it is that of a folder"),
        ("anomaly_Detection", {}, "holds 'detection', by which MONAI Label takes a bundle for another kind"),
        ("anomaly", {"region": "bet"}, "region is 'bet': use one of 'auto', 'given'"),
        ("anomaly", {"region": "~/bet {image} {mask}"}, "names a place on this machine"),
        ("anomaly", {"sign": "bright"}, "does not tell brighter from darker"),
        ("anomaly", {"false_positive_rate": 2.0}, "The false-positive rate is 2.0"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    name: str, settings: dict[str, object], message: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises((InputError, ConfigError), match=message):
        publish(name, trained, tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_and_a_published_bundle_is_not_published_again(
    command: Callable[..., int], published: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (published / "docs" / "provenance.json").read_bytes()
    assert command("bundle", "publish", "flair_anomaly", "--model", trained, "--output", published.parent) == 3
    assert "is there already: choose another name or --output" in capsys.readouterr().err
    assert (published / "docs" / "provenance.json").read_bytes() == before
    (tmp_path / "anomaly.zip").touch()
    with pytest.raises(InputError, match=r"anomaly\.zip is there already"):
        publish("anomaly", trained, tmp_path)
    with pytest.raises(ConfigError, match="is a published bundle already"):
        publish("again", published, tmp_path)
    with pytest.raises(InputError, match=r"has no models/model\.pt"):
        publish("untrained", ROOT / "bundles" / "ganomaly", tmp_path)


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_nothing_half_written_stays(
    error: BaseException, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(shutil, "make_archive", fail)
    with pytest.raises(type(error)):
        publish("anomaly", trained, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["fusion", "nearest_neighbours", "padim", "progressive_ganomaly", "randgan", "slice_madgan", "synthetic_anomalies"],
)
def test_bundles_of_every_kind_are_published(
    name: str, command: Callable[..., int], small: list[str], cohort: Path, tmp_path: Path
) -> None:
    asked = {**BY_NAME[name].fast, **BY_NAME[name].needs}
    settings = [f"--set={key}={json.dumps(value)}" for key, value in asked.items()]
    arguments = ["--bundle", name, "--output", tmp_path / "run", "--epochs", 1, "--brain", "nonzero"]
    assert command("train", "--datalist", cohort, *arguments, *small, *settings) == 0
    bundle = publish("anomaly", tmp_path / "run", tmp_path / "out")
    scan = cohort.parent / "test-1" / "image0.nii.gz"
    assert command("score", scan, "--model", tmp_path / "run", "--output", tmp_path / "scores") == 0
    heatmap = values(tmp_path / "scores" / "image0" / "image0_heatmap.nii.gz")
    labels = values(LabelServer(bundle).infer(scan, tmp_path / "labels.nii.gz"))
    threshold = Calibration.load(bundle / "models" / "calibration.json").voxel_threshold(0.005)
    np.testing.assert_array_equal(labels, heatmap > threshold)
    keeps = name in ("nearest_neighbours", "randgan")
    assert ("pieces of training images" in closing_words(bundle)) == keeps
    assert ("has random weights" in closing_words(bundle)) == (name == "padim")
