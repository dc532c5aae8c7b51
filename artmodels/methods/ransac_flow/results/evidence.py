"""An alignment as pictures and files: to look at, to leaf through, and to compute with."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.utils import flow_to_image

from artmodels import images
from artmodels.correspondence import geometry
from artmodels.detections.drawing import heat_over
from artmodels.errors import ConfigError
from artmodels.files import write_whole
from artmodels.images.decoding import Array
from artmodels.images.resampling import resized
from artmodels.methods.ransac_flow.results.alignment import Alignment

__all__ = [
    "animated",
    "arrays",
    "chequered",
    "flow_picture",
    "flow_wheel",
    "heat",
    "overlay",
    "save_data",
    "side_by_side",
]

GAP = 8  # px between pictures on a sheet
ANIMATED = 1000  # px: longest side of a moving picture, which is large in bytes
VIDEO = ("mp4v", 20.0)  # codec, pictures a second


def overlay(alignment: Alignment, opacity: float = 0.5) -> Image.Image:
    """The source on its target, as strong as `opacity` says, 0 to 1.

    Raises:
        ConfigError: There is no alignment, or the opacity is out of range.
    """
    if not 0 <= opacity <= 1:
        raise ConfigError(f"opacity={opacity} must be from 0 to 1")
    _ = alignment.sound
    return Image.blend(alignment.pictures[1].pil(), alignment.image, opacity)


def chequered(alignment: Alignment, squares: int = 8) -> Image.Image:
    """Source and target in turn, as on a chess board with so many squares along the longer side.

    Raises:
        ConfigError: There is no alignment, or fewer than two squares are asked for.
    """
    if squares < 2:
        raise ConfigError(f"squares={squares} must be at least 2")
    _ = alignment.sound
    width, height = alignment.sizes[1]
    side = max(width, height) / squares
    odd = ((np.arange(height)[:, None] // side + np.arange(width) // side) % 2).astype(np.uint8) * 255
    return Image.composite(alignment.image, alignment.pictures[1].pil(), Image.fromarray(odd))


def side_by_side(alignment: Alignment, *, height: int = 480) -> Image.Image:
    """Source, target, the source on the target, and both in turn, on white, so many pixels high.

    Without an alignment only source and target are shown.
    """
    shown = [picture.pil() for picture in alignment.pictures]
    if alignment.found:
        shown += [alignment.image, chequered(alignment)]
    return _row([each.resize((max(1, round(each.width * height / each.height)), height)) for each in shown])


def _row(pictures: Sequence[Image.Image]) -> Image.Image:
    width = sum(each.width for each in pictures) + GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(each.height for each in pictures)), "white")
    left = 0
    for each in pictures:
        sheet.paste(each, (left, 0))
        left += each.width + GAP
    return sheet


def flow_picture(alignment: Alignment, *, fine: bool = False, height: int | None = None) -> Image.Image:
    """Where pixels come from, as colour: the hue is the direction, the strength is the distance; see `flow_wheel`.

    Args:
        alignment: With both pictures.
        fine: Only what the fine stage adds, rather than the whole flow.
        height: Of the picture; None takes that of the target.

    Raises:
        ConfigError: There is no alignment.
    """
    warp, (width, full) = alignment.sound, alignment.sizes[1]
    rows = height or full
    columns = max(1, round(width * rows / full))
    if fine:
        flow = resized(warp.displacement[None], (rows, columns))[0] * torch.tensor([columns, rows]).view(2, 1, 1) / 2
    else:
        flow = alignment.flow(rows, columns).permute(2, 0, 1)
    picture = flow_to_image(flow.contiguous())
    inside = geometry.inside(alignment.grid(rows, columns))
    return images.to_pil(torch.where(inside, picture.float() / 255, 1.0))


def flow_wheel(side: int = 160) -> Image.Image:
    """What the colours of a flow mean: at each place the colour of the flow from the centre to it.

    Raises:
        ConfigError: The side is below 8 pixels.
    """
    if side < 8:
        raise ConfigError(f"side={side} must be at least 8 px")
    places = geometry.identity(side, side).permute(2, 0, 1)
    far = places.norm(dim=0)
    wheel = flow_to_image(torch.where(far <= 1, places, 0.0).contiguous()).float() / 255
    return images.to_pil(torch.where(far <= 1, wheel, 1.0))


def heat(alignment: Alignment, what: str = "matchability") -> Image.Image:
    """The target, and over it how well places can be matched, or how far from where they began they come back to.

    Args:
        alignment: With both pictures.
        what: "matchability", or "error", full at 8 pixels of the working size.

    Raises:
        ConfigError: Anything else, or there is no alignment.
    """
    _ = alignment.sound
    if what == "matchability":
        return heat_over(alignment.pictures[1], alignment.matchability.numpy(), low=0.0, high=1.0)
    if what == "error":
        return heat_over(alignment.pictures[1], alignment.error.numpy(), low=0.0, high=8.0)
    raise ConfigError(f"what={what!r} must be 'matchability' or 'error'")


def arrays(alignment: Alignment) -> dict[str, Array]:
    """The alignment as numbers.

    Returns:
        `flow` [H, W, 2] float32, to be added to a pixel (x, y) of the target for its place in the source, in pixels;
        `inside` [H, W] bool, whether the source reaches there; `matchability` and `error` [h, w] float32 at the working
        size; `homographies` [K, 3, 3] float64 from pixels of the target to pixels of the source; `which` [h, w] uint8,
        the one that holds at each place; `source_size` and `target_size`, width and height.

    Raises:
        ConfigError: There is no alignment.
    """
    warp = alignment.sound
    return {
        "flow": alignment.flow().numpy(),
        "inside": geometry.inside(alignment.grid()).numpy(),
        "matchability": alignment.matchability.numpy(),
        "error": alignment.error.numpy(),
        "homographies": alignment.matrices.numpy(),
        "which": warp.which.numpy().astype(np.uint8),
        "source_size": np.array(alignment.sizes[0]),
        "target_size": np.array(alignment.sizes[1]),
    }


def save_data(alignment: Alignment, path: str | os.PathLike[str]) -> None:
    """Write `arrays` as a compressed `.npz`, whole or not at all.

    Raises:
        ArtModelsError: It cannot be written.
        ConfigError: There is no alignment, or the name has another ending.
    """
    target = Path(path)
    if target.suffix.lower() != ".npz":
        raise ConfigError(f"{str(target)!r} does not end in .npz")
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **arrays(alignment))
    write_whole({target: out.getvalue()})


def animated(alignment: Alignment, path: str | os.PathLike[str], *, seconds: float = 0.5, loops: int = 4) -> None:
    """Write target and source in turn, which shows the eye what differs.

    Args:
        alignment: With both pictures.
        path: Ends in .gif, or in .mp4, which needs OpenCV and is much smaller.
        seconds: That each is shown.
        loops: Turns of a video; a GIF goes on for ever.

    Raises:
        ArtModelsError: It cannot be written.
        ConfigError: There is no alignment, another ending, or OpenCV is missing.
    """
    target = Path(path)
    if not 0.02 <= seconds <= 60 or loops < 1:
        raise ConfigError(f"seconds={seconds} must be from 0.02 to 60, and loops={loops} at least 1")
    _ = alignment.sound
    frames = [alignment.pictures[1].pil(), alignment.image]
    for frame in frames:
        frame.thumbnail((ANIMATED, ANIMATED))
    if target.suffix.lower() == ".gif":
        out = io.BytesIO()
        frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 * seconds), loop=0)
        write_whole({target: out.getvalue()})
    elif target.suffix.lower() == ".mp4":
        _video(frames * loops, target, seconds)
    else:
        raise ConfigError(f"{str(target)!r} does not end in .gif or .mp4")


def _video(frames: Sequence[Image.Image], path: Path, seconds: float) -> None:
    try:
        import cv2  # only this needs it
    except ImportError as error:
        raise ConfigError("an .mp4 needs OpenCV: pip install 'artmodels[align]', or write a .gif") from error
    codec, rate = VIDEO
    size = frames[0].width // 2 * 2, frames[0].height // 2 * 2  # as the codec wants
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    try:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*codec), rate, size)
        if not writer.isOpened():
            raise ConfigError(f"{path} cannot be written: check that the folder exists, or write a .gif")
        for frame in frames:
            pixels = np.asarray(frame.resize(size))[..., ::-1]
            for _ in range(max(1, round(seconds * rate))):
                writer.write(pixels)
        writer.release()
        write_whole({path: temporary.read_bytes()})
    finally:
        temporary.unlink(missing_ok=True)
