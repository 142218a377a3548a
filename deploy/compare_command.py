"""`spikefold compare`: variants, modes and chips in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikefold.deploy import completion
from spikefold.deploy.cli_options import (
    ALL_HARDWARE,
    AttentionsOption,
    CheckpointsOption,
    DataOption,
    FromOption,
    HardwareOption,
    JsonOption,
    SamplesOption,
    StepsOption,
    print_json,
    with_dialect,
)
from spikefold.deploy.progress import progress

if TYPE_CHECKING:
    from spikefold.deploy.comparison import Row


def compare(
    nets: Annotated[
        list[str],
        typer.Argument(help="Shipped names, checkpoints, or package.module:builder.", autocompletion=completion.nets),
    ],
    dialect: FromOption = None,
    checkpoint: CheckpointsOption = None,
    data: DataOption = "saccade-mnist",
    calibration: Annotated[str | None, typer.Option(help="Training .npz; needed when DATA is an .npz.")] = None,
    attention: AttentionsOption = ["static", "dynamic"],  # noqa: B006  # typer copies it
    time_steps: StepsOption = None,
    hardware: HardwareOption = ALL_HARDWARE,
    samples: SamplesOption = None,
    lava_samples: Annotated[int, typer.Option(help="Samples that Lava runs too; 0 leaves Lava out.")] = 4,
    threshold_levels: Annotated[
        int | None,
        typer.Option(help="Beside nets with more thresholds a layer, rows with at most so many, such as a core's 16."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for table.csv, table.json and the picture.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="An .html file that holds all of it in charts and tables and loads nothing.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for its figures as PNG and SVG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put variants and attention modes side by side: accuracy, spikes, operations, energy.

    Beside the mapped counts stand NeuroBench's of the module as written, and why they differ.
    """
    from spikefold.deploy.commands import compare_nets

    with progress(as_json) as say:
        rows = compare_nets(
            [with_dialect(n, dialect) if n.endswith(".nir") else n for n in nets], checkpoint or [], data, calibration,
            attention, time_steps, hardware, samples, lava_samples, threshold_levels, out, report, figures,
            say,
        )  # fmt: skip
    show_rows(rows, as_json)
    if not as_json:
        for what, path in (
            ("table.csv, table.json, accuracy-energy.png", out),
            ("report", report),
            ("figures", figures),
        ):
            if path is not None:
                typer.echo(f"{what}: {path}")


def show_rows(rows: Sequence[Row], as_json: bool) -> None:
    """Print a comparison: its tables, the answers and what to know besides."""
    if as_json:
        from spikefold.deploy.compare import plain_rows

        print_json(plain_rows(rows))
        return
    from spikefold.deploy.tables import answers, comparison_table, differences, neurobench_table, notes, print_table

    print_table(comparison_table(rows))
    if any(row.neurobench is not None for row in rows):
        print_table(neurobench_table(rows))
    for line in (*differences(rows), *answers(rows), *(f"  - {note}" for note in notes(rows))):
        typer.echo(line)
