"""`spikefold verify`: proof that what runs is what was trained, and checks of proofs that others made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikefold.deploy.cli_options import (
    AttentionOption,
    CheckpointOption,
    DataOption,
    FromOption,
    JsonOption,
    LimitOption,
    NetArgument,
    StepsOption,
    print_json,
    with_dialect,
)
from spikefold.deploy.progress import progress


def verify(
    net: NetArgument,
    dialect: FromOption = None,
    checkpoint: CheckpointOption = None,
    data: DataOption = "saccade-mnist",
    attention: AttentionOption = "static",
    time_steps: StepsOption = None,
    file: Annotated[
        Path | None, typer.Option(help="The .nir made of NET, in the mode it has; without it, NET is lowered here.")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="A certificate.json that somebody made of the .nir NET and of DATA: check all it says."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Held-out samples to compare on.")] = 32,
    lava_samples: Annotated[int, typer.Option(help="How many of them Lava runs; 0 leaves Lava out.")] = 4,
    time_limit: LimitOption = 600.0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for verification.json, layers.csv and, with --file, certificate.json."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that what runs is what was trained; exit code 1 if it is not.

    Four kinds of error, layer by layer, never in one number: folding (float rounding), lowering attention, quantising,
    and torch against ONNX against Lava against the file (0).
    """
    if certificate is not None:
        _recheck(net, certificate, data, lava_samples, time_limit, as_json)
        return
    from spikefold.deploy.commands import verify_net
    from spikefold.deploy.verify_report import summary_lines

    with progress(as_json) as report:
        result = verify_net(
            with_dialect(net, dialect), checkpoint, data, attention, time_steps, file, samples, lava_samples,
            time_limit, out, report,
        )  # fmt: skip
    if as_json:
        print_json(result.to_dict())
    else:
        for line in summary_lines(result):
            typer.echo(line)
    if not result.passed:
        raise typer.Exit(1)


def _recheck(
    net: str, certificate: Path, data: str, lava_samples: int, time_limit: float, as_json: bool
) -> None:  # fmt: skip
    from spikefold.deploy.commands import recheck_file

    with progress(as_json) as report:
        said, wrong = recheck_file(net, certificate, data, lava_samples, time_limit, report)
    if as_json:
        print_json({"holds": not wrong, "does_not_hold": wrong, "certificate": said.to_dict()})
    else:
        for line in wrong:
            typer.echo(f"does not hold: {line}")
        if not wrong:
            typer.echo(
                f"holds: {said.net} ({said.attention}), {said.samples} samples of {said.data}: the same net, clips and "
                "trace, and no difference on any backend here"
            )
    if wrong:
        raise typer.Exit(1)
