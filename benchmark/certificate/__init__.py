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
    """(name, version) of every metric whose checks all passed: ours as shipped, others by the certificates of `root`.

    A certificate of `root` says nothing of a metric that the shipped one knows, and a failure outweighs a pass.

    Raises:
        UserError: a file is there and is no certificate.
    """
    ours = _verdicts(SHIPPED) if SHIPPED.exists() else {}
    verdicts = dict(ours)
    for path in sorted(path.resolve() for path in Path(root).glob("certificate*.json")):
        for metric, passed in _verdicts(path).items():
            if metric[0] not in {name for name, _ in ours}:
                verdicts[metric] = passed and verdicts.get(metric, True)
    return {metric for metric, passed in verdicts.items() if passed}


def _verdicts(path: Path) -> dict[tuple[str, str], bool]:
    """Whether each (name, version) of a certificate passed: every check of it, and at least one."""
    try:
        metrics = json.loads(path.read_text())["metrics"]
        return {
            (str(name), str(entry["version"])): bool(entry["checks"])
            and all(each["passed"] for each in entry["checks"])
            for name, entry in metrics.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no certificate: {error}; python -m benchmark.certify makes one") from error
