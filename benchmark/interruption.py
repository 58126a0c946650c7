"""What a command says when it is stopped by Ctrl-C."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


def interruptible(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """`main`, which says one sentence and returns 130 where Ctrl-C stops it; files are written whole or not at all."""

    @functools.wraps(main)
    def guarded(*arguments: Arguments.args, **options: Arguments.kwargs) -> int:
        try:
            return main(*arguments, **options)
        except KeyboardInterrupt:
            print("interrupted: every file that is there is whole; run the same command again", file=sys.stderr)
            return 130

    return guarded
