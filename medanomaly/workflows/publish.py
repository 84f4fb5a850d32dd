"""A trained model as a bundle to give away: weights, calibration, one config, and no file of the training."""

from __future__ import annotations

import datetime
import json
import platform
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import medanomaly
from medanomaly.data import chosen_epoch, require_folder
from medanomaly.data.digests import file_digest
from medanomaly.errors import ConfigError, InputError, plain_error
from medanomaly.shipped import shipped
from medanomaly.workflows import bundles
from medanomaly.workflows.compose import config_text
from medanomaly.workflows.score import sign_setting
from medanomaly.workflows.settings import check_value

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# in the name of a folder, MONAI Label takes these words for another kind of model, which it runs in another way
TAKEN_FOR_OTHERS = ("classification", "deepedit", "deepgrow", "detection")
# of this machine, or of one cohort; in a published bundle they are as in one that nobody has trained yet
ONES_OWN = ("bundle_root", "dataset_dir", "datalist", "section", "output_dir", "cache_dir", "device")
READ_ONCE = {"backbone_weights"}  # by the training: what was in them is in the model
TRAINING = ("seed", "max_epochs", "patience", "batch_size", "patches_per_epoch", "decay", "amp")
LABELS = {"0": "background", "1": "anomaly"}
TO_SCAN, TO_LABELS = "medanomaly.preprocessing.heatmap_to_scan", "medanomaly.preprocessing.heatmap_to_labels"


def publish(
    name: str,
    model: str | Path,
    output: str | Path,
    *,
    region: str | None = None,
    sign: str | None = None,
    false_positive_rate: float = 0.005,
) -> Path:
    """Make ``output/name``, and ``output/name.zip`` with the same, from a trained model.

    It runs with ``python -m monai.bundle run`` from its own folder, wherever that is copied, and in the bundle app of
    MONAI Label, whose result is a label map. It holds weights, the calibration, a model card and where it comes from:
    no checkpoints, no path of this machine, no name of a case.

    Args:
        name: of the bundle and its folder.
        model: folder of a trained model.
        output: where the folder and the zip are put.
        region: how the region is found, see :class:`medanomaly.preprocessing.RegionMaskd`; the model's own way if not
            given. MONAI Label gives no masks.
        sign: bright, dark or both, of detectors that tell; as the model was trained if not given.
        false_positive_rate: share of normal voxels above the threshold of the labels, between 0 and 1.

    Returns:
        The folder.

    Raises:
        InputError: if ``model`` is not a trained model, has no calibration, or the bundle is there already.
        ConfigError: if a setting of the model cannot be published, such as a path of this machine, or does not fit.
    """
    _check_name(name)
    require_folder(output)
    root, output = bundles.find_model(model), Path(output).absolute()
    for place in (output / name, output / f"{name}.zip"):
        if place.exists():
            raise InputError(f"{place} is there already: choose another name or --output, or delete it first.")
    config, calibrations = _published_config(root, region, sign, false_positive_rate)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=f".{name}-") as temporary:
        folder = Path(temporary) / name
        _fill(folder, root, config, calibrations)
        archive = Path(shutil.make_archive(str(folder), "zip", temporary, name))
        folder.rename(output / name)
        try:
            archive.rename(output / f"{name}.zip")
        except OSError:
            shutil.rmtree(output / name)
            raise
    return output / name


def closing_words(folder: Path) -> str:
    """What was made, and what whoever publishes it must know, for the terminal."""
    told = json.loads((folder / "docs" / "provenance.json").read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    return "\n".join(
        [
            f"The bundle is in {folder} ({size:.1f} MB), and in {folder.name}.zip beside it.",
            f"Its labels: {told['labels']}.",
            *(f"Warning: {warning}" for warning in told["warnings"]),
            f"Read {folder / 'docs' / 'README.md'} before you give it away.",
        ]
    )


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError(f"the name is {name!r}, but it is that of a folder: use letters, digits, '-', '_' and '.'.")
    taken = [word for word in TAKEN_FOR_OTHERS if word in name.lower()]
    if taken:
        raise InputError(
            f"the name {name!r} holds {taken[0]!r}, by which MONAI Label takes a bundle for another kind of model: "
            "choose another name, such as one with 'anomaly'."
        )


def _published_config(
    root: Path, region: str | None, sign: str | None, rate: float
) -> tuple[dict[str, Any], list[Path]]:
    """The ``inference.json`` of a trained model, as it is published, and its calibrations."""
    from medanomaly.evaluation import Calibration, calibration_file
    from medanomaly.preprocessing import RegionMaskd

    config, models = bundles.read_settings(root, "inference"), root / "models"
    if not (models / "model.pt").is_file():
        raise InputError(
            f"{root} has no models/model.pt, so it is not a trained model: give the folder that medanomaly train wrote "
            "to, and finish its training (--resume) if it was cut off."
        )
    own_sign = sign_setting(root, sign).get("sign")
    signs = ("both", "bright", "dark") if own_sign else ("both",)
    calibrations = [calibration_file(models, one) for one in signs]
    for file in calibrations:
        Calibration.load(file).voxel_threshold(rate)
    prepared, kept = (dict(config.get(key) or {}) for key in ("preprocessing", "postprocessing"))
    if kept.get("_target_") == TO_LABELS:
        raise ConfigError(f"{root} is a published bundle already: give the folder that medanomaly train wrote to.")
    if kept.get("_target_") != TO_SCAN or "_target_" not in prepared:
        raise ConfigError(
            f"{root} cannot be published: its inference.json needs a preprocessing chain, and {TO_SCAN} as "
            "postprocessing, as the bundles that come with medanomaly have."
        )
    common = json.loads((shipped("bundles") / "common" / "inference.json").read_text(encoding="utf-8"))
    of_cohort = (str(config.get(key) or "") for key in ("datalist", "dataset_dir"))
    places = {str(root.resolve()), str(Path.home()), *of_cohort}
    config.update({key: common[key] for key in ONES_OWN})
    config.update(dict.fromkeys(READ_ONCE & config.keys()))
    if region is not None:
        RegionMaskd(region)  # says what it may be
        check_value("region", region)
        config["region"] = region
    if own_sign:
        config["sign"] = own_sign
    config["false_positive_rate"] = rate
    config["monailabel_dir"] = "$@bundle_root + '/monailabel'"
    config["postprocessing"] = {
        **kept,
        "_target_": TO_LABELS,
        "threshold": "$medanomaly.evaluation.Calibration.load(@calibration_file).voxel_threshold(@false_positive_rate)",
        "monailabel_dir": "@monailabel_dir",
    }
    _check_private(config, root, {place for place in places if len(place) > 1 and not place.startswith("$")})
    return config, calibrations


def _check_private(config: Mapping[str, Any], root: Path, places: set[str]) -> None:
    """Raise ConfigError if a setting names a place on this machine: one of ``places``, or any whole path."""
    for key, text in _texts(config):
        try:
            words = [] if text.startswith("$") else shlex.split(text)
        except ValueError:
            words = text.split()
        if any(word.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", word) for word in words) or any(
            place in text for place in places
        ):
            hint = "give --region, with a command that is on the PATH" if key == "region" else "train without it"
            raise ConfigError(
                f"the setting {key} of {root} is {text!r}, which names a place on this machine, and another one has no "
                f"such place: {hint}."
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a config, with where it stands."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping | list):
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(item, f"{key}#{name}" if key else str(name))


def _fill(folder: Path, root: Path, config: dict[str, Any], calibrations: list[Path]) -> None:
    """Write all files of the bundle into ``folder``, and see that the weights and the calibration fit its config."""
    from medanomaly.report.bundle_card import BundleCard
    from medanomaly.report.provenance import current_commit

    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True)
    common = shipped("bundles") / "common"
    shutil.copy(common / "LICENSE" if not (root / "LICENSE").exists() else root / "LICENSE", folder / "LICENSE")
    shutil.copy(common / "logging.conf", folder / "configs")
    further = [root / "models" / name for name in bundles.FURTHER]
    for file in (root / "models" / "model.pt", *calibrations, *(path for path in further if path.exists())):
        shutil.copy(file, folder / "models")
    (folder / "configs" / "inference.json").write_text(config_text(config), encoding="utf-8")

    network, calibration = _loaded(folder)
    cases, trained_with = _training_cases(root)
    epoch = chosen_epoch(root)
    train = bundles.read_settings(root, "train") if (root / "configs" / "train.json").exists() else {}
    metadata = _published_metadata(root, config["false_positive_rate"], cases)
    card = BundleCard(
        name=folder.name,
        metadata=metadata,
        region=config["region"],
        preparation=str(config["preprocessing"]["_target_"]).rpartition(".")[2],
        calibration=calibration,
        false_positive_rate=config["false_positive_rate"],
        cases=cases,
        epoch=None if epoch is None else epoch["words"],
        training={key: train[key] for key in TRAINING if isinstance(train.get(key), int | float | bool)},
        keeps_patches=bool(network.keeps_patches),
        cautions=network.cautions(),
        modules=_further_modules(config),
        versions={"medanomaly": medanomaly.__version__, "monai": packages.version("monai")},
    )
    (folder / "configs" / "metadata.json").write_text(config_text(metadata), encoding="utf-8")
    (folder / "docs" / "README.md").write_text(card.text(), encoding="utf-8")
    provenance = {
        "name": folder.name,
        "published": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "trained_with": {"medanomaly": trained_with, **({} if epoch is None else {"epoch": epoch["words"]})},
        "published_with": {
            "medanomaly": medanomaly.__version__,
            "commit": current_commit(),
            "python": platform.python_version(),
            **{name: packages.version(name) for name in ("torch", "monai", "numpy", "nibabel")},
        },
        "labels": card.labels(),
        "warnings": card.warnings(),
        "sha256": {
            file.relative_to(folder).as_posix(): file_digest(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
    }
    (folder / "docs" / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")


def _loaded(folder: Path) -> tuple[Any, Any]:
    """The network with its weights, and the calibration, as the bundle in ``folder`` will load them.

    Raises:
        ConfigError: if the config cannot make the network, or the calibration was made with other settings.
        InputError: if the weights are of another network.
    """
    from monai.bundle import ConfigParser

    from medanomaly.evaluation import Calibration
    from medanomaly.training import load_detector

    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"] = str(folder)
    try:
        network = parser.get_parsed_content("network_def")
        settings, file = (parser.get_parsed_content(key) for key in ("settings", "calibration_file"))
    except Exception as error:
        reason = plain_error(error) or bundles.innermost_first(error)
        raise ConfigError(f"the inference.json of the model cannot be used: {reason}") from error
    return load_detector(network, folder / "models" / "model.pt"), Calibration.load(file, settings)


def _training_cases(root: Path) -> tuple[dict[str, int] | None, str | None]:
    """How many cases each section of the training had, and the version that trained; None where it is not known."""
    try:
        record = json.loads((root / "models" / "cases.json").read_text(encoding="utf-8"))
        sections = ("training", "validation", "mixed")
        return {key: len(record[key]) for key in sections if record.get(key)}, record.get("version")
    except (OSError, ValueError, AttributeError, TypeError):
        return None, None


def _published_metadata(root: Path, rate: float, cases: Mapping[str, int] | None) -> dict[str, Any]:
    """``metadata.json`` of the model with what is installed here, and with labels for what comes out."""
    metadata = bundles.read_settings(root, "metadata")
    installed = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
    needed = {name: packages.version(name) for name in metadata["required_packages_version"] if name != "medanomaly"}
    learned = "cases of the training are not known" if cases is None else f"{sum(cases.values())} cases, not named"
    metadata.update(
        {key: packages.version(name).partition("+")[0] for key, name in installed.items()},
        required_packages_version={"medanomaly": medanomaly.__version__, **needed},
        data_source=learned,
        pred_classes=f"0: background; 1: anomaly, the score is above that of {100 * (1 - rate):g} % of normal voxels",
    )
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = LABELS
    return metadata


def _further_modules(config: Mapping[str, Any]) -> list[str]:
    """Modules that components of a config come from, and that are no part of what is installed with medanomaly."""
    targets = [text for key, text in _texts(config) if key.endswith("_target_") and "." in text]
    known = ("medanomaly", "monai", "torch")
    return sorted({target.partition(".")[0] for target in targets} - {*known})
