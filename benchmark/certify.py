"""`python -m benchmark.certify`: every metric proves itself where the right answer is a formula."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.certificate.page import page
from benchmark.choices import choices
from benchmark.errors import UserError, unknown

if TYPE_CHECKING:
    from benchmark.certificate.checks import Certify, Check
    from benchmark.certificate.methods import Axiom

LEAST_TAU = 0.8
"""Of the order by score and the order by noise, for every ranked measure of faithfulness, localisation and truth."""
UNORDERED = frozenset({"pic.sic", "pic.aic"})
"""Images of noise, in which a picture's entropy says nothing."""


@dataclass(frozen=True)
class Proof:
    """What a metric was found to do.

    Attributes:
        name: of the metric in tables.
        version: of its definition.
        family: the heading it stands under.
        checks: every comparison; a metric with none has proved nothing.
    """

    name: str
    version: str
    family: str
    checks: list[Check]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


def prove(names: Sequence[str], further: Mapping[str, tuple[Certify, ...]] | None = None) -> list[Proof]:
    """The proofs of metrics of conf/metrics by name, and of classes `module.Class` that `further` has checks for."""
    from benchmark import plugins
    from benchmark.certificate import meta
    from benchmark.certificate.checks import build

    known = {**_checks(), **(further or {})}
    proofs = []
    for name in names:
        metric = build(name)
        title = plugins.title(name if "." not in name else "custom", metric)
        found = [check for certify in known.get(name, ()) for check in certify(name)]
        if found:
            found += meta.nulls(name)
        proofs.append(Proof(title, plugins.choose(title, metric).version, metric.family, found))
    return proofs


def _checks() -> dict[str, tuple[Certify, ...]]:
    """The checks of every metric, from the modules of `benchmark.certificate` that have some."""
    from benchmark import certificate

    modules = [importlib.import_module(f"{certificate.__name__}.{each.name}") for each in _modules(certificate)]
    return {name: checks for module in modules for name, checks in getattr(module, "CHECKS", {}).items()}


def _modules(package: Any) -> list[pkgutil.ModuleInfo]:
    return sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name)


def document(proofs: Sequence[Proof], axioms: Mapping[str, Sequence[Axiom]]) -> dict[str, Any]:
    """What goes into certificate.json: numbers rounded to six digits, so that machines agree on them."""
    metrics = {
        proof.name: {
            "version": proof.version,
            "family": proof.family,
            "passed": proof.passed,
            "checks": [
                {
                    "subject": check.subject,
                    "claim": check.claim,
                    "expected": _rounded(check.expected),
                    "measured": _rounded(check.measured),
                    "tolerance": _rounded(check.tolerance),
                    "passed": check.passed,
                }
                for check in proof.checks
            ],
        }
        for proof in proofs
    }
    methods = {
        name: {
            axiom.axiom: {
                "violation": _rounded(axiom.violation),
                "promised": axiom.promised,
                "passed": axiom.passed,
            }
            for axiom in tried
        }
        for name, tried in axioms.items()
    }
    return {"metrics": metrics, "methods": methods}


def _rounded(value: float) -> float | str:
    """Six digits; errors of rounding are 0, and what is no number is its name."""
    if value != value or abs(value) == float("inf"):
        return str(value)
    return 0.0 if abs(value) < 1e-11 else float(f"{value:.6g}")


def _everything(names: Sequence[str]) -> dict[str, Any]:
    """The whole certificate: metrics, axioms of methods, degraded explainers, gaming rows."""
    from benchmark.certificate import meta, methods
    from benchmark.certificate.checks import build

    found = document(prove(names), {name: methods.axioms(name) for name in methods.methods()})
    found["degraded"] = [
        {
            "metric": name if measure == name else f"{name}.{measure}",
            "tau": _rounded(tau),
            "means": [*map(_rounded, means)],
        }
        for name in names
        for measure, tau, means in meta.degraded(name)
    ]
    scored = [name for name in names if build(name).per == "image"]
    found["gaming"] = {
        title: {
            row.metric if measure == row.metric else f"{row.metric}.{measure}": _rounded(value)
            for row in rows
            for measure, value in row.values.items()
        }
        for title, rows in meta.gaming(scored)
    }
    return found


def own(modules: Sequence[str]) -> dict[str, tuple[Certify, ...]]:
    """The `CHECKS` of modules of the user's."""
    sys.path.insert(0, os.getcwd())
    found: dict[str, tuple[Certify, ...]] = {}
    for name in modules:
        try:
            found |= importlib.import_module(name).CHECKS
            if ours := [metric for metric in found if "." not in metric]:
                raise UserError(f"{name} has checks of {ours[0]}, which is no class of yours: expected module.Class")
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"{name} is no module with checks, CHECKS = {{'module.Class': (function, ...)}}: {error}"
            ) from None
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what fails and how much passes; write certificate.md and certificate.json unless a few are asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.certify",
        description="Try every metric on models whose right answer is a formula, write DIR/certificate.md and .json. "
        "Exit code 1 if a check fails.",
    )
    parser.add_argument("metrics", nargs="*", metavar="METRIC", help="these of conf/metrics alone, nothing is written")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument(
        "--checks",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module with the checks of metrics of your own",
    )
    options = parser.parse_args(arguments)
    # Before torch is imported: spinning beside a busy core is slow, and the profiler of memory logs to stderr.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    try:
        existing = [name for name in choices("metrics") if name != "custom"]
        for name in options.metrics:
            if name not in existing:
                raise UserError(unknown("metric ", name, existing))
        return _certify(options, existing)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _certify(options: argparse.Namespace, existing: Sequence[str]) -> int:
    import torch

    torch.set_num_threads(1)  # the models are too small to share
    if options.checks:
        checks = own(options.checks)
        found = document(prove(list(checks), checks), {})
        _write(options.results, f"certificate-{'-'.join(options.checks)}", found)
    elif options.metrics:
        found = document(prove(options.metrics), {})
    else:
        found = _everything(existing)
        _write(options.results, "certificate", found)
    return _report(found)


def _write(folder: Path, name: str, found: Mapping[str, Any]) -> None:
    from benchmark.records import write_whole

    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    paths = folder / f"{name}.json", folder / f"{name}.md"
    for path, content in zip(paths, (text.encode(), page(found).encode()), strict=True):
        write_whole(path, partial(Path.write_bytes, data=content))
        print(f"written: {path}")


def _report(found: Mapping[str, Any]) -> int:
    """One line a failure, one at the end."""
    failures = []
    checks = [(name, check) for name, entry in found["metrics"].items() for check in entry["checks"]]
    for name, check in checks:
        if not check["passed"]:
            told = f"expected {check['expected']} ± {check['tolerance']}, measured {check['measured']}"
            failures.append(f"{name} on {check['subject']}: {check['claim']}: {told}")
    failures += [f"{name}: no check, uncertified" for name, entry in found["metrics"].items() if not entry["checks"]]
    for method, row in found["methods"].items():
        broken = [f"{axiom} is violated by {each['violation']}" for axiom, each in row.items() if not each["passed"]]
        failures += [f"method {method}: {text}" for text in broken]
    for row in found.get("degraded", ()):
        if row["metric"] not in UNORDERED and not (isinstance(row["tau"], float) and row["tau"] >= LEAST_TAU):
            failures.append(f"{row['metric']}: degraded explainers have tau {row['tau']}, expected {LEAST_TAU} or more")
    for failure in failures:
        print(f"FAIL {failure}", file=sys.stderr)
    metrics = found["metrics"].values()
    passed = sum(check["passed"] for _, check in checks)
    certified = sum(entry["passed"] for entry in metrics)
    print(f"{passed} of {len(checks)} checks pass; {certified} of {len(metrics)} metrics are certified")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
