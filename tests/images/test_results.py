"""How results show themselves in a notebook."""

import io
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from artmodels.detections.annotations import Detections
from artmodels.images.results import ImageResult, Tabular
from artmodels.methods.artminer.discovery import Match
from artmodels.methods.artminer.groups.clusters import Cluster
from artmodels.methods.artminer.groups.pairtable import Pair
from artmodels.methods.artminer.oneshot import Hit, Searched
from artmodels.methods.region_features.pipeline import Regions


def test_an_image_is_shown_as_png_and_reduced_where_it_is_large() -> None:
    tensor = torch.rand(1, 3, 10, 3000)
    result = ImageResult(tensor=tensor, settings={}, seconds=0.0)
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert (shown.format, shown.size) == ("PNG", (1024, 3))
    assert result.image.size == (3000, 10)
    small = ImageResult(tensor=tensor[..., :20], settings={}, seconds=0.0)
    with Image.open(io.BytesIO(small._repr_png_())) as shown:
        assert shown.tobytes() == small.image.tobytes()


class Cells(HTMLParser):
    """The texts of the cells, row by row, and all tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.rows and self.lasttag in ("td", "th"):
            self.rows[-1].append(data)


MATCH = Match(
    score=0.25,
    transform=torch.eye(3),
    reference_cells=torch.tensor([[0, 1], [2, 3]]),
    target_cells=torch.tensor([[4, 5], [6, 7]]),
    similarity=torch.tensor([0.5, 0.75]),
    reference_shape=(8, 8),
    target_shape=(9, 9),
)
PAIR = Pair("a.png", "<b>.png", MATCH, "mirror")
BOXES = np.array([[1.0, 2.0, 30.4, 40.6]])


@pytest.mark.parametrize(
    ("result", "title", "rows"),
    [
        (
            Detections(image="a.png", width=64, height=48, boxes=BOXES, scores=np.array([0.5]), labels=("<script>",)),
            "a.png, 64 x 48 pixels: 1 found",
            [["class", "score", "left", "top", "right", "bottom"], ["<script>", "0.500", "1", "2", "30", "41"]],
        ),
        (
            Regions(torch.from_numpy(BOXES).float(), torch.tensor([0.25]), torch.rand(1, 4), 64, 48),
            "1 regions of 64 x 48 pixels",
            [["objectness", "left", "top", "right", "bottom"], ["0.250", "1", "2", "30", "41"]],
        ),
        (
            Searched(
                (Hit("a.png", (1, 2, 3, 4), 0.75, "mirror"), Hit("b.png", (0, 0, 1, 1), 0.1)),
                query="q.png",
                box=(0, 0, 5, 5),
                cells=(3, 3),
                model="m",
                threshold=0.5,
            ),
            "1 places with a score of 0.500 or more, 1 below",
            [
                ["picture", "score", "left", "top", "right", "bottom", "turned"],
                ["a.png", "0.750", "1", "2", "3", "4", "mirror"],
            ],
        ),
        (
            MATCH,
            "Score 0.250",
            [
                ["row", "column", "row of the target", "its column", "similarity"],
                ["2", "3", "6", "7", "0.750"],
                ["0", "1", "4", "5", "0.500"],
            ],
        ),
        (PAIR, "a.png and &lt;b&gt;.png, turned: mirror. Score 0.250", None),
        (
            Cluster(images=("a.png", "<b>.png"), pairs=(PAIR,), support=(1.0, 0.5)),
            "2 pictures, 1 pairs, score 0.250",
            [["picture", "support"], ["a.png", "1.000"], ["<b>.png", "0.500"]],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Tabular) else "",
)
def test_boxes_and_matches_are_shown_as_a_table(result: Tabular, title: str, rows: list[list[str]] | None) -> None:
    shown = result._repr_html_()
    found = Cells(shown)
    assert title in shown
    assert rows is None or found.rows == rows
    assert found.tags == {"p", "table", "thead", "tbody", "tr", "td", "th"}


def test_a_long_table_is_cut() -> None:
    count = 23
    found = Detections(
        image="a.png", width=64, height=48, boxes=BOXES.repeat(count, 0), scores=np.ones(count), labels=("x",) * count
    )
    shown = found._repr_html_()
    assert len(Cells(shown).rows) == 21 and "and 3 more" in shown
