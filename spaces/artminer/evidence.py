"""Why the page says that two places show the same: side by side, by turns, on the whole picture, and in numbers."""

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from artmodels.images.decoding import LoadedImage
    from artmodels.methods.artminer.groups.clusters import Cluster, Pair, Propagated
    from artmodels.methods.artminer.oneshot import Hit

SIDE, WHOLE, MASKED = 440, 900, 300  # px: longest side of a detail, a whole picture, one in a row of a cluster
RED, WHITE, CELL = (178, 34, 40), (255, 255, 255), (255, 214, 64)
WORDS = {"": "as it is", "mirror": "mirrored", "180": "turned by 180°", "90": "turned by 90°", "270": "turned by 270°"}

Box = Sequence[float]

STYLE = """
.sides { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .85rem; line-height: 1.4; padding: .3rem 0 .5rem; color: var(--body-text-color-subdued); }
.frame { position: relative; background: #8884; line-height: 0; }
.frame img { display: block; width: 100%; height: auto; margin: 0; }
.frame .over { position: absolute; inset: 0; height: 100%; animation: turns 1.6s infinite step-end; }
.by-turns:has(.still:checked) .over { animation: none; }
@media (prefers-reduced-motion: reduce) { .frame .over { animation: none; } }
.more { display: grid; gap: .8rem 1.4rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.whole img { display: block; max-width: 100%; max-height: 460px; width: auto; height: auto; margin: 0; }
dl {
  display: grid; grid-template-columns: auto 1fr; gap: .2rem .9rem; margin: 0; font-size: .9rem; align-content: start;
}
dt { color: var(--body-text-color-subdued); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  .sides { grid-template-columns: 1fr 1fr; }
  .by-turns { grid-column: 1 / -1; }
}
"""

ROWS = """
section { padding: .9rem 0 1rem; border-top: 1px solid var(--border-color-primary); }
h3 { font-size: 1.05rem; margin: 0 0 .5rem; }
.row { display: flex; gap: .7rem; overflow-x: auto; padding-bottom: .3rem; }
figure { margin: 0; flex: none; }
img { display: block; height: 170px; width: auto; max-width: none; margin: 0; }
figcaption { font-size: .8rem; padding-top: .25rem; color: var(--body-text-color-subdued); }
.follows img { height: 110px; outline: 2px dashed var(--body-text-color-subdued); outline-offset: -2px; }
.follows { padding: .5rem 0; flex-wrap: wrap; }
.follows > figcaption { flex: 1 1 14rem; }
.nothing { color: var(--body-text-color-subdued); }
"""


def crop(image: "LoadedImage", box: Box, view: str = "") -> Image.Image:
    """What is inside a box, turned as a view shows it."""
    from artmodels.correspondence.views import turned
    from artmodels.images.decoding import LoadedImage

    left, top, right, bottom = (round(value) for value in box)
    edges = max(left, 0), max(top, 0), min(max(right, left + 1), image.width), min(max(bottom, top + 1), image.height)
    return turned(LoadedImage(np.asarray(image.pil().crop(edges))), view).pil()


def counterpart(
    image: "LoadedImage", hit: "Hit", frame: tuple[int, int], *, trust: bool = False
) -> tuple[Image.Image, bool]:
    """The place of a hit beside the detail: warped into its frame where the match agrees with the box.

    Args:
        image: The picture of the hit.
        hit: The hit.
        frame: Width and height of the detail in the pixels that are wanted.
        trust: Whether to warp whatever the box is, as for two whole pictures.

    Returns:
        A picture of that size, and whether it was warped.
    """
    from artmodels.methods.artminer.evidence.report import agrees, aligned

    if trust or agrees(image, hit):
        warped = aligned(image, hit, frame)
        if warped is not None:
            return warped, True
    return crop(image, hit.box, hit.view).resize(frame, Image.Resampling.LANCZOS), False


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def fitted(size: tuple[float, float], longest: int) -> tuple[int, int]:
    """A size with the same shape and so many pixels on the longer side."""
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def marked(
    image: "LoadedImage",
    box: Box | None,
    cells: Any = (),
    shape: tuple[int, int] = (1, 1),
    view: str = "",
) -> Image.Image:
    """A whole picture with the cells that correspond, and a box, drawn on it."""
    from artmodels.correspondence.views import from_view

    scale = min(1, WHOLE / max(image.width, image.height))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    picture = image.pil().resize(size, Image.Resampling.LANCZOS)
    if len(cells):
        low = np.asarray(cells, dtype=np.float64)[:, ::-1] / (shape[1], shape[0])
        ends = np.stack([low, low + (1 / shape[1], 1 / shape[0])], 1)  # [n, 2, 2] relative, of the view
        ends = np.concatenate([ends, np.ones((*ends.shape[:2], 1))], 2) @ from_view(view).double().numpy().T
        glass = Image.new("L", size)
        draw = ImageDraw.Draw(glass)
        for corners in ends[..., :2] * size:
            draw.rectangle((*corners.min(0), *corners.max(0)), fill=105)
        picture.paste(CELL, mask=glass)
    if box is not None:
        edges = [value * scale for value in box]
        draw = ImageDraw.Draw(picture)
        draw.rectangle(edges, outline=WHITE, width=5)
        draw.rectangle([edges[0] + 1, edges[1] + 1, edges[2] - 1, edges[3] - 1], outline=RED, width=3)
    return picture


def shown(
    query: "LoadedImage",
    box: Box | None,
    image: "LoadedImage",
    hit: "Hit",
    facts: dict[str, str],
    *,
    name: str,
    url: Callable[..., str],
) -> str:
    """The evidence for a hit, or for a pair of pictures.

    Args:
        query: The picture with the detail, or the first of the pair.
        box: Of the detail, in its pixels; None for a pair.
        image: The picture in which it was found, or the second.
        hit: Where.
        facts: What else there is to say.
        name: Of the first.
        url: Makes an address of a picture.
    """
    place = box or (0, 0, query.width, query.height)
    frame = fitted((place[2] - place[0], place[3] - place[1]), SIDE)
    detail = url(crop(query, place).resize(frame, Image.Resampling.LANCZOS))
    other, warped = counterpart(image, hit, frame, trust=box is None)
    found = url(other)
    match = hit.match
    how = "aligned with it" if warped else WORDS.get(hit.view, hit.view)
    cells, shape = ((), (1, 1)) if match is None else (match.target_cells, match.target_shape)
    wholes = [(url(marked(image, hit.box, cells, shape, hit.view)), hit.image)]
    if box is None and match is not None:
        wholes.insert(0, (url(marked(query, None, match.reference_cells, match.reference_shape)), name))
    yellow = " Yellow: the cells that correspond." if len(cells) else ""
    figures = "".join(
        f'<figure class="whole"><img src="{picture}" alt="{escape(each)}, whole, with the place marked">'
        f"<figcaption>{escape(each)}, whole.{yellow}</figcaption></figure>"
        for picture, each in wholes
    )
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    what, there = ("The detail, in", "Found in") if box else ("The first picture,", "The second,")
    return f"""<div class="sides">
<figure><div class="frame"><img src="{detail}" alt="What was looked for"></div><figcaption>{what} {escape(name)}
</figcaption></figure>
<figure><div class="frame"><img src="{found}" alt="What was found"></div><figcaption>{there} {escape(hit.image)},
{escape(how)}</figcaption></figure>
<figure class="by-turns"><div class="frame"><img src="{detail}" alt=""><img class="over" src="{found}" alt="By turns">
</div><figcaption>Both by turns. <label><input type="checkbox" class="still"> hold still</label></figcaption></figure>
</div><div class="more">{figures}<dl>{listed}</dl></div>"""


def facts(hit: "Hit", settings: dict[str, Any], model: str, verdict: str, *, pair: bool) -> dict[str, str]:
    """What there is to say of a hit, or of a pair of pictures, in words and numbers."""
    match = hit.match
    found = {} if pair else {"Score": f"{hit.score:.3f}"}
    if match is None:
        found["Correspondences"] = "not looked into: this picture has a better place"
    elif len(match.reference_cells):
        found["Discovery score"] = f"{match.score:.4f}"
        found["Correspondences"] = f"{len(match.reference_cells)} cells"
    else:
        found["Correspondences"] = f"none: {match.reason}"
    found["Box"] = ", ".join(f"{value:.0f}" for value in hit.box) + " px"
    found["Compared"] = WORDS.get(hit.view, hit.view)
    found["Verdict"] = verdict or "none yet"
    found["Model"] = f"{settings['name']}, sha256 {model[:16]}…"
    found["Parameters"] = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "name")
    return found


# --- clusters


def masked(picture: Image.Image, mask: Any) -> Image.Image:
    """A picture, dark where a mask is low."""
    small = picture.resize(fitted(picture.size, MASKED), Image.Resampling.LANCZOS)
    peak = max(float(mask.max()), 1e-6)
    light = Image.fromarray((np.clip(mask / peak, 0, 1) * 255).astype(np.uint8)).resize(
        small.size, Image.Resampling.BILINEAR
    )
    dark = Image.blend(small.convert("L").convert("RGB"), Image.new("RGB", small.size), 0.55)
    return Image.composite(small, dark, light)


def rows(
    groups: "Sequence[Cluster]",
    further: "Sequence[Propagated]",
    picture: Callable[[str], Image.Image],
    url: Callable[..., str],
) -> str:
    """Every cluster as a row of pictures, and what only follows from others."""
    parts = []
    for number, group in enumerate(groups, 1):
        masks = group.masks()
        tiles = "".join(
            f'<figure><img src="{url(masked(picture(name), masks[name]))}" alt="{escape(name)}, what is shared">'
            f"<figcaption>{escape(name)}</figcaption></figure>"
            for name in group.images
        )
        head = f"{number}. {len(group.images)} pictures, mean score {group.score:.4f}"
        parts.append(f'<section class="cluster"><h3>{head}</h3><div class="row">{tiles}</div></section>')
    if not groups:
        parts.append('<p class="nothing">No group at this threshold: lower it to see more.</p>')
    if further:
        lines = "".join(_follows(one, picture, url) for one in further)
        parts.append(f"<section><h3>Propagated: not found, but it follows from two others</h3>{lines}</section>")
    return "".join(parts)


def _follows(one: "Propagated", picture: Callable[[str], Image.Image], url: Callable[..., str]) -> str:
    tiles = ""
    for name, box in ((one.first, one.first_box), (one.second, one.second_box)):
        whole = picture(name)
        edges = box[0] * whole.width, box[1] * whole.height, box[2] * whole.width, box[3] * whole.height
        piece = whole.crop(tuple(round(value) for value in edges)) if _area(edges) >= 4 else whole
        small = piece.resize(fitted(piece.size, MASKED), Image.Resampling.LANCZOS)
        tiles += f'<figure><img src="{url(small)}" alt=""><figcaption>{escape(name)}</figcaption></figure>'
    return (
        f'<div class="row follows">{tiles}<figcaption>via {escape(one.via)}, score {one.score:.4f}: a proposal, '
        "to be judged by looking</figcaption></div>"
    )


def joined(first: Image.Image, second: Image.Image, high: int) -> Image.Image:
    """Two pictures side by side, of one height."""
    parts = [each.resize((max(1, round(each.width * high / each.height)), high)) for each in (first, second)]
    both = Image.new("RGB", (parts[0].width + parts[1].width + 6, high), WHITE)
    both.paste(parts[0], (0, 0))
    both.paste(parts[1], (parts[0].width + 6, 0))
    return both


def pair_hit(pair: "Pair", sizes: dict[str, tuple[int, int]]) -> "Hit":
    """The second picture of a pair as a hit for the whole of the first."""
    from artmodels.methods.artminer.evidence.exports import pair_boxes
    from artmodels.methods.artminer.oneshot import Hit

    _, box = pair_boxes(pair, sizes)
    return Hit(pair.second, box, pair.match.score, pair.view, pair.match)
