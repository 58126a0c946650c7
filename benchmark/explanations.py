"""Some images explained: what the model saw of them, what it said, and the map of every method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import hydra.utils
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmark import passes
from benchmark.errors import NotApplicable, UserError
from benchmark.evaluate import describe
from benchmark.maps import reduce_channels
from benchmark.models import Model
from benchmark.protocols import Batch, Method
from benchmark.records import write_whole
from benchmark.sharing import Shared, Store

_STAGES, _LAYER_MAPS = "methods._stages.stages", "methods._stages.layer_maps"


@dataclass(frozen=True)
class Explanation:
    """What `benchmark.explain.explain` returns; all tensors are on the CPU.

    Attributes:
        model: its name.
        names: of the images.
        pixels: `(N, C, H, W)` in [0, 1], what the model saw: the images after its own resizing and cropping.
        probabilities: `(N, K)`, softmax.
        targets: `(N,)`, the classes that the maps explain.
        classes: names of the K classes, or None where unknown.
        maps: by method, `(N, C, H, W)` or `(N, 1, H, W)`, signed.
        reasons: by method, why it has no map.
        failures: the methods in `reasons` that broke, where the others are not applicable.
        nulls: the methods that know nothing of the model.
        layers: by layer, `(N, H, W)`: where the evidence for the class is at the end of each stage of the network
            (LayerCAM, Jiang et al. 2021), not negative; empty where the network has no spatial maps.
    """

    model: str
    names: tuple[str, ...]
    pixels: Tensor
    probabilities: Tensor
    targets: Tensor
    classes: tuple[str, ...] | None
    maps: Mapping[str, Tensor]
    reasons: Mapping[str, str]
    failures: frozenset[str]
    nulls: frozenset[str]
    layers: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods that were asked for: those with maps, then the others; those of `nulls` last."""
        return tuple(sorted([*self.maps, *self.reasons], key=lambda name: name in self.nulls))

    def heat(self, method: str) -> Tensor:
        """One value a pixel, `(N, H, W)`: the sum over channels."""
        return reduce_channels(self.maps[method])

    def label(self, index: int) -> str:
        """A class in words: the first of its names."""
        return self.classes[index].split(",")[0] if self.classes else f"class {index}"

    def top(self, image: int, count: int = 5) -> list[tuple[int, float]]:
        """The most probable classes of an image with their probabilities, the explained one always among them."""
        row = self.probabilities[image]
        found = row.argsort(descending=True, stable=True)[:count].tolist()
        if (target := int(self.targets[image])) not in found:
            found.append(target)
        return [(index, float(row[index])) for index in found]

    def picture(self, image: int) -> np.ndarray:
        """What the model saw of an image, `(H, W, 3)` or `(H, W)`."""
        return self.pixels[image].permute(1, 2, 0).squeeze(-1).numpy()

    def save(self, path: Path) -> None:
        """File everything as `.npz` or `.safetensors`: `pixels`, `probabilities`, `targets`, `maps/METHOD`,
        `layers/LAYER`.

        Raises:
            UserError: the file cannot be written, or has another ending.
        """
        check_maps_file(path)
        tensors = {name: getattr(self, name) for name in ("pixels", "probabilities", "targets")}
        tensors |= {f"maps/{name}": tensor for name, tensor in self.maps.items()}
        tensors |= {f"layers/{name}": tensor for name, tensor in self.layers.items()}
        if path.suffix == ".safetensors":
            from safetensors.torch import save

            facts = {"model": self.model, "names": json.dumps(self.names)}
            content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, facts)
            write_whole(path, partial(Path.write_bytes, data=content))
            return

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
                np.savez_compressed(file, names=np.array(self.names), model=np.array(self.model), **arrays)

        write_whole(path, write)


def check_maps_file(path: Path) -> None:
    """Refuse a file for maps of a kind that there is not.

    Raises:
        UserError: with those that there are.
    """
    if path.suffix not in (".npz", ".safetensors"):
        raise UserError(f"maps={path} has an unknown ending: expected FILE.npz or FILE.safetensors")


def explained(
    model: Model, batch: Batch, methods: Mapping[str, Method], device: torch.device, bars: bool = False
) -> Explanation:
    """Every method on the images of `batch`, with what is not applicable or broken in `reasons`: it costs no other.

    `model` is on `device`; `bars` shows progress on stderr.
    """
    store = Store()
    maps: dict[str, Tensor] = {}
    reasons: dict[str, str] = {}
    failures = set()
    for name, method in tqdm(methods.items(), disable=not bars, leave=False, unit="method"):
        try:
            maps[name] = _maps(name, model.network, batch, method, device, store)
        except NotApplicable as why:
            reasons[name] = str(why)
        except Exception as error:
            reasons[name] = describe(error)
            failures.add(name)
    return Explanation(
        model=model.name,
        names=batch.uids,
        pixels=batch.pixels.clamp(0, 1).cpu(),
        probabilities=batch.logits.softmax(1).cpu(),
        targets=batch.targets.cpu(),
        classes=model.class_names,
        maps=maps,
        reasons=reasons,
        failures=frozenset(failures),
        nulls=frozenset(name for name, method in methods.items() if method.role == "null"),
        layers=_layers(model.network, batch.to(device)),
    )


def _maps(name: str, network: nn.Module, batch: Batch, method: Method, device: torch.device, store: Store) -> Tensor:
    """Maps of one method, on the CPU; what other methods made of the images is not made again."""
    given = batch.to(device).copy()
    shared = Shared(store, batch.uids, network, (given.inputs, given.targets, given.baseline))
    with passes.unchanged(network):
        maps = method.attribute(network, replace(given, shared=shared))
    count, channels, *size = batch.inputs.shape
    if not isinstance(maps, Tensor) or tuple(maps.shape) not in {(count, channels, *size), (count, 1, *size)}:
        found = f"a map of shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        raise UserError(f"{name} returned {found}, expected ({count}, {channels} or 1, {size[0]}, {size[1]})")
    return maps.detach().cpu()


def _layers(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """A map of each stage of the network by the name of the layer at its end, none where it has no spatial maps."""
    stages, layer_maps = hydra.utils.get_object(_STAGES), hydra.utils.get_object(_LAYER_MAPS)
    try:
        with passes.unchanged(network):
            names = stages(network, batch)
            return dict(zip(names, layer_maps(network, batch, names).cpu().unbind(1), strict=True))
    except NotApplicable:
        return {}


def joined(parts: Sequence[Explanation]) -> Explanation:
    """The explanations of several batches as one; a method that has no maps in one of them has none."""
    first = parts[0]
    reasons = {name: reason for part in parts for name, reason in part.reasons.items()}
    together = [name for name in first.layers if all(name in part.layers for part in parts)]
    return replace(
        first,
        names=tuple(name for part in parts for name in part.names),
        pixels=torch.cat([part.pixels for part in parts]),
        probabilities=torch.cat([part.probabilities for part in parts]),
        targets=torch.cat([part.targets for part in parts]),
        maps={name: torch.cat([part.maps[name] for part in parts]) for name in first.maps if name not in reasons},
        reasons=reasons,
        failures=frozenset(name for part in parts for name in part.failures),
        layers={name: torch.cat([part.layers[name] for part in parts]) for name in together},
    )
