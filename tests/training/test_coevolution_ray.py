"""Coevolution on a local Ray cluster: as in one process, also when a worker was killed; and without waiting."""

from __future__ import annotations

import pytest
import torch

from medanomaly.errors import ConfigError, TrainingError
from tests.training.small_grids import assert_same, evolve, gan

ray = pytest.importorskip("ray", reason="Ray is an extra")
pytestmark = pytest.mark.slow  # the processes of Ray, and the packages that each of four workers reads


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Four workers, whatever the machine has; one start for all tests here."""
    # workers would otherwise wait for all that runs beside these tests, and be given up as if they were lost
    patience = {"worker_register_timeout_seconds": 600, "worker_niceness": 0}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error", _system_config=patience)
    yield
    ray.shutdown()


def test_a_killed_worker_comes_back_and_the_grid_ends_as_in_one_process(tmp_path):
    order = tmp_path / "die"

    def kill_one(record):
        if record["iteration"] == 2 and not order.with_suffix(".done").exists():
            order.touch()  # whichever cell learns next dies in the middle of it

    grid = evolve(4, network=gan(order=order), folder=tmp_path / "ray", workers="ray", report=kill_one)
    assert order.with_suffix(".done").exists()
    assert [len(records) for records in grid.history] == [4] * 4
    assert sorted(path.name for path in (tmp_path / "ray").glob("cell*.pt")) == [f"cell{n:03d}.pt" for n in range(4)]
    here = evolve(4, network=gan(order=tmp_path / "never"))
    assert_same(grid, here)
    assert_same(evolve(4, network=gan(order=tmp_path / "never"), folder=tmp_path / "ray", resume=True), here)


def test_without_waiting_all_cells_reach_the_end(tmp_path):
    seen = []
    grid = evolve(3, folder=tmp_path, workers="ray", wait=False, report=seen.append)
    assert [[record["iteration"] for record in records] for records in grid.history] == [[1, 2, 3]] * 4
    assert sorted((record["cell"], record["iteration"]) for record in seen) == [
        (c, i) for c in range(4) for i in (1, 2, 3)
    ]
    assert torch.isfinite(grid.sample(10)).all()


def test_errors_of_a_cell_reach_the_one_who_asked(tmp_path):
    with pytest.raises(TrainingError, match=r"loss of cell \d became (nan|inf)"):
        evolve(3, network=gan("wgan_gp", learning_rate=1e30), folder=tmp_path, workers="ray")
    with pytest.raises(ConfigError, match="on Ray needs a folder"):
        evolve(workers="ray")
