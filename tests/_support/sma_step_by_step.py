"""SMA/AZO-SNN and its networks written out step by step in numpy, on weights by the authors' names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

NAMES = Path(__file__).parents[1] / "models" / "released_names"
SCALES = (0, 1, 2, 3)
_NORM_AFTER_SMA = re.compile(r"(block\d\.2\.0|residual_function\.3\.bn)\.running_")


def released_shapes(name):
    """Shape of each tensor of a release."""
    lines = (line.split() for line in (NAMES / f"{name}.txt").read_text().splitlines())
    return {key: () if shape == "-" else tuple(map(int, shape.split(","))) for key, shape in lines}


def random_weights(shapes, seed=0):
    """A state dict with weights that keep every layer busy: neither silent nor saturated."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(7)
        elif len(shape) > 1:
            fan_in = int(np.prod(shape[1:]))
            weights[key] = torch.randn(shape, generator=generator) * 3.0 / fan_in**0.5
        else:
            drawn = torch.rand(shape, generator=generator)
            is_scale = key.endswith("weight") or key.endswith("running_var")
            weights[key] = drawn + 1.0 if is_scale else 0.8 * drawn - 0.1
            if _NORM_AFTER_SMA.search(key):  # a sum weighted by about 1/16 varies little
                weights[key] = weights[key] / 16.0
    return weights


def as_arrays(weights):
    return {key: value.double().numpy() for key, value in weights.items()}


@dataclass
class ByHand:
    """Computes with arrays ``[T, B, C, H, W]`` and keeps the spikes of every layer in the order of computation."""

    weights: dict
    spikes: list = field(default_factory=list)

    def lif(self, current, decay, gain, threshold, strict):
        fired = np.zeros_like(current)
        m = np.zeros_like(current[0])
        for t in range(current.shape[0]):
            m = decay * m + gain * current[t]
            fired[t] = m > threshold if strict else m >= threshold
            m = np.where(fired[t] == 1, 0.0, m)
        self.spikes.append(fired)
        return fired

    def event_lif(self, current):
        """Tau 2 with decaying input: v += (x - v) / 2."""
        return self.lif(current, 0.5, 0.5, 1.0, strict=False)

    def ms_lif(self, current):
        return self.lif(current, 0.25, 1.0, 0.5, strict=True)

    def conv(self, x, prefix, stride=1):
        weight, bias = self.weights[f"{prefix}weight"], self.weights.get(f"{prefix}bias")
        side = weight.shape[-1]
        pad = [(0, 0)] * 3 + [(side // 2, side // 2)] * 2
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad), (side, side), axis=(3, 4))
        windows = windows[:, :, :, ::stride, ::stride]
        out = np.moveaxis(np.tensordot(windows, weight, ((2, 5, 6), (1, 2, 3))), -1, 2)
        return out if bias is None else out + bias[:, None, None]

    def norm(self, x, prefix, training=False):
        w = {name: self.weights[prefix + name][:, None, None] for name in ("weight", "bias")}
        if training:
            mean, var = (f(x, axis=(0, 1, 3, 4), keepdims=True) for f in (np.mean, np.var))
        else:
            mean, var = (self.weights[prefix + name][:, None, None] for name in ("running_mean", "running_var"))
        return (x - mean) / np.sqrt(var + 1e-5) * w["weight"] + w["bias"]

    def linear(self, x, prefix):
        weight = self.weights[f"{prefix}weight"]
        return x @ weight.reshape(weight.shape[:2]).T + self.weights[f"{prefix}bias"]

    def sma(self, x, prefix="", form="spikes", ratios=None, training=False):
        """Equations 1 to 5 of SMA; with ``ratios`` = (RTR, RCR) and in training, AZO's replacement."""
        outputs = []
        for n in SCALES:
            branch = f"{prefix}S_Convs.{n}."
            inner = "bn.bn." if f"{branch}bn.bn.weight" in self.weights else "bn."
            current = self.norm(self.conv(x, f"{branch}conv."), branch + inner, training)
            outputs.append(self.event_lif(current) if form == "spikes" else np.maximum(current, 0.0))
        f = sum(outputs).mean((3, 4))
        T, B, C = f.shape
        channel_weights, time_weights = np.empty((4, T, B, C)), np.empty((4, T, B))
        for b in range(B):
            for t in range(T):
                h = np.maximum(self.linear(f[t, b], f"{prefix}C_before_attention_conv."), 0.0)
                logits = [self.linear(h, f"{prefix}C_after_attention_convs.{n}.") for n in SCALES]
                channel_weights[:, t, b] = np.exp(logits) / np.exp(logits).sum(0)
            q = f[:, b].mean(1)
            h = np.maximum(self.linear(q, f"{prefix}T_before_attention_conv."), 0.0)
            logits = [self.linear(h, f"{prefix}T_after_attention_convs.{n}.") for n in SCALES]
            time_weights[:, :, b] = np.exp(logits) / np.exp(logits).sum(0)
        y = np.zeros_like(x)
        for n in SCALES:
            weighted = np.empty_like(x)
            for t, b, c in np.ndindex(T, B, C):
                weighted[t, b, c] = time_weights[n, t, b] * channel_weights[n, t, b, c] * outputs[n][t, b, c]
            if training and ratios is not None:
                weighted = zoned_out(weighted, time_weights[n], channel_weights[n], ratios)
            y += weighted
        return y

    def vgg8(self, x):
        """The event network in evaluation mode."""
        for block in range(1, 6):
            name = f"block{block}."
            x = self.conv(x, f"{name}0.0.")
            if f"{name}1.C_before_attention_conv.weight" in self.weights:
                x = self.norm(self.sma(x, f"{name}1."), f"{name}2.0.")
            else:
                first = f"{name}0.1." if f"{name}0.1.weight" in self.weights else f"{name}1.0."
                x = self.norm(x, first)
            x = self.event_lif(x)
            T, B, C, H, W = x.shape
            x = x[..., : H // 2 * 2, : W // 2 * 2].reshape(T, B, C, H // 2, 2, W // 2, 2).max((4, 6))
        flat = adaptive_mean(x, 3).reshape(*x.shape[:2], -1)
        for number in (2, 5):
            flat = self.event_lif(self.linear(flat, f"others.{number}."))
        return self.linear(flat, "others.8.").mean(0)

    def ms_resnet18(self, x, shortcut="membrane", form="relu"):
        """The ImageNet network in evaluation mode."""
        x = self.norm(self.conv(x, "conv1.0.", 2), "conv1.1.bn.")
        for stage in range(2, 6):
            for block in range(2):
                name = f"conv{stage}_x.{block}."
                stride = 2 if block == 0 else 1
                s = self.ms_lif(x)
                r = self.conv(s, f"{name}residual_function.1.", stride)
                r = self.norm(self.sma(r, f"{name}residual_function.2.", form), f"{name}residual_function.3.bn.")
                r = self.conv(self.ms_lif(r), f"{name}residual_function.5.")
                r = self.norm(r, f"{name}residual_function.6.bn.")
                if block == 0:
                    x = self.conv(x if shortcut == "membrane" else s, f"{name}shortcut.0.", stride)
                    x = self.norm(x, f"{name}shortcut.1.bn.")
                x = x + r
        rates = self.ms_lif(x).mean((3, 4)).mean(0)
        return self.linear(rates, "fc.")


def zoned_out(weighted, time_weights, channel_weights, ratios):
    """AZO on one scale: ``weighted`` is ``[T, B, C, H, W]``, the weights ``[T, B]`` and ``[T, B, C]``."""
    T, B, C = channel_weights.shape
    chosen_steps = np.argsort(time_weights.sum(1))[: T // ratios[0]]
    total = np.zeros(C)
    for t in chosen_steps:
        for b in range(B):
            total += channel_weights[t, b]
    chosen_channels = np.argsort(total)[: C // ratios[1]]
    replaced = weighted.copy()
    for t in chosen_steps:
        for c in chosen_channels:
            if t > 0:
                replaced[t, :, c] = weighted[t - 1, :, c]
    return replaced


def adaptive_mean(x, side):
    """Mean over the windows from floor(i n / side) to ceil((i + 1) n / side) of each axis of n pixels."""
    out = np.empty((*x.shape[:3], side, side))
    for i, j in np.ndindex(side, side):
        (top, bottom), (left, right) = (
            (at * n // side, -(-(at + 1) * n // side)) for at, n in zip((i, j), x.shape[3:], strict=True)
        )
        out[..., i, j] = x[..., top:bottom, left:right].mean((3, 4))
    return out


def spikes_of(network, neuron, x):
    """Output of a network and the spikes of its neurons in the order of computation."""
    kept = []
    hooks = [
        module.register_forward_hook(lambda _, __, out: kept.append(out.detach().numpy()))
        for module in network.modules()
        if isinstance(module, neuron)
    ]
    with torch.no_grad():
        out = network(x)
    for hook in hooks:
        hook.remove()
    return out.numpy(), kept


def differing(ours, by_hand):
    """How many spikes of two lists of layers differ; the lists must be alike, and every layer both fires and rests."""
    assert [a.shape for a in ours] == [b.shape for b in by_hand]
    assert all(0.005 < b.mean() < 0.995 for b in by_hand), [float(b.mean()) for b in by_hand]
    return sum(int((a != b).sum()) for a, b in zip(ours, by_hand, strict=True))
