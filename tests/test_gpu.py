"""The same numbers on a GPU as on the CPU, for everything configured: `python -m pytest -m gpu`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from benchmark import choices, plugins
from benchmark.batches import freeze
from benchmark.choices import CONF
from benchmark.protocols import Batch, Metric, Scores
from methods.input_x_gradient import InputXGradient
from metrics._randomised import cascade
from tests import architectures
from tests.test_contract import PARTS
from tests.test_zoo import METHODS, NOT_APPLICABLE, method_of

pytestmark = pytest.mark.gpu
METRICS = [name for name in choices.choices("metrics") if name != "custom"]


def batch_for(network: nn.Module, images: Callable[..., Tensor], side: int = 16) -> Batch:
    masks = images(16, channels=1, side=side, seed=3)[:, 0] > 0.8
    parts = (4 * images(16, channels=1, side=side, seed=5)[:, 0]).long()
    drawn = images(16, side=side)
    empty = torch.where(parts[:, None] > 0, images(16, side=side, seed=6), drawn)
    known = {
        "masks": masks,
        "truth": images(16, channels=4, side=side, seed=4),
        "parts": parts,
        "part_names": PARTS,
        "empty": empty,
    }
    uids, labels = [f"image-{i}" for i in range(16)], torch.arange(16) % 4
    return freeze(network, drawn, uids, labels=labels, explain="label", chunk=50, **known)


@pytest.fixture
def many(network, images) -> Batch:
    return batch_for(network, images)


def metric_of(name: str) -> Metric:
    chosen = [f"metrics=[{name}]", "models.layer=second"]
    if name == "grid_pointing_game":  # the untrained network is sure of nothing
        chosen.append("metrics.grid_pointing_game.min_confidence=0")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=chosen)
    return plugins.build(config.metrics[name])


@pytest.mark.parametrize("kind", architectures.NAMES)
@pytest.mark.parametrize("name", METHODS)
def test_method(name: str, kind: str, images) -> None:
    if kind in NOT_APPLICABLE.get(name, ()):
        return
    network, layer = architectures.network(kind)
    method, many = method_of(name, layer), batch_for(network, images, architectures.SIDE)
    expected = method.attribute(network, many)
    found = method.attribute(deepcopy(network).cuda(), many.to("cuda"))
    assert found.is_cuda
    # Box-Muller's logarithm and cosine are float32 and differ in the last digit between devices.
    torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_metric(name: str, network, many) -> None:
    metric = metric_of(name)
    maps = InputXGradient().attribute(network, many)
    expected = score(metric, network, many, maps)
    found = score(metric, network.cuda(), many.to("cuda"), maps.cuda())
    assert set(found) == {measure.name for measure in metric.measures}
    if metric.per == "image":
        for measure, values in expected.items():
            torch.testing.assert_close(found[measure].cpu(), values, atol=1e-5, rtol=1e-5, equal_nan=True)


def score(metric: Metric, model: nn.Module, batch: Batch, maps: Tensor) -> dict[str, Tensor]:
    def whole(metric: Metric) -> Scores:
        parts = {name: whole(part) for name, part in metric.parts().items()}
        twin = {"twin": next(cascade(model, 1, "twin"))} if "twin" in metric.needs else {}
        prepared = {**metric.prepare(model, batch), **parts, **twin}
        return metric.score(model, batch, maps, lambda m, b: InputXGradient().attribute(m, b), prepared)

    return dict(whole(metric).values)
