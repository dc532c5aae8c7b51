"""What several benchmarks need: where images and networks are, tables, sheets of pictures, and peaks of memory."""

import resource
import threading
from collections.abc import Container, Sequence
from pathlib import Path

from PIL import Image
from rich.table import Table
from torch import Tensor

from artmodels import images

ROOT = Path(__file__).parent.parent
DATA, NETWORKS = ROOT.parent / "shared" / "data", ROOT.parent / "shared" / "teachers"


def table_of(title: str | None, headings: Sequence[str], *, left: Container[str] = ()) -> Table:
    """A table of numbers, aligned at the right, but for the columns whose headings are in `left`."""
    made = Table(title=title)
    for heading in headings:
        made.add_column(heading, justify="left" if heading in left else "right")
    return made


def contact_sheet(rows: Sequence[Sequence[Image.Image | Tensor]], *, gap: int = 4) -> Image.Image:
    """Pictures in rows, with so many white pixels between them; those of a row are of one height."""
    cells = [[cell if isinstance(cell, Image.Image) else images.to_pil(cell) for cell in row] for row in rows]
    width = max(sum(cell.width + gap for cell in row) for row in cells) - gap
    made = Image.new("RGB", (width, sum(row[0].height + gap for row in cells) - gap), "white")
    top = 0
    for row in cells:
        left = 0
        for cell in row:
            made.paste(cell, (left, top))
            left += cell.width + gap
        top += row[0].height + gap
    return made


class Peak:
    """Most anonymous memory of this process while it runs: what it allocated, without the pages of mapped files."""

    def __enter__(self) -> "Peak":
        """Begin to watch."""
        self._before, self._over = self._now(), threading.Event()
        self._most = self._before
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()

    @property
    def mib(self) -> float:
        """Most MiB in all."""
        return self._most / 2**20

    @property
    def added_mib(self) -> float:
        """MiB beyond what the process had before."""
        return (self._most - self._before) / 2**20

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self._most = max(self._most, self._now())

    @staticmethod
    def _now() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
