"""The engine of modified backward passes: every form of an operation comes by, and without rules nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import NotApplicable
from methods._gradients import logit_gradient
from methods._operations import Operations, modified_gradient, with_backward
from tests.architectures import CLASSES, NAMES, SIDE, network


def images(count: int = 2, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def torchvision_vit() -> nn.Module:
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES)
    nn.init.normal_(model.heads.head.weight)  # zero otherwise
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: network(name)[0] for name in NAMES},
    "torchvision vit": torchvision_vit,
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 8, num_classes=CLASSES),
    "mobilenet v3": lambda: torchvision.models.mobilenet_v3_small(num_classes=CLASSES, width_mult=0.5),
    "swin": lambda: torchvision.models.SwinTransformer([4, 4], 12, [2, 2], [2, 2], [4, 4], num_classes=CLASSES),
    "convnext": lambda: timm.models.ConvNeXt(3, CLASSES, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)),
    "transformer encoder": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 8, 8),
        nn.Flatten(2),
        nn.Unflatten(1, (2, 4)),
        nn.Flatten(2),
        nn.TransformerEncoderLayer(64, 2, 16, batch_first=True),
        nn.Flatten(),
        nn.Linear(128, CLASSES),
    ),
}


def made(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name]().double().eval().requires_grad_(False)


@pytest.mark.parametrize("name", MODELS)
def test_without_rules_it_is_the_gradient(name: str) -> None:
    model, inputs = made(name), images()
    targets = torch.tensor([0, 1])
    expected = logit_gradient(model, inputs, targets)
    kept = inputs.clone()
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(modified_gradient(model, inputs, targets, {}), expected, atol=1e-11, rtol=1e-9)
    assert torch.equal(inputs, kept)


def test_fused_attention_is_taken_apart() -> None:
    model, inputs, targets = made("vit"), images(), torch.tensor([0, 1])
    seen: list[str] = []

    def watch(function: Callable[..., object], *args: object, **options: object) -> object:
        seen.append(function.__name__)
        return function(*args, **options)

    fused = modified_gradient(model, inputs, targets, {}, watch)
    blocks = model.blocks
    assert all(block.attn.fused_attn for block in blocks)
    assert seen.count("softmax") == 2
    assert "scaled_dot_product_attention" not in seen
    for block in blocks:
        block.attn.fused_attn = False
    try:
        torch.testing.assert_close(modified_gradient(model, inputs, targets, {}), fused, atol=1e-12, rtol=1e-9)
    finally:
        for block in blocks:
            block.attn.fused_attn = True


class Forms(nn.Module):
    """ReLU written in every way that changes nothing, and arithmetic in place."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs[:, :1] = 0.3
        inputs -= 0.1
        hidden = self.module(inputs)
        hidden = self.module(hidden + inputs.flip(-1))
        hidden = functional.relu(hidden - 0.2, inplace=True)
        hidden = torch.relu_(hidden * 2)
        hidden = (hidden - 0.3).relu_()
        hidden = (hidden - 0.1).relu() - 0.05
        hidden *= 0.9
        hidden.add_(1).mul_(0.5)
        hidden /= 3
        return hidden.flatten(1)[:, :CLASSES]


def test_a_rule_sees_each_call_of_any_form_once() -> None:
    calls: list[Tensor] = []

    def relu(function: Callable[..., Tensor], inputs: Tensor, **options: object) -> Tensor:
        before = inputs.clone()
        found = function(inputs, **options)
        assert torch.equal(inputs, before), "a rule is given a form that writes to its input"
        calls.append(found)
        return found

    model, inputs, targets = Forms(), images().abs(), torch.tensor([0, 1])
    found = modified_gradient(model, inputs, targets, {"relu": relu})
    assert len(calls) == 6
    torch.testing.assert_close(found, logit_gradient(model, inputs, targets), atol=1e-12, rtol=1e-12)


class Written(nn.Module):
    """Writes to tensors and goes on with the tensors, not with what the functions return."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs * 2
        hidden.sub_(0.5)
        kept = hidden
        hidden.mul_(3)
        functional.hardtanh(kept, 0.0, 4.0, inplace=True)
        logits = torch.cat([kept, hidden], 1).flatten(1).unflatten(1, (CLASSES, -1)).sum(-1)
        logits.mul_(0.5)
        return logits


def test_a_tensor_that_was_written_to_has_its_new_value() -> None:
    model, inputs, targets = Written(), images(), torch.tensor([0, 1])
    seen: list[str] = []

    def watch(function: Callable[..., object], *args: object, **options: object) -> object:
        seen.append(function.__name__)
        return function(*args, **options)

    expected = logit_gradient(model, inputs, targets)
    assert expected.unique().tolist() == [0, 3]
    torch.testing.assert_close(modified_gradient(model, inputs, targets, {}, watch), expected)
    assert [seen.count(name) for name in ("sub", "mul", "hardtanh")] == [1, 3, 1]


def test_a_backward_of_its_own_replaces_the_gradient() -> None:
    def doubled(function: Callable[..., Tensor], inputs: Tensor, **options: object) -> Tensor:
        with torch.no_grad():
            output = function(inputs, **options)
        return with_backward(output, (inputs,), lambda gradient: (2 * gradient,))

    model, _ = network("resnet")
    inputs, targets = images(), torch.tensor([2, 3])
    found = modified_gradient(model, inputs, targets, {"conv2d": lambda f, x, *a, **o: f(2 * x, *a, **o) / 2})
    torch.testing.assert_close(found, logit_gradient(model, inputs, targets), atol=1e-12, rtol=1e-9)
    linear = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES)).double()
    found = modified_gradient(linear, inputs, targets, {"relu": doubled})
    torch.testing.assert_close(found, 2 * linear[2].weight[targets].view_as(found), atol=0, rtol=0)


def test_inside_a_rule_no_rule_applies_and_a_mode_within_a_mode_does() -> None:
    seen: list[str] = []

    def outer(function: Callable[..., Tensor], inputs: Tensor) -> Tensor:
        seen.append("outer")
        with Operations({"tanh": inner}):
            return function(inputs.relu().tanh())

    def inner(function: Callable[..., Tensor], inputs: Tensor) -> Tensor:
        seen.append("inner")
        return function(inputs)

    with Operations({"relu": outer}):
        torch.ones(2).relu()
    assert seen == ["outer", "inner"]
    torch.ones(2).relu()
    assert seen == ["outer", "inner"]


def test_an_error_leaves_nothing_behind() -> None:
    def broken(function: Callable[..., Tensor], *args: object, **options: object) -> Tensor:
        raise RuntimeError("on purpose")

    model, _ = network("resnet")
    with pytest.raises(RuntimeError, match="on purpose"):
        modified_gradient(model, images(), torch.tensor([0, 1]), {"max_pool2d": broken})
    assert torch.overrides._get_current_function_mode_stack() == []
    assert torch.ones(2).relu().sum() == 2


def test_operations_that_cannot_be_seen_are_refused() -> None:
    model, _ = network("cnn")
    scripted = torch.jit.trace(model, images())
    with pytest.raises(NotApplicable, match="TorchScript"):
        modified_gradient(scripted, images(), torch.tensor([0, 1]), {})
    part = nn.Sequential(torch.jit.trace(nn.Flatten(), images()), nn.Linear(3 * SIDE * SIDE, 2).double())
    with pytest.raises(NotApplicable, match="TorchScript"):
        modified_gradient(part, images(), torch.tensor([0, 1]), {})


def test_a_constant_is_refused() -> None:
    class Constant(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.detach().flatten(1)

    with pytest.raises(NotApplicable, match="no gradient"):
        modified_gradient(Constant(), images(), torch.tensor([0, 1]), {})
