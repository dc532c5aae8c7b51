"""Collections at scale: seconds and memory against the number of images, and what the shortlist loses.

Real paintings give feature maps by art-resnet, brought to fewer numbers by their principal directions. As many more
images as are wanted are made of these: blocks of cells from anywhere, laid in two layers, blended, and noise is added;
they look like paintings to the search, and share no larger piece. Pairs are planted among the first 200 images: a piece
of one, with noise, is put into another, at its size. A size N takes the first N of all.

Index and shortlist are measured from the descriptors on the disk to the list of pairs, in seconds of the processor, so
that other work on the machine counts little; the exponent is the slope of their log over log N. Recall is the share of
the planted pairs that matching cell by cell accepts (more mutual neighbours at one shift than in any of 1000 unrelated
pairs) which the shortlist has, when it keeps so many images for each. What comes afterwards, comparing the pairs on the
list cell by cell, is not run: a few pairs are timed at the published scales, and their mean is multiplied.

    python benchmarks/artminer_scale.py --sizes 200 --sizes 500
    python benchmarks/artminer_scale.py
"""

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Annotated

import faiss  # noqa: F401 - loaded now, so that its threads are limited too
import numpy as np
import torch
import typer
from common import DATA, Peak
from PIL import Image
from rich.console import Console
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from artmodels import features, images
from artmodels.correspondence.cells import SCALES as PUBLISHED
from artmodels.correspondence.cells import Describer, Pyramid, grid
from artmodels.data.folders import image_files
from artmodels.images.decoding import LoadedImage
from artmodels.methods.artminer.collection.collection import REFERENCE, Collection
from artmodels.methods.artminer.collection.regions import RegionConfig
from artmodels.methods.artminer.collection.shortlist import Candidates, candidates, index_regions, region_index
from artmodels.methods.artminer.discovery import discover
from artmodels.runtime.devices import generator
from artmodels.search.index import ExactIndex, FaissConfig, Index, WhitenedIndex, Whitening

MEMORY = Path("/dev/shm")  # noqa: S108 - there, nothing waits for a disk
SCALES = (36, 20)
PIECE = 10  # cells of the side of what is planted, of 36
BLOCK = 4  # cells of the side of a block
PLANTED = 50
SIZES = [200, 500, 1000, 2000, 5000, 10000]
KEEPS = (20, 50, 100)
EXACT = 2000  # images up to which the shortlist of an exact index is measured too
COMPARED = 10  # pairs that are timed
COLUMNS = ("N", "regions", "add, s", "index, s", "shortlist, s", "both, s", "peak, MiB", "pairs", "compare them, h")


class Made:
    """Maps of real paintings, and of images made of them; a picture's first pixel says which."""

    views = ("",)
    scales = SCALES

    def __init__(self, real: list[Tensor], count: int, noise: float, seed: int) -> None:
        """For so many images, of whose cells the noise is that share; the seed draws what is planted where."""
        self.real, self.count, self.noise, self.seed = real, count, noise, seed
        self.dims = len(real[0])
        cut = [
            each.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).permute(1, 2, 0, 3, 4).flatten(0, 1) for each in real
        ]
        self.blocks = torch.cat(cut)  # [B, D, BLOCK, BLOCK]
        self.fingerprint = hashlib.sha256(f"{len(real)} {count} {noise} {seed}".encode()).hexdigest()
        order = torch.randperm(min(count, SIZES[0]), generator=generator(seed)).tolist()
        half = min(PLANTED, len(order) // 2)
        self.pairs = [(order[n], order[n + half]) for n in range(half)]
        self.source = {second: first for first, second in self.pairs}

    def whole(self, number: int) -> Tensor:
        """The map [D, R, C] of an image without what is planted."""
        if number < len(self.real):
            return self.real[number]
        random = generator(number)
        rows, columns = self._shape(number)
        layers = [self._layer(rows, columns, random) for _ in range(2)]
        return self._noisy(layers[0] + layers[1], random)

    def _layer(self, rows: int, columns: int, random: torch.Generator) -> Tensor:
        """Blocks of cells from any place of any painting, side by side from a corner that is drawn too."""
        down, across = rows // BLOCK + 2, columns // BLOCK + 2
        found = self.blocks[torch.randint(len(self.blocks), (down, across), generator=random)]
        found = found.permute(2, 0, 3, 1, 4).reshape(self.dims, down * BLOCK, across * BLOCK)
        top, left = torch.randint(BLOCK, (2,), generator=random).tolist()
        return found[:, top : top + rows, left : left + columns]

    def _noisy(self, cells: Tensor, random: torch.Generator) -> Tensor:
        noise = torch.randn(cells.shape, generator=random) * (self.noise / self.dims**0.5)
        return F.normalize(F.normalize(cells, dim=0) + noise, dim=0)

    def full(self, number: int) -> Tensor:
        """The map of an image."""
        cells = self.whole(number)
        if number in self.source:
            piece, random = self.whole(self.source[number]), generator(number + 10**6 * (self.seed + 1))
            room = [min(PIECE, *lengths) for lengths in zip(piece.shape[1:], cells.shape[1:], strict=True)]
            starts = torch.rand(2, 2, generator=random)
            (a, b), (c, d) = (
                [int(each * (length - side + 1)) for each, length, side in zip(row, part.shape[1:], room, strict=True)]
                for row, part in zip(starts.tolist(), (piece, cells), strict=True)
            )
            cells = cells.clone()
            chosen = piece[:, a : a + room[0], b : b + room[1]]
            cells[:, c : c + room[0], d : d + room[1]] = self._noisy(chosen, random)
        return cells

    def pyramids(self, loaded: LoadedImage) -> dict[str, Pyramid]:
        """As a describer of a collection."""
        red, green, blue = loaded.pixels[0, 0].tolist()
        cells = self.full((red * 256 + green) * 256 + blue)
        rows, columns = cells.shape[1:]
        small = grid(rows, columns, SCALES[1])
        maps = (cells, F.normalize(F.interpolate(cells[None], small, mode="bilinear", antialias=True)[0], dim=0))
        return {"": Pyramid(maps, loaded.width, loaded.height)}

    def files(self, folder: Path) -> list[Path]:
        """A picture of a few pixels for each image, which names it."""
        made = list[Path]()
        for number in range(self.count):
            height, width = self.real[number].shape[1:] if number < len(self.real) else self._shape(number)
            pixels = np.empty((height, width, 3), np.uint8)
            pixels[:] = (number >> 16, number >> 8 & 255, number & 255)
            made.append(folder / f"{number:06d}.png")
            Image.fromarray(pixels).save(made[-1])
        return made

    def _shape(self, number: int) -> tuple[int, int]:
        tall = torch.rand((), generator=generator(number)) < 0.5
        return grid(*((4, 3) if tall else (3, 4)), SCALES[0])


def real_maps(data: Path, count: int, dims: int) -> list[Tensor]:
    """Maps [D, R, C] of so many paintings, spread over those that there are, in their principal directions."""
    files = image_files(data / "paintings")
    files = files[:: max(len(files) // count, 1)][:count]
    describe = Describer(features.load("art-resnet", until="layer3"), "layer3")
    with torch.inference_mode():
        found = [describe.pyramid(images.load(path).tensor(), SCALES[:1]).maps[0] for path in files]
    cells = torch.cat([each.flatten(1) for each in found], 1).T.clone()
    whitening = Whitening.fit(cells, dims, power=0.0)
    return [whitening(each.flatten(1).T).T.reshape(-1, *each.shape[1:]) for each in found]


def agreeing(one: Tensor, other: Tensor) -> int:
    """Mutual nearest neighbours of two maps that agree on a shift to two cells."""
    scores = one.flatten(1).T @ other.flatten(1)
    there, back = scores.argmax(1).numpy(), scores.argmax(0).numpy()
    cell = np.flatnonzero(back[there] == np.arange(len(there)))
    down = there[cell] // other.shape[2] - cell // one.shape[2]
    across = there[cell] % other.shape[2] - cell % one.shape[2]
    shifts = np.zeros((80, 80), int)
    np.add.at(shifts, (down + 40, across + 40), 1)
    return int(np.lib.stride_tricks.sliding_window_view(shifts, (5, 5)).sum((2, 3)).max())


def accepted(made: Made) -> list[tuple[int, int]]:
    """The planted pairs that matching finds."""
    random = generator(9)
    drawn = torch.randint(min(made.count, 1000), (1000, 2), generator=random).tolist()
    planted = {*made.pairs, *(pair[::-1] for pair in made.pairs)}
    maps = {number: made.full(number) for number in {n for pair in (*drawn, *made.pairs) for n in pair}}
    chance = max(agreeing(maps[a], maps[b]) for a, b in drawn if a != b and (a, b) not in planted)
    return [(a, b) for a, b in made.pairs if agreeing(maps[a], maps[b]) > chance]


def one_index(collection: Collection, kind: str, probes: int) -> Index:
    """An index of the regions of the collection."""
    if kind != "exact":
        config = FaissConfig(kind=kind, probes=probes)  # type: ignore[arg-type]  # which it checks
        return region_index(collection, faiss=config)
    dims = collection.layout.dims
    index = WhitenedIndex(ExactIndex(dims), Whitening.fit(collection.descriptors(), dims))
    index_regions(collection, index)
    return index


def comparing(made: Made) -> float:
    """Seconds of the processor in which a pair is compared both ways, at the published scales."""

    def maps_of(number: int) -> list[Tensor]:
        cells = made.full(number)
        rows, columns = cells.shape[1:]
        return [
            F.normalize(F.interpolate(cells[None], grid(rows, columns, side), mode="bilinear")[0], dim=0)
            for side in (REFERENCE, *PUBLISHED)
        ]

    pictures = [maps_of(number) for number in range(COMPARED + 1)]
    start = time.process_time()
    for one, other in zip(pictures[:-1], pictures[1:], strict=True):
        for reference, target in ((one, other), (other, one)):
            discover(reference[0], target[1:])
    return (time.process_time() - start) / COMPARED


def share(found: Candidates, wanted: list[tuple[int, int]]) -> float:
    """Recall of pairs of numbers."""
    listed = {(int(Path(a).stem), int(Path(b).stem)) for a, b, _ in found}
    return sum((a, b) in listed or (b, a) in listed for a, b in wanted) / max(len(wanted), 1)


def main(
    data: Annotated[Path, typer.Option(help="Folder of images.")] = DATA,
    sizes: Annotated[list[int] | None, typer.Option(help="Numbers of images; again for each.")] = None,
    paintings: Annotated[int, typer.Option(help="Real ones among them.")] = 100,
    kind: Annotated[str, typer.Option(help="ivf, hnsw or exact.")] = "ivf",
    dims: Annotated[int, typer.Option(help="Numbers of a cell, and of a region in the index.")] = 64,
    probes: Annotated[int, typer.Option(help="Cells that ivf searches.")] = 8,
    most: Annotated[int, typer.Option(help="Regions of an image.")] = 100,
    k: Annotated[int, typer.Option(help="Regions that are found for each.")] = 30,
    noise: Annotated[float, typer.Option(help="Of cells, as a share of their length.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Draws what is planted where.")] = 5,
    folder: Annotated[Path | None, typer.Option(help="For the collection, removed again.")] = None,
) -> None:
    """Print seconds, memory, recall and the exponent."""
    if not data.is_dir():
        print(f"Skipped: needs the images of {data} (--data).")
        return
    with threadpool_limits(1), torch.inference_mode():
        torch.set_num_threads(1)
        measure(
            real_maps(data, paintings, dims),
            sorted(sizes or SIZES),
            (kind, probes, most, k),
            noise=noise,
            seed=seed,
            folder=folder or (MEMORY if MEMORY.is_dir() else None),
        )


def measure(
    real: list[Tensor],
    sizes: list[int],
    settings: tuple[str, int, int, int],
    *,
    noise: float,
    seed: int,
    folder: Path | None,
) -> None:
    """Print a row for each size as soon as it is known, and the exponent."""
    (kind, probes, most, k), console = settings, Console(width=160)
    made = Made(real, sizes[-1], noise, seed)
    pairs, each = accepted(made), comparing(made)
    console.print(
        f"{len(real)} paintings; {len(made.pairs)} pairs are planted, and matching cell by cell finds {len(pairs)}\n"
        f"{kind}, {len(real[0])} numbers and {probes} probes, at most {most} regions an image, k {k}, one thread; "
        f"comparing a pair takes {1000 * each:.0f} ms"
    )
    heads = (*COLUMNS, *(f"recall@{keep}" for keep in KEEPS), f"exact index@{KEEPS[0]}")
    console.print("  ".join(heads), highlight=False)
    times = list[float]()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        (pictures := Path(scratch, "pictures")).mkdir()
        files = made.files(pictures)
        collection = Collection.create(Path(scratch, "store"), made, regions=RegionConfig(scales=SCALES, most=most))
        added = 0.0
        for size in sizes:
            start = time.perf_counter()
            collection.add(files[len(collection) : size], made)
            added += time.perf_counter() - start
            with Peak() as peak:
                start = time.process_time()
                index = one_index(collection, kind, probes)
                middle = time.process_time()
                found = candidates(collection, index, k=k, keep=max(KEEPS), exhaustive=0)
                end = time.process_time()
            times.append(end - start)
            recall = [recalled(collection, index, pairs, k, keep) for keep in KEEPS]
            exact = "-"
            if size <= EXACT:
                exact = f"{recalled(collection, one_index(collection, 'exact', 0), pairs, k, min(KEEPS)):.2f}"
            cells = (
                *(str(size), str(len(collection.windows())), f"{added:.0f}", f"{middle - start:.1f}"),
                *(f"{end - middle:.1f}", f"{end - start:.1f}", f"{peak.added_mib:.0f}", str(len(found))),
                *(f"{len(found) * each / 3600:.1f}", *(f"{share:.2f}" for share in recall), exact),
            )
            console.print("  ".join(f"{cell:>{len(head)}}" for cell, head in zip(cells, heads, strict=True)))
    if len(sizes) > 1:
        slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        console.print(f"seconds of index and shortlist grow as N to the power {slope:.2f}")


def recalled(collection: Collection, index: Index, pairs: list[tuple[int, int]], k: int, keep: int) -> float:
    """Recall of a shortlist that keeps so many: the images of the pairs decide, so only these are looked up."""
    wanted = {number for pair in pairs for number in pair}
    names = [name for name in collection.names if int(Path(name).stem) in wanted]
    return share(candidates(collection, index, k=k, keep=keep, names=names, exhaustive=0), pairs)


if __name__ == "__main__":
    typer.run(main)
