"""How much patches show."""

from __future__ import annotations

import torch

from medanomaly.networks.strength import Strength, amount_of


def test_it_is_the_mean_absolute_intensity_but_at_least_a_tenth_of_the_usual():
    strength = Strength()
    patches = torch.tensor([1.0, 2.0, 30.0, -2.0, 0.0]).view(5, 1, 1, 1).expand(-1, 2, 4, 4)
    assert torch.allclose(strength(patches), torch.tensor([1, 2, 30, 2, 1e-8]))
    strength.fit(amount_of(patches))
    assert torch.allclose(strength(patches), torch.tensor([1, 2, 30, 2, 0.2]))
