"""The same net in the frameworks that train such nets, for inference in float, and unrolled for ONNX Runtime.

Each is written as its makers would for speed: convolutions over all steps at once, neurons in the framework's own form.
They reset hard, to 0; Norse and SpikingJelly add ``input * (1 - decay)``, so their convolutions are scaled by it.
"""

from __future__ import annotations

from collections.abc import Callable

import norse.torch.functional.lif_box as norse
import numpy as np
import onnx
import onnxruntime
import snntorch
import torch
from _nets import DECAY, THRESHOLD, ConvNet
from onnx import TensorProto, helper, numpy_helper
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

Runner = Callable[[Tensor], Tensor]


class OverSteps(nn.Module):
    """Convolutions over all steps, neurons given by ``fire``: currents ``[T, B, ...]`` to spikes."""

    def __init__(self, net: ConvNet, fires: list[nn.Module], gain: float) -> None:
        super().__init__()
        self.convs, self.fires = nn.ModuleList(), nn.ModuleList(fires)
        for conv in net.convs:
            copy = nn.Conv2d(conv.in_channels, conv.out_channels, 3, conv.stride, 1)
            copy.load_state_dict({k: v * gain for k, v in conv.state_dict().items()})
            self.convs.append(copy)

    def forward(self, x: Tensor) -> Tensor:
        for conv, fire in zip(self.convs, self.fires, strict=True):
            x = fire(conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
        return x.flatten(2).mean(0)


class Plain(nn.Module):
    """Leaky neurons in plain torch."""

    def forward(self, x: Tensor) -> Tensor:
        v, spikes = torch.zeros_like(x[0]), []
        for current in x:
            v = DECAY * v + current
            fired = v > THRESHOLD
            v = v.masked_fill(fired, 0.0)
            spikes.append(fired)
        return torch.stack(spikes).to(x.dtype)


class SnnTorch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leaky = snntorch.Leaky(DECAY, THRESHOLD, reset_mechanism="zero", reset_delay=False)

    def forward(self, x: Tensor) -> Tensor:
        v, spikes = torch.zeros_like(x[0]), []
        for current in x:
            fired, v = self.leaky(current, v)
            spikes.append(fired)
        return torch.stack(spikes)


class Norse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = norse.LIFBoxParameters(
            tau_mem_inv=torch.as_tensor(1000 * (1 - DECAY)), v_th=torch.as_tensor(THRESHOLD)
        )

    def forward(self, x: Tensor) -> Tensor:
        state, spikes = norse.LIFBoxFeedForwardState(v=torch.zeros_like(x[0])), []
        for current in x:
            fired, state = norse.lif_box_feed_forward_step(current, state, self.p)
            spikes.append(fired)
        return torch.stack(spikes)


class Jelly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lif = neuron.LIFNode(1 / (1 - DECAY), True, THRESHOLD, 0.0, step_mode="m")

    def forward(self, x: Tensor) -> Tensor:
        self.lif.reset()
        return self.lif(x)


def frameworks(net: ConvNet) -> dict[str, nn.Module]:
    """The net in each framework."""
    n, scaled = len(net.convs), 1 / (1 - DECAY)
    made = {
        "torch": OverSteps(net, [Plain() for _ in range(n)], 1.0),
        "snnTorch": OverSteps(net, [SnnTorch() for _ in range(n)], 1.0),
        "SpikingJelly": OverSteps(net, [Jelly() for _ in range(n)], scaled),
        "Norse": OverSteps(net, [Norse() for _ in range(n)], scaled),
    }
    for module in made.values():
        functional.reset_net(module)
    return {name: module.eval() for name, module in made.items()}


def onnx_float(net: ConvNet, steps: int, batch: int, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """The float net for ONNX Runtime, its steps unrolled."""
    nodes, constants = [], {}

    def constant(name: str, value: object) -> str:
        constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def op(kind: str, out: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    decay, threshold = constant("decay", np.float32(DECAY)), constant("threshold", np.float32(THRESHOLD))
    zero = constant("zero", np.float32(0))
    x = "x"
    for n, conv in enumerate(net.convs):
        weight = constant(f"w{n}", conv.weight.detach().numpy())
        current = op("Conv", f"a{n}", x, weight, constant(f"b{n}", conv.bias.detach().numpy()),
                     strides=list(conv.stride), pads=[1, 1, 1, 1])  # fmt: skip
        parts = [f"a{n}_{t}" for t in range(steps)]
        nodes.append(helper.make_node("Split", [current], parts, axis=0, num_outputs=steps))
        v, spikes = "", []
        for t, part in enumerate(parts):
            held = op("Add", f"h{n}_{t}", op("Mul", f"d{n}_{t}", v, decay), part) if t else part
            fired = op("Greater", f"f{n}_{t}", held, threshold)
            v = op("Where", f"v{n}_{t}", fired, zero, held)
            spikes.append(op("Cast", f"s{n}_{t}", fired, to=TensorProto.FLOAT))
        x = op("Concat", f"x{n}", *spikes, axis=0)
    flat = op("Reshape", "flat", x, constant("shape", np.array([steps, batch, -1])))
    op("ReduceMean", "y", flat, constant("axes", np.array([0])), keepdims=0)
    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, [steps * batch, net.convs[0].in_channels, size, size])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, None])
    graph = helper.make_graph(nodes, "float", [port], [result], list(constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda frames: session.run(None, {"x": frames})[0]
