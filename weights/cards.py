"""Model cards: what the Hub shows of a checkpoint, written from its recipe and its measurements."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import ModelCard, ModelCardData

from artmodels.errors import ConfigError
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Method

if TYPE_CHECKING:
    from weights.recipes import RecipeFile, Result

__all__ = ["Card", "check", "method_of", "render"]

SECTIONS = ("Use", "Training", "Metrics", "Limits")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a person says about a checkpoint; the rest of the model card is measured.

    Attributes:
        title: Heading.
        summary: One sentence: what it is for.
        licence: The Hub's identifier, such as "apache-2.0".
        source: Paper or page that describes the method.
        limits: What it is not good for.
        tags: The Hub's tags, beside those of the library and the method.
        usage: Python that uses it; empty for the method's usual lines.
        measured: What the metrics were measured on.
    """

    title: str
    summary: str
    licence: str
    source: str
    limits: str
    tags: tuple[str, ...] = ()
    usage: str = ""
    measured: str = "On what was held out of the training"

    def __post_init__(self) -> None:
        """Check the values."""
        empty = [
            name for name in ("title", "summary", "licence", "source", "limits") if not getattr(self, name).strip()
        ]
        if empty:
            raise ConfigError(f"[card] says nothing under {', '.join(empty)}: a reader wants to know.")


def method_of(config: Mapping[str, Any]) -> str:
    """The method that a config.json is for; feature extractors, whose layout is the Hub's own, name none."""
    return str(config.get("method", "features"))


def render(name: str, file: "RecipeFile", result: "Result", config: Mapping[str, Any]) -> str:
    """The card of a checkpoint that has been built, as Markdown with front matter."""
    card, method = file.card, method_of(config)
    tags = dict.fromkeys(["artmodels", method.replace("_", "-"), *card.tags])
    data = ModelCardData(license=card.licence, library_name="artmodels", tags=list(tags))
    rows = [f"| {key} | {value:.4g} |" for key, value in file.metrics.items()]
    return f"""---
{data.to_yaml()}
---

# {card.title}

{card.summary}

Source: {card.source}.

## Use

```python
{card.usage.strip() or _usage(name, method)}
```

## Training

Trained for artmodels in {file.schedule.steps} steps on {_count(result.data_files, "image")}; names and contents have
the sha256 `{result.data_sha256}`.
`recipe.toml` has every setting; in a checkout of artmodels this makes the weights again:

```
python -m weights build {name}
```

This was done with PyTorch {result.torch} and {_count(file.threads, "thread")} on a CPU with {result.cpu}
instructions. There the first 20 steps can be repeated bit by bit: `python -m weights verify {name}` does so.

## Metrics

{card.measured}, by `python -m weights build {name}`:

| metric | value |
| --- | --- |
{chr(10).join(rows)}

## Limits

{card.limits}
"""


def check(path: Path, method: str) -> str:
    """Say that a card is complete, and under what licence.

    Raises:
        ConfigError: The front matter is missing, does not parse or lacks something, or a section is missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path.name} is missing: build the checkpoint.") from None
    if not text.startswith("---\n"):
        raise ConfigError(f"{path.name} has no front matter: the Hub would know neither licence nor library.")
    try:
        data = cast(ModelCardData, ModelCard(text).data)
    except Exception as error:  # the parser raises YAML's own errors, ValueError and TypeError
        raise ConfigError(f"the front matter of {path.name} is not valid: {' '.join(str(error).split())}") from error
    if not data.license:
        raise ConfigError(f"the front matter of {path.name} has no license.")
    if data.library_name != "artmodels":
        raise ConfigError(f"the front matter of {path.name} has the library_name {data.library_name!r}, not artmodels.")
    missing = {"artmodels", method.replace("_", "-")} - set(data.tags or [])
    if missing:
        raise ConfigError(f"the front matter of {path.name} lacks the tags {', '.join(sorted(missing))}.")
    sections = [section for section in SECTIONS if f"\n## {section}\n" not in text]
    if sections:
        raise ConfigError(f"{path.name} lacks the sections {', '.join(sections)}.")
    return f"complete, {data.license}"


def _usage(name: str, method: str) -> str:
    if method == "features":
        tap = "layer3" if "resnet" in name else "relu3_1"
        return f"""from artmodels import features, images

extractor = features.load("{name}")
found = extractor(images.load("photo.jpg").tensor(), ["{tap}"])  # {{"{tap}": [1, C, H, W]}}"""
    known = catalogue.find_method(method)
    return f"""import artmodels

model = artmodels.{known.class_name if known else method}.from_pretrained("{name}")
{known.example if known else Method.example}"""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")
