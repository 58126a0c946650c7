"""Tests of axioms against closed forms, slow versions that follow the papers, and other libraries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.batches import freeze
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain
from methods.grad_cam import GradCAM
from methods.input_x_gradient import InputXGradient
from methods.integrated_gradients import IntegratedGradients
from methods.nulls import Intensity, Sobel
from methods.occlusion import Occlusion
from methods.rise import RISE
from methods.saliency import Saliency
from methods.smoothgrad import SmoothGrad
from metrics.completeness import Completeness
from metrics.input_invariance import InputInvariance
from metrics.non_sensitivity import NonSensitivity


def gradient(model: nn.Module, batch: Batch) -> Tensor:
    inputs = batch.inputs.clone().requires_grad_()
    return torch.autograd.grad(passes.class_scores(model(inputs), batch.targets).sum(), inputs)[0]


def invariance(model: nn.Module, batch: Batch, explain: Explain, shift: float = 1.0) -> Tensor:
    maps = explain(model, batch)
    return InputInvariance(shift).score(model, batch, maps, explain, {}).values["input_invariance"]


def non_sensitivity(metric: NonSensitivity, model: nn.Module, batch: Batch, maps: Tensor) -> Tensor:
    return metric.score(model, batch, maps, gradient, metric.prepare(model, batch)).values["non_sensitivity"]


class TestCompleteness:
    def test_slow_version(self, network, batch) -> None:
        for output in ("logit", "prob", "logodds"):
            maps = gradient(network, batch) * (batch.inputs - batch.baseline)
            found = Completeness(output).score(network, batch, maps, gradient, {}).values
            for i in range(len(batch)):
                z = [network(images[[i]])[0] for images in (batch.inputs, batch.baseline)]
                t = batch.targets[i]
                p = [each.softmax(0)[t] for each in z]
                f = {"logit": [each[t] for each in z], "prob": p, "logodds": [torch.log(q / (1 - q)) for q in p]}
                drop = float(f[output][0] - f[output][1])
                error = abs(math.fsum(maps[i].flatten().tolist()) - drop)
                assert float(found["absolute"][i]) == pytest.approx(error)
                assert float(found["relative"][i]) == pytest.approx(error / abs(drop))

    def test_captum(self, network, batch) -> None:
        """What captum calls the convergence delta of integrated gradients, signed."""
        from captum.attr import IntegratedGradients as Peer

        maps, delta = Peer(network).attribute(
            batch.inputs, batch.baseline, target=batch.targets, n_steps=3, return_convergence_delta=True
        )
        found = Completeness().score(network, batch, maps, gradient, {}).values["absolute"]
        torch.testing.assert_close(found, delta.abs(), atol=1e-9, rtol=0)
        assert (found > 1e-9).any()


class _Window(nn.Module):
    """Two logits, of which the first reads rows and columns 2 to 4 alone, by a curve."""

    def forward(self, inputs: Tensor) -> Tensor:
        found = (3 * inputs[:, :, 2:5, 2:5]).sin().sum((1, 2, 3))
        return torch.stack([found, -found], 1)


class TestNonSensitivity:
    @pytest.fixture
    def window(self, images) -> tuple[nn.Module, Batch]:
        labels = torch.zeros(5, dtype=torch.long)
        batch = freeze(_Window(), images(5, side=8), list("abcde"), labels=labels, explain="label")
        return _Window(), batch

    @pytest.mark.parametrize(("unit", "dummies"), [("pixel", 55 / 64), ("patch2", 12 / 16), ("grid8", 55 / 64)])
    @pytest.mark.parametrize("baseline", ["uniform", "sample", "white", "blur"])
    def test_dummies_are_found(self, window, unit, dummies, baseline) -> None:
        model, batch = window
        metric = NonSensitivity(unit=unit, baseline=baseline, eps=1e-6)
        torch.testing.assert_close(
            non_sensitivity(metric, model, batch, torch.ones_like(batch.inputs)),
            torch.full((5,), dummies, dtype=torch.float64),
        )
        assert non_sensitivity(metric, model, batch, gradient(model, batch)).eq(0).all()

    def test_superpixels_in_any_company(self, window) -> None:
        """Images have different numbers of units, and what is prepared must fit together all the same."""
        model, batch = window
        metric = NonSensitivity(unit="slic9", eps=1e-6)
        maps = gradient(model, batch)
        whole = metric.prepare(model, batch)
        parts = [metric.prepare(model, batch.select([i])) for i in range(5)]
        assert torch.equal(whole["dummies"], torch.cat([part["dummies"] for part in parts]))
        counts = [len(units.unique()) for units in whole["units"]]
        assert len(set(counts)) > 1
        found = metric.score(model, batch, 0 * maps, gradient, whole).values["non_sensitivity"]
        for i in range(5):
            touched = whole["units"][i, 2:5, 2:5].unique()
            assert float(found[i]) == pytest.approx(len(touched) / counts[i])
        assert non_sensitivity(metric, model, batch, maps).eq(0).all()

    @pytest.mark.parametrize("output", ["logit", "prob"])
    def test_slow_version(self, network, batch, output) -> None:
        """White takes the place of one patch at a time, and sets are sets."""
        metric = NonSensitivity(output, "white", "patch4", draws=1, eps=0.1)
        maps = gradient(network, batch).relu()
        found = non_sensitivity(metric, network, batch, maps)
        for i in range(3):
            changes, worth = {}, {}
            for row in range(0, 16, 4):
                for column in range(0, 16, 4):
                    place = (slice(row, row + 4), slice(column, column + 4))
                    image = batch.inputs[[i]].clone()
                    image[(..., *place)] = 1.0
                    z = [network(each)[0] for each in (batch.inputs[[i]], image)]
                    f = [float(v[batch.targets[i]] if output == "logit" else v.softmax(0)[batch.targets[i]]) for v in z]
                    changes[row, column] = abs(f[0] - f[1])
                    worth[row, column] = float(maps[i][(..., *place)].abs().sum())
            x0 = {unit for unit, change in changes.items() if change <= 0.1 * max(changes.values())}
            a0 = {unit for unit, value in worth.items() if value <= 0.1 * max(worth.values())}
            assert x0
            assert float(found[i]) == pytest.approx(len(x0 ^ a0) / 16)

    def test_a_pixel_at_its_baseline_is_no_dummy(self, window) -> None:
        """One fixed baseline cannot tell a black pixel from one that the model does not read: a redraw can."""
        model, batch = window
        black = freeze(model, 0 * batch.pixels, batch.uids, labels=batch.targets, explain="label", baseline="black")
        maps = gradient(model, black)
        assert non_sensitivity(NonSensitivity(unit="pixel"), model, black, maps).eq(0).all()
        fixed = NonSensitivity(unit="pixel", baseline="shared")
        assert non_sensitivity(fixed, model, black, maps).eq(9 / 64).all()

    def test_negative_is_not_zero(self, window) -> None:
        model, batch = window
        metric = NonSensitivity(unit="pixel")
        maps = -gradient(model, batch).abs()
        assert non_sensitivity(metric, model, batch, maps).eq(0).all()

    def test_passes(self, network, batch) -> None:
        metric = NonSensitivity(unit="patch4", draws=3)
        with passes.counted(network) as count:
            prepared = metric.prepare(network, batch)
        assert count.forwards == 8 * 16 * 3
        with passes.counted(network) as count:
            metric.score(network, batch, batch.inputs, gradient, prepared)
        assert count.forwards == 0

    @pytest.mark.parametrize("options", [{"draws": 0}, {"eps": -0.1}, {"eps": 1.0}, {"unit": "patch"}])
    def test_refused(self, options) -> None:
        with pytest.raises(UserError):
            NonSensitivity(**options)


class TestInputInvariance:
    @pytest.mark.parametrize(
        "method",
        [
            *(Saliency(), IntegratedGradients(steps=4), SmoothGrad(samples=3), GradCAM("second"), GradCAM("norm")),
            *(Occlusion(), RISE(masks=8), Sobel(), Intensity()),
        ],
        ids=lambda method: type(method).__name__,
    )
    def test_who_passes(self, network, batch, method) -> None:
        found = invariance(network, batch, method.attribute)
        if isinstance(method, Intensity):  # the mean of what enters the model
            expected = 16 / method.attribute(network, batch).flatten(1).norm(dim=1)
            torch.testing.assert_close(found, expected)
        else:
            assert (found < 1e-9).all()

    def test_input_x_gradient_is_off_by_the_gradient(self, network, batch) -> None:
        slope = gradient(network, batch)
        expected = slope.flatten(1).norm(dim=1) / (slope * batch.inputs).flatten(1).norm(dim=1)
        for shift in (0.5, -2.0):
            found = invariance(network, batch, InputXGradient().attribute, shift)
            torch.testing.assert_close(found, abs(shift) * expected)

    def test_integrated_gradients_fail_where_the_reference_stays(self, network, batch) -> None:
        """Kindermans et al.: with a reference that is not shifted, the same method is not invariant."""

        def behind(model: nn.Module, given: Batch) -> Tensor:
            fixed = Batch(**{**vars(given), "baseline": batch.baseline})
            return IntegratedGradients(steps=4).attribute(model, fixed)

        assert (invariance(network, batch, behind) > 0.1).all()

    def test_the_shift_in_the_bias_of_the_first_layer(self, images) -> None:
        """The source's f' has another bias; where the first layer pads nothing, it is the same function."""
        first = nn.Conv2d(3, 4, 3)
        model = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).double().requires_grad_(False)
        batch = freeze(model, images(4, side=8), list("abcd"))
        maps = InputXGradient().attribute(model, batch)
        found = invariance(model, batch, InputXGradient().attribute)
        first.bias -= first.weight.sum((1, 2, 3))
        moved = Batch(**{**vars(batch), "inputs": batch.inputs + 1})
        torch.testing.assert_close(model(moved.inputs), batch.logits)
        distance = (InputXGradient().attribute(model, moved) - maps).flatten(1).norm(dim=1)
        torch.testing.assert_close(found, distance / maps.flatten(1).norm(dim=1))

    def test_everything_in_the_batch_is_shifted_along(self, network, images) -> None:
        batch = freeze(network, images(6), list("abcdef"), mean=(0.4, 0.5, 0.6), std=(0.2,)).select([1, 4])
        seen: list[Batch] = []

        def look(model: nn.Module, given: Batch) -> Tensor:
            seen.append(given)
            torch.testing.assert_close(model(given.inputs), given.logits)
            torch.testing.assert_close(model(given.baseline), given.baseline_logits)
            return given.inputs

        invariance(network, batch, look, 0.75)
        plain, moved = seen
        for before, after in ((plain, moved), (plain.whole, moved.whole)):
            torch.testing.assert_close(after.inputs, before.inputs + 0.75)
            torch.testing.assert_close(after.baseline, before.baseline + 0.75)
            torch.testing.assert_close(after.pixels, before.pixels)
            torch.testing.assert_close(after.normalise(before.pixels), before.inputs + 0.75)
            assert after.uids == before.uids

    def test_one_pass_and_no_hook_left(self, network, batch) -> None:
        with passes.counted(network) as count:
            InputInvariance().score(network, batch, batch.inputs, gradient, {})
        assert count.forwards == len(batch)

        def fails(model: nn.Module, given: Batch) -> Tensor:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            InputInvariance().score(network, batch, batch.inputs, fails, {})
        assert not network._forward_pre_hooks

    def test_refused(self) -> None:
        with pytest.raises(UserError):
            InputInvariance(shift=0.0)
