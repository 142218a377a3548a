"""`spikefold cache`: what is kept, and how to get rid of it."""

from __future__ import annotations

import typer

from spikefold.deploy.cli_options import JsonOption, print_json
from spikefold.deploy.command_line import App, with_settings

app = App(help="Show what sweeps keep so that nothing is computed twice; `clear` removes it.")


@app.callback(invoke_without_command=True)
@with_settings
def show(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show what sweeps keep so that nothing is computed twice; `clear` removes it.

    The folder is that of the environment variable SPIKEFOLD_CACHE, or spikefold/results in XDG_CACHE_HOME or ~/.cache.
    """
    if context.invoked_subcommand is not None:
        return
    from spikefold.deploy.cache import Cache
    from spikefold.deploy.words import size

    cache = Cache()
    held = cache.held()
    if as_json:
        print_json(
            {"folder": str(cache.folder), "kinds": {h.kind: {"entries": h.entries, "bytes": h.bytes} for h in held}}
        )
        return
    typer.echo(f"{cache.folder}: {sum(h.entries for h in held)} entries, {size(sum(h.bytes for h in held))}")
    for one in held:
        typer.echo(f"{one.kind}: {one.entries} entries, {size(one.bytes)}")


@app.command()
def clear() -> None:
    """Remove everything that sweeps keep."""
    from spikefold.deploy.cache import Cache

    cache = Cache()
    typer.echo(f"{cache.folder}: {cache.clear()} entries removed")
