"""The files of `artmodels run`: which is made of which, and the work."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from artmodels.errors import ArtModelsError, ConfigError, DeviceError, ImageError, WeightsError, some, suggest

__all__ = ["Jobs", "kinds", "plan", "reduced", "work"]

LOSSY = (".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Jobs:
    """What is to be made."""

    todo: Mapping[Path, Sequence[Path]]  # for each file to write, the picture that it is made of, if any
    several: bool = False  # whether they go into a folder, with a bar and a summary
    there: int = 0  # results that the folder has already, which stay as they are


def plan(
    output: Path,
    sources: Sequence[Path],
    others: Sequence[Path],
    formats: Sequence[str],
    *,
    kind: str | None = None,
    lossy: bool = False,
    again: bool = False,
) -> Jobs:
    """Say which file is made of which picture; refuse, before any work, what is not there or must not be written.

    Args:
        output: The file to write; for several pictures, or a folder of them, the folder, which need not be there yet.
        sources: Pictures, and folders of pictures, whose subfolders are kept.
        others: Further files and folders that are read.
        formats: The endings that a result may have.
        kind: That of the results in a folder, by default the first of `formats`; a file's own name says its.
        lossy: Whether a quality is asked for, which a PNG has not.
        again: Whether what the folder has already is made again.
    """
    sources, others = [path.expanduser() for path in sources], [path.expanduser() for path in others]
    folders = [path for path in sources if path.is_dir()]
    several = len(folders) > 0 or len(sources) > 1 or (len(sources) == 1 and output.is_dir())
    if not several:
        _check_output(output, _identities([*sources, *others]), formats)
        _check_kind(output, kind)
    if lossy and (output.suffix.lower() if not several else kind or formats[0]) not in LOSSY:
        fault = f"only JPEG and WebP have one: name a file that ends in {' or '.join(LOSSY)}."
        if several:
            fault = "only JPEG and WebP have one: add --format jpg or --format webp."
        raise typer.BadParameter(fault, param_hint="--quality")
    _check_inputs([*sources, *others])
    if not several:
        return Jobs({output: sources})
    if not output.is_dir() and (output.exists() or output.suffix.lower() in formats):
        what = "a folder of images" if folders else f"{len(sources)} images"
        raise typer.BadParameter(f"for {what}, {output} must be a folder.", param_hint="--output")
    if any(output.resolve() == folder.resolve() for folder in folders):
        raise typer.BadParameter(f"{output} holds the images: name another folder.", param_hint="--output")
    pairs = [pair for source in sources for pair in _listed(source, output)]
    targets = _targets(output, [name for name, _ in pairs], kind or formats[0])
    taken = _identities([*(file for _, file in pairs), *others])
    for target in targets:
        _refuse_input(target, taken)
    todo = {target: [file] for target, (_, file) in zip(targets, pairs, strict=True) if again or not target.exists()}
    return Jobs(todo, several=True, there=len(targets) - len(todo))


def work(load: Callable[[], Callable[..., Any]], jobs: Jobs, saving: Mapping[str, Any]) -> None:
    """Write each file; of several, one that fails does not keep the others from their turn."""
    from tqdm import tqdm

    # A terminal shows each picture; the file that standard error may go to is spared most of it.
    pause = 0.1 if sys.stderr.isatty() else 10
    bar = tqdm(total=len(jobs.todo), unit="picture", disable=not jobs.several or not jobs.todo, mininterval=pause)

    def say(text: str, *, err: bool = False) -> None:
        tqdm.write(text, file=sys.stderr if err else sys.stdout)

    start, made, failed = time.monotonic(), 0, 0
    try:
        call = load() if jobs.todo else None
        for file, sources in jobs.todo.items():
            try:
                result = call(*sources)  # type: ignore[misc]  # there is one where there are jobs
                if jobs.several:
                    _make(file.parent)
                result.save(file, **saving)
            except ArtModelsError as error:
                # What no picture can do with, such as a wrong setting, is said once.
                general = isinstance(error, ConfigError | DeviceError | WeightsError) and not made
                if not jobs.several or general:
                    raise
                say(f"artmodels: {sources[0]}: {error}", err=True)
                failed += 1
                bar.update()
                continue
            made += 1
            bar.update()
            for note in result.notes:
                say(f"artmodels: {note}", err=True)
            about = result.summary if hasattr(result, "summary") else f"{result.image.width}x{result.image.height}"
            say(f"{file}: {about}")
    finally:
        bar.close()
        if jobs.several and (made or failed or not jobs.todo):
            _sum_up(jobs, made, failed, time.monotonic() - start)
    if failed:
        raise typer.Exit(1)


def _sum_up(jobs: Jobs, made: int, failed: int, seconds: float) -> None:
    """Say on standard error what became of several pictures, also where an error or Ctrl-C ended the work."""
    left = len(jobs.todo) - made - failed
    parts = [
        f"{made} of {len(jobs.todo) + jobs.there} pictures made in {seconds:.0f} s",
        f"{jobs.there} were there already (--overwrite makes them again)" if jobs.there else "",
        f"{failed} failed" if failed else "",
        f"{left} are left (the same command goes on)" if left else "",
    ]
    typer.echo(f"artmodels: {', '.join(filter(None, parts))}", err=True)


# --- What is read


def reduced(value: Any, most: int) -> Any:  # noqa: ANN401 - whatever an option gives
    """Load a picture of more than `most` pixels, reduced to that, which its notes say; leave anything else as it is."""
    from artmodels import images

    if isinstance(value, list):
        return [reduced(item, most) for item in value]
    if not isinstance(value, Path) or not value.is_file():
        return value
    try:
        large = images.pixels_in(value) > most
    except ImageError:
        return value  # the method says what is wrong
    return images.load(value, max_pixels=most, shrink=True) if large else value


def _check_inputs(paths: Iterable[Path]) -> None:
    missing = [path for path in paths if not os.path.exists(path)]
    if not missing:
        return
    if len(missing) > 1:
        raise ImageError(f"{len(missing)} files are not there: {some(map(str, missing))}; check the paths")
    (path,) = missing
    beside = os.listdir(path.parent) if path.parent.is_dir() else []
    raise ImageError(f"there is no file '{path}'; check the path.{suggest(path.name, beside)}")


def _listed(source: Path, output: Path) -> list[tuple[Path, Path]]:
    """The pictures that a file or folder stands for, each with its name below `output`, which is not looked into."""
    if not source.is_dir():
        return [(Path(source.name), source)]
    from artmodels.data.folders import image_files  # with PyTorch

    own = output.resolve()
    return [(file.relative_to(source), file) for file in image_files(source) if own not in file.resolve().parents]


# --- What is written


def kinds(formats: Sequence[str]) -> str:
    """Name the formats of endings."""
    names = dict.fromkeys(
        {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WebP"}.get(form, form[1:].upper()) for form in formats
    )
    return " or ".join(names)


def _targets(output: Path, names: Sequence[Path], suffix: str) -> list[Path]:
    """The files to write, with the names of the pictures; a.jpg beside a.tif becomes a.jpg.png."""
    short = [name.with_suffix(suffix) for name in names]
    shared = Counter(str(name).lower() for name in short)
    targets = [
        output / (own if shared[str(own).lower()] == 1 else name.with_name(f"{name.name}{suffix}"))
        for own, name in zip(short, names, strict=True)
    ]
    if len({str(target).lower() for target in targets}) < len(targets):
        raise typer.BadParameter("two of the images have the same name.", param_hint="--output")
    return targets


def _identities(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """What tells files apart, however they are named."""
    found = (path.stat() for path in paths if path.exists())
    return {(about.st_dev, about.st_ino) for about in found}


def _check_output(output: Path, inputs: set[tuple[int, int]], formats: Sequence[str]) -> None:
    """Refuse an output that could not or must not be written."""
    if output.is_dir():
        fault = f"{output} is a folder: name the file to write in it."
    elif output.suffix.lower() not in formats:
        fault = f"results are {kinds(formats)}, and {output.name!r} does not end in {' or '.join(formats)}."
    elif not output.parent.is_dir():
        fault = f"there is no folder {output.parent}."
    else:
        return _refuse_input(output, inputs)
    raise typer.BadParameter(fault, param_hint="--output")


def _check_kind(output: Path, kind: str | None) -> None:
    """Refuse a kind of file that is not the one that the output's name says."""
    if kind is not None and kinds([kind]) != kinds([output.suffix.lower()]):
        fault = f"{output.name!r} says already which: leave this out; it is for several pictures."
        raise typer.BadParameter(fault, param_hint="--format")


def _refuse_input(output: Path, inputs: set[tuple[int, int]]) -> None:
    if _identities([output]) & inputs:
        raise typer.BadParameter(f"{output} is an input: it would be overwritten.", param_hint="--output")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}") from error
