"""The axioms of attribution, tried on every method of conf/methods: what theory promises is checked, the rest measured.

completeness               sum phi = f(x) - f(b)
dummy                      phi = 0 on pixels that f does not read
symmetry                   a mirrored image under a mirrored f has a mirrored map
linearity                  phi(f + g) = phi(f) + phi(g)
implementation invariance  two networks that compute one function have one map
input-shift invariance     f'(x + m) = f(x) has the map of f, the baseline being shifted too

Sources: Sundararajan, Taly & Yan 2017, arXiv:1703.01365; Shapley 1953; Kindermans et al. 2017, arXiv:1711.00867.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from benchmark import plugins
from benchmark.batches import freeze
from benchmark.certificate.subjects import images, noise
from benchmark.choices import CONF, choices
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Method

SIDE = 12
BUDGET = 128
"""Passes an image of methods whose samples, steps or masks are free: promises hold for any number of them."""
_INVARIANCES = ("implementation invariance", "input-shift invariance")
HOLDS = {
    "saliency": {"dummy", "symmetry", *_INVARIANCES},
    "gradient": {"dummy", "symmetry", "linearity", *_INVARIANCES},
    "input_x_gradient": {"dummy", "symmetry", "linearity", "implementation invariance"},
    "integrated_gradients": {"completeness", "dummy", "symmetry", "linearity", *_INVARIANCES},
    "integrated_gradients_black_white": {"dummy", "symmetry", "linearity", *_INVARIANCES},
    "expected_gradients": {"dummy", "linearity", *_INVARIANCES},
    "gradient_shap": {"dummy", "linearity", *_INVARIANCES},
    "blur_integrated_gradients": {"dummy", "symmetry", "linearity", "implementation invariance"},
    "guided_integrated_gradients": {"completeness", "dummy", "symmetry", *_INVARIANCES},
    "smoothgrad": {"dummy", "linearity", *_INVARIANCES},
    "smoothgrad_squared": {"dummy", *_INVARIANCES},
    "vargrad": {"dummy", *_INVARIANCES},
    "noise_tunnel": {"dummy", "linearity", "implementation invariance"},
    "consensus": {*_INVARIANCES},
    "guided_backprop": {"dummy", "symmetry", *_INVARIANCES},
    "deconvnet": {"dummy", "symmetry", *_INVARIANCES},
    "guided_grad_cam": {"dummy", "symmetry", *_INVARIANCES},
    "full_grad": {"dummy", "symmetry"},
    "deep_lift": {"completeness", "dummy", "symmetry", "linearity", "input-shift invariance"},
    "deep_shap": {"dummy", "symmetry", "linearity", *_INVARIANCES},
    "lrp_epsilon": {"dummy", "symmetry", "linearity"},
    "lrp_gamma": {"dummy", "symmetry", "linearity"},
    "lrp_z_plus": {"dummy", "symmetry", "linearity"},
    "lrp_alpha_beta": {"dummy", "symmetry", "linearity"},
    "lrp_epsilon_plus_flat": {"dummy", "symmetry", "linearity", *_INVARIANCES},
    "lrp_epsilon_gamma_box": {"dummy", "symmetry", "linearity", "input-shift invariance"},
    "excitation_backprop": {"dummy", "symmetry", "implementation invariance"},
    "grad_cam": {"symmetry", *_INVARIANCES},
    "grad_cam_plus_plus": {"symmetry", "input-shift invariance"},
    "smooth_grad_cam_plus_plus": {"symmetry", "input-shift invariance"},
    "xgrad_cam": {"symmetry", *_INVARIANCES},
    "hires_cam": {"dummy", "symmetry", "linearity", *_INVARIANCES},
    "layer_cam": {"dummy", "symmetry", *_INVARIANCES},
    "eigen_cam": {"symmetry", "input-shift invariance"},
    "eigen_grad_cam": {"symmetry", "input-shift invariance"},
    "score_cam": {"symmetry", "input-shift invariance"},
    "ablation_cam": {"symmetry", "input-shift invariance"},
    "layer_conductance": {"completeness", "dummy", "symmetry", "linearity", *_INVARIANCES},
    "internal_influence": {"dummy", "symmetry", "input-shift invariance"},
    "layer_activation": {"symmetry", "input-shift invariance"},
    "layer_grad_x_activation": {"dummy", "symmetry", "linearity", *_INVARIANCES},
    "hierarchical": {"dummy", "symmetry", *_INVARIANCES},
    "occlusion": {"linearity", *_INVARIANCES},
    "feature_ablation": {"linearity", *_INVARIANCES},
    "kernel_shap": {"completeness", "linearity", *_INVARIANCES},
    "shapley_sampling": {"completeness", "linearity", *_INVARIANCES},
    "rise": {*_INVARIANCES},
    "lime": {*_INVARIANCES},
    "sobol": {*_INVARIANCES},
    "hsic": {*_INVARIANCES},
    "extremal_perturbation": {*_INVARIANCES},
}
"""What theory promises. A method that is not listed, or an axiom that it does not promise, is measured alone."""
TOLERANCE = {"completeness": 0.02}
"""Of the relative violation; 1e-6 where none is given. Integration over a finite number of steps leaves an error."""


@dataclass(frozen=True)
class Axiom:
    """How far a method is from an axiom: the largest violation over images.

    It is relative to the largest value of the maps, for completeness to the sum of their magnitudes.
    """

    method: str
    axiom: str
    violation: float

    @property
    def promised(self) -> bool:
        return self.axiom in HOLDS.get(self.method, ())

    @property
    def passed(self) -> bool:
        return not self.promised or self.violation <= TOLERANCE.get(self.axiom, 1e-6)


class _Net(nn.Module):
    """f = sum over places and channels of head * ReLU(features(x)); the second logit is 0."""

    def __init__(self, weight: Tensor, bias: Tensor, head: Tensor, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift
        self.features = nn.Conv2d(3, len(weight), 3, padding=1)
        self.features.weight = nn.Parameter(weight)
        self.features.bias = nn.Parameter(bias)
        self.head = nn.Parameter(head)

    def forward(self, inputs: Tensor) -> Tensor:
        found = (self.features(inputs - self.shift).relu() * self.head).sum((1, 2, 3))
        return torch.stack([found, torch.zeros_like(found)], 1)


def _net(head_seed: int = 33) -> _Net:
    return _Net(noise(6, 3, 3, 3, seed=31) / 5, noise(6, seed=32) / 10, _head(head_seed))


def _head(seed: int) -> Tensor:
    return noise(6, SIDE, SIDE, seed=seed) / SIDE


def _frozen(model: nn.Module, pixels: Tensor, shift: float = 0.0) -> Batch:
    """Images that the model sees brighter by `shift`, their baseline too."""
    labels, uids = torch.zeros(len(pixels), dtype=torch.long), [f"image-{i}" for i in range(len(pixels))]
    model.eval().requires_grad_(False)
    return freeze(model, pixels, uids, mean=(-shift,), labels=labels, explain="label", baseline="black")


def methods() -> list[str]:
    """Names of conf/methods that look at the model, without those that run the code of another library."""
    named = [name for name in choices("methods") if name != "custom" and "/" not in name]
    return [name for name in named if _build(name).role == "method"]


def _build(name: str) -> Method:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"methods={name}", "models.layer=features"])
    method: Method = plugins.build(config.methods)
    return method.within(BUDGET)


def axioms(name: str) -> list[Axiom]:
    """Every axiom tried on the method `name`; none where it has nothing to work with on these networks."""
    try:
        return list(_axioms(name))
    except NotApplicable:
        return []


def _axioms(name: str) -> Iterator[Axiom]:
    method, pixels = _build(name), images(3, 3, SIDE, SIDE, seed=30)

    def explained(model: nn.Module, of: Tensor = pixels, shift: float = 0.0) -> Tensor:
        batch = _frozen(model, of, shift)
        maps = method.attribute(model, batch).double()
        return maps if maps.shape[1] == 3 else maps.expand(-1, 3, -1, -1) / 3

    net = _net()
    maps = explained(net)
    batch = _frozen(net, pixels)
    difference = (batch.logits - batch.baseline_logits)[:, 0]
    missed = (maps.sum((1, 2, 3)) - difference).abs() / maps.abs().sum((1, 2, 3))
    yield Axiom(name, "completeness", float(missed.max()))

    head = torch.zeros_like(net.head)
    head[:, 4:8, 5:9] = net.head[:, 4:8, 5:9]
    seen = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    seen[3:9, 4:10] = True
    blind = explained(_Net(net.features.weight, net.features.bias, head))  # type: ignore[arg-type]
    yield Axiom(name, "dummy", _relative(blind * ~seen, blind))

    def mirrored(tensor: Tensor) -> Tensor:
        return tensor + tensor.flip(-1)

    even = _Net(mirrored(net.features.weight), net.features.bias, mirrored(net.head))  # type: ignore[arg-type]
    found = explained(even, mirrored(pixels) / 2)
    yield Axiom(name, "symmetry", _relative(found - found.flip(-1), found))

    other = _net(head_seed=34)
    both = explained(_Net(net.features.weight, net.features.bias, net.head + other.head))  # type: ignore[arg-type]
    yield Axiom(name, "linearity", _relative(both - maps - explained(other), both))

    # Each channel twice, one of them twice as large with a quarter of the weight behind it.
    scale = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat_interleave(6)
    weight, bias = (torch.cat([part, part]) for part in (net.features.weight, net.features.bias))  # type: ignore[list-item]
    twin = _Net(scale.view(-1, 1, 1, 1) * weight, scale * bias, torch.cat([net.head / 2, net.head / 4]))
    yield Axiom(name, "implementation invariance", _relative(explained(twin) - maps, maps))

    shifted = _Net(net.features.weight, net.features.bias, net.head, shift=0.5)  # type: ignore[arg-type]
    yield Axiom(name, "input-shift invariance", _relative(explained(shifted, shift=0.5) - maps, maps))


def _relative(violation: Tensor, maps: Tensor) -> float:
    return float(violation.abs().max() / maps.abs().max())
