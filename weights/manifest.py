"""What a manifest says of a checkpoint that was built here: its bytes and its settings, never copied by hand."""

import hashlib
from pathlib import Path
from typing import Any

import tomlkit

from artmodels.errors import ConfigError
from artmodels.hub import catalogue
from artmodels.hub.checkpoints import WEIGHTS, read_config
from weights import cards, recipes

__all__ = ["facts", "record"]


def facts(folder: Path) -> dict[str, Any]:
    """The sha256, the size and the settings of a checkpoint, by their keys in a manifest.

    Raises:
        ArtModelsError: It has no weights, or its config.json cannot be read.
    """
    data = (folder / WEIGHTS).read_bytes()
    # TOML has no null, and what is None is so by default.
    config = {key: value for key, value in read_config(folder).items() if key != "method" and value is not None}
    size = max(0.01, round(len(data) / 1e6, 2))
    return {"sha256": hashlib.sha256(data).hexdigest(), "size_mb": size, "config": config}


def record(folder: Path) -> Path:
    """Write the facts of a checkpoint into the manifest of its method; a new one is entered with its card's words.

    Returns:
        The manifest; all else in it, comments too, stays as it is.

    Raises:
        ConfigError: The method has no manifest.
        ArtModelsError: The checkpoint has not been built, or its config.json cannot be read.
    """
    card = recipes.built(folder)[0].card
    path = catalogue.manifest(cards.method_of(read_config(folder)))
    if not path.is_file():
        raise ConfigError(f"{path} is missing: write it, see artmodels.hub.catalogue.Method, and do this again")
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    models = document.setdefault("models", tomlkit.aot())
    model = next((model for model in models if model["name"] == folder.name), None)
    if model is None:
        words = {"name": folder.name, "summary": card.summary, "source": card.source, "licence": card.licence}
        models.append(tomlkit.item(words | {"embedded": True}))
        model = models[-1]
    for key, value in facts(folder).items():
        if model.get(key) != value:
            model[key] = value
    path.write_text(tomlkit.dumps(document), encoding="utf-8")
    return path
