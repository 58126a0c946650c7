"""The certificate: every metric has one, it is what the code gives today, and it turns red when something is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from benchmark import certify, choices
from benchmark.certificate import SHIPPED, certified, methods
from benchmark.certificate.checks import Check, build, check

METRICS = [name for name in choices.choices("metrics") if name != "custom"]


@pytest.fixture(scope="module")
def shipped() -> dict:
    return json.loads(SHIPPED.read_text())


@pytest.mark.parametrize("name", METRICS)
def test_metric_is_certified(name: str, shipped: dict) -> None:
    (proof,) = certify.prove([name])
    assert [each for each in proof.checks if not each.passed] == []
    assert len(proof.checks) >= 3, "a certificate of one line proves little"
    assert len({each.claim for each in proof.checks}) >= 2
    entry = shipped["metrics"][name]
    committed = [(each["subject"], each["claim"]) for each in entry["checks"]]
    assert (entry["version"], entry["passed"]) == (proof.version, True), "make the certificate again"
    assert committed == [(each.subject, each.claim) for each in proof.checks], "make the certificate again"


@pytest.mark.parametrize("name", methods.methods())
def test_method_keeps_what_theory_promises(name: str) -> None:
    found = list(methods.axioms(name))
    assert [each for each in found if not each.passed] == []
    assert [each.axiom for each in found] == [*dict.fromkeys(each.axiom for each in found)]
    assert {each.axiom for each in found} >= methods.HOLDS.get(name, set())


def test_nothing_else_is_in_the_shipped_certificate(shipped: dict) -> None:
    assert set(shipped["metrics"]) == set(METRICS)
    assert certified(Path("nowhere")) == {(name, build(name).version) for name in METRICS}


def test_the_page_is_made_of_the_file(shipped: dict) -> None:
    assert SHIPPED.with_suffix(".md").read_text() == certify.page(shipped)


def test_degraded_explainers_are_ranked_in_order(shipped: dict) -> None:
    """Faithfulness and localisation that rank must fall with noise; the page shows by how much."""
    ranked = {row["metric"]: row["tau"] for row in shipped["degraded"]}
    assert {"srg", "deletion", "insertion", "infidelity.beta_optimal", "relevance_mass"} <= set(ranked)
    assert min(ranked[name] for name in ("srg", "deletion", "insertion", "infidelity.beta_optimal")) >= 0.95


class TestCheck:
    def test_worst_place_decides(self) -> None:
        found = check("m", "s", "claim", torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.5, 3.1]), 0.2)
        assert (found.expected, found.measured, found.tolerance) == (2.5, 2.0, 0.2)
        assert not found.passed
        assert check(
            "m", "s", "claim", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1]), torch.tensor([0, 0.2])
        ).passed

    def test_nan_is_matched_by_nan_alone(self) -> None:
        nan = math.nan
        assert check("m", "s", "claim", torch.tensor([nan, 1.0]), torch.tensor([nan, 1.0])).passed
        assert not check("m", "s", "claim", torch.tensor([nan, 1.0]), torch.tensor([0.0, 1.0])).passed
        assert not check("m", "s", "claim", torch.tensor([0.0, 1.0]), torch.tensor([nan, 1.0])).passed
        assert not Check("m", "s", "claim", 1.0, math.inf, 1e9).passed


OWN = """
from benchmark.certificate import subjects
from benchmark.certificate.checks import build, check, scores
from benchmark.protocols import Measure, Metric, Scores


class Total(Metric):
    measures = (Measure("total", higher_is_better=None, range=(-float("inf"), float("inf"))),)

    def score(self, model, batch, attributions, explain, prepared):
        return Scores({"total": attributions.sum((1, 2, 3)) * FACTOR})


def linear(metric):
    known = subjects.linear()
    found = scores(build(metric), known, known.truth)["total"]
    yield check("total", known.name, "f(x) - f(b)", found, known.clean - known.absent)


CHECKS = {"MODULE.Total": (linear,)}
"""


class TestCommand:
    def test_a_metric_of_ones_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        for name, factor, code in (("own_right", "1", 0), ("own_wrong", "1.01", 1)):
            Path(f"{name}.py").write_text(OWN.replace("FACTOR", factor).replace("MODULE", name))
            assert certify.main(["--checks", name]) == code
            (entry,) = json.loads(Path(f"results/certificate-{name}.json").read_text())["metrics"].values()
            assert entry["passed"] is (code == 0)
            assert entry["version"].startswith("1+"), "the hash of its file is part of the version"
            assert {("total", entry["version"])} <= certified(Path("results")) or code == 1
        told = capsys.readouterr()
        assert "FAIL total on linear: f(x) - f(b)" in told.err
        assert "1 of 1 checks pass; 1 of 1 metrics are certified" in told.out
        assert "0 of 1 checks pass; 0 of 1 metrics are certified" in told.out

    def test_a_failure_outweighs_a_pass_and_ours_are_as_shipped(self, tmp_path: Path, shipped: dict) -> None:
        def entry(version: str, *passed: bool) -> dict:
            return {"version": version, "passed": True, "checks": [{"passed": each} for each in passed]}

        proofs = {
            "a": {"mine": entry("1", True, False), "srg": entry("99", True), "empty": entry("1")},
            "b": {"mine": entry("1", True), "other": entry("1", True)},
            "c": {"other": entry("2", False)},
        }
        for name, metrics in proofs.items():
            (tmp_path / f"certificate-{name}.json").write_text(json.dumps({"metrics": metrics}))
        own = certified(tmp_path) - certified(Path("nowhere"))
        assert own == {("other", "1")}

    def test_some_metrics_write_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert certify.main(["srg", "completeness"]) == 0
        assert "2 of 2 metrics are certified" in capsys.readouterr().out
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["sgr"], "metric sgr does not exist; did you mean srg?"),
            (["--checks", "nowhere_at_all"], "nowhere_at_all is no module with checks"),
            (["--checks", "json"], "json is no module with checks"),
        ],
    )
    def test_mistakes_get_a_sentence(
        self, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert certify.main(arguments) == 2
        told = capsys.readouterr().err
        assert sentence in told
        assert len(told.splitlines()) == 1


def test_what_fails_is_marked_on_the_page() -> None:
    wrong = Check("srg", "linear", "a | b", 1.0, 2.0, 0.1)
    right = Check("srg", "constant", "claim", 0.0, 1e-13, 1e-9)
    proofs = [certify.Proof("srg", "2", "faithfulness", [wrong, right]), certify.Proof("new", "1", "complexity", [])]
    found = certify.document(proofs, {"saliency": [methods.Axiom("saliency", "dummy", 0.5)]})
    assert found["metrics"]["srg"]["checks"][1]["measured"] == 0.0
    page = certify.page(found)
    for line in (
        "## Metrics: 1 of 2 checks pass",
        "| srg | ✗ | ✓ 1 | ✗ 0/1 |",
        "| new | ✗ |  |  |",
        "| linear | a \\| b | 1.0 | 2.0 | 0.1 | ✗ |",
        "| saliency | 0.5 ✗ |",
        "No check: uncertified.",
    ):
        assert line in page, line
    assert certify._report(found) == 1
