"""RANSAC-Flow on paintings that nothing was trained on, with exact truth: how far off, what is found, what is made up.

Squares of paintings and what a known map makes of them. "worn": a homography and thin-plate splines, and another
exposure, blur, noise or JPEG. "restyled": the target also is in another hand, of two styles that no network was trained
to withstand, an engraving, or a negative as an X-ray is. "occluded": both also are covered in part, and the target is
turned by up to 15 degrees, zoomed and shifted.

The first table: error over what both show; where no alignment was found, each place counts as staying where it is. DIS
and Farneback are OpenCV's flows of grey pictures after the same coarse stage. Seconds of a pair are those of the coarse
stage, features included, and what the others add to it. The second: which score claims fewest pairs of different
paintings to match, and most true ones. Thresholds are chosen on the pairs of one seed and measured on those of another;
both seeds draw from the same paintings.

    python benchmarks/ransac_flow.py
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
import torch
import typer
from common import ROOT, table_of
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence import geometry
from artmodels.correspondence.ransac import log_nfa
from artmodels.data import folders
from artmodels.data.folders import Crops, ImageSet
from artmodels.images.resampling import resized
from artmodels.methods.art_resnet.train import UNSEEN_STYLES
from artmodels.methods.art_resnet.views import Views, degraded
from artmodels.methods.ransac_flow.evaluation.evaluate import LIMITS, Example, Truth, endpoint_errors, evaluate
from artmodels.methods.ransac_flow.pipeline import Prepared, RansacFlow, RansacFlowConfig
from artmodels.methods.ransac_flow.results.alignment import Alignment
from artmodels.methods.ransac_flow.training.synthetic import WarpConfig, WarpedPairs, Warper, covers, make_pairs
from artmodels.methods.ransac_flow.training.train import Hands
from artmodels.runtime.devices import generator

SHARED = ROOT.parent / "shared"
LEVELS = ["worn", "restyled", "occluded"]
TURN, ZOOM, SHIFT = math.radians(15), (0.6, 1.4), 0.2  # SHIFT is relative, a tenth of a side
ENGRAVED, NEGATIVE = 0.3, 0.15
RIGHT = 24  # px at 480: what the fine stage can make good
RATES = (0.0, 0.05, 0.1)  # of pairs of different paintings
SCORES = ("inliers", "inliers / matches", "mean matchability", "-log10 NFA")


class Turned(Warper):
    """Maps that also turn, zoom and shift a square."""

    def __call__(self, count: int, rng: torch.Generator) -> Tensor:
        """Draw them."""
        maps = super().__call__(count, rng)
        angle, zoom, across, down = torch.rand(4, count, generator=rng)
        angle = (2 * angle - 1) * TURN
        scale = ZOOM[0] * (ZOOM[1] / ZOOM[0]) ** zoom
        cosine, sine = scale * angle.cos(), scale * angle.sin()
        matrix = torch.eye(3).repeat(count, 1, 1)
        matrix[:, 0] = torch.stack([cosine, -sine, (2 * across - 1) * SHIFT], 1)
        matrix[:, 1] = torch.stack([sine, cosine, (2 * down - 1) * SHIFT], 1)
        return geometry.apply(matrix, maps.flatten(1, 2)).view(maps.shape)


class Maker:
    """Makes pairs of a difficulty."""

    def __init__(self, paintings: Path, weights: Path, side: int) -> None:
        """Read paintings that are held out, and the styles."""
        files = folders.split(folders.image_files(paintings))[1]
        self.images, self.side = ImageSet.load(files, side=side * 5 // 4), side
        self.crops = Crops(size=side, smallest=0.5, flips=False)
        views = Views(weights, UNSEEN_STYLES, stylised=1.0, arbitrary=0.0, paintings=self.images)
        self.hands = Hands(views, ENGRAVED, NEGATIVE)
        unit = side / 480
        warp = WarpConfig(bend=12 * unit, ripple=3 * unit, corners=30 * unit, covered=0, apart=0)
        self.plain, self.turned = (kind(warp, side, side) for kind in (Warper, Turned))

    def __call__(self, count: int, difficulty: str, seed: int) -> list[WarpedPairs]:
        """Pairs of one each, of different paintings as long as there are."""
        rng = generator(seed)
        order = torch.randperm(len(self.images.images), generator=rng).tolist()
        return [
            self._one([order[(number + k) % len(order)] for k in range(3)], difficulty, rng) for number in range(count)
        ]

    def _one(self, numbers: Sequence[int], difficulty: str, rng: torch.Generator) -> WarpedPairs:
        # Two things cover: the same one on both pictures would be a second alignment, and a right one.
        picture, above, below = (self.crops(ImageSet((self.images.images[n],)), 1, rng) for n in numbers)
        made = make_pairs(picture, above, self.turned if difficulty == "occluded" else self.plain, rng)
        if difficulty == "worn":
            return dataclasses.replace(made, target=degraded(made.target, rng))
        made = dataclasses.replace(made, source=degraded(made.source, rng), target=self.hands(made.target, rng))
        if difficulty == "restyled":
            return made
        over, under = covers(2, self.side, self.side, 1.0, rng).split(1)  # type: ignore[no-untyped-call]  # torch's own
        there = F.grid_sample(over, made.grid, align_corners=False)
        seen = made.seen * (under < 0.5) * (there < 0.5)
        return WarpedPairs(made.source.lerp(above, over), made.target.lerp(below, under), made.grid, seen)


class Made(NamedTuple):
    """A pair, ready to be aligned, and the CPU seconds of its coarse stage."""

    source: Prepared
    target: Prepared
    seen: Tensor
    truth: Truth
    seconds: float


def prepared(aligner: RansacFlow, pairs: WarpedPairs) -> Made:
    """Describe both once for all methods."""
    side = pairs.grid.shape[1]
    seen = pairs.seen[0, 0] > 0.5
    source, target = (aligner.prepare(each.clamp(0, 1)) for each in (pairs.source, pairs.target))
    start = time.process_time()
    aligner(source, target, fine=False)
    seconds = time.process_time() - start
    everything = torch.ones(int(seen.sum()), dtype=torch.bool)
    truth = Truth(geometry.identity(side, side)[seen], pairs.grid[0][seen], (side, side), {"seen": everything})
    return Made(source, target, seen, truth, seconds)


class Classical:
    """OpenCV's flow instead of the fine stage."""

    def __init__(self, aligner: RansacFlow, flow: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        """Take a flow of grey pictures, from the first to the second."""
        self.aligner, self.flow = aligner, flow

    def __call__(self, source: Prepared, target: Prepared) -> Alignment:
        """Align a pair."""
        result = self.aligner(source, target, fine=False)
        if result.warp is None:
            return result
        height, width = result.warp.which.shape
        moved, _ = result.warp.read(source.picture.tensor(), height, width, cubic=False)
        there = resized(target.picture.tensor(), (height, width)).clamp(0, 1)
        grey = [(255 * each.mean(1)[0]).round().byte().numpy() for each in (there, moved)]
        flow = torch.from_numpy(self.flow(*grey)) * 2 / torch.tensor([width, height])
        return dataclasses.replace(
            result, warp=dataclasses.replace(result.warp, displacement=flow.permute(2, 0, 1).contiguous())
        )


class Timed:
    """A method, and the CPU seconds of each of its calls."""

    def __init__(self, method: Callable[[Prepared, Prepared], Alignment]) -> None:
        """Take it."""
        self.method, self.seconds = method, list[float]()

    def __call__(self, source: Prepared, target: Prepared) -> Alignment:
        """Align a pair."""
        start = time.process_time()
        result = self.method(source, target)
        self.seconds.append(time.process_time() - start)
        return result


def methods(aligner: RansacFlow, once: RansacFlow) -> dict[str, Callable[[Prepared, Prepared], Alignment]]:
    """By name; each starts from the same coarse stage."""
    start: Any = None  # no flow to start from, which OpenCV's types do not know
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.calcOpticalFlowFarneback(first, second, start, 0.5, 4, 15, 3, 5, 1.1, 0))

    def coarse(source: Prepared, target: Prepared) -> Alignment:
        return aligner(source, target, fine=False)

    return {
        "nothing": lambda source, target: dataclasses.replace(coarse(source, target), warp=None),
        "coarse": coarse,
        "coarse, DIS": Classical(aligner, lambda first, second: dis.calc(first, second, start)),
        "coarse, Farneback": Classical(aligner, farneback),
        "coarse, fine, one pass": once,
        "coarse, fine": aligner,
    }


class Claim(NamedTuple):
    """What speaks for an alignment of a pair."""

    difficulty: str
    related: bool
    right: bool
    scores: tuple[float, ...]


def claim(lenient: RansacFlow, source: Made, target: Made, difficulty: str) -> tuple[Claim, Tensor]:
    """Align two pictures whatever comes out, and give its scores and matchability."""
    related = source is target
    result = lenient(source.source, target.target)
    right = False
    if related and result.warp is not None:
        truth = target.truth
        errors = endpoint_errors(result.warp.at(truth.target), truth.source, truth.size)
        right = float(errors.median()) <= RIGHT * truth.size[0] / 480
    share = result.inliers / max(result.matches, 1)
    nfa = log_nfa(result.matches, result.inliers, lenient.config.tolerance)
    scores = (result.inliers, share, float(result.matchability.mean()), -nfa)
    return Claim(difficulty, related, right, scores), result.matchability


def claims(lenient: RansacFlow, made: Sequence[Made], difficulty: str) -> tuple[list[Claim], float]:
    """Of all true pairs and as many of different paintings, and the area under the curve of the matchability."""
    found, told, shown = list[Claim](), list[Tensor](), list[Tensor]()
    for number, each in enumerate(made):
        true, trust = claim(lenient, each, each, difficulty)
        seen = F.interpolate(each.seen[None, None].float(), tuple(trust.shape), mode="nearest")[0, 0]
        told.append(trust.flatten())
        shown.append(seen.flatten())
        # Not the next one, of which parts may cover this.
        other = made[number - len(made) // 2]
        found += [true, claim(lenient, each, other, difficulty)[0]]
    return found, float(roc_auc_score(torch.cat(shown).numpy() > 0.5, torch.cat(told).numpy()))


def accuracy(
    console: Console, aligner: RansacFlow, once: RansacFlow, made: Sequence[Made], difficulty: str, area: float
) -> None:
    """Print the table of a difficulty."""
    headings = ("method", "found, %", "mean", "median", *(f"within {limit} px, %" for limit in LIMITS), "CPU seconds")
    table = table_of(f"{difficulty}: {len(made)} pairs; px of {made[0].truth.size[0]}", headings, left=("method",))
    # An aligner also takes pictures that are prepared, so that they are described once.
    examples = [Example(each.source, each.target, each.truth) for each in made]  # type: ignore[arg-type]
    again = [0.0] * len(made)  # what the coarse stage takes once both are described
    for name, method in methods(aligner, once).items():
        timed = Timed(method)
        scores = evaluate(timed, examples)["seen"]  # type: ignore[arg-type]
        if name == "coarse":
            again, seconds = timed.seconds, f"{np.median([each.seconds for each in made]):.2f}"
        else:
            seconds = f"{np.median(np.subtract(timed.seconds, again)):+.2f}"
        table.add_row(
            name,
            f"{100 * scores.found.mean():.0f}",
            f"{scores.aepe:.2f}",
            f"{scores.median:.2f}",
            *(f"{100 * share:.1f}" for share in scores.pair_pck.values()),
            "" if name == "nothing" else seconds,
        )
    console.print(table)
    others = [made[number - len(made) // 2] for number in range(len(made))]
    unrelated = sum(aligner(each.source, other.target).found for each, other in zip(made, others, strict=True))
    console.print(f"{unrelated} of {len(made)} pairs of different paintings are claimed to match.")
    console.print(f"Matchability tells what both show with an area under the curve of {area:.3f}.\n")


def thresholds(chosen: Sequence[Claim], measured: Sequence[Claim]) -> Table:
    """The table of claims."""
    levels = list(dict.fromkeys(each.difficulty for each in measured))
    found = [f"{level}, found, %" for level in levels]
    table = table_of(
        "claims by a score that is above a threshold",
        ("score", "chosen for, %", "threshold", "false, %", *found, "found and right, %"),
        left=("score",),
    )
    true = [each for each in measured if each.related]
    for number, name in enumerate(SCORES):
        false = sorted((each.scores[number] for each in chosen if not each.related), reverse=True)
        for rate in RATES:
            threshold = false[int(rate * len(false))]

            def share(some: Sequence[Claim], n: int = number, above: float = threshold) -> str:
                return f"{100 * np.mean([each.scores[n] > above for each in some]):.0f}"

            right = np.mean([each.right and each.scores[number] > threshold for each in true])
            table.add_row(
                name,
                f"{100 * rate:.0f}",
                f"{threshold:.3g}",
                share([each for each in measured if not each.related]),
                *(share([each for each in true if each.difficulty == level]) for level in levels),
                f"{100 * right:.0f}",
            )
    right_share = float(np.mean([each.right for each in true]))
    table.caption = (
        f"of {len(true)} true pairs, {100 * right_share:.0f} % of which are right (median error <= {RIGHT} px of 480), "
        f"and {len(measured) - len(true)} of different paintings"
    )
    return table


def load(weights: str, side: int, **options: Any) -> RansacFlow:
    """The checkpoint with other settings, or untrained."""
    if weights == "random":
        return RansacFlow(RansacFlowConfig(side=side, **options), device="cpu")
    return RansacFlow.from_pretrained(weights, device="cpu", side=side, **options)


def main(
    pairs: Annotated[int, typer.Option(help="Pairs of each difficulty, at least 2.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the pairs that are reported.")] = 1,
    choose: Annotated[int, typer.Option(help="Seed of those that thresholds are chosen on; -1 leaves them out.")] = 0,
    weights: Annotated[str, typer.Option(help='A checkpoint: a name, a folder, or "random".')] = "ransac-flow",
    difficulty: Annotated[list[str], typer.Option(help="Repeat for more.")] = LEVELS,
    data: Annotated[Path, typer.Option(help="Folder that holds paintings.")] = SHARED / "data",
    side: Annotated[int, typer.Option(help="Of the pictures, in pixels; a multiple of 16.")] = 480,
    threads: Annotated[int, typer.Option(help="Of PyTorch and OpenCV.")] = 1,
) -> None:
    """Print the tables."""
    console = Console(width=140)
    if not (data / "paintings").is_dir():
        console.print(f"Skipped: needs the paintings of {data} (--data).")
        return
    if pairs < 2 or not set(difficulty) <= set(LEVELS):
        raise typer.BadParameter(f"give at least 2 pairs, and difficulties of {', '.join(LEVELS)}")
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    maker = Maker(data / "paintings", ROOT / "weights", side)
    aligner = load(weights, side)
    once = load(weights, side, passes=(1.0,))
    # Gives whatever is best, for any rule to judge.
    lenient = load(weights, side, least=0, share=0.0, certainty=-math.inf, accepted=0.0, most=1)
    console.print(f"{weights}, {len(aligner.config.views)} views, {aligner.config.hypotheses} samples, seed {seed}\n")
    chosen, measured = list[Claim](), list[Claim]()
    for level in difficulty:
        made = [prepared(aligner, each) for each in maker(pairs, level, seed)]
        found, area = claims(lenient, made, level)
        accuracy(console, aligner, once, made, level, area)
        measured += found
        if choose >= 0:
            others = [prepared(aligner, each) for each in maker(pairs, level, choose)]
            chosen += claims(lenient, others, level)[0]
    if chosen:
        console.print(thresholds(chosen, measured))
        console.print(f"Thresholds are chosen on seed {choose}, for that share of false claims; measured on {seed}.")


if __name__ == "__main__":
    typer.run(main)
