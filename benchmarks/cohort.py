"""(m) Memory and time of training on a cohort larger than memory, against one that fits, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from benchmarks.machine import REPOSITORY
from benchmarks.scaling import status_bytes
from benchmarks.tables import Gate, Section, Table, at_most, number, skipped
from benchmarks.timing import Run, say
from benchmarks.ways import ellipse_mask
from medanomaly.detectors import GANomaly
from medanomaly.patches import PatchSampler, PatchSpec
from medanomaly.preprocessing.case_file import read_case, write_case
from medanomaly.training import DetectorTrainer

GIGABYTE = 1e9
MEMORY_GATE, TIME_GATE = 3.0, 1.15  # gigabytes; times an epoch on the cohort that fits
PATCH_SIZE, BATCH = 16, 128


@dataclass(frozen=True)
class Setting:
    """A training on the first ``cases`` volumes of a folder; the last tenth of as many is held out for validation."""

    cases: int
    epochs: int = 5
    patches_per_epoch: int = 12_800
    held_bytes: float | None = None

    @property
    def held_out(self) -> int:
        return max(self.cases // 10, 1)


@dataclass(frozen=True)
class Cohort:
    """How large the volumes are, and the trainings on the few that fit and on the many."""

    side: int
    few: Setting
    many: Setting


FULL = Cohort(192, Setting(10), Setting(300))
QUICK = Cohort(48, Setting(2, 3, 256, 0), Setting(6, 3, 256, 0))


def run(settings: Run) -> Section:
    """Make the volumes, then train on few and on many in turns."""
    cohort = QUICK if settings.quick else FULL
    section, chosen = Section(), {"few": cohort.few, "many": cohort.many}
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory(prefix="medanomaly_cohort_") as folder:
        total = cohort.many.cases + cohort.many.held_out
        say(f"[m] making {total} volumes of {cohort.side}^3 in {folder}")
        make_cases(Path(folder), total, cohort.side)
        taken = sum(512 * file.stat().st_blocks for file in Path(folder).iterdir())
        rounds = settings.rounds(2)
        for number_of_round in range(rounds):
            for name, setting in chosen.items():
                say(f"[m] training on {setting.cases} volumes, round {number_of_round + 1} of {rounds}")
                measured[name].append(_in_a_process(Path(folder), setting, settings.device))
    seconds, work = ({name: _median(found, what) for name, found in measured.items()} for what in ("wall", "cpu"))
    rows = []
    for name, setting in chosen.items():
        found = measured[name]
        first = median(each["first"] for each in found) - seconds[name]
        rows.append(
            (
                f"{setting.cases} and {setting.held_out} held out",
                number(4 * cohort.side**3 * (setting.cases + setting.held_out) / GIGABYTE),
                number(max(each["peak"] for each in found) / GIGABYTE) if found[0]["peak"] else "not known",
                f"{number(seconds[name])} ({_range(found, 'wall')})",
                number(seconds[name] / seconds["few"]),
                f"{number(work[name])} ({_range(found, 'cpu')})",
                number(work[name] / work["few"]),
                number(first),
            )
        )
    columns = (
        "volumes",
        "as float32, GB",
        "peak of the process, GB",
        "s an epoch",
        "times the first row",
        "CPU s an epoch",
        "times the first row",
        "s more for the first epoch",
    )
    note = (
        f"Volumes of {cohort.side}^3, 30 % of them in the region, read as prepared cases from files as the cache keeps "
        f"them ({number(taken / GIGABYTE)} GB on disk for all). GANomaly A, {PATCH_SIZE} px, batches of {BATCH}, "
        f"{cohort.many.patches_per_epoch:,} patches an epoch and a tenth as many for validation, through "
        f"DetectorTrainer with the defaults of PatchSampler. Medians over the epochs of {rounds} processes each, in "
        "turns, without the first epoch, in which all cases are read, checked and prepared. The peak is that of the "
        "resident set of the whole process, libraries and touched pages of mapped files included; the page cache is "
        "warm. In brackets, the fastest and the slowest epoch. CPU seconds are those of all threads; with one thread "
        "(OMP_NUM_THREADS=1) other work on the machine changes them little, with several they hold the waiting of one "
        "for another."
    )
    section.tables.append(Table("(m) Training on a cohort larger than memory", columns, rows, note))
    section.gates = gates(cohort, seconds, work, [each["peak"] for each in measured["many"]])
    section.raw = dict(measured)
    return section


def gates(
    cohort: Cohort, seconds: Mapping[str, float], work: Mapping[str, float], peaks: Sequence[float | None]
) -> list[Gate]:
    """The peak of the process, and what an epoch takes on many volumes over what it takes on few."""
    name = f"training on {cohort.many.cases} volumes of {cohort.side}^3: peak of the process"
    known = [peak for peak in peaks if peak is not None]
    memory = (
        at_most(name, MEMORY_GATE, max(known) / GIGABYTE, "GB")
        if known
        else skipped(name, f"<= {MEMORY_GATE} GB", "needs Linux's /proc")
    )
    time_of = f"an epoch on {cohort.many.cases} volumes against {cohort.few.cases}"
    return [
        memory,
        at_most(f"{time_of}, seconds", TIME_GATE, seconds["many"] / seconds["few"], "x"),
        at_most(f"{time_of}, CPU seconds", TIME_GATE, work["many"] / work["few"], "x"),
    ]


def make_cases(folder: Path, count: int, side: int) -> None:
    """Prepared cases in files as the cache keeps them: textured ellipsoids, each with a noise of its own."""
    region = ellipse_mask((side,) * 3)[0]
    place = torch.linspace(0, 12, side)
    texture = torch.sin(place)[:, None, None] + torch.sin(1.3 * place)[:, None] + torch.sin(0.7 * place)
    noise = torch.rand((side,) * 3, generator=torch.Generator().manual_seed(0))
    for case in range(count):
        image = region * (0.5 + 0.1 * texture.roll(case, case % 3) + 0.2 * noise.roll(7 * case + 1, (case + 1) % 3))
        write_case({"image": MetaTensor(image), "region": MetaTensor(region)}, folder / f"{case}.case")


class Cases(Sequence[dict[str, Any]]):
    """Prepared cases of a folder, each read and checked when it is asked for, as a hit of the cache is."""

    def __init__(self, folder: Path, numbers: range) -> None:
        self.folder, self.numbers = folder, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        case = read_case(self.folder / f"{self.numbers[number]}.case")
        assert case is not None
        return {**case, "case": str(self.numbers[number])}


class Clock:
    """Wall and CPU seconds of each epoch, from its start to the start of the next or the end, validation included."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.note)
        engine.add_event_handler(Events.COMPLETED, self.note)

    def note(self) -> None:
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())


def measure(folder: Path, setting: Setting, device: torch.device) -> dict[str, Any]:
    """Train in this very process: seconds of each epoch but the first, of the first, and the peak in bytes."""
    torch.manual_seed(0)
    common = {"spec": PatchSpec(PATCH_SIZE), "batch_size": BATCH, "device": device, "held_bytes": setting.held_bytes}
    end = setting.cases + setting.held_out
    training = PatchSampler(
        Cases(folder, range(setting.cases)), patches_per_epoch=setting.patches_per_epoch, seed=0, **common
    )
    validation = PatchSampler(
        Cases(folder, range(setting.cases, end)),
        patches_per_epoch=max(setting.patches_per_epoch // 10, BATCH),
        flip=False,
        seed=1,
        **common,
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        DetectorTrainer(
            device=device,
            max_epochs=setting.epochs,
            train_data_loader=training,
            network=GANomaly(1, PATCH_SIZE),
            val_data_loader=validation,
            ckpt_dir=Path(output) / "checkpoints",
            model_file=Path(output) / "model.pt",
            patience=setting.epochs,
            progress=False,
            train_handlers=[clock],
        ).run()
    wall, cpu = ([b - a for a, b in pairwise(times)] for times in (clock.wall, clock.cpu))
    return {"wall": wall[1:], "cpu": cpu[1:], "first": wall[0], "peak": status_bytes("VmHWM")}


def _median(found: Sequence[Mapping[str, Any]], what: str) -> float:
    return median(value for each in found for value in each[what])


def _range(found: Sequence[Mapping[str, Any]], what: str) -> str:
    values = [value for each in found for value in each[what]]
    return f"{number(min(values))} to {number(max(values))}"


def _in_a_process(folder: Path, setting: Setting, device: torch.device) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.cohort", str(folder), json.dumps(asdict(setting)), str(device)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the training on {setting.cases} volumes failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Setting(**json.loads(sys.argv[2])), torch.device(sys.argv[3]))))
