"""Write the generated tables of the methods' READMEs again: models from the catalogue, knobs from the code.

Run by `make readme`; a test fails when a README is not what this script would write. A table stands between
`<!-- generated: KIND OBJECT -->` and `<!-- end -->`: KIND is one of `KINDS`; OBJECT, which `knobs` and `published`
need, is a name in the method's package; for `citations` it is keys of `artmodels/methods/references.bib` that no source
names. The options of `artmodels run METHOD` are written beside them, as `options.json`.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from artmodels.cli.commands import weights_text
from artmodels.cli.options import text_of
from artmodels.descent.algebra import PyramidLoss
from artmodels.descent.terms import TERMS
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Entry
from artmodels.settings import helps

METHODS = Path(__file__).parent.parent / "artmodels" / "methods"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    header = list(header)
    # A bar inside a cell would end it.
    cells = [header, ["---"] * len(header), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def models(method: str, _: str) -> str:
    """The names of the catalogue that load with a method, or the extractor that is trained in the method's folder."""
    return _entries(_entries_of(method))


def _entries_of(method: str) -> list[Entry]:
    return [entry for entry in catalogue.list_models() if method in (entry.method, entry.name.replace("-", "_"))]


def extractors(_: str, __: str) -> str:
    """The names of the catalogue that load with `artmodels.features.load`."""
    return _entries(entry for entry in catalogue.list_models() if entry.method == "features")


def _entries(entries: Iterable[Entry]) -> str:
    rows = [
        [
            f"`{entry.name}`" + (" (default)" if entry.default else ""),
            entry.summary,
            entry.source,
            weights_text(entry),
            entry.licence,
        ]
        for entry in entries
    ]
    return table(["name", "what it is", "source", "weights", "licence"], rows)


def knobs(method: str, name: str) -> str:
    """The fields of a config, or the keyword arguments of a class or function: each with its default and its help."""
    explained: Any = import_module(f"artmodels.methods.{method}")
    for part in name.split("."):
        explained = getattr(explained, part)
    rows = []
    if isinstance(explained, type) and dataclasses.is_dataclass(explained):
        texts = helps(getattr(explained, "config_class", explained)) | helps(explained)
        for field in dataclasses.fields(explained):
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            rows.append((field.name, default, texts[field.name]))
    else:
        texts = _paragraphs(vars(explained)["__init__"] if isinstance(explained, type) else explained)
        for parameter in inspect.signature(explained).parameters.values():
            if parameter.default is not parameter.empty and parameter.name != "progress":
                rows.append((parameter.name, parameter.default, texts[parameter.name]))
    return table(
        ["setting", "default", "what it does"], ([f"`{key}`", f"`{value!r}`", text] for key, value, text in rows)
    )


def _paragraphs(explained: object) -> dict[str, str]:
    """What a docstring says of each argument."""
    _, _, listed = (inspect.getdoc(explained) or "").partition("\nArgs:\n")
    listed = re.split(r"\n(?=\S)", listed)[0]
    return {
        name: " ".join(text.split())
        for name, text in re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", listed, flags=re.DOTALL | re.MULTILINE)
    }


def losses(_: str, __: str) -> str:
    """The terms that a loss may sum, with their settings."""
    rows = []
    for name, term in TERMS.items():
        settings = ", ".join(f"`{item.name}={item.default!r}`" for item in dataclasses.fields(term)) or "none"
        rows.append([f"`{name}`", settings, (term.__doc__ or "").split("\n")[0].rstrip(".")])
    octaves = next(item.default for item in dataclasses.fields(PyramidLoss) if item.name == "octaves")
    rows.append(["`pyramid(loss)`", f"`octaves={octaves}`", (PyramidLoss.__doc__ or "").split("\n")[0].rstrip(".")])
    return table(["loss", "settings", "what it is"], rows)


def published(method: str, name: str) -> str:
    """The tables of the method's paper, which a module of the method's package has."""
    module = import_module(f"artmodels.methods.{method}.{name}")
    if hasattr(module, "BENCHMARKS"):
        return "\n".join(module.published_table(benchmark) for benchmark in module.BENCHMARKS).rstrip()
    rows = (
        [
            row,
            module.OTHER_FEATURES.get(row, module.PUBLISHED_FEATURES),
            *(_figure(*cells.get(dataset, (None, None))) for dataset in module.DATASETS),
        ]
        for row, cells in module.PUBLISHED.items()
    )
    return table(["method", "features", *module.DATASETS], rows)


def citations(method: str, more: str) -> str:
    """BibTeX of what a method's models are built on, by what `source` says of them, and of further keys."""
    sources = " ".join(entry.source for entry in _entries_of(method))
    entries = re.split(r"\n\n(?=@)", (METHODS / "references.bib").read_text(encoding="utf-8").strip())
    wanted = [
        entry
        for entry in entries
        if any(name in sources for name in re.findall(r"(?:eprint|doi) = {(.+?)}", entry))
        or re.findall(r"@\w+{(\w+),", entry)[0] in more.split(",")
    ]
    return "\n\n".join(["```bibtex", *wanted, "```"]).replace("bibtex\n\n", "bibtex\n").replace("\n\n```", "\n```")


def _figure(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


KINDS: dict[str, Callable[[str, str], str]] = {
    "models": models,
    "extractors": extractors,
    "knobs": knobs,
    "losses": losses,
    "published": published,
    "citations": citations,
}
TABLE = re.compile(r"(<!-- generated: (\w+) ?([\w.,]*) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def render(text: str, method: str) -> str:
    """Return a method's README with each generated table made anew."""
    unknown = {kind for _, kind, *_ in TABLE.findall(text)} - set(KINDS)
    if unknown:
        raise ValueError(f"the README of {method} has the generated tables {sorted(unknown)}; known are {list(KINDS)}")
    return TABLE.sub(lambda match: f"{match[1]}{KINDS[match[2]](method, match[3])}\n{match[4]}", text)


if __name__ == "__main__":
    for file in sorted(METHODS.glob("*/README.md")):
        file.write_text(render(file.read_text(encoding="utf-8"), file.parent.name), encoding="utf-8")
    for method in catalogue.methods():
        options, text = text_of(method)
        options.write_text(text, encoding="utf-8")
