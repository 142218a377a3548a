"""`spikefold map`: a net on the cores of a chip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from spikefold.deploy import completion
from spikefold.deploy.cli_options import IntegerNetArgument, JsonOption, print_json
from spikefold.deploy.progress import progress


def map_(
    file: IntegerNetArgument,
    hardware: Annotated[
        str, typer.Option(help="loihi1, loihi2, speck, or a YAML of yours.", autocompletion=completion.hardware)
    ] = "loihi1",
    out: Annotated[
        Path | None, typer.Option(help="Folder for mapping.json and, of cores on a mesh, mapping.png.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a deployed net onto the cores of a chip, and say what each layer takes; exit code 1 if a rule is broken.

    Layers are split over cores, on as many chips as they need; on a chip of one core a layer, such as speck, each is
    held against the limits of a core. All rules that the net breaks are listed at once.
    """
    from spikefold.deploy.mapping.layout import Mapping
    from spikefold.deploy.mapping.mapper import map_net
    from spikefold.deploy.mapping_tables import draw_mapping, layer_cores_table, layers_table, summary_lines
    from spikefold.deploy.tables import print_table
    from spikefold.files import atomic_path, made_folder

    with progress(as_json) as report:
        report("mapping")
        mapping = map_net(file, hardware)
        if out is not None:
            report("writing")
            with atomic_path(made_folder(out) / "mapping.json") as temporary:
                temporary.write_text(json.dumps(mapping.to_dict()))
            if isinstance(mapping, Mapping):
                draw_mapping(mapping, out / "mapping.png")
    if as_json:
        print_json(mapping.to_dict())
    else:
        print_table(layers_table(mapping) if isinstance(mapping, Mapping) else layer_cores_table(mapping))
        for line in summary_lines(mapping):
            typer.echo(line)
    if mapping.violations:
        raise typer.Exit(1)
