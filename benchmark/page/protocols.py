"""What every number rests on: options of metrics and methods, their certificate, the environment, what is missing."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.certificate import SHIPPED
from benchmark.frames import Scored, flat, written
from benchmark.page.boards import Board
from benchmark.page.results import Results

_SOURCES = Path(__file__).resolve().parent.parent.parent
_STATUSES = {
    "ok": "scored",
    "not_applicable": "n/a",
    "degenerate": "degenerate",
    "invalid": "invalid",
    "failed": "failed",
    "missing": "missing",
}
_ENVIRONMENT = ("assay", "commit", "python", "torch", "device", "instructions", "dtype", "host")


@dataclass(frozen=True)
class Measured:
    """A number that a metric reports."""

    name: str
    direction: str
    range: str
    null: str
    unit: str
    use: str


@dataclass(frozen=True)
class Card:
    """A metric or method: everything that was chosen about it.

    Attributes:
        label: its name in tables.
        version: of its definition; several versions of one label are all named.
        group: family of a metric, role of a method.
        about: what its source says that it is; empty for code that is not the project's.
        options: (option, value); where models differ in it, every value.
        facts: further (name, value).
        measures: of a metric.
        verdict: of the certificate, empty for a method.
        proved: whether it may rank.
    """

    label: str
    version: str
    group: str
    about: str
    options: list[tuple[str, str]]
    facts: list[tuple[str, str]]
    measures: list[Measured]
    verdict: str
    proved: bool


def metric_cards(results: Results) -> list[Card]:
    """A card a label, by family and name."""
    checks = _checks(results.root)
    cards = []
    for label, same in _by_label(results, "metric").items():
        metric, facts = same[0].cell.metric, same[0].facts
        proved = (metric.name, metric.version) in results.certified
        passed, total = checks.get((metric.name, metric.version), (0, 0))
        verdict = f"{passed} of {total} checks passed" if total else "no certificate knows this version"
        seeds = ", ".join(map(str, sorted({each.cell.seed for each in same})))
        devices = ", ".join(sorted({each.cell.device for each in same if each.cell.device}))
        measures = [_measured(measure) for measure in _stated(facts["measures"], proved)]
        further = [("seed of all draws", seeds), *([("device", devices)] if devices else [])]
        cards.append(_card(label, "metric", same, str(facts["family"]), further, measures, verdict, proved))
    return sorted(cards, key=lambda card: (card.group, card.label))


def method_cards(results: Results) -> list[Card]:
    """A card a label, methods first, by name."""
    cards = []
    for label, same in _by_label(results, "method").items():
        facts = same[0].facts
        stated = facts.get("method", {})
        words = {
            "class_agnostic": "does not depend on the class",
            "has_baseline": "accounts for f(x) − f(baseline)",
            "stochastic": "draws random numbers",
            "needs_gradient": "differentiates the model",
        }
        passes = stated.get("passes")
        further = [("properties", ", ".join(text for name, text in words.items() if stated.get(name)) or "none stated")]
        further += [("passes an image", "depends on image or model" if passes is None else f"{passes:g}")]
        further += [("cut to a budget of", f"{facts['budget']:g} passes an image")] if facts.get("budget") else []
        cards.append(_card(label, "method", same, str(facts["role"]), further, [], "", True))
    return sorted(cards, key=lambda card: (card.group != "method", card.group, card.label))


def _by_label(results: Results, axis: str) -> dict[str, list[Scored]]:
    found: dict[str, list[Scored]] = {}
    for record in results.scored:
        found.setdefault(results.label(record.cell, axis), []).append(record)
    return found


def _card(
    label: str,
    axis: str,
    same: Iterable[Scored],
    group: str,
    facts: list[tuple[str, str]],
    measures: list[Measured],
    verdict: str,
    proved: bool,
) -> Card:
    choices = [getattr(record.cell, axis) for record in same]
    options: dict[str, dict[str, None]] = {}
    for choice in choices:
        params = flat(choice.params)
        for name in params:
            options.setdefault(name, {})[written(params, name)] = None
    versions = ", ".join(dict.fromkeys(choice.version for choice in choices))
    target = str(next(iter(same)).facts.get("build", {}).get(axis, {}).get("_target_", ""))
    listed = [(name, " or ".join(text or "(empty)" for text in options[name])) for name in sorted(options)]
    return Card(label, versions, group, _about(target), listed, facts, measures, verdict, proved)


def _about(target: str) -> str:
    """The first paragraph of what the source of a class of the project says of it; nothing is imported."""
    found = re.fullmatch(r"(methods|metrics)\.(\w+)\.(\w+)", target)
    path = _SOURCES / found[1] / f"{found[2]}.py" if found else None
    if not found or path is None or not path.is_file():
        return ""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == found[3]:
            paragraph = (ast.get_docstring(node) or "").split("\n\n")[0]
            return " ".join(paragraph.split())
    return ""


def _stated(measures: Iterable[Mapping[str, Any]], proved: bool) -> Iterable[Mapping[str, Any]]:
    return measures if proved else [{**measure, "ranked": False} for measure in measures]


def _measured(measure: Mapping[str, Any]) -> Measured:
    low, high = measure.get("range") or (-math.inf, math.inf)
    left = "(−∞" if low == -math.inf else f"[{low:g}".replace("-", "−")
    right = "∞)" if high == math.inf else f"{high:g}]".replace("-", "−")
    null = measure.get("null")
    better = {True: "higher is better", False: "lower is better"}.get(measure["higher_is_better"], "describes")
    return Measured(
        name=str(measure["name"]),
        direction=better,
        range=f"{left}, {right}",
        null="" if null is None else f"{null:g}",
        unit=str(measure["unit"]),
        use="ranks methods" if measure["ranked"] else "does not rank",
    )


def _checks(root: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """By (name, version) how many checks of the certificates passed, and of how many."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for path in [*sorted(root.glob("certificate*.json")), SHIPPED]:
        if path.exists():
            for name, entry in json.loads(path.read_text(encoding="utf-8"))["metrics"].items():
                passed = sum(bool(check["passed"]) for check in entry["checks"])
                found[name, str(entry["version"])] = passed, len(entry["checks"])
    return found


def environments(results: Results) -> list[dict[str, str]]:
    """What records were computed with, a row each different one, with how many records and from when to when."""
    found: dict[tuple[str, ...], list[str]] = {}
    for record in results.scored:
        stated = record.facts["environment"]
        settings = {name: value for name, value in stated.get("settings", {}).items() if name != "chunk"}
        key = (*(str(stated.get(name) or "unknown") for name in _ENVIRONMENT), _settings(settings))
        found.setdefault(key, []).append(str(stated.get("created", "")))
    return [
        dict(zip((*_ENVIRONMENT, "settings"), key, strict=True))
        | {"records": str(len(created)), "from": min(created), "until": max(created)}
        for key, created in sorted(found.items(), key=lambda item: -len(item[1]))
    ]


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}".lower() for name, value in sorted(settings.items()))


def counts(results: Results, found: Iterable[Board]) -> tuple[list[str], list[tuple[Board, list[int]]]]:
    """The statuses that there are, in words, and how many cells of each table have them; columns of n/a count too."""
    there = [status for status in _STATUSES if (results.summary["status"] == status).any()]
    rows = [(board, [int((board.table.cells["status"] == status).sum()) for status in there]) for board in found]
    return [_STATUSES[status] for status in there], rows


def effort(results: Results) -> str:
    """What all records together took to score, in words."""
    seconds = sum(float(record.facts.get("seconds") or 0) for record in results.scored)
    passes = sum(int(record.facts.get(name) or 0) for record in results.scored for name in ("forwards", "backwards"))
    minutes = seconds / 60
    longer = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
    time = f"{seconds:.0f} seconds" if minutes < 2 else longer
    return f"Scoring took {time} and {passes:,} passes of an image."
