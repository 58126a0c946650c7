"""Metrics of known truth: numbers by hand, slow loops over one image, networks that are known to use what they use."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from benchmark import embedded, plugins
from benchmark.batches import freeze
from benchmark.choices import CONF
from benchmark.datasets import Dataset, shortcut, tokens
from benchmark.datasets.additive import Additive
from benchmark.datasets.dual_label import DualLabel
from benchmark.datasets.interaction import Interaction
from benchmark.datasets.shapes import Shapes
from benchmark.datasets.shortcut import Shortcut
from benchmark.datasets.suppressor import Suppressor
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Metric
from methods.contributions import Contributions
from metrics.input_dependence import InputDependence
from metrics.localisation import RelevanceRank
from metrics.part_agreement import PartAgreement
from metrics.part_mass import ObjectMass, ShortcutMass, SuppressorMass
from tests.test_truth import exact_for, frozen, scenes

NAN = math.nan
RENDERED = ("single_deletion_rendered", "deletion_rendered", "insertion_rendered", "srg_rendered")
DRAWN = [Shapes(n=3), Additive(n=3), Interaction("or", n=3), DualLabel(n=3), Shortcut(n=3), Suppressor(n=3)]


def built(name: str) -> Metric:
    return plugins.build(OmegaConf.load(CONF / "metrics" / f"{name}.yaml"))


def score(metric: Metric, model: nn.Module, batch: Batch, maps: Tensor, explain=None) -> dict[str, Tensor]:
    def whole(each: Metric):
        parts = {name: whole(part) for name, part in each.parts().items()}
        return each.score(model, batch, maps, explain or (lambda *_: maps), {**each.prepare(model, batch), **parts})

    return dict(whole(metric).values)


def drawn(dataset: Dataset, model: nn.Module, **options: object) -> Batch:
    """The scenes of a data set in float64, as a network takes them that reads pixels as they are."""
    of = scenes(dataset)
    known = {name: of[name] for name in ("parts", "truth", "labels") if name in of}
    known |= {"masks": of["mask"], "part_names": dataset[0].part_names}
    uids = [dataset[index].uid for index in range(len(dataset))]
    return freeze(model, of["image"].double(), uids, empty=of["empty"].double(), **known, **options)


class Total(nn.Module):
    """Logits (sum of the pixels, 0)."""

    def forward(self, inputs: Tensor) -> Tensor:
        total = inputs.sum((1, 2, 3))
        return torch.stack([total, torch.zeros_like(total)], 1)


@pytest.fixture
def little() -> Batch:
    """A scene of three parts, one pixel each, of four: they contribute 2, -1 and 0."""
    truth = torch.tensor([[[[2.0, -1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]], dtype=torch.float64)
    pixels = torch.tensor([[[[2.0, -1.0], [0.0, 0.5]]]], dtype=torch.float64)
    names = ("object", "suppressors", "mark")
    known = {"parts": torch.tensor([[[1, 2], [3, 0]]]), "part_names": names, "empty": 0 * pixels, "truth": truth}
    known["empty"][0, 0, 1, 1] = 0.5
    return freeze(Total(), pixels, ["little"], labels=torch.tensor([0]), explain="label", **known)


@pytest.mark.parametrize(
    ("values", "correlation", "sign", "background"),
    [
        ([4, -2, 0, 0], 1.0, 1.0, 0.0),
        ([-2, 1, 0, 0], -1.0, 0.0, 0.0),
        ([4, 2, 0, 2], 4 / math.sqrt(8 * 14 / 3), 0.5, 2 / 8),
        ([0, 0, 5, 5], (0 - 5 / 3) / math.sqrt(50 / 3 * 14 / 3), 0.0, 1.0),
        ([1, 1, 1, -9], NAN, 0.5, 10 / 12),
        ([1, 0, 0, 0], 5 / math.sqrt(28), 0.5, 0.0),
        ([0, 0, 0, 0], NAN, 0.0, NAN),
    ],
)
def test_agreement_by_hand(little: Batch, values: list[float], correlation: float, sign: float, background: float):
    """Truth (2, -1, 0) has mean 1/3 and sum of squares 14/3; the last pixel is of no part."""
    maps = torch.tensor(values, dtype=torch.float64).view(1, 1, 2, 2)
    found = score(PartAgreement(), Total(), little, maps)
    expected = {"correlation": correlation, "sign": sign, "background": background}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, nan_ok=True)


def test_agreement_is_with_the_target(little: Batch) -> None:
    """The other class gets nothing from any part."""
    other = replace(little, targets=torch.tensor([1]))
    found = score(PartAgreement(), Total(), other, other.inputs)
    assert all(value.isnan().all() for value in found.values())


def test_the_truth_is_that_of_the_models_classes(little: Batch) -> None:
    """Of a model with other classes the first of the truth would say something that nobody asked."""
    assert little.truth is not None
    other = replace(little, truth=torch.cat([little.truth, little.truth], 1))
    for ask in (
        lambda: score(PartAgreement(), Total(), other, other.inputs),
        lambda: Contributions().attribute(Total(), other),
    ):
        with pytest.raises(NotApplicable, match="contribute to 4 classes, and the model has 2"):
            ask()


def test_channels_are_summed_before_anything_else(little: Batch) -> None:
    maps = torch.tensor([[4.0, -2.0, 0.0, 0.0], [90.0, 90.0, 90.0, 90.0], [-90.0, -90.0, -90.0, -90.0]]).double()
    found = score(PartAgreement(), Total(), little, maps.view(1, 3, 2, 2))
    assert {name: float(value) for name, value in found.items()} == {"correlation": 1.0, "sign": 1.0, "background": 0.0}


@pytest.mark.parametrize("dataset", [Additive(n=6), Interaction("and", n=8), Interaction("xor", n=8)])
def test_agreement_is_what_a_loop_over_one_image_finds(dataset: Dataset) -> None:
    model = exact_for(dataset)
    batch = frozen(dataset, model)
    maps = torch.randn(len(batch), 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    maps = maps + 5 * batch.truth[torch.arange(len(batch)), batch.targets][:, None]
    found = score(PartAgreement(), model.network, batch, maps)
    for i in range(len(batch)):
        parts, values = batch.parts[i].numpy(), maps[i].sum(0).numpy()
        truth = batch.truth[i, batch.targets[i]].double().numpy()
        numbers = range(1, parts.max() + 1)
        a, t = (np.array([each[parts == number].sum() for number in numbers]) for each in (values, truth))
        if not t.any():
            assert all(each[i].isnan() for each in found.values())
            continue
        spoken = np.isin(parts, [number for number, each in zip(numbers, t, strict=True) if each])
        assert float(found["correlation"][i]) == pytest.approx(np.corrcoef(a, t)[0, 1])
        assert float(found["sign"][i]) == pytest.approx((np.sign(a) == np.sign(t))[t != 0].mean())
        assert float(found["background"][i]) == pytest.approx(np.abs(values)[~spoken].sum() / np.abs(values).sum())


@pytest.mark.parametrize("dataset", [Additive(n=8), *(Interaction(gate, n=8) for gate in ("and", "or", "xor"))])
def test_the_oracle_agrees_with_the_exact_network(dataset: Dataset) -> None:
    model = exact_for(dataset)
    batch = frozen(dataset, model)
    maps = Contributions().attribute(model.network, batch)
    found = score(PartAgreement(), model.network, batch, maps)
    speaks = maps.flatten(1).any(1)
    assert speaks.any()
    for name, best in (("correlation", 1.0), ("sign", 1.0), ("background", 0.0)):
        torch.testing.assert_close(found[name][speaks], torch.full((int(speaks.sum()),), best, dtype=torch.float64))
        assert found[name][~speaks].isnan().all()


def test_a_sum_that_is_rounding_has_no_sign(little: Batch) -> None:
    """0.1 + 0.2 - 0.3 in float32 is a little less than 0, and so is what the part contributes."""
    parts, truth = torch.tensor([[[1, 1], [1, 2]]]), torch.tensor([[-1.0, -1.0], [-1.0, 1.0]]).expand(1, 2, 2, 2)
    maps = torch.tensor([[[[0.1, 0.2], [-0.3, 1.0]]]])
    assert -1e-7 < float(maps.double().sum()) - 1 < 0
    found = score(PartAgreement(), Total(), replace(little, parts=parts, truth=truth), maps)
    assert float(found["sign"]) == 0.5


def test_a_part_is_worth_the_sum_of_its_pixels(little: Batch) -> None:
    """Parts of two, one and one pixels contribute 2, 0 and 1; by their means the second map had 0.76."""
    parts, truth = torch.tensor([[[1, 1], [2, 3]]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double().expand(1, 2, 2, 2)
    for values, expected in (([1, 1, 0, 1], 1.0), ([1, 1, 0, 3], 2 / math.sqrt(2 * 42 / 9))):
        maps = torch.tensor(values, dtype=torch.float64).view(1, 1, 2, 2)
        found = score(PartAgreement(), Total(), replace(little, parts=parts, truth=truth), maps)
        assert float(found["correlation"]) == pytest.approx(expected)


def test_a_part_alone_has_no_correlation(little: Batch) -> None:
    alone = replace(little, parts=torch.tensor([[[1, 0], [0, 0]]]))
    found = score(PartAgreement(), Total(), alone, torch.ones(1, 1, 2, 2))
    assert found["correlation"].isnan().all()
    assert float(found["sign"]) == 1.0
    assert float(found["background"]) == 0.75


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        (ObjectMass(), [3, 1, -5, 2], 3 / 6),
        (ObjectMass(reduce="abs_sum"), [3, 1, -5, 2], 3 / 11),
        (ObjectMass(), [-3, -1, -5, 0], NAN),
        (SuppressorMass(), [3, -1, -5, 2], 1 / 11),
        (SuppressorMass(reduce="sum"), [3, -1, -5, 2], 0.0),
        (ShortcutMass(), [3, 1, 5, 2], 5 / 11),
        (ShortcutMass(), [3, 1, -5, 2], 0.0),
    ],
)
def test_masses_by_hand(little: Batch, metric: Metric, values: list[float], expected: float) -> None:
    maps = torch.tensor(values, dtype=torch.float64).view(1, 1, 2, 2)
    name = {ObjectMass: "object_mass", SuppressorMass: "suppressor_mass", ShortcutMass: "shortcut_mass"}[type(metric)]
    assert float(score(metric, Total(), little, maps)[name]) == pytest.approx(expected, nan_ok=True)


class Watermarks(nn.Module):
    """Reads the corners alone: the logit of a class is the largest response to its watermark, above a threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.patterns = tokens.patterns().double().flatten(1) / (64 * tokens.CONTRAST)

    def forward(self, inputs: Tensor) -> Tensor:
        sides = (slice(3, 11), slice(53, 61))
        corners = [inputs.mean(1)[:, rows, columns].flatten(1) for rows in sides for columns in sides]
        return 10 * (torch.stack([corner @ self.patterns.T for corner in corners]).amax(0) - 0.5).relu()


class Outlines(nn.Module):
    """Reads everything but the corners."""

    def forward(self, inputs: Tensor) -> Tensor:
        seen = inputs[:, :, 11:53].mean((1, 2, 3))
        return torch.stack([10 * seen, *[0 * seen] * 5], 1)


def test_networks_of_the_watermark_are_certified_image_by_image() -> None:
    network = Watermarks()
    for split in ("aligned", "conflicting", "decoy", "absent"):
        batch = drawn(Shortcut(n=12, split=split), network, explain="predicted")
        maps = (batch.parts == 2).double().unsqueeze(1) + 0.01
        found = score(ShortcutMass(), network, batch, maps)
        share = 64 * 1.01 / (64 * 1.01 + 4032 * 0.01)
        if split in ("aligned", "conflicting"):
            assert (found["drop_mark"] > 3).all()
            assert found["certified"].tolist() == pytest.approx([share] * 12)
        else:
            assert found["certified"].isnan().all()
        if split == "absent":
            assert found["shortcut_mass"].isnan().all()
            assert found["drop_mark"].isnan().all()
        else:
            assert found["shortcut_mass"].tolist() == pytest.approx([share] * 12)
        assert found["drop_object"].abs().max() == 0


@pytest.mark.parametrize("name", ["small_cnn", "small_vit"])
def test_a_decoy_certifies_nothing(name: str) -> None:
    """Whatever a network that was trained on the watermark makes of another one: next to nothing, and five times it."""
    architecture = embedded.Cnn() if name == "small_cnn" else embedded.Vit()
    model = embedded.embedded(name, "shortcut", architecture, trained="rho1")
    for split, least in (("aligned", 20), ("decoy", 0)):
        of = scenes(Shortcut(n=24, split=split))
        known = {"parts": of["parts"], "part_names": shortcut.PARTS, "empty": of["empty"]}
        norm = {"mean": model.mean, "std": model.std}
        batch = freeze(model.network, of["image"], [f"image-{i}" for i in range(24)], **known, **norm)
        found = score(ShortcutMass(), model.network, batch, torch.ones(24, 1, 64, 64))
        certified = int(found["certified"].isfinite().sum())
        assert certified >= least if least else certified == 0


def test_networks_of_the_object_are_not_certified() -> None:
    network = Outlines()
    batch = drawn(Shortcut(n=12), network)
    found = score(ShortcutMass(), network, batch, torch.ones(12, 1, 64, 64))
    assert (found["drop_object"] > 0).all()
    assert found["drop_mark"].abs().max() == 0
    assert found["certified"].isnan().all()


def test_rounding_certifies_nothing() -> None:
    """A network in float32 that adds all pixels and takes the corners away again uses no watermark."""

    class Roundabout(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            sides = (slice(3, 11), slice(53, 61))
            corners = sum(inputs[:, :, rows, columns].sum((1, 2, 3)) for rows in sides for columns in sides)
            total = inputs.sum((1, 2, 3)) - corners
            return torch.stack([total, total - 1], 1)

    of = scenes(Shortcut(n=12))
    uids = [f"image-{i}" for i in range(12)]
    known = {"parts": of["parts"], "part_names": shortcut.PARTS, "empty": of["empty"]}
    batch = freeze(Roundabout(), of["image"], uids, **known)
    without = torch.where(of["parts"][:, None] == 2, of["empty"], of["image"])
    assert (Roundabout()(without) != batch.logits).any(), "there is rounding to be forgiven"
    found = score(ShortcutMass(), Roundabout(), batch, torch.ones(12, 1, 64, 64))
    assert found["drop_mark"].abs().max() == 0
    assert found["certified"].isnan().all()


def test_drops_are_those_of_scenes_drawn_anew() -> None:
    """One by one, with the pixels of the data set."""
    network = Outlines()
    dataset = Shortcut(n=3)
    batch = drawn(dataset, network)
    found = score(ShortcutMass(), network, batch, torch.ones(3, 1, 64, 64))
    for i in range(3):
        item, target = dataset[i], int(batch.targets[i])
        for part, name in ((2, "drop_mark"), (1, "drop_object")):
            without = torch.where(item.parts == part, item.empty, item.image)
            one, other = (network(image.double()[None])[0, target] for image in (item.image, without))
            assert float(found[name][i]) == pytest.approx(float(one - other), abs=1e-12)


def test_suppressors_and_precision_are_two_columns() -> None:
    network = Total()
    batch = drawn(Suppressor(n=4), network)
    figures, beside = batch.masks.double(), (batch.parts == 2).double()
    for values, mass, precision in ((figures, 0.0, 1.0), (beside, 1.0, 0.0), (-beside, 1.0, 0.0)):
        maps = values.unsqueeze(1)
        assert score(SuppressorMass(), network, batch, maps)["suppressor_mass"].eq(mass).all()
        rank = score(RelevanceRank(reduce="abs_sum"), network, batch, maps)["relevance_rank"]
        torch.testing.assert_close(rank, torch.full_like(rank, precision))


def test_the_other_scene_is_the_one_without_its_object() -> None:
    """What a method is asked to explain a second time, and that it is asked about the same class of the same image."""
    network = Outlines()
    dataset = DualLabel("texture", n=4)
    batch = replace(drawn(dataset, network), whole=None)
    asked: list[Batch] = []

    def explain(model: nn.Module, given: Batch) -> Tensor:
        asked.append(given)
        return given.inputs

    found = score(InputDependence(), network, batch, batch.inputs, explain)
    (given,) = asked
    for i in range(4):
        torch.testing.assert_close(given.inputs[i], dataset[i].empty.double())
    torch.testing.assert_close(given.logits, network(given.inputs))
    assert torch.equal(given.targets, batch.targets)
    assert torch.equal(given.baseline, batch.baseline)
    assert given.uids == batch.uids
    assert given.whole is batch
    assert not given.parts.any()
    before, after = (
        network(each).softmax(1).gather(1, batch.targets[:, None])[:, 0] for each in (batch.inputs, given.inputs)
    )
    torch.testing.assert_close(found["drop"], before - after)


def test_dependence_step_by_step() -> None:
    """The object is brighter than the texture, so brightness is more on it, and darkness is less."""
    network = Outlines()
    batch = drawn(DualLabel("texture", n=6), network)

    def on_object(values: Tensor, i: int) -> float:
        positive = values.sum(0).numpy().clip(min=0)
        scaled = ((positive - positive.min()) / (np.percentile(positive, 99) - positive.min())).clip(0, 1)
        return float(scaled[batch.parts[i].numpy() == 1].mean())

    for sign, explain in ((1, lambda _, each: each.inputs), (-1, lambda _, each: 1 - each.inputs)):
        found = score(InputDependence(insignificant=1.0), network, batch, explain(network, batch), explain)
        without = replace(batch, inputs=torch.where(batch.parts[:, None] == 1, batch.empty, batch.inputs))
        pairs = [[on_object(explain(network, each)[i], i) for each in (batch, without)] for i in range(6)]
        assert all((seen - unseen) * sign > 0 for seen, unseen in pairs)
        assert found["dependence"].tolist() == [float(seen < unseen) for seen, unseen in pairs]
        assert found["independence"].tolist() == [float(abs(a - b) <= 0.1 * b) for a, b in pairs]


@pytest.mark.parametrize("name", RENDERED)
@pytest.mark.parametrize("dataset", DRAWN, ids=lambda dataset: dataset.name)
def test_presets_work_on_everything_that_is_drawn(name: str, dataset: Dataset) -> None:
    torch.manual_seed(0)
    channels = len(dataset[0].image)
    network = nn.Sequential(
        *(nn.Conv2d(channels, 8, 7, stride=3), nn.ReLU(), nn.Conv2d(8, 8, 5, stride=3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)),
    )
    network.double().eval().requires_grad_(False)
    batch = drawn(dataset, network)
    maps = torch.randn(3, channels, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    metric = built(name)
    (found,) = score(metric, network, batch, maps).values()
    assert found.isfinite().all()
    assert (metric.output, metric.baseline) == ("logit", "empty")


def test_rendered_srg_is_a_formula_of_the_contributions() -> None:
    """SRG = sum_k phi_(k) (d + 1 - 2k) / d with d parts and surroundings, and no map has more."""
    dataset = Additive(n=6)
    model = exact_for(dataset)
    batch = frozen(dataset, model)
    best = score(built("srg_rendered"), model.network, batch, Contributions().attribute(model.network, batch))["srg"]
    other = score(built("srg_rendered"), model.network, batch, torch.randn(6, 1, 64, 64))["srg"]
    for i in range(6):
        phi = [
            batch.truth[i, batch.targets[i]][batch.parts[i] == part].sum()
            for part in range(int(batch.parts[i].max()) + 1)
        ]
        ordered = sorted(map(float, phi), reverse=True)
        d = len(ordered)
        expected = sum(each * (d + 1 - 2 * k) / d for k, each in enumerate(ordered, start=1))
        assert float(best[i]) == pytest.approx(expected, abs=1e-5)  # pixels and weights are float32
    assert (other <= best + 1e-5).all()


def test_single_deletion_does_not_see_what_either_token_alone_can_do() -> None:
    """OR of two: without one of them nothing is lost, so the drops are equal and the true map has no score."""
    dataset = Interaction("or", n=40)
    model = exact_for(dataset)
    batch = frozen(dataset, model, explain="label")
    maps = Contributions().attribute(model.network, batch)
    found = score(built("single_deletion_rendered"), model.network, batch, maps)["single_deletion"]
    actors = torch.tensor([len(parts[mask].unique()) for parts, mask in zip(batch.parts, batch.masks, strict=True)])
    assert {0, 1, 2} == set(actors.tolist())
    torch.testing.assert_close(found[actors == 1], torch.ones_like(found[actors == 1]))
    assert found[actors != 1].isnan().all()


def test_what_is_missing_is_said(network: nn.Module, batch: Batch) -> None:
    maps = batch.inputs
    plain = (
        PartAgreement(),
        ObjectMass(),
        SuppressorMass(),
        ShortcutMass(),
        InputDependence(),
        *map(built, RENDERED[:3]),
    )
    for metric in plain:
        with pytest.raises(NotApplicable, match="data set"):
            score(metric, network, batch, maps)
    parts = replace(batch, parts=torch.ones(8, 16, 16, dtype=torch.int64), part_names=("object", "mark"))
    for metric in (ShortcutMass(), InputDependence()):
        with pytest.raises(NotApplicable, match="does not draw its scenes without"):
            score(metric, network, parts, maps)
    with pytest.raises(NotApplicable, match="does not know what each part"):
        score(PartAgreement(), network, parts, maps)


@pytest.mark.parametrize(
    ("metric", "drawings"),
    [
        (ObjectMass(), {"shapes", "dual_label", "shortcut"}),
        (ShortcutMass(), {"shortcut"}),
        (SuppressorMass(), {"suppressor"}),
        (InputDependence(), {"shapes", "dual_label", "shortcut"}),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_part_is_asked_for_by_name(metric: Metric, drawings: set[str]) -> None:
    """On other scenes part 1 or 2 is something else, and a number would mean nothing."""
    network = Total()
    for dataset in DRAWN:
        batch = drawn(dataset, network)
        if dataset.name in drawings:
            assert score(metric, network, batch, batch.inputs)
        else:
            with pytest.raises(NotApplicable, match=r"no part called \w+ \(parts: (figure, supp|none|object)"):
                score(metric, network, batch, batch.inputs)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ShortcutMass(factor=0), "factor > 0"),
        (lambda: ShortcutMass(least=0), "least > 0"),
        (lambda: InputDependence(threshold=-1), "threshold >= 0"),
        (lambda: InputDependence(insignificant=-0.1), "insignificant >= 0"),
        (lambda: PartAgreement(reduce="mean"), "mean"),
        (lambda: SuppressorMass(reduce="mean"), "mean"),
    ],
)
def test_options_that_mean_nothing_are_refused(make, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()
