"""The model configuration of Triton Inference Server, `config.pbtxt`, for the ONNX Runtime backend."""

from artmodels.runtime.feedforward import Graph
from artmodels.runtime.graphs import Port

__all__ = ["MAX_BATCH", "WARM", "config"]

MAX_BATCH = 8
DELAY = 2000  # microseconds that a request may wait for others
WARM = (512, 768, 1024)  # px: the first request of a new size waits for cuDNN's choice of algorithms

_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


def config(name: str, graph: Graph, inputs: tuple[Port, ...], output: Port) -> str:
    """Write the configuration as protobuf text.

    Triton batches requests of one shape; the axis of the batch is then left out of the shapes below.

    Args:
        name: The model's, which is also its folder's.
        graph: The network, which tells the shapes to warm up with.
        inputs: Of the exported graph.
        output: Of the exported graph, an image or numbers.
    """
    batched = all(port.dims[0] == "N" for port in (*inputs, output))
    skip = 1 if batched else 0

    def tensor(kind: str, port: Port) -> str:
        dims = ", ".join(str(dim) if isinstance(dim, int) else "-1" for dim in port.dims[skip:])
        return f'{kind} [ {{ name: "{port.name}" data_type: {_TYPES[port.type]} dims: [ {dims} ] }} ]'

    def warm(side: int) -> str:
        examples = graph.example(1, *graph.requirements.size(side, side))
        entries = "\n".join(
            f'    inputs {{ key: "{port.name}" value: {{ data_type: {_TYPES[port.type]} '
            f"dims: [ {', '.join(map(str, example.shape[skip:]))} ] zero_data: true }} }}"
            for port, example in zip(inputs, examples, strict=True)
        )
        return f'  {{\n    name: "{side} px"\n    batch_size: 1\n{entries}\n  }}'

    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH if batched else 0}",
        *(tensor("input", port) for port in inputs),
        tensor("output", output),
        "instance_group [ { kind: KIND_AUTO count: 1 } ]",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if batched:
        lines.append(
            f"dynamic_batching {{ preferred_batch_size: [ {MAX_BATCH // 2}, {MAX_BATCH} ] "
            f"max_queue_delay_microseconds: {DELAY} }}"
        )
    lines += [
        "model_warmup [\n" + ",\n".join(map(warm, WARM)) + "\n]",
        # 1 is HEURISTIC and kSameAsRequested: the defaults search exhaustively at each new size, and double the memory.
        'parameters { key: "cudnn_conv_algo_search" value: { string_value: "1" } }',
        'parameters { key: "arena_extend_strategy" value: { string_value: "1" } }',
    ]
    return "\n".join(lines) + "\n"
