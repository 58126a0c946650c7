"""Who may import whom: read from the source, so that no import has to be run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BOTTOM = {"protocols", "errors", "randomness", "passes", "maps", "cells", "baselines", "imputation", "units", "sharing"}
"""Shared primitives below methods and metrics; they import nothing of ours but each other."""

OTHERS = {"attention_flow": ("scipy",), "zennit_lrp": ("zennit",), "shap_explainers": ("shap",)}
"""Methods that run the code of another library, inside a function: two adapters, and a solver of scipy's."""

HEAVY = {"torch", "timm", "torchvision", "wandb"}
LIGHT = {"choices", "leaderboard", "frames", "tables", "statistics", "records", "cells", "errors", "__init__"} | {
    *("mixing", "selection", "provenance", "latex", "html_table"),
    *("ranking", "agreement", "variance", "report", "interruption", "places"),
    *("compare", "comparison", "comparison_tables", "verdicts", "merge", "manifest", "integrity"),
    *("plugins", "truth", "truth_page", "fractions"),
}
"""Help, listings and tables start in less than a second."""

SOURCES = sorted(path for folder in ("benchmark", "methods", "metrics") for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path, inside_functions: bool = True) -> set[str]:
    """Dotted names of the modules that `path` imports, `a.b` for `from a import b` too."""
    tree = ast.parse(path.read_text())
    skipped = set() if inside_functions else _deferred(tree)
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _deferred(tree: ast.AST) -> set[int]:
    """Nodes that do not run at import: inside functions and `if TYPE_CHECKING`."""
    blocks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
    ]
    return {id(inner) for block in blocks for inner in ast.walk(block)}


def own(path: Path) -> tuple[str, str]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0], parts[1]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards(path: Path) -> None:
    package, module = own(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top not in ("benchmark", "methods", "metrics"):
            continue
        inner = rest.split(".")[0]
        if package == "benchmark":
            assert top == "benchmark", f"benchmark imports {name}: conf is the only register"
            if module in BOTTOM:
                assert inner in BOTTOM, f"{module} is at the bottom and imports {name}"
        else:
            assert top in ("benchmark", package), f"{package} imports {name}"
            assert top != "benchmark" or inner in BOTTOM, f"{package} reaches above the bottom layer: {name}"
            # SRG is by definition the difference of two other metrics.
            composed = (package, module) == ("metrics", "srg")
            assert top == "benchmark" or inner.startswith("_") or composed, f"{package}/{module} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_plugins_need_torch_alone(path: Path) -> None:
    package, module = own(path)
    outside = {name.split(".")[0] for name in imports(path)} - {"benchmark", "methods", "metrics"}
    if package != "benchmark":
        import sys

        allowed = {"torch", "scipy", "pynvml", "PIL"} if package == "metrics" else {"torch", *OTHERS.get(module, ())}
        at_import = {name.split(".")[0] for name in imports(path, inside_functions=False)}
        assert package == "metrics" or not at_import & set(OTHERS.get(module, ())), "imported where it is used alone"
        assert outside - set(sys.stdlib_module_names) <= allowed
    assert "wandb" not in outside or path.stem == "tracking"
    assert not outside & {"captum", "quantus", "pytest"}


@pytest.mark.parametrize("path", [p for p in SOURCES if own(p)[0] == "benchmark" and own(p)[1] in LIGHT])
def test_tables_and_help_import_nothing_slow(path: Path) -> None:
    at_import = imports(path, inside_functions=False)
    assert not {name.split(".")[0] for name in at_import} & HEAVY
    reached = {name.split(".")[1] for name in at_import if name.startswith("benchmark.")}
    modules = {p.stem for p in (ROOT / "benchmark").glob("*.py")}
    assert reached & modules <= LIGHT
