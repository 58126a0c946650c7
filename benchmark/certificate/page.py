"""certificate.md: metrics x subjects, the axioms of methods, degraded and gaming explainers, every comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_TITLE = """# Certificate

Every metric, tried on models so small that the right answer is a formula. `python -m benchmark.certify` makes this page
again, in less than two minutes and without a download; its exit code is 1 if anything fails. A metric that is not
here, or failed, or has another version, is shown as `uncertified` and ranks nothing."""


def page(found: Mapping[str, Any]) -> str:
    """certificate.md: the matrix, what holds for methods, the checks of the checks, every comparison."""
    lines = [_TITLE, "", *_matrix(found["metrics"]), "", *_axioms(found["methods"]), ""]
    if "degraded" in found:
        lines += [*_degraded(found["degraded"]), "", *_gaming(found["gaming"]), ""]
    lines += ["## Every check", ""]
    for name, entry in found["metrics"].items():
        lines += [f"### {name} (version {entry['version']})", ""]
        lines += ["| subject | what must hold | expected | measured | tolerance | |", "|:--|:--|--:|--:|--:|:-:|"]
        for check in entry["checks"]:
            cells = [check["subject"], check["claim"], *(check[key] for key in ("expected", "measured", "tolerance"))]
            lines.append(_line([*cells, "✓" if check["passed"] else "✗"]))
        lines += ["" if entry["checks"] else "No check: uncertified.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _matrix(metrics: Mapping[str, Any]) -> list[str]:
    tried = [{check["subject"] for check in entry["checks"]} for entry in metrics.values()]
    subjects = sorted(set().union(*tried), key=lambda subject: (-sum(subject in each for each in tried), subject))
    total = sum(len(entry["checks"]) for entry in metrics.values())
    passed = sum(check["passed"] for entry in metrics.values() for check in entry["checks"])
    lines = [
        f"## Metrics: {passed} of {total} checks pass",
        "",
        "A cell says how many checks of the metric on that subject pass; below, each with what it expects and found.",
        "",
        _line(["metric", "certified", *subjects]),
        "|:--|:-:|" + ":-:|" * len(subjects),
    ]
    family = ""
    for name, entry in sorted(metrics.items(), key=lambda item: (item[1]["family"], item[0])):
        if entry["family"] != family:
            family = entry["family"]
            lines.append(_line([f"*{family}*", *[""] * (len(subjects) + 1)]))
        row = []
        for subject in subjects:
            outcomes = [check["passed"] for check in entry["checks"] if check["subject"] == subject]
            row.append(
                (f"✓ {len(outcomes)}" if all(outcomes) else f"✗ {sum(outcomes)}/{len(outcomes)}") * bool(outcomes)
            )
        lines.append(_line([name, "✓" if entry["passed"] else "✗", *row]))
    return lines


def _axioms(methods: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys(axiom for row in methods.values() for axiom in row))
    lines = [
        "## Methods: axioms",
        "",
        "Largest violation, relative to the map: ✓ or ✗ where theory promises the axiom, measured alone elsewhere. "
        "Completeness is promised up to the error of a finite number of integration steps.",
        "",
        _line(["method", *names]),
        "|:--|" + "--:|" * len(names),
    ]
    for method, row in methods.items():
        if not row:
            continue
        marks = {True: " ✓", False: " ✗"}
        cells = [
            _short(each["violation"]) + (marks[each["passed"]] if each["promised"] else "") for each in row.values()
        ]
        lines.append(_line([method, *cells]))
    if idle := [method for method, row in methods.items() if not row]:
        lines += ["", f"Without attention, which these networks do not have, there is no map by {', '.join(idle)}."]
    return lines


def _degraded(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        "## Degraded explainers",
        "",
        "The exact contributions of an additive model, from the baseline that the metric takes for absent, mixed with "
        "0, 10, ... 100 % noise. Kendall's τ between the order by score and the order by noise is 1 where every step "
        "towards noise costs score. The images are noise themselves, in which PIC finds no entropy to gain.",
        "",
        "| metric | τ | exact | 50 % noise | noise |",
        "|:--|--:|--:|--:|--:|",
        *(_line([row["metric"], _short(row["tau"]), *(_short(row["means"][at]) for at in (0, 5, 10))]) for row in rows),
    ]


def _gaming(columns: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names = list(next(iter(columns.values())))
    return [
        "## What gaming scores",
        "",
        "Mean over images of explainers that do not look at the model, beside the exact contributions. Where one of "
        "them does as well as `oracle`, the metric alone proves nothing. `–`: undefined.",
        "",
        _line(["metric", *columns]),
        "|:--|" + "--:|" * len(columns),
        *(_line([name, *(_short(column[name]) for column in columns.values())]) for name in names),
    ]


def _short(value: float | str) -> str:
    return "–" if isinstance(value, str) else f"{value:.3g}"


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
