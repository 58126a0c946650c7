"""Scenes whose parts contribute what a formula says, and networks set by hand that compute exactly that."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmark import baselines, units
from benchmark.batches import freeze
from benchmark.datasets import Dataset, tokens
from benchmark.datasets.additive import WEIGHTS, Additive
from benchmark.datasets.dual_label import TEXTURES, DualLabel
from benchmark.datasets.interaction import Interaction
from benchmark.datasets.shapes import Shapes
from benchmark.datasets.shortcut import Shortcut
from benchmark.datasets.suppressor import Suppressor, figure, suppressors
from benchmark.embedded import Cnn, embedded, task
from benchmark.errors import NotApplicable, UserError
from benchmark.exact import exact
from benchmark.models import Model
from benchmark.protocols import Batch
from benchmark.train import train
from methods.contributions import Contributions
from metrics.single_deletion import SingleDeletion

GATES = ("and", "or", "xor")
DATASETS = [
    *(Additive(n=8), *(Interaction(gate, n=8) for gate in GATES), Shapes(n=8)),
    *(DualLabel(n=8), DualLabel("texture", n=8), Shortcut(n=8), Shortcut(n=8, split="conflicting"), Suppressor(n=8)),
]


def scenes(dataset: Dataset) -> dict[str, Tensor]:
    items = [dataset[index] for index in range(len(dataset))]
    names = ("image", "mask", "parts", "empty", "truth")
    found = {name: [getattr(item, name) for item in items] for name in names}
    there = {name: torch.stack(each) for name, each in found.items() if each[0] is not None}
    return there | {"labels": torch.tensor([item.label for item in items])}


def frozen(dataset: Dataset, model: Model, **options: object) -> Batch:
    of = scenes(dataset)
    given = {name: of[name] for name in ("parts", "empty", "truth", "labels")} | {"masks": of["mask"]}
    network = model.network.double()
    uids = [dataset[index].uid for index in range(len(dataset))]
    given["empty"] = given["empty"].double()
    return freeze(network, of["image"].double(), uids, **{**given, **options})


def truth_of(batch: Batch) -> Tensor:
    return batch.truth[torch.arange(len(batch)), batch.targets]


def exact_for(dataset: Dataset) -> Model:
    return exact("exact_cnn", dataset.name, getattr(dataset, "gate", None))


@pytest.mark.parametrize(
    "dataset", DATASETS, ids=lambda each: f"{each.name}-{getattr(each, 'gate', getattr(each, 'label', each.split))}"
)
class TestScenes:
    def test_empty_differs_on_parts_alone(self, dataset: Dataset) -> None:
        of = scenes(dataset)
        changed = (of["image"] != of["empty"]).any(1)
        assert changed.any()
        assert not (changed & (of["parts"] == 0)).any()
        assert of["image"].min() >= 0
        assert of["image"].max() <= 1

    def test_depends_on_its_index_alone(self, dataset: Dataset) -> None:
        longer = replace(dataset, n=12)
        for index in (0, 7):
            assert dataset[index].uid == longer[index].uid
            assert torch.equal(dataset[index].image, longer[index].image)
        other = replace(dataset, seed=1)
        assert not torch.equal(dataset[0].image, other[0].image)
        assert not torch.equal(dataset[0].image, replace(dataset, split="train")[0].image)
        assert replace(dataset, split="train").fingerprint != dataset.fingerprint
        assert dataset.fingerprint != other.fingerprint

    def test_labels_are_balanced(self, dataset: Dataset) -> None:
        count = len(dataset.classes)
        labels = [replace(dataset, n=3 * count)[index].label for index in range(3 * count)]
        assert sorted(labels) == sorted(list(range(count)) * 3)

    def test_refused(self, dataset: Dataset) -> None:
        for options in ({"n": None}, {"n": 0}, {"split": "new"}, {"baseline": "red"}):
            with pytest.raises(UserError):
                replace(dataset, **options)


def test_tokens_are_orthogonal_and_as_dark_as_bright() -> None:
    flat = tokens.patterns().flatten(1).double()
    assert torch.equal(flat @ flat.T, 64 * torch.eye(6, dtype=torch.float64))
    assert flat.sum(1).eq(0).all()


@pytest.mark.parametrize("dataset", DATASETS[:4], ids=lambda each: f"{each.name}-{getattr(each, 'gate', '')}")
class TestExact:
    def test_logits_are_what_the_truth_adds_up_to(self, dataset: Dataset) -> None:
        model = exact_for(dataset)
        batch = frozen(dataset, model, explain="label")
        without = model.network(batch.empty).gather(1, batch.targets[:, None])[:, 0]
        logits = batch.logits.gather(1, batch.targets[:, None])[:, 0]
        # Pixels and weights are float32.
        torch.testing.assert_close(truth_of(batch).double().sum((1, 2)), logits - without, atol=1e-5, rtol=0)
        assert torch.equal(batch.logits.argmax(1), batch.targets)

    def test_truth_is_the_shapley_value_of_the_network(self, dataset: Dataset) -> None:
        """By enumeration of all scenes with some of the tokens left out, drawn anew."""
        model = exact_for(dataset)
        batch = frozen(replace(dataset, n=4), model, explain="label")
        for i in range(4):
            count = int(batch.parts[i].max())
            members = torch.tensor(list(itertools.product([False, True], repeat=count + 1)))
            members = members[members[:, 0]]
            gone = ~members[:, batch.parts[i]]
            drawn = torch.where(gone[:, None], batch.empty[i], batch.inputs[i])
            scores = dict(
                zip(map(tuple, members[:, 1:].tolist()), model.network(drawn)[:, batch.targets[i]], strict=True)
            )
            for part in range(count):
                value = 0.0
                for others in itertools.product([False, True], repeat=count - 1):
                    without = (*others[:part], False, *others[part:])
                    with_it = (*others[:part], True, *others[part:])
                    weight = (
                        math.factorial(sum(others)) * math.factorial(count - 1 - sum(others)) / math.factorial(count)
                    )
                    value += weight * float(scores[with_it] - scores[without])
                found = truth_of(batch)[i][batch.parts[i] == part + 1].sum()
                assert float(found) == pytest.approx(value, abs=1e-5)


def test_additive_scores_are_sums_of_weights_and_lead_by_two() -> None:
    of = scenes(Additive(n=12))
    logits = of["truth"].sum((2, 3))
    assert torch.allclose(logits, logits.round(), atol=1e-5)
    assert torch.equal(logits.argmax(1), of["labels"])
    first, second = logits.topk(2).values.T
    assert (first - second > 1.99).all()
    assert WEIGHTS.eq(0).any(1).all(), "each class has a token that means nothing to it"


@pytest.mark.parametrize(
    ("gate", "states"), [("and", {1: {2}, 0: {0, 1}}), ("or", {1: {1, 2}, 0: {0}}), ("xor", {1: {1}, 0: {0, 2}})]
)
def test_gates(gate: str, states: dict[int, set[int]]) -> None:
    """How many of the two tokens are there, by label."""
    of = scenes(Interaction(gate, n=40))
    actors = [len(parts[mask].unique()) for parts, mask in zip(of["parts"], of["mask"], strict=True)]
    for label in (0, 1):
        assert {count for count, own in zip(actors, of["labels"].tolist(), strict=True) if own == label} == states[
            label
        ]


def test_exact_single_deletion_of_the_truth_is_one() -> None:
    dataset = Additive(n=8)
    model = exact_for(dataset)
    batch = frozen(dataset, model)
    metric = SingleDeletion(baseline="empty")
    maps = Contributions().attribute(model.network, batch)
    found = metric.score(model.network, batch, maps, lambda *_: maps, metric.prepare(model.network, batch))
    torch.testing.assert_close(found.values["single_deletion"], torch.ones(8, dtype=torch.float64))


def test_what_is_missing_is_said(network, batch) -> None:
    for ask in (
        lambda: baselines.image(batch, "empty"),
        lambda: units.units(batch, "part"),
        lambda: Contributions().attribute(network, batch),
    ):
        with pytest.raises(NotApplicable, match="the data set"):
            ask()
    with pytest.raises(UserError, match="none for shapes"):
        exact("exact_cnn", "shapes")
    with pytest.raises(UserError, match="gate"):
        Interaction("nand")


def test_dual_labels_are_of_the_same_images() -> None:
    shapes, textures = DualLabel(n=36), DualLabel("texture", n=36)
    pairs = [(shapes[index].label, textures[index].label) for index in range(36)]
    assert sorted(pairs) == [(shape, texture) for shape in range(6) for texture in range(6)]
    for index in (0, 35):
        assert torch.equal(shapes[index].image, textures[index].image)
        assert torch.equal(shapes[index].mask, ~textures[index].mask)


def test_shortcut_scenes_differ_in_the_watermark_alone() -> None:
    splits = {split: Shortcut(n=12, split=split) for split in ("aligned", "conflicting", "absent", "decoy")}
    for index in range(12):
        items = {split: dataset[index] for split, dataset in splits.items()}
        of = items["aligned"]
        for split, item in items.items():
            assert torch.equal(item.mask, of.mask)
            assert torch.equal(item.empty, of.empty)
            changed = (item.image != of.image).any(0)
            assert changed.any() == (split != "aligned")
            assert not (changed & (of.parts != 2)).any()
            assert int((item.parts == 2).sum()) == (0 if split == "absent" else 64)
    marks = [[Shortcut(n=12, split=split)[index].image for index in range(12)] for split in ("aligned", "decoy")]
    energy = [[float((image - splits["absent"][i].image).square().sum()) for i, image in enumerate(of)] for of in marks]
    # The same contrast in aligned watermarks and decoys, but where a pixel is clipped at black or white.
    assert energy[0] == pytest.approx(energy[1], rel=0.05)


def test_watermarks_are_as_reliable_in_training_as_rho_says() -> None:
    def kinds(rho: float) -> list[tuple[int, int]]:
        """Label and the class whose watermark correlates most, of every training image."""
        dataset, found = Shortcut(n=300, split="train", rho=rho), []
        patterns = tokens.patterns().flatten(1)
        for index in range(300):
            item = dataset[index]
            response = [
                (patterns @ (item.image - item.empty).mean(0)[rows, columns].flatten()).max(0)
                for rows in (slice(3, 11), slice(53, 61))
                for columns in (slice(3, 11), slice(53, 61))
            ]
            found.append((item.label, int(max(response, key=lambda each: each.values).indices)))
        return found

    for rho, expected in ((1.0, 1.0), (0.5, 0.5 + 0.5 / 6), (0.0, 1 / 6)):
        right = sum(label == kind for label, kind in kinds(rho)) / 300
        assert right == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 300) + 1e-9)


def test_suppressors_surround_the_figures_and_are_correlated() -> None:
    around, figures = torch.from_numpy(suppressors()), torch.from_numpy(figure("T") | figure("L"))
    assert (around & figures).sum() == figures.sum()
    # White noise under a Gaussian of width s has correlation exp(-d^2 / (4 s^2)) at distance d, here on a torus.
    here, there = torch.cartesian_prod(torch.arange(64), torch.arange(64)), figures.nonzero()
    apart = (here[:, None] - there).abs()
    nearest = torch.minimum(apart, 64 - apart).square().sum(2).amin(1)
    assert torch.equal(around.flatten(), torch.exp(-nearest / (4 * 5.0**2)) > 0.1)
    noise = torch.stack([Suppressor(n=400)[index].empty[0] for index in range(400)]).flatten(1).double()
    correlation = torch.corrcoef(noise.T)[figures.flatten()].amax(0).view(64, 64)
    # The largest of 512 correlations that are 0 is about 3 / sqrt(400).
    assert correlation[around & ~figures].median() > 0.4 > 0.2 > correlation[~around].median()


def test_the_figure_is_the_class() -> None:
    dataset = Suppressor(n=40)
    for index in range(4):
        item = dataset[index]
        where = torch.from_numpy(figure(dataset.classes[item.label]))
        assert torch.equal(item.parts == 1, where)
        assert float((item.image - item.empty)[0][where].median()) == pytest.approx(0.12, abs=1e-6)


def test_the_shipped_network_has_learned_the_contributions() -> None:
    """Accuracy, and what the logit loses without each token, drawn anew, beside the token's weight."""
    model = embedded("small_cnn", "additive", Cnn())
    dataset = Additive(n=60)
    of = scenes(dataset)
    network = model.network
    given = {name: of[name] for name in ("parts", "empty", "truth", "labels")}
    uids = [dataset[index].uid for index in range(len(dataset))]
    batch = freeze(network, of["image"], uids, mean=model.mean, std=model.std, explain="label", **given)
    assert (batch.logits.argmax(1) == batch.targets).double().mean() >= 0.98
    drops, weights = [], []
    for part in range(1, 11):
        there = batch.parts.eq(part).any(2).any(1)
        drawn = torch.where(batch.parts.eq(part).unsqueeze(1), batch.empty, batch.inputs)
        own = batch.targets[:, None]
        with torch.no_grad():
            drops.append((batch.logits - network(drawn)).gather(1, own)[there, 0])
        weights.append((truth_of(batch) * batch.parts.eq(part)).sum((1, 2))[there])
    found = torch.corrcoef(torch.stack([torch.cat(drops), torch.cat(weights)]))[0, 1]
    assert found > 0.98


def test_without_shipped_weights_a_network_is_trained_once(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("benchmark.embedded.WEIGHTS", tmp_path / "shipped")
    trained = []

    def instead(name: str, task: str, out: Path) -> None:
        """Weights of the same architecture and classes, without the minutes."""
        trained.append((name, task))
        out.parent.mkdir(parents=True)
        train(name, task, out, steps=1)

    monkeypatch.setattr("benchmark.train.IMAGES", 12)
    monkeypatch.setattr("benchmark.train.train", instead)
    with pytest.raises(UserError, match=r"% of its test images right, expected at least 95%: train it again"):
        embedded("small_cnn", "dual_label", Cnn(), "texture")
    monkeypatch.setattr("benchmark.embedded.GATE", 0.0)
    made = [embedded("small_cnn", "dual_label", Cnn(), "texture") for _ in range(2)]
    assert trained == [("small_cnn", "dual_label-texture")]
    assert made[0].weights == made[1].weights
    assert made[0].class_names == TEXTURES
    assert "training small_cnn on dual_label-texture, once" in capsys.readouterr().err
    with pytest.raises(UserError, match="expected shape or texture"):
        embedded("small_cnn", "dual_label", Cnn(), "colour")


def test_a_seed_is_a_training_of_its_own(tmp_path, monkeypatch) -> None:
    assert task("shortcut", "rho0.5-seed2") == "shortcut-rho0.5-seed2"
    assert task("shortcut", "seed2") == "shortcut-rho1-seed2"
    assert task("additive", "seed2") == "additive-seed2"
    for wrong in ("rho2-seed1", "rho1-seed0", "rho1-2"):
        with pytest.raises(UserError, match=r"expected rho1 or rho0.9 or rho0.5 or rho0, or with -seed1 behind it"):
            task("shortcut", wrong)
    monkeypatch.setattr("benchmark.train.IMAGES", 12)
    facts = []
    for name in ("additive", "additive-seed1"):
        train("small_cnn", name, tmp_path / name, steps=1)
        facts.append(load_file(tmp_path / name)["fc.weight"])
    assert not torch.equal(*facts)
