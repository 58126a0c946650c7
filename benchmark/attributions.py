"""The cache: maps of a method, and what a metric prepared, by key, computed once and kept in safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmark.cells import digest
from benchmark.records import file_name, write_whole

Tensors = Mapping[str, Tensor]


def cached(root: Path, names: tuple[str, ...], identity: object, compute: Callable[[], Tensors]) -> Tensors:
    """`compute()` on the CPU, or what it returned the last time that it had this `identity`.

    The file is `<root>/attributions/<names...>-<digest of identity>.safetensors`. It may be deleted at any time.
    """
    folder = Path(root, "attributions", *map(file_name, names[:-1]))
    path = folder / f"{file_name(names[-1])}-{digest(identity)[:16]}.safetensors"
    if path.exists():
        try:
            return load_file(path)
        except (SafetensorError, OSError):
            path.unlink(missing_ok=True)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in compute().items()}
    write_whole(path, lambda temporary: save_file(tensors, temporary))
    return tensors
