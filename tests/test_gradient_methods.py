"""Gradient methods against closed forms, slow versions that follow the papers, and what a user may ask of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from scipy import ndimage
from torch import Tensor, nn

from benchmark import baselines, passes, plugins, randomness
from benchmark.batches import freeze
from benchmark.choices import CONF
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Method
from benchmark.sharing import Shared, Store
from methods._gradients import logit_gradient
from methods._pairs import moments
from methods.blur_integrated_gradients import Blur, BlurIntegratedGradients
from methods.consensus import Consensus, normal
from methods.expected_gradients import ExpectedGradients
from methods.grad_cam import GradCAM
from methods.gradient import Gradient
from methods.guided_integrated_gradients import GuidedIntegratedGradients
from methods.input_x_gradient import InputXGradient
from methods.integrated_gradients import IntegratedGradients
from methods.internal_influence import InternalInfluence
from methods.noise_tunnel import NoiseTunnel
from methods.nulls import Constant, InputMagnitude, Random
from methods.occlusion import Occlusion
from methods.saliency import Saliency
from methods.smoothgrad import SmoothGrad

EXACT = {"atol": 1e-10, "rtol": 1e-10}


class Function(nn.Module):
    """A function of the flattened images as the single logit."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x.flatten(1)).unsqueeze(1)


class Smooth(nn.Module):
    """A small network without kinks."""

    def __init__(self, channels=3, bias=True):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.one = nn.Conv2d(channels, 6, 3, padding=1, bias=bias)
            self.two = nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=bias)
        self.double().eval().requires_grad_(False)

    def forward(self, x):
        return self.two(self.one(x).tanh()).tanh().mean((2, 3))


def frozen(model, pixels, chunk=5, **options):
    return freeze(model, pixels, [f"image-{i}" for i in range(len(pixels))], chunk=chunk, **options)


@pytest.fixture
def smooth(images):
    """A smooth network and four images for it."""
    model = Smooth()
    return model, frozen(model, images(4, side=8), mean=(0.5,), std=(0.25,), baseline="black")


def gap(batch):
    return passes.class_scores(batch.logits - batch.baseline_logits, batch.targets)


def built(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[*overrides, "models.layer=second"])
    return plugins.build(config.methods), plugins.choose("it", plugins.build(config.methods)), config


# Closed forms --------------------------------------------------------------------------------------------------------


def test_linear_model_has_one_gradient(linear):
    model, batch, contribution = linear(side=5, chunk=7, baseline="black", mean=(0.4,), std=(0.2,))
    weights = model.weight[batch.targets].view_as(batch.inputs)
    for found in (
        Gradient().attribute(model, batch),
        SmoothGrad(3).attribute(model, batch),
        NoiseTunnel(Gradient(), 3).attribute(model, batch),
    ):
        torch.testing.assert_close(found, weights, **EXACT)
    torch.testing.assert_close(SmoothGrad(3, moment="square").attribute(model, batch), weights.square(), **EXACT)
    assert not SmoothGrad(3, moment="variance").attribute(model, batch).any()
    torch.testing.assert_close(InputXGradient().attribute(model, batch), weights * batch.inputs, **EXACT)
    for fraction, max_dist in ((0.25, 0.02), (0.1, 1.0), (1.0, 0.0)):
        guided = GuidedIntegratedGradients(9, fraction, max_dist).attribute(model, batch)
        torch.testing.assert_close(guided, contribution, **EXACT)
    sharp, blurry = batch.inputs, Blur([1.5], batch.inputs)(batch.inputs, torch.zeros(5, dtype=torch.long))
    found = BlurIntegratedGradients(4, 0.3).attribute(model, batch)
    torch.testing.assert_close(found, weights * (sharp - blurry), **EXACT)


@pytest.mark.parametrize("names", [("white",), ("black", "white"), ("zero", "grey", "mean")])
def test_integrated_gradients_from_named_baselines_of_a_linear_model(linear, names):
    model, batch, _ = linear(side=4, mean=(0.4,), std=(0.2,))
    weights = model.weight[batch.targets].view_as(batch.inputs)
    starts = torch.stack([baselines.image(batch, name) for name in names]).mean(0)
    found = IntegratedGradients(2, baseline=names).attribute(model, batch)
    torch.testing.assert_close(found, weights * (batch.inputs - starts), **EXACT)


def test_guided_path_in_two_features():
    # From 0 both values of x1 x2 move, being tied, and x2 alone from then on, whose gradient x1 stays near 0: so x1,
    # which moves last, gets all. The straight path gives both the same.
    model = Function(lambda x: x[:, 0] * x[:, 1])
    batch = frozen(model, torch.tensor([2.0, 3.0]).double().view(1, 1, 1, 2), baseline="black")
    found = GuidedIntegratedGradients(1000, 0.5, 1.0).attribute(model, batch)
    torch.testing.assert_close(found.flatten(), torch.tensor([6.0, 0.0]).double(), atol=0.01, rtol=0)


def test_guided_path_moves_the_value_of_smaller_gradient_first():
    # Half of the way x1 alone, whose gradient is the smaller one, then x2 at x1 = 1: from x1 x2 all goes to x2.
    model = Function(lambda x: x[:, 0] * x[:, 1] + 0.1 * x[:, 0] + 10 * x[:, 1])
    batch = frozen(model, torch.ones(1, 1, 1, 2).double(), baseline="black")
    found = GuidedIntegratedGradients(100, 0.5, 1.0).attribute(model, batch).flatten()
    torch.testing.assert_close(found, torch.tensor([0.1, 11.0], dtype=torch.float64), **EXACT)
    straight = GuidedIntegratedGradients(100, 0.5, 0.0).attribute(model, batch).flatten()
    torch.testing.assert_close(straight, torch.tensor([0.6, 10.5]).double(), atol=0.006, rtol=0)


def test_moments_of_a_quadratic():
    # The gradient of x^2 / 2 is x: its mean over x + e is x, its variance that of e.
    model, samples, noise = Function(lambda x: x.square().sum(1) / 2), 400, 0.2
    pixels = torch.linspace(0, 1, 40).double().view(1, 1, 5, 8)
    batch = frozen(model, pixels)
    mean, square, variance = (
        SmoothGrad(samples, noise, moment).attribute(model, batch) for moment in ("mean", "square", "variance")
    )
    assert ((mean - pixels) / (noise / samples**0.5)).abs().max() < 5
    assert ((variance / noise**2 - 1) / (2 / samples) ** 0.5).abs().max() < 5
    torch.testing.assert_close(square, mean.square() + variance, **EXACT)


def test_expected_gradients_of_a_linear_model_are_complete_in_expectation(images):
    pixels = images(6, side=4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double().eval().requires_grad_(False)
    batch = frozen(model, pixels)
    method = ExpectedGradients(samples=300)
    places, _ = method.draws(batch)
    found = method.attribute(model, batch)
    weights = model[1].weight[batch.targets].view_as(pixels)
    drawn = batch.inputs[places].mean(1)
    torch.testing.assert_close(found, weights * (pixels - drawn), **EXACT)
    # Each of the five others about sixty times; never the image itself.
    counts = torch.stack([(places == place).sum(1) for place in range(6)], 1)
    assert not counts.diagonal().any()
    others = counts[~torch.eye(6, dtype=torch.bool)]
    assert (others - 60).abs().max() < 5 * (300 * 0.2 * 0.8) ** 0.5


def test_steps_of_expected_gradients_are_uniform(images):
    # The gradient of x^2 / 2 at r + a (x - r) is linear in a, whose mean must be 1/2 and whose square 1/3.
    batch = frozen(Function(lambda x: x.sum(1)), images(3, side=2))
    _, steps = ExpectedGradients(samples=4000).draws(batch)
    assert (steps.mean(1) - 0.5).abs().max() < 5 / (12 * 4000) ** 0.5
    assert (steps.square().mean(1) - 1 / 3).abs().max() < 5 * (4 / 45 / 4000) ** 0.5


def test_dummies_get_nothing_and_mirrored_images_mirrored_maps(images):
    class Window(nn.Module):
        def forward(self, x):
            seen = x[:, :, 2:5, 1:7]
            return (seen * seen.flip(3)).sum((1, 2, 3)).tanh().unsqueeze(1)

    model = Window()
    pixels = images(3, side=8)
    batch = frozen(model, (pixels + pixels.flip(3)) / 2, baseline="black")
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[2:5, 1:7] = False
    for method in (
        Gradient(),
        InputXGradient(),
        IntegratedGradients(4, baseline=("black", "white")),
        BlurIntegratedGradients(6),
        GuidedIntegratedGradients(30, 0.3),
        GuidedIntegratedGradients(30, 0.3, 1.0),
    ):
        found = method.attribute(model, batch)
        assert not found[..., outside].any()
        torch.testing.assert_close(found, found.flip(3), **EXACT)
    for method in (SmoothGrad(3), SmoothGrad(3, moment="variance"), ExpectedGradients(3, 0.1), NoiseTunnel(Saliency())):
        assert not method.attribute(model, batch)[..., outside].any()


# Completeness --------------------------------------------------------------------------------------------------------


def test_completeness_of_each_path(smooth):
    model, batch = smooth
    for steps, guided in ((100, 1.5e-3), (200, 0.75e-3)):
        found = GuidedIntegratedGradients(steps).attribute(model, batch).sum((1, 2, 3))
        torch.testing.assert_close(found, gap(batch), atol=guided, rtol=0)
    whole = IntegratedGradients(16).attribute(model, batch).sum((1, 2, 3))
    torch.testing.assert_close(whole, gap(batch), atol=1e-8, rtol=0)
    both = IntegratedGradients(16, baseline=("black", "white")).attribute(model, batch).sum((1, 2, 3))
    absent = [passes.logits(model, baselines.image(batch, name), 9) for name in ("black", "white")]
    expected = passes.class_scores(batch.logits - sum(absent) / 2, batch.targets)
    torch.testing.assert_close(both, expected, atol=1e-8, rtol=0)
    sigma = 0.25 * 8
    blurry = Blur([sigma], batch.inputs)(batch.inputs, torch.zeros(4, dtype=torch.long))
    expected = passes.class_scores(batch.logits - passes.logits(model, blurry, 9), batch.targets)
    errors = [
        (BlurIntegratedGradients(steps, 0.25).attribute(model, batch).sum((1, 2, 3)) - expected).abs().max()
        for steps in (32, 64, 128)
    ]
    assert errors[2] < 1e-4
    assert errors[0] / errors[1] > 3.5  # the error falls with the square of the steps
    assert errors[1] / errors[2] > 3.5


def test_blur_path_is_exact_for_a_quadratic_model(images):
    model = Function(lambda x: (x[:, :-1] * x[:, 1:]).sum(1) + x.square().sum(1))
    batch = frozen(model, images(2, side=6), mean=(0.5,))
    blurry = Blur([1.2], batch.inputs)(batch.inputs, torch.zeros(2, dtype=torch.long))
    for steps in (1, 3):
        found = BlurIntegratedGradients(steps, 0.2).attribute(model, batch).sum((1, 2, 3))
        torch.testing.assert_close(found, (batch.logits - model(blurry))[:, 0], **EXACT)


def test_only_the_shared_baseline_alone_is_that_of_the_metrics():
    assert IntegratedGradients().has_baseline
    assert IntegratedGradients(baseline=["shared"]).has_baseline
    assert not IntegratedGradients(baseline="black").has_baseline
    assert not IntegratedGradients(baseline=["shared", "black"]).has_baseline
    assert GuidedIntegratedGradients().has_baseline
    for method in (BlurIntegratedGradients(), ExpectedGradients(), NoiseTunnel(IntegratedGradients())):
        assert not method.has_baseline
    assert IntegratedGradients(baseline=["black", "uniform"]).stochastic
    assert not IntegratedGradients(baseline=["black", "white"]).stochastic


# Slow versions -------------------------------------------------------------------------------------------------------


def slope(model, target):
    """The gradient of one image as arrays in float64."""

    def gradient(x):
        return logit_gradient(model, torch.from_numpy(x).unsqueeze(0), target.view(1))[0].numpy()

    return gradient


def guided_slowly(x, start, gradient, steps, fraction, max_dist):
    """Kapishnikov et al. 2021, algorithm 1 with bounds: one image, value by value."""
    at, found = start.copy(), np.zeros_like(x)
    total = np.abs(x - start).sum()
    for step in range(steps):
        slope_here = gradient(at)
        alpha = (step + 1) / steps
        lowest, highest = max(alpha - max_dist, 0), min(alpha + max_dist, 1)
        target = total * (1 - alpha)
        size = np.abs(slope_here)
        while True:
            before = at.copy()
            for place in np.ndindex(x.shape):
                way = x[place] - start[place]
                if way and (at[place] - start[place]) / way < lowest:
                    at[place] = start[place] + lowest * way
            distance = np.abs(x - at).sum()
            if math.isclose(distance, target, rel_tol=1e-12, abs_tol=1e-12):
                found += (at - before) * slope_here
                break
            bound = start + highest * (x - start)
            size[np.isclose(at, bound, rtol=0, atol=1e-13)] = np.inf
            threshold = np.quantile(size, fraction, method="lower")
            group = (size <= threshold) & (size < np.inf)
            reach = (np.abs(bound - at) * group).sum()
            share = (distance - target) / reach if reach else np.inf
            at[group] += min(share, 1) * (bound - at)[group]
            found += (at - before) * slope_here
            if share <= 1:
                break
    return found


@pytest.mark.parametrize("kinks", [False, True])
@pytest.mark.parametrize(
    ("steps", "fraction", "max_dist"),
    [(20, 0.25, 0.02), (20, 0.25, 0.1), (15, 0.1, 1.0), (10, 0.03, 0.3), (7, 1.0, 0.5), (10, 0.4, 0.2), (9, 0.4, 0.0)],
)
def test_guided_integrated_gradients_follow_the_paper(steps, fraction, max_dist, kinks, smooth, network, images):
    # The network with kinks has many gradients of exactly 0, which are tied.
    model, batch = smooth
    if kinks:
        model, batch = network, frozen(network, images(3, side=6), mean=(0.5,), std=(0.25,), baseline="black")
    batch.inputs[:, 1, 2] = batch.baseline[:, 1, 2]  # some values have no way to go
    found = GuidedIntegratedGradients(steps, fraction, max_dist).attribute(model, batch)
    for i in range(len(batch)):
        x, start = batch.inputs[i].numpy(), batch.baseline[i].numpy()
        expected = guided_slowly(x, start, slope(model, batch.targets[i]), steps, fraction, max_dist)
        torch.testing.assert_close(found[i], torch.from_numpy(expected), atol=1e-9, rtol=1e-9)


def test_guided_path_without_deviation_is_the_left_sum_of_the_straight_path(smooth):
    model, batch = smooth
    found = GuidedIntegratedGradients(12, 0.25, 0.0).attribute(model, batch)
    way = batch.inputs - batch.baseline
    points = [logit_gradient(model, batch.baseline + k / 12 * way, batch.targets) for k in range(12)]
    torch.testing.assert_close(found, way * torch.stack(points).mean(0), **EXACT)


@pytest.mark.parametrize("sigma", [0.0, 0.4, 0.625, 1.3, 4.0])
@pytest.mark.parametrize("size", [(9, 9), (6, 11)])
def test_blur_is_that_of_scipy(sigma, size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = ndimage.gaussian_filter(x.numpy(), [0, 0, sigma, sigma], mode="constant") if sigma else x.numpy()
    found = Blur([sigma, 4.0], x)(x, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(found, torch.from_numpy(expected), **EXACT)


def test_blur_integrated_gradients_follow_the_paper(smooth):
    model, batch = smooth
    ours, fine = BlurIntegratedGradients(7, 0.25), BlurIntegratedGradients(300, 0.25)
    maps, limit = ours.attribute(model, batch), fine.attribute(model, batch)
    for i in range(2):
        x, gradient = batch.inputs[i].numpy(), slope(model, batch.targets[i])

        def blurred(sigma, x=x):
            return ndimage.gaussian_filter(x, [0, sigma, sigma], mode="constant") if sigma else x

        path = [blurred(2.0 * k / 7) for k in range(8)]
        expected = sum((a - b) * gradient((a + b) / 2) for a, b in pairwise(path))
        torch.testing.assert_close(maps[i], torch.from_numpy(expected), **EXACT)
        # The sum of the authors: the slope of the blur at the sharper end of each step, by a small difference.
        steps, small = 1500, 1e-4
        total = np.zeros_like(x)
        for k in range(steps):
            sigma = 2.0 * k / steps
            total -= 2.0 / steps * (blurred(sigma + small) - blurred(sigma)) / small * gradient(blurred(sigma))
        # scipy's Gaussian is cut off at a whole pixel, so L jumps a little where it grows by one: by exp(-8).
        scale = float(np.abs(total).max())
        torch.testing.assert_close(limit[i], torch.from_numpy(total), atol=0.01 * scale, rtol=0)


def test_expected_gradients_follow_the_definition(smooth):
    model, batch = smooth
    part = batch.select([2, 0])
    for noise in (0.0, 0.1):
        method = ExpectedGradients(samples=5, noise=noise)
        found = method.attribute(model, part)
        for i, uid in enumerate(part.uids):
            place = batch.uids.index(uid)
            others = [k for k in range(4) if k != place]  # the uids are in alphabetical order
            total = torch.zeros_like(batch.inputs[0])
            width = noise * (batch.inputs[place].max() - batch.inputs[place].min())
            for d in range(5):
                choice, step = randomness.uniform(part.keys("expected gradients", 5)[i, d], 2).tolist()
                reference = batch.inputs[others[int(choice * 3)]]
                x = batch.inputs[place] + width * randomness.normal(part.keys("smoothgrad", 5)[i, d], 3, 8, 8).double()
                point = reference + step * (x - reference)
                total += (x - reference) * logit_gradient(model, point[None], part.targets[i : i + 1])[0] / 5
            torch.testing.assert_close(found[i], total, **EXACT)


def test_smoothgrad_is_what_version_2_was(smooth):
    """The numbers of version 2, by the code of version 2: equal to the last bit."""
    model, batch = smooth
    found = SmoothGrad(5, 0.15).attribute(model, batch)
    keys = batch.keys("smoothgrad", 5)
    width = 0.15 * (batch.inputs.amax((1, 2, 3), keepdim=True) - batch.inputs.amin((1, 2, 3), keepdim=True))
    total = torch.zeros_like(batch.inputs)
    pairs = torch.arange(20)
    for pair in pairs.split(batch.chunk):
        image, draw = pair // 5, pair % 5
        noise = randomness.normal(keys[image, draw], 3, 8, 8).double()
        points = batch.inputs[image] + width[image] * noise
        total.index_add_(0, image, logit_gradient(model, points, batch.targets[image]))
    assert torch.equal(found, total / 5)


def test_integrated_gradients_are_what_they_were(smooth):
    model, batch = smooth
    found = IntegratedGradients(6).attribute(model, batch)
    nodes, weights = np.polynomial.legendre.leggauss(6)
    way = batch.inputs - batch.baseline
    total = sum(
        w / 2 * logit_gradient(model, batch.baseline + (a + 1) / 2 * way, batch.targets)
        for a, w in zip(nodes, weights, strict=True)
    )
    torch.testing.assert_close(found, way * total, **EXACT)


@pytest.mark.parametrize("moment", ["mean", "square", "variance"])
def test_moments_one_copy_at_a_time(smooth, moment):
    model, batch = smooth
    method = NoiseTunnel(IntegratedGradients(3), 4, 0.2, moment)
    found = method.attribute(model, batch)
    keys = batch.keys("smoothgrad", 4)
    for i in range(2):
        width = 0.2 * (batch.inputs[i].max() - batch.inputs[i].min())
        alone = batch.select([i])
        maps = torch.cat(
            [
                IntegratedGradients(3).attribute(
                    model, replace(alone, inputs=alone.inputs + width * randomness.normal(keys[i, d], 3, 8, 8).double())
                )
                for d in range(4)
            ]
        )
        of = {"mean": maps.mean(0), "square": maps.square().mean(0), "variance": maps.var(0, correction=0)}
        torch.testing.assert_close(found[i], of[moment], **EXACT)


def test_noise_tunnel_around_the_gradient_is_smoothgrad(smooth):
    model, batch = smooth
    for moment in ("mean", "square", "variance"):
        expected = SmoothGrad(6, 0.3, moment).attribute(model, batch)
        assert torch.equal(NoiseTunnel(Gradient(), 6, 0.3, moment).attribute(model, batch), expected)


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 40])
def test_moments_in_any_chunk(chunk):
    values = torch.randn(4, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e6
    mean, variance = moments(lambda image, draw: values[image, draw], values[:, 0], 5, chunk)
    torch.testing.assert_close(mean, values.mean(1), rtol=1e-14, atol=0)
    # No digits cancel: the mean of squares is 1e12.
    torch.testing.assert_close(variance, values.var(1, correction=0), rtol=1e-9, atol=0)
    assert not moments(lambda image, draw: values[image, 0], values[:, 0], 5, chunk)[1].any()


# Noise tunnels over methods of every kind ----------------------------------------------------------------------------


def test_a_random_base_draws_anew_for_each_copy(smooth):
    model, batch = smooth
    single = NoiseTunnel(Random(), 1, 0.0).attribute(model, batch)
    assert single.shape == (4, 1, 8, 8)
    variance = NoiseTunnel(Random(), 200, 0.0, "variance").attribute(model, batch)
    assert ((variance - 1) / (2 / 200) ** 0.5).abs().max() < 5
    both = NoiseTunnel(ExpectedGradients(2), 3, 0.0, "variance").attribute(model, batch)
    assert both.amax((1, 2, 3)).min() > 0
    found = NoiseTunnel(IntegratedGradients(2, baseline="sample"), 3).attribute(model, batch)
    assert found.isfinite().all()


def test_a_base_that_asks_for_the_logits_gets_those_of_the_copy(smooth):
    model, batch = smooth
    method = Occlusion(0.5, 0.5)
    found = NoiseTunnel(method, 1, 0.2).attribute(model, batch)
    width = 0.2 * (batch.inputs.amax((1, 2, 3), keepdim=True) - batch.inputs.amin((1, 2, 3), keepdim=True))
    copies = batch.inputs + width * randomness.normal(batch.keys("smoothgrad")[:, 0], 3, 8, 8)
    expected = method.attribute(model, replace(batch, inputs=copies, logits=passes.logits(model, copies, 9)))
    torch.testing.assert_close(found, expected, **EXACT)
    wrong = method.attribute(model, replace(batch, inputs=copies))
    assert (wrong - expected).abs().max() > 1e-3


def test_copies_can_be_selected_and_cost_no_pass_that_nobody_asked_for(smooth):
    model, batch = smooth

    @dataclass(frozen=True)
    class Picky(Method):
        def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
            assert batch.whole is not None
            assert not isinstance(batch.whole, type(batch))
            part = batch.select([0])
            torch.testing.assert_close(part.logits, passes.logits(model, part.inputs, 4))
            assert torch.equal(part.keys("it", 3), batch.keys("it", 3)[:1])
            assert part.to("cpu").copy().uids == batch.uids[:1]
            return batch.inputs

    NoiseTunnel(Picky(), 2).attribute(model, batch)
    with passes.counted(model) as count:
        NoiseTunnel(InputXGradient(), 2).attribute(model, batch)
        NoiseTunnel(InternalInfluence("one", 1), 2).attribute(model, batch)
    assert (count.forwards, count.backwards) == (16, 16)


def test_a_tunnel_within_a_tunnel(smooth):
    model, batch = smooth
    with passes.counted(model) as count:
        found = NoiseTunnel(NoiseTunnel(Gradient(), 2, 0.0), 3, 0.0).attribute(model, batch)
    assert count.forwards == 2 * 3 * len(batch)
    torch.testing.assert_close(found, Gradient().attribute(model, batch), **EXACT)
    variance = NoiseTunnel(NoiseTunnel(Gradient(), 2), 3, 0.0, "variance").attribute(model, batch)
    assert variance.amax((1, 2, 3)).min() > 0  # each copy draws copies of its own


def test_facts_of_a_tunnel_are_those_of_its_base():
    assert NoiseTunnel(InputMagnitude()).role == "null"
    assert NoiseTunnel(InputMagnitude()).class_agnostic
    assert not NoiseTunnel(Occlusion()).needs_gradient
    assert NoiseTunnel(Saliency(), 5).passes == 10
    assert NoiseTunnel(Occlusion()).passes is None


# Shared in a sweep ---------------------------------------------------------------------------------------------------


def test_moments_are_made_once_for_all_three(smooth):
    model, batch = smooth
    store = Store()
    together = replace(batch, shared=Shared(store, "it", model, (batch.inputs, batch.targets, batch.baseline)))
    with passes.counted(model) as count:
        for method in (SmoothGrad(3), SmoothGrad(3, moment="square"), SmoothGrad(3, moment="variance")):
            assert torch.equal(
                method.attribute(model, together), method.attribute(model, replace(together, shared=None))
            )
        assert count.forwards == 4 * 3 * (1 + 3)
        for method in (NoiseTunnel(Saliency(), 3), NoiseTunnel(Saliency(), 3, moment="variance")):
            method.attribute(model, together)
        assert count.forwards == 4 * 3 * (1 + 3 + 1)
        for method in (Gradient(), InputXGradient(), Saliency()):
            method.attribute(model, together)
        assert count.forwards == 4 * 3 * (1 + 3 + 1) + 4
        SmoothGrad(3, 0.2).attribute(model, together)
        NoiseTunnel(Gradient(), 3).attribute(model, together)
        assert count.forwards == 4 * 3 * (1 + 3 + 1 + 2) + 4
    # Another base, or other options of one, are other maps.
    for base in (IntegratedGradients(2), IntegratedGradients(3), InputXGradient()):
        method = NoiseTunnel(base, 3)
        assert torch.equal(method.attribute(model, together), method.attribute(model, replace(together, shared=None)))


# Consensus -----------------------------------------------------------------------------------------------------------


def test_normalisations_by_hand():
    values = torch.tensor([[[3.0, -4.0], [0.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]]).double()
    expected = torch.tensor([[[0.6, -0.8], [0.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]], [[0.0, 0.0], [0.0, 0.0]]]).double()
    torch.testing.assert_close(normal(values, "l2"), expected)
    expected = torch.tensor([[1.0, 0.0], [4 / 7, 4 / 7]]).double()
    torch.testing.assert_close(normal(values, "min_max")[0], expected)
    torch.testing.assert_close(normal(values, "rank")[0], torch.tensor([[1.0, 0.0], [0.5, 0.5]]).double())
    for how in ("min_max", "rank"):
        assert not normal(values, how)[1:].any()


def test_consensus_is_the_mean_of_its_normalised_members(smooth):
    model, batch = smooth
    members = {"b": InputXGradient(), "a": Saliency(), "c": Constant()}
    for how in ("l2", "min_max", "rank"):
        found = Consensus(members, how).attribute(model, batch)
        maps = [normal(member.attribute(model, batch).sum(1), how) for member in members.values()]
        torch.testing.assert_close(found[:, 0], torch.stack(maps).mean(0), **EXACT)
        turned = Consensus(dict(reversed(members.items())), how)
        assert torch.equal(turned.attribute(model, batch), found)
        assert plugins.choose("it", turned).version == plugins.choose("it", Consensus(members, how)).version
    # One member is itself up to its norm, however large it is.
    alone = Consensus({"it": InputXGradient()}).attribute(model, batch)
    own = InputXGradient().attribute(model, batch).sum(1, keepdim=True)
    torch.testing.assert_close(alone, own / own.flatten(1).norm(dim=1).view(-1, 1, 1, 1), **EXACT)


def test_a_member_that_is_not_applicable_is_named(smooth):
    model, batch = smooth
    members = {"saliency": Saliency(), "camera": GradCAM("")}
    with pytest.raises(NotApplicable, match="its member camera is not applicable: the network has no layer"):
        Consensus(members).attribute(model, batch)


def test_facts_of_a_consensus_follow_from_its_members():
    both = Consensus({"a": Saliency(), "b": SmoothGrad(4)})
    assert (both.passes, both.stochastic, both.needs_gradient, both.class_agnostic, both.role) == (
        10,
        True,
        True,
        False,
        "method",
    )
    nulls = Consensus({"a": Constant(), "b": InputMagnitude()})
    assert (nulls.role, nulls.class_agnostic, nulls.stochastic, nulls.passes) == ("null", True, False, 0)
    assert Consensus({"a": Saliency(), "b": Constant()}).role == "method"
    assert Consensus({"a": Saliency(), "b": Occlusion()}).passes is None


# Budgets and refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "budget", "cut"),
    [
        (Gradient(), 1, Gradient()),
        (IntegratedGradients(), 50, IntegratedGradients(25)),
        (IntegratedGradients(baseline=["black", "white"]), 50, IntegratedGradients(12, baseline=["black", "white"])),
        (IntegratedGradients(), 1, IntegratedGradients(1)),
        (SmoothGrad(), 21, SmoothGrad(10)),
        (SmoothGrad(moment="variance"), 1, SmoothGrad(2, moment="variance")),
        (ExpectedGradients(), 21, ExpectedGradients(10)),
        (BlurIntegratedGradients(), 21, BlurIntegratedGradients(10)),
        (GuidedIntegratedGradients(), 21, GuidedIntegratedGradients(10)),
        (NoiseTunnel(InputXGradient()), 21, NoiseTunnel(InputXGradient(), 10)),
        (NoiseTunnel(IntegratedGradients(5)), 35, NoiseTunnel(IntegratedGradients(5), 3)),
        (NoiseTunnel(IntegratedGradients(50)), 24, NoiseTunnel(IntegratedGradients(12), 1)),
        (
            NoiseTunnel(IntegratedGradients(50), moment="variance"),
            24,
            NoiseTunnel(IntegratedGradients(6), 2, moment="variance"),
        ),
        (NoiseTunnel(InputMagnitude(), 7), 24, NoiseTunnel(InputMagnitude(), 7)),
        (
            Consensus({"a": Saliency(), "b": SmoothGrad(), "c": IntegratedGradients()}),
            24,
            Consensus({"a": Saliency(), "b": SmoothGrad(5), "c": IntegratedGradients(5)}),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else str(value),
)
def test_within_a_budget(method, budget, cut):
    assert method.within(budget) == cut
    assert budget == 1 or cut.passes <= budget


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: IntegratedGradients(steps=0), "need steps >= 1"),
        (lambda: IntegratedGradients(baseline="blac"), "baseline blac does not exist; did you mean black"),
        (lambda: IntegratedGradients(baseline="nli"), "baseline nli does not exist"),
        (lambda: IntegratedGradients(baseline=[]), "need a baseline, not an empty list"),
        (lambda: SmoothGrad(samples=0), "SmoothGrad needs samples >= 1"),
        (lambda: SmoothGrad(noise=-0.1), "noise >= 0, not 25 and -0.1"),
        (lambda: SmoothGrad(1, moment="variance"), "samples >= 2 for the variance"),
        (lambda: SmoothGrad(moment="median"), "moment median does not exist"),
        (lambda: ExpectedGradients(samples=0), "method of expected gradients needs samples >= 1"),
        (lambda: NoiseTunnel(3), "a noise tunnel needs a method as its base, not int"),
        (lambda: NoiseTunnel(Saliency(), 0), "a noise tunnel needs samples >= 1"),
        (lambda: BlurIntegratedGradients(0), "need steps >= 1 and max_sigma > 0"),
        (lambda: BlurIntegratedGradients(max_sigma=0.0), "need steps >= 1 and max_sigma > 0"),
        (lambda: GuidedIntegratedGradients(fraction=0.0), "0 < fraction <= 1"),
        (lambda: GuidedIntegratedGradients(max_dist=1.5), "0 <= max_dist <= 1"),
        (lambda: Consensus({}), "needs members, and has none"),
        (lambda: Consensus({"a": 3}), "and a is a int"),
        (lambda: Consensus({"a": Saliency()}, "max"), "normalisation max does not exist"),
    ],
)
def test_options_out_of_range_are_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_expected_gradients_need_a_second_image(smooth):
    model, batch = smooth
    alone = replace(batch.select([0]), whole=None)
    with pytest.raises(NotApplicable, match="no second image"):
        ExpectedGradients(2).attribute(model, alone)


def test_image_that_is_its_baseline_has_no_share(smooth):
    model, batch = smooth
    same = replace(batch, inputs=batch.baseline.clone())
    for method in (GuidedIntegratedGradients(4), IntegratedGradients(4)):
        assert not method.attribute(model, same).any()


# From the command line -----------------------------------------------------------------------------------------------


def test_base_and_members_are_chosen_by_the_user():
    method, choice, _ = built(
        "methods=noise_tunnel", "methods@methods.base=integrated_gradients", "methods.base.steps=8"
    )
    assert method == NoiseTunnel(IntegratedGradients(8), 16, 0.15)
    assert choice.version == "1+IntegratedGradients@1"
    assert choice.params["base"]["steps"] == 8
    method, _, _ = built(
        "methods=consensus",
        "~methods@methods.members.occlusion",
        "+methods@methods.members.cam=grad_cam",
        "methods@methods.members.smoothgrad=vargrad",
        "methods.members.smoothgrad.samples=3",
        "methods.normalise=rank",
    )
    assert set(method.members) == {"cam", "integrated_gradients", "smoothgrad"}
    assert method.members["smoothgrad"] == SmoothGrad(3, 0.15, "variance")
    assert method.normalise == "rank"
    with pytest.raises(UserError, match="steps"):
        built("methods=noise_tunnel", "methods@methods.base=integrated_gradients", "methods.base.steps=0")


def test_baselines_are_chosen_by_the_user():
    assert built("methods=integrated_gradients", "methods.baseline=white")[0].starts == ("white",)
    assert built("methods=integrated_gradients", "methods.baseline=[black,blur]")[0].starts == ("black", "blur")
