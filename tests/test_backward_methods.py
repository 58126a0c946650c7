"""Guided backpropagation, guided Grad-CAM, FullGrad, DeepLIFT and DeepSHAP against values known by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark import passes
from benchmark.batches import freeze
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch
from methods._differences import contributions, paired_contributions
from methods._gradients import logit_gradient
from methods.deep_lift import DeepLift, DeepShap
from methods.full_grad import FullGrad, full_gradient
from methods.grad_cam import GradCAM
from methods.guided_backprop import GuidedBackprop
from methods.guided_grad_cam import GuidedGradCAM
from methods.shap_explainers import ShapDeep
from tests.architectures import network
from tests.test_operations import MODELS, images, made


def frozen(model: nn.Module, inputs: Tensor, targets: list[int] | None = None, **options: object) -> Batch:
    """`inputs` as they are, with a baseline of zeros unless told otherwise."""
    options = {"baseline": "black", "chunk": 5} | options
    found = freeze(model, inputs, [f"image-{i}" for i in range(len(inputs))], **options)
    return found if targets is None else replace(found, targets=torch.tensor(targets))


class Function(nn.Module):
    """f of the pixels of a one-channel image, as both of two logits."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs.flatten(1)).reshape(len(inputs), 1).expand(-1, 2)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class TestGuidedBackprop:
    @pytest.mark.parametrize("rule", ["guided", "deconvnet"])
    def test_two_layers_by_hand(self, rule: str) -> None:
        first, second, last = random(7, 12, seed=1), random(5, 7, seed=2), random(2, 5, seed=3)
        model = Function(lambda x: functional.relu(functional.relu(x @ first.T, inplace=True) @ second.T) @ last[0])
        inputs = random(4, 1, 3, 4, seed=4)
        found = GuidedBackprop(rule).attribute(model, frozen(model, inputs, [0] * 4))
        for image, explained in zip(inputs.flatten(1), found.flatten(1), strict=True):
            lower = first @ image
            upper = second @ lower.relu()
            gradient = last[0].relu() * ((upper > 0) if rule == "guided" else 1)
            gradient = (second.T @ gradient).relu() * ((lower > 0) if rule == "guided" else 1)
            torch.testing.assert_close(explained, first.T @ gradient)

    @pytest.mark.parametrize(
        "relu",
        [
            nn.ReLU(inplace=True),
            lambda x: x.relu_(),
            lambda x: functional.hardtanh(x, 0.0, 50.0),
            lambda x: functional.threshold(x, 0.0, 0.0),
            lambda x: x.clamp(min=0),
            lambda x: x.clamp_min(0),
            lambda x: functional.relu6(x / 10) * 10,
        ],
    )
    @pytest.mark.parametrize("rule", ["guided", "deconvnet"])
    def test_every_form_of_a_rectifier(self, relu: Callable[[Tensor], Tensor], rule: str) -> None:
        weight, head, inputs = random(6, 5, seed=1), random(6, seed=2), random(3, 1, 1, 5, seed=3)
        plain = Function(lambda x: (x @ weight.T).relu() @ head)
        other = Function(lambda x: relu(x @ weight.T) @ head)
        method = GuidedBackprop(rule)
        expected = method.attribute(plain, frozen(plain, inputs))
        torch.testing.assert_close(method.attribute(other, frozen(other, inputs)), expected)
        assert not torch.allclose(expected, logit_gradient(plain, inputs, torch.zeros(3, dtype=torch.long)))

    def test_above_its_bound_relu6_passes_nothing(self) -> None:
        model = Function(lambda x: functional.relu6(x).sum(1))
        batch = frozen(model, row(-1, 3, 7))
        assert GuidedBackprop().attribute(model, batch).flatten().tolist() == [0, 1, 0]
        assert GuidedBackprop("deconvnet").attribute(model, batch).flatten().tolist() == [1, 1, 1]

    @pytest.mark.parametrize(
        "activation", [functional.gelu, functional.leaky_relu, functional.hardtanh, lambda x: x.clamp(min=-1)]
    )
    def test_what_is_no_rectifier(self, activation: Callable[[Tensor], Tensor]) -> None:
        model = Function(lambda x: activation(x).sum(1))
        with pytest.raises(NotApplicable, match="no ReLU"):
            GuidedBackprop().attribute(model, frozen(model, row(-1, 3, 7)))
        mixed = Function(lambda x: -activation(x).relu().sum(1))
        assert GuidedBackprop().attribute(mixed, frozen(mixed, row(-1, 3, 7))).abs().sum() == 0

    def test_an_unknown_rule(self) -> None:
        with pytest.raises(UserError, match="guided or deconvnet"):
            GuidedBackprop("other")


class TestGuidedGradCAM:
    @pytest.mark.parametrize(
        ("kind", "layer"), [("resnet", "layer3"), ("resnet", "layer1"), ("mobilenet", "features.2"), ("cnn", "0.norm")]
    )
    def test_is_the_product_of_the_two(self, kind: str, layer: str) -> None:
        model, _ = network(kind)
        batch = frozen(model, images(4), chunk=3)
        with passes.counted(model) as count:
            found = GuidedGradCAM(layer).attribute(model, batch)
        assert (count.forwards, count.backwards) == (4, 8)
        cam = GradCAM(layer).attribute(model, batch)
        assert float(cam.max()) > 0
        torch.testing.assert_close(found, GuidedBackprop().attribute(model, batch) * cam, atol=1e-15, rtol=1e-9)

    def test_refusals(self) -> None:
        model, _ = network("resnet")
        batch = frozen(model, images())
        for layer, error in [("fc", NotApplicable), ("", NotApplicable), ("layer9", UserError)]:
            with pytest.raises(error, match="layer"):
                GuidedGradCAM(layer).attribute(model, batch)
        assert not any(module._forward_hooks for module in model.modules())


def decomposed(model: nn.Module, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """What FullGrad gives the input, and the sum of what it gives each bias."""
    terms: list[Tensor] = []
    term = full_gradient(model, batch.inputs, batch.targets, lambda _, g, b: terms.append((g * b).sum()))
    return term, terms


class TestFullGrad:
    @pytest.mark.parametrize("name", MODELS)
    def test_the_terms_add_up_to_the_logit(self, name: str) -> None:
        model = made(name)
        for image in images(2):
            batch = frozen(model, image[None])
            term, terms = decomposed(model, batch)
            logit = batch.logits[0, batch.targets[0]]
            torch.testing.assert_close(term.sum() + torch.stack(terms).sum(), logit, atol=1e-12, rtol=1e-9)
            # As it is made, DenseNet has no biases.
            assert name == "densenet" or abs(float(term.sum() - logit)) > 1e-3 * abs(float(logit))

    def test_constants_that_come_in_on_the_way(self) -> None:
        class Shifted(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                hidden = functional.pad(inputs - 0.3, (1, 1), value=2.0).flatten(1)
                joined = torch.cat([hidden, torch.ones_like(hidden[:, :3])], 1)
                lower = torch.ones(joined.shape[1], joined.shape[1], dtype=torch.bool).tril()
                scores = (joined[:, :, None] * joined[:, None, :]).masked_fill(~lower, -torch.inf)
                found = (1 - scores.softmax(-1)) @ (2 / (1 + joined.square()))[..., None]
                return found[:, -3:, 0] ** 2 + 1

        model, batch = Shifted(), frozen(Shifted(), random(1, 1, 2, 2))
        term, terms = decomposed(model, batch)
        torch.testing.assert_close(term.sum() + torch.stack(terms).sum(), batch.logits[0, batch.targets[0]])

    def test_without_biases_there_is_the_input_alone(self) -> None:
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * 49, 2, bias=False),
        )
        model = model.double().requires_grad_(False)
        batch = frozen(model, images(2, 16))
        term, terms = decomposed(model, batch)
        assert not terms
        torch.testing.assert_close(term.sum((1, 2, 3)), batch.logits.gather(1, batch.targets[:, None])[:, 0])
        found = FullGrad().attribute(model, batch)
        for image, map_ in zip(term.abs(), found, strict=True):
            scaled = (image - image.min()) / (image.max() - image.min())
            torch.testing.assert_close(map_, scaled.sum(0, keepdim=True))

    @pytest.mark.parametrize("rescale", ["layer", "channel"])
    def test_a_slow_version(self, rescale: str) -> None:
        """The formula, image by image and channel by channel, with the gradients from hooks on modules."""
        model, _ = network("resnet")
        batch = frozen(model, images(2))
        found = FullGrad(rescale).attribute(model, batch)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for i in range(2):
            image = batch.inputs[i : i + 1].clone().requires_grad_()
            outputs: list[tuple[nn.Module, Tensor]] = []
            keep = outputs.append
            handles = [n.register_forward_hook(lambda m, _, out, keep=keep: keep((m, out))) for n in norms]
            try:
                for module in model.modules():
                    if isinstance(module, nn.ReLU):
                        module.inplace = False
                logit = model(image)[0, batch.targets[i]]
            finally:
                for handle in handles:
                    handle.remove()
                for module in model.modules():
                    if isinstance(module, nn.ReLU):
                        module.inplace = True
            gradient, *gradients = torch.autograd.grad(logit, [image, *(out for _, out in outputs)])
            terms = [gradient * image.detach()]
            for (norm, _), at in zip(outputs, gradients, strict=True):
                bias = norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()
                terms.append(at * bias[:, None, None])
            expected = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
            for term in terms:
                if term[0, 0].numel() == 1:
                    continue
                low, high = term.abs().min(), term.abs().max()
                for channel in term[0].abs():
                    if rescale == "channel":
                        low, high = channel.min(), channel.max()
                    if high - low <= 1e-8 * high:
                        continue
                    scaled = ((channel - low) / (high - low))[None, None]
                    expected += functional.interpolate(scaled, (32, 32), mode="bilinear")
            torch.testing.assert_close(found[i], expected[0], atol=1e-9, rtol=1e-9)

    def test_an_unknown_way_to_rescale(self) -> None:
        with pytest.raises(UserError, match="layer or channel"):
            FullGrad("other")


def shares(function: Callable[[Tensor], Tensor], after: Tensor, before: Tensor | None = None) -> list[float]:
    model = Function(function)
    batch = frozen(model, after)
    if before is not None:
        batch = replace(batch, baseline=before)
    return [round(value, 9) + 0.0 for value in DeepLift().attribute(model, batch).flatten().tolist()]


class TestDeepLift:
    def test_values_by_hand(self) -> None:
        assert shares(lambda x: x[:, 0] * x[:, 1], row(2, 3)) == [3, 3]
        assert shares(lambda x: x[:, 0].square() + x[:, 1], row(2, 3)) == [4, 3]
        assert shares(lambda x: x.sum(1).clamp(max=1), row(1, 1)) == [0.5, 0.5]
        assert shares(lambda x: 1 - (1 - x[:, 0]).relu(), row(2)) == [1]
        assert shares(lambda x: x[:, 0] + x[:, 1] - x[:, 0] * x[:, 1], row(1, 1)) == [0.5, 0.5]
        # relu(z) at z = 3 beside z = -1: 3 of the 4 that z moved arrive.
        assert shares(lambda x: (x[:, 0] - x[:, 1]).relu(), row(5, 2), row(1, 2)) == [3, 0]
        assert shares(lambda x: (x[:, 0] - x[:, 1]).relu(), row(5, 2), row(0, 1)) == [3.75, -0.75]

    @pytest.mark.parametrize(
        "largest",
        [
            lambda x: x.amax(1),
            lambda x: x.max(1)[0],
            lambda x: x.max(1, keepdim=True).values,
            lambda x: -(-x).amin(1),
            lambda x: functional.max_pool1d(x[:, None], 2)[:, 0, 0],
            lambda x: functional.max_pool2d(x[:, None, None], (1, 2))[:, 0, 0, 0],
            lambda x: functional.adaptive_max_pool2d(x[:, None, None], 1)[:, 0, 0, 0],
        ],
    )
    def test_the_largest_by_hand(self, largest: Callable[[Tensor], Tensor]) -> None:
        assert shares(largest, row(2, 3)) == [0, 3]
        # From (0, 2) to (3, 1) the second leads for the first half of the way.
        assert shares(largest, row(3, 1), row(0, 2)) == [1.5, -0.5]
        assert shares(largest, row(3, 3), row(1, 1)) == [2, 0]

    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize("baseline", ["black", "blur"])
    def test_completeness(self, name: str, baseline: str) -> None:
        model = made(name)
        batch = frozen(model, images(3).sigmoid(), baseline=baseline, mean=(0.5,), std=(0.25,), chunk=2)
        found = DeepLift().attribute(model, batch)
        difference = (batch.logits - batch.baseline_logits).gather(1, batch.targets[:, None])[:, 0]
        error = (found.sum((1, 2, 3)) - difference).abs()
        assert float((error / found.abs().sum((1, 2, 3))).max()) < 1e-12

    @pytest.mark.parametrize("name", ["swin", "vit", "mobilenet"])
    def test_one_baseline_for_all_is_one_for_each(self, name: str) -> None:
        model, batch = made(name), frozen(made(name), images(3), chunk=2)
        one = contributions(model, batch, batch.baseline[:1], 8)
        torch.testing.assert_close(one, paired_contributions(model, batch, batch.baseline, 8), atol=1e-14, rtol=1e-9)

    def test_passes(self) -> None:
        model, _ = network("resnet")
        batch = frozen(model, images(4), chunk=2)
        with passes.counted(model) as count:
            DeepLift().attribute(model, batch)
        assert (count.forwards, count.backwards) == (4 + 1, 4)
        with passes.counted(model) as count:
            DeepLift().attribute(model, replace(batch, baseline=random(*batch.inputs.shape)))
        assert (count.forwards, count.backwards) == (4 + 4, 4)
        with passes.counted(model) as count:
            DeepShap(samples=2).attribute(model, batch)
        assert (count.forwards, count.backwards) == (4 + 2, 4 * 2)

    @pytest.mark.parametrize("activation", [torch.relu, functional.relu6, functional.gelu, functional.silu, torch.tanh])
    @pytest.mark.parametrize("at", [-0.75, 0.5])
    def test_where_nothing_moved_it_is_the_derivative(self, activation: Callable[[Tensor], Tensor], at: float) -> None:
        point = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        activation(point).backward()
        found = shares(lambda x: activation(x[:, 0] + x[:, 1]), row(at + 2, -2), row(at - 1, 1))
        assert found == pytest.approx([3 * float(point.grad), -3 * float(point.grad)], abs=1e-9)

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: x.softmax(1)[:, 1],
            lambda x: x.log_softmax(1)[:, 1],
            lambda x: functional.layer_norm(x, (4,), x.new_tensor([1, 2, 3, 4]), eps=0.1)[:, 1],
            lambda x: functional.rms_norm(x, (4,), x.new_tensor([1, 2, 3, 4]))[:, 1],
            lambda x: functional.group_norm(x[..., None], 2, x.new_tensor([1, 2, 3, 4]), eps=0.1)[:, 1, 0],
            lambda x: functional.normalize(x, dim=1)[:, 1],
            lambda x: x[:, 0] / (1 + x[:, 1].exp()),
            lambda x: torch.einsum("ni,nj->n", x, x),
        ],
    )
    def test_a_small_step_is_the_gradient_and_a_large_one_complete(self, function: Callable[[Tensor], Tensor]) -> None:
        model, after = Function(function), random(1, 1, 1, 4, seed=5)
        near = frozen(model, after)
        near = replace(near, baseline=after - 1e-5 * random(1, 1, 1, 4, seed=6))
        expected = logit_gradient(model, after, near.targets) * (near.inputs - near.baseline)
        torch.testing.assert_close(DeepLift().attribute(model, near), expected, atol=1e-9, rtol=1e-3)
        far = replace(near, baseline=3 * random(1, 1, 1, 4, seed=7))
        found = DeepLift().attribute(model, far).sum()
        torch.testing.assert_close(found, (model(far.inputs) - model(far.baseline))[0, 0], atol=1e-3, rtol=1e-3)

    def test_softmax_far_from_any_overflow(self) -> None:
        assert shares(lambda x: x.softmax(1)[:, 0], row(900, -900), row(-900, 900)) == [0.5, 0.5]
        hidden = row(1, 2, -torch.inf), row(3, 1, -torch.inf)
        model = Function(lambda x: x[:, :2].softmax(1)[:, 0])
        expected = DeepLift().attribute(model, replace(frozen(model, hidden[0]), baseline=hidden[1]))[..., :2]
        masked = Function(lambda x: x.masked_fill(x.new_tensor([0, 0, 1]) > 0, -torch.inf).softmax(1)[:, 0])
        batch = replace(frozen(masked, row(1, 2, 5)), baseline=row(3, 1, 5))
        torch.testing.assert_close(DeepLift().attribute(masked, batch)[..., :2], expected)

    def test_refusals(self) -> None:
        class Custom(torch.autograd.Function):
            @staticmethod
            def forward(context: object, inputs: Tensor) -> Tensor:
                return inputs.clone()

            @staticmethod
            def backward(context: object, gradient: Tensor) -> Tensor:
                return gradient

        norm = nn.BatchNorm1d(3).double().requires_grad_(False)
        refused = {
            "backward pass that the model defines": lambda x: Custom.apply(x).sum(1),
            "condition in the model": lambda x: torch.where(x > 2, x, 0 * x).sum(1),
            "depends on the image": lambda x: x.relu().sum(1) if x.sum() > 2 else x.tanh().sum(1),
            "the image": lambda x: x.relu().sum(1) if x.sum() > 2 else x.relu().relu().sum(1),
            "topk": lambda x: x.topk(2).values.sum(1),
            "training mode": lambda x: norm(x).sum(1),
            "mixes its images": lambda x: (x * x.amax(0)).sum(1),
        }
        for reason, function in refused.items():
            model = Function(function)
            batch = frozen(model, torch.cat([row(1, 2, 3), row(3, 2, 1)]))
            with pytest.raises(NotApplicable, match=reason):
                DeepLift().attribute(model, batch)
        with pytest.raises(UserError, match="nodes >= 1"):
            DeepLift(nodes=0)


class TestDeepShap:
    def test_sums_to_the_mean_difference(self) -> None:
        model, _ = network("vit")
        batch = frozen(model, images(6), chunk=4)
        method = DeepShap(samples=3)
        logits = passes.logits(model, method.baselines(batch), 4)
        expected = (batch.logits - logits.mean(0)).gather(1, batch.targets[:, None])[:, 0]
        torch.testing.assert_close(method.attribute(model, batch).sum((1, 2, 3)), expected)

    @pytest.mark.parametrize("name", ["resnet", "swin"])
    def test_is_the_mean_of_deep_lift(self, name: str) -> None:
        model, method = made(name), DeepShap(samples=3)
        batch = frozen(model, images(4), chunk=2)
        each = [
            DeepLift().attribute(model, replace(batch, baseline=row.expand_as(batch.inputs)))
            for row in method.baselines(batch)
        ]
        found = method.attribute(model, batch)
        torch.testing.assert_close(found, torch.stack(each).mean(0), atol=1e-14, rtol=1e-9)

    def test_baselines_depend_on_names_and_seed_alone(self) -> None:
        model, _ = network("cnn")
        batch, method = frozen(model, images(6)), DeepShap(samples=2)
        chosen = method.baselines(batch)
        assert torch.equal(method.baselines(batch.select([4, 2])), chosen)
        shuffled = replace(batch.select([5, 3, 1, 0, 2, 4]), whole=None)
        assert torch.equal(method.baselines(shuffled), chosen)
        others = [method.baselines(replace(batch, seed=seed)) for seed in range(1, 6)]
        assert not all(torch.equal(other, chosen) for other in others)
        assert len(DeepShap(samples=99).baselines(batch)) == 6

    def test_options(self) -> None:
        assert DeepShap().within(10).samples == 8
        assert DeepShap().within(1).samples == 1
        with pytest.raises(UserError, match="samples >= 1"):
            DeepShap(samples=0)


class TestShapDeep:
    def test_is_ours_where_it_works(self) -> None:
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(100, 5), nn.ReLU(), nn.Linear(5, 2)
        )
        model = model.double().requires_grad_(False)
        batch, method = frozen(model, images(3, 17)), ShapDeep(background=2)
        each = [
            DeepLift().attribute(model, replace(batch, baseline=row.expand_as(batch.inputs)))
            for row in method.images(batch)
        ]
        torch.testing.assert_close(method.attribute(model, batch), torch.stack(each).mean(0), atol=1e-12, rtol=1e-6)

    def test_its_failures_are_reasons(self) -> None:
        model, _ = network("resnet")
        with pytest.raises(NotApplicable, match="shap fails on this network: Output 0"):
            ShapDeep().attribute(model, frozen(model, images()))

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "shap", None)
        model, _ = network("cnn")
        with pytest.raises(UserError, match="pip install"):
            ShapDeep().attribute(model, frozen(model, images()))
        with pytest.raises(UserError, match="background >= 1"):
            ShapDeep(background=0)
