"""Make trained attention SNNs deployable: capture, lower, run, price, compare.

Names are imported when they are first used, so that ``import spikefold`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spikefold.converters.calibrate import calibrate
    from spikefold.converters.capture import capture
    from spikefold.converters.dialects import import_nir
    from spikefold.converters.fixed_point_graph import FixedPointGraph
    from spikefold.converters.lava_dl import load_lava_dl, save_lava_dl
    from spikefold.converters.lower import lower
    from spikefold.converters.nir_file import load_nir, save_nir
    from spikefold.converters.onnx import save_onnx, to_onnx_clip, to_onnx_step
    from spikefold.converters.palette import palettise
    from spikefold.converters.portable_nir import save_portable_nir
    from spikefold.deploy.compare import compare
    from spikefold.deploy.finetune import finetune
    from spikefold.deploy.hardware import load_hardware
    from spikefold.deploy.mapping.mapper import map_net
    from spikefold.deploy.price import price
    from spikefold.deploy.report.evidence import Evidence
    from spikefold.deploy.report.page import write_report
    from spikefold.deploy.run import run
    from spikefold.deploy.sources import NamedNet
    from spikefold.deploy.sweep import sweep
    from spikefold.deploy.verify import verify
    from spikefold.errors import (
        BackendError,
        CaptureError,
        FileFormatError,
        HardwareConfigError,
        InputError,
        LoweringError,
        SpikefoldError,
        SpikefoldWarning,
    )
    from spikefold.models.attention import ASA, FSTA
    from spikefold.models.checkpoints import load
    from spikefold.models.lif import LIF

__all__ = [
    "ASA",
    "FSTA",
    "LIF",
    "BackendError",
    "CaptureError",
    "Evidence",
    "FileFormatError",
    "FixedPointGraph",
    "HardwareConfigError",
    "InputError",
    "LoweringError",
    "NamedNet",
    "SpikefoldError",
    "SpikefoldWarning",
    "__version__",
    "calibrate",
    "capture",
    "compare",
    "finetune",
    "import_nir",
    "load",
    "load_hardware",
    "load_lava_dl",
    "load_nir",
    "lower",
    "map_net",
    "palettise",
    "price",
    "run",
    "save_lava_dl",
    "save_nir",
    "save_onnx",
    "save_portable_nir",
    "sweep",
    "to_onnx_clip",
    "to_onnx_step",
    "verify",
    "write_report",
]

__version__: str

# Where each public name lives: "module:name" below spikefold. Says the same as the imports above, which only type
# checkers read; tests/test_packaging.py keeps them equal.
_HOMES = {
    "ASA": "models.attention:ASA",
    "BackendError": "errors:BackendError",
    "CaptureError": "errors:CaptureError",
    "Evidence": "deploy.report.evidence:Evidence",
    "FSTA": "models.attention:FSTA",
    "FileFormatError": "errors:FileFormatError",
    "FixedPointGraph": "converters.fixed_point_graph:FixedPointGraph",
    "HardwareConfigError": "errors:HardwareConfigError",
    "InputError": "errors:InputError",
    "LIF": "models.lif:LIF",
    "LoweringError": "errors:LoweringError",
    "NamedNet": "deploy.sources:NamedNet",
    "SpikefoldError": "errors:SpikefoldError",
    "SpikefoldWarning": "errors:SpikefoldWarning",
    "calibrate": "converters.calibrate:calibrate",
    "capture": "converters.capture:capture",
    "compare": "deploy.compare:compare",
    "finetune": "deploy.finetune:finetune",
    "import_nir": "converters.dialects:import_nir",
    "load": "models.checkpoints:load",
    "load_hardware": "deploy.hardware:load_hardware",
    "load_lava_dl": "converters.lava_dl:load_lava_dl",
    "load_nir": "converters.nir_file:load_nir",
    "lower": "converters.lower:lower",
    "map_net": "deploy.mapping.mapper:map_net",
    "palettise": "converters.palette:palettise",
    "price": "deploy.price:price",
    "run": "deploy.run:run",
    "save_lava_dl": "converters.lava_dl:save_lava_dl",
    "save_nir": "converters.nir_file:save_nir",
    "save_onnx": "converters.onnx:save_onnx",
    "save_portable_nir": "converters.portable_nir:save_portable_nir",
    "sweep": "deploy.sweep:sweep",
    "to_onnx_clip": "converters.onnx:to_onnx_clip",
    "to_onnx_step": "converters.onnx:to_onnx_step",
    "verify": "deploy.verify:verify",
    "write_report": "deploy.report.page:write_report",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("importlib.metadata").version(__name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value: object = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
