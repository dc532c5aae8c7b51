"""The texture protocol: synthesise a folder of exemplars, measure, print the means beside the published ones.

    python -m artmodels.methods.texture_synthesis.evaluate FOLDER --name texture-patches --size 256 --json scores.json

Source of the protocol and of the published means: Gonthier, Gousseau and Ladjal 2022, "High resolution neural
texture synthesis with long range constraints", JMIV. Their exemplars are not in this package, so only the
ranges of two tables compare, not their digits.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor
from torch.nn import functional

from artmodels import images
from artmodels.data.folders import image_files
from artmodels.errors import ArtModelsError, ConfigError, DatasetError, ImageError
from artmodels.files import read_object, write_whole
from artmodels.methods.texture_synthesis import metrics
from artmodels.progress import Progress, result_of
from artmodels.settings import config_from

__all__ = ["PUBLISHED", "TextureScores", "evaluate", "evaluate_folder", "main", "stream_evaluate_folder", "table"]

PUBLISHED = {
    "Gram": 0.752,
    "Gram + MRInit": 0.755,
    "Gram + spectrum": 0.763,
    "Gram + spectrum + MRInit": 0.775,
    "Autocorrelation": 0.788,
    "Autocorrelation + MRInit": 0.779,
    "Snelgrove": 0.746,
    "DCor": 0.770,
    "Ulyanov": 0.754,
    "Efros-Leung": 0.246,
    "Efros-Freeman": 0.085,
}
"""Published mean displacement score of each method over 20 references of 1024 x 1024 pixels."""

Synthesise = Callable[[Tensor, int], Tensor]
"""(exemplar [1, 3, H, W] in [0, 1], seed) -> a texture of the same kind."""


@dataclass(frozen=True, kw_only=True)
class TextureScores:
    """The measures of one exemplar; `metrics` says what each means."""

    name: str  # of the exemplar
    height: int  # of the result, in pixels
    width: int
    seed: int  # of the synthesis
    seconds: float  # that the synthesis took
    wavelet_kl: float  # sum of KL(result || exemplar) over sub-bands, in nats
    displacement_score: float  # 0 for a verbatim copy, 1 for no copy
    displacement_score_y: float  # with only y tested, as the published means presumably were
    spectrum_error: float  # relative difference of the Fourier moduli
    sliced_wasserstein: float  # distance of the patches, in grey levels of [0, 1]


def evaluate(synthesise: Synthesise, name: str, exemplar: Tensor, *, seed: int = 0) -> TextureScores:
    """Synthesise a texture from an exemplar [1, 3, H, W] in [0, 1], and measure it.

    The patch search compares every patch with every other: at 256 x 256 pixels it takes some 20 seconds on a
    CPU core, at 1024 x 1024 it wants a GPU, that is, an exemplar that lies on one. An exemplar that is too small, or a
    result that is not finite, is an ImageError.
    """
    start = time.perf_counter()
    result = synthesise(exemplar, seed)
    seconds = time.perf_counter() - start
    wavelet_kl = metrics.wavelet_kl(result, exemplar)  # First, as it checks both images and is quick.
    matches = metrics.nearest_patches(result, exemplar)
    return TextureScores(
        name=name,
        height=result.shape[-2],
        width=result.shape[-1],
        seed=seed,
        seconds=seconds,
        wavelet_kl=wavelet_kl,
        displacement_score=metrics.displacement_score(matches),
        displacement_score_y=metrics.displacement_score(matches, reference_slip=True),
        spectrum_error=metrics.spectrum_error(result, exemplar),
        sliced_wasserstein=metrics.sliced_wasserstein_distance(result, exemplar),
    )


# Heading, measure and digits of the columns that are printed.
COLUMNS = (
    ("wavelet KL", "wavelet_kl", 3),
    ("displacement", "displacement_score", 3),
    ("y only", "displacement_score_y", 3),
    ("spectrum", "spectrum_error", 3),
    ("sliced W2", "sliced_wasserstein", 4),
    ("seconds", "seconds", 1),
)


def table(rows: Sequence[TextureScores]) -> str:
    """Lay rows out as plain text, with their mean, beside the published means; no row at all is a DatasetError."""
    if not rows:
        raise DatasetError("There are no scores to print; evaluate at least one exemplar first.")
    means = {field: sum(getattr(row, field) for row in rows) / len(rows) for _, field, _ in COLUMNS}
    lines = [["exemplar", "size", *(heading for heading, _, _ in COLUMNS)]]
    for row in rows:
        lines.append([row.name, f"{row.width}x{row.height}", *_numbers(asdict(row))])
    lines.append([f"mean of {len(rows)}", "", *_numbers(means)])
    ours = {"this run, y and x": means["displacement_score"], "this run, y only": means["displacement_score_y"]}
    scores = _align([[label, f"{score:.3f}"] for label, score in {**ours, **PUBLISHED}.items()])
    return "\n".join(
        [
            *_align(lines),
            "",
            "Mean displacement score: 0 = verbatim copy, 1 = no copy. Published: Gonthier et al. 2022, over",
            "20 references of 1024x1024, presumably y only. Exemplars differ: compare ranges, not digits.",
            *(f"  {line}" for line in scores[: len(ours)]),
            "",
            *(f"  {line}" for line in scores[len(ours) :]),
        ]
    )


def _numbers(measures: Mapping[str, float]) -> list[str]:
    return [f"{measures[field]:.{digits}f}" for _, field, digits in COLUMNS]


def _align(cells: Sequence[Sequence[str]]) -> list[str]:
    """Pad the columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(rest, widths[1:], strict=True))]).rstrip()
        for first, *rest in cells
    ]


def stream_evaluate_folder(
    synthesise: Synthesise,
    folder: Path,
    *,
    name: str,
    size: int = 256,
    seed: int = 0,
    json_file: Path | None = None,
    device: str = "cpu",
) -> Iterator[Progress | list[TextureScores]]:
    """Evaluate a method on the images of a folder and its sub-folders, with resume.

    Each image is shrunk by area averaging until its shorter side is `size`, never enlarged, and its central square is
    the exemplar, which is put on `device`. A file that cannot be used is skipped. `json_file` has the scores of the
    method `name`; it is written after each exemplar, and those that it has already, by their path in the folder, are
    not computed again.

    Yields:
        A step after each image, which says in a line what became of it; then one row for each image of the folder
        that could be used, in the order of their names.

    Raises:
        DatasetError: The folder has no image, or none that can be used; or the file of scores is damaged.
        ConfigError: The file of scores belongs to another method, size or seed.
        ArtModelsError: The file of scores cannot be written.
    """
    files = {file.relative_to(folder).as_posix(): file for file in image_files(folder)}
    settings: dict[str, str | int] = {"name": name, "size": size, "seed": seed}
    known = {} if json_file is None else _read(json_file, settings)
    if json_file is not None:
        # A file that cannot be written is known now, not after the first long synthesis.
        _write(json_file, settings, known.values())
    done = len(known.keys() & files.keys())
    if done:
        yield Progress(done, len(files), f"{done} of {len(files)} are in {json_file} already.")
    for key in [key for key in files if key not in known]:
        try:
            exemplar = _central_square(images.load(files[key]).tensor(), size).to(device)
            known[key] = evaluate(synthesise, key, exemplar, seed=seed)
        except ImageError as error:
            line = f"{key}: skipped: {error}"
        else:
            line = f"{key}: synthesised in {known[key].seconds:.1f} s"
            if json_file is not None:
                _write(json_file, settings, known.values())
        done += 1
        yield Progress(done, len(files), line)
    rows = [known[key] for key in files if key in known]
    if not rows:
        raise DatasetError(f"None of the {len(files)} images in {folder} can be used; give others.")
    yield rows


def evaluate_folder(
    synthesise: Synthesise, folder: Path, *, name: str, progress: bool = False, **options: Any
) -> list[TextureScores]:
    """The rows that `stream_evaluate_folder` gives last; `progress` shows a bar."""
    return result_of(
        stream_evaluate_folder(synthesise, folder, name=name, **options), progress=progress, unit="exemplar"
    )


def _central_square(pixels: Tensor, size: int) -> Tensor:
    """Shrink [1, 3, H, W] to a shorter side of `size`, if it is longer, and cut the central square."""
    height, width = pixels.shape[-2:]
    shorter = min(height, width)
    side = min(size, shorter)
    if shorter > side:
        height, width = round(height * side / shorter), round(width * side / shorter)
        pixels = functional.interpolate(pixels, size=(height, width), mode="area")
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[..., top : top + side, left : left + side]


def _read(file: Path, settings: Mapping[str, str | int]) -> dict[str, TextureScores]:
    """Rows of an earlier run by name; none if there is no such file."""
    if not file.exists():
        return {}
    try:
        content = read_object(file)
        found, rows = content["settings"], [config_from(TextureScores, row) for row in content["rows"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DatasetError(
            f"{file} is not a file of scores with settings and rows ({error}); move it away, or give another name."
        ) from error
    if found != settings:
        raise ConfigError(f"{file} has the scores of {found}, not of {dict(settings)}; give another file.")
    return {row.name: row for row in rows}


def _write(file: Path, settings: Mapping[str, str | int], rows: Iterable[TextureScores]) -> None:
    """Replace the file in one step, so that a run that is stopped leaves the rows before."""
    content = {"settings": settings, "rows": [asdict(row) for row in rows]}
    write_whole({file: json.dumps(content, indent=1, allow_nan=False) + "\n"})


main = typer.Typer(add_completion=False)


@main.command()
def _command(
    folder: Annotated[Path, typer.Argument(help="Folder of exemplars.")],
    name: Annotated[str, typer.Option(help="Name or path of the TextureSynthesizer.")] = "texture-patches",
    size: Annotated[int, typer.Option(min=56, help="Side of the exemplars in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of each synthesis.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File of scores; a second run goes on from it.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to synthesise and measure: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Synthesise each exemplar of a folder and print the measures beside the published means."""
    from artmodels.methods.texture_synthesis.pipeline import TextureSynthesizer

    try:
        synthesizer = TextureSynthesizer.from_pretrained(name, device=device)

        def synthesise(exemplar: Tensor, seed: int) -> Tensor:
            height, width = exemplar.shape[-2:]
            return synthesizer(exemplar, size=(height, width), seed=seed).tensor

        stream = stream_evaluate_folder(
            synthesise, folder, name=name, size=size, seed=seed, json_file=json_file, device=device
        )
        for step in stream:
            if isinstance(step, Progress):
                typer.echo(step.what, err=True)
            else:
                typer.echo(table(step))
    except ArtModelsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    main()
