"""`spikefold sweep`: many variants, settings and chips on many workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikefold.deploy import completion
from spikefold.deploy.cli_options import (
    CheckpointsOption,
    DataOption,
    HardwareOption,
    JsonOption,
    SamplesOption,
    StepsOption,
    print_json,
)
from spikefold.deploy.progress import progress


def sweep(
    nets: Annotated[
        list[str],
        typer.Argument(
            help="Shipped names, checkpoints, package.module:builder, or .nir and .net files as they are.",
            autocompletion=completion.nets,
        ),
    ],
    checkpoint: CheckpointsOption = None,
    data: DataOption = "saccade-mnist",
    calibration: Annotated[str | None, typer.Option(help="Training .npz; needed when DATA is an .npz.")] = None,
    attention: Annotated[
        list[str], typer.Option(help="A mode, as `export` knows them; repeatable.", autocompletion=completion.modes)
    ] = ["static"],  # noqa: B006
    bits: Annotated[list[int], typer.Option(help="Bits of a weight; repeatable.")] = [8],  # noqa: B006
    threshold_levels: Annotated[
        list[int] | None, typer.Option(help="Most thresholds a layer may have; repeatable; default: any.")
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Draw the training samples that calibrate; repeatable; default: the first ones."),
    ] = None,
    hardware: HardwareOption = ["loihi1"],  # noqa: B006  # typer copies it
    time_steps: StepsOption = None,
    samples: SamplesOption = None,
    shard: Annotated[int, typer.Option(help="Test samples of one job.")] = 250,
    jobs: Annotated[int, typer.Option(help="Processes on this machine; -1: one a core.")] = -1,
    cluster: Annotated[
        str | None, typer.Option(help="Use a running Dask cluster instead, such as tcp://host:8786.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute everything, and keep nothing.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for sweep.json, sweep.csv and sweep.md.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run every net in every setting on test samples, and price it on every chip, on many workers.

    The table does not depend on how many there are. What a lost worker was doing is done again, and an interrupted
    sweep goes on where it was when the same command is given again.
    """
    from spikefold.deploy.sources import check_fit, find_data, find_nets, has_splits
    from spikefold.deploy.sweep import CALIBRATION_SAMPLES
    from spikefold.deploy.sweep import sweep as run_sweep
    from spikefold.deploy.sweep_table import markdown, plain_rows, write_tables
    from spikefold.errors import InputError
    from spikefold.files import made_folder

    with progress(as_json) as report:
        if out is not None:
            made_folder(out)  # before anything long is done
        report("loading")
        integers = (".nir", ".net")
        trained = iter(find_nets([n for n in nets if not n.endswith(integers)], checkpoint or [], time_steps))
        variants = [n if n.endswith(integers) else next(trained) for n in nets]
        test = find_data(data, "test", samples, time_steps)
        if test.labels is None:
            raise InputError(f"{data}: has no labels; comparing accuracies needs labels [N]")
        training = test.clips()[:, :0]
        to_lower = [v for v in variants if not isinstance(v, str)]
        if to_lower:
            if not has_splits(data) and calibration is None:
                raise InputError(
                    f"--data {data} holds the test samples: name training samples with --calibration x.npz"
                )
            limit = None if seed else CALIBRATION_SAMPLES
            training = find_data(calibration or data, "train", limit, time_steps).clips()
            for net in to_lower:
                check_fit(net, training, calibration or data)
        done = run_sweep(
            variants, training, test.clips(), test.labels, modes=attention, bits=bits,  # type: ignore[arg-type]
            threshold_levels=threshold_levels or (None,), seeds=seed or (None,), hardware=hardware, shard=shard,
            jobs=jobs, cluster=cluster, cache=not no_cache, report=report,
        )  # fmt: skip
        if out is not None:
            write_tables(done.rows, out)
    if as_json:
        print_json({"rows": plain_rows(done.rows), "computed": done.computed, "reused": done.reused})
        return
    for line in markdown(done.rows):
        typer.echo(line)
    typer.echo(f"{done.computed + done.reused} jobs: {done.computed} computed, {done.reused} from the cache")
