"""What methods share is what they would have made themselves, and nobody else gets it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmark import passes, sharing
from benchmark.protocols import Batch
from benchmark.sharing import Shared, Store
from methods.grad_cam import GradCAM
from methods.saliency import Saliency


def sharing_batch(model: nn.Module, batch: Batch, store: Store) -> Batch:
    images = (batch.inputs, batch.targets, batch.baseline)
    return replace(batch, shared=Shared(store, batch.uids, model, images))


@pytest.fixture
def open_batch(network: nn.Module, batch: Batch) -> Batch:
    return sharing_batch(network, batch, Store())


def forwards(model: nn.Module, batch: Batch) -> tuple[int, Tensor]:
    with passes.counted(model) as count:
        maps = Saliency().attribute(model, batch)
    return count.forwards, maps


def test_made_once(network: nn.Module, batch: Batch, open_batch: Batch) -> None:
    first = forwards(network, open_batch)
    again = forwards(network, open_batch)
    assert (first[0], again[0]) == (8, 0)
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[1], Saliency().attribute(network, batch))


def test_pairs_of_tensors_too(network: nn.Module, batch: Batch, open_batch: Batch) -> None:
    expected = GradCAM("second").attribute(network, batch)
    for _ in range(2):
        assert torch.equal(GradCAM("second").attribute(network, open_batch), expected)
    other = GradCAM("norm").attribute(network, open_batch)
    assert torch.equal(other, GradCAM("norm").attribute(network, batch))


def test_what_is_kept_cannot_be_spoilt(network: nn.Module, open_batch: Batch) -> None:
    expected = Saliency().attribute(network, open_batch)
    for _ in range(2):
        made = open_batch.once(network, ("gradient",), lambda: torch.empty(0))
        made.zero_()
    assert torch.equal(Saliency().attribute(network, open_batch), expected)


def test_other_images_get_their_own(network: nn.Module, batch: Batch, open_batch: Batch) -> None:
    forwards(network, open_batch)
    for changed in (
        replace(open_batch, inputs=batch.inputs + 0.1),
        replace(open_batch, targets=(batch.targets + 1) % 4),
        replace(open_batch, baseline=batch.baseline + 1),
        open_batch.select([0, 1, 2, 3, 4, 5, 6, 7]),
        open_batch.copy(),
    ):
        count, maps = forwards(network, changed)
        assert count == 8
        assert torch.equal(maps, Saliency().attribute(network, replace(changed, shared=None)))


def test_images_written_to_are_others(network: nn.Module, open_batch: Batch) -> None:
    forwards(network, open_batch)
    open_batch.inputs.add_(0.1)
    assert forwards(network, open_batch)[0] == 8


def test_another_model_gets_its_own(network: nn.Module, open_batch: Batch) -> None:
    from copy import deepcopy

    forwards(network, open_batch)
    assert forwards(deepcopy(network), open_batch)[0] == 8
    kept = network.first.weight.clone()
    with torch.no_grad():
        network.first.weight.mul_(2)
    count, maps = forwards(network, open_batch)
    assert count == 8
    assert torch.equal(maps, Saliency().attribute(network, replace(open_batch, shared=None)))
    with torch.no_grad():
        network.first.weight.copy_(kept)


def test_batches_do_not_meet(network: nn.Module, batch: Batch) -> None:
    store = Store()
    for half in (batch.select([0, 1, 2, 3]), batch.select([4, 5, 6, 7])):
        count, maps = forwards(network, sharing_batch(network, half, store))
        assert count == 4
        assert torch.equal(maps, Saliency().attribute(network, half))


def test_memory_is_bounded(network: nn.Module, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "LIMIT", batch.inputs.nbytes - 1)
    given = sharing_batch(network, batch, store := Store())
    assert forwards(network, given)[0] == forwards(network, given)[0] == 8
    assert store.bytes == 0
