"""Write the generated tables of README.md again: the methods from the catalogue, the knobs from the configs.

Run by `make readme`; a test fails when the README is not what this script would write.
"""

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from artmodels.cli.commands import weights_text
from artmodels.descent.algebra import PyramidLoss
from artmodels.descent.terms import TERMS
from artmodels.hub import catalogue
from artmodels.methods.neural_style import StyleConfig
from artmodels.methods.texture_synthesis import TextureConfig

README = Path(__file__).parent.parent / "README.md"


def _table(header: list[str], rows: list[list[str]]) -> str:
    # A bar inside a cell would end it.
    cells = [header, ["---"] * len(header), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def methods() -> str:
    """The catalogue: methods first, then the features they use."""
    entries = sorted(catalogue.list_models(), key=lambda entry: entry.method == "features")
    rows = [
        [
            f"`{entry.name}`" + (" (default)" if entry.default else ""),
            f"`{entry.method}`",
            entry.summary,
            entry.source,
            weights_text(entry),
            entry.licence,
        ]
        for entry in entries
    ]
    return _table(["name", "method", "what it is", "source", "weights", "licence"], rows)


def knobs(config: type) -> str:
    """The fields of a config dataclass, each with its default and its own help."""
    rows = []
    for field in dataclasses.fields(config):
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        rows.append([f"`{field.name}`", f"`{default!r}`", field.metadata["help"]])
    return _table(["setting", "default", "what it does"], rows)


def losses() -> str:
    """The terms that a loss may sum, with their settings."""
    rows = []
    for name, term in TERMS.items():
        settings = ", ".join(f"`{item.name}={item.default!r}`" for item in dataclasses.fields(term)) or "none"
        rows.append([f"`{name}`", settings, (term.__doc__ or "").split("\n")[0].rstrip(".")])
    octaves = next(item.default for item in dataclasses.fields(PyramidLoss) if item.name == "octaves")
    rows.append(["`pyramid(loss)`", f"`octaves={octaves}`", (PyramidLoss.__doc__ or "").split("\n")[0].rstrip(".")])
    return _table(["loss", "settings", "what it is"], rows)


SECTIONS: dict[str, Callable[[], str]] = {
    "methods": methods,
    "losses": losses,
    "texture_synthesis": partial(knobs, TextureConfig),
    "neural_style": partial(knobs, StyleConfig),
}


def render(text: str) -> str:
    """Return the README with each generated section made anew; exactly the known sections must be there."""
    found = re.findall(r"<!-- generated: (\w+) -->", text)
    if sorted(found) != sorted(SECTIONS):
        raise ValueError(f"README.md has the generated sections {found}, not {list(SECTIONS)}")
    return re.sub(
        r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{SECTIONS[match[2]]()}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")
