"""The fast engine beside float inference of the same net in the frameworks, compiled and not, and in ONNX Runtime.

    python benchmarks/against_frameworks.py

Three convolutions 2-16-32-32 with strides 1-2-2, 2 x 32 x 32, T = 8, batch 16. The floor is the
three float convolutions alone, on the real inputs of each, already float and in memory that is warm.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import torch
from _nets import conv_net, events, lowered, rates
from _peers import frameworks, onnx_float
from _timing import interleaved, medians, table, write
from torch import Tensor
from torch.nn import functional

from spikefold.converters.fast import FastEngine
from spikefold.converters.onnx import to_onnx_clip
from spikefold.deploy.onnx_runner import ClipRunner

CHANNELS, STRIDES, SIZE, STEPS, BATCH, ROUNDS = (2, 16, 32, 32), (1, 2, 2), 32, 8, 16, 60
COMPILE_S, MEASURE_S = 80.0, 45.0
OURS, FLOOR = "spikefold fast (exact)", "the convolutions alone"


def quiet(run: Callable[[], object]) -> Callable[[], object]:
    """The same without gradients."""

    def without() -> object:
        with torch.inference_mode():
            return run()

    return without


def floor(inputs: list[Tensor], convs: torch.nn.ModuleList, layout: torch.memory_format) -> Callable[[], object]:
    """The convolutions on given inputs, four samples of all steps at a time: their results stay in the cache."""
    few = [[part.contiguous(memory_format=layout) for part in x.split(4 * STEPS)] for x in inputs]
    weights = [conv.weight.detach().contiguous(memory_format=layout) for conv in convs]

    def run() -> None:
        for parts, weight, conv in zip(few, weights, convs, strict=True):
            for part in parts:
                functional.conv2d(part, weight, conv.bias, conv.stride, 1)

    return quiet(run)


def main() -> None:
    net = conv_net(CHANNELS, STRIDES, SIZE)
    shape = (CHANNELS[0], SIZE, SIZE)
    clips = events(STEPS, BATCH, shape, 1)
    graph = lowered(net, shape, STEPS)
    engine, runner = FastEngine(graph), ClipRunner(to_onnx_clip(graph))
    x = torch.from_numpy(clips).float()
    inputs, layer_input = [], x
    with torch.inference_mode():
        wanted = net(x)
        for layer, fire in zip(net.layers, net.fires, strict=True):
            inputs.append(layer_input.flatten(0, 1))
            layer_input = fire(layer(layer_input))
    frames = x.flatten(0, 1).numpy()
    unrolled = onnx_float(net, STEPS, BATCH, SIZE)
    contestants: dict[str, Callable[[], object]] = {
        OURS: lambda: engine.run(clips),
        FLOOR: floor(inputs, net.convs, torch.contiguous_format),
        f"{FLOOR}, channels last": floor(inputs, net.convs, torch.channels_last),
        "ONNX Runtime, float, unrolled": lambda: unrolled(frames),
        "ONNX Runtime, our exact graph": lambda: runner.run(clips),
    }
    notes: list[str] = []
    compiling: list[float] = []
    agree = {"ONNX Runtime, float, unrolled": torch.from_numpy(unrolled(frames))}
    for name, module in frameworks(net).items():
        contestants[name] = quiet(lambda module=module: module(x))
        with torch.inference_mode():
            agree[name] = module(x)
        begin = time.perf_counter()
        if sum(compiling) > COMPILE_S:
            notes.append(f"{name} left out, as the others took so long")
            continue
        try:
            compiled = torch.compile(module)
            quiet(lambda compiled=compiled: compiled(x))()
            contestants[f"{name}, torch.compile"] = quiet(lambda compiled=compiled: compiled(x))
            compiling.append(time.perf_counter() - begin)
            notes.append(f"{name} {compiling[-1]:.0f} s")
        except Exception as error:  # what a compiler cannot do is a finding
            notes.append(f"{name} fails ({type(error).__name__})")
    for name, found in agree.items():
        off = float((found - wanted).abs().mean())  # float rounding flips a spike here and there
        assert off < 1e-3, f"{name} computes another net: its rates are {off} off"  # noqa: S101
    median = medians(interleaved(contestants, ROUNDS, MEASURE_S))
    peers = {k: v for k, v in median.items() if k != OURS and not k.startswith(FLOOR) and "exact" not in k}
    fastest, ground = min(peers, key=peers.__getitem__), min(v for k, v in median.items() if k.startswith(FLOOR))
    rows = [
        [name, f"{BATCH / s:,.0f}", f"{s / BATCH * 1e6:.0f}", f"{s / median[OURS]:.2f}"]
        for name, s in sorted(median.items(), key=lambda item: item[1])
    ]
    write(
        "frameworks",
        "Float inference of the same net",
        [
            "Convolutions 2-16-32-32 (3x3, strides 1-2-2), 2 x 32 x 32, T = 8, batch 16.",
            rates(engine.run(clips).spike_counts, graph, STEPS),
            "",
            *table(["", "samples a second", "microseconds a sample", "times as long as fast"], rows),
            "",
            f"**{peers[fastest] / median[OURS]:.1f} times as fast as the fastest peer** ({fastest}; goal 2); "
            f"**{median[OURS] / ground:.2f} times the convolution floor** (goal 1.5 at most).",
            f"First call of torch.compile: {', '.join(notes)}.",
        ],
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
