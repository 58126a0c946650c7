"""Layer attribution and stages: closed forms, slow versions that follow the papers, and what layers can be like."""

import dataclasses
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from benchmark import passes
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch
from methods._layers import activation_and_gradient
from methods._stages import grad_x_activation, layer_cam, layer_maps, stages
from methods.hierarchical import Hierarchical
from methods.internal_influence import InternalInfluence
from methods.layer_activation import LayerActivation
from methods.layer_conductance import LayerConductance
from methods.layer_grad_x_activation import LayerGradXActivation
from tests.architectures import network

EXACT = {"atol": 1e-9, "rtol": 1e-9}
METHODS = [LayerConductance, InternalInfluence, LayerActivation, LayerGradXActivation]


def ready(model, seed=0):
    """Random weights of order one, float64, eval, frozen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        fan = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
    return model.double().eval().requires_grad_(False)


def images(count=3, size=(8, 8), channels=3, seed=1):
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(model, inputs, targets=None, baseline=None, chunk=5):
    baseline = torch.zeros_like(inputs) if baseline is None else baseline
    logits = passes.logits(model, inputs, 64)
    return Batch(
        inputs=inputs,
        targets=logits.argmax(1) if targets is None else targets,
        uids=tuple(f"image-{i}" for i in range(len(inputs))),
        baseline=baseline,
        logits=logits,
        baseline_logits=passes.logits(model, baseline, 64),
        chunk=chunk,
    )


def gap(batch):
    return passes.class_scores(batch.logits - batch.baseline_logits, batch.targets)


def point(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


class Function(nn.Module):
    """A scalar function of the flattened values as the single logit."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x.flatten(1)).unsqueeze(1)


class Square(nn.Module):
    def forward(self, x):
        return x**2


class Net(nn.Module):
    """Two convolutions with an activation in place behind each, global average pooling, a linear head."""

    def __init__(self, act=nn.ReLU, bias=True):
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.two = nn.Conv2d(6, 7, 3, stride=2, padding=1, bias=bias)
        self.act = act(inplace=True)
        self.head = nn.Linear(7, 4, bias=bias)

    def forward(self, x):
        return self.head(self.act(self.two(self.act(self.one(x)))).mean((2, 3)))


def smooth():
    layers = (nn.Conv2d(3, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, 4, 3, stride=2), nn.Tanh(), nn.Flatten())
    return ready(nn.Sequential(*layers, nn.Linear(36, 3)))


def raw(model, layer, points, targets):
    """Output of `layer` and gradient at it, as the layer lays them out: one image at a time, by retained gradients."""
    found = []
    for at, target in zip(points, targets, strict=True):
        kept = {}

        def keep(module, args, output, kept=kept):
            kept["it"] = output
            output.retain_grad()
            return output.clone()

        handle = model.get_submodule(layer).register_forward_hook(keep)
        model(at.unsqueeze(0).clone().requires_grad_())[0, target].backward()
        handle.remove()
        found.append((kept["it"].detach()[0], kept["it"].grad[0]))
    return found


def along(model, layer, batch, image, places):
    x, b = batch.inputs[image], batch.baseline[image]
    return raw(model, layer, [b + a * (x - b) for a in places], [int(batch.targets[image])] * len(places))


def slow_conductance(model, layer, batch, image, steps):
    """Shrikumar et al. 2018 with both ends of each step; extrapolated in the step and for the gradient at the baseline.

    The way to extrapolate in the step is Romberg's: (4 T(h) - T(2 h)) / 3.
    """
    found = along(model, layer, batch, image, [k / steps for k in range(steps + 1)])
    first, second, third = (gradient for _, gradient in found[1:4])
    found[0] = (found[0][0], 3 * first - 3 * second + third)

    def trapezoids(points):
        total = torch.zeros_like(points[0][0])
        for (a, g), (b, h) in pairwise(points):
            total += (g + h) / 2 * (b - a)
        return total

    return (4 * trapezoids(found) - trapezoids(found[::2])) / 3


# Layer conductance ---------------------------------------------------------------------------------------------------


TABLE = [  # science.md 3.3: function, point, integrated gradients
    (lambda x: x[:, 0] * x[:, 1], (2, 3), (3, 3)),
    (lambda x: x[:, 0] ** 2 * x[:, 1], (2, 3), (8, 4)),
    (lambda x: x[:, 0] ** 2 + x[:, 1], (2, 3), (4, 3)),
    (lambda x: x.amin(1), (2, 3), (2, 0)),
    (lambda x: x.amax(1), (3, 2, 1), (3, 0, 0)),
    (lambda x: x[:, 0] + x[:, 1] - 2 * x[:, 0] * x[:, 1], (1, 1), (0, 0)),
    (lambda x: x.prod(1), (1, 1, 1), (1 / 3, 1 / 3, 1 / 3)),
]


@pytest.mark.parametrize(("function", "x", "expected"), TABLE)
def test_conductance_of_the_input_is_integrated_gradients(function, x, expected):
    model = nn.Sequential(nn.Identity(), Function(function))
    # Four steps are exact for gradients up to the second degree.
    found = LayerConductance("0", steps=4).attribute(model, batch_of(model, point(*x)))
    torch.testing.assert_close(found, point(*expected), **EXACT)


def test_conductance_through_a_known_layer():
    # f = a1 a2 of a_i = w_i x_i: along the path a_i = b_i + t d_i, so a1 gets d1 (b2 + d2 / 2).
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), Function(lambda a: a.prod(1)))
    model[0].weight = nn.Parameter(torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64))
    batch = batch_of(model, point(2, 5), baseline=point(1, -1))
    found = LayerConductance("0", steps=4).attribute(model, batch)
    torch.testing.assert_close(found, point(3 * (-3 + 18 / 2), 18 * (3 + 3 / 2)), **EXACT)


def test_conductance_of_a_curved_layer_converges_with_the_fourth_power():
    # f = a1 a2^2 of a_i = exp(t): a1 gets the integral of e^2t de^t, a2 that of 2 e^t e^t de^t.
    model = nn.Sequential(Exp(), Function(lambda a: a[:, 0] * a[:, 1] ** 2))
    batch = batch_of(model, point(1, 1))
    total = torch.e**3 - 1
    error = []
    for steps in (16, 32, 64):
        found = LayerConductance("0", steps=steps).attribute(model, batch)
        error.append(float((found - point(total / 3, 2 * total / 3)).abs().max()))
    assert error[-1] < 1e-5
    assert error[0] / error[1] == pytest.approx(16, rel=0.2)
    assert error[1] / error[2] == pytest.approx(16, rel=0.2)


class Exp(nn.Module):
    def forward(self, x):
        return x.exp()


def test_conductance_of_linear_networks_is_the_share_of_each_place():
    model = ready(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 3)))
    batch = batch_of(model, images(), baseline=images(seed=2))
    weight = model[2].weight[batch.targets].view(-1, 4, 8, 8)
    share = (weight * (model[0](batch.inputs) - model[0](batch.baseline))).sum(1, keepdim=True)
    torch.testing.assert_close(LayerConductance("0", steps=4).attribute(model, batch), share, **EXACT)


@pytest.mark.parametrize("size", [(8, 8), (9, 10), (7, 7)])
def test_conductance_is_complete_whatever_the_size_of_the_grid(size):
    layers = (nn.Conv2d(3, 5, 3, stride=2), nn.Tanh(), nn.Conv2d(5, 4, 2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
    model = nn.Sequential(*layers)
    model(torch.zeros(1, 3, *size))
    model = ready(model)
    batch = batch_of(model, images(size=size), baseline=images(size=size, seed=2))
    for layer in ("0", "1", "2"):
        total = LayerConductance(layer, steps=64).attribute(model, batch).sum((1, 2, 3))
        torch.testing.assert_close(total, gap(batch), atol=1e-4, rtol=0)


def test_a_grid_finer_than_the_image_keeps_its_sum():
    model = nn.Sequential(nn.Upsample(scale_factor=3), Function(lambda a: (a**2).sum(1)))
    batch = batch_of(model, images(size=(4, 5)))
    found = LayerConductance("0", steps=4).attribute(model, batch)
    torch.testing.assert_close(found, 9 * (batch.inputs**2).sum(1, keepdim=True), **EXACT)


def test_conductance_shares_are_laid_over_the_image_bilinearly():
    model, batch = relu_net()
    found = LayerConductance("two", steps=4).attribute(model, batch)
    for i in range(len(batch)):
        cells = slow_conductance(model, "two", batch, i, 4).sum(0)[None, None]
        expected = functional.interpolate(cells, (8, 8), mode="bilinear") / 4
        torch.testing.assert_close(found[[i]], expected, **EXACT)


def test_a_place_at_the_border_gives_no_more_than_its_own():
    # 3 cells to 10 pixels: plain interpolation would count cells unevenly.
    model = nn.Sequential(nn.AvgPool2d((1, 3), (1, 3)), Function(lambda a: (a**2).sum(1)))
    x = torch.zeros(3, 1, 1, 10, dtype=torch.float64)
    for cell in range(3):
        x[cell, ..., 3 * cell : 3 * cell + 3] = 1
    found = LayerConductance("0", steps=4).attribute(model, batch_of(model, x))
    torch.testing.assert_close(found.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64), **EXACT)
    assert (found >= 0).all()


def relu_net(bias=True):
    model = ready(Net(bias=bias))
    return model, batch_of(model, images(), baseline=images(seed=2) if bias else None)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_conductance_in_any_chunk(chunk):
    model, batch = relu_net()
    found = LayerConductance("two", steps=6).attribute(model, dataclasses.replace(batch, chunk=chunk))
    torch.testing.assert_close(found, LayerConductance("two", steps=6).attribute(model, batch), **EXACT)


def test_bias_free_relu_net_has_its_logit_in_every_layer():
    model, batch = relu_net(bias=False)
    for layer in ("one", "two"):
        product = LayerGradXActivation(layer).attribute(model, batch)
        conductance = LayerConductance(layer, steps=4).attribute(model, batch)
        # The gradient is constant on the ray: few steps are as good as many, and sums are those of the logit.
        torch.testing.assert_close(conductance.sum((1, 2, 3)), gap(batch), **EXACT)
        if layer == "one":  # no upsampling
            torch.testing.assert_close(conductance, product, **EXACT)


def test_class_token_is_what_conductance_of_a_transformer_lacks():
    model, _ = network("vit")
    batch = batch_of(model, images(2, (32, 32)), chunk=8)
    found = LayerConductance("blocks.0", steps=32).attribute(model, batch)
    for i in range(2):
        tokens = slow_conductance(model, "blocks.0", batch, i, 32).sum(1)
        assert tokens.sum().item() == pytest.approx(gap(batch)[i].item(), abs=1e-2)
        assert found[i].sum().item() == pytest.approx(tokens[3:].sum().item(), abs=1e-9)
        assert tokens[:3].sum().abs() > 0.01


# Internal influence --------------------------------------------------------------------------------------------------


def test_influence_of_a_linear_network_is_its_weight():
    model = ready(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 3)))
    batch = batch_of(model, images())
    weight = model[2].weight[batch.targets].view(-1, 4, 8, 8)
    found = InternalInfluence("0", steps=3).attribute(model, batch)
    torch.testing.assert_close(found, weight.abs().sum(1, keepdim=True), **EXACT)
    signed = InternalInfluence("0", steps=3, reduce="sum").attribute(model, batch)
    torch.testing.assert_close(signed, weight.sum(1, keepdim=True), **EXACT)


def test_influence_is_the_mean_gradient_and_not_that_at_the_end():
    model = nn.Sequential(nn.Identity(), Function(lambda x: x.prod(1)))
    batch = batch_of(model, point(2, 3), baseline=point(1, 1))
    found = InternalInfluence("0", steps=1).attribute(model, batch)
    torch.testing.assert_close(found, point(2, 1.5), **EXACT)
    cubic = nn.Sequential(nn.Identity(), Function(lambda x: -x.prod(1)))
    found = InternalInfluence("0", steps=2, reduce="sum").attribute(cubic, batch_of(cubic, point(1, 2, 3)))
    torch.testing.assert_close(found, point(-2, -1, -2 / 3), **EXACT)


def test_influence_of_a_bias_free_relu_net_is_its_gradient():
    model, batch = relu_net(bias=False)
    _, gradient = activation_and_gradient(model, batch, "one")
    found = InternalInfluence("one", steps=3).attribute(model, batch)
    torch.testing.assert_close(found, gradient.abs().sum(1, keepdim=True), **EXACT)


@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 64])
def test_influence_against_a_slow_version(chunk):
    model = smooth()
    batch = batch_of(model, images(), baseline=images(seed=2), chunk=chunk)
    found = InternalInfluence("0", steps=4).attribute(model, batch)
    # Four nodes of Gauss-Legendre on [0, 1], from tables.
    nodes = [0.0694318442029737, 0.3300094782075719, 0.6699905217924281, 0.9305681557970263]
    weights = [0.1739274225687269, 0.3260725774312731, 0.3260725774312731, 0.1739274225687269]
    for i in range(len(batch)):
        gradients = [gradient for _, gradient in along(model, "0", batch, i, nodes)]
        mean = sum(w * g for w, g in zip(weights, gradients, strict=True))
        torch.testing.assert_close(found[i], mean.abs().sum(0, keepdim=True), **EXACT)


def test_a_plain_sum_of_influence_is_empty_between_transformer_blocks():
    model, _ = network("vit")
    batch = batch_of(model, images(2, (32, 32)), chunk=8)
    magnitudes = InternalInfluence("blocks.0", steps=2).attribute(model, batch)
    signed = InternalInfluence("blocks.0", steps=2, reduce="sum").attribute(model, batch)
    assert signed.abs().max() < 1e-9 * magnitudes.max()


# Activation, gradient x activation -----------------------------------------------------------------------------------


def test_activation_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), Function(lambda a: a.sum(1)))
    model[0].weight = nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64).view(2, 1, 1, 1))
    batch = batch_of(model, point(1, -1, 0))
    expected = {"abs_sum": (5, 5, 0), "sum": (-1, 1, 0), "max": (2, 3, 0), "l2": (13**0.5, 13**0.5, 0)}
    for reduce, values in expected.items():
        torch.testing.assert_close(LayerActivation("0", reduce).attribute(model, batch), point(*values), **EXACT)


def test_activation_is_upsampled_and_needs_one_forward_pass():
    model, batch = relu_net()
    with passes.counted(model) as count:
        found = LayerActivation("two").attribute(model, batch)
    assert (count.forwards, count.backwards) == (len(batch), 0)
    before = model.two(model.one(batch.inputs).relu())  # not what the activation in place makes of it
    expected = functional.interpolate(before.abs().sum(1, keepdim=True), (8, 8), mode="bilinear")
    torch.testing.assert_close(found, expected, **EXACT)


def test_gradient_x_activation_before_pooling_is_cam():
    model, batch = relu_net()
    maps = model.two(model.one(batch.inputs).relu()).relu()
    weight = model.head.weight[batch.targets][:, :, None, None]
    share = (weight * maps).sum(1, keepdim=True) / 16
    found = LayerGradXActivation("two").attribute(model, batch)
    torch.testing.assert_close(found, functional.interpolate(share, (8, 8), mode="bilinear"), **EXACT)
    logit = passes.class_scores(batch.logits, batch.targets) - model.head.bias[batch.targets]
    torch.testing.assert_close(share.sum((1, 2, 3)), logit, **EXACT)


def test_gradient_x_activation_is_signed():
    model = nn.Sequential(nn.Identity(), Function(lambda x: x[:, 0] - x[:, 1] * x[:, 2]))
    found = LayerGradXActivation("0").attribute(model, batch_of(model, point(2, 3, -5)))
    torch.testing.assert_close(found, point(2, 15, 15), **EXACT)
    found = LayerGradXActivation("0").attribute(model, batch_of(model, point(2, 3, 5)))
    torch.testing.assert_close(found, point(2, -15, -15), **EXACT)


# Layers of every kind ------------------------------------------------------------------------------------------------


class Pieces(nn.Module):
    """Parts that no map can be made of, beside one that runs twice."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.pair = Pair()
        self.unused = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        first = self.twice(x).tanh()
        second, _ = self.pair(self.twice(first))
        return self.head((first + second).mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x):
        return x.tanh(), x


@pytest.mark.parametrize("method", METHODS)
def test_layers_that_cannot_be_explained(method):
    model = ready(Pieces())
    batch = batch_of(model, images())
    with pytest.raises(UserError, match="twice"):
        method("twise").attribute(model, batch)
    for layer, reason in {"pair": "single tensor", "head": "spatial", "unused": r"depend|run", "": "no layer"}.items():
        with pytest.raises(NotApplicable, match=reason):
            method(layer).attribute(model, batch)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_runs_twice_counts_where_it_runs_last():
    model = ready(Pieces())
    batch = batch_of(model, images(), baseline=images(seed=2))
    first = model.twice(batch.inputs).tanh()
    last = model.twice(first)
    weight = model.head.weight[batch.targets][:, :, None, None] / 64
    gradient = weight * (1 - last.tanh() ** 2)
    expected = (gradient * last).sum(1, keepdim=True)
    torch.testing.assert_close(LayerGradXActivation("twice").attribute(model, batch), expected, **EXACT)
    torch.testing.assert_close(layer_maps(model, batch, ["twice"], grad_x_activation), expected, **EXACT)
    torch.testing.assert_close(
        LayerActivation("twice").attribute(model, batch), last.abs().sum(1, keepdim=True), **EXACT
    )
    # What the first run adds to the logit does not pass the second.
    passed = (weight * (last.tanh() - model.twice(model.twice(batch.baseline).tanh()).tanh())).sum((1, 2, 3))
    found = LayerConductance("twice", steps=64).attribute(model, batch).sum((1, 2, 3))
    torch.testing.assert_close(found, passed, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def swin():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"img_size": 32, "patch_size": 2, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 3)}
        model = timm.models.SwinTransformer(**options, window_size=4, num_classes=4)
    return model.double().eval().requires_grad_(False)


def test_maps_with_channels_last(swin):
    batch = batch_of(swin, images(2, (32, 32)), chunk=8)
    for layer, side in {"layers.0": 16, "layers.1": 8}.items():
        for method in (LayerConductance(layer, 32), LayerGradXActivation(layer), LayerActivation(layer)):
            assert method.attribute(swin, batch).shape == (2, 1, 32, 32)
        (kept, gradient), _ = raw(swin, layer, batch.inputs, batch.targets)
        assert kept.shape[:2] == (side, side)
        expected = functional.interpolate((kept * gradient).sum(2)[None, None], (32, 32), mode="bilinear")
        torch.testing.assert_close(LayerGradXActivation(layer).attribute(swin, batch)[:1], expected, **EXACT)
        total = LayerConductance(layer, 32).attribute(swin, batch).sum((1, 2, 3))
        torch.testing.assert_close(total, gap(batch), atol=1e-2, rtol=0)
    with pytest.raises(NotApplicable, match="windows"):
        LayerActivation("layers.0.blocks.0.attn").attribute(swin, batch)


def test_single_precision():
    model, batch = relu_net()
    exact = [method.attribute(model, batch) for method in (*(each("two") for each in METHODS), Hierarchical())]
    single = model.float()
    floats = {name: getattr(batch, name).float() for name in ("inputs", "baseline", "logits", "baseline_logits")}
    batch = dataclasses.replace(batch, **floats)
    found = [method.attribute(single, batch) for method in (*(each("two") for each in METHODS), Hierarchical())]
    for ours, expected in zip(found, exact, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


# Stages --------------------------------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """Residual blocks at two resolutions; the first layer of a block, and an activation used all over, are no stage."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.fine, self.coarse = Residual(4, 4, 1), Residual(4, 6, 2)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.act(self.coarse(self.act(self.fine(self.act(self.stem(x)))))).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, wide_in, wide_out, stride):
        super().__init__()
        self.first = nn.Conv2d(wide_in, wide_in, 3, padding=1)
        self.second = nn.Conv2d(wide_in, wide_out, 3, stride, padding=1)
        self.skip = nn.Conv2d(wide_in, wide_out, 1, stride)

    def forward(self, x):
        return self.second(self.first(x).relu()) + self.skip(x)


def test_a_stage_ends_where_everything_passes():
    model = ready(Blocks())
    batch = batch_of(model, images())
    # "coarse.first" runs later than "fine" at the same resolution, and "act" runs last of all.
    assert stages(model, batch) == ("fine", "act")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnn", ("0.norm", "0")),
        ("vit", ("blocks.0",)),
        ("mobilenet", ("features.2.conv.0", "features.4.conv.0", "features")),
        ("resnet", ("relu", "layer1", "layer2", "layer3")),
    ],
)
def test_stages_of_known_networks(name, expected):
    model, _ = network(name)
    assert stages(model, batch_of(model, images(2, (32, 32)))) == expected


@pytest.mark.parametrize(
    ("depth", "pool", "expected"),
    [(5, "token", (0, 1, 2, 3)), (7, "token", (0, 2, 3, 5)), (8, "avg", (1, 3, 5, 7)), (3, "avg", (0, 1, 2))],
)
def test_blocks_of_one_resolution_are_divided_evenly(depth, pool, expected):
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "num_heads": 2, "num_classes": 4}
    model = timm.models.VisionTransformer(**options, depth=depth, global_pool=pool, class_token=pool == "token")
    model = model.double().eval().requires_grad_(False)
    # Behind the last block of a network with a class token no place of the map counts.
    assert stages(model, batch_of(model, images(2, (32, 32)))) == tuple(f"blocks.{i}" for i in expected)


def test_no_stage_without_a_map():
    model = ready(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3)))
    with pytest.raises(NotApplicable, match="no spatial map"):
        stages(model, batch_of(model, images()))


def test_maps_of_all_layers_cost_one_forward_and_one_backward_pass():
    model, _ = network("resnet")
    batch = batch_of(model, images(3, (32, 32)), chunk=2)
    names = stages(model, batch)
    with passes.counted(model) as count:
        found = layer_maps(model, batch, names)
    assert (count.forwards, count.backwards) == (3, 3)
    signed = layer_maps(model, batch, names, grad_x_activation)
    assert found.shape == (3, len(names), 32, 32)
    for place, name in enumerate(names):
        for map_of, maps in ((layer_cam, found), (grad_x_activation, signed)):
            alone = map_of(*activation_and_gradient(model, batch, name))
            expected = functional.interpolate(alone, (32, 32), mode="bilinear")
            torch.testing.assert_close(maps[:, [place]], expected, **EXACT)
    backwards = layer_maps(model, batch, names[::-1])
    torch.testing.assert_close(backwards, found.flip(1), **EXACT)


def test_maps_of_layers_refuse_what_has_no_map():
    model = ready(Pieces())
    batch = batch_of(model, images())
    with pytest.raises(UserError, match="twice"):
        layer_maps(model, batch, ["twise"])
    with pytest.raises(UserError, match="at least one"):
        layer_maps(model, batch, [])
    for layer, reason in {"pair": "single tensor", "head": "spatial", "unused": "depend"}.items():
        with pytest.raises(NotApplicable, match=reason):
            layer_maps(model, batch, ["twice", layer])
    assert not any(module._forward_hooks for module in model.modules())


# Hierarchical --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_hierarchical_against_a_slow_version(chunk):
    model, _ = network("resnet")
    batch = batch_of(model, images(3, (32, 32)), chunk=chunk)
    found = Hierarchical(gain=1.5).attribute(model, batch)
    for i in range(3):
        fused = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
        for name in ("relu", "layer1", "layer2", "layer3"):
            ((activation, gradient),) = raw(model, name, batch.inputs[[i]], batch.targets[[i]])
            cam = (gradient.clamp(min=0) * activation).sum(0).clamp(min=0)
            scaled = torch.tanh(1.5 * cam / cam.max())[None, None]
            fused = torch.maximum(fused, functional.interpolate(scaled, (32, 32), mode="bilinear"))
        torch.testing.assert_close(found[[i]], fused, **EXACT)


def test_no_evidence_is_zero():
    model = ready(Net())
    model.head.weight.fill_(-1.0)  # nothing speaks for any class behind a ReLU
    batch = batch_of(model, images())
    model.two.weight.abs_()
    model.two.bias.abs_()
    found = Hierarchical().attribute(model, batch)
    assert torch.equal(found, torch.zeros_like(found))


# Options -------------------------------------------------------------------------------------------------------------


def test_refusals():
    for steps in (0, 2, 5, -4):
        with pytest.raises(UserError, match="even number of steps"):
            LayerConductance("two", steps)
    with pytest.raises(UserError, match="steps >= 1"):
        InternalInfluence("two", 0)
    for method in (InternalInfluence, LayerActivation):
        with pytest.raises(UserError, match="channel reduction"):
            method("two", reduce="mean")
    for gain in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="above 0"):
            Hierarchical(gain)


@pytest.mark.parametrize("budget", [1, 9, 10, 13, 24, 66])
def test_budgets_are_kept(budget):
    model, batch = relu_net()
    for method, least in ((LayerConductance("two"), 10), (InternalInfluence("two"), 2)):
        within = method.within(budget)
        with passes.counted(model) as count:
            within.attribute(model, batch)
        assert count.forwards + count.backwards == within.passes * len(batch)
        assert within.passes <= max(budget, least)
    assert LayerConductance("two").within(66).steps == 32
    assert LayerConductance("two").within(9).steps == 4
    assert InternalInfluence("two").within(9).steps == 4
