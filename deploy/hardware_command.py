"""The command ``spikefold hardware``."""

from __future__ import annotations

from typing import Annotated

import typer

from spikefold.deploy import completion
from spikefold.deploy.cli_options import JsonOption, print_json


def hardware(
    name: Annotated[
        str | None,
        typer.Argument(help="A shipped description, or the path of a YAML file.", autocompletion=completion.hardware),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the hardware descriptions, or show every number of one: range, unit, grade, source.

    Grades: P primary paper, C published source code, V vendor, D derived in the file, M measured and reported by
    others, U unconfirmed. A YAML of yours is checked and shown the same way.
    """
    from spikefold.deploy.hardware import load_hardware
    from spikefold.deploy.hardware_list import describe_hardware, leaf_table, list_hardware, list_table
    from spikefold.deploy.tables import console

    if name is None:
        rows = list_hardware()
        if as_json:
            print_json(rows)
        else:
            console().print(list_table(rows))
        return
    loaded = load_hardware(name)
    if as_json:
        print_json(describe_hardware(loaded))
        return
    console().print(leaf_table(loaded))
    typer.echo(loaded.note)
