"""A denoising diffusion model (Ho et al., NeurIPS 2020), of MONAI's U-Net and schedules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from medanomaly.errors import ConfigError, check_count
from medanomaly.generators.base import FilmGenerator
from medanomaly.networks.averages import average_of, follow, warming_up
from medanomaly.networks.stages import Stage

TIMES = 1000  # steps of the noise
NOISE: dict[str, Any] = {"schedule": "linear_beta", "beta_start": 1e-4, "beta_end": 0.02}


class DDPM(FilmGenerator):
    """Learns the noise in a noisy image; draws by taking it away, step by step, on images in [-1, 1].

    Images are drawn by a running average of the weights, and along fewer than the 1,000 steps of training: by DDIM
    (Song et al., ICLR 2021), as each step is a pass through the network.

    Args:
        size: pixels a side; halved once for each of ``features`` but the last.
        features: channels of the U-Net, from the largest size down; the smallest has attention.
        learning_rate: of Adam.
        decay: of the running average.
        steps: to draw an image.
        amp: draw in bfloat16.
    """

    def __init__(
        self,
        size: int = 64,
        features: Sequence[int] = (32, 64, 128),
        learning_rate: float = 2e-4,
        decay: float = 0.9999,
        steps: int = 50,
        amp: bool = False,
    ) -> None:
        super().__init__()
        check_count("steps", steps)
        if steps > TIMES:
            raise ConfigError(f"steps is {steps}, but there are {TIMES} steps of noise: use at most as many.")
        levels = len(features)
        if size % 2 ** (levels - 1) or any(width % 8 for width in features):
            raise ConfigError(
                f"size={size} with features={list(features)}: the size must be divisible by {2 ** (levels - 1)}, and "
                "each number of channels by 8."
            )
        self.size, self.learning_rate, self.decay, self.amp, self.steps_taken = size, learning_rate, decay, amp, 0
        self.network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            num_res_blocks=1,
            channels=tuple(features),
            attention_levels=(False,) * (levels - 1) + (True,),
            norm_num_groups=8,
            num_head_channels=features[-1],
        )
        self.average = average_of(self.network)
        self.forwards = DDPMScheduler(TIMES, **NOISE)
        # from the last step on in even steps: MONAI steps by TIMES // steps, so its own spacing would be a little off
        self.backwards = DDIMScheduler(TIMES, steps_offset=TIMES - 1 - (steps - 1) * (TIMES // steps), **NOISE)
        self.backwards.set_timesteps(steps)

    def get_extra_state(self) -> Tensor:
        """How many steps were taken, for the running average of a training that goes on."""
        return torch.tensor(self.steps_taken)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps_taken = int(state)

    def stages(self) -> Iterator[Stage]:
        adam = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        yield Stage("denoising", {"network": adam}, keep="last")

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        noise = torch.randn_like(batch)
        times = torch.randint(TIMES, (len(batch),), device=batch.device)
        noisy = self.forwards.add_noise(original_samples=2 * batch - 1, noise=noise, timesteps=times)
        loss = F.mse_loss(self.network(noisy, times).float(), noise)
        stage.optimizers["network"].zero_grad()
        torch.autograd.backward(loss)
        stage.optimizers["network"].step()
        self.steps_taken += 1
        follow(self.average, self.network, warming_up(self.decay, self.steps_taken))
        return {"noise": loss.detach()}

    def sample(self, n: int) -> Tensor:
        device = next(self.parameters()).device
        images = torch.randn(n, 1, self.size, self.size, device=device)
        for time in self.backwards.timesteps:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.amp):
                noise = self.average(images, time.to(device).expand(n))
            images, _ = self.backwards.step(noise.float(), time, images)
        return (images + 1) / 2
