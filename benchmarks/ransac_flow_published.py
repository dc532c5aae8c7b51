"""RANSAC-Flow on the benchmarks of its paper, beside what is published.

On the user's own downloads of HPatches, KITTI 2015 flow, MegaDepth's 1600 pairs, RobotCar's correspondences, and pairs
with known cameras (YFCC100M).

    python benchmarks/ransac_flow_published.py --hpatches hpatches-sequences-release

Settings are the paper's: 480 px, 7 scales up to twice the target's size, 10 000 samples and one pass of the fine stage;
one homography and 50 000 samples on HPatches; on KITTI 800 px, 3 scales up to 1.2 times, and two passes, at 325 and
650 px; targets at four turns for poses. Ours differ by the published evaluation's rounding of points to whole pixels
and its grids of the corners of pixels, of at most half a pixel.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from artmodels.methods.ransac_flow.evaluation.evaluate import Aligner, evaluate, evaluate_poses
from artmodels.methods.ransac_flow.evaluation.protocols import (
    DIFFICULTIES,
    SPARSE_LIMITS,
    read_hpatches,
    read_kitti,
    read_poses,
    read_sparse,
)
from artmodels.methods.ransac_flow.evaluation.published import published_table
from artmodels.methods.ransac_flow.evaluation.twoview import pose_accuracy
from artmodels.methods.ransac_flow.pipeline import RansacFlow

LIMITS = (1, 3, 5)
PAPER = {
    "views": ("",),
    "side": 480,
    "reach": 2.0,
    "steps": 3,
    "looks": 1,
    "most": 11,
    "hypotheses": 10_000,
    "passes": (1.0,),
    "certainty": 25.0,
}
HPATCHES = {**PAPER, "most": 1, "hypotheses": 50_000}
KITTI = {**PAPER, "hypotheses": 50_000, "side": 800, "reach": 1.2, "steps": 1, "passes": (325 / 800, 650 / 800)}
POSES = {**PAPER, "views": ("", "90", "180", "270")}
POSE_LIMITS = ((5,), (5, 10), (5, 10, 15, 20))


def main(
    hpatches: Annotated[Path | None, typer.Option(help="Folder of the full sequences.")] = None,
    kitti: Annotated[Path | None, typer.Option(help="Folder `training` of KITTI 2015.")] = None,
    megadepth: Annotated[Path | None, typer.Option(help="Folder of the pictures; with --megadepth-table.")] = None,
    megadepth_table: Annotated[Path | None, typer.Option(help="Its correspondences, test1600Pairs.csv.")] = None,
    robotcar: Annotated[Path | None, typer.Option(help="Folder of the pictures; with --robotcar-table.")] = None,
    robotcar_table: Annotated[Path | None, typer.Option(help="Its correspondences, test6511.csv.")] = None,
    yfcc: Annotated[Path | None, typer.Option(help="Folder of the pictures; with --cameras.")] = None,
    cameras: Annotated[Path | None, typer.Option(help="Pairs and cameras: see `protocols.read_poses`.")] = None,
    weights: Annotated[str, typer.Option(help="A checkpoint of RansacFlow: a name, or a folder.")] = "ransac-flow",
    threads: Annotated[int, typer.Option(help="Of PyTorch; 0 keeps its own number.")] = 0,
) -> None:
    """Print a table for each set."""
    if threads:
        torch.set_num_threads(threads)
    for folder, table, needed in (
        (megadepth, megadepth_table, "megadepth-table"),
        (robotcar, robotcar_table, "robotcar-table"),
        (yfcc, cameras, "cameras"),
    ):
        if (folder is None) != (table is None):
            raise typer.BadParameter(f"a folder of pictures and --{needed} belong together: give both")
    console = Console(width=160)

    def show(benchmark: str, ours: dict[str, list[float]], note: str = "") -> None:
        named = {f"{weights}, {stages}": values for stages, values in ours.items()}
        console.print(published_table(benchmark, named) + note, markup=False, soft_wrap=True)

    def aligned(options: dict[str, Any]) -> dict[str, Aligner]:
        aligner = RansacFlow.from_pretrained(weights, **options)
        return {
            "coarse only": lambda source, target: aligner(source, target, fine=False),
            "coarse and fine": aligner,
        }

    if hpatches is not None:
        pairs = read_hpatches(hpatches)
        errors, lines = dict[str, list[float]](), list[str]()
        for stages, aligner in aligned(HPATCHES).items():
            scores = evaluate(aligner, (pair.example() for pair in pairs), progress=True)
            errors[stages] = [scores[level].aepe for level in DIFFICULTIES]
            for level in DIFFICULTIES:
                line = ", ".join(f"{100 * share:.1f} % within {n} px" for n, share in scores[level].pck.items())
                lines.append(f"{stages}, {level}: {line}")
        show("HPatches", errors, "\n".join(lines))
    if kitti is not None:
        frames = read_kitti(kitti)
        errors = dict[str, list[float]]()
        for stages, aligner in aligned(KITTI).items():
            scores = evaluate(aligner, (pair.example() for pair in frames), progress=True)
            errors[stages] = [scores[group].aepe for group in ("noc", "occ")]
        show("KITTI 2015 flow", errors)
    for benchmark, folder, table in (
        ("MegaDepth", megadepth, megadepth_table),
        ("RobotCar", robotcar, robotcar_table),
    ):
        if folder is not None and table is not None:
            shares, all_limits = dict[str, list[float]](), list[str]()
            for stages, aligner in aligned(PAPER).items():
                examples = (pair.example() for pair in read_sparse(table, folder))
                found = evaluate(aligner, examples, limits=SPARSE_LIMITS, unfound="wrong", progress=True)
                right = found["all"].pck
                shares[stages] = [100 * right[limit] for limit in LIMITS]
                line = ", ".join(f"{100 * right[n]:.2f} % within {n} px" for n in SPARSE_LIMITS)
                all_limits.append(f"{stages}: {line}")
            show(benchmark, shares, "\n".join(all_limits))
    if yfcc is not None and cameras is not None:
        # Matches of one homography alone fix no pose: there is no row of the coarse stage.
        wrong = evaluate_poses(aligned(POSES)["coarse and fine"], read_poses(cameras, yfcc), progress=True)
        shares = {"coarse and fine": [100 * pose_accuracy(wrong, limits) for limits in POSE_LIMITS]}
        show("YFCC100M", shares)


if __name__ == "__main__":
    typer.run(main)
