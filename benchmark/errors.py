"""The two ways in which something that was asked for cannot be had, and the sentence for a name that is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST_LISTED = 30


class UserError(Exception):
    """A mistake that the user can mend: one sentence that says what was wrong, what was expected and what exists."""


class NotApplicable(Exception):
    """Raised by a method or metric that has no meaning for this model or data; the reason is filed and shown."""


def unknown(what: str, name: str, existing: Iterable[str]) -> str:
    """The sentence for a name that does not exist: did you mean, and what there is, shortened where it is a lot."""
    names = list(existing)
    if not names:
        return f"{what}{name} does not exist (there are none)"
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    shown = names if len(names) <= _MOST_LISTED else [*names[:5], "..."]
    return f"{what}{name} does not exist{hint} (there are: {', '.join(shown)})"
