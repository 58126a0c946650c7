"""Class activation maps against closed forms and slow versions, and the tail of a network against the whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, SwinTransformer, VisionTransformer

from benchmark import cam_layer, maps, passes, randomness
from benchmark.batches import freeze
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch
from methods._layers import layer_of, spatial, strongest_channels
from methods._tail import tail_of
from methods.ablation_cam import AblationCAM
from methods.cam import CAM
from methods.eigen_cam import EigenCAM, EigenGradCAM
from methods.grad_cam import GradCAM
from methods.grad_cam_plus_plus import GradCAMPlusPlus, SmoothGradCAMPlusPlus
from methods.hires_cam import HiResCAM
from methods.layer_cam import LayerCAM
from methods.score_cam import ScoreCAM
from methods.xgrad_cam import XGradCAM
from tests.architectures import network

EXACT = {"atol": 1e-9, "rtol": 1e-9}
LAYERED = (GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM, EigenCAM, EigenGradCAM, ScoreCAM, AblationCAM, CAM)


class Net(nn.Module):
    """Layers by name, put together by a function of (this network, images)."""

    def __init__(self, run: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.run(self, inputs)


def made(build: Callable[[], nn.Module]) -> nn.Module:
    """A network in float64, frozen, in eval mode, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = 0.1 * torch.randn(module.num_features)
                module.running_var = 0.5 + torch.rand(module.num_features)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, module.in_features**-0.5)
    return model.double().eval().requires_grad_(False)


def pooled(channels: int = 5, positive: bool = False) -> nn.Module:
    """Convolution, ReLU, global average, linear: the layer "relu" keeps the size of the image."""
    model = made(
        lambda: Net(
            lambda net, x: net.head(net.relu(net.conv(x)).mean((2, 3))),
            conv=nn.Conv2d(3, channels, 3, padding=1),
            relu=nn.ReLU(),
            head=nn.Linear(channels, 4),
        )
    )
    if positive:
        model.head.weight.abs_()
    return model


def curved() -> nn.Module:
    """As `pooled`, with a tail whose gradient differs from place to place, and a layer with negative values."""
    return made(
        lambda: Net(
            lambda net, x: net.head(net.second(net.conv(x).tanh()).square().mean((2, 3))),
            conv=nn.Conv2d(3, 5, 3, padding=1),
            second=nn.Conv2d(5, 6, 3, padding=1),
            head=nn.Linear(6, 4),
        )
    )


def batch_for(model: nn.Module, count: int = 3, side: int = 8, **options: object) -> Batch:
    pixels = torch.rand(count, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options = {"mean": (0.5,), "std": (0.25,), "baseline": "blur", "chunk": 4, **options}
    return freeze(model, pixels, [f"image-{i}" for i in range(count)], **options)


def watched(model: nn.Module, layer: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A and d z_t / d A, by a hook and a backward pass to the input: nothing of ours."""
    found = []
    handle = layer_of(model, layer).register_forward_hook(lambda module, args, output: found.append(output))
    score = model(inputs.clone().requires_grad_()).gather(1, targets.unsqueeze(1)).sum()
    handle.remove()
    return found[-1].detach(), torch.autograd.grad(score, found[-1])[0]


@contextmanager
def replaced(layer: nn.Module, activation: Tensor, run: int = 1) -> Iterator[None]:
    """Run `run` of `layer`, counted from 1, has another output."""
    runs = itertools.count(1)
    handle = layer.register_forward_hook(lambda module, args, output: activation.clone() if next(runs) == run else None)
    try:
        yield
    finally:
        handle.remove()


# ---------------------------------------------------------------------------------------------------------- the tail


def small_densenet() -> nn.Module:
    return made(lambda: DenseNet(4, (2, 3), 8, num_classes=4))


def small_swin() -> nn.Module:
    return made(
        lambda: timm.models.SwinTransformer(
            32, 4, embed_dim=12, depths=(2, 2), num_heads=(2, 3), window_size=4, num_classes=4
        )
    )


def torchvision_vit() -> nn.Module:
    return made(lambda: VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=4))


TAILS = {
    "resnet": (lambda: network("resnet")[0], ["layer3", "layer2.0.conv1", "layer2.0.bn2"]),
    "mobilenet": (lambda: network("mobilenet")[0], ["features", "features.2", "features.3.conv.1", "features.5.0"]),
    "vit": (lambda: network("vit")[0], ["blocks", "blocks.0", "blocks.1.norm1", "blocks.1.attn.qkv", "patch_embed"]),
    "cnn": (lambda: network("cnn")[0], ["0", "0.norm", "0.second"]),
    "densenet": (
        small_densenet,
        ["features", "features.denseblock2.denselayer2", "features.denseblock2.denselayer3.conv1"],
    ),
    "swin": (small_swin, ["layers.0", "layers.1.blocks.1", "layers.1.blocks.0.norm2"]),
    "torchvision vit": (torchvision_vit, ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.ln_1"]),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (_, names) in TAILS.items() for name in names])
def test_tail_is_the_model_with_the_layer_replaced(kind: str, name: str) -> None:
    assert_exact(TAILS[kind][0](), name, side=32)


def assert_exact(model: nn.Module, name: str, side: int = 8, shortened: bool = True) -> None:
    """For any number of rows, again and again, and nothing left behind."""
    inputs = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    before, kept = left_alone(model), inputs.clone()
    for image in inputs.split(1):
        tail = tail_of(model, image, name)
        assert tail.shortened is shortened
        assert torch.allclose(tail.logits, model(image), **EXACT)
        generator = torch.Generator().manual_seed(3)
        for count in (1, 2, 5, 2):
            noise = torch.randn(count, *tail.activation.shape[1:], dtype=torch.float64, generator=generator)
            given = tail.activation + 0.3 * noise
            untouched = given.clone()
            found = tail(given)
            with replaced(layer_of(model, name), given, tail._runs):
                expected = model(image.expand(count, -1, -1, -1).clone())
            assert not torch.allclose(expected, tail.logits, rtol=1e-6, atol=1e-9), "the layer must matter"
            assert torch.allclose(found, expected, **EXACT)
            assert torch.equal(given, untouched)
    assert torch.equal(inputs, kept)
    assert left_alone(model) == before


def left_alone(model: nn.Module) -> list[object]:
    """What a module has of its own, and its hooks."""
    return [(sorted(vars(each)), len(each._forward_hooks), len(each._forward_pre_hooks)) for each in model.modules()]


class Both(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        found = self.conv(inputs)
        return found, [found.relu()]


class Wrapped:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Wrapping(nn.Module):
    def forward(self, inputs: Tensor) -> Wrapped:
        return Wrapped(inputs * 2)


class Turn(nn.Module):
    """Tokens, as a view that is not contiguous: only so is the view that the network takes of it possible."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(2).transpose(1, 2)


class Table(nn.Module):
    """A module without images: its output has as many rows as there may be images in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 1, 1))

    def forward(self) -> Tensor:
        return self.weight * 2


def convolutions(*names: str, channels: int = 5) -> dict[str, nn.Module]:
    first = {names[0]: nn.Conv2d(3, channels, 3, padding=1)}
    return first | {name: nn.Conv2d(channels, channels, 3, padding=1) for name in names[1:]}


def through(net: Net, hidden: Tensor) -> Tensor:
    return net.head(hidden.mean((2, 3)))


def residual_in_place(net: Net, x: Tensor) -> Tensor:
    hidden = net.one(x)
    return through(net, net.two(hidden).tanh().add(hidden.add_(1.0)).mul_(hidden))


def written_by_a_module(net: Net, x: Tensor) -> Tensor:
    hidden = net.one(x) + 0.5
    net.relu(hidden)  # in place: what it returns is not used
    return through(net, net.two(hidden) * hidden)


def trunk_read_after(net: Net, x: Tensor) -> Tensor:
    hidden = net.one(x)
    return through(net, net.two(hidden).square() + net.relu(hidden))


def read_then_written(net: Net, x: Tensor) -> Tensor:
    hidden = net.one(x)
    early = hidden.square()
    late = net.relu(hidden)
    return through(net, net.two(late).tanh() * early + hidden)


def used_twice(net: Net, x: Tensor) -> Tensor:
    hidden = net.two(net.one(x))
    return through(net, hidden.sigmoid() * net.three(hidden) + hidden)


def run_twice(net: Net, x: Tensor) -> Tensor:
    first = net.two(net.one(x))
    return through(net, net.two(first.tanh()).tanh() * first)


def tuples(net: Net, x: Tensor) -> Tensor:
    hidden, (bright,) = net.both(x)
    return through(net, net.two(hidden) * bright + hidden)


def functional(net: Net, x: Tensor) -> Tensor:
    hidden = nn.functional.relu(net.one((x - 0.1) / 0.3), inplace=True)
    return through(net, net.two(hidden) + nn.functional.pad(hidden, (1, 1, 1, 1))[..., 1:-1, 1:-1])


def turned(net: Net, x: Tensor) -> Tensor:
    hidden = net.turn(net.one(x)).transpose(1, 2).view(len(x), -1).view(len(x), 5, *x.shape[2:])
    return through(net, net.two(hidden) * hidden)


def table(net: Net, x: Tensor) -> Tensor:
    weight = net.table()
    return through(net, net.two(net.one(x)) * weight)


def unreadable(net: Net, x: Tensor) -> Tensor:
    return through(net, net.two(net.one(net.wrap(x).tensor)))


def unreadable_twice(net: Net, x: Tensor) -> Tensor:
    first = net.two(net.wrap(net.one(x)).tensor)
    return through(net, net.two(first.tanh()).tanh() * first)


RUNS = {
    residual_in_place: ({}, False),
    written_by_a_module: ({"relu": nn.ReLU(inplace=True)}, False),
    trunk_read_after: ({"relu": nn.Hardswish(inplace=True)}, False),
    read_then_written: ({"relu": nn.Hardswish(inplace=True)}, False),
    used_twice: ({"three": nn.Conv2d(5, 5, 1)}, True),
    run_twice: ({}, True),
    tuples: ({"both": Both(5)}, True),
    functional: ({}, False),
    turned: ({"turn": Turn()}, True),
    table: ({"table": Table()}, False),
    unreadable: ({"wrap": Wrapping()}, False),
    unreadable_twice: ({"wrap": Wrapping()}, False),
}
"""What they do, and whether the trunk can be left out all the same."""


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_tail_of_networks_with_bad_habits(run: Callable[[Net, Tensor], Tensor]) -> None:
    extra, shortened = RUNS[run]
    model = made(lambda: Net(run, head=nn.Linear(5, 4), **convolutions("one", "two"), **extra))
    assert_exact(model, "two", shortened=shortened)


def test_tail_runs_no_trunk() -> None:
    chain = network("mobilenet")[0]
    tail = tail_of(chain, torch.randn(1, 3, 32, 32, dtype=torch.float64), "features.4")
    run: list[str] = []
    for name, module in chain.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda *_, name=name: run.append(name))
    tail(tail.activation)
    assert run
    assert all(name.startswith("features.5") for name in run)
    for module in chain.modules():
        module._forward_pre_hooks.clear()


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_tail_is_restored_when_a_pass_fails(interruption: type[BaseException]) -> None:
    model = pooled()
    before, image = left_alone(model), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    tail = tail_of(model, image, "relu")

    def fail(*_: object) -> None:
        raise interruption

    handle = model.head.register_forward_hook(fail)
    with pytest.raises(interruption):
        tail(tail.activation)
    with pytest.raises(interruption):
        tail_of(model, image, "relu")
    handle.remove()
    assert left_alone(model) == before


def test_tail_takes_a_course_that_was_not_recorded() -> None:
    """Control flow that depends on the layer's output may do to the trunk what the recorded pass did not."""

    def run(net: Net, x: Tensor) -> Tensor:
        hidden = net.one(x)
        deep = net.two(hidden)
        return through(net, deep * hidden.add_(1.0) if float(deep.amax()) > 1e3 else deep)

    model = made(lambda: Net(run, head=nn.Linear(5, 4), **convolutions("one", "two")))
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    tail = tail_of(model, image, "two")
    assert tail.shortened
    given = tail.activation.expand(3, -1, -1, -1) + 1e4
    with replaced(model.two, given):
        expected = model(image.expand(3, -1, -1, -1))
    for _ in range(2):
        assert torch.allclose(tail(given[:1]), expected[:1], **EXACT)
        assert torch.allclose(tail(given), expected, **EXACT)


def test_tail_costs_one_pass_and_other_hooks_work_once() -> None:
    model = made(lambda: Net(used_twice, head=nn.Linear(5, 4), **convolutions("one", "two", "three")))
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    model.one.register_forward_hook(lambda module, args, output: output + 1)
    model.two.register_forward_hook(lambda module, args, output: output + 1)
    with passes.counted(model) as count:
        tail = tail_of(model, image, "two")
    assert (count.forwards, count.backwards) == (1, 0)
    assert tail.shortened
    assert torch.allclose(tail(tail.activation.repeat(2, 1, 1, 1)), model(image).expand(2, -1), **EXACT)


def test_tail_lets_a_lack_of_memory_through() -> None:
    """Half as many rows may do: it is no reason to run the whole network."""
    model = pooled()
    tail = tail_of(model, torch.randn(1, 3, 8, 8, dtype=torch.float64), "relu")

    failures = iter([torch.OutOfMemoryError()])

    def fail(*_: object) -> None:
        for error in failures:
            raise error

    handle = model.head.register_forward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        tail(tail.activation.repeat(3, 1, 1, 1))
    handle.remove()


def test_tail_refuses() -> None:
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(UserError, match="does not exist"):
        tail_of(pooled(), image, "nowhere")
    with pytest.raises(NotApplicable, match="no single tensor"):
        tail_of(made(lambda: Net(tuples, head=nn.Linear(5, 4), both=Both(5), two=nn.Conv2d(5, 5, 1))), image, "both")
    idle = made(lambda: Net(lambda net, x: net.head(x.mean((2, 3))), idle=nn.ReLU(), head=nn.Linear(3, 4)))
    with pytest.raises(NotApplicable, match="does not run"):
        tail_of(idle, image, "idle")
    with pytest.raises(NotApplicable, match="windows"):
        tail_of(small_swin(), torch.randn(1, 3, 32, 32, dtype=torch.float64), "layers.0.blocks.0.attn")


# ------------------------------------------------------------------------------------ a global average and one linear


def test_cam_makes_up_the_logit_and_is_grad_cam_times_places() -> None:
    model = pooled()
    batch = batch_for(model)
    cam = CAM("relu").attribute(model, batch)
    logit = passes.class_scores(batch.logits, batch.targets)
    assert torch.allclose(cam.mean((1, 2, 3)) + model.head.bias[batch.targets], logit, **EXACT)
    assert torch.allclose(cam, 64 * GradCAM("relu", relu=False).attribute(model, batch), **EXACT)
    assert bool((cam < 0).any())
    assert torch.equal(CAM("relu", relu=True).attribute(model, batch), cam.relu())


def test_cam_watches_the_model() -> None:
    batch = batch_for(pooled())
    averaged_twice = made(
        lambda: Net(
            lambda net, x: net.head(net.middle(net.conv(x).relu().mean((2, 3)))),
            conv=nn.Conv2d(3, 5, 3),
            middle=nn.Linear(5, 5),
            head=nn.Linear(5, 4),
        )
    )
    with pytest.raises(NotApplicable, match="spatial mean of layer 'conv'"):
        CAM("conv").attribute(averaged_twice, batch)
    with pytest.raises(NotApplicable, match="spatial mean of layer 'conv'"):
        CAM("conv").attribute(pooled(), batch)  # a ReLU stands between
    scaled = made(
        lambda: Net(
            lambda net, x: 2 * net.head(net.conv(x).mean((2, 3))), conv=nn.Conv2d(3, 5, 3), head=nn.Linear(5, 4)
        )
    )
    with pytest.raises(NotApplicable, match="logits are the output of a linear layer"):
        CAM("conv").attribute(scaled, batch)
    with pytest.raises(NotApplicable, match="no layer"):
        CAM("").attribute(scaled, batch)
    model, layer = network("mobilenet")  # dropout and an adaptive average between
    images = batch_for(model, side=32)
    places = spatial(tail_of(model, images.inputs[:1], layer).activation, (32, 32))[0, 0].numel()
    expected = places * GradCAM(layer, relu=False).attribute(model, images)
    assert torch.allclose(CAM(layer).attribute(model, images), expected, **EXACT)


def test_all_are_grad_cam_behind_a_global_average() -> None:
    model = pooled()
    batch = batch_for(model)
    expected = GradCAM("relu", relu=False).attribute(model, batch)
    for method in (XGradCAM("relu", relu=False), HiResCAM("relu")):
        assert torch.allclose(method.attribute(model, batch), expected, **EXACT)
    positive = pooled(positive=True)
    hires = HiResCAM("relu").attribute(positive, batch)
    assert torch.allclose(LayerCAM("relu").attribute(positive, batch), hires, **EXACT)
    assert not torch.allclose(LayerCAM("relu").attribute(model, batch), expected.relu(), **EXACT)


def test_hires_cam_sums_to_the_logit_of_any_linear_head() -> None:
    model = made(
        lambda: Net(
            lambda net, x: net.head(net.relu(net.conv(x)).flatten(1)),
            conv=nn.Conv2d(3, 5, 3, padding=1),
            relu=nn.ReLU(),
            head=nn.Linear(5 * 64, 4),
        )
    )
    batch = batch_for(model)
    logit = passes.class_scores(batch.logits, batch.targets) - model.head.bias[batch.targets]
    assert torch.allclose(HiResCAM("relu").attribute(model, batch).sum((1, 2, 3)), logit, **EXACT)
    weights = XGradCAM("relu", relu=False).attribute(model, batch).sum((1, 2, 3))
    assert torch.allclose(weights, logit, **EXACT)  # conservation, which Grad-CAM has not
    assert not torch.allclose(GradCAM("relu", relu=False).attribute(model, batch).sum((1, 2, 3)), logit, rtol=1e-3)


def test_gradient_cams_by_their_formulas() -> None:
    model = curved()
    batch = batch_for(model)
    a, g = watched(model, "conv", batch.inputs, batch.targets)
    alpha = g**2 / (2 * g**2 + g**3 * a.sum((2, 3), keepdim=True))
    plus = ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1, keepdim=True)
    x = ((g * a).sum((2, 3), keepdim=True) / a.sum((2, 3), keepdim=True) * a).sum(1, keepdim=True)
    for kind, expected in (
        (GradCAMPlusPlus, plus),
        (XGradCAM, x),
        (HiResCAM, (g * a).sum(1, keepdim=True)),
        (LayerCAM, (g.relu() * a).sum(1, keepdim=True)),
    ):
        assert bool((expected < 0).any()), kind
        assert torch.allclose(kind("conv", relu=False).attribute(model, batch), expected, **EXACT), kind
        assert torch.allclose(kind("conv", relu=True).attribute(model, batch), expected.relu(), **EXACT), kind


def test_grad_cam_plus_plus_by_hand_and_in_any_unit() -> None:
    model = pooled()
    batch = batch_for(model)
    a, _ = watched(model, "relu", batch.inputs, batch.targets)
    g = model.head.weight[batch.targets] / 64
    weight = 64 * g.relu() / (2 + g * a.sum((2, 3)))
    expected = (weight[..., None, None] * a).sum(1, keepdim=True)
    found = GradCAMPlusPlus("relu").attribute(model, batch)
    assert torch.allclose(found, expected, **EXACT)
    model.conv.weight.mul_(1e6)
    model.conv.bias.mul_(1e6)
    model.head.weight.div_(1e6)
    assert torch.allclose(GradCAMPlusPlus("relu").attribute(model, batch), found, **EXACT)


def test_dead_channels_weigh_nothing() -> None:
    model = pooled()
    model.conv.bias[2] = -1e3
    batch = batch_for(model)
    for kind in LAYERED:
        found = kind("relu").attribute(model, batch)
        assert found.isfinite().all(), kind
        assert bool(found.any()), kind
    model.conv.bias.fill_(-1e3)
    for kind in LAYERED:
        assert not kind("relu").attribute(model, batch).any(), kind


def test_xgrad_cam_leaves_out_channels_that_sum_to_zero() -> None:
    values = torch.tensor([[[1.0, -1.0], [2.0, -2.0]], [[1.0, 2.0], [3.0, 4.0]]], dtype=torch.float64)

    class Fixed(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return values.expand(len(inputs), -1, -1, -1).clone()

    model = made(lambda: Net(lambda net, x: net.head(net.layer(x).flatten(1)), layer=Fixed(), head=nn.Linear(8, 4)))
    batch = batch_for(model, side=2)
    g = model.head.weight[batch.targets].view(-1, 2, 2, 2)[:, 1]
    expected = (g * values[1]).sum((1, 2), keepdim=True) / 10 * values[1]
    assert torch.allclose(XGradCAM("layer", relu=False).attribute(model, batch).squeeze(1), expected, **EXACT)


def test_smooth_grad_cam_plus_plus_without_noise_and_slowly() -> None:
    model = curved()
    batch = batch_for(model)
    still = SmoothGradCAMPlusPlus("conv", samples=2, noise=0.0, relu=False).attribute(model, batch)
    assert torch.allclose(still, GradCAMPlusPlus("conv", relu=False).attribute(model, batch), **EXACT)
    found = SmoothGradCAMPlusPlus("conv", samples=3, noise=0.2, relu=False).attribute(model, batch)
    keys = batch.keys("smooth grad-cam++", 3)
    for i in range(len(batch)):
        image, target = batch.inputs[[i]], batch.targets[[i]]
        powers = [torch.zeros(()), torch.zeros(()), torch.zeros(())]
        for s in range(3):
            noise = randomness.normal(keys[i, s], 3, 8, 8).double() * 0.2 * (image.max() - image.min())
            _, g = watched(model, "conv", image + noise, target)
            powers = [total + g**p / 3 for p, total in enumerate(powers, 1)]
        a, _ = watched(model, "conv", image, target)
        alpha = powers[1] / (2 * powers[1] + powers[2] * a.sum((2, 3), keepdim=True))
        cam = ((alpha * powers[0].relu()).sum((2, 3), keepdim=True) * a).sum(1)
        assert torch.allclose(found[i], cam, rtol=1e-6, atol=1e-9)
    assert SmoothGradCAMPlusPlus("conv").within(9).samples == 4


# ---------------------------------------------------------------------------------------------------- principal parts


@pytest.mark.parametrize("channels", [5, 100])
@pytest.mark.parametrize("centred", [False, True])
def test_eigen_cams_are_first_singular_vectors(channels: int, centred: bool) -> None:
    model = pooled(channels)
    batch = batch_for(model)
    a, g = watched(model, "relu", batch.inputs, batch.targets)
    for method, maps_ in ((EigenCAM("relu", centred), a), (EigenGradCAM("relu", centred), a * g)):
        found = method.attribute(model, batch)
        for i, channel in enumerate(maps_):
            o = channel.flatten(1).T
            o = o - o.mean(0) if centred else o
            expected = o @ torch.linalg.svd(o, full_matrices=False).Vh[0]
            expected = expected if expected @ found[i].flatten() > 0 else -expected
            assert torch.allclose(found[i].flatten(), expected, rtol=1e-6, atol=1e-9)
        if isinstance(method, EigenGradCAM):
            assert bool(((found.squeeze(1) * maps_.sum(1)).sum((1, 2)) > 0).all())
        else:
            assert bool((found.amax((1, 2, 3)) >= -found.amin((1, 2, 3))).all())
            assert centred or bool((found >= -1e-9).all())


def test_eigen_cam_of_one_rank_is_the_map() -> None:
    """A = u v' with unit v: the map is u, whatever the sign of v."""
    direction = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64).div(3).view(1, 3, 1, 1)
    model = made(
        lambda: Net(
            lambda net, x: net.head(net.layer(x.mean(1, keepdim=True) * direction).mean((2, 3))),
            layer=nn.Identity(),
            head=nn.Linear(3, 4),
        )
    )
    batch = batch_for(model, mean=(0.0,), std=(1.0,))
    expected = batch.inputs.mean(1, keepdim=True)
    assert torch.allclose(EigenCAM("layer").attribute(model, batch), expected, **EXACT)
    direction.neg_()
    assert torch.allclose(EigenCAM("layer").attribute(model, batch), expected, **EXACT)


# ----------------------------------------------------------------------------------------------- a pass for a channel


def test_ablation_cam_of_a_linear_head() -> None:
    model = pooled()
    batch = batch_for(model)
    a, _ = watched(model, "relu", batch.inputs, batch.targets)
    logit = passes.class_scores(batch.logits, batch.targets).view(-1, 1)
    weight = a.mean((2, 3)) * model.head.weight[batch.targets] / logit.abs()
    expected = (weight[..., None, None] * a).sum(1, keepdim=True)
    assert torch.allclose(AblationCAM("relu", relu=False).attribute(model, batch), expected, **EXACT)
    model.head.bias.sub_(100.0)  # a negative logit does not turn the map
    found = AblationCAM("relu", relu=False).attribute(model, batch)
    assert torch.allclose(found * (logit - 100).abs().view(-1, 1, 1, 1), expected * logit.abs().view(-1, 1, 1, 1))


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_ablation_cam_slowly(kind: str) -> None:
    """Channel by channel through the whole network; class and register tokens stay."""
    model, layer = network(kind)
    batch = batch_for(model, count=2, side=32)
    found = AblationCAM(layer, channels=6, relu=False).attribute(model, batch)
    prefix = maps.prefix_tokens(model)
    for i in range(len(batch)):
        image, target = batch.inputs[[i]], int(batch.targets[i])
        raw, _ = watched(model, layer, image, batch.targets[[i]])
        a = spatial(raw, (32, 32), prefix)
        logit, cam = float(batch.logits[i, target]), torch.zeros_like(a[:, :1])
        for k in a.flatten(2).var(2)[0].topk(6).indices.tolist():
            without = raw.clone()
            if kind == "vit":
                assert prefix == 3
                without[:, 3:, k] = 0
            else:
                without[:, k] = 0
            with replaced(layer_of(model, layer), without):
                cam += (logit - float(model(image)[0, target])) / abs(logit) * a[:, [k]]
        cam = nn.functional.interpolate(cam, (32, 32), mode="bilinear")
        assert torch.allclose(found[[i]], cam, rtol=1e-7, atol=1e-9 * float(cam.abs().max()))


@pytest.mark.parametrize("weights", ["softmax", "prob"])
def test_score_cam_slowly(weights: str) -> None:
    model, layer = network("cnn")
    batch = batch_for(model, side=32)
    found = ScoreCAM(layer, weights=weights).attribute(model, batch)
    for i in range(len(batch)):
        image, baseline, target = batch.inputs[[i]], batch.baseline[[i]], int(batch.targets[i])
        a, _ = watched(model, layer, image, batch.targets[[i]])
        scores, empty = [], float(batch.baseline_logits[i, target])
        for k in range(a.shape[1]):
            mask = nn.functional.interpolate(a[:, [k]], (32, 32), mode="bilinear")
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            logits = model(mask * image + (1 - mask) * baseline)[0]
            scores.append(float(logits[target]) - empty if weights == "softmax" else float(logits.softmax(0)[target]))
        weight = torch.tensor(scores, dtype=torch.float64)
        weight = weight.softmax(0) if weights == "softmax" else weight
        cam = nn.functional.interpolate((weight.view(1, -1, 1, 1) * a).sum(1, keepdim=True), (32, 32), mode="bilinear")
        assert torch.allclose(found[[i]], cam.relu(), **EXACT)


def test_score_cam_by_hand_on_a_linear_model() -> None:
    """z = sum of the image: channel 0 lets the left half through, 1 is the same everywhere, 2 all but one pixel."""
    masks = torch.zeros(3, 4, 4, dtype=torch.float64)
    masks[0, :, :2] = 2.0
    masks[1] = 5.0
    masks[2] = 1.0
    masks[2, 0, 0] = -1.0

    class Fixed(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return masks.expand(len(inputs), -1, -1, -1).clone()

    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    model = Net(lambda net, x: x.sum((1, 2, 3)).unsqueeze(1) * signs + 0 * net.layer(x).sum(), layer=Fixed())
    batch = freeze(model, torch.full((1, 3, 4, 4), 0.1, dtype=torch.float64), ["a"], baseline="black", chunk=2)
    weight = torch.tensor([0.1 * 3 * 8, 0.1 * 3 * 15], dtype=torch.float64).softmax(0)
    expected = (weight[0] * masks[0] + weight[1] * masks[2]).relu()
    assert torch.allclose(ScoreCAM("layer").attribute(model, batch)[0, 0], expected, **EXACT)


def test_budgets_keep_the_channels_that_vary_most() -> None:
    activation = torch.zeros(2, 3, 2, 2)
    activation[0, :, 0, 0] = torch.tensor([1.0, 3.0, 2.0])
    activation[1, :, 0, 0] = torch.tensor([3.0, 1.0, 2.0])
    activation[1, 1] += 9.0  # high everywhere, which is no variation
    assert strongest_channels(activation, 2).tolist() == [[1, 2], [0, 2]]
    assert strongest_channels(activation, None).tolist() == [[0, 1, 2], [0, 1, 2]]
    model = pooled()
    batch = batch_for(model)
    for kind in (ScoreCAM, AblationCAM):
        assert kind("relu").within(4).channels == 3
        assert kind("relu").within(1).channels == 1
        everything = kind("relu").attribute(model, batch)
        assert torch.allclose(kind("relu", channels=99).attribute(model, batch), everything, **EXACT)
        with passes.counted(model) as count:
            assert not torch.allclose(kind("relu").within(4).attribute(model, batch), everything, **EXACT)
        assert (count.forwards, count.backwards) == (4 * len(batch), 0)


# ------------------------------------------------------------------------------------------------------------- tokens


def distilled_vit() -> nn.Module:
    return made(
        lambda: timm.models.deit.VisionTransformerDistilled(
            img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=4
        )
    )


def torchvision_swin() -> nn.Module:
    return made(lambda: SwinTransformer([4, 4], 12, [2, 2], [2, 3], [4, 4], num_classes=4))


@pytest.mark.parametrize(
    ("build", "layer", "grid"),
    [
        (lambda: network("vit")[0], "blocks.1.norm1", (4, 4)),
        (distilled_vit, "blocks.1.norm1", (4, 4)),
        (torchvision_vit, "encoder.layers.encoder_layer_1.ln_1", (4, 4)),
        (small_swin, "norm", (4, 4)),
        (torchvision_swin, "permute", (4, 4)),
    ],
    ids=["class and registers", "distilled", "torchvision", "swin", "torchvision swin"],
)
def test_layer_and_maps_of_transformers(build: Callable[[], nn.Module], layer: str, grid: tuple[int, int]) -> None:
    """The layer is the last that still mixes places, and maps are of patches alone."""
    model = build()
    assert cam_layer.last_spatial(model, (3, 32, 32)) == layer
    batch = batch_for(model, count=2, side=32)
    raw, gradient = watched(model, layer, batch.inputs, batch.targets)
    prefix = maps.prefix_tokens(model)
    a, g = spatial(raw, (32, 32), prefix), spatial(gradient, (32, 32), prefix)
    assert a.shape[2:] == grid
    expected = nn.functional.interpolate((g * a).sum(1, keepdim=True), (32, 32), mode="bilinear")
    assert torch.allclose(HiResCAM(layer).attribute(model, batch), expected, **EXACT)
    signed = [kind(layer, relu=False) for kind in (GradCAM, AblationCAM, ScoreCAM)]
    for method in (*signed, EigenCAM(layer)):
        found = method.attribute(model, batch)
        assert bool((found.amax((1, 2, 3)) > found.amin((1, 2, 3))).all()), method


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("kind", [*LAYERED, SmoothGradCAMPlusPlus], ids=lambda kind: kind.__name__)
def test_refuse_layers(kind: type) -> None:
    model = pooled()
    batch = batch_for(model)
    with pytest.raises(UserError, match="did you mean relu"):
        kind("rely").attribute(model, batch)
    with pytest.raises(NotApplicable, match="no layer"):
        kind("").attribute(model, batch)
    with pytest.raises(NotApplicable, match="no spatial extent"):
        kind("head").attribute(model, batch)


def test_refuse_options() -> None:
    with pytest.raises(UserError, match="samples >= 1"):
        SmoothGradCAMPlusPlus("layer", samples=0)
    with pytest.raises(UserError, match="noise >= 0"):
        SmoothGradCAMPlusPlus("layer", noise=-0.1)
    with pytest.raises(UserError, match="at least 1 channel"):
        ScoreCAM("layer", channels=0)
    with pytest.raises(UserError, match="at least 1 channel"):
        AblationCAM("layer", channels=0)
    with pytest.raises(UserError, match="expected softmax, prob"):
        ScoreCAM("layer", weights="logit")
