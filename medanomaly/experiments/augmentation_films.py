"""The films of the augmentation study: who trains, who holds out, who tests; and synthetic ones beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medanomaly.data.manifests import datalist_from_manifest, read_manifest
from medanomaly.errors import InputError
from medanomaly.preprocessing import radiograph, user_cache

MANIFEST = "chest_xray"
CLASSES = ("normal", "pneumonia")  # 0 and 1, as the manifest labels its groups
# The test films are those of the manifest; of the ill that it leaves out, most train here, and some hold out.
SHARES_OF_ILL = {"mixed": 0.1, "test": 0.1, "validation": 0.1, "training": 0.7}


@dataclass(frozen=True)
class Films:
    """Films of one section.

    Args:
        images: (n, 1, s, s) in [0, 1], as they are looked at.
        labels: (n,), the number of the class.
        cases: of each its name and its file.
    """

    images: Tensor
    labels: Tensor
    cases: Sequence[Mapping[str, Any]] = ()

    def of_class(self, label: int) -> Films:
        chosen = torch.nonzero(self.labels == label)[:, 0]
        return Films(self.images[chosen], self.labels[chosen], [self.cases[n] for n in chosen] if self.cases else [])


def read_films(data_root: Path | None, size: int, most: Sequence[int]) -> dict[str, Films]:
    """``training``, ``validation`` and ``test``, all films of a patient in one of them.

    Args:
        data_root: the folder of the manifest ``chest_xray``.
        size: pixels a side.
        most: training films of each class, drawn once and for all; the others are left out.

    Raises:
        InputError: if there is no folder, or files are missing.
    """
    content = read_manifest(MANIFEST)
    if data_root is None:
        raise InputError(
            f"the augmentation study needs films: name their folder with --data-root ({content['name']}, "
            f"{content['layout']}; {content['source']}, {content['licence']})."
        )
    groups = content["groups"]
    shares = [group["shares"] if group["label"] == 0 else SHARES_OF_ILL for group in groups]
    # without labels: what is ill may not train a detector, but may train a classifier
    unlabelled = [{**group, "label": 0, "shares": own} for group, own in zip(groups, shares, strict=True)]
    sections = datalist_from_manifest({**content, "groups": unlabelled}, data_root)
    prepare = radiograph(1, [size, size], clip=True, cache_dir=user_cache())
    films = {}
    for section in ("training", "validation", "test"):
        cases = [
            {"case": case["case"], "image": case["image"], "class": group["label"]}
            for group in groups
            for case in sections[section]
            if Path(case["image"][0]).match(group["files"])
        ]
        if section == "training":
            cases = _drawn(cases, most)
        # on the chain's grid, x runs to the patient's right and y up: back to the rows and columns of the picture
        images = [prepare(dict(case))["image"].as_tensor()[..., 0].flip(1, 2).transpose(1, 2) for case in cases]
        labels = torch.tensor([case["class"] for case in cases])
        films[section] = Films(torch.stack(images).contiguous(), labels, cases)
    return films


def with_synthetic(real: Films, made: Mapping[int, Tensor], share: float | str) -> Films:
    """The real films, and after them synthetic ones.

    Args:
        real: training films.
        made: of each class, (m, 1, s, s).
        share: of each class as many synthetic films as that share of its real ones; "balanced" fills each class up to
            the size of the largest.

    Raises:
        InputError: if there are not as many synthetic films.
    """
    counts = [int((real.labels == label).sum()) for label in range(len(CLASSES))]
    images, labels = [real.images], [real.labels]
    for label, count in enumerate(counts):
        wanted = max(counts) - count if share == "balanced" else round(float(share) * count)
        if wanted == 0:
            continue
        if wanted > len(made.get(label, ())):
            raise InputError(
                f"{wanted} synthetic films of the class {CLASSES[label]} are asked for, but there are "
                f"{len(made.get(label, ()))}: draw more."
            )
        images.append(made[label][:wanted])
        labels.append(torch.full((wanted,), label))
    return Films(torch.cat(images), torch.cat(labels))


def _drawn(cases: Sequence[Any], most: Sequence[int]) -> list[Any]:
    kept: list[Any] = []
    for label, n in enumerate(most):
        own = [case for case in cases if case["class"] == label]
        kept += [own[k] for k in sorted(np.random.default_rng(0).permutation(len(own))[:n])]
    return kept
