"""Methods against closed forms, slow versions that follow the paper, captum, and the contract over every yaml."""

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from benchmark import choices, passes, plugins, randomness
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Method
from methods._gradients import input_gradients
from methods._layers import layer_of, spatial
from methods.grad_cam import GradCAM
from methods.ground_truth import GroundTruth
from methods.input_x_gradient import InputXGradient
from methods.integrated_gradients import IntegratedGradients, quadrature
from methods.nulls import BlurredRandom, CentrePrior, Constant, InputMagnitude, Intensity, Random, Sobel
from methods.occlusion import Occlusion
from methods.rise import RISE
from methods.saliency import Saliency
from methods.smoothgrad import SmoothGrad
from tests.test_zoo import METHODS, NOT_APPLICABLE

CONF = Path(__file__).parents[1] / "conf" / "methods"
NAMES = [name for name in METHODS if "/" not in name and "cnn" not in NOT_APPLICABLE.get(name, ())]
"""Methods of ours that have something to work with on a small convolutional network."""
NULLS = [
    "blurred_intensity",
    "blurred_random",
    "centre_prior",
    "constant",
    "input_magnitude",
    "intensity",
    "random",
    "sobel",
]
MODELLED = [name for name in NAMES if name not in (*NULLS, "contributions", "ground_truth")]
EXACT = {"atol": 1e-9, "rtol": 1e-9}


class Function(nn.Module):
    """A scalar function of the input values as the single logit."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x.flatten(1)).unsqueeze(1)


class Tiny(nn.Module):
    """A small convolutional net, with an in-place ReLU behind every layer that Grad-CAM may look at."""

    def __init__(self, bias=True, classes=5):
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.two = nn.Conv2d(6, 7, 3, stride=2, padding=1, bias=bias)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(7, classes, bias=bias)

    def forward(self, x):
        return self.head(self.pool(self.act(self.two(self.act(self.one(x))))).flatten(1))


def ready(model, seed=0):
    """Random weights of order one, biases and batch-norm statistics included; float64, eval, frozen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        fan = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
    return model.double().eval().requires_grad_(False)


def batch_of(model, inputs, targets=None, baseline=None, chunk=64, masks=None):
    baseline = torch.zeros_like(inputs) if baseline is None else baseline
    logits = passes.logits(model, inputs, 64)
    return Batch(
        inputs=inputs,
        targets=logits.argmax(1) if targets is None else targets,
        uids=tuple(f"image-{i}" for i in range(len(inputs))),
        baseline=baseline,
        logits=logits,
        baseline_logits=passes.logits(model, baseline, 64),
        masks=masks,
        chunk=chunk,
    )


def images(count=4, size=(12, 12), channels=3, seed=1):
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def point(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def configured(name, layer="two", **options):
    chosen = [f"methods={name}", f"models.layer={layer}", *(f"methods.{key}={value}" for key, value in options.items())]
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        return plugins.build(compose("config", overrides=chosen).methods)


# Closed forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(5, 5), (3, 7)])
def test_linear_model_gives_every_unit_its_own_contribution(size):
    model = ready(nn.Sequential(nn.Flatten(), nn.Linear(3 * size[0] * size[1], 4)))
    batch = batch_of(model, images(size=size), baseline=images(size=size, seed=2), chunk=7)
    weights = model[1].weight[batch.targets].view_as(batch.inputs)
    contribution = weights * (batch.inputs - batch.baseline)
    for rule in ("gauss_legendre", "midpoint"):
        found = IntegratedGradients(steps=3, rule=rule).attribute(model, batch)
        torch.testing.assert_close(found, contribution, **EXACT)
    found = Occlusion(window=1 / min(size), stride=1 / min(size)).attribute(model, batch)
    torch.testing.assert_close(found, contribution.sum(1, keepdim=True), **EXACT)
    from_zero = dataclasses.replace(batch, baseline=torch.zeros_like(batch.inputs))
    torch.testing.assert_close(InputXGradient().attribute(model, from_zero), weights * batch.inputs, **EXACT)
    torch.testing.assert_close(Saliency().attribute(model, batch), weights.abs().amax(1, keepdim=True), **EXACT)
    torch.testing.assert_close(SmoothGrad(samples=3).attribute(model, batch), weights, **EXACT)


TABLE = [  # science.md 3.3: function, point, integrated gradients, input x gradient
    (lambda x: x[:, 0] * x[:, 1], (2, 3), (3, 3), (6, 6)),
    (lambda x: x[:, 0] ** 2 * x[:, 1], (2, 3), (8, 4), (24, 12)),
    (lambda x: x[:, 0] ** 2 + x[:, 1], (2, 3), (4, 3), (8, 3)),
    (lambda x: x.amin(1), (2, 3), (2, 0), (2, 0)),
    (lambda x: x.amax(1), (2, 3), (0, 3), (0, 3)),
    (lambda x: x.amax(1), (3, 2, 1), (3, 0, 0), (3, 0, 0)),
    (lambda x: (x[:, 0] - x[:, 1]).abs(), (1, 0), (1, 0), (1, 0)),
    (lambda x: x[:, 0] + x[:, 1] - 2 * x[:, 0] * x[:, 1], (1, 1), (0, 0), (-1, -1)),
    (lambda x: x[:, 0] + x[:, 1] - x[:, 0] * x[:, 1], (1, 1), (0.5, 0.5), (0, 0)),
    (lambda x: x.sum(1).clamp(max=1), (1, 1), (0.5, 0.5), (0, 0)),
    (lambda x: x.prod(1), (1, 1, 1), (1 / 3, 1 / 3, 1 / 3), (1, 1, 1)),
]


@pytest.mark.parametrize(("function", "x", "integrated", "times_gradient"), TABLE)
def test_two_feature_table(function, x, integrated, times_gradient):
    model = Function(function)
    batch = batch_of(model, point(*x))
    # Two nodes are exact up to cubic gradients, so also for x1 x2 x3; midpoint needs no more on the linear gradients.
    found = IntegratedGradients(steps=2).attribute(model, batch)
    torch.testing.assert_close(found, point(*integrated), **EXACT)
    torch.testing.assert_close(InputXGradient().attribute(model, batch), point(*times_gradient), **EXACT)


def test_saturation_is_seen_by_integrated_gradients_only():
    model = Function(lambda x: 1 - torch.relu(1 - x.sum(1)))
    batch = batch_of(model, point(2.0))
    assert InputXGradient().attribute(model, batch).item() == 0
    assert IntegratedGradients(steps=64, rule="midpoint").attribute(model, batch).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 5, 16])
def test_gauss_legendre_is_exact_to_its_degree(steps):
    nodes, weights = quadrature("gauss_legendre", steps)
    for degree in range(2 * steps):
        assert (weights * nodes**degree).sum().item() == pytest.approx(1 / (degree + 1), abs=1e-12)


def test_bias_free_relu_net_is_homogeneous():
    model = ready(Tiny(bias=False))
    batch = batch_of(model, images())
    plain = InputXGradient().attribute(model, batch)
    for steps in (1, 3):
        found = IntegratedGradients(steps=steps).attribute(model, batch)
        torch.testing.assert_close(found, plain, **EXACT)
    torch.testing.assert_close(plain.sum((1, 2, 3)), passes.class_scores(batch.logits, batch.targets), **EXACT)


def test_integrated_gradients_are_complete():
    model = ready(nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.Tanh(), nn.Linear(8, 3)))
    batch = batch_of(model, images(size=(3, 3)), baseline=images(size=(3, 3), seed=2))
    total = IntegratedGradients(steps=32).attribute(model, batch).sum((1, 2, 3))
    gap = passes.class_scores(batch.logits - batch.baseline_logits, batch.targets)
    torch.testing.assert_close(total, gap, atol=1e-6, rtol=0)


def test_smoothgrad_of_a_quadratic_is_its_gradient():
    matrix = torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    matrix = matrix + matrix.T
    model = Function(lambda x: 0.5 * ((x @ matrix) * x).sum(1))
    batch = batch_of(model, images(60, (1, 6), channels=1))
    samples, noise = 500, 0.2
    found = SmoothGrad(samples, noise).attribute(model, batch).flatten(1)
    x = batch.inputs.flatten(1)
    width = noise * (x.amax(1, keepdim=True) - x.amin(1, keepdim=True))
    error = width * matrix.norm(dim=1) / samples**0.5  # the gradient at x + e is A x + A e
    z = (found - x @ matrix) / error
    assert z.abs().max() < 5
    assert 0.7 < z.square().mean() < 1.4  # the noise has the width it should have


# Occlusion and RISE --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "window", "stride"), [((6, 6), 2, 2), ((7, 5), 3, 2), ((4, 9), 4, 3), ((5, 5), 5, 4)])
def test_occlusion_follows_its_definition(size, window, stride):
    model = ready(Tiny())
    batch = batch_of(model, images(2, size), baseline=images(2, size, seed=2), chunk=5)
    total, cover = torch.zeros(2, 1, *size).double(), torch.zeros(size)
    top = 0
    while True:
        left = 0
        while True:
            patch = (..., slice(top, top + window), slice(left, left + window))
            occluded = batch.inputs.clone()
            occluded[patch] = batch.baseline[patch]
            drop = passes.class_scores(batch.logits - model(occluded), batch.targets)
            total[patch] += drop.view(-1, 1, 1, 1) / cover[patch[0], patch[1], patch[2]].numel()
            cover[patch] += 1
            if left + window >= size[1]:
                break
            left += stride
        if top + window >= size[0]:
            break
        top += stride
    assert cover.min() > 0
    found = Occlusion(window / min(size), stride / min(size)).attribute(model, batch)
    torch.testing.assert_close(found, total / cover, **EXACT)


def test_occlusion_side_by_side_sums_to_its_drops():
    model = ready(nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 4)))
    batch = batch_of(model, images(size=(6, 6)), baseline=images(size=(6, 6), seed=2))
    gap = passes.class_scores(batch.logits - batch.baseline_logits, batch.targets)
    found = Occlusion(4 / 6, 4 / 6).attribute(model, batch).sum((1, 2, 3))
    torch.testing.assert_close(found, gap, **EXACT)


@pytest.mark.parametrize("size", [(14, 14), (10, 17)])
def test_rise_follows_the_paper(size):
    method = RISE(masks=9, cells=4, keep=0.4)
    model = ready(Tiny())
    batch = batch_of(model, images(2, size), baseline=images(2, size, seed=2), chunk=5)
    expected = torch.zeros(2, 1, *size).double()
    cell = [-(-side // 4) for side in size]
    for i, keys in enumerate(batch.keys("rise", 9)):
        for key in keys:
            numbers = randomness.uniform(key, 18)
            grid = (numbers[:16] < 0.4).double().view(1, 1, 4, 4)
            large = nn.functional.interpolate(grid, (5 * cell[0], 5 * cell[1]), mode="bilinear")
            top, left = int(numbers[16] * cell[0]), int(numbers[17] * cell[1])
            mask = large[0, 0, top : top + size[0], left : left + size[1]]
            shown = batch.inputs[i] * mask + batch.baseline[i] * (1 - mask)
            expected[i, 0] += model(shown[None]).softmax(1)[0, batch.targets[i]] * mask / (9 * 0.4)
    torch.testing.assert_close(method.attribute(model, batch), expected, **EXACT)


def test_rise_masks_keep_the_share_they_should():
    batch = batch_of(ready(Tiny()), images(2))
    masks = RISE(cells=5, keep=0.3).draw(batch.keys("rise", 2000).flatten(), (20, 30))
    assert masks.shape == (4000, 1, 20, 30)
    assert masks.min() >= 0
    assert masks.max() <= 1
    # The mean is 0.3 at every pixel; the variance of a pixel is at most 0.3 * 0.7.
    assert (masks.mean(0) - 0.3).abs().max() < 5 * (0.21 / 4000) ** 0.5


# Grad-CAM ------------------------------------------------------------------------------------------------------------


def test_grad_cam_of_pooling_and_linear_head_is_cam():
    model = ready(Tiny())
    batch = batch_of(model, images(), targets=torch.tensor([0, 1, 2, 3]))
    maps = torch.relu(model.two(torch.relu(model.one(batch.inputs))))
    cam = (model.head.weight[batch.targets][:, :, None, None] * maps).sum(1, keepdim=True) / maps[0, 0].numel()
    assert (cam < 0).any()
    assert (cam > 0).any()
    for relu in (True, False):
        expected = nn.functional.interpolate(cam.relu() if relu else cam, (12, 12), mode="bilinear")
        torch.testing.assert_close(GradCAM("act", relu).attribute(model, batch), expected, **EXACT)


@pytest.mark.parametrize("layer", ["one", "two"])
def test_grad_cam_ignores_the_in_place_relu_behind_the_layer(layer):
    model, careful = ready(Tiny()), ready(Tiny())
    careful.act = nn.ReLU()
    batch = batch_of(model, images())
    expected = GradCAM(layer, relu=False).attribute(careful, batch)
    torch.testing.assert_close(GradCAM(layer, relu=False).attribute(model, batch), expected, **EXACT)
    assert expected.std() > 0


@pytest.mark.parametrize(("grid", "registers"), [(8, 0), (4, 9)])  # 1 + 9 + 16 tokens could also be 1 + 25
def test_grad_cam_on_vision_transformer_tokens(grid, registers):
    options = {"img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 6}
    options |= {"patch_size": 64 // grid, "reg_tokens": registers}
    model = ready(timm.create_model("vit_tiny_patch16_224", **options))
    batch = batch_of(model, images(2, (64, 64)))
    kept = []
    handle = model.blocks[1].norm1.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.enable_grad():
        score = passes.class_scores(model(batch.inputs.clone().requires_grad_()), batch.targets).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept[0])
    weights = gradient[:, 1 + registers :].mean(1, keepdim=True)
    cam = (weights * kept[0][:, 1 + registers :]).sum(2).relu().view(2, 1, grid, grid)
    expected = nn.functional.interpolate(cam, (64, 64), mode="bilinear").detach()
    assert expected.std() > 0
    torch.testing.assert_close(GradCAM("blocks.1.norm1").attribute(model, batch), expected, **EXACT)
    wrapped = nn.Sequential(nn.Identity(), model)
    torch.testing.assert_close(GradCAM("1.blocks.1.norm1").attribute(wrapped, batch), expected, **EXACT)


def test_grad_cam_on_channels_last_layer():
    class Permute(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)

    first = Tiny()
    tail = nn.Sequential(nn.ReLU(), nn.AvgPool2d(6), nn.Flatten(), nn.Linear(7, 5))

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.norm, self.tail = first.one, first.two, Permute(), tail

        def forward(self, x):
            return self.tail(self.norm(self.two(self.one(x))).permute(0, 3, 1, 2))

    model = ready(Last())
    batch = batch_of(model, images())
    expected = GradCAM("two").attribute(model, batch)
    torch.testing.assert_close(GradCAM("norm").attribute(model, batch), expected, **EXACT)


def test_grad_cam_on_swin():
    options = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
    model = ready(timm.create_model("swin_tiny_patch4_window7_224", num_classes=6, **options))
    batch = batch_of(model, images(2, (64, 64)))
    found = GradCAM("layers.1", relu=False).attribute(model, batch)
    assert found.shape == (2, 1, 64, 64)
    assert (found.flatten(1).std(1) > 0).all()
    with pytest.raises(NotApplicable, match="windows"):
        GradCAM("layers.0.blocks.0.attn").attribute(model, batch)


@pytest.mark.parametrize(
    ("shape", "size", "prefix", "expected"),
    [
        ((2, 512, 7, 7), (224, 224), 0, (2, 512, 7, 7)),
        ((2, 7, 7, 512), (224, 224), 0, (2, 512, 7, 7)),
        ((2, 8, 8, 8), (64, 64), 0, (2, 8, 8, 8)),
        ((2, 4, 8, 32), (64, 128), 0, (2, 32, 4, 8)),
        ((2, 32, 4, 8), (64, 128), 0, (2, 32, 4, 8)),
        ((2, 197, 5), (224, 224), 1, (2, 5, 14, 14)),
        ((2, 197, 5), (224, 224), 0, (2, 5, 14, 14)),
        ((2, 196, 5), (224, 224), 1, (2, 5, 14, 14)),
        ((2, 261, 5), (224, 224), 0, (2, 5, 16, 16)),
        ((2, 33, 5), (64, 128), 1, (2, 5, 4, 8)),
        ((2, 26, 5), (64, 64), 10, (2, 5, 4, 4)),
        ((2, 197, 5), (224, 230), 0, (2, 5, 14, 14)),
    ],
)
def test_spatial_form_of_any_architecture(shape, size, prefix, expected):
    activation = torch.arange(torch.Size(shape).numel()).view(shape).float()
    found = spatial(activation, size, prefix)
    assert found.shape == expected
    if len(shape) == 3:  # the last token is the last place
        torch.testing.assert_close(found[:, :, -1, -1], activation[:, -1])
    else:
        assert found.float().sum() == activation.sum()


@pytest.mark.parametrize("shape", [(2, 9), (2, 512, 1, 1), (2, 1, 1, 512), (2, 99, 5)])
def test_layer_without_spatial_extent_is_not_applicable(shape):
    with pytest.raises(NotApplicable, match="no spatial extent"):
        spatial(torch.zeros(shape), (64, 64))


@pytest.mark.parametrize("layer", ["pool", "head"])
def test_grad_cam_names_the_flat_layer(layer):
    model = ready(Tiny())
    with pytest.raises(NotApplicable, match="no spatial extent"):
        GradCAM(layer).attribute(model, batch_of(model, images()))


def test_grad_cam_has_nothing_to_say_without_a_spatial_map(tiny):
    model, batch = tiny
    with pytest.raises(NotApplicable, match="no layer with a spatial map"):
        GradCAM(layer="").attribute(model, batch)


@pytest.mark.parametrize("frozen", [True, False])
def test_grad_cam_on_a_layer_that_does_not_matter(frozen):
    class Aside(Tiny):
        def forward(self, x):
            self.one(x)
            return nn.functional.conv2d(x, self.head.weight.view(5, 7, 1, 1)[:, :3]).mean((2, 3))

    model = ready(Aside()).requires_grad_(not frozen)
    batch = batch_of(model, images())
    for layer in ("one", "two"):  # one runs for nothing, two does not run
        with pytest.raises(NotApplicable, match=f"does not depend on layer '{layer}'"):
            GradCAM(layer).attribute(model, batch)


def test_unknown_layer_names_close_ones():
    model = timm.create_model("test_resnet", num_classes=6)
    with pytest.raises(UserError, match=r"layer layer4\.0\.con2 does not exist; did you mean .*layer4\.0\.conv2"):
        layer_of(model, "layer4.0.con2")
    with pytest.raises(UserError, match=r"layer xyzzy does not exist \(there are: conv1, .*, \.\.\.\)"):
        layer_of(model, "xyzzy")
    with pytest.raises(UserError, match="does not exist"):
        layer_of(model, "")


# Against captum ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=6, zero_init_last=False).double().eval().requires_grad_(False)
    inputs = images(2, (64, 64))
    return model, batch_of(model, inputs, torch.tensor([1, 4]), images(2, (64, 64), seed=2), chunk=16)


def test_grad_cam_agrees_with_captum(resnet):
    from captum.attr import LayerGradCam

    model, batch = resnet
    for layer in ("layer2", "layer3.0.conv1"):
        module = model.get_submodule(layer)
        wanted = batch.inputs.clone().requires_grad_()
        cam = LayerGradCam(model, module).attribute(wanted, batch.targets).detach()
        assert (cam != 0).any()
        for relu in (True, False):
            expected = nn.functional.interpolate(cam.relu() if relu else cam, (64, 64), mode="bilinear")
            torch.testing.assert_close(GradCAM(layer, relu).attribute(model, batch), expected, **EXACT)


def test_gradients_agree_with_captum(resnet):
    from captum.attr import InputXGradient as CaptumInputXGradient
    from captum.attr import IntegratedGradients as CaptumIntegratedGradients

    model, batch = resnet
    expected = CaptumIntegratedGradients(model).attribute(
        batch.inputs, batch.baseline, batch.targets, n_steps=9, method="gausslegendre"
    )
    torch.testing.assert_close(IntegratedGradients(9).attribute(model, batch), expected, **EXACT)
    expected = CaptumInputXGradient(model).attribute(batch.inputs.clone().requires_grad_(), batch.targets).detach()
    torch.testing.assert_close(InputXGradient().attribute(model, batch), expected, **EXACT)


def test_occlusion_agrees_with_captum(resnet):
    from captum.attr import Occlusion as CaptumOcclusion

    model, batch = resnet
    expected = CaptumOcclusion(model).attribute(
        batch.inputs,
        sliding_window_shapes=(3, 16, 16),
        strides=(3, 12, 12),
        baselines=batch.baseline,
        target=batch.targets,
    )[:, :1]
    # Captum spreads no window over its pixels, each covered pixel gets the whole drop; and it works in float32.
    found = Occlusion(16 / 64, 12 / 64).attribute(model, batch) * 256
    torch.testing.assert_close(found.float(), expected, atol=1e-6, rtol=1e-4)
    assert expected.std() > 1e-3


# Null rows and the oracle --------------------------------------------------------------------------------------------


def test_null_rows_by_hand():
    model = ready(Tiny())
    inputs = torch.zeros(1, 3, 4, 4).double()
    inputs[..., 2:] = -2.0
    batch = batch_of(model, inputs)
    assert torch.equal(Constant().attribute(model, batch), torch.ones(1, 1, 4, 4).double())
    assert torch.equal(InputMagnitude().attribute(model, batch), inputs.abs())
    assert torch.equal(Intensity().attribute(model, batch), inputs[:, :1])
    blurred = Intensity(sigma=0.1).attribute(model, batch)[0, 0]
    rows, columns = (torch.arange(side).double() for side in inputs.shape[2:])
    weight = torch.exp(-((rows[:, None] - 1) ** 2) / (2 * (0.1 * len(rows)) ** 2))
    weight = weight * torch.exp(-((columns - 2) ** 2) / (2 * (0.1 * len(columns)) ** 2))
    expected = (weight * inputs[0, 0]).sum() / weight.sum()
    torch.testing.assert_close(blurred[1, 2], expected.to(blurred.dtype))
    edge = torch.tensor([0.0, 8.0, 8.0, 0.0]).double().expand(1, 1, 4, 4)  # a step of 2 under weights 1 + 2 + 1
    assert torch.equal(Sobel().attribute(model, batch), edge)
    turned = dataclasses.replace(batch, inputs=inputs.transpose(2, 3).contiguous())
    assert torch.equal(Sobel().attribute(model, turned), edge.transpose(2, 3))
    bump = CentrePrior(sigma=0.25).attribute(model, batch)[0, 0]
    assert bump[0, 1].item() == pytest.approx(torch.tensor(-0.5 * ((0.375**2) + (0.125**2)) / 0.25**2).exp().item())
    assert torch.equal(bump, bump.flip(0, 1))


@pytest.mark.parametrize("method", [Random(), BlurredRandom()], ids=["random", "blurred_random"])
def test_random_rows_are_standard_normal_at_every_pixel(method):
    model = ready(Tiny())
    noise = method.attribute(model, batch_of(model, images(1500, (16, 12))))
    assert noise.shape == (1500, 1, 16, 12)
    assert noise.mean(0).abs().max() < 5 / 1500**0.5
    assert (noise.var(0) - 1).abs().max() < 5 * (2 / 1500) ** 0.5


def test_blurred_random_is_blurred_by_its_sigma():
    model = ready(Tiny())
    noise = BlurredRandom(sigma=0.1).attribute(model, batch_of(model, images(300, (40, 40))))
    # Noise blurred by a Gaussian of width s has the correlation exp(-d^2 / 4 s^2) at distance d; here s = 4.
    for distance in (2, 4):
        expected = torch.tensor(-(distance**2) / 64.0).exp().item()
        for axis in (2, 3):
            shifted = noise.narrow(axis, distance, 40 - distance)
            products = noise.narrow(axis, 0, 40 - distance) * shifted
            assert products.mean().item() == pytest.approx(expected, abs=0.05)
            assert products.select(axis, 0).mean().item() == pytest.approx(expected, abs=0.05)  # also at the border


def test_ground_truth_is_the_mask():
    model = ready(Tiny())
    masks = images(4)[:, 0] > 0
    batch = batch_of(model, images(), masks=masks)
    assert torch.equal(GroundTruth().attribute(model, batch)[:, 0], masks.double())
    with pytest.raises(NotApplicable, match="no object masks"):
        GroundTruth().attribute(model, dataclasses.replace(batch, masks=None))


# Over every yaml, what `test_contract.py` does not ask --------------------------------------------------------------

SMALL = {
    "cam": {"layer": "act"},
    "rise": {"masks": 20},
    "smoothgrad": {"samples": 5},
    "occlusion": {"window": 0.4, "stride": 0.25},
    # Cells, because superpixels are made on the CPU.
    "lime": {"samples": 20, "unit": "grid3"},
    "kernel_shap": {"samples": 40, "unit": "grid3"},
    "shapley_sampling": {"permutations": 2, "unit": "grid3"},
    "sobol": {"designs": 4, "unit": "grid3"},
    "hsic": {"samples": 20, "unit": "grid3"},
    "feature_ablation": {"unit": "grid3"},
    "extremal_perturbation": {"steps": 4},
}


READ = ("deep_lift", "deep_shap", "full_grad", "hierarchical")
"""Methods that read a value of the device now and then: whether baselines are alike, what a layer does to its input."""


@pytest.fixture(scope="module")
def tiny():
    model = ready(Tiny())
    batch = batch_of(model, images(8), baseline=images(8, seed=2), masks=images(8)[:, 0] > 0)
    return model, dataclasses.replace(batch, truth=images(8, channels=5, seed=3))


def test_every_method_has_a_yaml_that_lists_every_option():
    every = {name: configured(name) for name in choices.choices("methods") if name != "custom"}
    classes = {subclass.__name__ for subclass in Method.__subclasses__() if subclass.__module__.startswith("methods.")}
    assert {type(method).__name__ for method in every.values()} == classes
    for name, method in every.items():
        text = (CONF / f"{name}.yaml").read_text()
        assert text.startswith("# ")
        # Plug-ins within plug-ins come by Hydra's list of defaults.
        inner = {"base", "members"} & set(vars(method)) if "\ndefaults:" in text else set()
        options = set(OmegaConf.load(CONF / f"{name}.yaml")) - {"_target_", "defaults"} | inner
        assert options == {field.name for field in dataclasses.fields(method)}
    assert "_target_: ???" in (CONF / "custom.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_passes_are_as_the_facts_say(name, tiny):
    model, batch = tiny
    method = configured(name, **SMALL.get(name, {})).within(24)
    with passes.counted(model) as passed:
        found = method.attribute(model, batch)
    assert (passed.backwards > 0) == method.needs_gradient
    assert (passed.forwards > 0) == (method.role == "method")
    assert not found.is_inference()


@pytest.mark.parametrize("name", NAMES)
def test_maps_do_not_depend_on_the_chunk(name, tiny):
    model, batch = tiny
    method = configured(name, **SMALL.get(name, {})).within(24)
    found = method.attribute(model, batch)
    for chunk in (1, 3):
        rechunked = method.attribute(model, dataclasses.replace(batch, chunk=chunk))
        torch.testing.assert_close(rechunked, found, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in READ])
def test_maps_stay_on_the_device(name, tiny):
    # The meta device has no values: a tensor made elsewhere, or a value read back by the host, is an error there.
    _, batch = tiny
    method = configured(name, **SMALL.get(name, {})).within(24)
    found = method.attribute(ready(Tiny()).to("meta"), batch.to("meta"))
    assert found.device.type == "meta"


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_stays_single(name):
    model = ready(Tiny()).float()
    exact = batch_of(ready(Tiny()), images(2), baseline=images(2, seed=2), masks=images(2)[:, 0] > 0)
    exact = dataclasses.replace(exact, truth=images(2, channels=5, seed=3))
    single = {key: getattr(exact, key).float() for key in ("inputs", "baseline", "logits", "baseline_logits")}
    method = configured(name, **SMALL.get(name, {})).within(24)
    found = method.attribute(model, dataclasses.replace(exact, **single))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), method.attribute(ready(Tiny()), exact), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", MODELLED)
def test_out_of_memory_changes_no_number(name, tiny):
    model, batch = tiny
    method = configured(name, **SMALL.get(name, {})).within(24)
    expected = method.attribute(model, batch)

    def tight(module, args):
        if len(args[0]) > 3:
            raise torch.OutOfMemoryError("no more than three")

    handle = model.register_forward_pre_hook(tight)
    try:
        found = method.attribute(model, batch)
    finally:
        handle.remove()
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", MODELLED)
def test_modes_of_the_caller_and_of_the_model_are_no_matter(name, tiny):
    model, batch = tiny
    method = configured(name, **SMALL.get(name, {})).within(24)
    expected = method.attribute(model, batch)
    with torch.no_grad():
        torch.testing.assert_close(method.attribute(model, batch), expected, **EXACT)
    unfrozen = ready(Tiny()).requires_grad_(True)
    unfrozen.two.train()
    found = method.attribute(unfrozen, batch)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in unfrozen.parameters())
    assert [module.training for module in (unfrozen, unfrozen.one, unfrozen.two)] == [False, False, True]
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("name", MODELLED)
def test_model_that_begins_in_place_does_not_change_the_images(name):
    class Shift(nn.Module):
        def forward(self, x):
            return x.sub_(0.1)

    plain = ready(Tiny())
    batch = batch_of(plain, images(2), baseline=images(2, seed=2))
    model = nn.Sequential(Shift(), plain)
    before, baseline = batch.inputs.clone(), batch.baseline.clone()
    options = {"layer": "two", **SMALL.get(name, {})}
    configured(name, **{**options, "layer": f"1.{options['layer']}"}).attribute(model, batch)
    passes.logits(model, batch.inputs, 1)
    assert torch.equal(batch.inputs, before)
    assert torch.equal(batch.baseline, baseline)


def test_model_without_gradient_is_not_applicable():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)[:, :3]

    with pytest.raises(NotApplicable, match="no gradient"):
        input_gradients(Detached(), images(2), torch.tensor([0, 1]), 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: IntegratedGradients(steps=0),
        lambda: IntegratedGradients(rule="simpson"),
        lambda: SmoothGrad(samples=0),
        lambda: SmoothGrad(noise=-1.0),
        lambda: Occlusion(window=0.4, stride=0.5),
        lambda: Occlusion(stride=0),
        lambda: RISE(keep=0.0),
        lambda: RISE(cells=0),
        lambda: CentrePrior(sigma=0.0),
        lambda: BlurredRandom(sigma=0.0),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(UserError, match=r"need|unknown"):
        make()
