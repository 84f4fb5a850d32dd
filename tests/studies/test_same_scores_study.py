"""The study that compares two checkouts drives every kind of detector, those that learn from two streams, too."""

from __future__ import annotations

import pytest
import torch

from medanomaly.detectors import detector_class
from studies.same_scores import trained
from tests.detectors.catalogue import CATALOGUE

TWO_STREAMS = [entry for entry in CATALOGUE if len(detector_class(entry.name).streams) > 1]


@pytest.mark.parametrize("entry", TWO_STREAMS, ids=lambda entry: entry.name)
def test_a_detector_of_two_streams_learns_the_same_twice_and_learns_at_all(entry):
    spatial_dims, channels = entry.kinds[0]
    (weights, scores), (again, scores_again) = (
        trained(entry.name, entry.variants[0], spatial_dims, channels) for _ in range(2)
    )
    assert all(map(torch.equal, weights, again)) and torch.equal(scores, scores_again)
    torch.manual_seed(11)  # as it was before it learned
    untrained = detector_class(entry.name)(
        in_channels=channels, patch_size=16, spatial_dims=spatial_dims, **entry.variants[0]
    )
    assert not all(map(torch.equal, weights, untrained.state_dict().values()))
