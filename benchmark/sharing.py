"""What several methods need of the same images and the same model, such as gradients, made once in a sweep."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

LIMIT = 1 << 30


@dataclass
class Store:
    """Tensors on the CPU by key, at most `LIMIT` bytes of them: what comes later is made anew each time."""

    values: dict[Hashable, tuple[Tensor, ...]] = field(default_factory=dict)
    bytes: int = 0

    def keep(self, key: Hashable, tensors: tuple[Tensor, ...]) -> None:
        size = sum(tensor.nbytes for tensor in tensors)
        if self.bytes + size <= LIMIT:
            self.values[key] = tuple(tensor.detach().to("cpu", copy=True) for tensor in tensors)
            self.bytes += size


class Shared:
    """The store of one batch, open only to whoever explains exactly its images with exactly its model.

    A metric that explains perturbed images or a randomised model, and a method that explains noisy copies, hold other
    tensors or another network, and get what they make themselves.
    """

    def __init__(self, store: Store, name: Hashable, model: nn.Module, images: tuple[Tensor, ...]) -> None:
        self._store, self._name, self._model, self._images = store, name, model, images
        self._versions = _versions(model, images)

    def once(self, model: nn.Module, images: tuple[Tensor, ...], key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept under `key`, else `make()`, a tensor or a tuple of them, which is then kept."""
        same = model is self._model and all(a is b for a, b in zip(images, self._images, strict=True))
        if not same or _versions(model, images) != self._versions:
            return make()
        kept = self._store.values.get((self._name, key))
        if kept is None:
            made = make()
            self._store.keep((self._name, key), made if isinstance(made, tuple) else (made,))
            return made
        found = tuple(tensor.to(images[0].device, copy=True) for tensor in kept)
        return found if len(found) > 1 else found[0]


def _versions(model: nn.Module, images: tuple[Tensor, ...]) -> list[int]:
    """How often each tensor was written to: weights, buffers and images that were changed in place are others."""
    return [tensor._version for tensor in (*model.parameters(), *model.buffers(), *images)]
