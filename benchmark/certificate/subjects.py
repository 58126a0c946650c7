"""Known subjects: models so small that the right answer is a formula, with their images and exact contributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.baselines import Baseline
from benchmark.batches import freeze
from benchmark.protocols import Batch


class Scored(nn.Module):
    """Two logits, f(x) and 0, so that the log-odds of class 0 are f and its probability is the logistic of f."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.function(inputs)
        return torch.stack([found, torch.zeros_like(found)], 1)


@dataclass(frozen=True)
class Known:
    """A model on which the right answer is known.

    Attributes:
        name: column of the certificate.
        model: float64, maps `(N, C, H, W)` to logits `(N, 2)` of f(x) and 0.
        batch: images with target 0, seen in pixel space as they are, and masks of what the model uses where it uses
            a part.
        truth: `(N, C, H, W)` Shapley values of the pixels for f(x) - f(b), or what the subject says.
    """

    name: str
    model: nn.Module
    batch: Batch
    truth: Tensor

    @property
    def clean(self) -> Tensor:
        """f(x), `(N,)`."""
        return self.batch.logits[:, 0]

    @property
    def absent(self) -> Tensor:
        """f(b), `(N,)`."""
        return self.batch.baseline_logits[:, 0]


def known(
    name: str,
    model: nn.Module,
    pixels: Tensor,
    truth: Callable[[Batch], Tensor],
    *,
    baseline: Baseline = "black",
    masks: Tensor | None = None,
    seed: int = 0,
    uids: tuple[str, ...] | None = None,
    chunk: int = 64,
) -> Known:
    """A known subject from its images and the formula of its contributions; target 0 everywhere."""
    uids = uids or tuple(f"{name}-{i}" for i in range(len(pixels)))
    labels = torch.zeros(len(pixels), dtype=torch.long)
    settings = {"labels": labels, "explain": "label", "baseline": baseline, "masks": masks, "seed": seed}
    batch = freeze(model.eval().requires_grad_(False), pixels, uids, chunk=chunk, **settings)  # type: ignore[arg-type]
    return Known(name, model, batch, truth(batch))


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, the same everywhere."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def images(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Uniform random pixels in float64, the same everywhere."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, height, width, dtype=torch.float64, generator=generator)


def linear(count: int = 4, channels: int = 3, side: int = 8, baseline: Baseline = "grey", copies: int = 1) -> Known:
    """f = w.x + c; phi_i = w_i (x_i - b_i). With `copies`, each image that many times under names of its own."""
    weight = noise(channels, side, side, seed=1)
    pixels = images(count, channels, side, side).repeat_interleave(copies, 0)
    model = Scored(lambda inputs: (inputs * weight).sum((1, 2, 3)) + 0.3)
    return known("linear", model, pixels, lambda b: weight * (b.inputs - b.baseline), baseline=baseline)


def additive(count: int = 4, side: int = 8) -> Known:
    """f = sum w_i sin(3 x_i) + c, additive and not linear; phi_i = w_i (sin 3 x_i - sin 3 b_i)."""
    weight = noise(1, side, side, seed=2)
    model = Scored(lambda inputs: (weight * (3 * inputs).sin()).sum((1, 2, 3)) - 0.2)

    def truth(batch: Batch) -> Tensor:
        return weight * ((3 * batch.inputs).sin() - (3 * batch.baseline).sin())

    return known("additive", model, images(count, 1, side, side), truth, baseline="grey")


def _two(name: str, function: Callable[[Tensor, Tensor], Tensor], point: tuple[float, float], shapley: Tensor) -> Known:
    """A function of two pixels at one point, black as absent."""
    model = Scored(lambda inputs: function(inputs[:, 0, 0, 0], inputs[:, 0, 0, 1]))
    pixels = torch.tensor(point, dtype=torch.float64).view(1, 1, 1, 2)
    return known(name, model, pixels, lambda batch: shapley.double().view(1, 1, 1, 2))


def product() -> Known:
    """f = x1 x2 at (2, 3); Shapley (3, 3)."""
    return _two("product", lambda a, b: a * b, (2, 3), torch.tensor([3, 3]))


def conjunction() -> Known:
    """AND: f = x1 x2 at (1, 1); Shapley (1/2, 1/2)."""
    return _two("and", lambda a, b: a * b, (1, 1), torch.tensor([0.5, 0.5]))


def disjunction() -> Known:
    """OR: f = x1 + x2 - x1 x2 at (1, 1); Shapley (1/2, 1/2), and each alone is enough."""
    return _two("or", lambda a, b: a + b - a * b, (1, 1), torch.tensor([0.5, 0.5]))


def exclusive() -> Known:
    """XOR: f = |x1 - x2| at (1, 0); Shapley (1, 0)."""
    return _two("xor", lambda a, b: (a - b).abs(), (1, 0), torch.tensor([1.0, 0.0]))


def minimum() -> Known:
    """f = min(x1, x2) at (2, 3); Shapley (1, 1)."""
    return _two("min", torch.minimum, (2, 3), torch.tensor([1, 1]))


def maximum() -> Known:
    """f = max(x1, x2) at (2, 3); Shapley (1, 2)."""
    return _two("max", torch.maximum, (2, 3), torch.tensor([1, 2]))


class _BiasFree(nn.Module):
    """Two convolutions with ReLU, an average and a linear map, all without bias: f(c x) = c f(x) for c > 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.second = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.head = nn.Linear(8, 1, bias=False)
        for seed, weight in enumerate(self.parameters()):
            with torch.no_grad():
                weight.copy_(noise(*weight.shape, seed=10 + seed) / weight[0].numel() ** 0.5)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.second(self.first(inputs).relu()).relu()
        found = self.head(hidden.mean((2, 3)))[:, 0]
        return torch.stack([found, torch.zeros_like(found)], 1)


def relu(count: int = 4, side: int = 12) -> Known:
    """A bias-free ReLU network with black as absent: x * gradient is exact integrated gradients and sums to f(x)."""
    model = _BiasFree()

    def truth(batch: Batch) -> Tensor:
        inputs = batch.inputs.clone().requires_grad_()
        return torch.autograd.grad(model(inputs)[:, 0].sum(), inputs)[0] * batch.inputs

    return known("bias-free ReLU", model, images(count, 3, side, side), truth)


def quadratic(count: int = 3, side: int = 3) -> Known:
    """f = x'Ax / 2 with A symmetric; gradient A x; phi = x * (A x) / 2 is Shapley for black as absent."""
    matrix = quadratic_matrix(side)
    model = Scored(lambda inputs: 0.5 * ((inputs.flatten(1) @ matrix) * inputs.flatten(1)).sum(1))

    def truth(batch: Batch) -> Tensor:
        flat = batch.inputs.flatten(1)
        return (0.5 * flat * (flat @ matrix)).view_as(batch.inputs)

    return known("quadratic", model, images(count, 1, side, side), truth)


def quadratic_matrix(side: int = 3) -> Tensor:
    """A of `quadratic`, `(side^2, side^2)`."""
    half = noise(side * side, side * side, seed=3)
    return (half + half.T) / 2


def constant(count: int = 4, side: int = 12) -> Known:
    """f = 0.7 whatever the image: no contribution at all."""
    model = Scored(lambda inputs: inputs.flatten(1).sum(1) * 0 + 0.7)
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    masks[:, 2:5, 3:7] = True
    pixels = images(count, 3, side, side)
    return known("constant", model, pixels, lambda batch: torch.zeros_like(batch.inputs), masks=masks)


def window(count: int = 4, side: int = 12) -> Known:
    """f reads rows 3 to 6 and columns 4 to 9 alone, linearly; pixels outside are dummies. The window is the mask."""
    weight = torch.zeros(3, side, side, dtype=torch.float64)
    weight[:, 3:7, 4:10] = noise(3, 4, 6, seed=4).abs() + 0.1
    masks = (weight[0] != 0).expand(count, -1, -1)
    model = Scored(lambda inputs: (inputs * weight).sum((1, 2, 3)) - 1)
    return known(
        *("dummy window", model, images(count, 3, side, side), lambda b: weight * (b.inputs - b.baseline)), masks=masks
    )


def symmetric() -> Known:
    """f = x1 x2 + x1 + x2 at (1.5, 1.5); equal pixels in equal places have equal Shapley values."""
    half = (1.5 * 1.5 + 3) / 2
    return _two("symmetric", lambda a, b: a * b + a + b, (1.5, 1.5), torch.tensor([half, half]))


class _Counting(nn.Module):
    """Counts bright 2 x 2 tokens on a grid by hand-set weights: +1 for a token in the red channel, -1 in the blue."""

    def __init__(self) -> None:
        super().__init__()
        self.match = nn.Conv2d(3, 2, 2, stride=2)
        with torch.no_grad():
            self.match.weight.zero_()
            self.match.bias.fill_(-3.0)  # type: ignore[union-attr]
            self.match.weight[0, 0] = self.match.weight[1, 2] = 1.0
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.match(inputs).relu().sum((2, 3))
        found = tokens[:, 0] - tokens[:, 1]
        return torch.stack([found, torch.zeros_like(found)], 1)


def counting(count: int = 4, side: int = 8) -> Known:
    """f = red tokens - blue tokens, each four bright pixels in a cell of 2 x 2; the mask is where red ones are.

    Within a token the four pixels are symmetric, so each is worth a quarter of it: phi = +-1/4.
    """
    cells = side // 2
    generator = torch.Generator().manual_seed(5)
    kinds = torch.randint(0, 3, (count, cells, cells), generator=generator)
    kinds[:, 0, 0], kinds[:, 0, 1], kinds[:, 1, 0] = 1, 2, 0
    pattern = kinds.repeat_interleave(2, 1).repeat_interleave(2, 2)
    pixels = torch.zeros(count, 3, side, side, dtype=torch.float64)
    pixels[:, 0], pixels[:, 2] = (pattern == 1).double(), (pattern == 2).double()
    truth = torch.zeros_like(pixels)
    truth[:, 0], truth[:, 2] = (pattern == 1).double() / 4, -(pattern == 2).double() / 4
    return known("counting CNN", _Counting(), pixels, lambda batch: truth, masks=pattern == 1)
