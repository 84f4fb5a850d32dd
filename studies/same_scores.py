"""Do two checkouts of this project give the same scores, bit for bit, and learn the same weights?

    python -m studies.same_scores OLD_CHECKOUT NEW_CHECKOUT

For every variant in the catalogue of NEW_CHECKOUT that both know, in 2-D and 3-D: a detector is made by a seed, takes
three training steps and fits its statistics, and scores patches. Then weights (by their order, whatever their names)
and scores must be equal. It is for changes that must not change a result, such as a move of code; the tests compare
with scores that are kept (tests/detectors/scores.json), with a tolerance, as other processors round differently.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)  # what a checkout is asked for, by itself
    given = parser.parse_args()
    if given.write:
        torch.save(results(given.new), given.write)
        return
    with tempfile.TemporaryDirectory() as folder:
        old, new = (ask(checkout, given.new, Path(folder)) for checkout in (given.old, given.new))
    differ = 0
    for label, (weights, scores) in new.items():
        if label not in old:
            print(f"new      {label}")
            continue
        same_weights = len(weights) == len(old[label][0]) and all(map(torch.equal, weights, old[label][0]))
        same_scores = torch.equal(scores, old[label][1])
        differ += not (same_weights and same_scores)
        print(f"{'same' if same_weights and same_scores else 'DIFFERENT':9}{label}")
    print(f"{differ} of {len(new)} differ")
    sys.exit(bool(differ))


def ask(checkout: Path, catalogue_of: Path, folder: Path) -> dict[str, tuple[list[torch.Tensor], torch.Tensor]]:
    """What the code of ``checkout`` makes of the catalogue of the other, in a process of its own."""
    file = folder / f"{len(list(folder.iterdir()))}.pt"
    command = [sys.executable, __file__, str(checkout), str(catalogue_of.resolve()), "--write", str(file)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(checkout.resolve())}, cwd=folder)
    return torch.load(file)


def results(catalogue_of: Path) -> dict[str, tuple[list[torch.Tensor], torch.Tensor]]:
    """Weights and scores by what was driven; of what this checkout cannot make, nothing."""
    importlib.import_module("medanomaly")  # of this checkout, by PYTHONPATH; the tests are of the other
    sys.path.insert(0, str(catalogue_of))
    catalogue = importlib.import_module("tests.detectors.catalogue")
    torch.set_num_threads(1)
    found = {}
    for entry in catalogue.CATALOGUE:
        for arguments in entry.variants:
            for spatial_dims, channels in entry.kinds:
                label = f"{entry.name} {dict(arguments)}, {spatial_dims}-D, {channels} channel(s)"
                try:
                    found[label] = trained(entry.name, arguments, spatial_dims, channels)
                except (ImportError, KeyError, TypeError, ValueError) as error:  # MedanomalyErrors among them
                    print(f"left out {label}: {error}", file=sys.stderr)
    return found


def trained(name: str, arguments: object, spatial_dims: int, channels: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    from medanomaly import detectors

    # until version 0.2, a dictionary named the detectors, and optimizers() and grow() stood for stages()
    kind = detectors.detector_class(name) if hasattr(detectors, "detector_class") else detectors.DETECTORS[name]
    torch.manual_seed(11)
    detector = kind(in_channels=channels, patch_size=16, spatial_dims=spatial_dims, **arguments)
    generator = torch.Generator().manual_seed(5)
    batches = [torch.rand((32, channels) + (16,) * spatial_dims, generator=generator) for _ in range(4)]
    old = hasattr(detector, "optimizers")
    stages = None if old else detector.stages()
    learning = detector.optimizers() if old else next(stages, None)
    detector.train()
    streams = getattr(detector, "streams", ("training",))
    for step, batch in enumerate(batches[:3]):
        if learning:
            given = {stream: batch.roll(n, 0) for n, stream in enumerate(streams)}  # for several, a dictionary
            detector.training_step(given if len(streams) > 1 else batch, learning)
        if step == 1 and old and detector.grow():
            learning = detector.optimizers()
        elif step == 1 and not old:
            learning = next(stages, learning)
    detector.eval()
    detector.fit_statistics(batches[:3])
    with torch.no_grad():
        return [value.clone() for value in detector.state_dict().values()], detector(batches[3][:7])


if __name__ == "__main__":
    main()
