"""A subject: one model on one data set, its batches frozen, with the choices that name it in every record."""

from __future__ import annotations

import platform
import socket
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra.utils
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from benchmark import __version__, models, own_models
from benchmark.batches import freeze, split
from benchmark.cells import Choice
from benchmark.datasets import Dataset
from benchmark.errors import UserError
from benchmark.models import Model
from benchmark.plugins import build, choose, source_hash
from benchmark.protocols import Batch
from benchmark.sharing import Store


@dataclass(frozen=True)
class Subject:
    """What methods explain.

    Attributes:
        batches: the images in order, on the CPU.
        device: where the model is and batches go to be explained.
        timing: the hardware and settings that timings depend on, for their key.
        seed: of every random draw.
        environment: what the scores were computed with, for the records.
        build: the configs of `model` and `dataset` without places on disk, so that a record can be computed again.
        store: what methods share, such as gradients.
    """

    model: Model
    dataset: Dataset
    model_choice: Choice
    dataset_choice: Choice
    batches: tuple[Batch, ...]
    device: torch.device
    timing: str
    seed: int
    environment: Mapping[str, Any]
    build: Mapping[str, Any]
    store: Store = field(default_factory=Store)


def load(config: DictConfig, trusted: Collection[str] = ()) -> Subject:
    """The subject of a job's `config`: its `models` and `datasets`, `seed`, `device`, `batch_size` and `chunk`.

    Raises:
        UserError: the model or data set cannot be had, or the two do not fit.
    """
    for name in ("batch_size", "chunk"):
        value = config[name]
        if not (isinstance(value, int) and value > 0) and (name, value) != ("chunk", "auto"):
            raise UserError(f"{name}={value} is no number of images: expected 1 or more")
    device = resolve_device(config.device)
    dataset: Dataset = build(config.datasets, trusted)
    model = own_models.build(config.models, trusted)
    models.check(model, dataset)
    model.network.to(device)
    layout = "channels_last" if config.channels_last else "contiguous"
    if config.channels_last:
        model.network.to(memory_format=torch.channels_last)
    height, width = model.size[1:]
    chunk = automatic_chunk(device, height * width) if config.chunk == "auto" else config.chunk
    settings = {"batch_size": config.batch_size, "chunk": chunk, "channels_last": bool(config.channels_last)}
    return Subject(
        model=model,
        dataset=dataset,
        model_choice=_model_choice(model, config.models),
        dataset_choice=_dataset_choice(dataset),
        batches=split(_frozen(model, dataset, config.seed, chunk), config.batch_size),
        device=device,
        timing=f"{device_name(device)}, batch_size {config.batch_size}, chunk {chunk}, {layout}",
        seed=config.seed,
        environment={**_environment(device, settings), "remarks": list(model.remarks)},
        build={"model": _placeless(config.models), "dataset": _placeless(config.datasets)},
    )


def _model_choice(model: Model, config: DictConfig) -> Choice:
    """The weights' hash is the version; with it goes whatever else makes the network and its input what they are.

    Where a file lies, and the layer that a method may look at (it is an option of that method), are no part of it.
    """
    options = OmegaConf.to_container(config, resolve=True)
    assert isinstance(options, dict)
    places = ("path", "checkpoint", "cache_dir", "weights", "twin", "download")
    for name in ("name", "class_names", "dataset", "layer", *places):
        options.pop(name, None)
    options = {name: value for name, value in options.items() if (name, value) != ("trained", None)}
    target = str(options.pop("_target_"))
    transform = str(model.transform)
    if " at 0x" in transform:  # a plain function prints its address, which is another one in the next run
        transform = f"{model.transform.__module__}.{getattr(model.transform, '__qualname__', '')}"
    params = {
        **{str(name): value for name, value in options.items()},
        "size": list(model.size),
        "mean": list(model.mean),
        "std": list(model.std),
        "transform": transform,
    }
    return Choice(model.name, params, model.weights[:16] + source_hash(hydra.utils.get_object(target)))


def _dataset_choice(dataset: Dataset) -> Choice:
    """Where a folder lies and how it came there are no part of what it holds: the fingerprint stands for its files."""
    choice = choose(dataset.name, dataset)
    params = {name: value for name, value in choice.params.items() if name not in ("root", "download", "name")}
    return Choice(choice.name, {**params, "fingerprint": dataset.fingerprint}, choice.version)


def _placeless(config: DictConfig) -> dict[str, Any]:
    """`config` without what says where on this disk something lies, `???` where it cannot do without.

    Nothing is downloaded to compute a record again, unless that is asked for anew.
    """
    options = OmegaConf.to_container(config, resolve=True)
    assert isinstance(options, dict)
    options |= {name: "???" for name in ("root", "path", "checkpoint") if options.get(name) is not None}
    nowhere = {"cache_dir": None, "class_names": None, "download": False}
    options |= {name: value for name, value in nowhere.items() if name in options}
    return {str(name): value for name, value in options.items()}


def _frozen(model: Model, dataset: Dataset, seed: int, chunk: int) -> Batch:
    """All images of the data set in one batch, on the CPU."""
    items = [dataset[place] for place in range(len(dataset))]
    labels = [item.label for item in items]
    return freeze(
        model.network,
        torch.stack([model.pixels(item.image) for item in items]),
        [item.uid for item in items],
        mean=model.mean,
        std=model.std,
        labels=None if None in labels else torch.tensor(labels),
        masks=_stack([model.mask(item.mask) for item in items]),
        parts=_stack([item.parts for item in items]),
        part_names=items[0].part_names,
        empty=_stack([item.empty for item in items]),
        truth=_stack([item.truth for item in items]),
        explain=dataset.explain,
        baseline=dataset.baseline,
        seed=seed,
        chunk=chunk,
    )


def _stack(each: list[Tensor | None]) -> Tensor | None:
    """All of them in one tensor, or None unless every image has one."""
    there = [tensor for tensor in each if tensor is not None]
    return torch.stack(there) if len(there) == len(each) else None


def resolve_device(name: str) -> torch.device:
    """The torch device called `name`; `auto` is the first GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name} cannot be used ({reason}): expected auto, cpu, cuda or cuda:N") from None
    return device


def automatic_chunk(device: torch.device, pixels: int) -> int:
    """Images of `pixels` pixels in one pass: few on a CPU, where small passes are fastest, many on a GPU.

    A rule and not a trial, so that a run that is resumed computes the same digits.
    """
    budget = (512 if device.type == "cuda" else 8) * 224 * 224
    return min(1024, max(1, budget // pixels))


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _environment(device: torch.device, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "assay": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "dtype": "float32",
        "settings": {"device": device.type, "threads": torch.get_num_threads(), **settings},
        "host": socket.gethostname(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """Commit of the code, with a mark if files differ from it; None outside a git checkout."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
