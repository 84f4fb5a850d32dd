"""Bundles as the command line uses them: found by name, copied into a run folder with their settings, and run."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import medanomaly
from medanomaly.data.writing import require_folder, written_whole
from medanomaly.errors import ConfigError, InputError, MedanomalyError, plain_message
from medanomaly.experiments.settings import apply_settings, check_value

CONFIGS = {"train": "train", "inference": "infer", "evaluate": "infer"}  # config file -> MONAI's name of the workflow
# config file -> what it must call, so that no model, scan or cohort is taken for another
CHECKS = {"train": "begin_training", "inference": "begin_scores", "evaluate": "check_scores"}


def find_bundle(name: str | Path) -> Path:
    """The folder of a bundle: a path to one, or the name of one that comes with the package.

    Raises:
        InputError: if there is none; the message lists those that there are.
    """
    package = Path(medanomaly.__file__).parent
    places = [Path(name), package / "bundles" / name, package.parent / "bundles" / name]  # a wheel, a checkout
    for place in places:
        if (place / "configs" / "metadata.json").exists():
            return place.resolve()
    known = sorted(
        {path.parents[1].name for root in places[1:] for path in root.parent.glob("*/configs/metadata.json")}
    )
    raise InputError(
        f"{name} is no bundle (a folder with configs/metadata.json); those that come with it: {', '.join(known)}."
    )


def copy_bundle(name: str | Path, output: str | Path, settings: Mapping[str, Any]) -> Path:
    """Make ``output`` a bundle of its own: the configs with ``settings`` written into them, the docs and the licence.

    The copy runs with ``python -m monai.bundle run`` alone, and scoring cannot use other settings than training did.

    Args:
        name: see :func:`find_bundle`.
        output: the new folder.
        settings: values, as :func:`~medanomaly.experiments.settings.apply_settings` takes them.

    Raises:
        ConfigError: for a setting that no config has a place for, or that is no value.
        InputError: if ``output`` is a file or holds something that is not a bundle.
    """
    require_folder(output)
    source, output = find_bundle(name), Path(output).resolve()
    if output.exists() and any(output.iterdir()) and not (output / "configs").is_dir():
        raise InputError(f"{output} is not empty and is no bundle: give a new folder.")
    configs = {path.name: json.loads(path.read_text()) for path in sorted((source / "configs").glob("*.json"))}
    written = json.loads(json.dumps(dict(settings), default=os.fspath))  # as the configs will give them back
    programs = [config for file, config in configs.items() if file != "metadata.json"]
    apply_settings(written, programs, source.name)
    check_value("bundle_root", str(output))
    for config in programs:
        config["bundle_root"] = str(output)
    inference = configs["inference.json"]
    shape = [inference["patch_size"]] * inference["spatial_dims"]
    tensors = configs["metadata.json"]["network_data_format"]
    tensors["inputs"]["image"].update(num_channels=inference["in_channels"], spatial_shape=shape)
    tensors["outputs"]["pred"].update(spatial_shape=shape)
    for file, config in configs.items():
        with written_whole(output / "configs" / file) as temporary:
            temporary.write_text(json.dumps(config, indent=4))
    for extra in ("LICENSE", "docs", "configs/logging.conf"):
        if (source / extra).is_dir():
            shutil.copytree(source / extra, output / extra, dirs_exist_ok=True)
        elif (source / extra).exists():
            shutil.copy(source / extra, output / extra)
    return output


def run_bundle(root: Path, config: str, **settings: Any) -> None:
    """Run ``configs/<config>.json`` of a bundle, as ``python -m monai.bundle run`` does.

    A bundle is a program: run one from somebody else only if you would run their code.

    Args:
        root: folder of the bundle.
        config: train, inference or evaluate.
        settings: values in place of those in the config. Cases are given as a tuple, files as ``Path`` and a device as
            ``torch.device``, which MONAI's parser takes as they are: a file name may look like an expression.

    Raises:
        MedanomalyError: what a person needs to know, out of MONAI's chain of errors.
        ConfigError: any other failure of a config, in one line that names the file.
    """
    from monai.bundle.workflows import ConfigWorkflow

    logging.getLogger("monai.bundle.workflows").setLevel(logging.WARNING)  # else it tells which logging file it read
    file = root / "configs" / f"{config}.json"
    content = read_settings(root, config)
    if CHECKS[config] not in json.dumps(content):
        raise ConfigError(
            f"{file} does not call medanomaly.data.{CHECKS[config]} (it is of an older version): train a new model, or "
            f"add what the lists 'initialize' and 'run' call of medanomaly.data in the {config}.json of this version."
        )
    apply_settings(settings, [content], str(file))  # of a copy: the parser does the same, without the checks
    check_value("bundle_root", str(root))
    try:
        workflow = ConfigWorkflow(str(file), workflow_type=CONFIGS[config], bundle_root=str(root), **settings)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except MedanomalyError:
        raise
    except Exception as error:
        message = plain_message(error)
        if message is not None:
            raise ConfigError(message) from error
        raise ConfigError(f"{file} failed: {_chain(error)}") from error


def _chain(error: BaseException | None) -> str:
    """First lines of an error and its causes, the innermost first."""
    lines: list[str] = []
    while error is not None:
        first = (str(error).strip().splitlines() or [""])[0]
        lines.insert(0, f"{type(error).__name__}: {first}")
        error = error.__cause__
    return "; in ".join(lines[:3])


def read_settings(root: Path, config: str) -> dict[str, Any]:
    """The top level of a bundle's config, as it is written (references unresolved)."""
    file = root / "configs" / f"{config}.json"
    if not file.exists():
        raise InputError(f"{root} has no configs/{config}.json: give the folder of a trained model.")
    return dict(json.loads(file.read_text()))


def sign_setting(model: Path, sign: str | None) -> dict[str, str]:
    """The setting ``sign`` for scoring with a model: what is asked for, or what its config has; empty if it has none.

    Raises:
        ConfigError: if a sign is asked of a model whose score has none, or is no sign.
    """
    if sign not in (None, "both", "bright", "dark"):
        raise ConfigError(f"--sign is {sign!r}: use one of both, bright, dark.")
    own = read_settings(model, "inference").get("sign")
    if own is None and sign not in (None, "both"):
        raise ConfigError(
            f"--sign {sign} was asked for, but the score of the model {model} does not tell brighter from darker: "
            "leave out --sign, or train a detector that does, such as denoising_autoencoder."
        )
    return {} if own is None else {"sign": sign or own}


def scored_settings(scores: Path, provenance: Mapping[str, Any], root: Path, brain: str | None) -> dict[str, str]:
    """How scores were made, as settings for their evaluation with the model in ``root``.

    Args:
        scores: their folder.
        provenance: what its ``run.json`` says.
        root: folder of the model.
        brain: the brain extractor that the user named for the evaluation.

    Raises:
        ConfigError: if ``run.json``, which somebody else may have written, names a program of its own to extract
            brains with and the user did not name it, too; or the user named another one.
    """
    known, file = read_settings(root, "evaluate"), scores / "run.json"
    shared = [key for key in ("region", "sign") if key in provenance and key in known]
    settings: dict[str, str] = {key: provenance[key] for key in shared}
    source = settings.get("region", str(known.get("region")))
    if brain not in (None, source):
        raise ConfigError(f"--brain is {brain!r}, but the scores were made with {source!r} ({file}): leave it out.")
    if source not in ("given", "nonzero", known.get("region"), brain):
        check_value(f"region in {file}", source)
        raise ConfigError(
            f"{file} names the brain extractor {source!r}, which the evaluation would run again, for plain intensity: "
            f"if you trust it, add --brain {shlex.quote(source)}."
        )
    return settings
