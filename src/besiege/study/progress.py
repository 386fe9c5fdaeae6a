"""What tells of its progress, and a display of it on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

PAUSE = 5.0  # seconds between two plain lines


class Event(NamedTuple):
    """A batch is finished (or, at first, none yet), or something was found out."""

    cell: str  # its hash; "" before the first
    title: str  # defense, recipe, threat
    done: int  # examples x cells
    total: int  # 0 where it is not known yet
    seconds: float  # since the run began


class Display:
    """Shows the events that it is called with: a bar in a terminal, elsewhere a line now and then.

    quiet: seconds from the beginning in which nothing is shown.
    """

    def __init__(self, stream: TextIO, quiet: float = 0.0) -> None:
        self.stream, self.quiet = stream, quiet
        self.spoke = -PAUSE
        self.bar = _bar(stream) if stream.isatty() else None

    def __enter__(self) -> Display:
        self.began = time.monotonic()
        if self.quiet:
            return self
        if self.bar:
            self.bar.start()
        else:
            print("loading ...", file=self.stream, flush=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        now = time.monotonic()
        if now - self.began < self.quiet:
            return
        if self.bar:
            self.bar.start()
            self.bar.update(
                self.bar.task_ids[0],
                description=event.title,
                completed=event.done,
                total=event.total or None,
            )
        elif now - self.spoke >= PAUSE or event.done == event.total > 0:
            self.spoke = now
            count = f"{event.done}/{event.total}  " if event.total else ""
            print(f"{count}{event.seconds:.0f} s  {event.title}", file=self.stream, flush=True)


def _bar(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    title = TextColumn("{task.description}", table_column=Column(no_wrap=False))
    columns = title, BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(file=stream))
    bar.add_task("loading", total=None)
    return bar
