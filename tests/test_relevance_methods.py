"""Relevance propagation: each rule by plain loops over one image, what must be conserved, and where rules coincide."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from benchmark.batches import freeze
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Method
from methods.attn_lrp import AttnLRP
from methods.excitation_backprop import ExcitationBackprop
from methods.lrp import LRP
from methods.zennit_lrp import ZennitLRP
from tests import architectures

RULES = ("epsilon", "gamma", "z_plus", "alpha_beta")
LOW, HIGH = -2.0, 2.0
"""Bounds of pixels of mean 0.5 and standard deviation 0.25."""


def seeded(make: Callable[[], nn.Module], seed: int = 0, bias: bool = True) -> nn.Module:
    """A frozen network in float64 with random biases, or with none."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        for module in model.modules():
            if getattr(module, "bias", None) is not None and isinstance(module.bias, Tensor):
                nn.init.normal_(module.bias, 0.0, 0.3 if bias else 0.0)
    return model.double().eval().requires_grad_(False)


def frozen(model: nn.Module, side: int = 3, channels: int = 1, count: int = 2, chunk: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(count, channels, side, side, dtype=torch.float64, generator=generator)
    return freeze(model, pixels, [f"image-{i}" for i in range(count)], mean=(0.5,), std=(0.25,), chunk=chunk)


def target_logits(batch: Batch) -> Tensor:
    return batch.logits.gather(1, batch.targets.unsqueeze(1)).squeeze(1)


def perceptron(bias: bool = True) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)),
        bias=bias,
    )


def convolutional(bias: bool = True) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(8, 4),
        ),
        bias=bias,
    )


def small_pieces(rule: str, x: float, w: float, z: float, method: LRP) -> float:
    """What contribution x w adds to the numerator of `rule`, or the bias, as the weight of a constant input of 1."""
    part = x * w
    if rule == "gamma":
        return part * (1 + method.gamma * (part * z > 0))
    return part if rule == "epsilon" else part * (part > 0)


def by_loops(rule: str, x: Tensor, weight: Tensor, bias: Tensor, relevance: Tensor, method: LRP) -> Tensor:
    """R of the inputs `(I,)` of one dense layer, `weight (K, I)`, from R of its outputs `(K,)`."""
    z, found = weight @ x + bias, torch.zeros_like(x)
    for k in range(len(z)):
        if rule == "alpha_beta":
            parts = [(float(x[i] * weight[k, i]), i) for i in range(len(x))]
            above = sum(part for part, _ in parts if part > 0) + max(float(bias[k]), 0)
            below = sum(part for part, _ in parts if part < 0) + min(float(bias[k]), 0)
            for part, i in (each for each in parts if each[0]):
                share = method.alpha * part / above if part > 0 else (1 - method.alpha) * part / below
                found[i] += share * relevance[k]
            continue
        if rule == "z_box":
            parts = [float(x[i] * w - LOW * w.clamp(min=0) - HIGH * w.clamp(max=0)) for i, w in enumerate(weight[k])]
            total = sum(parts)
        elif rule in ("flat", "w_square"):
            parts = [1.0 if rule == "flat" else float(w) ** 2 for w in weight[k]]
            total = sum(parts)
        else:
            parts = [small_pieces(rule, float(x[i]), float(weight[k, i]), float(z[k]), method) for i in range(len(x))]
            total = sum(parts) + small_pieces(rule, 1.0, float(bias[k]), float(z[k]), method)
            total += method.epsilon * (1 if total >= 0 else -1)
        for i, part in enumerate(parts):
            found[i] += part / total * relevance[k]
    return found


@pytest.mark.parametrize("first", [None, "z_box", "flat", "w_square"])
@pytest.mark.parametrize("rule", RULES)
def test_each_rule_by_plain_loops(rule: str, first: str | None) -> None:
    model = perceptron()
    batch = frozen(model)
    method = LRP(dense=rule, first=first, epsilon=0.0 if rule == "alpha_beta" or first else 0.01)
    maps = method.attribute(model, batch)
    for image, target, found in zip(batch.inputs, batch.targets, maps, strict=True):
        hidden = [image.flatten()]
        for layer in (model[1], model[3]):
            hidden.append(layer(hidden[-1]).relu())
        relevance = torch.zeros(3, dtype=torch.float64)
        relevance[target] = model[5](hidden[-1])[target]
        for layer, x in zip((model[5], model[3], model[1]), reversed(hidden), strict=True):
            used = first if layer is model[1] and first is not None else rule
            relevance = by_loops(used, x, layer.weight, layer.bias, relevance, method)
        torch.testing.assert_close(found.flatten(), relevance, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("activation", ["tanh", "silu", "gelu", "hardswish", "relu6", "sigmoid"])
def test_activation_functions_hand_on_what_they_receive(activation: str) -> None:
    class Activated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(9, 7), nn.Linear(7, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            function = getattr(functional, activation)
            return self.second(function(4 * self.first(inputs.flatten(1))))

    model = seeded(Activated)
    batch, method = frozen(model), LRP(dense="z_plus")
    for image, target, found in zip(batch.inputs, batch.targets, method.attribute(model, batch), strict=True):
        hidden = getattr(functional, activation)(4 * model.first(image.flatten()))
        relevance = torch.zeros(3, dtype=torch.float64)
        relevance[target] = model.second(hidden)[target]
        relevance = by_loops("z_plus", hidden, model.second.weight, model.second.bias, relevance, method)
        relevance = by_loops("z_plus", image.flatten(), model.first.weight, model.first.bias, relevance, method)
        torch.testing.assert_close(found.flatten(), relevance, atol=1e-12, rtol=1e-9)


def test_a_batch_norm_behind_no_layer_shares_with_its_bias() -> None:
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(1, eps=0.0), nn.Flatten()).double().eval().requires_grad_(False)
    model[1].weight.fill_(2.0)
    model[1].bias.fill_(1.0)
    batch = freeze(model, torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64), ["image"])  # 2 * 3 + 1
    for rule, share in (("epsilon", 6 / 7), ("z_plus", 6 / 7), ("alpha_beta", 6 / 7), ("gamma", 6 / 7)):
        assert float(LRP(rule, epsilon=0.0).attribute(model, batch)) == pytest.approx(7 * share), rule
    assert float(ExcitationBackprop().attribute(model, batch)) == pytest.approx(1.0)


def test_a_negative_constant_beside_positive_activations_is_seen() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = inputs.flatten(1).relu()
            return self.layer(torch.cat([hidden, torch.full_like(hidden[:, :1], -2.0)], 1))

    model = seeded(Beside, bias=False)
    model.layer.weight.copy_(torch.tensor([[1.0, 2.0, -1.0]]))
    batch = freeze(model, torch.tensor([1.0, 0.5], dtype=torch.float64).view(1, 1, 1, 2), ["image"])
    # 1, 1 and 2 are all above 0, so each takes its own part of 4 and the constant keeps its own.
    assert LRP(dense="z_plus", epsilon=0.0).attribute(model, batch).flatten().tolist() == pytest.approx([1.0, 1.0])


def test_a_network_by_hand() -> None:
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)), bias=False)
    model[1].weight.copy_(torch.tensor([[1.0, 1.0], [2.0, -1.0]]))
    model[3].weight.copy_(torch.tensor([[1.0, 1.0]]))
    pixels = torch.tensor([2.0, 1.0], dtype=torch.float64).view(1, 1, 1, 2)
    batch = freeze(model, pixels, ["image"])  # hidden: 3 and 3, logit: 6
    expected = {
        "epsilon": [2 + 4, 1 - 1],
        "z_plus": [2 + 3, 1],
        "alpha_beta": [2 * (2 + 3) * 2, 2 * 2 - 6],  # where nothing is below 0, alpha has no counterpart
        "gamma": [2 + 4 * 2 * 3 / 7, 1 - 3 / 7],  # gamma 1: (8 - 1) of 3
    }
    for rule, values in expected.items():
        found = LRP(dense=rule, epsilon=0.0, gamma=1.0).attribute(model, batch)
        assert found.flatten().tolist() == pytest.approx(values), rule
    assert ExcitationBackprop().attribute(model, batch).flatten().tolist() == pytest.approx([5 / 6, 1 / 6])


@pytest.mark.parametrize("kind", ["cnn", "mobilenet", "resnet"])
def test_lrp_0_is_gradient_times_input_where_there_is_no_bias(kind: str) -> None:
    model = deepcopy(architectures.network(kind)[0])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
        if isinstance(getattr(module, "bias", None), Tensor):
            module.bias.zero_()
        if isinstance(module, nn.ReLU6):
            module.max_val = 1e9
    batch = frozen(model, architectures.SIDE, 3)
    maps = LRP(epsilon=0.0).attribute(model, batch)
    leaf = batch.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).gather(1, batch.targets.unsqueeze(1)).sum(), leaf)
    torch.testing.assert_close(maps, batch.inputs * gradient, atol=1e-12, rtol=1e-8)
    torch.testing.assert_close(maps.sum((1, 2, 3)), target_logits(batch), atol=1e-12, rtol=1e-8)


@pytest.mark.parametrize("first", [None, "z_box", "flat", "w_square"])
@pytest.mark.parametrize("rule", ["epsilon", "gamma", "z_plus"])
def test_relevance_is_conserved_where_there_is_no_bias(rule: str, first: str | None) -> None:
    model = convolutional(bias=False)
    batch = frozen(model, 12, 3)
    maps = LRP(rule, rule, first, epsilon=0.0).attribute(model, batch)
    torch.testing.assert_close(maps.sum((1, 2, 3)), target_logits(batch), atol=0, rtol=1e-9)


def test_linear_model(linear) -> None:
    model, batch, _ = linear()
    exact = model.weight[batch.targets].view_as(batch.inputs) * batch.inputs
    torch.testing.assert_close(LRP(epsilon=0.0).attribute(model, batch), exact, atol=1e-12, rtol=1e-9)


def test_rules_coincide_where_they_must() -> None:
    model = convolutional()
    batch = frozen(model, 12, 3)

    def found(rule: str, **options: float) -> Tensor:
        return LRP(rule, rule, **options).attribute(model, batch)

    torch.testing.assert_close(found("alpha_beta", alpha=1.0), found("z_plus"), atol=0, rtol=0)
    torch.testing.assert_close(found("gamma", gamma=0.0), found("epsilon"), atol=1e-12, rtol=1e-6)
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)), bias=False)
    model[3].weight.abs_()
    batch = frozen(model)
    torch.testing.assert_close(found("gamma", gamma=1e9, epsilon=0.0), found("z_plus", epsilon=0.0))


def test_flat_is_even() -> None:
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 3)))
    batch = frozen(model)
    maps = LRP(first="flat", epsilon=0.0).attribute(model, batch)
    torch.testing.assert_close(maps, (target_logits(batch) / 9).view(-1, 1, 1, 1).expand_as(maps))


@pytest.mark.parametrize("first", ["z_box", "flat", "w_square"])
def test_the_first_layer_may_stand_behind_a_normalisation(first: str) -> None:
    class Normalised(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner((1 - inputs) / -0.5 + 1.0)  # 2 x - 1

    inner = convolutional()
    batch = frozen(inner, 12, 3)  # the inner network sees pixels from -2 to 2, and 2 x - 1 of what the outer one sees
    outer = replace(batch, inputs=(batch.inputs + 1) / 2, mean=(0.25,), std=(0.5,))
    method = LRP("z_plus", first=first)
    assert (float(outer.normalise(torch.zeros(1))), float(outer.normalise(torch.ones(1)))) == (-0.5, 1.5)
    torch.testing.assert_close(
        method.attribute(Normalised(inner), outer), method.attribute(inner, batch), atol=1e-12, rtol=1e-9
    )


@pytest.mark.parametrize("method", [*(LRP(rule, rule) for rule in RULES), LRP(first="z_box"), ExcitationBackprop()])
def test_a_batch_norm_is_part_of_its_convolution(method: Method) -> None:
    model = convolutional()
    nn.init.uniform_(model[1].weight, -1.0, 1.0)
    model[1].running_mean.copy_(torch.linspace(-0.5, 0.5, 6))
    model[1].running_var.copy_(torch.linspace(0.5, 2.0, 6))
    folded = nn.Sequential(fuse_conv_bn_eval(model[0], model[1]), *model[2:])
    batch = frozen(model, 12, 3)
    torch.testing.assert_close(method.attribute(model, batch), method.attribute(folded, batch), atol=1e-12, rtol=1e-7)


@pytest.mark.parametrize("method", [*(LRP(rule, rule) for rule in RULES), ExcitationBackprop()])
def test_what_is_known_of_signs_and_how_the_network_is_written_change_nothing(method: Method) -> None:
    class Written(nn.Module):
        """The same network in functions, in place, with one module that runs twice and clamps for ReLU."""

        def __init__(self, like: nn.Module) -> None:
            super().__init__()
            self.like = like

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.like[1](self.like[0](inputs))
            hidden.clamp_(min=0)
            hidden = functional.max_pool2d(hidden, 2)
            last = self.like[4]
            hidden = functional.conv2d(hidden, last.weight, bias=last.bias, stride=2, padding=1, groups=2).clamp(min=0)
            return hidden.mean((2, 3)) @ self.like[8].weight.T + self.like[8].bias

    model = convolutional()
    model[8].bias.zero_()
    batch = frozen(model, 12, 3)
    torch.testing.assert_close(
        method.attribute(Written(model), batch), method.attribute(model, batch), atol=1e-12, rtol=1e-9
    )


@pytest.mark.parametrize("kind", ["cnn", "resnet"])
def test_excitation_is_a_probability(kind: str) -> None:
    model = architectures.network(kind)[0]
    maps = ExcitationBackprop().attribute(model, frozen(model, architectures.SIDE, 3, count=3))
    assert maps.min() >= 0
    torch.testing.assert_close(maps.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64))


def test_excitation_shares_a_sum_among_its_positive_terms() -> None:
    class Sum(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return (inputs[:, 0] + inputs[:, 1]).flatten(1).sum(1, keepdim=True)

    pixels = torch.tensor([[[3.0, 2.0]], [[1.0, -1.0]]], dtype=torch.float64).unsqueeze(0)
    batch = freeze(Sum(), pixels, ["image"])  # 4 and 1: the walk goes left in four of five cases
    found = ExcitationBackprop().attribute(Sum(), batch).flatten()
    assert found.tolist() == pytest.approx([0.8 * 3 / 4, 0.2, 0.8 / 4, 0.0])


def test_excitation_goes_to_the_positive_terms_of_an_average() -> None:
    class Mean(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.mean((2, 3))

    pixels = torch.tensor([3.0, -1.0, 1.0, 0.0], dtype=torch.float64).view(1, 1, 2, 2)
    batch = freeze(Mean(), pixels, ["image"])
    assert ExcitationBackprop().attribute(Mean(), batch).flatten().tolist() == pytest.approx([0.75, 0.0, 0.25, 0.0])


class Attention(nn.Module):
    """One head over the four pixels of a channel, in one of three ways of writing it."""

    def __init__(self, way: str = "plain") -> None:
        super().__init__()
        self.way = way
        self.embed = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.LayerNorm(4)
        self.attend = nn.MultiheadAttention(4, 2, bias=False, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(4, 6, bias=False), nn.GELU(), nn.Linear(6, 4, bias=False))
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs).flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        if self.way == "module":
            mixed = self.attend(normed, normed, normed, need_weights=False)[0]
        else:
            q, k, v = (
                functional.linear(normed, self.attend.in_proj_weight).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4)
            )
            if self.way == "fused":
                mixed = functional.scaled_dot_product_attention(q, k, v)
            else:
                mixed = ((q @ k.mT) / 2**0.5).softmax(-1) @ v
            mixed = self.attend.out_proj(mixed.transpose(1, 2).flatten(2))
        tokens = tokens + mixed
        return self.head((tokens + self.mlp(tokens)).mean(1))


def attention(way: str = "plain") -> nn.Module:
    return seeded(lambda: Attention(way), bias=False)


def test_attention_is_the_same_however_it_is_written() -> None:
    batch = frozen(attention(), 2)
    expected = AttnLRP().attribute(attention(), batch)
    for way in ("fused", "module"):
        torch.testing.assert_close(AttnLRP().attribute(attention(way), batch), expected, atol=1e-12, rtol=1e-9)


def test_softmax_product_and_layer_norm_by_hand() -> None:
    class Softmax(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1).softmax(1)

    pixels = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64).view(1, 1, 2, 2)
    batch = freeze(Softmax(), pixels, ["image"])
    s, target = pixels.flatten().softmax(0), int(batch.targets)
    upper = torch.zeros(4, dtype=torch.float64)
    upper[target] = s[target]
    found = LRP().attribute(Softmax(), batch).flatten()
    torch.testing.assert_close(found, pixels.flatten() * (upper - s * upper.sum()))

    class Product(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return (inputs[:, 0, :1] @ inputs[:, 0, 1:].mT).flatten(1)  # 1 * -1 + 2 * 0.5

    batch = freeze(Product(), pixels, ["image"])
    assert LRP().attribute(Product(), batch).flatten().tolist() == pytest.approx([-0.5, 0.5, -0.5, 0.5])

    class Norm(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return functional.layer_norm(inputs.flatten(1), (4,), eps=0.0)

    batch = freeze(Norm(), pixels, ["image"])
    x = pixels.flatten()
    expected = x * ((torch.arange(4) == int(batch.targets)).double() - 1 / 4) / x.std(correction=0)
    torch.testing.assert_close(LRP().attribute(Norm(), batch).flatten(), expected)


@pytest.mark.parametrize("norm", ["layer", "rms", "group"])
def test_norms_take_their_deviation_as_a_constant(norm: str) -> None:
    class Norm(nn.Module):
        def __init__(self, constant: bool) -> None:
            super().__init__()
            self.constant = constant
            self.weight = nn.Parameter(torch.linspace(0.5, 2.0, 4, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            x = inputs.flatten(1)
            if not self.constant and norm == "layer":
                return functional.layer_norm(x, (4,), self.weight)
            if not self.constant and norm == "rms":
                return functional.rms_norm(x, (4,), self.weight, 1e-5)
            if not self.constant:
                return functional.group_norm(x.unflatten(1, (4, 1)), 2, self.weight).flatten(1)
            groups = x.view(len(x), 2, 2) if norm == "group" else x.view(len(x), 1, 4)
            if norm == "rms":
                return (groups * (groups.detach().square().mean(2, True) + 1e-5).rsqrt()).flatten(1) * self.weight
            centred = groups - groups.mean(2, keepdim=True)
            return (centred * (centred.detach().square().mean(2, True) + 1e-5).rsqrt()).flatten(1) * self.weight

    batch = frozen(Norm(False), 2)
    leaf = batch.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Norm(True)(leaf).gather(1, batch.targets.unsqueeze(1)).sum(), leaf)
    torch.testing.assert_close(LRP().attribute(Norm(False), batch), batch.inputs * gradient)


def test_attention_conserves_but_for_what_softmax_keeps() -> None:
    class Fixed(Attention):
        """Attention weights that do not depend on the image: no softmax, so nothing is kept."""

        def forward(self, inputs: Tensor) -> Tensor:
            tokens = self.embed(inputs).flatten(2).transpose(1, 2)
            scores = functional.linear(tokens, self.attend.in_proj_weight[:4])
            return self.head((tokens + scores @ scores.mT @ tokens).mean(1))

    model = seeded(Fixed, bias=False)
    batch = frozen(model, 2)
    maps = AttnLRP(epsilon=0.0).attribute(model, batch)
    torch.testing.assert_close(maps.sum((1, 2, 3)), target_logits(batch), atol=1e-12, rtol=1e-9)


def test_projections_of_attention_have_the_epsilon_rule() -> None:
    """With gamma in the linear layers, the rest of the network decides the map; without a rest, gamma has no say."""

    class Bare(Attention):
        def forward(self, inputs: Tensor) -> Tensor:
            tokens = inputs.flatten(2).transpose(1, 2) * torch.linspace(0.5, 2, 4, dtype=torch.float64)
            return self.attend(tokens, tokens, tokens)[0].mean(1)

    model = seeded(lambda: Bare("module"), bias=False)
    batch = frozen(model, 2)
    plain = AttnLRP(0.0, 0.0).attribute(model, batch)
    torch.testing.assert_close(AttnLRP(5.0, 5.0).attribute(model, batch), plain, atol=0, rtol=0)
    assert not torch.allclose(LRP("gamma", "gamma").attribute(model, batch), plain)
    whole = attention()
    batch = frozen(whole, 2)
    assert not torch.allclose(AttnLRP(0, 0).attribute(whole, batch), AttnLRP(0, 1).attribute(whole, batch))
    assert not torch.allclose(AttnLRP(0, 0).attribute(whole, batch), AttnLRP(1, 0).attribute(whole, batch))


def test_chunks_and_wanted_gradients_change_nothing() -> None:
    model = convolutional()
    batch = frozen(model, 12, 3, count=5)
    whole = LRP("gamma").attribute(model, batch)
    model.requires_grad_(True)
    parts = LRP("gamma").attribute(model, replace(batch, chunk=2))
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=1e-9)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


class Odd(nn.Module):
    """What it does to the image before its layer."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation
        self.layer = nn.Conv2d(1, 3, 3, bias=False).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(self.operation(inputs)).mean((2, 3))


@pytest.mark.parametrize("method", [LRP(), LRP("gamma", "gamma"), ExcitationBackprop()])
def test_operands_may_be_named(method: Method) -> None:
    eye = torch.eye(3, dtype=torch.float64)
    for named, plain in (
        (lambda x: torch.add(x, other=x.relu()), lambda x: x + x.relu()),
        (lambda x: torch.mul(input=x.relu(), other=x.sigmoid()), lambda x: x.relu() * x.sigmoid()),
        (lambda x: torch.div(x, other=2.0), lambda x: x / 2),
        (lambda x: torch.matmul(x, other=2 * eye), lambda x: x @ (2 * eye)),
    ):
        model = Odd(named).eval().requires_grad_(False)
        batch = frozen(model)
        found, model.operation = method.attribute(model, batch), plain
        assert torch.allclose(found, method.attribute(model, batch), atol=1e-12)


def test_weights_may_be_standardised_in_the_forward_pass() -> None:
    """As in NFNets, by a batch norm in training mode, which mixes no images: they have none."""

    class Standardised(nn.Conv2d):
        def forward(self, inputs: Tensor) -> Tensor:
            rows = self.weight.reshape(1, len(self.weight), -1)
            return functional.conv2d(
                inputs, functional.batch_norm(rows, None, None, training=True).view_as(self.weight)
            )

    model = seeded(lambda: nn.Sequential(Standardised(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(500, 4)))
    batch = frozen(model, 12, 3)
    for method in (LRP("gamma"), ExcitationBackprop()):
        found = method.attribute(model, batch)
        plain = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), *model[1:]).to(batch.inputs).requires_grad_(False)
        rows = model[0].weight.reshape(1, 5, -1)
        plain[0].weight.copy_(functional.batch_norm(rows, None, None, training=True).view_as(model[0].weight))
        assert torch.allclose(found, method.attribute(plain, batch), atol=1e-12)


@pytest.mark.parametrize(
    ("operation", "method", "message"),
    [
        (torch.sin, LRP(), "operation 'sin' has no rule"),
        (lambda x: x / x.mean(), LRP(), "division by an activation"),
        (lambda x: functional.batch_norm(x, None, None, training=True), LRP(), "do not depend on the batch"),
        (torch.relu, LRP(first="flat"), "an image that meets 'relu' before it"),
        (lambda x: x + x.relu(), LRP(first="flat"), "an image that meets 'relu'"),
        (lambda x: x * x, LRP(first="z_box"), "an image that meets 'mul'"),
        (torch.relu, AttnLRP(), "no attention"),
        (lambda x: functional.softmax(x, 3), ExcitationBackprop(), "operation 'softmax' has no rule"),
        (torch.detach, LRP(), "no gradient"),
        (lambda x: checkpoint(torch.relu, x, use_reentrant=False), LRP(), "checkpointing"),
        (lambda x: x + x.relu(), ZennitLRP(), "zennit sees modules alone"),
    ],
)
def test_networks_without_a_rule_are_not_applicable(
    operation: Callable[[Tensor], Tensor], method: Method, message: str
) -> None:
    model = Odd(operation).eval().requires_grad_(False)
    batch = frozen(model)
    with pytest.raises(NotApplicable, match=message):
        method.attribute(model, batch)
    assert not model.layer._forward_hooks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LRP("zeta"), "unknown LRP rule 'zeta': expected epsilon, gamma"),
        (lambda: LRP(first="epsilon"), "first layer: expected z_box"),
        (lambda: LRP(epsilon=-1.0), "epsilon >= 0"),
        (lambda: LRP(alpha=0.5), "alpha >= 1"),
        (lambda: AttnLRP(linear_gamma=-0.1), "at least 0"),
        (lambda: ZennitLRP("guided_backprop"), "unknown composite"),
        (lambda: ZennitLRP(epsilon=0.0), "epsilon > 0"),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], Method], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


class TestZennit:
    def test_chain_of_modules(self) -> None:
        model = convolutional()
        model[1].running_var.fill_(1 - model[1].eps)  # zennit leaves its eps behind in a norm that it has merged
        batch = frozen(model, 12, 3)
        tiny = 1e-12
        for name, ours in (
            ("epsilon_plus", LRP("z_plus", epsilon=tiny)),
            ("epsilon_plus_flat", LRP("z_plus", first="flat", epsilon=tiny)),
            ("epsilon_alpha2_beta1", LRP("alpha_beta", epsilon=tiny)),
            ("epsilon_alpha2_beta1_flat", LRP("alpha_beta", first="flat", epsilon=tiny)),
            ("epsilon_gamma_box", LRP("gamma", first="z_box", epsilon=tiny)),
        ):
            theirs = ZennitLRP(name, epsilon=tiny).attribute(model, batch)
            gap = (ours.attribute(model, batch) - theirs).abs().max()
            assert gap <= 1e-5 * theirs.abs().max(), name

    def test_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = convolutional()
        batch = frozen(model, 12, 3)
        monkeypatch.setitem(sys.modules, "zennit.composites", None)
        with pytest.raises(UserError, match=r'pip install "assay-bench\[zennit\]"'):
            ZennitLRP().attribute(model, batch)

    def test_puts_back_what_it_changed_after_an_error(self) -> None:
        model = convolutional()
        batch = frozen(model, 12, 3)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        handle = model[5].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ZennitLRP().attribute(model, batch)
        handle.remove()
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    @pytest.mark.parametrize(("width", "message"), [(5, "fails to merge"), (3, "do not follow here")])
    def test_refuses_to_merge_a_norm_that_stands_elsewhere(self, width: int, message: str) -> None:
        """Modules are a chain in their order of definition, and here the norm runs before the convolution."""

        class NormFirst(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm, self.head = nn.Conv2d(3, width, 3), nn.BatchNorm2d(3), nn.Linear(width, 4)

            def forward(self, inputs: Tensor) -> Tensor:
                return self.head(self.conv(self.norm(inputs)).relu().mean((2, 3)))

        model = seeded(NormFirst)
        batch = frozen(model, 12, 3)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(NotApplicable, match=message):
            ZennitLRP("epsilon_plus").attribute(model, batch)
        assert {name: each.shape for name, each in model.state_dict().items()} == {
            n: t.shape for n, t in before.items()
        }
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
