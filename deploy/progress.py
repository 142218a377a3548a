"""What a command shows while it works: what it does now, and of long work how far it is, how fast and how long yet.

All of it goes to stderr. Bars are drawn on a terminal only; elsewhere each step is a plain line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from spikefold.work import Advance, listening

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Show no progress within the block, as ``--quiet`` asks for."""
    before = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(before)


def shows_progress(as_json: bool) -> bool:
    """Whether a command may show what it does: neither ``--quiet`` nor ``--json`` was given."""
    return not (as_json or _quiet.get())


class _Bar(BarColumn):
    """A bar where it is known how much there is to do."""

    def render(self, task: Task) -> Text:  # type: ignore[override]  # both can be drawn
        return Text() if task.total is None else super().render(task)  # type: ignore[return-value]


class _Rate(ProgressColumn):
    """How far work is, how fast it goes, and how long it takes yet."""

    def render(self, task: Task) -> Text:
        return Text(rate_text(task), style="progress.remaining")


def rate_text(task: Task) -> str:
    """``"120 of 1,000 samples, 35.2/s, 0:25 left"``; without the rate until it is known, empty without a total."""
    if task.total is None:
        return ""
    text = f"{int(task.completed):,} of {int(task.total):,} {task.fields['unit']}"
    if not task.speed or task.time_remaining is None:
        return text
    minutes, seconds = divmod(int(task.time_remaining), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    return f"{text}, {task.speed:,.3g}/s, {left} left"


@contextmanager
def progress(as_json: bool = False) -> Iterator[Callable[[str], None]]:
    """Show what happens until the block ends; what it gets is called with a line on what happens next.

    Long work within it (`spikefold.work`) gets a bar of its own.
    """
    from spikefold.deploy.tables import console

    shown, allowed = console(stderr=True), shows_progress(as_json)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), _Bar(), _Rate()
    with Progress(*columns, console=shown, transient=True, disable=not (allowed and shown.is_terminal)) as bars:
        now = bars.add_task("starting", total=None)

        def report(line: str) -> None:
            bars.update(now, description=line)
            if allowed and not shown.is_terminal:
                shown.print(line)

        @contextmanager
        def measure(total: int, unit: str) -> Iterator[Advance]:
            task = bars.add_task("", total=total, unit=unit)
            try:
                yield lambda done: bars.advance(task, done)
            finally:
                bars.remove_task(task)

        with listening(measure):
            yield report
