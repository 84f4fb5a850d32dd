"""Bundles as the workflows use them: found by name, copied into a run folder with their settings, and run."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medanomaly.data.writing import require_folder, written_whole
from medanomaly.errors import ConfigError, InputError, MedanomalyError, plain_error
from medanomaly.shipped import bundle_names, chain_names, model_names, shipped
from medanomaly.workflows.compose import config_text, describe_tensors, merge
from medanomaly.workflows.settings import apply_settings, check_value

if TYPE_CHECKING:
    from monai.bundle import ConfigParser
    from monai.bundle.workflows import ConfigWorkflow

CONFIGS = {"train": "train", "inference": "infer", "evaluate": "infer"}  # config file -> MONAI's name of the workflow
# config file -> what it must call, so that no model, scan or cohort is taken for another
CHECKS = {"train": "begin_training", "inference": "begin_scores", "evaluate": "check_scores"}
FURTHER = ("epoch.json", "places.npz")  # files in the folder models that not every model has
COMMON_README = "[What all bundles share]"  # a README that ends with this link is completed when it is copied


def find_bundle(name: str | Path) -> Path:
    """The folder of a bundle: a path to one, or the name of one that comes with the package.

    Raises:
        InputError: if there is none; the message lists those that there are.
    """
    for place in (Path(name), shipped("bundles") / name):
        if (place / "configs" / "metadata.json").exists():
            return place.resolve()
    if (Path(name) / "model.json").exists():
        raise InputError(f"{name} is not composed yet: medanomaly compose {name}")
    raise InputError(
        f"{name} is not a bundle (a folder with configs/metadata.json); those that come with it: "
        f"{', '.join(bundle_names())}."
    )


def find_model(name: str | Path) -> Path:
    """The folder of a trained model: a path to one, or the name of one that comes with the package.

    Raises:
        InputError: if there is none; the message lists those that come with it.
    """
    for place in (Path(name), shipped("models") / name):
        if (place / "configs" / "inference.json").exists():
            return place
    known = ", ".join(model_names())
    raise InputError(
        f"{name} has no configs/inference.json: give the folder of a trained model"
        + (f", or the name of one that comes with medanomaly: {known}." if known else ".")
    )


def settings_it_has(name: str | Path, settings: Mapping[str, Any], chain: str | Path | None = None) -> dict[str, Any]:
    """Those of ``settings`` that a bundle has a place for.

    Raises:
        ConfigError: for one that is not a value.
    """
    folder = find_bundle(name) / "configs"
    overlay = {} if chain is None else json.loads(find_chain(chain).read_text(encoding="utf-8"))
    found = {}
    for key, value in settings.items():
        check_value(key, value)
        configs = [
            merge(json.loads((folder / f"{config}.json").read_text(encoding="utf-8")), overlay) for config in CONFIGS
        ]
        try:
            apply_settings({key: value}, configs, str(name))
        except ConfigError:
            continue
        found[key] = value
    return found


def open_training(name: str | Path, settings: Mapping[str, Any], chain: str | Path | None = None) -> ConfigParser:
    """The ``train.json`` of a bundle with a chain and settings, to ask what it would train; nothing is run."""
    from monai.bundle import ConfigParser

    overlay = {} if chain is None else json.loads(find_chain(chain).read_text(encoding="utf-8"))
    content = merge(read_settings(find_bundle(name), "train"), overlay)
    apply_settings(settings, [content], str(name))
    return ConfigParser(content)


def find_chain(name: str | Path) -> Path:
    """The overlay that makes a bundle one for another kind of image: a path to a JSON file, or a name in common/chains.

    Raises:
        InputError: if there is none; the message lists those that there are.
    """
    folder = shipped("bundles") / "common" / "chains"
    for place in (Path(name), folder / f"{name}.json"):
        if place.is_file():
            return place.resolve()
    known = ", ".join(chain_names())
    raise InputError(
        f"{name} is not a chain (a JSON file, see bundles/common/chains); those that come with it: {known}."
    )


def copy_bundle(
    name: str | Path, output: str | Path, settings: Mapping[str, Any], chain: str | Path | None = None
) -> Path:
    """Make ``output`` a bundle of its own: the configs with ``settings`` written into them, the docs and the licence.

    The copy runs with ``python -m monai.bundle run`` alone, and scoring cannot use other settings than training did.

    Args:
        name: see :func:`find_bundle`.
        output: the new folder.
        settings: values, as :func:`~medanomaly.workflows.settings.apply_settings` takes them.
        chain: see :func:`find_chain`; brain MRI, as the bundles come, if not given. Like a bundle, it is a program.

    Raises:
        ConfigError: for a setting that no config has a place for, or the chain, or that is not a value.
        InputError: if ``output`` is a file or holds something that is not a bundle.
    """
    require_folder(output)
    source, output = find_bundle(name), Path(output).resolve()
    if output.exists() and any(output.iterdir()) and not (output / "configs").is_dir():
        raise InputError(f"{output} is not empty and is not a bundle: give a new folder.")
    configs = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((source / "configs").glob("*.json"))
    }
    if chain is not None:
        overlay = json.loads(find_chain(chain).read_text(encoding="utf-8"))
        texts = overlay.pop("metadata", {})
        configs = {key: merge(config, texts if key == "metadata" else overlay) for key, config in configs.items()}
        _check_registered(settings, configs["inference"], chain)
    written = json.loads(json.dumps(dict(settings), default=os.fspath))  # as the configs will give them back
    programs = [config for key, config in configs.items() if key != "metadata"]
    apply_settings(written, programs, source.name)
    check_value("bundle_root", str(output))
    for config in programs:
        config["bundle_root"] = str(output)
    describe_tensors(configs["metadata"], configs["inference"])
    for key, config in configs.items():
        with written_whole(output / "configs" / f"{key}.json") as temporary:
            temporary.write_text(config_text(config), encoding="utf-8")
    _copy_texts(source, output)
    return output


def _check_registered(settings: Mapping[str, Any], config: Mapping[str, Any], chain: str | Path) -> None:
    """Raise ConfigError if something is to be registered that the chain has no place for: films, or a CT to an MRI."""
    for key in ("register", "context", "quartiles"):
        if settings.get(key) and key not in (config["preprocessing"] or {}):
            raise ConfigError(f"{key} cannot be set with the chain {chain}, which does not do it: leave it out.")


def _copy_texts(source: Path, output: Path) -> None:
    """The licence, how to log, and the README: a bundle's own, then what is common to all."""
    common = shipped("bundles") / "common"
    for file in ("LICENSE", "configs/logging.conf"):
        shutil.copy(next(p for p in (source / file, common / Path(file).name) if p.exists()), output / file)
    if (source / "docs").is_dir():
        shutil.copytree(source / "docs", output / "docs", dirs_exist_ok=True)
    readme = output / "docs" / "README.md"
    if readme.exists():
        own, pointer, _ = readme.read_text(encoding="utf-8").partition(COMMON_README)
        if pointer:
            readme.write_text(own + (common / "README.md").read_text(encoding="utf-8"), encoding="utf-8")


def run_bundle(root: Path, config: str, **settings: Any) -> None:
    """Run ``configs/<config>.json`` of a bundle, as ``python -m monai.bundle run`` does.

    A bundle is a program: run one from somebody else only if you would run their code.

    Args:
        root: folder of the bundle.
        config: train, inference or evaluate.
        settings: see :func:`open_bundle`.

    Raises:
        MedanomalyError: what a person needs to know, out of MONAI's chain of errors.
        ConfigError: any other failure of a config, in one line that names the file.
    """
    with open_bundle(root, config, **settings) as workflow:
        workflow.run()
        workflow.finalize()


@contextmanager
def open_bundle(root: Path, config: str, **settings: Any) -> Iterator[ConfigWorkflow]:
    """A bundle's workflow, initialised (with what its config checks then); errors within are as of :func:`run_bundle`.

    Args:
        root, config: see :func:`run_bundle`.
        settings: values in place of those in the config. Cases are given as a tuple, files as ``Path`` and a device as
            ``torch.device``, which MONAI's parser takes as they are: a file name may look like an expression.
    """
    from monai.bundle.workflows import ConfigWorkflow

    logging.getLogger("monai.bundle.workflows").setLevel(logging.WARNING)  # it would tell which logging file it read
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
        yield workflow
    except MedanomalyError:
        raise
    except Exception as error:
        plain = plain_error(error)
        if plain is not None:
            raise type(plain)(str(plain)) from error
        raise ConfigError(f"{file} failed: {innermost_first(error)}") from error


def innermost_first(error: BaseException | None) -> str:
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
    return dict(json.loads(file.read_text(encoding="utf-8")))
