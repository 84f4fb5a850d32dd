"""The whole flow on a real scan: bf16 against fp32 of a trained model, and how much of ``score`` the network takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import REPOSITORY
from benchmarks.tables import Section, Table, at_least, at_most, number, skipped
from benchmarks.timing import Run, interleaved, medians, say, synchronize
from benchmarks.ways import grid_of
from medanomaly.detectors import GANomaly
from medanomaly.evaluation import in_region, voxel_metrics
from medanomaly.patches import PatchScoreInferer, PatchSpec
from medanomaly.preprocessing import brain_mri
from medanomaly.training import load_detector

AUROC_GATE = "bf16: change of the in-brain AUROC, open_ms patient26"
SHARE_GATE = "`medanomaly score`, 182x218x182: share of its wall time after imports in the network"
FP32, BF16 = "fp32", "bf16"


def run(settings: Run) -> Section:
    """Train a small GANomaly on patient07, score patient26."""
    data = (settings.data_root / "open_ms").resolve()
    if not data.is_dir():
        reason = f"{data} is not there"
        return Section(gates=[skipped(AUROC_GATE, "< 0.002", reason), skipped(SHARE_GATE, ">= 85 %", reason)])
    with tempfile.TemporaryDirectory() as folder:
        model, scan = Path(folder) / "model", data / "patient26" / "FLAIR.nii.gz"
        say("[p] training a small GANomaly on patient07")
        epochs = ["--epochs", "1", "--set", "patches_per_epoch=1280"] if settings.quick else ["--epochs", "4"]
        cohort = ["--datalist", str(REPOSITORY / "data_manifests" / "open_ms.json"), "--data-root", str(data)]
        options = ["--brain", "nonzero", "--output", str(model), "--device", str(settings.device)]
        _call(folder, "medanomaly.cli", "train", *cohort, *options, *epochs)
        section = _compare_precision(model, data, settings)
        rounds = settings.rounds(3)
        parts = []
        for number_of_round in range(rounds):
            shutil.rmtree(Path(folder) / "cache", ignore_errors=True)  # this scan was never prepared before
            say(f"[p] medanomaly score, round {number_of_round + 1} of {rounds}")
            output = str(Path(folder) / f"scores{number_of_round}")
            command = ["score", str(scan), "--brain", "nonzero", "--model", str(model), "--output", output]
            done = _call(folder, "benchmarks.pipeline", *command, "--device", str(settings.device))
            parts.append(json.loads(done.splitlines()[-1]))
    chosen = sorted(parts, key=lambda part: part["wall"])[(len(parts) - 1) // 2]
    share = chosen["network"] / chosen["wall"]
    rows = [("in the network", number(chosen["network"]), f"{100 * share:.1f} %")]
    rows.append(("all else", number(chosen["wall"] - chosen["network"]), f"{100 * (1 - share):.1f} %"))
    section.tables.append(
        Table(
            "`medanomaly score` on a 182 x 218 x 182 scan",
            ("part", "s", "share"),
            rows,
            f"Wall time after imports, {rounds} runs, the median one (of two, the faster); "
            "16 px, stride 4, the settings of the bundle.",
        )
    )
    section.gates.append(at_least(SHARE_GATE, 0.85, share, "%"))
    section.raw["score"] = parts
    return section


def _compare_precision(model: Path, data: Path, settings: Run) -> Section:
    """AUROC and time of patient26 with the same weights in fp32 and bf16."""
    config = json.loads((model / "configs" / "inference.json").read_text())
    prepare = brain_mri(config["in_channels"], config["spacing"], "nonzero")
    paths = {
        key: str(data / "patient26" / f"{file}.nii.gz") for key, file in (("image", "FLAIR"), ("label", "lesions"))
    }
    case: Any = prepare({**paths, "case": "patient26"})
    image, brain = case["image"].as_tensor()[None], case["region"].as_tensor()[None]
    label = case["label"].as_tensor()[0].numpy()
    detector = load_detector(
        GANomaly(config["in_channels"], config["patch_size"], config["spatial_dims"]), model / "models" / "model.pt"
    ).to(settings.device)
    size = (config["patch_size"], config["stride"], config["spatial_dims"])
    spec = PatchSpec(config["patch_size"], config["spatial_dims"], config["planes"], config["stride"])
    heatmaps: dict[str, torch.Tensor] = {}

    def score(name: str, amp: bool) -> None:
        heatmaps[name] = PatchScoreInferer(spec, amp=amp)(image, detector, mask=brain)

    say("[p] patient26 in fp32 and bf16")
    ways = {FP32: lambda: score(FP32, False), BF16: lambda: score(BF16, True)}
    seconds = interleaved(ways, settings.rounds(3), settings.device, warm_up=not settings.quick)
    times = medians(seconds)
    _, patches = grid_of(brain, *size)
    auroc = {}
    for name, heatmap in heatmaps.items():
        in_mask = np.where(brain[0, 0].numpy() > 0, heatmap[0, 0].numpy(), np.nan)
        auroc[name] = voxel_metrics(*in_region(in_mask, label))["auroc"]
    rows = [
        (
            name,
            number(times[name]),
            number(patches / times[name]),
            f"{auroc[name]:.5f}",
            f"{number(times[FP32] / times[name])}x",
        )
        for name in ways
    ]
    return Section(
        tables=[
            Table(
                "A trained model in bf16",
                ("network in", "s", "patches/s", "in-brain AUROC", "against fp32"),
                rows,
                f"FLAIR of open_ms patient26, {patches:,} patches; GANomaly A, {size[0]} px, trained on patient07 by "
                f"`medanomaly train` for {config_epochs(model)} epoch(s). Plain brightness has an AUROC of 0.948 "
                "there: this model is for the clock, not for use.",
            )
        ],
        gates=[at_most(AUROC_GATE, 0.002, abs(auroc[BF16] - auroc[FP32]), "")],
        raw={"seconds": seconds, "auroc": auroc, "patches": patches},
    )


def config_epochs(model: Path) -> int:
    """How many epochs the model was trained for."""
    return int(json.loads((model / "configs" / "train.json").read_text())["max_epochs"])


def _call(folder: str, module: str, *arguments: str) -> str:
    """Run a module in a process of its own, with a cache of prepared cases in ``folder``; its output."""
    command, environment = (
        [sys.executable, "-m", module, *arguments],
        {**os.environ, "MEDANOMALY_CACHE": f"{folder}/cache"},
    )
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def timed_score(arguments: list[str]) -> dict[str, float]:
    """Run ``medanomaly score`` in this process; its wall time after imports, and the time within the network."""
    import monai.bundle.workflows
    import monai.engines  # noqa: F401

    import medanomaly.report
    import medanomaly.workflows.bundles  # noqa: F401
    from medanomaly.cli import app

    device = torch.device(arguments[arguments.index("--device") + 1])
    started, total = 0.0, 0.0

    def before(module: torch.nn.Module, inputs: Any) -> None:
        nonlocal started
        if isinstance(module, GANomaly):
            synchronize(device)
            started = time.perf_counter()

    def after(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        nonlocal total
        if isinstance(module, GANomaly):
            synchronize(device)
            total += time.perf_counter() - started

    torch.nn.modules.module.register_module_forward_pre_hook(before)
    torch.nn.modules.module.register_module_forward_hook(after)
    start = time.perf_counter()
    app(arguments, standalone_mode=False)
    return {"wall": time.perf_counter() - start, "network": total}


if __name__ == "__main__":
    print(json.dumps(timed_score(sys.argv[1:])))
