"""What a method that makes an image returns."""

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from PIL import Image
from torch import Tensor

from artmodels import images

__all__ = ["ImageResult", "Tabular"]

SHOWN_SIDE = 1024  # px: of an image in a notebook
SHOWN_ROWS = 20  # of a table in a notebook


class Tabular:
    """A result that a notebook shows as a small table."""

    def _table(self) -> tuple[str, Sequence[str], Iterable[Sequence[object]]]:
        """A line above the table, the heads of its columns, and its rows; numbers are shown with three decimals."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """What a notebook shows: the first rows, and how many more there are."""
        title, heads, rows = self._table()
        every = list(rows)
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in every[:SHOWN_ROWS])
        head = "".join(f"<th>{escape(text)}</th>" for text in heads)
        more = f"<p>and {len(every) - SHOWN_ROWS} more</p>" if len(every) > SHOWN_ROWS else ""
        return f"<p>{escape(title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: object) -> str:
    return f"<td>{escape(f'{value:.3f}' if isinstance(value, float) else str(value))}</td>"


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """An image and how it came about.

    Attributes:
        tensor: [1, 3, H, W] in [0, 1], on the CPU.
        settings: Everything needed to make it again, ready for JSON.
        losses: Value of the objective at each step; empty for feed-forward methods.
        seconds: Time it took.
        complete: False when a deadline ended it early.
        notes: What a user should know, in plain sentences: how an input was read, what was changed or cut short.
        origin: Author, rights, date and size in print, which `save` writes: those of the picture that it was made of.
    """

    tensor: Tensor = field(repr=False)
    settings: Mapping[str, Any]
    losses: tuple[float, ...] = field(default=(), repr=False)
    seconds: float
    complete: bool = True
    notes: tuple[str, ...] = ()
    origin: images.Origin | None = None

    @property
    def image(self) -> Image.Image:
        """The image as 8-bit RGB."""
        return images.to_pil(self.tensor)

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the image, reduced where it is large."""
        shown, file = self.image.copy(), io.BytesIO()
        shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        shown.save(file, "PNG")
        return file.getvalue()

    @property
    def metadata(self) -> dict[str, str]:
        """What `save` writes into the file: the seed on its own, if there is one, all settings as JSON, and notes."""
        seed = {"seed": str(self.settings["seed"])} if "seed" in self.settings else {}
        notes = {"notes": "\n".join(self.notes)} if self.notes else {}
        return seed | {"artmodels": json.dumps(self.settings, sort_keys=True)} | notes

    def save(self, path: str | os.PathLike[str], *, quality: int | None = None) -> None:
        """Write a file that carries its settings and notes; it appears whole or not at all.

        The settings are text in a PNG, and XMP in a JPEG or WebP; `artmodels.images.read_metadata` reads them.

        Args:
            path: File to write, in a folder that exists; it ends in `.png`, `.jpg`, `.jpeg` or `.webp`.
            quality: 1 to 100, of JPEG and WebP; a WebP of 100 is without loss. None is 92.

        Raises:
            ConfigError: `quality` is out of range, or the path has another ending.
            ArtModelsError: The file could not be written.
        """
        images.save(self.image, path, metadata=self.metadata, origin=self.origin, quality=quality)
