"""Every public class has an example in its docstring, and it works; help of functions and settings can be read."""

import dataclasses
import doctest
import inspect
import pydoc
from importlib import import_module

import numpy as np
import pytest
import torch

import artmodels
from artmodels.hub import catalogue
from artmodels.methods.texture_synthesis import TextureConfig
from artmodels.settings import Settings

SLOW = ("ArtMiner", "Collection", "Detector", "FeatureStore", "RansacFlow")
NAMES = {
    name: getattr(module, name)
    for module in (
        *(import_module(f"artmodels.methods.{method.id}") for method in catalogue.methods()),
        artmodels,
    )
    for name in module.__all__
}


def is_made_by_users(found: object) -> bool:
    """Whether it is a class that is neither an error, nor a result, which its maker's example shows, nor settings."""
    result = dataclasses.is_dataclass(found) and found.__dataclass_params__.frozen
    return inspect.isclass(found) and not result and not issubclass(found, (Exception, Settings, tuple))


CLASSES = {name: found for name, found in NAMES.items() if is_made_by_users(found)}


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in sorted(CLASSES)]
)
def test_the_example_of_a_class_works(name: str) -> None:
    words = CLASSES[name].__doc__ or ""
    example = doctest.DocTestParser().get_doctest(words, NAMES | {"np": np, "torch": torch}, name, None, 0)
    assert len(example.examples) >= 2
    said: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(example, out=said.append)
    assert results.failed == 0, "".join(said)
    assert results.attempted == len(example.examples)


def test_help_keeps_the_names_of_types() -> None:
    shown = pydoc.render_doc(artmodels.FastStyle.__call__, renderer=pydoc.plaintext).splitlines()[2]
    assert "image: Union[Source, list[Source]]" in shown and "memoryview" not in shown
    shown = pydoc.render_doc(TextureConfig, renderer=pydoc.plaintext).splitlines()[3]
    assert shown.startswith(" |  TextureConfig(*, ") and "Annotated" not in shown and "Predicate" not in shown
    assert "rate: float = 0.9" in shown and "exemplar_side: int | None = 1024" in shown
