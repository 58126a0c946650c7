"""A cell of the sweep, model x dataset x method x metric, and the key that names its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Choice:
    """What was chosen on one axis: its name, every option with its resolved value, the version of its definition."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    version: str = "1"


@dataclass(frozen=True)
class Cell:
    """One number to compute: four choices, the seed of all draws, and the device where the number is a timing."""

    model: Choice
    dataset: Choice
    method: Choice
    metric: Choice
    seed: int = 0
    device: str | None = None

    @property
    def key(self) -> str:
        """SHA-256 over the canonical JSON of the cell: any change of an option or version is another cell."""
        return digest(asdict(self))

    @property
    def title(self) -> str:
        return "/".join((self.model.name, self.dataset.name, self.method.name, self.metric.name))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cell:
        """The inverse of `dataclasses.asdict`."""
        axes = {axis: Choice(**data[axis]) for axis in ("model", "dataset", "method", "metric")}
        return cls(**axes, seed=data["seed"], device=data["device"])


def digest(data: Any) -> str:
    """SHA-256 in hex over canonical JSON, so that equal data has one digest everywhere."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
