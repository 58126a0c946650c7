"""Every configured method on every kind of network: right shapes, the same map in any company, nothing left behind."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from benchmark import choices, passes, plugins
from benchmark.batches import freeze
from benchmark.choices import CONF
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Method
from tests.architectures import NAMES, SIDE, network

METHODS = [name for name in choices.choices("methods") if name != "custom"]
FEW = 3
CUT = 24
"""Passes an image: promises do not depend on how many samples there are, and time does."""
NOT_APPLICABLE: dict[str, tuple[str, ...]] = {
    "attention_flow": ("cnn", "mobilenet", "resnet"),
    "attention_rollout": ("cnn", "mobilenet", "resnet"),
    "attention_rollout_max": ("cnn", "mobilenet", "resnet"),
    "attention_rollout_min": ("cnn", "mobilenet", "resnet"),
    "generic_attention": ("cnn", "mobilenet", "resnet"),
    "legrad": ("cnn", "mobilenet", "resnet"),
    "raw_attention": ("cnn", "mobilenet", "resnet"),
    "transformer_attribution": ("cnn", "mobilenet", "resnet"),
    "cam": ("vit", "resnet"),
    "deconvnet": ("vit",),
    "guided_backprop": ("vit",),
    "guided_grad_cam": ("vit",),
    "shap/deep": NAMES,
    "attn_lrp": ("cnn", "mobilenet", "resnet"),
    "excitation_backprop": ("vit",),
    "zennit/epsilon_alpha2_beta1": ("vit", "mobilenet"),
    "zennit/epsilon_gamma_box": ("vit", "mobilenet"),
    "zennit/epsilon_plus_flat": ("vit", "mobilenet"),
}
"""Where a method has nothing to work with, by name: it says so in a sentence."""


def method_of(name: str, layer: str) -> Method:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"methods={name}", f"models.layer='{layer}'"])
    return plugins.build(config.methods).within(CUT)


def images_for(model: nn.Module) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(FEW, 3, SIDE, SIDE, dtype=torch.float64, generator=generator)
    masks = pixels.mean(1) > 0.6
    uids = [f"image-{i}" for i in range(FEW)]
    known = {"masks": masks, "truth": torch.rand(FEW, 4, SIDE, SIDE, dtype=torch.float64, generator=generator)}
    return freeze(model, pixels, uids, mean=(0.5,), std=(0.25,), baseline="mean", chunk=5, **known)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("name", METHODS)
def test_on_every_kind_of_network(name: str, kind: str) -> None:
    model, layer = network(kind)
    method, batch = method_of(name, layer), images_for(model)
    before = state(model, batch)
    if kind in NOT_APPLICABLE.get(name, ()):
        with pytest.raises(NotApplicable, match=r"\w+ \w+ \w+"):
            method.attribute(model, batch)
        assert state(model, batch) == before
        return
    with passes.counted(model) as count:
        whole = method.attribute(model, batch)
    assert tuple(whole.shape) in {(FEW, 3, SIDE, SIDE), (FEW, 1, SIDE, SIDE)}
    assert whole.dtype == batch.inputs.dtype
    assert whole.isfinite().all()
    assert not whole.requires_grad
    assert state(model, batch) == before
    if method.passes is not None:
        assert count.forwards + count.backwards == method.passes * FEW
    assert_same_in_any_company(method, model, batch, whole)


def assert_same_in_any_company(method: Method, model: nn.Module, batch: Batch, whole: Tensor) -> None:
    scale = float(whole.abs().max())
    small = Batch(**{**vars(batch), "chunk": 1})
    for found, expected in (
        (method.attribute(model, batch.select([1])), whole[[1]]),
        (method.attribute(model, small.select([2, 0])), whole[[2, 0]]),
    ):
        assert float((found - expected).abs().max()) <= 1e-9 * max(scale, 1e-9)


def state(model: nn.Module, batch: Batch) -> list[object]:
    """All that an explanation must leave alone."""
    tensors = [*model.state_dict().values(), batch.inputs, batch.targets, batch.baseline]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    return [
        [float(tensor.double().sum()) for tensor in tensors],
        [tensor._version for tensor in tensors],
        hooks,
        [sorted(vars(m)) for m in model.modules()],
        [m.training for m in model.modules()],
        [(p.requires_grad, p.grad is None) for p in model.parameters()],
        torch.random.get_rng_state().sum().item(),
        torch.is_grad_enabled(),
    ]
