"""What a detector that others trained says of pictures: boxes to learn from where nobody has drawn any.

YOLOX-nano (Ge et al. 2021, arXiv:2107.08430), trained on COCO's 80 kinds of objects, from the folder of teachers.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms

from artmodels import images
from artmodels.detections import boxes as box_ops
from artmodels.errors import ConfigError, MissingWeights

__all__ = ["YOLOX", "Answers", "decoded_answers", "ask"]

YOLOX = "yolox_nano_coco80.onnx"
SIDE, STRIDES = 416, (8, 16, 32)  # px
GREY = 114.0  # of what is not picture, of 255
LEAST, OVERLAP = 0.1, 0.45  # score and IoU, as its authors suppress


class Answers(NamedTuple):
    """What the teacher found in a picture."""

    boxes: Tensor  # [N, 4] in its pixels
    scores: Tensor  # [N], above 0.1
    kinds: Tensor  # [N] int64, 0 to 79 in the order of COCO's numbers; 0 is a person


@cache
def ask(files: tuple[Path, ...], teacher: Path) -> tuple[Answers, ...]:
    """What it finds in each file; a second question about the same files is answered from memory.

    Raises:
        MissingWeights: The teacher is not there.
        ConfigError: ONNX Runtime is not installed.
        ImageError: A file is no picture.
    """
    if not teacher.is_file():
        raise MissingWeights(f"{teacher} is missing: name the folder that holds the teachers.")
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("the teacher is an ONNX graph: pip install 'artmodels[onnx]', and build again") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(teacher), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    answers = []
    for file in files:
        picture = images.load(file).tensor()
        height, width = picture.shape[2:]
        ratio = SIDE / max(height, width)
        size = [max(1, round(side * ratio)) for side in (height, width)]
        small = 255 * F.interpolate(picture, size, mode="bilinear", antialias=True).flip(1)  # blue first
        framed = F.pad(small, (0, SIDE - size[1], 0, SIDE - size[0]), value=GREY)
        (raw,) = session.run(None, {given.name: framed.numpy()})
        answers.append(decoded_answers(torch.from_numpy(raw[0]), ratio=ratio, height=height, width=width))
    return tuple(answers)


def decoded_answers(raw: Tensor, *, ratio: float, height: int, width: int) -> Answers:
    """Boxes in a picture of this size, which was reduced by `ratio`, of the graph's output [3549, 85].

    A row is a position of one of three maps: centre and the logarithms of the sides in strides, how sure it is that
    there is an object, and that it is of each kind.
    """
    places, strides = [], []
    for stride in STRIDES:
        steps = torch.arange(SIDE // stride, dtype=torch.float32)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        places.append(torch.stack([x, y], -1).view(-1, 2))
        strides.append(torch.full((len(steps) ** 2, 1), float(stride)))
    scale = torch.cat(strides)
    centres, half = (raw[:, :2] + torch.cat(places)) * scale, raw[:, 2:4].exp() * scale / 2
    boxes = box_ops.clip(torch.cat([centres - half, centres + half], 1) / ratio, width, height)
    scores, kinds = (raw[:, 4:5] * raw[:, 5:]).max(1)
    sure = (scores > LEAST) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, scores, kinds = boxes[sure], scores[sure], kinds[sure]
    kept = batched_nms(boxes, scores, kinds, OVERLAP)
    return Answers(boxes[kept], scores[kept], kinds[kept])
