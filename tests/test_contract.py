"""What every configured method and metric promises, whatever it computes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from timm.models import VisionTransformer
from torch import Tensor, nn

from benchmark import choices, passes, plugins
from benchmark.batches import freeze
from benchmark.choices import CONF
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method, Metric, Scores
from metrics._randomised import cascade
from tests import architectures
from tests.test_zoo import CUT, NOT_APPLICABLE

GOLDEN = Path(__file__).parent / "golden.json"
METHODS = [name for name in choices.choices("methods") if name != "custom"]
METRICS = [name for name in choices.choices("metrics") if name != "custom"]
PARTS = ("object", "mark", "suppressors")
GROUPINGS = {"alone": 1, "threes": 3, "eights": 8}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=["models.layer=second", *overrides])


def method_of(name: str) -> Method:
    # CAM reads what a linear layer weighs.
    layer = ["models.layer=last"] if name == "cam" else []
    return plugins.build(composed(f"methods={name}", *layer).methods).within(CUT)


OPTIONS = {
    # The untrained network is sure of nothing.
    "grid_pointing_game": ["min_confidence=0"],
    "shortcut_mass": ["least=1e-5"],
    # Promises do not depend on how many draws there are; time does.
    "smooth_parameter_randomisation": ["samples=3"],
    "sensitivity_n": ["subsets=20"],
    "monotonicity_correlation": ["samples=2"],
}


def metric_of(name: str) -> Metric:
    options = [f"metrics.{name}.{option}" for option in OPTIONS.get(name, [])]
    return plugins.build(composed(f"metrics=[{name}]", *options).metrics[name])


@pytest.fixture
def many(network, images) -> Batch:
    """64 images of four classes with masks and all that is known of drawn scenes; no multiple of a chunk.

    Image i has 1 + i % 4 parts, of which the first contributes nothing to the first class.
    """
    side = architectures.SIDE if isinstance(network, VisionTransformer) else 16
    masks = images(64, channels=1, side=side, seed=3)[:, 0] > 0.8
    uids, labels = [f"image-{i}" for i in range(64)], torch.arange(64) % 4
    parts = (images(64, channels=1, side=side, seed=5)[:, 0] * (2 + labels[:, None, None])).long()
    truth = images(64, channels=4, side=side, seed=4) - 0.5
    truth[:, 0].masked_fill_(parts == 1, 0)
    drawn = images(64, side=side)
    empty = torch.where(parts[:, None] > 0, images(64, side=side, seed=6), drawn)
    known = {"masks": masks, "truth": truth, "parts": parts, "part_names": PARTS, "empty": empty}
    return freeze(network, drawn, uids, labels=labels, explain="label", chunk=50, **known)


def pieces(batch: Batch, size: int) -> list[Batch]:
    return [batch.select(list(range(len(batch)))[at : at + size]) for at in range(0, len(batch), size)]


@pytest.mark.parametrize("group", choices.GROUPS)
def test_every_choice_says_what_it_is(group: str) -> None:
    described = choices.choices(group)
    assert described
    assert all(len(text) > 20 for text in described.values()), described


@pytest.mark.parametrize("name", METHODS)
class TestMethod:
    @pytest.fixture
    def network(self, name: str, network) -> nn.Module:
        """The small convolutional network, or a vision transformer where a method needs attention."""
        without = NOT_APPLICABLE.get(name, ())
        return architectures.network("vit")[0] if "cnn" in without and "vit" not in without else network

    def test_shape_and_facts(self, name: str, network, many) -> None:
        method = method_of(name)
        assert isinstance(method, Method)
        assert method.role in ("method", "null", "oracle")
        maps = method.attribute(network, many)
        size = many.inputs.shape[2:]
        assert tuple(maps.shape) in {(64, 3, *size), (64, 1, *size)}
        assert maps.dtype == many.inputs.dtype
        assert maps.isfinite().all()
        assert not maps.requires_grad

    def test_same_map_in_any_company(self, name: str, network, many) -> None:
        method = method_of(name)
        whole = method.attribute(network, many)
        torch.testing.assert_close(method.attribute(network, many), whole, atol=0, rtol=0)
        for size in GROUPINGS.values():
            parts = torch.cat([method.attribute(network, piece) for piece in pieces(many, size)[:4]])
            torch.testing.assert_close(parts, whole[: len(parts)], atol=1e-9, rtol=1e-9)
        order = torch.randperm(64, generator=torch.Generator().manual_seed(1)).tolist()
        shuffled = method.attribute(network, many.select(order))
        torch.testing.assert_close(shuffled, whole[order], atol=1e-9, rtol=1e-9)

    def test_seed_matters_where_chance_does(self, name: str, network, many) -> None:
        method = method_of(name)
        other = Batch(**{**vars(many), "seed": 1})
        same = torch.equal(method.attribute(network, many), method.attribute(network, other))
        assert same is not method.stochastic

    def test_nulls_know_nothing_of_the_model(self, name: str, network, many) -> None:
        method = method_of(name)

        class Forbidden(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                raise AssertionError("a null row called the model")

        model = network if method.role == "method" else Forbidden()
        assert method.attribute(model, many).isfinite().all()

    def test_class_agnostic_is_true(self, name: str, network, many) -> None:
        method = method_of(name)
        logits = many.logits
        other = Batch(**{**vars(many), "targets": (many.targets + 1) % logits.shape[1]})
        same = torch.equal(method.attribute(network, many), method.attribute(network, other))
        assert same is method.class_agnostic

    def test_nothing_is_left_behind(self, name: str, network, many) -> None:
        before = snapshot(network, many)
        method_of(name).attribute(network, many)
        assert_same(before, snapshot(network, many))

    def test_nothing_is_left_behind_by_an_error(self, name: str, network, many) -> None:
        calls = 0

        def fail(module: nn.Module, inputs: object, output: object) -> None:
            nonlocal calls
            calls += 1
            raise RuntimeError("on purpose")

        handle = network.norm.register_forward_hook(fail)
        before = snapshot(network, many)
        method = method_of(name)
        if method.role == "method":
            with pytest.raises(RuntimeError, match="on purpose"):
                method.attribute(network, many)
            assert calls
        assert_same(before, snapshot(network, many))
        handle.remove()


@pytest.mark.parametrize("name", METRICS)
class TestMetric:
    def test_facts(self, name: str) -> None:
        metric = metric_of(name)
        assert isinstance(metric, Metric)
        names = [measure.name for measure in metric.measures]
        assert len(set(names)) == len(names) > 0
        assert all(measure.range[0] < measure.range[1] for measure in metric.measures)
        assert metric.needs <= {"masks", "method_baseline", "twin"}

    def test_same_score_in_any_company(self, name: str, network, many) -> None:
        metric = metric_of(name)
        maps = explain(network, many)
        whole = score(metric, network, many, maps)
        assert set(whole) == {measure.name for measure in metric.measures}
        for measure in metric.measures:
            values = whole[measure.name]
            assert values.shape == ((1,) if metric.per == "cell" else (64,))
            finite = values[values.isfinite()].double()
            assert ((finite >= measure.range[0] - 1e-9) & (finite <= measure.range[1] + 1e-9)).all()
        if metric.per == "cell":
            return
        for size in GROUPINGS.values():
            parts = [score(metric, network, piece, explain(network, piece)) for piece in pieces(many, size)[:4]]
            for measure, values in whole.items():
                found = torch.cat([part[measure] for part in parts])
                torch.testing.assert_close(found, values[: len(found)], atol=1e-9, rtol=1e-9, equal_nan=True)
        order = torch.randperm(64, generator=torch.Generator().manual_seed(1)).tolist()
        shuffled = score(metric, network, many.select(order), maps[order])
        for measure, values in whole.items():
            torch.testing.assert_close(shuffled[measure], values[order], atol=1e-9, rtol=1e-9, equal_nan=True)

    def test_same_score_in_any_chunk(self, name: str, network, many) -> None:
        metric = metric_of(name)
        if metric.per == "cell":
            return
        few = many.select(list(range(6)))
        small = Batch(**{**vars(few), "chunk": 1})
        maps = explain(network, few)
        for (measure, values), other in zip(
            score(metric, network, few, maps).items(), score(metric, network, small, maps).values(), strict=True
        ):
            torch.testing.assert_close(values, other, atol=1e-9, rtol=1e-9, equal_nan=True, msg=measure)

    def test_nothing_is_left_behind(self, name: str, network, many) -> None:
        maps = explain(network, many)
        before, kept = snapshot(network, many), maps.clone()
        score(metric_of(name), network, many, maps)
        assert_same(before, snapshot(network, many))
        assert torch.equal(maps, kept)


def explain(model: nn.Module, batch: Batch) -> Tensor:
    return method_of_gradient.attribute(model, batch)


method_of_gradient = method_of("input_x_gradient")


def score(metric: Metric, model: nn.Module, batch: Batch, maps: Tensor) -> Mapping[str, Tensor]:
    def whole(metric: Metric) -> Scores:
        parts = {name: whole(part) for name, part in metric.parts().items()}
        twin = {"twin": next(cascade(model, 1, "twin"))} if "twin" in metric.needs else {}
        return metric.score(model, batch, maps, explain, {**metric.prepare(model, batch), **parts, **twin})

    return whole(metric).values


def snapshot(model: nn.Module, batch: Batch) -> dict[str, object]:
    state = {f"state {name}": tensor.clone() for name, tensor in model.state_dict().items()}
    fields = {f"batch {name}": value.clone() for name, value in vars(batch).items() if isinstance(value, Tensor)}
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    return {
        **state,
        **fields,
        "modes": [module.training for module in model.modules()],
        "hooks": hooks,
        "gradients": [(p.requires_grad, p.grad is None) for p in model.parameters()],
        "global generator": torch.random.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_same(before: dict[str, object], after: dict[str, object]) -> None:
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        assert same, name


def test_golden_values(network, many) -> None:
    """Numbers of today's versions on a fixed network: a change here needs a new version and a line in the changelog."""
    maps = explain(network, many)
    found = {}
    for name in METRICS:
        if (metric := metric_of(name)).per == "image":
            of = f"{name}@{metric.version}"
            found |= {f"{of}.{m}": float(v.nanmean()) for m, v in score(metric, network, many, maps).items()}
    expected = json.loads(GOLDEN.read_text())
    assert set(found) == set(expected)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12, nan_ok=True), json.dumps(found, indent=1)


def test_unchanged_mends_what_a_plugin_broke(network) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def spoil() -> None:
        with passes.unchanged(network):
            network.train()
            network.first.weight += 1
            network.norm.register_forward_hook(lambda *args: None)
            network.head.weight.requires_grad_(True)

    with pytest.raises(UserError, match="changed the model's weights"):
        spoil()
    assert not any(module.training for module in network.modules())
    assert not network.norm._forward_hooks
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_out_of_memory_halves_the_chunk() -> None:
    asked = []

    def work(start: int, stop: int) -> list[int]:
        asked.append(stop - start)
        if stop - start > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(start, stop))

    assert [i for part in passes.chunked(work, 7, 8) for i in part] == list(range(7))
    assert asked == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    with pytest.raises(UserError, match="out of memory with a single image"):
        list(passes.chunked(lambda start, stop: (_ for _ in ()).throw(torch.OutOfMemoryError()), 2, 2))


def test_paths_of_conf_are_found_from_anywhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert math.isclose(float(composed("methods=smoothgrad").methods.noise), 0.15)
