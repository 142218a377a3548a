"""The command line: from a trained checkpoint to files, spikes and joules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spikefold.deploy import completion
from spikefold.deploy.cache_command import app as cache_app
from spikefold.deploy.cli_options import (
    ALL_HARDWARE,
    AttentionOption,
    CheckpointOption,
    DataOption,
    FromOption,
    HardwareOption,
    IntegerNetArgument,
    JsonOption,
    LimitOption,
    NetArgument,
    SamplesOption,
    StepsOption,
    print_json,
    with_dialect,
)
from spikefold.deploy.command_line import App, run
from spikefold.deploy.compare_command import compare as compare_command
from spikefold.deploy.compare_command import show_rows
from spikefold.deploy.hardware_command import hardware as hardware_command
from spikefold.deploy.map_command import map_ as map_command
from spikefold.deploy.progress import progress as _progress
from spikefold.deploy.progress import shows_progress
from spikefold.deploy.sweep_command import sweep as sweep_command
from spikefold.deploy.verify_command import verify as verify_command

app = App(
    help="Make trained attention SNNs deployable: fold, quantise, export, run bit for bit, count, price, compare.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.command()
def train(
    net: Annotated[
        str,
        typer.Argument(
            help="A network's name, such as plain, asa, fsta or fsta-resnet20.", autocompletion=completion.networks
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="saccade-mnist, or recordings on disk: nmnist:FOLDER, cifar10-dvs,size=64:FOLDER, ...",
            autocompletion=completion.data,
        ),
    ] = "saccade-mnist",
    recipe: Annotated[
        str,
        typer.Option(
            help="spikefold, or that of a paper, such as fsta-gesture; any other word lists them all.",
            autocompletion=completion.recipes,
        ),
    ] = "spikefold",
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training clips; without it, the recipe's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the network, such as width=8; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the .safetensors goes.")] = Path("net.safetensors"),
    as_json: JsonOption = False,
) -> None:
    """Train a net on event data and write a checkpoint that cannot carry code.

    The epoch is chosen on validation samples; the test samples are run once, at the end.
    """
    from dataclasses import asdict

    from spikefold.models import train_checkpoint
    from spikefold.models.registry import parse_options

    shown = shows_progress(as_json)
    meta = train_checkpoint(net, data, epochs, seed, out, shown, parse_options(net, option or []), recipe)
    if as_json:
        print_json({"out": str(out), **asdict(meta)})
    else:
        accuracy = ", ".join(f"{split} {value:.1%}" for split, value in meta.accuracy.items())
        typer.echo(f"{out}: {meta.model}, epoch {meta.best_epoch} of {meta.epochs}, accuracy {accuracy}")


@app.command()
def export(
    net: NetArgument,
    dialect: FromOption = None,
    checkpoint: CheckpointOption = None,
    data: DataOption = "saccade-mnist",
    attention: AttentionOption = "static",
    time_steps: StepsOption = None,
    sample: Annotated[
        str | None, typer.Option(help="Shape of one step, such as 2x34x34, in place of DATA: random events of it.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Training samples to calibrate on.")] = 128,
    threshold_levels: Annotated[
        int | None, typer.Option(help="Most thresholds a layer may have, such as Loihi's 16 a core; default: any.")
    ] = None,
    nir_dialect: Annotated[
        Literal["spikefold", "portable"],
        typer.Option(help="portable: nodes that snnTorch, Norse, SpikingJelly and sinabs read alike."),
    ] = "spikefold",
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Portable, lava-dl: replace what they lack, and say what it costs.")
    ] = False,
    lava_dl: Annotated[
        bool, typer.Option("--lava-dl", help="Write a .net too, which lava-dl's netx runs with the same spikes.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Where the files go, without suffix; default NET-MODE.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fold, lower attention, quantise, and write .nir, .onnx and, without a computed gate, .step.onnx.

    DATA must be training samples: gates and weight scales are calibrated on them. The .nir is complete: every other
    command runs from it alone.
    """
    from spikefold.deploy.commands import export_net

    with _progress(as_json) as report:
        result = export_net(
            with_dialect(net, dialect), checkpoint, data, attention, time_steps, samples, threshold_levels,
            nir_dialect, approximate, out, report, sample, lava_dl,
        )  # fmt: skip
    if as_json:
        print_json(result)
    else:
        for kind, path in result["files"].items():
            typer.echo(f"{kind}: {path}")
        typer.echo(result["summary"])
        for line in (*result["portable"], *result["lava_dl"]):
            typer.echo(line)
        for layer in result["threshold_palette"]:
            typer.echo(
                f"{layer['name']}: {layer['levels_before']} -> {layer['levels']} thresholds, changed by "
                f"{layer['mean_change']:.2%} on average, {layer['largest_change']:.2%} at most; "
                f"{layer['spikes_differ'] / layer['neuron_steps']:.2%} of neuron-steps differ on training samples"
            )


@app.command()
def finetune(
    net: NetArgument,
    dialect: FromOption = None,
    checkpoint: CheckpointOption = None,
    mode: AttentionOption = "static",
    bits: Annotated[int, typer.Option(help="Bits of a weight.")] = 8,
    data: DataOption = "saccade-mnist",
    epochs: Annotated[int, typer.Option(help="Passes over the training clips.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of order and augmentation.")] = 0,
    samples: Annotated[int, typer.Option(help="Training samples to calibrate on.")] = 128,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest rate, in units of a layer's largest weight; default 0.002.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the .nir goes, .onnx beside it; default NET-MODE-tuned.nir.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the integers of a lowered net, so that what lowering and quantising lost is won back.

    What is trained is, bit for bit, what is deployed. DATA must be training samples; an .npz keeps a fifth of them to
    choose the epoch. Test samples, where the data have them, are run once, at the end.
    """
    from spikefold.deploy.finetune import finetune_net

    report = (lambda line: typer.echo(line, err=True)) if shows_progress(as_json) else None
    net = with_dialect(net, dialect)
    made = finetune_net(net, checkpoint, data, mode, bits, epochs, seed, samples, learning_rate, out, report)
    if as_json:
        print_json(made)
        return
    for kind, path in made["files"].items():
        typer.echo(f"{kind}: {path}")
    typer.echo(f"attention {made['attention']}, epoch {made['best_epoch']} of {epochs}")
    for form, splits in made["accuracy"].items():
        typer.echo(f"{form}: " + ", ".join(f"{split} {accuracy:.1%}" for split, accuracy in splits.items()))


@app.command()
def simulate(
    file: IntegerNetArgument,
    data: DataOption = "saccade-mnist",
    backend: Annotated[
        Literal["fast", "onnx", "lava", "torch", "reference"],
        typer.Option(help="fast is for whole test sets, lava Lava's CPU simulation. All give the same bits."),
    ] = "fast",
    samples: SamplesOption = None,
    time_limit: LimitOption = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Run a deployed net on test samples and count its spikes."""
    from spikefold.deploy.commands import simulate_file

    with _progress(as_json) as report:
        result, table = simulate_file(file, data, backend, samples, time_limit, report)
    if as_json:
        print_json(result)
        return
    from spikefold.deploy.tables import print_table

    print_table(table)
    accuracy = "no labels" if result["accuracy"] is None else f"accuracy {result['accuracy']:.1%}"
    typer.echo(f"{result['samples']} samples on {backend}: {accuracy}, {result['seconds']:.1f} s")


app.command("verify")(verify_command)


@app.command()
def energy(
    file: IntegerNetArgument,
    data: DataOption = "saccade-mnist",
    hardware: HardwareOption = ALL_HARDWARE,
    samples: SamplesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a deployed net, count what it did, and price the counts with sourced constants.

    Counts are counted; energies are counts times published or estimated constants, each with a low and a high.
    """
    from spikefold.deploy.commands import price_file
    from spikefold.deploy.tables import price_table, print_table

    with _progress(as_json) as report:
        prices = price_file(file, data, hardware, samples, report)
    if as_json:
        print_json({p.hardware: p.to_dict() for p in prices})
        return
    for price in prices:
        print_table(price_table(price))
        for note in (*price.fit_notes, *price.notes):
            typer.echo(f"  - {note}")


app.command("compare")(compare_command)
app.command("sweep")(sweep_command)
app.add_typer(cache_app, name="cache")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report, table, picture and files.")] = Path("demo-out"),
    quick: Annotated[bool, typer.Option("--quick", help="100 test digits instead of 1,000.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the main job on the shipped nets: plain, ASA and FSTA, static and dynamic, on every chip."""
    from spikefold.deploy.demo import run_demo

    with _progress(as_json) as report:
        rows = run_demo(out, quick, report)
    show_rows(rows, as_json)
    if not as_json:
        typer.echo(f"report.html, table.csv, table.json, accuracy-energy.png, .nir and .onnx files: {out}")


@app.command()
def models(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show one network, with options and what stands in the way.", autocompletion=completion.networks
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the networks that can be built by name: parameters, MACs, time coupling, deployment modes."""
    from spikefold.deploy.network_list import describe_networks, networks_table

    rows = describe_networks(name)
    if as_json:
        print_json(rows)
    elif name is None:
        from spikefold.deploy.tables import console

        console().print(networks_table(rows))
    else:
        for key, value in rows[0].items():
            typer.echo(f"{key}: {value}")


@app.command("import-checkpoint")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A state dict as the authors saved it (.pth, .pt, .tar, .safetensors).")],
    name: Annotated[
        str,
        typer.Option(
            "--as", help="A network with released weights; see `spikefold models`.", autocompletion=completion.networks
        ),
    ],
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the network where the file does not tell; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the .safetensors goes; default NAME.safetensors.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read an author's checkpoint under its own parameter names, running no code in it."""
    from spikefold.deploy.import_checkpoint import import_checkpoint as read
    from spikefold.models.registry import parse_options

    result = read(file, name, out or Path(f"{name}.safetensors"), parse_options(name, option or []))
    if as_json:
        print_json(result)
        return
    typer.echo(f"{result['out']}: {result['model']}, {result['tensors']} tensors of {result['repository']}")
    if result["aliases"]:
        typer.echo(f"{result['aliases']} names repeat another tensor")
    if result["dead"]:
        typer.echo(f"{len(result['dead'])} names that the released code never reads: {', '.join(result['dead'])}")


app.command("hardware")(hardware_command)
app.command("map")(map_command)


@app.command()
def info(
    file: Annotated[
        str | None,
        typer.Argument(
            help="A .nir, .net, .onnx or .safetensors file, or a shipped name.",
            autocompletion=completion.files_and_nets,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a file holds; without a file, versions, shipped nets and hardware."""
    from spikefold.deploy.info import describe

    result = describe(file)
    if as_json:
        print_json(result)
    else:
        for key, value in result.items():
            typer.echo(f"{key}: {value}")


@app.command()
def doctor(
    install_lava: Annotated[bool, typer.Option("--install-lava", help="Make an environment for Lava.")] = False,
    pip_args: Annotated[str, typer.Option(help="Extra arguments for pip, in one string.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Say what works in this installation, and mend it."""
    import shlex

    from spikefold.deploy.doctor import diagnose
    from spikefold.deploy.doctor import install_lava as install

    with _progress(as_json) as report:
        if install_lava:
            install(shlex.split(pip_args), report)
        report("checking, with a tiny run on Lava")
        checks = diagnose()
    if as_json:
        print_json([vars(c) for c in checks])
    else:
        for check in checks:
            mark = "ok     " if check.ok else "missing" if check.optional else "BROKEN "
            typer.echo(f"{mark} {check.name}: {check.detail}{'' if check.ok else '. To mend it: ' + check.remedy}")
    if any(not c.ok and not c.optional for c in checks):
        raise typer.Exit(1)


def main() -> None:
    """Entry point of ``spikefold``."""
    run(app)
