"""What enters the key of a cell, and what a plug-in cannot do to those that come after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from benchmark import passes, plugins, records, subjects
from benchmark.cells import Choice
from benchmark.choices import CONF
from benchmark.errors import NotApplicable, UserError
from benchmark.evaluate import Evaluation
from benchmark.progress import Progress
from benchmark.protocols import Batch, Measure, Method, Metric, Scores
from benchmark.subjects import Subject
from metrics.completeness import Completeness
from metrics.deletion import Deletion
from metrics.srg import SRG
from metrics.throughput import Throughput


def composed(*overrides: str) -> DictConfig:
    settings = ["models=small_cnn", "datasets=digits", "datasets.n=3", "methods=saliency", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=settings)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subjects.load(composed())


def evaluation(root: Path, subject: Subject, method: Method) -> Evaluation:
    return Evaluation(root, subject, Choice(type(method).__name__.lower()), method, Progress(1))


class Magnitude(Method):
    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        return batch.inputs.abs()


class Overwrites(Method):
    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        maps = batch.inputs.abs()
        for value in vars(batch).values():
            if isinstance(value, Tensor):
                value.zero_()
        return maps


class Replaces(Method):
    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        model.fc = nn.Linear(model.fc.in_features, model.fc.out_features)
        return batch.inputs


class FirstInvalid(Method):
    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        maps = batch.inputs.clone()
        if "0" in batch.uids[0] and len(batch) > 1:
            maps[0] = torch.nan
        return maps


def deletion(root: Path, subject: Subject, method: Method) -> list[float]:
    metric = Deletion(steps=4)
    return evaluation(root, subject, method).record(plugins.choose("deletion", metric), metric).rows["value"].tolist()


def test_a_method_cannot_reach_the_next_through_its_images(tmp_path: Path, subject: Subject) -> None:
    alone = deletion(tmp_path / "alone", subject, Magnitude())
    assert deletion(tmp_path / "both", subject, Overwrites()) == alone
    assert deletion(tmp_path / "both", subject, Magnitude()) == alone


def test_a_method_cannot_reach_the_next_through_the_model(tmp_path: Path, subject: Subject) -> None:
    alone = deletion(tmp_path / "alone", subject, Magnitude())
    with pytest.raises(UserError, match="changed the model's weights or modules"):
        deletion(tmp_path / "both", subject, Replaces())
    assert deletion(tmp_path / "both", subject, Magnitude()) == alone


class Constant(Method):
    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        return -torch.ones_like(batch.inputs)


@dataclass(frozen=True)
class Undefined(Metric):
    measures = (Measure("undefined", higher_is_better=True, range=(0.0, 1.0)),)

    def score(self, model, batch, attributions, explain, prepared) -> Scores:  # type: ignore[no-untyped-def]
        return Scores({"undefined": torch.tensor([0.5, torch.nan, torch.inf])[: len(batch)]})


def test_undefined_and_invalid_are_counted_and_never_repaired(tmp_path: Path, subject: Subject) -> None:
    metric = Undefined()
    rows = evaluation(tmp_path, subject, Constant()).record(plugins.choose("undefined", metric), metric).rows
    assert rows["status"].tolist() == ["ok", "degenerate", "degenerate"]
    assert rows["value"].tolist()[0] == 0.5
    assert rows["value"].isna().tolist() == [False, True, True]
    metric = Deletion(steps=2)
    rows = evaluation(tmp_path, subject, FirstInvalid()).record(plugins.choose("deletion", metric), metric).rows
    assert rows["status"].tolist() == ["invalid", "ok", "ok"]
    assert rows["value"].isna().tolist() == [True, False, False]


def test_parts_are_filed_and_count_their_own_passes(tmp_path: Path, subject: Subject) -> None:
    metric = SRG(steps=4)
    done = evaluation(tmp_path, subject, Magnitude())
    assert done.record(plugins.choose("srg", metric), metric).facts["forwards"] == 0
    filed = {record.cell.metric.name: record for record in records.read_all(tmp_path)}
    assert set(filed) == {"deletion", "insertion", "srg"}
    assert filed["deletion"].facts["forwards"] == 3 * 3


def test_the_second_method_pays_nothing_for_what_is_shared(tmp_path: Path, subject: Subject) -> None:
    config = composed("metrics=[infidelity]").metrics.infidelity
    metric: Metric = plugins.build(config)
    choice = plugins.choose("infidelity", metric)
    first = evaluation(tmp_path, subject, Magnitude()).record(choice, metric)
    second = evaluation(tmp_path, subject, Overwrites()).record(choice, metric)
    assert first.facts["forwards"] == 3 * 100
    assert second.facts["forwards"] == 0
    assert second.rows["value"].tolist() == first.rows["value"].tolist()


def test_not_applicable_says_why(tmp_path: Path, subject: Subject) -> None:
    metric = Completeness()
    record = evaluation(tmp_path, subject, Magnitude()).record(plugins.choose("completeness", metric), metric)
    assert "f(x) - f(baseline)" in record.facts["reason"]
    assert set(record.rows["status"]) == {"not_applicable"}


def test_parts_of_what_is_not_applicable_are_filed_too(tmp_path: Path, subject: Subject) -> None:
    """Else a table would say of them that nothing has been computed yet."""

    class Speechless(Method):
        def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
            raise NotApplicable("nothing to say")

    metric = SRG(steps=4)
    evaluation(tmp_path, subject, Speechless()).record(plugins.choose("srg", metric), metric)
    filed = {each.cell.metric.name: each.facts["reason"] for each in records.read_all(tmp_path)}
    assert filed == dict.fromkeys(("deletion", "insertion", "srg"), "nothing to say")


def test_timing_survives_an_invalid_first_map(tmp_path: Path, subject: Subject) -> None:
    metric = Throughput(seconds=0.01)
    record = evaluation(tmp_path, subject, FirstInvalid()).record(plugins.choose("throughput", metric), metric)
    rows = record.rows.set_index("measure")
    assert rows.loc["images_per_second", "status"] == "ok"
    assert rows.loc["energy", "status"] == "not_applicable"


@pytest.mark.parametrize(
    ("override", "axis"),
    [
        ("models.architecture.output_stride=16", "model"),
        ("datasets.baseline=black", "dataset"),
        ("datasets.seed=1", "dataset"),
        ("datasets.n=4", "dataset"),
        ("datasets.explain=label", "dataset"),
        ("datasets.split=train", "dataset"),
        ("seed=1", "seed"),
        ("chunk=1", "timing"),
        ("batch_size=2", "timing"),
        ("channels_last=false", "timing"),
        ("models.layer=layer3", None),
        ("results=elsewhere", None),
    ],
)
def test_what_changes_numbers_changes_the_key(override: str, axis: str | None, subject: Subject) -> None:
    other = subjects.load(composed(override))
    changed = {
        "model": other.model_choice != subject.model_choice,
        "dataset": other.dataset_choice != subject.dataset_choice,
        "seed": other.seed != subject.seed,
        "timing": other.timing != subject.timing,
    }
    assert {name for name, value in changed.items() if value} == ({axis} if axis else set())


@pytest.mark.parametrize(
    "change", [{"size": (1, 8, 8)}, {"mean": (0.1,)}, {"std": (0.9,)}, {"transform": abs}, {"weights": "f" * 64}]
)
def test_preprocessing_and_weights_are_in_the_key(change: dict[str, Any], subject: Subject) -> None:
    config = composed().models
    assert subjects._model_choice(subject.model, config) == subject.model_choice
    assert subjects._model_choice(replace(subject.model, **change), config) != subject.model_choice


@pytest.mark.parametrize("override", ["batch_size=0", "chunk=0", "chunk=-1", "batch_size=many"])
def test_numbers_of_images_are_checked(override: str) -> None:
    with pytest.raises(UserError, match="expected 1 or more"):
        subjects.load(composed(override))


def test_targets_are_checked_however_deep(tmp_path: Path) -> None:
    def refused(settings: dict[str, object], trusted: tuple[str, ...] = ()) -> str:
        with pytest.raises(UserError) as caught:
            plugins.build(OmegaConf.create(settings), trusted)
        return str(caught.value)

    target = tmp_path / "written"
    write = {"_target_": "pathlib.Path.write_text", "self": str(target), "data": "x"}
    assert "outside this project" in refused({"_target_": "metrics.deletion.Deletion", "output": write})
    assert "outside this project" in refused({"_target_": "metrics.deletion.Deletion", "output": [{"a": write}]})
    assert "is not part of it" in refused({**write, "_target_": "benchmark.subjects.Path.write_text"})
    assert "does not exist" in refused({"_target_": "metrics.deletion.Deletoin"})
    assert "names no class" in refused({"output": "prob"})
    assert not target.exists()


def test_unchanged_sees_replaced_parameters_and_modules(network: nn.Module) -> None:
    weight, head = network.first.weight, network.head

    def replace() -> None:
        with passes.unchanged(network):
            network.first.weight = nn.Parameter(torch.zeros_like(network.first.weight))
            network.head = nn.Identity()
            network.extra = nn.Identity()

    with pytest.raises(UserError, match="weights or modules"):
        replace()
    assert network.first.weight is weight
    assert network.head is head
    assert not hasattr(network, "extra")
