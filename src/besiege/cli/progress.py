"""Progress on stderr: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from besiege.study.progress import Event

PAUSE = 5.0  # seconds between two plain lines


class Display:
    """Shows the events that it is called with."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.spoke = -PAUSE
        self.bar: Progress | None = None
        if stream.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(file=stream),
            )
            self.task = self.bar.add_task("loading", total=None)

    def __enter__(self) -> Display:
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
        if self.bar:
            self.bar.update(
                self.task, description=event.title, completed=event.done, total=event.total
            )
        elif time.monotonic() - self.spoke >= PAUSE or event.done == event.total:
            self.spoke = time.monotonic()
            print(
                f"{event.done}/{event.total}  {event.seconds:.0f} s  {event.title}",
                file=self.stream,
                flush=True,
            )
