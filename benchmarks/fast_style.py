"""How good one pass is: losses against optimising the same objective, and whether the painter is recognised.

Needs the images and the loss network that the styles were trained with. Writes sheets of pictures on request.

    python benchmarks/fast_style.py --photos 2 --figure benchmarks/figures/fast_styles.jpg
"""

import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from common import DATA, NETWORKS, ROOT, contact_sheet, table_of
from PIL import Image, ImageOps
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import artmodels
from artmodels import images
from artmodels.data.folders import Crops, ImageSet, image_files, split
from artmodels.features import teachers
from artmodels.features.extractor import FeatureExtractor
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Entry
from artmodels.images.examples import example
from artmodels.methods.fast_style.train import FastStyleSettings, Statistics, StyleObjective, reduced
from artmodels.runtime.devices import generator

STEPS = 300
CELL = 240  # px of a picture in the sheet

# Folders of other pictures of the school; None where there are none: then other crops of the picture itself.
SCHOOLS = {
    "starry-night": "schools/Post_Impressionism",
    "scream": None,
    "great-wave": "schools/Ukiyo_e",
    "salamander": "schools/Ukiyo_e",
    "woodcut": None,
    "mosaic": None,
    "pointillism": "schools/Pointillism",
    "king": "schools/Cubism",
    "mill": "schools/Fauvism",
    "city-rises": "paintings/prints_manuscripts/Divisionism",
}
MOST, VIEWS = 60, 96  # pictures of a class, and crops in all
TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def main(
    data: Annotated[Path, typer.Option(help="Folder of images.")] = DATA,
    networks: Annotated[Path, typer.Option(help="Folder of the loss network.")] = NETWORKS,
    photos: Annotated[int, typer.Option(min=0, help="Held-out photographs that are also optimised: slow.")] = 1,
    side: Annotated[int, typer.Option(help="Their shorter side in pixels.")] = 256,
    figure: Annotated[Path | None, typer.Option(help="Where to write a sheet of stylised pictures.")] = None,
) -> None:
    """Print seconds, losses and what an optimisation takes."""
    speed()
    if not data.is_dir() or not networks.is_dir():
        print(f"Skipped: needs the images of {data} and the networks of {networks} (--data, --networks).")
        return
    entries = catalogue.list_models("fast_style")
    seen, unseen = split(image_files(data, ["photos"]), held_out=3)
    loss_network = teachers.load(teachers.COMPRESSED, networks, pooling="avg")
    recognition([entry.name for entry in entries], seen, unseen, data, loss_network)
    if photos:
        losses(entries, unseen[:photos], side, data, loss_network)
    if figure is not None:
        sheet([entry.name for entry in entries], unseen).save(figure, quality=78, optimize=True)


def losses(entries: list[Entry], chosen: list[Path], side: int, data: Path, network: FeatureExtractor) -> None:
    """Print the loss of some photographs themselves, of one pass, and of optimising that very loss."""
    table = table_of(
        f"content + style of {len(chosen)} held-out photographs, {side} px",
        ("style", "photograph", "one pass", f"{STEPS} steps", "pass / steps", "seconds", "seconds "),
    )
    for entry in entries:
        recipe = tomllib.loads((ROOT / "weights" / entry.name / "recipe.toml").read_text(encoding="utf-8"))
        settings = FastStyleSettings(**recipe["settings"])
        style = reduced(images.load(data / settings.style).tensor(), settings.style_side)
        objective = StyleObjective(network)
        target = objective.style_of(style)
        model = artmodels.load(entry.name)
        sums = torch.zeros(5, dtype=torch.float64)
        for path in chosen:
            content = reduced(images.load(path).tensor(), side)
            began = time.perf_counter()
            quick = model(content).tensor
            passed = time.perf_counter()
            slow = optimised(objective, content, target, settings)
            ended = time.perf_counter()
            with torch.no_grad():
                values = [float(total(objective, x, content, target, settings)) for x in (content, quick, slow)]
            sums += torch.tensor([*values, passed - began, ended - passed])
        still, quick_loss, slow_loss, quick_seconds, slow_seconds = (sums / len(chosen)).tolist()
        table.add_row(
            entry.name.removeprefix("fast-style-"),
            f"{still:.2f}",
            f"{quick_loss:.2f}",
            f"{slow_loss:.2f}",
            f"{quick_loss / slow_loss:.2f}",
            f"{quick_seconds:.2f}",
            f"{slow_seconds:.0f}",
        )
    Console(width=120).print(table)


def speed() -> None:
    """Print the seconds of one pass, loading and files left out, and of the paper's widths beside it."""
    ours = artmodels.FastStyle.from_pretrained()
    paper = artmodels.FastStyle()  # random weights take as long as trained ones
    table = table_of(
        f"Seconds of one pass, best of 3, {torch.get_num_threads()} threads, {ours.device}",
        ("picture", "ours", "the paper's widths", "ratio"),
    )
    for height, width in ((512, 512), (683, 1024)):
        picture = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        seconds = [min(model(picture).seconds for _ in range(3)) for model in (ours, paper)]
        table.add_row(f"{width} x {height}", *(f"{value:.2f}" for value in seconds), f"{seconds[1] / seconds[0]:.1f}")
    Console(width=120).print(table)


def recognition(names: list[str], seen: list[Path], unseen: list[Path], data: Path, network: FeatureExtractor) -> None:
    """Print how often a linear classifier takes photographs and results for the style's school, not for photographs.

    It has seen other photographs and other pictures of the school; cross-validation on these sets its strength.
    """
    rng = generator(0)

    def described(pictures: ImageSet) -> np.ndarray:
        rows = []
        for _ in range(0, VIEWS, 12):
            batch = Crops(size=224, smallest=0.7)(pictures, 12, rng)
            with torch.inference_mode():
                found = network(batch, TAPS).values()
            parts = [part for x in found for part in (x.mean((2, 3)), (x.var((2, 3)) + 1e-4).log())]
            rows.append(torch.cat(parts, 1).numpy())
        return np.concatenate(rows)

    def set_of(pictures: Iterable[Tensor]) -> ImageSet:
        return ImageSet(tuple((picture[0] * 255).to(torch.uint8) for picture in pictures))

    photographs = [reduced(images.load(path).tensor(), 384) for path in unseen]
    others, before = described(ImageSet.load(seen, side=400)), described(set_of(photographs))
    table = table_of(
        f"{len(unseen)} held-out photographs, and what each style makes of them: taken for the school, %",
        ("style", "school", "photographs", "results", "more by"),
        left=("school",),
    )
    for name in names:
        recipe = tomllib.loads((ROOT / "weights" / name / "recipe.toml").read_text(encoding="utf-8"))
        original = data / recipe["settings"]["style"]
        school = SCHOOLS[name.removeprefix("fast-style-")]
        files = [path for path in image_files(data, [school]) if path != original] if school else [original]
        theirs = described(ImageSet.load(files[:: max(1, len(files) // MOST)], side=400))
        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
        classifier = GridSearchCV(regression, {"logisticregression__C": np.logspace(-4, 4, 5)}, cv=5)
        classifier.fit(np.concatenate([others, theirs]), [False] * len(others) + [True] * len(theirs))
        model = artmodels.load(name)
        after = described(set_of(model(content).tensor for content in photographs))
        shares = [100 * float(classifier.predict(part).mean()) for part in (before, after)]
        table.add_row(
            name.removeprefix("fast-style-"),
            school.rpartition("/")[2] if school else "other crops of the original",
            *(f"{share:.0f}" for share in (*shares, shares[1] - shares[0])),
        )
    Console(width=120).print(table)


def total(
    objective: StyleObjective, output: Tensor, content: Tensor, target: Statistics, settings: FastStyleSettings
) -> Tensor:
    """What both minimise, less the smoothness, which is no part of the paper's objective."""
    terms = objective(output, content, target)
    return terms["content"] + settings.style_weight * terms["style"]


def optimised(objective: StyleObjective, content: Tensor, target: Statistics, settings: FastStyleSettings) -> Tensor:
    """The picture that Adam reaches from the photograph, with the rate that reached the lowest loss here."""
    image = content.clone().requires_grad_(True)
    adam = torch.optim.Adam([image], lr=0.02)
    for _ in range(STEPS):
        adam.zero_grad()
        total(objective, image, content, target, settings).backward()  # type: ignore[no-untyped-call]  # torch's own
        adam.step()
        with torch.no_grad():
            image.clamp_(0, 1)
    return image.detach()


def sheet(names: list[str], unseen: list[Path]) -> Image.Image:
    """One row a style: a photograph of scikit-image, then held-out photographs, in that style."""
    sources: list[images.Source] = [example("astronaut", 512), *unseen[:: max(1, len(unseen) // 5)]]
    pictures = (images.load(source).pil() for source in sources[:6])
    contents = [ImageOps.fit(picture, (512, 512), Image.Resampling.LANCZOS) for picture in pictures]
    rows = []
    for name in names:
        model = artmodels.load(name)
        made = (model(content).image for content in contents)
        rows.append([picture.resize((CELL, CELL), Image.Resampling.LANCZOS) for picture in made])
    return contact_sheet(rows)


if __name__ == "__main__":
    typer.run(main)
