"""Training a detector on healthy scans, from nothing or from where a training stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medanomaly.data import read_datalist
from medanomaly.errors import ConfigError, InputError
from medanomaly.workflows import bundles
from medanomaly.workflows.settings import device_setting


def train(
    datalist: str | Path | None = None,
    output: str | Path = "runs/model",
    *,
    bundle: str | Path = "ganomaly",
    chain: str | Path | None = None,
    data_root: str | Path | None = None,
    region: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Train a detector on the healthy cases of a datalist.

    Args:
        datalist: JSON with ``training`` and, better, ``validation``; with ``resume``, to check that it is the same.
        output: folder of the new model, a MONAI bundle.
        bundle: one that comes with medanomaly, such as "ganomaly", or the folder of one.
        chain: the kind of image, if it is not brain MRI, such as "radiograph", or a JSON file, see
            :func:`~medanomaly.workflows.bundles.find_chain`.
        data_root: what relative paths in the datalist start from; its own folder if not given.
        region: auto, given, nonzero, all, deepbet, hd-bet, synthstrip, or a command with ``{image}`` and
            ``{mask}``; the bundle's own if not given.
        epochs: most epochs.
        seed: of weights, patches and noise; 0 if not given.
        resume: go on with the training in ``output``, with its data and settings.
        device: cpu, cuda or cuda:1; the GPU if there is one, when not given.
        settings: values of the bundle, ``network_def#learning_rate`` is one level down.

    Returns:
        The folder of the model.

    Raises:
        InputError: if there is nothing to train on or to go on with, or ``output`` holds a training or a model.
        ConfigError: for a setting that the bundle does not have, or, with ``resume``, for one at all.
    """
    output = Path(output)
    begun = (output / "checkpoints" / "last.pt").exists()
    _check_output(output, begun, resume)
    most_epochs = {} if epochs is None else {"max_epochs": epochs}
    data: dict[str, Path] = {}  # what a resumed training is given, to compare with what it was begun with
    if resume:
        if settings or chain is not None or region is not None or seed is not None:
            raise ConfigError(
                f"--resume goes on with the settings in {output}: leave out --set, --chain, --brain and --seed."
            )
        root = output.resolve()
        if datalist is not None:
            data["datalist"] = Path(datalist).absolute()
        if data_root is not None:
            data["dataset_dir"] = Path(data_root).absolute()
    else:
        if datalist is None:
            raise InputError("there is nothing to train on: name a datalist with --datalist (see README, 'Your data').")
        chosen = {
            "dataset_dir": None if data_root is None else Path(data_root).absolute(),
            "datalist": Path(datalist).absolute(),
            "in_channels": len(read_datalist(datalist, "training", data_root)[0]["image"]),
            "seed": seed or 0,
            **({} if region is None else {"region": region}),
            **most_epochs,
            **(settings or {}),
        }
        root = bundles.copy_bundle(bundle, output, chosen, chain)
    bundles.run_bundle(root, "train", resume=resume, **data, **most_epochs, **device_setting(device))
    return root


def _check_output(output: Path, begun: bool, resume: bool) -> None:
    """Refuse to replace a model or a training, and to go on with nothing."""
    if not begun and (output / "models" / "model.pt").exists():  # fitted at once, or checkpoints that were deleted
        raise InputError(
            f"{output} holds a finished model without checkpoints, so there is nothing to go on with: choose another "
            f"--output, or delete {output / 'models'} to train it again."
        )
    if resume and not begun:
        raise InputError(f"there is no training to go on with in {output}: correct --output, or leave out --resume.")
    if begun and not resume:
        raise InputError(f"{output} holds a training already: go on with it by --resume, or choose another --output.")


def closing_words(root: Path, model: str | Path) -> str:
    """How scans are scored with the model in ``root``, which the user calls ``model``."""
    trained = bundles.read_settings(root, "inference")
    channels = trained["in_channels"]
    scans = "SCAN" if channels == 1 else " ".join(f"CHANNEL{n + 1}" for n in range(channels))
    mask = "--brain MASK " if trained["region"] == "given" else ""
    return (
        f"\nThe model is in {root}. Score scans with it:\n  medanomaly score {scans} {mask}--model {model} --output out"
    )
