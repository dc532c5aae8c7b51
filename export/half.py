"""A float32 graph to one that computes in float16, except where that is known to fail."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, shape_inference

from artmodels.errors import ConfigError

__all__ = ["BLOCKED", "literal_session", "to_half"]

BLOCKED = frozenset({"InstanceNormalization", "ReduceMean", "Pow", "Sqrt", "Reciprocal", "Softmax"})
"""Operators that stay in float32: sums over images and what follows them overflow or lose their digits in float16."""

# Inputs that are float32 by definition, whatever the rest of the operator is: regions and scales.
_FIXED = {"Resize": (1, 2)}
_FLOATS: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a graph; inputs and outputs keep their types.

    Each value has the type that its node computes in, and is cast, once, where a node computes in the other.

    Args:
        model: A float32 graph without nested graphs, its weights inside.

    Returns:
        A new graph.

    Raises:
        ConfigError: The graph has nested graphs, or a weight too large for float16.
    """
    result = shape_inference.infer_shapes(model, strict_mode=True)
    graph = result.graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    kinds |= {name: tensor.data_type for name, tensor in weights.items()}
    outputs = {value.name for value in graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    nodes: list[onnx.NodeProto] = []
    made: dict[tuple[str, int], str] = {}  # the value with this name, in this type

    def cast(name: str, kind: int) -> str:
        """Return the name of a value in a type, and make it if it is not there."""
        if kinds[name] == kind:
            return name
        key = (name, kind)
        if key not in made:
            made[key] = f"{name}_{_FLOATS[kind]}"
            if name in weights:
                graph.initializer.append(_half(weights[name], made[key]))
            else:
                nodes.append(helper.make_node("Cast", [name], [made[key]], name=f"cast_{made[key]}", to=kind))
        return made[key]

    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ConfigError(f"{node.op_type} {node.name!r} holds a graph of its own: export without --fp16")
        floats = [
            index
            for index, name in enumerate(node.input)
            if kinds.get(name) in _FLOATS and index not in _FIXED.get(node.op_type, ())
        ]
        # A node without float inputs makes its type from an attribute, as Cast does.
        if floats and node.op_type != "Cast":
            kind = TensorProto.FLOAT if _blocked(node) else TensorProto.FLOAT16
            for index in floats:
                node.input[index] = cast(node.input[index], kind)
            for index, name in enumerate(node.output):
                if kinds.get(name) == TensorProto.FLOAT and kind == TensorProto.FLOAT16:
                    if name in outputs:
                        node.output[index] = f"{name}_inner"
                        made[name, kind] = node.output[index]
                    else:
                        kinds[name] = kind
        nodes.append(node)
        nodes.extend(
            helper.make_node("Cast", [inner], [name], name=f"cast_{name}", to=TensorProto.FLOAT)
            for (name, _), inner in made.items()
            if name in outputs and inner in node.output
        )
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    onnx.checker.check_model(result, full_check=True)
    return result


def literal_session(model: onnx.ModelProto) -> Any:  # noqa: ANN401 - a session of ONNX Runtime, which has no types
    """Open a float16 graph so that the CPU rounds every value that is float16, as a GPU does.

    The CPU has next to no float16 operators. ONNX Runtime computes them in float32 and then drops the casts between
    them, optimised or not, so that only the weights are rounded, and a check would see next to no error. An `Identity`
    after each operator, which the CPU does have in float16, keeps the casts apart.
    """
    result = shape_inference.infer_shapes(model, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in result.graph.value_info}
    nodes = []
    for node in result.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if kinds.get(name) == TensorProto.FLOAT16:
                node.output[index] = f"{name}_exact"
                nodes.append(helper.make_node("Identity", [node.output[index]], [name]))
    # The names that shape inference knew are not those of the new graph.
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # would drop the Identity
    return onnxruntime.InferenceSession(result.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _blocked(node: onnx.NodeProto) -> bool:
    # Resize only chooses among its values where it repeats them, and computes where it interpolates.
    modes = [attribute.s for attribute in node.attribute if attribute.name == "mode"]
    return node.op_type in BLOCKED or (node.op_type == "Resize" and modes not in ([], [b"nearest"]))


def _half(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise ConfigError(f"the weights {tensor.name!r} are too large for float16: export without --fp16")
    return numpy_helper.from_array(values.astype(np.float16), name)
