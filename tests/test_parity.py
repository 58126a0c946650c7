"""Every method beside the reference implementations of other libraries, on the same model and images."""

from __future__ import annotations

import pytest

from tests.parity.__main__ import measured, pairs
from tests.parity.pairs import Pair

CASES = [(pair, name) for pair in pairs() for name in pair.subjects]


@pytest.mark.parametrize(("pair", "name"), CASES, ids=lambda case: case if isinstance(case, str) else case.method)
def test_parity(pair: Pair, name: str) -> None:
    assert measured(pair, name) <= pair.tolerance
