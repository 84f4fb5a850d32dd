"""Memory of any length in a network: banks of features, support vectors."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn


class AnyLength(nn.Module):
    """Mixin for modules with buffers or parameters whose length is known only after a fit.

    ``class Bank(AnyLength, nn.Module)`` names them in ``any_length``. Each takes the length (its first dimension) that
    a state dictionary has; its other dimensions must fit, as those of any weight.
    """

    any_length: ClassVar[tuple[str, ...]] = ()

    def hold(self, name: str, content: Tensor) -> None:
        """Replace what the buffer or parameter ``name`` holds by ``content``; its type and its device stay."""
        kept = getattr(self, name)
        kept.data = kept.new_empty(content.shape)
        kept.data.copy_(content)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.any_length:
            kept, saved = getattr(self, name), state_dict.get(prefix + name)
            if saved is not None and saved.shape[1:] == kept.shape[1:]:
                kept.data = kept.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
