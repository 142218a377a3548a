"""The integer net as exact, portable ONNX graphs."""

from spikefold.converters.onnx.clip_graph import to_onnx_clip
from spikefold.converters.onnx.float_step import has_float_step_form, to_onnx_float_step
from spikefold.converters.onnx.model import save_onnx
from spikefold.converters.onnx.step_graph import has_step_form, to_onnx_step

__all__ = [
    "has_float_step_form",
    "has_step_form",
    "save_onnx",
    "to_onnx_clip",
    "to_onnx_float_step",
    "to_onnx_step",
]
