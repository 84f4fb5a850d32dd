"""Which scans a model was trained on: ``models/cases.json``, written when training begins and checked ever after."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import medanomaly
from medanomaly.data.datalist import SECTIONS, check_healthy, read_datalist, require_cases
from medanomaly.data.dicom_series import safe_name
from medanomaly.data.digests import case_digests
from medanomaly.data.writing import written_whole
from medanomaly.errors import InputError
from medanomaly.terminal import warn

Digests = Mapping[str, Mapping[str, Sequence[str]]]  # case id -> image, region, label -> SHA-256 of each file


def begin_training(
    bundle_root: str | Path,
    datalist: str | Path | None,
    dataset_dir: str | Path | None,
    training: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]],
    resume: bool = False,
    mixed: Sequence[Mapping[str, Any]] = (),
    streams: Sequence[str] = ("training",),
) -> None:
    """Write down the cases of a training before it begins, or check that it goes on with the same.

    Args:
        bundle_root: of the new model; gets ``models/cases.json``.
        datalist, dataset_dir: whose section ``test`` may hold no scan that is trained on; those that are not here, as
            where another machine tests, are passed over.
        training, validation: the cases.
        resume: whether a training that has begun goes on.
        mixed: healthy and diseased cases, not told apart; they count if the detector learns from them.
        streams: the sections that the detector learns from.

    Raises:
        InputError: if there are no cases of a section that it learns from, a scan is in two sections, a case of the
            first two has the label 1, a training would go on with other cases, or there is a finished model without
            checkpoints to go on from.
    """
    require_cases(training)
    mixed = mixed_of(streams, mixed, str(datalist or "the cohort"))
    root, keys = Path(bundle_root), ("image", "region", "label")
    begun = (root / "checkpoints" / "last.pt").exists()
    if begun and not resume:
        return  # the trainer says that it does not replace a training
    file = root / "models" / "cases.json"
    if not begun and (root / "models" / "model.pt").exists():
        raise InputError(
            f"{root} holds a finished model without checkpoints, so there is nothing to go on with: choose another "
            f"folder, or delete {root / 'models'} to train it again."
        )
    sections = {"training": training, "validation": validation, **({"mixed": mixed} if mixed else {})}
    for section, cases in sections.items():
        check_healthy(cases, section, str(datalist or "the cases"))
    record = {section: case_digests(cases, keys) for section, cases in sections.items()}
    if begun and file.exists():
        _check_same(_read(file), record, root)
    elif begun:
        warn(f"{root} was begun by an older version, so it is not known whether its cases are the same.")
    test = [] if datalist is None else read_datalist(datalist, "test", dataset_dir, required=False, skip_missing=True)
    for section, others in (("validation", validation), ("test", test)):
        for trained in [name for name in sections if name != "validation"]:
            check_apart(sections[trained], trained, others, section)
    check_apart(mixed, "mixed", training, "training")
    content = {"datalist": None if datalist is None else str(datalist), "version": medanomaly.__version__, **record}
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def mixed_of(streams: Sequence[str], mixed: Sequence[Mapping[str, Any]], where: str) -> Sequence[Mapping[str, Any]]:
    """The cases under ``mixed`` for a detector that learns from these sections; none, if that is not one of them.

    Raises:
        InputError: if it is, and there are none.
    """
    if "mixed" not in streams:
        return ()
    if len(mixed) == 0:
        raise InputError(
            f"the detector learns from healthy cases (section 'training') and from healthy and diseased ones, not told "
            f"apart (section 'mixed'), but {where} has none under 'mixed': add such cases, of people who are not "
            "tested, or choose a detector that learns from healthy cases alone."
        )
    return mixed


def check_unseen(bundle_root: str | Path, tested: Digests) -> None:
    """Refuse to test a model on scans that it was trained on; warn of those that its thresholds come from.

    Args:
        bundle_root: of the model.
        tested: what :func:`~medanomaly.data.digests.case_digests` says of the cases.

    Raises:
        InputError: with the names of the scans that were trained on.
    """
    file = Path(bundle_root) / "models" / "cases.json"
    if not file.exists():
        warn(f"{file} is missing (older version), so it is not known whether the model saw these scans before.")
        return
    record = _read(file)
    trained = {**record.get("mixed", {}), **record["training"]}
    seen = [f"{name} ({other} of the training)" for name, other, _ in _shared(tested, trained)]
    if seen:
        raise InputError(
            f"the model {bundle_root} was trained on {', '.join(seen)}: leave them out of the evaluation, which would "
            "say nothing of new scans."
        )
    held = [f"{name} ({other} of the validation)" for name, other, _ in _shared(tested, record["validation"])]
    if held:
        warn(f"the thresholds of {bundle_root} come from {', '.join(held)}: no independent test of these.")


def take_other_normals(
    trained: str | Path, bundle_root: str | Path, normals: Sequence[Mapping[str, Any]], datalist: str | Path
) -> None:
    """Write the ``models/cases.json`` of a model whose thresholds come from other normal cases than before.

    Args:
        trained: the model that was trained; a record that it does not have, as of an older version, is not made up.
        bundle_root: the same model with other thresholds.
        normals: the cases that they come from, which are held out from now on.
        datalist: that names them.

    Raises:
        InputError: if one of them is a case that the model was trained on, or has the label 1.
    """
    check_healthy(normals, "validation", str(datalist))
    file = Path(trained) / "models" / "cases.json"
    if not file.exists():
        warn(f"{file} is missing (older version), so it is not known whether the model was trained on these cases.")
        return
    record = _read(file)
    digests = case_digests(normals, ("image", "region", "label"))
    seen = [name for name, _, _ in _shared(digests, {**record.get("mixed", {}), **record["training"]})]
    if seen:
        raise InputError(
            f"the model {trained} was trained on {', '.join(seen)}, which it scores lower than new cases: leave them "
            f"out of {datalist}."
        )
    record |= {"validation": digests, "datalist": str(datalist), "version": medanomaly.__version__}
    with written_whole(Path(bundle_root) / "models" / "cases.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


def check_apart(
    training: Sequence[Mapping[str, Any]], trained: str, others: Sequence[Mapping[str, Any]], section: str
) -> None:
    """Raise InputError if a scan, whatever it is called and in whichever channel, is in both sections.

    Args:
        training, others: the cases, with paths or prepared.
        trained, section: what their sections are called.
    """
    sides = (case_digests(training), case_digests(others))
    for name, other, digest in _shared(*sides):
        files = [
            f"prepared case {wanted}"
            if hasattr(case["image"], "numpy")
            else safe_name(case["image"][digests[case["case"]]["image"].index(digest)])
            for cases, digests, wanted in ((training, sides[0], name), (others, sides[1], other))
            for case in cases
            if case["case"] == wanted
        ]
        raise InputError(
            f"the case {name} in {trained!r} and the case {other} in {section!r} are the same scan: "
            f"{' and '.join(files)} have the same voxels. Take it out of one of the two: figures "
            "from scans that were trained on say nothing of new ones."
        )


def _shared(first: Digests, second: Digests) -> Iterator[tuple[str, str, str]]:
    """(case of the first, case of the second, digest) for each case of the first that has a scan of the second."""
    owner = {digest: name for name, own in second.items() for digest in own["image"]}
    for name, own in first.items():
        for digest in own["image"]:
            if digest in owner:
                yield name, owner[digest], digest
                break


def _check_same(before: Mapping[str, Any], now: Mapping[str, Digests], root: Path) -> None:
    flat = [
        {(section, name): own for section in SECTIONS for name, own in record.get(section, {}).items()}
        for record in (before, now)
    ]
    groups = {
        "added": [key for key in flat[1] if key not in flat[0]],
        "removed": [key for key in flat[0] if key not in flat[1]],
        "changed": [key for key, own in flat[1].items() if flat[0].get(key, own) != own],
    }
    words = [f"{what}: {', '.join(name for _, name in keys)}" for what, keys in groups.items() if keys]
    if not words and list(flat[0]) != list(flat[1]):
        words = ["they have another order"]
    if words:
        raise InputError(
            f"the training in {root} was begun with other cases than it would go on with ({'; '.join(words)}): go on "
            f"with the datalist and the scans of then ({before.get('datalist')}), or train anew in another folder."
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = dict(json.loads(file.read_text(encoding="utf-8")))
        for section in ("training", "validation", *(["mixed"] if "mixed" in content else [])):
            _ = [own["image"] for own in content[section].values()]
        return content
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged ({error}): train the model again.") from error
