"""What a search found as one HTML file: evidence that can be looked at anywhere, kept, sent and printed.

The file holds its pictures, loads nothing and runs no script. Comparing the detail with a place that was found by
turns, the old "flicker" of print rooms, is done by style sheets alone.
"""

import base64
import io
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import jinja2
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from artmodels import images
from artmodels.correspondence.views import from_view, turned
from artmodels.detections.boxes import as_boxes, paired_iou
from artmodels.errors import ConfigError, ImageError
from artmodels.images.decoding import Array, LoadedImage
from artmodels.methods.artminer.evidence.exports import values_of
from artmodels.methods.artminer.groups.pairtable import mapped
from artmodels.methods.artminer.oneshot import Hit, check_box

__all__ = ["agrees", "aligned", "fitted", "html_report"]

DETAIL, WHOLE = 320, 480  # pixels of the longer side of a crop, and of a whole picture
QUALITY = 76
AGREE = 0.5  # intersection over union of the box of a hit and of where its match puts the detail
OUTSIDE = (128, 128, 128)  # colour of what lies outside a picture

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def html_report(
    query: images.Source,
    box: Sequence[float],
    hits: Sequence[Hit],
    picture: Callable[[str], images.Source],
    *,
    name: str,
    model: str,
    parameters: object = None,
    title: str = "Where else is this detail?",
    most: int = 50,
) -> str:
    """Make a page of the hits of a search: ranked, each beside the detail and on its whole picture.

    Everything that comes from outside is escaped. A picture that cannot be read is named, with the reason, in its
    place.

    Args:
        query: The picture with the detail.
        box: Left, top, right, bottom of the detail in its pixels.
        hits: Best first, such as `ArtMiner.search(...).hits`. Where one has a `match` that found something, its
            picture is warped into the frame of the detail; otherwise the box is shown as it is, turned as its view.
        picture: Gives the picture of a name: a path, bytes, or whatever `artmodels.images.load` takes.
        name: Of the query picture.
        model: Fingerprint of what described the pictures.
        parameters: A config, or names and values.
        title: Of the page.
        most: Hits that are shown; the page says how many there are. Each adds some 50 to 100 KB.

    Raises:
        ConfigError: The box is none inside the query picture, or `most` is below 1.
        ImageError: The query picture cannot be read.
    """
    if most < 1:
        raise ConfigError(f"most={most} must be at least 1: the number of hits to show")
    whole = images.load(query)
    place = check_box(box, whole.width, whole.height)
    piece = _resized(whole.pil().crop(_grown(place)), DETAIL)
    read = lru_cache(maxsize=4)(lambda named: images.load(picture(named)))  # hits on one picture often come together
    count = f"{len(hits)} place{'' if len(hits) == 1 else 's'} found"
    if len(hits) > most:
        count += f", the best {most} are shown"
    return _templates.get_template("report.html").render(
        title=title,
        name=name,
        detail=_data(piece),
        frame=piece,
        size=f"{place[2] - place[0]:.0f} × {place[3] - place[1]:.0f} px at ({place[0]:.0f}, {place[1]:.0f})",
        query=_picture_with_box(whole, place, f"The picture {name} with the detail marked"),
        count=count,
        model=model,
        parameters={
            key: value if isinstance(value, str) else json.dumps(value, default=str)
            for key, value in values_of(parameters).items()
        },
        hits=[_hit(rank, hit, read, piece.size) for rank, hit in enumerate(hits[:most], 1)],
    )


def aligned(image: LoadedImage, hit: Hit, frame: tuple[int, int]) -> Image.Image | None:
    """Warp the picture of a hit into the frame of the detail, width and height in pixels, by the hit's match.

    The image is grey where the picture ends. There is none where the hit has no match with an invertible transform.
    """
    backward = _backward(hit)
    if backward is None:
        return None
    width, height = frame
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    source = mapped(backward, np.stack([x, y], -1).reshape(1, -1, 2))[0].reshape(height, width, 2)
    corners = mapped(backward, np.array([[0.0, 0], [1, 0], [0, 1]])) * [image.width, image.height]
    steps = np.linalg.norm(corners[1:] - corners[0], axis=1) / (width, height)
    # Bilinear reading takes every few pixels of a large picture: it is made small first.
    factor = float(np.clip(1 / max(steps.max(), 1e-6), 1 / max(image.width, image.height), 1))
    pixels = image.pil()
    if factor < 1:
        size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    grid = torch.from_numpy(np.nan_to_num(source * 2 - 1, nan=9.0, posinf=9.0, neginf=-9.0)).float()
    colours = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float()[None]
    warped = F.grid_sample(colours, grid[None], padding_mode="border", align_corners=False)[0]
    result = warped.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    result[(grid.abs() > 1).any(2).numpy()] = OUTSIDE
    return Image.fromarray(result)


def agrees(image: LoadedImage, hit: Hit) -> bool:
    """Whether the match of a hit puts the detail about where its box is: one of few cells may put it anywhere."""
    corners = _frame(hit)
    if corners is None:
        return False
    corners *= [image.width, image.height]
    there = torch.from_numpy(np.concatenate([corners.min(0), corners.max(0)]))[None].float()
    return bool(torch.isfinite(there).all()) and float(paired_iou(there, as_boxes([hit.box]))[0]) > AGREE


# --- Parts


def _hit(rank: int, hit: Hit, read: Callable[[str], LoadedImage], frame: tuple[int, int]) -> dict[str, object]:
    """What the page shows of a hit."""
    facts = [f"score {hit.score:.4f}", "box " + ", ".join(f"{value:.0f}" for value in hit.box)]
    if hit.view:
        facts.append(f"compared as: {hit.view}")
    facts.append("looked at closely" if hit.closer else "looked at quickly only")
    match = hit.match
    if match is not None and len(match.reference_cells):
        facts.append(f"{len(match.reference_cells)} cells correspond, evidence {match.score:.4f}")
    found: dict[str, object] = {"name": hit.image, "facts": " · ".join(facts), "error": ""}
    try:
        image = read(hit.image)
    except ImageError as error:
        return found | {"error": str(error)}
    whole = _picture_with_box(image, hit.box, f"Hit {rank}: {hit.image}, the whole picture with the place marked")
    warped, corners = (aligned(image, hit, frame), _frame(hit)) if agrees(image, hit) else (None, None)
    if warped is None or corners is None:
        crop, how = _resized(_turned_crop(image, hit), max(frame)), hit.view or "as it is"
    else:
        crop, how = warped, "aligned"
        whole["frame"] = " ".join(f"{x:.5f},{y:.5f}" for x, y in corners.tolist())
    return found | {"place": _data(crop), "how": how, "whole": whole}


def _backward(hit: Hit) -> Array | None:
    """[3, 3] from relative coordinates of the detail to those of the hit's picture; None where there is none."""
    if hit.match is None or not hit.match.score > 0:
        return None
    forward = hit.match.transform.double().cpu().numpy()
    if not np.isfinite(forward).all() or abs(np.linalg.det(forward)) < 1e-9:
        return None
    found: Array = from_view(hit.view).double().numpy() @ np.linalg.inv(forward)
    return found


def _frame(hit: Hit) -> Array | None:
    """Where the match of a hit puts the corners of the detail: [4, 2] relative x and y; None where it has none."""
    backward = _backward(hit)
    return None if backward is None else mapped(backward, np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]))


def _turned_crop(image: LoadedImage, hit: Hit) -> Image.Image:
    left, top, right, bottom = _grown(hit.box)
    edges = max(0, left), max(0, top), min(image.width, right), min(image.height, bottom)
    if edges[2] <= edges[0] or edges[3] <= edges[1]:
        return Image.new("RGB", (1, 1), OUTSIDE)
    return turned(LoadedImage(np.asarray(image.pil().crop(edges))), hit.view).pil()


def _grown(box: Sequence[float]) -> tuple[int, int, int, int]:
    """Whole pixels that cover a box."""
    return int(np.floor(box[0])), int(np.floor(box[1])), int(np.ceil(box[2])), int(np.ceil(box[3]))


def fitted(size: tuple[float, float], longest: int) -> tuple[int, int]:
    """A size of the same shape with so many pixels on the longer side."""
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(image: Image.Image, longest: int) -> Image.Image:
    """Brought to so many pixels on the longer side."""
    smaller = longest < max(image.size)
    return image.resize(fitted(image.size, longest), Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC)


def _data(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def _picture_with_box(image: LoadedImage, box: Sequence[float], alt: str) -> dict[str, object]:
    """A whole picture, with a box in its pixels as a path in a picture of 1 x 1."""
    small = _resized(image.pil(), min(WHOLE, max(image.width, image.height)))
    left, top, right, bottom = np.clip(np.array(box) / (image.width, image.height, image.width, image.height), 0, 1)
    path = f"M{left:.5f} {top:.5f}H{right:.5f}V{bottom:.5f}H{left:.5f}Z"
    return {"data": _data(small), "width": small.width, "height": small.height, "alt": alt, "box": path, "frame": ""}
