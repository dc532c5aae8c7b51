"""The whole analysis as one HTML file, which loads nothing and runs no script.

python -m artmodels.methods.interpret.report pictures/ --before art-resnet --after my-tuned-resnet/ -o report.html
"""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jinja2
import torch
import typer
from annotated_types import Interval
from PIL import Image
from torch import Tensor

from artmodels import features, images
from artmodels.data.reading import listed
from artmodels.errors import ArtModelsError, ConfigError, ImageError
from artmodels.features.extractor import FeatureExtractor
from artmodels.files import write_whole
from artmodels.hub import catalogue
from artmodels.hub.checkpoints import CONFIG, read_config
from artmodels.methods import class_of
from artmodels.methods.interpret.activations import (
    Files,
    Reading,
    TopPictures,
    box_statistics,
    device_of,
    prepared,
)
from artmodels.methods.interpret.comparison import Comparison, stream_compare
from artmodels.methods.interpret.visualisation.objectives import Channel
from artmodels.methods.interpret.visualisation.pipeline import FeatureVisualizer, VisualizerConfig
from artmodels.progress import Progress, result_of
from artmodels.settings import Settings

__all__ = ["InterpretationReport", "ReportConfig", "changed_channels", "html_report", "network_of", "stream_report"]

THUMBNAIL = 104  # pixels of a side
QUALITY = 72

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings):
    """What a report shows. The bounds keep it below some 3 MB."""

    channels: Annotated[int, Interval(ge=0, le=12), "Channels that are shown, if they are not named."] = 4
    shown: Annotated[int, Interval(ge=1, le=16), "Pictures of each channel that are shown."] = 8
    steps: Annotated[int, Interval(ge=0, le=4096), "Steps of the pictures that are optimised; 0: none are."] = 128
    size: Annotated[int, Interval(ge=32, le=448), "Pixels of a side of these."] = 224


@dataclass(frozen=True, kw_only=True)
class InterpretationReport:
    """A comparison of two networks, and pictures of what some channels look for."""

    comparison: Comparison
    html: str = field(repr=False)

    def save(self, file: Path) -> None:
        """Write the page, whole or not at all."""
        write_whole({file: self.html})


def network_of(name: str, *, device: str | None = None) -> FeatureExtractor:
    """The network of a name or folder: features, or those that a model of another method stands on.

    Raises:
        ConfigError: The model has no network with taps.
        WeightsError: The weights are not there.
    """
    entry = catalogue.find(name)
    method = entry.method if entry else None
    if entry is None and Path(name).is_dir():
        method = str(read_config(Path(name) / CONFIG).get("method", "features"))
    if method in (None, "features"):
        return features.load(name, device=device)
    model = class_of(method).from_pretrained(name, device=device)
    found = [value for value in vars(model).values() if isinstance(value, FeatureExtractor)]
    if not found:
        raise ConfigError(f"{name} is a model of {method}, which has no network with taps to look into")
    return found[0]


def changed_channels(comparison: Comparison, count: int) -> list[tuple[str, int]]:
    """Channels that are worth a look: of each shared layer, from the deepest, those that kept least and most.

    Only channels count of which both networks have as many pictures as the channel of that layer that has most.
    """
    found = list[tuple[str, int]]()
    for tap, shared in reversed(comparison.overlaps().items()):
        full = (shared.smaller == shared.smaller.max()) & (shared.smaller > 0)
        numbers = torch.arange(len(full))[full].tolist()
        numbers.sort(key=lambda channel: float(shared.of_smaller[channel]))
        found += [(tap, channel) for channel in dict.fromkeys([*numbers[:1], *numbers[-1:]])]
    return found[:count]


def stream_report(
    before: FeatureExtractor,
    after: FeatureExtractor,
    source: Files,
    *,
    names: tuple[str, str] = ("before", "after"),
    channels: Sequence[tuple[str, int]] | None = None,
    config: ReportConfig | None = None,
    taps: Sequence[str] | None = None,
    count: int = 100,
    reading: Reading | None = None,
    labels: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Iterator[Progress | InterpretationReport]:
    """Compare two networks, find pictures of channels, and write it all down; see `stream_compare`.

    Args:
        before: The one network.
        after: The other.
        source: A folder of pictures, or files.
        names: What to call the two.
        channels: Taps and numbers of those to show; None takes `changed_channels`.
        config: What is shown; None takes the defaults.
        taps: See `compare`.
        count: See `compare`.
        reading: See `compare`.
        labels: See `compare`.
        seed: Of the pictures that are optimised.

    Yields:
        A `Progress` for each batch and step, last an `InterpretationReport`.

    Raises:
        ConfigError: A setting, tap or channel is wrong.
        DatasetError: There are too few pictures.
    """
    config, reading = config or ReportConfig(), reading or Reading()
    comparison: Comparison | None = None
    for item in stream_compare(before, after, source, taps=taps, count=count, reading=reading, labels=labels):
        if isinstance(item, Comparison):
            comparison = item
        else:
            yield item
    assert comparison is not None  # noqa: S101 - a stream ends with its result
    shown = changed_channels(comparison, config.channels) if channels is None else list(channels)[:12]
    for tap, channel in shown:
        if tap not in comparison.shared or not 0 <= channel < len(comparison.before.layers[tap].values):
            raise ConfigError(f"there is no channel {tap}:{channel} in both networks among the layers compared")
    found = dict[tuple[str, int, int], Tensor]()
    jobs = [(place, side) for place in shown for side in (0, 1)] if config.steps else []
    for number, ((tap, channel), side) in enumerate(jobs):
        visualizer = FeatureVisualizer(
            VisualizerConfig(steps=config.steps), network=(before, after)[side], device=device_of(before)
        )
        size = (config.size, config.size)
        for step in visualizer.stream(objective=Channel(tap=tap, channel=channel), size=size, seed=seed):
            if isinstance(step, Progress):
                done = number * config.steps + step.done
                what = f"{tap}:{channel} {names[side]}"
                yield Progress(done=done, total=len(jobs) * config.steps, what=what)
            else:
                found[tap, channel, side] = step.tensor
    page = html_report(comparison, source, shown, found, names=names, config=config, reading=reading)
    yield InterpretationReport(comparison=comparison, html=page)


def html_report(
    comparison: Comparison,
    source: Files,
    channels: Sequence[tuple[str, int]],
    pictures: Mapping[tuple[str, int, int], Tensor],
    *,
    names: tuple[str, str],
    config: ReportConfig,
    reading: Reading,
) -> str:
    """The page. `pictures` are those that were optimised, by tap, channel and 0 or 1 for before or after."""
    files = dict(listed(source))
    tops = (comparison.before, comparison.after)
    shared = comparison.overlaps()
    entropies = None if comparison.labels is None else comparison.entropies()
    bits = 1.0 if comparison.labels is None else max(1.0, float(torch.tensor(len(comparison.labels.classes)).log2()))
    panels = []
    for tap, channel in channels:
        both = [
            {
                "name": names[side],
                "optimised": _data(images.to_pil(pictures[tap, channel, side])) if pictures else "",
                "top": [
                    _top(top.names[number], files, value, place, reading)
                    for number, value, place in _best(top.layers[tap], channel, config.shown)
                ],
                "positive": int(top.layers[tap].positive[channel]),
                "entropy": None if entropies is None else float(entropies[side][tap][channel]),
            }
            for side, top in enumerate(tops)
        ]
        overlap = shared[tap]
        panels.append(
            {
                "name": f"{tap}:{channel}",
                "shared": int(overlap.shared[channel]),
                "n": int(overlap.smaller[channel]),
                "share": float(overlap.of_smaller[channel]),
                "both": both,
            }
        )
    return _templates.get_template("report.html").render(
        names=names,
        count=len(comparison.before.names),
        classes=() if comparison.labels is None else comparison.labels.classes,
        skipped=sorted(comparison.before.skipped.items())[:20],
        skipped_count=len(comparison.before.skipped),
        rows=list(comparison.before.layers),
        columns=list(comparison.after.layers),
        cka=[[_number(value) for value in row] for row in comparison.cka["debiased"].tolist()],
        diagonal=[
            {"tap": tap} | {kind: _number(float(matrix[i, j])) for kind, matrix in comparison.cka.items()}
            for i, tap in enumerate(comparison.before.layers)
            for j, other in enumerate(comparison.after.layers)
            if other == tap
        ],
        estimators=list(comparison.cka),
        bits=bits,
        entropies=[]
        if entropies is None
        else [{"tap": tap, "boxes": [box_statistics(side[tap]) for side in entropies]} for tap in comparison.shared],
        overlaps=[
            {
                "tap": tap,
                "boxes": [box_statistics(found.of_smaller[found.smaller > 0])],
                "as_published": float(found.of_count.mean()),
            }
            for tap, found in shared.items()
        ],
        weights=[
            {"layer": found.layer, "relative": found.relative, "correlation": float(found.correlation.nanmean())}
            for found in comparison.weights
        ],
        panels=panels,
        kept=comparison.before.layers[next(iter(comparison.before.layers))].pictures.shape[1],
        parameters={key: json.dumps(value) for key, value in (asdict(reading) | asdict(config)).items()},
    )


def _best(top: TopPictures, channel: int, count: int) -> list[tuple[int, float, tuple[float, float]]]:
    """Numbers, responses and places of the best pictures of a channel."""
    rows = zip(
        top.pictures[channel, :count].tolist(),
        top.values[channel, :count].tolist(),
        top.places[channel, :count].tolist(),
        strict=True,
    )
    return [(number, value, (place[0], place[1])) for number, value, place in rows if number >= 0]


def _top(
    name: str, files: Mapping[str, Path], value: float, place: tuple[float, float], reading: Reading
) -> dict[str, Any]:
    """What the page shows of a picture; one that cannot be read any more is named, with the reason."""
    found: dict[str, Any] = {"name": name, "value": f"{value:.3g}", "x": 100 * place[0], "y": 100 * place[1]}
    try:
        pixels = prepared(images.load(files[name]), reading)
    except ImageError as error:
        return found | {"data": "", "error": str(error)}
    small = images.to_pil(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return found | {"data": _data(small), "error": ""}


def _data(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def _number(value: float) -> float | None:
    """A number, or None for one that is not."""
    return value if value == value else None


def _channel(text: str) -> tuple[str, int]:
    tap, _, number = text.rpartition(":")
    if not tap or not number.isdecimal():
        raise typer.BadParameter(f"{text!r} is not TAP:NUMBER, such as layer3:5.")
    return tap, int(number)


def main(
    collection: Annotated[Path, typer.Argument(help="Folder of pictures; folders inside it are their classes.")],
    before: Annotated[str, typer.Option(help="A name that `artmodels list` shows, or a folder.")],
    after: Annotated[str, typer.Option(help="Another, such as the same network after fine-tuning.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")],
    channels: Annotated[
        list[str] | None, typer.Option("--channel", help="One to show, as layer3:5; repeat for more.")
    ] = None,
    tap: Annotated[list[str] | None, typer.Option(help="A layer to compare; repeat for more.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Best pictures of each channel.")] = 100,
    side: Annotated[int, typer.Option(min=16, help="Pixels of a side of what the networks see.")] = 224,
    squash: Annotated[bool, typer.Option(help="Squash pictures to squares instead of cutting out the middle.")] = False,
    steps: Annotated[int, typer.Option(min=0, max=4096, help="Of optimised pictures; 0 for none.")] = 128,
    seed: Annotated[int, typer.Option(help="Of optimised pictures.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the CPU by default.")] = None,
) -> None:
    """Report what training changed in a network: CKA, what excites its channels, and what these look for."""
    shown = None if not channels else [_channel(text) for text in channels]
    if output.suffix.lower() not in (".html", ".htm") or not output.parent.is_dir():
        raise typer.BadParameter(f"{output} is no .html file in a folder that exists.", param_hint="--output")
    try:
        networks = [network_of(name, device=device) for name in (before, after)]
        stream = stream_report(
            networks[0],
            networks[1],
            collection,
            names=(before, after),
            channels=shown,
            config=ReportConfig(steps=steps),
            taps=tap or None,
            count=count,
            reading=Reading(side=side, resize="squash" if squash else "crop"),
            seed=seed,
        )
        report = result_of(stream, progress=True)
        report.save(output)
    except ArtModelsError as error:
        typer.echo(f"artmodels: {error}", err=True)
        raise typer.Exit(1) from error
    for name, reason in report.comparison.before.skipped.items():
        typer.echo(f"artmodels: {name} was left out: {reason}", err=True)
    typer.echo(f"{output}: {len(report.comparison.before.names)} pictures, {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
