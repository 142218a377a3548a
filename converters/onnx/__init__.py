"""The integer net as exact, portable ONNX graphs."""

from spikefold.converters.onnx.clip_graph import to_onnx_clip
from spikefold.converters.onnx.model import save_onnx
from spikefold.converters.onnx.step_graph import has_step_form, to_onnx_step

__all__ = ["has_step_form", "save_onnx", "to_onnx_clip", "to_onnx_step"]
