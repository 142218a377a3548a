"""What a command shows while it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr that shows what happens now and for how long."""
    from spikefold.deploy.tables import console

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    shown = console(stderr=True)
    with Progress(*columns, console=shown, transient=True, disable=quiet or not shown.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def report(line: str) -> None:
            bar.update(task, description=line)
            if not shown.is_terminal and not quiet:
                shown.print(line)

        yield report
