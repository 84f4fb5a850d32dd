"""Batches of several sections of a datalist at once, for what learns from more than normal patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from medanomaly.errors import ConfigError
from medanomaly.patches.sampling import PatchSampler


class StreamSampler:
    """Several samplers in step: batches are dictionaries, stream -> (B, C, p, p[, p]).

    An epoch ends with the shortest of them.
    """

    def __init__(self, samplers: Mapping[str, PatchSampler]) -> None:
        self.samplers = dict(samplers)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose patches the next pass draws."""
        for sampler in self.samplers.values():
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return min(len(sampler) for sampler in self.samplers.values())

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batches in zip(*self.samplers.values(), strict=False):
            yield dict(zip(self.samplers, batches, strict=True))


def choose_streams(
    name: str, streams: Sequence[str], samplers: PatchSampler | Mapping[str, PatchSampler]
) -> tuple[PatchSampler, PatchSampler | StreamSampler]:
    """The sampler of normal patches, and what gives the training batches.

    Args:
        name: of what is trained, for the message.
        streams: what its batches draw from.
        samplers: one for each stream, or the one for "training".

    Raises:
        ConfigError: if there is no sampler for a stream.
    """
    given = samplers if isinstance(samplers, Mapping) else {"training": samplers}
    missing = [stream for stream in dict.fromkeys(["training", *streams]) if stream not in given]
    if missing:
        raise ConfigError(
            f"{name} learns from the sections {', '.join(streams)} of the datalist, but there are no cases for "
            f"{', '.join(map(repr, missing))}: add that section, or choose a detector that needs normal cases alone."
        )
    if len(streams) == 1:
        return given["training"], given[streams[0]]
    return given["training"], StreamSampler({stream: given[stream] for stream in streams})
