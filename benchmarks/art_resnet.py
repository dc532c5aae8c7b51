"""How closely art-resnet follows its teacher, and how well both find a detail again in another style.

Needs the images and the teacher that it was trained with. Agreement: a linear head is fitted by least squares on images
that were trained on, and its cosine with the teacher's features, place by place, is that of held-out images; beside it
the correlation of the cosines that both networks give to the same pairs of details. Retrieval: of all details of the
held-out images, one every 16 pixels, the nearest to a detail of a stylised image is the right one or not. The teacher's
features are taken as they are, and standardised channel by channel as art-resnet was taught them.

    python benchmarks/art_resnet.py
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import DATA, NETWORKS, ROOT, table_of
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from artmodels import features
from artmodels.data.folders import image_files, split
from artmodels.features import teachers
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.networks import ART_RESNET_TAPS
from artmodels.methods.art_resnet.retrieval import (
    EVERY,
    Standard,
    features_of,
    local_features,
    pair_correlation,
    recall,
    squares,
    stylised,
)
from artmodels.methods.art_resnet.train import FOLDERS, SEEN_STYLES, UNSEEN_STYLES
from artmodels.methods.fast_style import FastStyle
from artmodels.runtime.devices import generator

FITTED = 24  # images for the heads
PAIRS = 1024  # details whose cosines are correlated
LARGE = 640  # px, for seconds

Network = Callable[[Tensor], dict[str, Tensor]]


def main(
    data: Annotated[Path, typer.Option(help="Folder of images.")] = DATA,
    networks: Annotated[Path, typer.Option(help="Folder of the teachers.")] = NETWORKS,
    model: Annotated[str, typer.Option(help="art-resnet, or a folder of another training of it.")] = "art-resnet",
    count: Annotated[int, typer.Option(help="Held-out images.")] = 16,
    size: Annotated[int, typer.Option(help="Their side in pixels.")] = 256,
) -> None:
    """Print agreement, recall and seconds."""
    if not data.is_dir() or not networks.is_dir():
        print(f"Skipped: needs the images of {data} and the networks of {networks} (--data, --networks).")
        return
    student = features.load(model)
    teacher = teachers.load(teachers.RESNET, networks)
    seen, unseen = split(image_files(data, FOLDERS))
    examples = squares(seen, FITTED, size, generator(3))
    originals = squares(unseen, count, size, generator(2))
    standard = Standard.of(features_of(teacher, examples, ART_RESNET_TAPS))
    answers: dict[str, Network] = {
        "art-resnet": lambda batch: features_of(student, batch, ART_RESNET_TAPS),
        "teacher": lambda batch: features_of(teacher, batch, ART_RESNET_TAPS),
        "teacher, standardised": lambda batch: standard(features_of(teacher, batch, ART_RESNET_TAPS)),
    }
    console = Console(width=140)
    console.print(agreement(answers["art-resnet"], answers["teacher, standardised"], examples, originals))
    console.print(retrieval(answers, originals))
    console.print(seconds({"art-resnet": student, "teacher": teacher}))


@torch.no_grad()
def agreement(ours: Network, theirs: Network, examples: Tensor, originals: Tensor) -> Table:
    """Fit the heads; a row a tap."""
    table = table_of(
        f"art-resnet against its teacher, {len(originals)} held-out images of {originals.shape[-1]} px",
        ("tap", "channels", "teacher's", "feature cosine", "pair correlation"),
    )
    fitted, wanted = ours(examples), theirs(examples)
    found, truth = ours(originals), theirs(originals)
    for tap in ART_RESNET_TAPS:
        stride = originals.shape[-1] // found[tap].shape[-1]
        x, y = (value[tap].permute(0, 2, 3, 1).flatten(0, 2).double() for value in (fitted, wanted))
        head = torch.linalg.lstsq(x.T @ x, x.T @ y).solution.float()
        answer = torch.einsum("nchw,cd->ndhw", found[tap], head)
        cosine = F.cosine_similarity(answer, truth[tap]).mean()
        local = [local_features(value[tap], stride) for value in (found, truth)]
        spread = torch.linspace(0, len(local[0]) - 1, min(PAIRS, len(local[0]))).long()
        pairs = pair_correlation(*(part[spread] for part in local))
        table.add_row(tap, str(x.shape[1]), str(y.shape[1]), f"{float(cosine):.3f}", f"{pairs:.3f}")
    return table


def retrieval(answers: dict[str, Network], originals: Tensor) -> Table:
    """Recall for each network, tap and style."""
    details = len(originals) * (originals.shape[-1] // EVERY) ** 2
    styles = (*SEEN_STYLES, *UNSEEN_STYLES)
    table = table_of(
        f"recall@1 in %: the same of {details} details in another style",
        ("network", "tap", "seen", "unseen", *(name.rpartition("fast-style-")[2] for name in styles)),
    )
    painted = {name: stylised(originals, FastStyle.from_pretrained(ROOT / "weights" / name)) for name in styles}
    for who, network in answers.items():
        base = network(originals)
        strides = {tap: originals.shape[-1] // value.shape[-1] for tap, value in base.items()}
        bases = {tap: local_features(value, strides[tap]) for tap, value in base.items()}
        shares: dict[str, dict[str, float]] = {tap: {} for tap in ART_RESNET_TAPS}
        for name, batch in painted.items():
            for tap, value in network(batch).items():
                shares[tap][name] = 100 * recall(local_features(value, strides[tap]), bases[tap])
        for tap, row in shares.items():
            means = [sum(row[name] for name in part) / len(part) for part in (SEEN_STYLES, UNSEEN_STYLES)]
            table.add_row(who, tap, *(f"{value:.1f}" for value in (*means, *row.values())))
    return table


@torch.no_grad()
def seconds(networks: dict[str, FeatureExtractor]) -> Table:
    """Median of five runs on one thread, with all taps."""
    table = table_of(f"One image of {LARGE} x {LARGE} px, one thread", ("network", "million weights", "seconds"))
    torch.set_num_threads(1)
    image = torch.rand(1, 3, LARGE, LARGE, generator=generator(0))
    for who, network in networks.items():
        network(image, ART_RESNET_TAPS)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            network(image, ART_RESNET_TAPS)
            times.append(time.perf_counter() - start)
        weights = sum(value.numel() for value in network.parameters()) / 1e6
        table.add_row(who, f"{weights:.2f}", f"{sorted(times)[2]:.2f}")
    return table


if __name__ == "__main__":
    typer.run(main)
