"""What all commands have in common: ``--quiet``, ``--strict``, and errors in one line."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from spikefold.deploy.progress import quietly
from spikefold.errors import SpikefoldError, SpikefoldWarning

_QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors, and nothing else.")]
_STRICT = Annotated[bool, typer.Option("--strict", help="Take every warning for an error.")]


class App(typer.Typer):
    """A Typer whose commands all take ``--quiet`` and ``--strict``."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Register a command; see `typer.Typer.command`."""
        register = super().command(name, **options)

        def decorate(function: Any) -> Any:
            register(with_settings(function))
            return function

        return decorate


def with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """The same command with ``--quiet`` and ``--strict``."""
    plain = inspect.signature(function, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("quiet", _QUIET), ("strict", _STRICT))
    ]

    @functools.wraps(function)
    def command(*arguments: Any, quiet: bool, strict: bool, **named: Any) -> None:
        with warnings.catch_warnings(), quietly(quiet):
            if strict or quiet:
                warnings.simplefilter("error" if strict else "ignore", SpikefoldWarning)
            function(*arguments, **named)

    parameters = [*plain.parameters.values(), *added]
    command.__signature__ = plain.replace(parameters=parameters)  # type: ignore[attr-defined]  # Typer reads both
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def run(app: typer.Typer) -> None:
    """Run a command; an error, or with ``--strict`` a warning, ends it with one line and exit code 2."""
    warnings.showwarning = _warn  # type: ignore[assignment]  # Python passes all arguments by position
    try:
        sys.exit(app(standalone_mode=False))
    except SpikefoldError as error:
        _end(str(error))
    except SpikefoldWarning as warning:
        _end(f"{warning} (a warning, which --strict takes for an error)")
    except typer.Abort:
        _end("interrupted")
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's own, whose classes older versions take from click
            raise
        message, context = error.format_message(), getattr(error, "ctx", None)
        if context is not None and message:
            message = f"{message.rstrip('.')}; see {context.command_path} --help"
        if message:  # none where the help was shown instead
            _end(message)
        sys.exit(2)


def _end(reason: str) -> None:
    typer.echo(f"error: {_one_line(reason)}", err=True)
    sys.exit(2)


def _warn(message: Warning | str, category: type[Warning], *_: Any) -> None:
    if issubclass(category, SpikefoldWarning):
        typer.echo(f"warning: {_one_line(str(message))}", err=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())
