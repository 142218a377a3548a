"""The fast engine beside SANA-FE, which simulates every message of a chip: one small net, neuron by neuron.

    python benchmarks/against_sanafe.py

SANA-FE answers another question (what a chip would take), so this is what a user waits, not a race of equals.
Building its net is not in the time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from _nets import conv_net, events, lowered
from _timing import interleaved, medians, table, write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "_support"))

from on_sanafe import Place, build, free_run
from spikefold.converters.fast import FastEngine
from spikefold.deploy.hardware import load_hardware
from spikefold.deploy.sanafe_export import sanafe_architecture

CHANNELS, STRIDES, SIZE, STEPS, SAMPLES = (2, 4, 4, 4), (1, 2, 2), 16, 8, 64


def main() -> None:
    if find_spec("sanafe") is None:
        write("sanafe", "SANA-FE", ["Left out: it is not installed (extra `outside`)."])
        return
    import sanafe

    shape = (CHANNELS[0], SIZE, SIZE)
    graph = lowered(conv_net(CHANNELS, STRIDES, SIZE), shape, STEPS)
    clips = events(STEPS, SAMPLES, shape, 1)
    one = clips[:, :1].astype(np.int64)
    chip = load_hardware("loihi1")
    sizes = {graph.input.name: int(np.prod(shape)), **{n.name: n.size for n in graph.neurons}}
    cores = [
        Place(c, r, k) for c in range(chip.mesh.columns.number) for r in range(chip.mesh.rows.number) for k in range(4)
    ]
    places = {name: [cores[i * len(cores) // n] for i in range(n)] for name, n in sizes.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "chip.yaml")
        file.write_text(sanafe_architecture(chip), encoding="utf-8")
        seconds = []
        for _ in range(3):
            made = build(sanafe, graph, one, places, chip, str(file))
            begin = time.perf_counter()
            found = made.sim(STEPS, timing_model="simple")
            seconds.append(time.perf_counter() - begin)
    theirs = float(np.median(seconds))
    wanted = sum(int(s.sum()) for s in free_run(graph, one).spikes.values())
    engine = FastEngine(graph)
    fast = medians(interleaved({"fast": lambda: engine.run(clips)}, 20))["fast"] / SAMPLES
    write(
        "sanafe",
        "SANA-FE",
        [
            f"Convolutions {'-'.join(map(str, CHANNELS))}, {' x '.join(map(str, shape))}, T = {STEPS}: "
            f"{sum(n.size for n in graph.neurons):,} neurons.",
            "",
            *table(
                ["", "milliseconds a sample"],
                [["spikefold fast", f"{fast * 1e3:.3f}"], ["SANA-FE, timing model simple", f"{theirs * 1e3:.1f}"]],
            ),
            "",
            f"**{theirs / fast:,.0f} times as fast as SANA-FE**, which also counts energy and time of the chip. "
            f"Its neurons sent {found['neurons_fired'] - int(one.sum()):,} spikes, those of our reference {wanted:,}, "
            "both with all layers at once, each hearing what the one before sent a step ago, as SANA-FE runs them.",
        ],
    )


if __name__ == "__main__":
    main()
