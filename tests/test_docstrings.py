"""Help of functions and settings can be read."""

import pydoc

import artmodels
from artmodels.methods.texture_synthesis import TextureConfig


def test_help_keeps_the_names_of_types() -> None:
    shown = pydoc.render_doc(artmodels.FastStyle.__call__, renderer=pydoc.plaintext).splitlines()[2]
    assert "image: Union[Source, list[Source]]" in shown and "memoryview" not in shown
    shown = pydoc.render_doc(TextureConfig, renderer=pydoc.plaintext).splitlines()[3]
    assert shown.startswith(" |  TextureConfig(*, ") and "Annotated" not in shown and "Predicate" not in shown
    assert "rate: float = 0.9" in shown and "exemplar_side: int | None = 1024" in shown
