"""What methods cost beside the bare passes they need, and beside other libraries: `python -m tests.parity.speed FILE`.

One thread, CPU time, 224 x 224 pixels, float32; each round runs both sides in turn, so that a machine that slows down
slows both. Ratios belong to one run; seconds mean nothing beyond it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from benchmark import choices, passes, plugins
from benchmark.choices import CONF
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Method
from methods._layers import layer_of, leaf_at
from tests.parity.__main__ import pairs
from tests.parity.pairs import subject

SIDE = 224
COUNT = 2
BUDGET = 8
ROUNDS = 3
LIMIT = 1.10
NOISE = 0.08
"""What equal work differs by on a shared machine, between rounds of one run."""
WHOLE = {"guided_grad_cam"}
"""Methods with a layer whose backward passes go on to the input all the same."""


_ABOVE = """What is above 1.1 does more than its passes. LRP, excitation backpropagation and transformer attribution
take two to four matrix products or transposed convolutions a layer where a gradient takes one; FullGrad reads the
gradient of every activation; DeepLIFT holds its two passes together operation by operation. Attention methods need
attention written out, which the fused kernel does not, and attention flow solves a maximum flow a patch. LIME,
KernelSHAP and extremal perturbation cut superpixels or blur the image once, which weighs with as few passes as
here.""".splitlines()


@dataclass(frozen=True)
class Row:
    """Our time over another time, and what that other one was."""

    method: str
    network: str
    beside: str
    ratio: float


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def ratio(ours: Callable[[], object], other: Callable[[], object]) -> float:
    """Our seconds over the other's, the median of rounds; work of minutes is done once."""
    first = (cpu_seconds(ours), cpu_seconds(other))
    if sum(first) > 60:
        return first[0] / first[1]
    # The first round, which warms up, counts as one of three: the median is another one where it was slow.
    rounds = [first, *((cpu_seconds(ours), cpu_seconds(other)) for _ in range(ROUNDS - 1))]
    return statistics.median(mine / theirs for mine, theirs in rounds)


def bare(model: nn.Module, batch: Batch, forwards: int, backwards: int, layer: str) -> Callable[[], None]:
    """So many forward passes, some with a backward pass: to `layer` where one is named, else to the input."""

    def run(count: int, work: Callable[[Tensor], object]) -> None:
        for _ in passes.chunked(lambda start, stop: work(filled(stop - start)), count, batch.chunk):
            pass

    def filled(count: int) -> Tensor:
        return batch.inputs[torch.arange(count) % len(batch)]

    def forward(images: Tensor) -> object:
        with torch.inference_mode():
            return model(images)

    def to_input(images: Tensor) -> object:
        images.requires_grad_()
        return torch.autograd.grad(model(images)[:, 0].sum(), images)

    def to_layer(images: Tensor) -> object:
        with leaf_at(layer_of(model, layer)) as outputs:
            score = model(images)[:, 0].sum()
        return torch.autograd.grad(score, outputs[-1])

    def work() -> None:
        run(forwards - backwards, forward)
        run(backwards, to_layer if layer else to_input)

    return work


def method_of(name: str, layer: str) -> Method:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"methods={name}", f"models.layer='{layer}'"])
    return plugins.build(config.methods).within(BUDGET)


def beside_passes() -> Iterator[Row]:
    """Every configured method of ours beside the passes that it was seen to make."""
    for name in choices.choices("methods"):
        if name == "custom" or "/" in name:
            continue
        for network in ("mobilenet_v2", "vit"):
            model, batch, layer = subject(network, SIDE, COUNT, torch.float32)
            method = method_of(name, layer)
            if method.role != "method":
                break
            try:
                with passes.counted(model) as count:
                    method.attribute(model, batch)
            except NotApplicable:
                continue
            ends = layer if hasattr(method, "layer") and name not in WHOLE else ""
            needed = bare(model, batch, count.forwards, count.backwards, ends)
            told = f"{count.forwards / COUNT:g} forward, {count.backwards / COUNT:g} backward"
            yield Row(name, network, told, ratio(lambda: method.attribute(model, batch), needed))  # noqa: B023
            break


def beside_peers() -> Iterator[Row]:
    """Every pair that does the same work on both sides."""
    for pair in pairs():
        if not pair.timed:
            continue
        network = "mobilenet_v2" if "mobilenet_v2" in pair.subjects else pair.subjects[-1]
        model, batch, layer = subject(network, SIDE, COUNT, torch.float32)
        method = pair.ours(layer)
        found = ratio(
            lambda: method.attribute(model, batch),  # noqa: B023
            lambda: pair.theirs(model, batch, layer),  # noqa: B023
        )
        yield Row(pair.method, network, pair.reference, found)


def page() -> tuple[str, list[str]]:
    """The page, and what is slower than it should be."""
    lines = ["# Speed of methods", "", *(__doc__ or "").strip().splitlines()[2:], ""]
    lines += [f"torch {torch.__version__}. `× passes`: time over that of the passes alone, at their best; a backward"]
    lines += [
        "pass that ends at a layer is compared with one that ends there. Methods with samples, steps or masks are"
    ]
    lines += [f"cut to {BUDGET} passes an image.", ""]
    lines += ["| method | network | passes an image | × passes |", "|:--|:--|:--|--:|"]
    slow = []
    for row in beside_passes():
        print(row, flush=True)
        lines.append(f"| {row.method} | {row.network} | {row.beside} | {row.ratio:.2f} |")
        slow += [f"{row.method}: {row.ratio:.2f} x its passes"] if row.ratio > LIMIT + NOISE else []
    lines += ["", *_ABOVE, "", "## Beside other libraries", "", "Below 1 ours is faster.", ""]
    lines += ["| method | network | reference | our time over theirs |", "|:--|:--|:--|--:|"]
    for row in beside_peers():
        print(row, flush=True)
        lines.append(f"| {row.method} | {row.network} | {row.beside} | {row.ratio:.2f} |")
        slow += [f"{row.method}: {row.ratio:.2f} x {row.beside}"] if row.ratio > 1 + NOISE else []
    return "\n".join(lines) + "\n", slow


if __name__ == "__main__":
    torch.set_num_threads(1)
    text, slow = page()
    Path(sys.argv[1]).write_text(text)
    print(*slow, sep="\n", file=sys.stderr)
