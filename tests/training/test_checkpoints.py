"""What is loaded is what was saved; anything else is refused in one line."""

from __future__ import annotations

import pickle

import pytest
import torch

from medanomaly.detectors import GANomaly
from medanomaly.errors import InputError
from medanomaly.training import load_checkpoint, load_detector


def network(**arguments):
    return GANomaly(**{"features": 4, "latent_dim": 8, **arguments})


class Malicious:
    def __reduce__(self):
        return (pytest.fail, ("code in the file was run",))


def test_a_saved_detector_scores_as_before_and_is_ready_to_score(tmp_path):
    saved, other = network().eval(), network()
    torch.save(saved.state_dict(), tmp_path / "model.pt")
    loaded = load_detector(other, tmp_path / "model.pt")
    patches = torch.rand(4, 1, 16, 16)
    assert loaded is other and not loaded.training
    assert torch.equal(loaded(patches), saved(patches))
    assert load_detector(network(), str(tmp_path / "model.pt")) is not None


@pytest.mark.parametrize("load", [load_checkpoint, lambda path: load_detector(network(), path)])
def test_a_missing_file_is_named(tmp_path, load):
    with pytest.raises(InputError, match=r"there is no model at .*absent\.pt: train one first"):
        load(tmp_path / "absent.pt")


def write_folder(path):
    path.mkdir()


def write_truncated(path):
    torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize(
    "write",
    [
        write_folder,
        write_truncated,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x00\x01garbage" * 50),
        lambda path: path.write_text("a text, no model"),
        lambda path: torch.save(Malicious(), path),
        lambda path: path.write_bytes(pickle.dumps(Malicious(), protocol=2)),
    ],
    ids=["folder", "truncated", "empty", "garbage", "text", "code", "pickled code"],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, write):
    write(tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt is not a checkpoint of this project: .+") as caught:
        load_checkpoint(tmp_path / "model.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        network(in_channels=2).state_dict(),
        network(patch_size=32).state_dict(),
        network(latent_dim=9).state_dict(),
        network(variant="K").state_dict(),
        network(spatial_dims=3).state_dict(),
        {"epoch": 3, "detector": network().state_dict()},
        {},
        [1, 2],
        torch.zeros(3),
    ],
    ids=["channels", "patch size", "code length", "variant", "3-D", "last.pt", "no weights", "list", "tensor"],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"the weights in .*model\.pt do not fit the network") as caught:
        load_detector(network(), tmp_path / "model.pt")
    assert "\n" not in str(caught.value)
