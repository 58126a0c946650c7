"""What is running and how long it will take: two bars on a terminal, a line a job everywhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


class Progress:
    """Progress of a sweep of `jobs` jobs on stderr: an outer bar over jobs, an inner bar over batches of what runs."""

    def __init__(self, jobs: int) -> None:
        self.jobs, self.done = jobs, 0
        self.started = time.monotonic()
        self.bars = sys.stderr.isatty()
        self.outer = tqdm(total=jobs, disable=not self.bars, unit="job", position=0, leave=False, dynamic_ncols=True)
        self.title = ""

    @contextmanager
    def job(self, title: str) -> Iterator[list[str]]:
        """Around one job; what its body appends to the list ends the line that is printed for it."""
        self.title, started, notes = title, time.monotonic(), list[str]()
        self.outer.set_description(title)
        try:
            yield notes
        finally:
            self.done += 1
            elapsed = time.monotonic() - self.started
            left = elapsed / self.done * (self.jobs - self.done)
            self.outer.update()
            self.say(
                f"[{self.done:{len(str(self.jobs))}}/{self.jobs}] {title:<48} {', '.join(notes)}"
                f"  {time.monotonic() - started:.1f} s, {_duration(left)} left"
            )

    def track(self, items: Iterable[Item], label: str) -> Iterator[Item]:
        """`items`, with an inner bar called `label` while they are worked on."""
        total = len(items) if isinstance(items, Sized) else None
        yield from tqdm(
            items, desc=f"  {label}", total=total, disable=not self.bars, unit="batch", position=1, leave=False
        )

    def say(self, line: str) -> None:
        """One line that no bar runs over, in the job's log too."""
        logging.getLogger(__name__).info(line)
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        self.outer.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
