"""What a command says when it is stopped by Ctrl-C, or when nobody reads on what it prints."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


def interruptible(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """`main`, which says one sentence and returns 130 where Ctrl-C stops it; files are written whole or not at all.

    Where the reader of its output is gone (`| head -1`) it says nothing and returns 141, as a command that the signal
    of a broken pipe ends.
    """

    @functools.wraps(main)
    def guarded(*arguments: Arguments.args, **options: Arguments.kwargs) -> int:
        try:
            try:
                return main(*arguments, **options)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            # What is left to print has nowhere to go, and must not be tried again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt:
            print("interrupted: every file that is there is whole; run the same command again", file=sys.stderr)
            return 130

    return guarded
