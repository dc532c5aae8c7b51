"""ArtMiner on the user's downloads of Brueghel, LTLL and Oxford5K, beside the published figures.

Name the folder of one set or more; pictures may lie in sub-folders. The annotation of Brueghel and the labels of LTLL
are the JSON files of the released ArtMiner; Oxford5K's ground truth is the official one. Pictures are compared as they
are, not mirrored, as published.

    python benchmarks/artminer_published.py --brueghel FOLDER --queries brueghelTest.json --validation brueghelVal.json
    python benchmarks/artminer_published.py --ltll FOLDER --labels ltllLabel.json
    python benchmarks/artminer_published.py --oxford FOLDER --truth gt_files_170407
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from artmodels.correspondence.cells import SCALES, Pyramid
from artmodels.data import folders
from artmodels.errors import DatasetError, some
from artmodels.methods.artminer import ArtMiner, Collection
from artmodels.methods.artminer.evaluation.brueghel import By, hold_out, leaks, read_queries, stream_one_shot
from artmodels.methods.artminer.evaluation.landmarks import (
    LandmarkBy,
    oxford_mean,
    read_ltll,
    read_oxford,
    stream_ltll_answers,
    stream_oxford_rankings,
    top_1_accuracy,
)
from artmodels.methods.artminer.evaluation.published import COSINE, DISCOVERY, POOLED, published_table
from artmodels.progress import result_of

Ours = dict[tuple[str, str], float]
LANDMARK: tuple[tuple[LandmarkBy, str], ...] = (("discovery", DISCOVERY), ("pooled", POOLED))
ONE_SHOT: tuple[tuple[By, str], ...] = (("cosine", COSINE), ("discovery", DISCOVERY))


class Named:
    """A collection whose pictures have the names of a benchmark."""

    def __init__(self, collection: Collection, files: Mapping[str, Path]) -> None:
        """Take the file of each name."""
        self.collection, self.files = collection, files
        self.names: Sequence[str] = tuple(files)

    def size(self, name: str) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.collection.size(str(self.files[name]))

    def pyramid(self, name: str, view: str = "") -> Pyramid:
        """Features of one."""
        return self.collection.pyramid(str(self.files[name]), view)

    def picture(self, name: str) -> Path | None:
        """Its file, if it is as it was."""
        return self.collection.picture(str(self.files[name]))

    def path(self, name: str) -> Path:
        """Its file."""
        return self.files[name]


def located(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The file of each name: that path in the folder, or the only file below it of that name, with or without suffix.

    Raises:
        DatasetError: Names have no file, or several.
    """
    files = defaultdict[str, set[Path]](set)
    for file in folders.image_files(folder, ["."]):
        for name in (file.relative_to(folder).as_posix(), file.name, file.stem):
            files[name].add(file)
    wanted = list(names)
    missing = [name for name in wanted if len(files[name]) != 1]
    if missing:
        raise DatasetError(f"{len(missing)} of {len(wanted)} pictures are not once in {folder}: {some(missing)}")
    return {name: next(iter(files[name])) for name in wanted}


def main(
    brueghel: Annotated[Path | None, typer.Option(help="Folder of Brueghel's pictures; with --queries.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Its annotation, brueghelTest.json.")] = None,
    validation: Annotated[Path | None, typer.Option(help="What the network was chosen on: leaks are counted.")] = None,
    held_out: Annotated[int, typer.Option(help="Categories that were tuned on and are left out of the test.")] = 0,
    ltll: Annotated[Path | None, typer.Option(help="Folder of LTLL's pictures; with --labels.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Its labels, ltllLabel.json.")] = None,
    oxford: Annotated[Path | None, typer.Option(help="Folder of Oxford5K's pictures; with --truth.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Folder of its ground truth.")] = None,
    weights: Annotated[str, typer.Option(help="A checkpoint of ArtMiner: a name, or a folder.")] = "artminer-paintings",
    paper: Annotated[bool, typer.Option(help="The seven scales of the paper, or those of the checkpoint.")] = True,
    work: Annotated[Path | None, typer.Option(help="Where features are kept while it runs.")] = None,
    threads: Annotated[int, typer.Option(help="Of PyTorch; 0 keeps its own number.")] = 0,
) -> None:
    """Print a table for each set."""
    if threads:
        torch.set_num_threads(threads)
    for folder, other, needed in ((brueghel, queries, "queries"), (ltll, labels, "labels"), (oxford, truth, "truth")):
        if (folder is None) != (other is None):
            raise typer.BadParameter(f"a folder of pictures and --{needed} belong together: give both")
    console = Console(width=160)
    options: dict[str, Any] = {"scales": SCALES, "reference": 40} if paper else {}
    miner = ArtMiner.from_pretrained(weights, views=("",), **options)

    def show(benchmark: str, ours: Ours) -> None:
        console.print(published_table(benchmark, ours, network=weights), markup=False, soft_wrap=True)

    with tempfile.TemporaryDirectory(dir=work) as scratch:

        def described(name: str, files: Mapping[str, Path]) -> Named:
            held = Collection.create(Path(scratch, name), miner)
            held.add(list(files.values()), miner)
            if held.skipped:
                raise DatasetError(f"{len(held.skipped)} pictures cannot be read: {some(list(held.skipped))}")
            return Named(held, files)

        if brueghel is not None and queries is not None:
            asked = read_queries(queries)
            if validation is not None:
                console.print(str(leaks(asked, read_queries(validation))))
            if held_out:
                tuning, asked = hold_out(asked, held_out)
                console.print(f"Left out of the test: {', '.join(tuning.categories)}.")
            # Those without a query are searched, too.
            files = located(brueghel, asked.images)
            others = set(folders.image_files(brueghel, ["."])) - set(files.values())
            files |= {file.relative_to(brueghel).as_posix(): file for file in sorted(others)}
            held = described("brueghel", files)
            ours = Ours()
            for by, method in ONE_SHOT:
                scores = result_of(stream_one_shot(miner, asked, held, held.path, by=by), progress=True)
                ours[weights, f"{method}, mean of categories"] = scores.category_mean
                ours[weights, f"{method}, mean of queries"] = scores.mean
            show("Brueghel", ours)
        if ltll is not None and labels is not None:
            known = read_ltll(labels)
            held = described("ltll", located(ltll, dict.fromkeys([*known.queries, *known.database])))
            ours = Ours()
            for rank, method in LANDMARK:
                answers = result_of(stream_ltll_answers(miner, known, held, by=rank), progress=True)
                ours[weights, method] = top_1_accuracy(known, answers)
                if known.validation:
                    unseen = top_1_accuracy(known, answers, without_validation=True)
                    ours[weights, f"{method}, without the validation"] = unseen
            show("LTLL", ours)
        if oxford is not None and truth is not None:
            wanted = read_oxford(truth)
            every = {file.stem: file for file in folders.image_files(oxford, ["."])}
            named = {query.image for query in wanted} | {name for query in wanted for name in query.positives}
            located(oxford, sorted(named))
            held = described("oxford", every)
            ours = Ours()
            for rank, method in LANDMARK:
                rankings = result_of(stream_oxford_rankings(miner, wanted, held, held.path, by=rank), progress=True)
                ours[weights, method] = oxford_mean(wanted, rankings, released=True)
                ours[weights, f"{method}; official, without junk"] = oxford_mean(wanted, rankings)
            show("Oxford5K", ours)


if __name__ == "__main__":
    typer.run(main)
