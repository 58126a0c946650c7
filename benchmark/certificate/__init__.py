"""The certificate: what every metric must find where the right answer is a formula, and who has proved it.

Reading it needs neither torch nor the metrics, so tables may ask.
"""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path

from benchmark.errors import UserError

SHIPPED = Path(__file__).resolve().parent.parent.parent / "results" / "certificate.json"
"""The certificate of the project's own metrics, made by `python -m benchmark.certify` and committed."""


def certified(root: Path) -> Set[tuple[str, str]]:
    """(name, version) of every metric whose checks all passed, in the shipped certificate or in those of `root`.

    Raises:
        UserError: a file is there and is no certificate.
    """
    found: set[tuple[str, str]] = set()
    shipped = [SHIPPED] if SHIPPED.exists() else []
    for path in dict.fromkeys([*shipped, *(path.resolve() for path in Path(root).glob("certificate*.json"))]):
        try:
            metrics = json.loads(path.read_text())["metrics"]
            found |= {(name, entry["version"]) for name, entry in metrics.items() if entry["passed"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no certificate: {error}; python -m benchmark.certify makes one") from error
    return found
