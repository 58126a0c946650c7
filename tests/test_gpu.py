"""The same numbers on a GPU as on the CPU, for everything configured: `python -m pytest -m gpu`."""

from __future__ import annotations

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

pytestmark = pytest.mark.gpu
METHODS = [name for name in choices.choices("methods") if name != "custom"]
METRICS = [name for name in choices.choices("metrics") if name != "custom"]


@pytest.fixture
def many(network, images) -> Batch:
    masks = images(16, channels=1, seed=3)[:, 0] > 0.8
    uids = [f"image-{i}" for i in range(16)]
    return freeze(network, images(16), uids, masks=masks, labels=torch.arange(16) % 4, explain="label", chunk=50)


def configured(group: str, name: str) -> object:
    chosen = [f"{group}=[{name}]" if group == "metrics" else f"{group}={name}", "models.layer=second"]
    if name == "grid_pointing_game":  # the untrained network is sure of nothing
        chosen.append("metrics.grid_pointing_game.min_confidence=0")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=chosen)
    return plugins.build(config.metrics[name] if group == "metrics" else config.methods)


@pytest.mark.parametrize("name", METHODS)
def test_method(name: str, network, many) -> None:
    method = configured("methods", name)
    expected = method.attribute(network, many)
    found = method.attribute(network.cuda(), many.to("cuda"))
    assert found.is_cuda
    # Box-Muller's logarithm and cosine are float32 and differ in the last digit between devices.
    torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_metric(name: str, network, many) -> None:
    metric = configured("metrics", name)
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
