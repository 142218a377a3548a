"""Arguments and options that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spikefold.deploy import completion
from spikefold.errors import InputError

NetArgument = Annotated[
    str,
    typer.Argument(
        help="A shipped net (see `spikefold info`), a .safetensors checkpoint, package.module:builder, or a .nir of "
        "another program, with --from; `export` takes a .net of lava-dl as well.",
        autocompletion=completion.nets,
    ),
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Whose meaning a foreign .nir has: nir, snntorch, norse, spikingjelly, sinabs-single-spike, ...; its step "
        "as norse,dt=1e-4.",
        autocompletion=completion.dialects,
    ),
]
DataOption = Annotated[
    str,
    typer.Option(
        help="saccade-mnist; nmnist, dvs128-gesture or cifar10-dvs as NAME:FOLDER; or an .npz with frames and labels.",
        autocompletion=completion.data,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
CheckpointOption = Annotated[str | None, typer.Option(help="Weights for package.module:builder (.pt, .safetensors).")]
CheckpointsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint", help="Weights for package.module:builder; repeated, those of the first builder, the second, ..."
    ),
]
StepsOption = Annotated[int | None, typer.Option(help="T of the clips, handed to a builder that takes time_steps.")]
AttentionOption = Annotated[
    Literal["static", "scheduled", "causal", "dynamic"],
    typer.Option(
        help="static: the gate's calibrated mean, folded away. scheduled: that, and a factor a step. causal: computed "
        "in integers from the steps up to now. dynamic: computed per clip in integers."
    ),
]
AttentionsOption = Annotated[
    list[str],
    typer.Option(help="A mode to compare, as `export` knows them; repeatable.", autocompletion=completion.modes),
]
IntegerNetArgument = Annotated[
    Path,
    typer.Argument(
        help="A .nir that `spikefold export` wrote, or a .net of lava-dl.", autocompletion=completion.integer_nets
    ),
]
SamplesOption = Annotated[int | None, typer.Option(help="Use only the first so many samples.")]
HardwareOption = Annotated[
    list[str],
    typer.Option(help="loihi1, loihi2, cmos45, or a YAML of yours; repeatable.", autocompletion=completion.hardware),
]
LimitOption = Annotated[float, typer.Option(help="Seconds after which a Lava run is ended.")]
ALL_HARDWARE = ["loihi1", "loihi2", "cmos45"]


def with_dialect(net: str, dialect: str | None) -> str:
    """The name of a net for `spikefold.deploy.sources.find_net` where its dialect is given apart."""
    if dialect is None:
        return net
    if not net.endswith(".nir"):
        raise InputError(f"--from {dialect}: {net} is no .nir file; only those have a dialect")
    return f"{net}@{dialect}"


def print_json(value: Any) -> None:
    """Print JSON on stdout, where ``--json`` promises nothing else."""
    typer.echo(json.dumps(value, indent=1, default=str))
