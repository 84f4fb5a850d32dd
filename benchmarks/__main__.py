"""``python -m benchmarks``: run the sections, and write a table, a plot and the raw figures."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import torch

from benchmarks import cohort, drawing, exactness, heatmaps, machine, metrics, pipeline, scaling, training, voxels
from benchmarks.plots import draw
from benchmarks.tables import Section, as_json, gate_table, markdown
from benchmarks.timing import Run, say

SECTIONS = {
    "x": exactness.run,
    "a": heatmaps.run,  # writes (f), the arithmetic floor, too
    "b": training.run,
    "c": drawing.run,
    "d": metrics.run,
    "e": scaling.run,
    "m": cohort.run,
    "p": pipeline.run,
    "v": voxels.run,
}
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, run, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does everything run?")
    parser.add_argument(
        "--only",
        default="",
        help="sections, such as a,c: x exactness, a heatmaps and f their floor, b training, c drawing, d metrics, "
        "e scaling, m training on a cohort larger than memory, p the whole pipeline on a real scan, v voxel scores",
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("data"),
        help="folder of open_ms, a real scan for section p, which is left out without it (%(default)s)",
    )
    given = parser.parse_args(arguments)
    chosen = ["a" if name == "f" else name for name in given.only.replace(" ", "").split(",") if name] or list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}, f")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    machine.strict_fp32()
    start = time.perf_counter()
    device = torch.device(given.device)
    described = machine.describe(device)
    say("measuring the machine's matrix-product peak")
    peaks = machine.measure_peaks(device, given.quick)
    for name, rate in peaks.rates.items():
        described[f"best {name}"] = f"{rate / 1e9:,.0f} GFLOP/s"
    settings = Run(device, given.quick, given.data_root, peaks)
    sections: dict[str, Section] = {}
    for name in (name for name in SECTIONS if name in chosen):
        begun = time.perf_counter()
        sections[name] = SECTIONS[name](settings)
        say(f"[{name}] took {time.perf_counter() - begun:.0f} s")
    described["time of the whole run"] = f"{(time.perf_counter() - start) / 60:.1f} minutes"

    _write(given, described, sections, device, whole=not given.quick and len(sections) == len(SECTIONS))


def _write(
    given: argparse.Namespace,
    described: dict[str, str],
    sections: dict[str, Section],
    device: torch.device,
    whole: bool,
) -> None:
    """The results as Markdown, JSON and a plot; those of a partial run under a name of their own."""
    name = machine.slug(device) + ("" if whole else "-partial")
    options = [
        ("--quick", given.quick),
        (f"--only {given.only}", given.only),
        (f"--device {device}", device.type != "cpu"),
    ]
    command = " ".join(["python -m benchmarks", *(option for option, used in options if used)])
    given.output.mkdir(parents=True, exist_ok=True)
    plot = given.output / f"{name}.png"
    where = described["processor" if device.type == "cpu" else "GPU"]
    title = f"{where}; commit {described['commit']}; {described['date'][:10]}"
    drawn = draw(list(sections.values()), plot, title)
    report = markdown(described, list(sections.values()), command, plot.name if drawn else None)
    (given.output / f"{name}.md").write_text(report)
    (given.output / f"{name}.json").write_text(json.dumps(as_json(described, sections, command), indent=1) + "\n")
    gates = [gate for section in sections.values() for gate in section.gates]
    say("\n" + gate_table(gates))
    say(f"\n{sum(gate.met is True for gate in gates)} of {len(gates)} gates met; {given.output / name}.md, .json")


if __name__ == "__main__":
    main()
