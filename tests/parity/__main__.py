"""Write the table of docs/parity.md: `python -m tests.parity docs/parity.md`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from tests.parity.pairs import Pair, difference, subject

# Libraries that cannot lie beside this project, because they call a package of theirs `benchmark`.
sys.path.append(str(Path(sys.prefix, "peers")))

FAMILIES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem not in ("pairs", "speed"))


def pairs() -> Iterator[Pair]:
    """Every pair of every family."""
    for family in FAMILIES:
        yield from importlib.import_module(f"tests.parity.{family}").PAIRS


def measured(pair: Pair, name: str) -> float:
    """How far our map is from the reference's on the subject called `name`."""
    model, batch, layer = subject(name)
    return difference(pair.ours(layer).attribute(model, batch), pair.theirs(model, batch, layer))


def page() -> str:
    """The table of docs/parity.md."""
    lines = [
        "# Parity with reference implementations",
        "",
        "Each method beside the same method of another library: largest difference of two maps over the largest value,",
        "the worse of two images, in float64, on networks with random weights and statistics (64 x 64 pixels).",
        "Made by `python -m tests.parity docs/parity.md`; `tests/test_parity.py` holds every row to its tolerance.",
        "",
        "| method | reference | network | difference | tolerance | remark |",
        "|---|---|---|---|---|---|",
    ]
    for pair in pairs():
        library = pair.reference.split()[0]
        reference = pair.reference.replace(library, f"{library} {version(library)}", 1)
        for name in pair.subjects:
            found = f"{measured(pair, name):.1e}"
            lines.append(f"| {pair.method} | {reference} | {name} | {found} | {pair.tolerance:.0e} | {pair.note} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
