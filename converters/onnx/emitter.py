"""Collects ONNX nodes, constants and names for one graph, Scan body or function."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 10
DOMAIN = "spikefold"


class Emitter:
    """Appends nodes in order. Names are made from the scope and a counter, so equal calls give equal bytes.

    Parameters
    ----------
    in_function : bool
        Functions cannot hold initializers: constants become ``Constant`` nodes.
    """

    def __init__(self, *, in_function: bool = False) -> None:
        self.scope = ""
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._in_function = in_function
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._numbers = count(1)

    def body(self) -> Emitter:
        """Emitter of a subgraph: its nodes are its own, constants and names are those of this one."""
        inner = Emitter()
        inner.scope, inner.initializers = self.scope, self.initializers
        inner._constants, inner._numbers = self._constants, self._numbers
        return inner

    def op(self, op_type: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the output's name (``name``, or a new one)."""
        return self.ops(op_type, *inputs, names=(name or self.new_name(op_type),), domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: str, names: tuple[str, ...], domain: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Append a node with the outputs ``names`` and return them."""
        self.nodes.append(helper.make_node(op_type, inputs, names, name=names[0], domain=domain, **attributes))
        return names

    def cast(self, value: str, to: int, name: str = "") -> str:
        """Append a cast to the ONNX element type ``to``."""
        return self.op("Cast", value, name=name, to=to)

    def constant(self, value: NDArray[Any] | int | list[int], dtype: Any = np.int64) -> str:
        """Name of a constant of this type and value; equal ones are stored once."""
        array = np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = name = self.new_name("constant")
            if self._in_function:
                self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
            else:
                self.initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def new_name(self, kind: str) -> str:
        """Make a name that no other value has."""
        number = next(self._numbers)
        return f"{self.scope}/{kind}#{number}" if self.scope else f"{kind}#{number}"
