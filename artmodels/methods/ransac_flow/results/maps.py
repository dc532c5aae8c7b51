"""Everything that is known of each place of an alignment, as pictures with titles and explanations."""

from dataclasses import replace

from PIL import Image

from artmodels import images
from artmodels.methods.ransac_flow.results import evidence
from artmodels.methods.ransac_flow.results.alignment import Alignment

__all__ = ["explained_maps", "thumbnail"]

FLOW = 640  # px: height of the picture of a flow, which is smooth


def explained_maps(alignment: Alignment, longest: int) -> list[tuple[str, Image.Image, str]]:
    """Give title, picture and explanation of each map.

    Args:
        alignment: With both pictures.
        longest: Pixels of the longer side of a picture, at most.

    Raises:
        ConfigError: There is no alignment.
    """
    differs, height = evidence.changes(alignment), min(alignment.sizes[1][1], FLOW)
    count = len(differs.boxes)
    regions = "1 region differs" if count == 1 else f"{count} regions differ"
    source, target = (images.load(thumbnail(picture.pil(), longest)) for picture in alignment.pictures)
    small = images.load(thumbnail(alignment.image, longest)).tensor()
    coloured = evidence.transferred(replace(alignment, pictures=(source, target), tensor=small))
    return [
        (
            "What differs",
            thumbnail(differs.image, longest),
            f"{regions}: something is lost, added or drawn otherwise, or cannot be matched. Other colours and "
            "another exposure do not count.",
        ),
        (
            "Its colours",
            images.to_pil(coloured),
            "The target with the colours of the source, where it can be matched: for an old photograph.",
        ),
        (
            "Matchability",
            thumbnail(evidence.heat(alignment), longest),
            "How sure each place is: bright where the source shows it, bare where it does not.",
        ),
        (
            "There and back",
            thumbnail(evidence.heat(alignment, "error"), longest),
            "How far a place ends from where it began, going to the source and back: bright from 8 pixels.",
        ),
        (
            "Flow",
            evidence.flow_picture(alignment, height=height),
            "Where each pixel comes from: the hue is the direction, the strength the distance, as on the wheel.",
        ),
        (
            "Fine flow",
            evidence.flow_picture(alignment, fine=True, height=height),
            "What the fine stage adds to the homographies, as on the wheel.",
        ),
        ("The wheel", evidence.flow_wheel(200), "The colour at a place is that of a flow from the centre to it."),
    ]


def thumbnail(picture: Image.Image, longest: int) -> Image.Image:
    """A copy with at most so many pixels on the longer side."""
    small = picture.convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return small
