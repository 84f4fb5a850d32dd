"""Generators of films: what they draw, that they learn, and that a training that goes on ends as one that ran on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medanomaly.errors import ConfigError
from medanomaly.generators.base import FilmGenerator
from medanomaly.generators.dcgan import DCGAN
from medanomaly.generators.ddpm import DDPM
from medanomaly.generators.progan import ProGAN
from medanomaly.patches.sampling import PatchSampler
from medanomaly.patches.spec import PatchSpec
from medanomaly.training.checkpoints import load_checkpoint
from medanomaly.training.trainer import DetectorTrainer

SMALL: dict[type[FilmGenerator], dict[str, Any]] = {
    DCGAN: {"features": 8, "latent_dim": 8, "learning_rate": 1e-3},
    ProGAN: {"features": (16, 16, 8), "latent_dim": 8, "learning_rate": 3e-3, "fade_images": 64, "decay": 0.9},
    DDPM: {"features": (16, 32), "steps": 10, "learning_rate": 2e-3, "decay": 0.99},
}
KINDS = pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.__name__)


def made(kind: type[FilmGenerator]) -> FilmGenerator:
    torch.manual_seed(0)
    return kind(size=16, **SMALL[kind])


def films(n: int = 64) -> Tensor:
    """A bright disk in the dark, (n, 1, 16, 16), a little different in each."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 16)] * 2, indexing="ij")
    radii = torch.linspace(0.5, 0.7, n)[:, None, None, None]
    return 0.1 + 0.8 * torch.sigmoid(20 * (radii - torch.sqrt(x**2 + y**2)))


def trainer(generator: FilmGenerator, folder: Path, epochs: int, images: Tensor) -> DetectorTrainer:
    everything = torch.ones(1, 16, 16, 1)
    cases = [{"case": str(n), "image": image[..., None], "region": everything} for n, image in enumerate(images)]
    sampler = PatchSampler(cases, PatchSpec(16), 16, len(cases), flip=False)
    places = (folder / "checkpoints", folder / "model.pt")
    return DetectorTrainer("cpu", epochs, sampler, generator, sampler, *places, resume=True, progress=False)


@KINDS
def test_images_are_drawn_by_the_seed_alone(kind: type[FilmGenerator]) -> None:
    generator = made(kind)
    images = generator.draw(5, seed=1, batch_size=4)
    assert images.shape == (5, 1, 16, 16) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1 and not images.requires_grad
    assert images.flatten(1).std(dim=0).max() > 0
    torch.rand(3)
    assert torch.equal(generator.draw(8, seed=1, batch_size=4)[:5], images)
    assert not torch.equal(generator.draw(5, seed=2, batch_size=4), images)


@KINDS
def test_a_training_that_goes_on_ends_as_one_that_ran_on(
    kind: type[FilmGenerator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, again = made(kind), made(kind)
    trainer(whole, tmp_path / "whole", 3, films(32)).run()
    trained = kind.training_step
    steps: list[int] = []

    def interrupted(self: FilmGenerator, batch: Tensor, stage: Any) -> dict[str, Tensor]:
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return trained(self, batch, stage)

    monkeypatch.setattr(kind, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer(again, tmp_path / "parts", 3, films(32)).run()
    assert not (tmp_path / "parts/model.pt").exists()
    monkeypatch.setattr(kind, "training_step", trained)
    resumed = made(kind)
    trainer(resumed, tmp_path / "parts", 3, films(32)).run()
    for name, value in load_checkpoint(tmp_path / "whole/model.pt").items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert torch.equal(whole.draw(2), resumed.draw(2))


@pytest.mark.parametrize("kind", [DCGAN, ProGAN, pytest.param(DDPM, marks=pytest.mark.slow)])
def test_it_learns_what_a_film_looks_like(kind: type[FilmGenerator], tmp_path: Path) -> None:
    generator = made(kind)
    images, epochs = films(), {DCGAN: 60, ProGAN: 25, DDPM: 60}[kind]
    before = F.mse_loss(generator.draw(32).mean(dim=0), images.mean(dim=0))
    trainer(generator, tmp_path, epochs, images).run()
    after = F.mse_loss(generator.draw(32).mean(dim=0), images.mean(dim=0))
    assert after < 0.25 * before


def test_drawing_ends_at_the_image_that_a_perfect_network_knows() -> None:
    """With the true noise of one image taken away at every step, DDIM ends at that image (Song et al., eq. 12)."""
    generator = DDPM(size=16, **{**SMALL[DDPM], "steps": 10})
    target = 2 * films(1) - 1
    assert generator.backwards.timesteps.tolist() == [999 - 100 * n for n in range(10)]

    class Perfect(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, times: Tensor) -> Tensor:
            share = generator.forwards.alphas_cumprod[times][:, None, None, None]
            return (x - share.sqrt() * target) / (1 - share).sqrt()

    generator.average = Perfect()
    assert torch.allclose(generator.draw(2), ((target + 1) / 2).expand(2, 1, 16, 16), atol=1e-3)


def test_images_of_a_stage_are_means_of_the_whole() -> None:
    generator = ProGAN(size=16, **SMALL[ProGAN])
    stages = generator.stages()
    next(stages)
    image = torch.rand(2, 1, 16, 16)
    assert torch.allclose(generator._at_stage(image), F.avg_pool2d(image, 2))
    next(stages)
    half = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2)
    assert torch.allclose(generator._at_stage(image), half)  # nothing has faded in yet
    generator.images_shown = 32
    assert torch.allclose(generator._at_stage(image), (half + image) / 2)
    generator.images_shown = 64
    assert generator.is_settled() and torch.equal(generator._at_stage(image), image)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (DCGAN, {"size": 20}),
        (ProGAN, {"size": 20}),
        (ProGAN, {"features": (8,)}),
        (ProGAN, {"fade_images": 0}),
        (DDPM, {"size": 17}),
        (DDPM, {"features": (12, 16)}),
        (DDPM, {"steps": 0}),
        (DDPM, {"steps": 1001}),
    ],
)
def test_what_cannot_work_is_refused(kind: type[FilmGenerator], wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        kind(**wrong)


def test_what_a_grid_would_train_draws_films_as_they_are() -> None:
    """In [0, 1], as those that its discriminator is shown beside them."""
    torch.manual_seed(0)
    generator = DCGAN(size=16, features=8, latent_dim=8).eval()
    gan = next(generator.stages()).gan
    assert gan is not None
    with torch.no_grad():
        generator.generator[-3].weight *= 1000  # so that tanh reaches both of its ends
        torch.manual_seed(1)
        made = gan.generator(gan.noise(64))
        torch.manual_seed(1)
        assert torch.equal(made, generator.sample(64))
    assert 0 <= made.min() < 0.05 and 0.95 < made.max() <= 1
