"""How closely art-vgg follows its teachers, and what textures it makes beside theirs.

Needs the images and the networks that it was trained with. For each tap a linear head is fitted by least squares on
images that it was trained on; the cosines are those of held-out images. Then Gram matrices of art-vgg, and of the
teachers, make textures from the same noise with the same optimiser.

    python benchmarks/art_vgg.py --figure benchmarks/figures/art_vgg.jpg
"""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import DATA, NETWORKS, contact_sheet, table_of
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

import artmodels
from artmodels import features, images
from artmodels.data.folders import Crops, ImageSet, image_files, split
from artmodels.features import teachers
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.networks import ART_VGG_TAPS
from artmodels.images.examples import example
from artmodels.images.resampling import resized
from artmodels.methods.art_vgg.train import FOLDERS, gram
from artmodels.methods.texture_synthesis import TextureSynthesizer
from artmodels.methods.texture_synthesis.metrics import sliced_wasserstein_distance
from artmodels.runtime.devices import generator

NAMES = ("brick", "gravel", "grass")
SHALLOW = ("relu1_1", "relu2_1", "relu3_1")  # of VGG-19 itself, which nothing here was fitted to


def main(
    data: Annotated[Path, typer.Option(help="Folder of images.")] = DATA,
    networks: Annotated[Path, typer.Option(help="Folder of the teachers.")] = NETWORKS,
    size: Annotated[int, typer.Option(help="Side of the textures in pixels.")] = 256,
    figure: Annotated[Path | None, typer.Option(help="Where to write the textures side by side.")] = None,
) -> None:
    """Print cosines, distances and seconds."""
    if not data.is_dir() or not networks.is_dir():
        print(f"Skipped: needs the images of {data} and the networks of {networks} (--data, --networks).")
        return
    student = features.load("art-vgg")
    normalised = teachers.load(teachers.NORMALISED, networks)
    compressed = teachers.load(teachers.COMPRESSED, networks, pooling="avg")
    seen, unseen = (ImageSet.load(part, side=400) for part in split(image_files(data, FOLDERS)))
    cosines(student, compressed, seen, unseen)
    textures(student, normalised, compressed, size, figure)


@torch.no_grad()
def cosines(student: FeatureExtractor, teacher: FeatureExtractor, seen: ImageSet, unseen: ImageSet) -> None:
    """Fit the heads and print a row a tap."""

    def pairs(images: ImageSet, count: int, seed: int) -> list[dict[str, tuple[Tensor, Tensor]]]:
        rng, found = generator(seed), []
        for _ in range(count):
            batch = Crops(size=224, smallest=0.6)(images, 4, rng)
            wanted, ours = teacher(batch, ART_VGG_TAPS), student(batch, ART_VGG_TAPS)
            found.append({tap: (ours[tap], wanted[tap]) for tap in ART_VGG_TAPS})
        return found

    train, test = pairs(seen, 12, 3), pairs(unseen, 12, 4)
    table = table_of(
        f"art-vgg against its teacher, {len(unseen.images)} held-out images",
        ("tap", "channels", "teacher's", "feature cosine", "Gram cosine"),
    )
    for tap in ART_VGG_TAPS:
        normal, right = torch.zeros(2, dtype=torch.float64)
        for batch in train:
            x, y = (value.permute(0, 2, 3, 1).flatten(0, 2).double() for value in batch[tap])
            normal, right = normal + x.T @ x, right + x.T @ y
        head = torch.linalg.lstsq(normal, right).solution.float()  # [C, C']
        sums = torch.zeros(2)
        for batch in test:
            x, y = batch[tap]
            answer = torch.einsum("nchw,cd->ndhw", x, head)
            sums[0] += F.cosine_similarity(answer.flatten(1), y.flatten(1)).mean()
            sums[1] += F.cosine_similarity(gram(answer).flatten(1), gram(y).flatten(1)).mean()
        table.add_row(tap, str(x.shape[1]), str(y.shape[1]), *(f"{float(value) / len(test):.3f}" for value in sums))
    Console(width=120).print(table)


def textures(
    student: FeatureExtractor,
    normalised: FeatureExtractor,
    compressed: FeatureExtractor,
    size: int,
    figure: Path | None,
) -> None:
    """Synthesise with each and print how near the results are, under networks that others were fitted to."""
    config = artmodels.load("texture-art-vgg").config
    taps = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    methods = {
        "art-vgg": TextureSynthesizer(config, extractor=student),
        "compressed VGG-19": TextureSynthesizer(config, extractor=compressed),
        "VGG-19 to relu3_1": TextureSynthesizer(config, extractor=normalised),
    }
    layers = {"art-vgg": taps, "compressed VGG-19": taps, "VGG-19 to relu3_1": taps[:3]}
    table = table_of(
        f"Textures of {size} px from Gram matrices; small is near",
        (
            "exemplar",
            "features",
            "Gram, VGG-19 1-3",
            "Gram, compressed 4-5",
            "sliced Wasserstein",
            "seconds",
        ),
    )
    rows = []
    for name in NAMES:
        exemplar = resized(images.load(example(name, 512)).tensor(), (size, size)).clamp(0, 1)
        pictures = [exemplar]
        for label, method in methods.items():
            start = time.perf_counter()
            result = method(exemplar, size=(size, size), seed=0, layers=layers[label]).tensor
            seconds = time.perf_counter() - start
            pictures.append(result)
            table.add_row(
                name,
                label,
                f"{_distance(normalised, SHALLOW, result, exemplar):.4f}",
                f"{_distance(compressed, ('relu4_1', 'relu5_1'), result, exemplar):.4f}",
                f"{sliced_wasserstein_distance(result, exemplar):.4f}",
                f"{seconds:.0f}",
            )
        rows.append(pictures)
    Console(width=120).print(table)
    if figure is not None:
        contact_sheet(rows, gap=8).save(figure, quality=88, optimize=True)


@torch.no_grad()
def _distance(extractor: FeatureExtractor, taps: tuple[str, ...], result: Tensor, exemplar: Tensor) -> float:
    """Mean over taps of the squared difference of Gram matrices, relative to the exemplar's."""
    ours, theirs = extractor(result, taps), extractor(exemplar, taps)
    return sum(
        float((gram(ours[t]) - gram(theirs[t])).square().sum() / gram(theirs[t]).square().sum()) for t in taps
    ) / len(taps)


if __name__ == "__main__":
    typer.run(main)
