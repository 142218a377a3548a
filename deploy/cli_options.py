"""Arguments and options that several commands share."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

NetArgument = Annotated[
    str,
    typer.Argument(help="A shipped net (see `spikefold info`), a .safetensors checkpoint, or package.module:builder."),
]
DataOption = Annotated[
    str,
    typer.Option(
        help="saccade-mnist; nmnist, dvs128-gesture or cifar10-dvs as NAME:FOLDER; or an .npz with frames and labels."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
CheckpointOption = Annotated[str | None, typer.Option(help="Weights for package.module:builder (.pt, .safetensors).")]
StepsOption = Annotated[int | None, typer.Option(help="T of the clips, handed to a builder that takes time_steps.")]
AttentionOption = Annotated[
    Literal["static", "scheduled", "causal", "dynamic"],
    typer.Option(
        help="static: the gate's calibrated mean, folded away. scheduled: that, and a factor a step. causal: computed "
        "in integers from the steps up to now. dynamic: computed per clip in integers."
    ),
]
AttentionsOption = Annotated[list[str], typer.Option(help="A mode to compare, as `export` knows them; repeatable.")]
SamplesOption = Annotated[int | None, typer.Option(help="Use only the first so many samples.")]
HardwareOption = Annotated[list[str], typer.Option(help="loihi1, loihi2, cmos45, or a YAML of yours; repeatable.")]
LimitOption = Annotated[float, typer.Option(help="Seconds after which a Lava run is ended.")]


def print_json(value: Any) -> None:
    """Print JSON on stdout, where ``--json`` promises nothing else."""
    typer.echo(json.dumps(value, indent=1, default=str))
