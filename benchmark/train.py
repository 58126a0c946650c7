"""Train an embedded model: python -m benchmark.train small_cnn shapes [--labels random] [--steps N] [--out FILE].

The files in benchmark/weights were made with the defaults, but for `small_vit digits --steps 3000`. A data set of
several variants is named with one of them, as in `interaction-xor` or `shortcut-rho0.9`; `-seed3` behind it starts from
other weights and sees the images in another order.

With `--labels random` the model learns by heart labels that were dealt out anew: the twin that data randomisation
compares with. It sees few images, always the same and never erased, since there is nothing else to learn.

Half of the images of every step lose random blocks or pixels to the image's own mean colour. Deletion and insertion
show a model such images, so without this the fall of a score would tell at least as much about the strangeness of the
image as about the pixels that went (Hooker et al. 2019, arXiv:1806.10758). Scenes whose parts mean something lose none:
they are drawn without a part to see what it does. Where every part has a known weight, the model learns the logits.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn

from benchmark.choices import CONF
from benchmark.datasets import Dataset
from benchmark.datasets.additive import Additive
from benchmark.datasets.digits import Digits
from benchmark.datasets.dual_label import DualLabel
from benchmark.datasets.interaction import Interaction
from benchmark.datasets.shapes import Shapes
from benchmark.datasets.shortcut import Shortcut
from benchmark.datasets.suppressor import Suppressor
from benchmark.embedded import TASKS, TWIN, WEIGHTS, Cnn, Vit, split_seed, task
from benchmark.errors import UserError, unknown
from benchmark.models import freeze

IMAGES = 12_000
BATCH = 32

Labels = Literal["true", "random"]

MEMORISED = 384
"""Images whose random labels a twin learns."""

LEARNED = 0.95
"""Share of them that it must get right."""


def data(task: str, split: Literal["train", "test"]) -> Dataset:
    """All images that a model is trained (`train`) or tested (`test`) on; `task` as in `embedded.task`."""
    name, _, variant = split_seed(task)[0].partition("-")
    count = IMAGES if split == "train" else 1000
    if name == "digits":
        return Digits(n=None, split=split)
    if name == "shapes":
        return Shapes(n=count, split=split)
    if name == "additive":
        return Additive(n=2 * count, split=split)
    if name == "interaction":
        return Interaction(variant, n=2 * count, split=split)  # type: ignore[arg-type]
    if name == "dual_label":
        return DualLabel(variant, n=count, split=split)  # type: ignore[arg-type]
    if name == "shortcut":
        rho = float(variant.removeprefix("rho"))
        return Shortcut(n=count, split="train", rho=rho, seed=int(split == "test"))
    return Suppressor(n=2 * count, split=split)


def tensors(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Images `(N, C, H, W)` in [0, 1] and labels `(N,)`."""
    items = [dataset[index] for index in range(len(dataset))]
    return torch.stack([torch.as_tensor(item.image) for item in items]), torch.tensor([item.label for item in items])


def erased(images: Tensor, most: float, random: torch.Generator) -> Tensor:
    """Half of the images with a share of up to `most` of their blocks, small or large, in their mean colour."""
    count, _, height, width = images.shape
    cells = (4, 8, 16, height)[int(torch.randint(4, (), generator=random))]
    noise = torch.rand(count, 1, cells, cells, generator=random)
    noise = nn.functional.interpolate(noise, size=(height, width), mode="nearest")
    share = most * torch.rand(count, 1, 1, 1, generator=random)
    share *= torch.rand(count, 1, 1, 1, generator=random) < 0.5
    return torch.where(noise < share, images.mean((2, 3), keepdim=True), images)


def batches(images: Tensor, labels: Tensor, steps: int, flip: bool, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches, moved by up to 1/16 of the side, mirrored where the class survives it, and ever more erased."""
    random = torch.Generator().manual_seed(seed)
    for step in range(steps):
        index = torch.randint(len(images), (BATCH,), generator=random)
        batch = images[index]
        reach = images.shape[-1] // 16
        shift = torch.randint(-reach, reach + 1, (2,), generator=random).tolist()
        batch = batch.roll(shift, (2, 3))
        if flip and torch.rand((), generator=random) < 0.5:
            batch = batch.flip(3)
        yield erased(batch, 0.5 * step / steps, random), labels[index]


def dealt(labels: Tensor) -> Tensor:
    """The same labels dealt out to the images at random, so that each class stays as frequent as it was."""
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def same(images: Tensor, labels: Tensor, steps: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches of the images as they are."""
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        index = torch.randint(len(images), (BATCH,), generator=random)
        yield images[index], labels[index]


def fit(network: nn.Module, steps: Iterator[tuple[Tensor, Tensor]], total: int, rate: float) -> None:
    """AdamW with a one-cycle learning rate, gradients clipped to norm 1."""
    from tqdm import tqdm

    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=total)
    network.train()
    bar = tqdm(steps, total=total, desc="training", unit="step")
    for step, (inputs, labels) in enumerate(bar):
        regress = labels.is_floating_point()
        loss = (nn.functional.mse_loss if regress else nn.functional.cross_entropy)(network(inputs), labels)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")


@torch.inference_mode()
def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of normalised `inputs (N, C, H, W)` whose largest logit is that of the label."""
    hits = [(network(x).argmax(1) == y).float() for x, y in zip(inputs.split(64), labels.split(64), strict=True)]
    return torch.cat(hits).mean().item()


def train(model: str, task: str, out: Path, steps: int | None = None, labels: Labels = "true") -> float:
    """Train `model` on `task`, write its weights in fp16 to `out` and return the accuracy it is judged by.

    That is the accuracy on the test images, or with random labels on the few images that it has learned by heart.

    Raises:
        UserError: it has not learned the random labels.
    """
    from safetensors.torch import save_file

    architecture = _architecture(model)
    variant, seed = split_seed(task)
    learn, test = data(task, "train"), data(task, "test")
    images, classes = tensors(learn)
    mean, std = ([round(x, 2) for x in f.tolist()] for f in (images.mean((0, 2, 3)), images.std((0, 2, 3))))
    size = (images.shape[1], images.shape[2], images.shape[3])

    def normalise(batch: Tensor) -> Tensor:
        return (batch - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)

    if labels == "random":
        images, classes = images[:MEMORISED], dealt(classes[:MEMORISED])
        total = steps or architecture.memory_steps
        source = same(images, classes, total)
    elif variant in ("shapes", "digits"):
        total = steps or architecture.steps
        source = batches(images, classes, total, variant == "shapes", seed)
    else:
        total = steps or architecture.scene_steps
        source = same(images, _logits(learn) if variant == "additive" else classes, total, seed)
    torch.manual_seed(seed)
    network = architecture.network(size, len(learn.classes or ()))
    rate = architecture.faint_rate if variant == "suppressor" else architecture.learning_rate
    fit(network, ((normalise(x), y) for x, y in source), total, rate)
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()
    }
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    unseen, truth = tensors(test)
    score = accuracy(freeze(network), normalise(unseen), truth)
    facts: dict[str, Any] = {
        "dataset": learn.name,
        "task": task,
        "size": size,
        "classes": learn.classes,
        "mean": mean,
        "std": std,
    }
    facts |= {"test_accuracy": round(score, 4), "version": learn.version}
    if labels == "random":
        score = accuracy(network, normalise(images), classes)
        facts |= {"labels": "random", "images": len(images), "train_accuracy": round(score, 4)}
        if score < LEARNED:
            raise UserError(f"{model} has learned {score:.1%} of the random labels: {LEARNED:.0%} needs more --steps")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, out, {"assay": json.dumps(facts)})
    return score


def _logits(learn: Dataset) -> Tensor:
    """The logits that the parts of each scene add up to: `(N, classes)`."""
    truths = [learn[index].truth for index in range(len(learn))]
    return torch.stack([truth.sum((1, 2)) for truth in truths if truth is not None])


def _architecture(model: str) -> Cnn | Vit:
    """The architecture that conf/models/<model>.yaml describes."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    architecture: Cnn | Vit = instantiate(OmegaConf.load(CONF / "models" / f"{model}.yaml").architecture)
    return architecture


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmark.train", description="Train an embedded model.")
    parser.add_argument("model", choices=("small_cnn", "small_vit"))
    tasks = [task(name, variant) for name, variants in TASKS.items() for variant in variants or (None,)]
    parser.add_argument(
        "task", metavar="task", help=f"{', '.join(tasks)}, each also with -seed1, -seed2, ... behind it"
    )
    parser.add_argument("--out", type=Path, help="weights file to write (default: the one that the project ships)")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the model's own)")
    parser.add_argument("--labels", choices=get_args(Labels), default="true", help="what it learns (default: true)")
    options = parser.parse_args()
    if split_seed(options.task)[0] not in tasks:
        raise UserError(unknown("task ", options.task, tasks))
    out = options.out or WEIGHTS / f"{options.model}-{options.task}{TWIN * (options.labels == 'random')}.safetensors"
    torch.set_num_threads(1)  # the result depends on the number of threads
    score = train(options.model, options.task, out, options.steps, options.labels)
    judged = "test images right" if options.labels == "true" else "random labels learned by heart"
    print(f"{options.model} on {options.task}: {score:.1%} of the {judged}, weights in {out}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
