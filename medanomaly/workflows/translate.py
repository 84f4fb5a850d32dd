"""Translation of one kind of scan into another, unpaired, and segmentation by the labels of the first. Experimental."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medanomaly.data import cases_from_files, read_datalist, require_folder
from medanomaly.errors import ConfigError, InputError
from medanomaly.workflows.settings import device_setting

if TYPE_CHECKING:
    import torch
    from monai.transforms import Compose

    from medanomaly.generators.sadgan import SADGAN
    from medanomaly.patches.sampling import PatchSampler

CHAINS = ("brain_mri", "head_ct", "bone_ct")
NETWORK = {"patch_size": 64, "spatial_dims": 2, "features": 16, "edges": True, "learning_rate": 2e-4}
# chains and regions of the two kinds, and the training
DEFAULTS: dict[str, Any] = {
    **NETWORK,
    "source": "brain_mri",
    "target": "brain_mri",
    "source_region": None,
    "target_region": None,
    "spacing": [1.0, 1.0, 1.0],
    "batch_size": 16,
    "patches_per_epoch": 1600,
    "epochs": 200,
    "seed": 0,
}


def train(
    datalist: str | Path | None = None,
    output: str | Path = "runs/translation",
    *,
    data_root: str | Path | None = None,
    resume: bool = False,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Learn to translate the scans under ``training`` into the kind of those under ``target``, which are not paired.

    If each case under ``training`` and ``validation`` has a ``label``, a mask of whole numbers (0 is background), a
    segmenter learns on the translations, and the epoch is kept in which it does best on held-out ones; without labels,
    or without ``validation``, the last. The learning rates fall to 0 over the second half.

    Args:
        datalist: JSON with ``training``, ``target`` and, with labels, ``validation``; cases have one image each.
        output: folder of the new model.
        data_root: what relative paths in the datalist start from; its own folder if not given.
        resume: go on with the training in ``output``, with its data and settings.
        device: cpu, cuda or cuda:1; the GPU if there is one, when not given.
        settings: of ``DEFAULTS``: ``source`` and ``target`` are the chains that prepare the two kinds.

    Returns:
        The folder of the model.

    Raises:
        InputError: if there is nothing to train on or to go on with, or a label does not fit.
        ConfigError: for a setting that there is not.
    """
    from medanomaly.data.digests import case_digests
    from medanomaly.data.training_cases import begin_training
    from medanomaly.data.writing import written_whole
    from medanomaly.patches import PatchSampler, PatchSpec
    from medanomaly.training import DetectorTrainer

    root = Path(output).absolute()
    require_folder(root)
    if resume and not (root / "checkpoints" / "last.pt").exists():
        raise InputError(f"there is no training to go on with in {output}: correct --output, or leave out --resume.")
    if resume and (settings or datalist is not None):
        raise ConfigError(f"--resume goes on with the data and settings in {output}: leave out --datalist and --set.")
    if not resume and datalist is None:
        raise InputError("there is nothing to train on: name a datalist with --datalist.")
    if not resume and (root / "settings.json").exists():
        raise InputError(f"{output} holds a training already: go on by --resume, or choose another --output.")
    if resume:
        known = _read_settings(root)
    else:
        known = {**DEFAULTS, **_checked(settings or {})}
        known |= {"datalist": str(Path(str(datalist)).absolute()), "data_root": data_root and str(data_root)}
    sections = {
        name: read_datalist(known["datalist"], name, known["data_root"], required=name != "validation")
        for name in ("training", "target", "validation")
    }
    digests = case_digests(sections["target"])
    if resume and known["target_cases"] != digests:
        raise InputError(f"the training in {output} was begun with other cases under 'target': go on with those.")
    begin_training(
        root, known["datalist"], known["data_root"], sections["training"], sections["validation"], resume=resume
    )
    prepared = {name: [_prepared(case, known, name) for case in cases] for name, cases in sections.items()}
    known |= {"classes": _classes(prepared), "target_cases": digests}
    if not resume:
        with written_whole(root / "settings.json") as temporary:
            temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")

    spec = PatchSpec(int(known["patch_size"]), int(known["spatial_dims"]))
    chosen = _device(device)

    def sampler(name: str, seed: int) -> PatchSampler:
        sizes = known["batch_size"], known["patches_per_epoch"]
        return PatchSampler(prepared[name], spec, *sizes, seed=known["seed"] + seed, device=chosen)

    streams = {"training": sampler("training", 0), "target": sampler("target", 1)}
    DetectorTrainer(
        chosen,
        known["epochs"],
        streams,
        _network(known),
        sampler("validation", 2) if prepared["validation"] else streams["training"],
        root / "checkpoints",
        root / "models" / "model.pt",
        patience=known["epochs"],
        seed=known["seed"],
        resume=resume,
        decay=True,
    ).run()
    return root


def translate(
    scans: str | Path | Sequence[str | Path],
    model: str | Path,
    output: str | Path,
    *,
    region: str | Path | None = None,
    device: str | None = None,
) -> list[Path]:
    """Translate scans of the source's kind, each to ``OUTPUT/CASE/CASE_translated.nii.gz`` on the grid of the scan.

    Values are in the normalised units of the target's chain, 0 outside the region. Windows overlap by half.

    Args:
        scans: files, one a case.
        model: folder that :func:`train` wrote.
        output: folder of the results.
        region: a mask file, or a way to find the region; as in training if not given.
        device: as in :func:`train`.
    """
    return _run(scans, model, output, region, device, "source", labels=False)


def segment(
    scans: str | Path | Sequence[str | Path],
    model: str | Path,
    output: str | Path,
    *,
    kind: str = "target",
    region: str | Path | None = None,
    device: str | None = None,
) -> list[Path]:
    """Segment scans, each to ``OUTPUT/CASE/CASE_segmentation.nii.gz``, labels of the source on the grid of the scan.

    Args:
        scans, model, output, region, device: see :func:`translate`.
        kind: "target", or "source", which is translated first.
    """
    if kind not in ("source", "target"):
        raise ConfigError(f"kind is {kind!r}: use one of source, target.")
    return _run(scans, model, output, region, device, kind, labels=True)


def open_model(model: str | Path, device: str | None = None) -> tuple[dict[str, Any], Any, Any]:
    """The settings of a model that :func:`train` wrote, its network, and the inferer that takes volumes through it.

    Raises:
        InputError: if ``model`` is no such folder.
    """
    from monai.inferers import SliceInferer, SlidingWindowInferer

    from medanomaly.training import load_detector

    known = _read_settings(Path(model))
    network = load_detector(_network(known), Path(model) / "models" / "model.pt").to(_device(device))
    size = int(known["patch_size"])
    if known["spatial_dims"] == 2:
        return known, network, SliceInferer(2, (size, size), sw_batch_size=8, overlap=0.5, mode="gaussian")
    return known, network, SlidingWindowInferer((size,) * 3, sw_batch_size=2, overlap=0.5, mode="gaussian")


def _run(
    scans: str | Path | Sequence[str | Path],
    model: str | Path,
    output: str | Path,
    region: str | Path | None,
    device: str | None,
    kind: str,
    labels: bool,
) -> list[Path]:
    import torch
    from monai.transforms import Invertd

    from medanomaly.data.writing import save_on_grid
    from medanomaly.preprocessing.inverse import FillOutsided, MaskOutsided
    from medanomaly.preprocessing.region_mask import mask_file

    require_folder(output)
    known, network, inferer = open_model(model, device)
    if labels and not known["classes"]:
        raise ConfigError(f"{model} was trained without labels, so it has no segmenter: give each case a 'label'.")
    mask = mask_file(region)
    way = None if region is None else "given" if mask is not None else str(region)
    prepare = _chain(known, kind, way)
    predict = network.segment if kind == "target" else network
    named = [scans] if isinstance(scans, str | Path) else list(scans)
    written = []
    for case in cases_from_files(named, 1, mask):
        data = dict(prepare(case))
        with torch.no_grad():
            found = inferer(seen(data["image"], data["region"])[None].to(_device(device)), predict)[0].cpu()
        values = found[int(kind == "source") :].argmax(dim=0, keepdim=True).float() if labels else found[:1]
        data["pred"] = torch.where(data["region"].as_tensor() > 0, values, torch.nan)
        for step in (
            FillOutsided(),
            Invertd("pred", transform=prepare, orig_keys="image", nearest_interp=labels),
            MaskOutsided(),
        ):
            data = dict(step(data))
        volume = np.nan_to_num(np.asarray(torch.as_tensor(data["pred"]))[0])
        name = "segmentation" if labels else "translated"
        path = Path(output) / case["case"] / f"{case['case']}_{name}.nii.gz"
        dtype = np.uint8 if labels else np.float32
        save_on_grid(volume, path, data["image"].meta["filename_or_obj"], np.asarray(data["pred"].affine), dtype)
        written.append(path)
    return written


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    for key in settings:
        if key not in DEFAULTS:
            near = difflib.get_close_matches(key, DEFAULTS, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(DEFAULTS)}."
            raise ConfigError(f"a translation has no setting {key!r}. {hint}")
    for key in ("source", "target"):
        if key in settings and settings[key] not in CHAINS:
            raise ConfigError(f"{key} is {settings[key]!r}: use one of {', '.join(CHAINS)}.")
    return dict(settings)


def _read_settings(root: Path) -> dict[str, Any]:
    file = root / "settings.json"
    if not file.exists():
        raise InputError(f"{root} has no settings.json: give a folder that 'medanomaly translate train' wrote.")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _network(known: Mapping[str, Any]) -> SADGAN:
    import torch

    from medanomaly.generators.sadgan import SADGAN

    torch.manual_seed(known["seed"])
    return SADGAN(classes=known["classes"], **{name: known[name] for name in NETWORK})


def _device(name: str | None) -> torch.device:
    import torch

    found = device_setting(name).get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(found)


def _chain(known: Mapping[str, Any], kind: str, region: str | None = None) -> Compose:
    """What prepares scans of ``kind``, "source" or "target"."""
    from medanomaly.preprocessing import chains

    make = getattr(chains, known[kind])
    way = region or known[f"{kind}_region"]
    chain: Compose = make(in_channels=1, spacing=known["spacing"], **({} if way is None else {"region": way}))
    return chain


def _prepared(case: Mapping[str, Any], known: Mapping[str, Any], section: str) -> dict[str, Any]:
    """A case whose image has its labels, if there are any, as a second channel: those of the sampler are lesions."""
    import torch

    kind = "target" if section == "target" else "source"
    data = _chain(known, kind)({key: value for key, value in case.items() if key != "label"})
    image = seen(data["image"], data["region"])
    labels = None if kind == "target" or case.get("label") is None else _labels(case, data["image"])
    stacked = image if labels is None else torch.cat([image, torch.from_numpy(labels)[None]])
    return {"case": case["case"], "image": stacked, "region": data["region"].as_tensor()}


def seen(image: Any, region: Any) -> torch.Tensor:
    """What the networks see of a prepared image (1, H, W, D): -1 outside the region.

    As prepared it is 0 there, which is also what fluid has on T1: what is bright in the target beside what is none.
    """
    import torch

    return torch.where(torch.as_tensor(region) > 0, torch.as_tensor(image), -1.0)


def _labels(case: Mapping[str, Any], image: Any) -> NDArray[np.float32]:
    """The mask of a case (H, W, D), by nearest neighbour on the grid of its prepared image."""
    from monai.transforms import ResampleToMatch

    from medanomaly.data.reading import read_volume

    if isinstance(case["label"], int | float):
        raise InputError(f"the label of {case['case']} is {case['label']}, but a mask of whole numbers is needed here.")
    drawn: Any = read_volume(case["label"])
    on_grid: Any = ResampleToMatch(mode="nearest", padding_mode="zeros")(drawn[None], img_dst=image)
    labels: NDArray[np.float32] = np.asarray(on_grid.as_tensor(), np.float32)[0]
    if not np.array_equal(labels, np.rint(labels)) or labels.min() < 0 or not labels.any():
        raise InputError(
            f"{case['label']} is no mask of whole numbers from 0 on with something drawn where its image lies: labels "
            f"found {np.unique(labels)[:5].tolist()}."
        )
    return labels


def _classes(prepared: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """Of the labels, with the background; 0 if there are none, or none that are held out to choose the epoch by.

    Raises:
        InputError: if some cases have labels and others have not.
    """
    sources = [*prepared["training"], *prepared["validation"]]
    have = [case["image"].shape[0] == 2 for case in sources]
    if any(have) and not all(have):
        names = [case["case"] for case, has in zip(sources, have, strict=True) if not has]
        raise InputError(f"{', '.join(names[:5])} have no 'label', and other source cases have: give all, or none.")
    if not any(have):
        return 0
    if not prepared["validation"]:
        raise InputError("the cases under 'training' have labels: name held-out ones under 'validation', too.")
    return int(max(float(case["image"][1].max()) for case in sources)) + 1
