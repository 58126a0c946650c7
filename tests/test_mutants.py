"""The certificate has teeth: every defect of `mutants.py` turns it red, and the page in docs says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmark import choices

HERE = Path(__file__).resolve().parent


def test_every_defect_is_caught(tmp_path: Path) -> None:
    page = tmp_path / "mutants.md"
    # A process of its own: each mutant is a fork, and this one may have threads.
    run = subprocess.run([sys.executable, str(HERE / "mutants.py"), str(page)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    committed = (HERE.parent / "docs" / "mutants.md").read_text()
    assert first_columns(page.read_text()) == first_columns(committed), "python tests/mutants.py docs/mutants.md"


def first_columns(page: str) -> list[list[str]]:
    """Defect and where it was seen: how many checks fail is not promised."""
    return [line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| ")]


def test_mutants_run_metrics_that_exist() -> None:
    sys.path.insert(0, str(HERE))
    try:
        from mutants import MUTANTS
    finally:
        sys.path.remove(str(HERE))
    assert {name for mutant in MUTANTS for name in mutant.metrics} <= set(choices.choices("metrics"))
    assert len({mutant.defect for mutant in MUTANTS}) == len(MUTANTS) >= 30
