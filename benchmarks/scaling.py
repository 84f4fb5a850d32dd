"""(e) How time and memory grow with volume, stride and number of cases; each in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.machine import REPOSITORY, strict_fp32
from benchmarks.networks import made_detector, operations_per_patch
from benchmarks.tables import Gate, Point, Section, Table, at_most, number, skipped
from benchmarks.timing import Run, say, seconds_of
from benchmarks.ways import ellipse_mask, grid_of, made_volume
from medanomaly.detectors import GANomaly
from medanomaly.patches import PatchScoreInferer, PatchSpec
from medanomaly.patches.layout import channels_last

STATUS = Path("/proc/self/status")
MEGABYTE = 2**20
MEMORY_GATE = 150  # megabytes, at 256^3


@dataclass(frozen=True)
class Setting:
    """Cubic volumes of ``side`` voxels, 30 % brain, scored one after the other."""

    patch_size: int
    side: int
    stride: int = 4
    cases: int = 1
    rounds: int = 1

    @property
    def name(self) -> str:
        cases = f", {self.cases} cases" * (self.cases > 1)
        return f"{self.patch_size} px, {self.side}^3, stride {self.stride}{cases}"


SETTINGS = [
    Setting(16, 128, 8, rounds=3),
    Setting(16, 128, 4, rounds=3),
    Setting(16, 128, 2, rounds=3),
    Setting(16, 256, rounds=2),
    Setting(16, 384, rounds=2),
    Setting(16, 96, 4, 1, rounds=3),
    Setting(16, 96, 4, 2, rounds=3),
    Setting(16, 96, 4, 4, rounds=3),
    Setting(32, 128, rounds=2),
    Setting(32, 256),
]
QUICK = [Setting(16, 96, 8), Setting(16, 96), Setting(16, 64, 4, 2), Setting(32, 64)]


def run(settings: Run) -> Section:
    """Run every setting in fresh processes, in rounds."""
    chosen = QUICK if settings.quick else SETTINGS
    found: dict[Setting, list[dict[str, float]]] = {setting: [] for setting in chosen}
    for number_of_round in range(max(setting.rounds for setting in chosen)):
        for setting in chosen:
            if number_of_round < setting.rounds:
                say(f"[e] {setting.name}, round {number_of_round + 1} of {setting.rounds}")
                found[setting].append(_in_a_process(setting, settings.device))
    section = Section(raw={setting.name: measured for setting, measured in found.items()})
    rows = []
    for setting, measured in found.items():
        seconds = median(m["seconds"] for m in measured)
        patches = int(measured[0]["patches"])
        growth = [m["growth"] for m in measured if m["growth"] is not None]
        rows.append(
            (
                setting.name,
                f"{patches:,}",
                number(seconds),
                number(1e6 * seconds / patches),
                number(median(m["seconds"] / m["network"] for m in measured)),
                number(max(growth) / MEGABYTE) if growth else "not known",
                number(measured[0]["loaded"] / MEGABYTE),
            )
        )
        panel = f"{setting.patch_size} px, 2-D"
        section.points.append(Point(panel, "PatchScoreInferer, whole volumes", patches, seconds))
        operations = operations_per_patch(made_detector(setting.patch_size))
        section.floors[panel] = {
            **{dtype: operations / settings.peaks.rate(dtype) for dtype in ("fp32", "bf16")},
            "torch.mm, fp32": operations / settings.peaks.rates["torch.mm, fp32"],
        }
        if setting.side == 256:
            name = f"{setting.patch_size} px: growth of the process while scoring 256^3"
            if growth:
                section.gates.append(at_most(name, MEMORY_GATE, max(growth) / MEGABYTE, "MB"))
            else:
                section.gates.append(skipped(name, f"<= {MEMORY_GATE} MB", "needs Linux's /proc"))
    section.tables.append(
        Table(
            "(e) Growth with the volume, the stride and the number of cases",
            (
                "volumes",
                "patches in the brain",
                "s",
                "us a patch",
                "times the bare network",
                "growth, MB",
                "loaded, MB",
            ),
            rows,
            "30 % brain. The bare network: as many patches, one batch shown again and again, timed just before and "
            "just after in the same process, since the speed of a machine drifts. Loaded: volume, mask, model and one "
            "heatmap. Growth: the peak of the resident set beyond the "
            "process with volume, mask and model, less one heatmap; library start-up not counted.",
        )
    )
    section.gates += linearity_gates(found)
    return section


def linearity_gates(found: dict[Setting, list[dict[str, float]]]) -> list[Gate]:
    """How far the time a touched patch lies from its median: as it is, and over the bare network's in that process."""
    gates = []
    for patch_size in (16, 32):
        measured = [runs for setting, runs in found.items() if setting.patch_size == patch_size]
        if len(measured) > 1:
            as_it_is = [median(m["seconds"] for m in runs) / runs[0]["patches"] for runs in measured]
            corrected = [median(m["seconds"] / m["network"] for m in runs) for runs in measured]
            for what, costs in (("", as_it_is), (", over the bare network's", corrected)):
                off = max(abs(value / median(costs) - 1) for value in costs)
                name = f"{patch_size} px: time a touched patch{what}, largest deviation from the median"
                gates.append(at_most(name, 0.10, off, "%"))
    return gates


def _in_a_process(setting: Setting, device: torch.device) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scaling", json.dumps(asdict(setting)), str(device)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{setting.name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(setting: Setting, device: torch.device) -> dict[str, float | None]:
    """Seconds, patches that touch the brain, and memory in bytes, of scoring in this very process."""
    detector = made_detector(setting.patch_size).to(device)
    inferer = PatchScoreInferer(PatchSpec(setting.patch_size, stride=setting.stride))
    small = max(2 * setting.patch_size, 48)
    inferer(made_volume((small, small, 16)), detector, mask=torch.ones(1, 1, small, small, 16))  # loads the libraries
    volume, mask = made_volume((setting.side,) * 3), ellipse_mask((setting.side,) * 3)
    _return_free_memory()
    before = status_bytes("VmRSS")
    if before is not None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew

    def score_cases() -> None:
        for _ in range(setting.cases):
            inferer(volume, detector, mask=mask)

    _, patches = grid_of(mask, setting.patch_size, setting.stride, 2)
    patches *= setting.cases
    bare = _seconds_of_the_network(detector, patches, device)
    seconds = seconds_of(score_cases, device)
    peak, heatmap = status_bytes("VmHWM"), 4 * volume.numel()
    bare = (bare + _seconds_of_the_network(detector, patches, device)) / 2
    model = sum(t.numel() * t.element_size() for t in detector.state_dict().values())
    return {
        "seconds": seconds,
        "network": bare,
        "patches": patches,
        "growth": None if peak is None or before is None else peak - before - heatmap,
        "loaded": 2 * 4 * volume.numel() + model + heatmap,
    }


@torch.inference_mode()
def _seconds_of_the_network(detector: GANomaly, patches: int, device: torch.device) -> float:
    """Seconds that ``patches`` patches take in batches of the inferer's size; timed on some, scaled up."""
    size = detector.patch_size
    batch = channels_last(torch.rand(2**16 // size**2, 1, size, size, device=device))
    times = max(min(patches // len(batch), 3_000_000 // size**2 // 100), 1)
    seconds = seconds_of(lambda: [detector(batch) for _ in range(times)], device)
    return seconds * patches / (times * len(batch))


def status_bytes(field: str) -> int | None:
    """A line of /proc/self/status in bytes; None where there is no such file."""
    if not STATUS.exists():
        return None
    found = re.search(rf"{field}:\s*(\d+) kB", STATUS.read_text())
    return int(found[1]) * 1024 if found else None


def _return_free_memory() -> None:
    """Hand freed memory back to the system, or it would hide some of the growth."""
    gc.collect()
    if STATUS.exists():
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


if __name__ == "__main__":
    strict_fp32()
    print(json.dumps(measure(Setting(**json.loads(sys.argv[1])), torch.device(sys.argv[2]))))
