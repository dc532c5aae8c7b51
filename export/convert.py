"""A network to an ONNX graph with pre- and post-processing inside: the dynamo exporter, axes of any length by name."""

import warnings
from fractions import Fraction

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from artmodels.errors import ConfigError
from artmodels.runtime.feedforward import Graph

__all__ = ["OPSET", "Served", "axes", "convert", "example_size"]

OPSET = 20


class Served(nn.Module):
    """What is served: an image in [0, 1] or in bytes to the same, the network between.

    Numbers that are no image come out as the network gives them, also where bytes go in.
    """

    def __init__(self, graph: Graph, *, uint8: bool) -> None:
        """Wrap a network."""
        super().__init__()
        self.network, self.uint8 = graph, uint8  # "graph" is taken: the exporter moves modules into a GraphModule

    def forward(self, *inputs: Tensor) -> Tensor:
        """Scale, run, clamp, round."""
        image, *extras = inputs
        result: Tensor = self.network(image.float() / 255 if self.uint8 else image, *extras)
        if not self.network.pictures:
            return result
        result = result.clamp(0, 1)
        return (result * 255).round().to(torch.uint8) if self.uint8 else result


def example_size(graph: Graph, *, more: int = 0) -> tuple[int, int]:
    """Give a small (height, width) that a network accepts, `more` steps larger."""
    needs = graph.requirements
    steps = max(4, -(-needs.minimum // needs.multiple_of)) + more
    return steps * needs.multiple_of, (steps if needs.square else steps + 1) * needs.multiple_of


def axes(graph: Graph, *, batch: bool = True) -> list[dict[int, object]]:
    """Find which axis of which input follows the batch, the height or the width.

    Each is changed alone, and what changes with it in the shapes of `Graph.example` is what follows it.

    Args:
        graph: The network.
        batch: Whether the batch may have any length; otherwise it is 1.

    Returns:
        For each input, `Dim` by axis, as `torch.export` wants them: `N`, and `H` and `W` or, where these must be
        multiples of a number m, m times `h` and `w`.

    Raises:
        ConfigError: An axis follows more than one of them, or no whole multiple.
    """
    needs = graph.requirements
    height, width = example_size(graph)
    taller, wider = example_size(graph, more=1)
    least = -(-needs.minimum // needs.multiple_of)

    def side(name: str) -> object:
        name = name if needs.multiple_of == 1 else name.lower()
        return Dim(name, min=least) if least > 1 else Dim(name)

    # For each: the size with it changed, its length in the base, and the dimension of which that is.
    varied = {"H": ((2, taller, wider if needs.square else width), height // needs.multiple_of, side("H"))}
    if not needs.square:
        varied["W"] = ((2, height, wider), width // needs.multiple_of, side("W"))
    if batch:
        varied["N"] = ((3, height, width), 2, Dim("N"))
    base = [tuple(x.shape) for x in graph.example(2 if batch else 1, height, width)]
    found: list[dict[int, object]] = [{} for _ in base]
    for name, (size, length, dimension) in varied.items():
        changed = graph.example(size[0] if batch else 1, size[1], size[2])
        for index, (before, after) in enumerate(zip(base, changed, strict=True)):
            for axis in (axis for axis in range(len(before)) if before[axis] != after.shape[axis]):
                factor = Fraction(before[axis], length)
                if axis in found[index] or factor.denominator != 1:
                    raise ConfigError(
                        f"axis {axis} of the input {graph.inputs[index]!r} of {type(graph).__name__} is no whole "
                        f"multiple of one of batch, height and width ({name}): it cannot be exported with sizes of any "
                        "length"
                    )
                found[index][axis] = dimension if factor == 1 else int(factor) * dimension  # type: ignore[operator]
    return found


def convert(graph: Graph, *, uint8: bool = False) -> onnx.ModelProto:
    """Convert a network, with the batch of any length if that can be, else of one image.

    Args:
        graph: In float32, on the CPU, in evaluation mode.
        uint8: Whether images go in and come out as bytes.

    Returns:
        The graph, opset 20, its weights inside, without traces of where it was made.

    Raises:
        ConfigError: The network cannot be exported; the message gives the exporter's reason.
    """
    served = Served(graph, uint8=uint8).eval()
    failures: list[str] = []
    for batch in (True, False):
        inputs = list(graph.example(2 if batch else 1, *example_size(graph)))
        if uint8:
            inputs[0] = (inputs[0] * 255).round().to(torch.uint8)
        # Outside the try: what a network says of itself is not the exporter's failure.
        dynamic = (tuple(axes(graph, batch=batch)),)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that an axis shares its name with another, which is what we want
                program = torch.onnx.export(
                    served,
                    tuple(inputs),
                    dynamo=True,
                    external_data=False,
                    opset_version=OPSET,
                    input_names=list(graph.inputs),
                    output_names=[graph.output],
                    dynamic_shapes=dynamic,
                    verbose=False,
                )
        except Exception as error:  # the exporter wraps whatever tracing raised
            cause = error.__cause__ or error
            failures.append(next((line for line in str(cause).splitlines() if line.strip()), repr(cause)))
            continue
        if program is None:
            raise AssertionError("the dynamo exporter returns a program")
        return _stripped(program.model_proto)
    raise ConfigError(f"{type(graph).__name__} cannot be exported: {failures[-1]}")


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop stack traces, which hold paths of the machine and differ between machines."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.metadata_props[:], model.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return model
