"""The cache: maps of a method, and what a metric prepared, by key, computed once and kept in safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from benchmark.cells import Choice, digest
from benchmark.records import file_name, write_whole


@dataclass(frozen=True)
class Entry:
    """What a method or metric (`choice`) makes of a model and a data set, apart from all scores.

    The file is `<root>/attributions/<model>/<dataset>/<choice>-<key>.safetensors`. It may be deleted at any time.
    """

    root: Path
    model: Choice
    dataset: Choice
    choice: Choice
    seed: int

    @property
    def path(self) -> Path:
        key = digest([asdict(self.model), asdict(self.dataset), asdict(self.choice), self.seed])
        folder = Path(self.root, "attributions", file_name(self.model.name), file_name(self.dataset.name))
        return folder / f"{file_name(self.choice.name)}-{key[:16]}.safetensors"

    def load(self) -> Mapping[str, Tensor] | None:
        """The tensors, on the CPU, or None where there are none that can be read."""
        try:
            return load_file(self.path) if self.path.exists() else None
        except (SafetensorError, OSError):
            return None

    def get(self, compute: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """The tensors: loaded where they are, else `compute()` once and kept."""
        if (found := self.load()) is not None:
            return found
        tensors = {name: tensor.contiguous().cpu() for name, tensor in compute().items()}
        if tensors:
            write_whole(self.path, lambda temporary: temporary.write_bytes(save(tensors)))
        return tensors
