"""The generators of the augmentation study: one a class, trained on training films of it and on nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medanomaly.data.digests import case_digests
from medanomaly.data.training_cases import check_apart
from medanomaly.data.writing import written_whole
from medanomaly.errors import InputError
from medanomaly.experiments.augmentation_films import CLASSES, Films
from medanomaly.generators.base import FilmGenerator
from medanomaly.generators.dcgan import DCGAN
from medanomaly.generators.ddpm import DDPM
from medanomaly.generators.progan import ProGAN
from medanomaly.patches.sampling import PatchSampler
from medanomaly.patches.spec import PatchSpec
from medanomaly.training.checkpoints import load_checkpoint, load_detector, save_whole
from medanomaly.training.trainer import DetectorTrainer

GENERATORS: Mapping[str, type[FilmGenerator]] = {"gan": DCGAN, "gan-grid": DCGAN, "progan": ProGAN, "ddpm": DDPM}


def synthetic_films(
    name: str, films: Mapping[str, Films], wanted: Mapping[int, int], settings: Mapping[str, Any], folder: Path
) -> tuple[dict[int, Tensor], float]:
    """Synthetic films (n, 1, s, s) of each class, and the seconds of training and drawing; made once for a folder.

    In ``folder``, each class has its own: ``films.json``, the manifest of what its generator learned from, with the
    SHA-256 of each file; checkpoints, which an interrupted training goes on from; ``model.pt`` and ``images.pt``.

    Args:
        name: of ``GENERATORS``.
        films: the sections; only those of the training are learned from.
        wanted: of each class, how many.
        settings: of the generator; ``generator_epochs``, ``generator_batch``, ``generator_seed``, ``generator_amp``
            and ``grid`` are of its training.
        folder: of the generator.

    Raises:
        InputError: if a film to learn from is a test film or a held-out one by content, or the folder holds a
            generator of other films or settings.
    """
    made, seconds = {}, 0.0
    for label, class_name in enumerate(CLASSES):
        own, training = folder / class_name, films["training"].of_class(label)
        write_manifest(own / "films.json", name, class_name, training, films, settings)
        if not (own / "images.pt").exists():
            start = time.perf_counter()
            generator = train_generator(name, training, settings, own)
            images = generator.draw(wanted[label], settings["generator_seed"])
            spent = time.perf_counter() - start  # of this process alone, if a training was interrupted
            save_whole({"images": (255 * images).round().to(torch.uint8), "seconds": spent}, own / "images.pt")
        saved = load_checkpoint(own / "images.pt")
        made[label] = saved["images"].float() / 255  # as a film has them
        seconds += saved["seconds"]
    return made, seconds


def write_manifest(
    file: Path, name: str, class_name: str, training: Films, films: Mapping[str, Films], settings: Mapping[str, Any]
) -> None:
    """Write down which films a generator learns from, or check that they are those of the file that is there.

    Raises:
        InputError: see :func:`synthetic_films`.
    """
    for section in ("test", "validation"):
        check_apart(training.cases, f"training of {name}, {class_name}", films[section].cases, section)
    digests = {case: own["image"][0] for case, own in case_digests(training.cases).items()}
    content = {"generator": name, "class": class_name, "settings": dict(settings), "films": digests}
    if file.exists():
        if json.loads(file.read_text(encoding="utf-8")) != json.loads(json.dumps(content)):
            raise InputError(
                f"{file} is of a generator with other films or settings than are asked for: choose another --output, "
                f"or delete {file.parent} to train it again."
            )
        return
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def train_generator(name: str, training: Films, settings: Mapping[str, Any], folder: Path) -> FilmGenerator:
    """A generator of the films of one class, trained in ``folder``, or from where an earlier training there stood."""
    of_training = {"generator_epochs", "generator_batch", "generator_seed", "generator_amp", "grid"}
    size, seed = training.images.shape[-1], settings["generator_seed"]
    torch.manual_seed(seed)
    generator = GENERATORS[name](**{key: v for key, v in settings.items() if key not in of_training}, size=size)
    if not (folder / "model.pt").exists():
        everything = torch.ones(1, size, size, 1)
        cases = [
            {"case": str(n), "image": image[..., None], "region": everything} for n, image in enumerate(training.images)
        ]
        batch = min(settings["generator_batch"], len(cases))
        # each film once in an epoch; the heart is on the left, so nothing is mirrored
        sampler = PatchSampler(cases, PatchSpec(size), batch, len(cases), flip=False, seed=seed)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        DetectorTrainer(
            device,
            settings["generator_epochs"],
            sampler,
            generator,
            sampler,  # nothing is validated; the best cell of a grid is the one that draws what it learned from best
            folder / "checkpoints",
            folder / "model.pt",
            seed=seed,
            resume=True,
            amp=settings["generator_amp"],
            progress=False,
            grid=settings.get("grid"),
        ).run()
    load_detector(generator, folder / "model.pt")
    return generator
