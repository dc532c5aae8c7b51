"""Pictures that one marks yes or no by clicking: the marks live in the browser, and are sent whole with each button.

A click never waits for the server: what is marked while a training runs is there for the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from artmodels.errors import ConfigError, DatasetError
from artmodels.ui.widgets.component import component, part

__all__ = [
    "Answers",
    "Marks",
    "found_update",
    "found_wall",
    "known_marks",
    "plain_marks",
    "read_marks",
    "wall",
    "wall_update",
]

CLASSES = 50  # that one can mark
NAME = 80  # characters of a class's name

Answers = dict[str, bool]
"""File -> whether it shows the thing; of a file that is not in it nothing is known."""


def wall() -> Any:
    """Add the pictures of a collection, and what one looks for; the event `looked` tells that this changed.

    Its value is what `read_marks` takes; `wall_update` gives it another collection.
    """
    return _board("wall", {"label": "", "marks": []}, names=[], folder="")


def found_wall() -> Any:
    """Add pictures in which something was found; clicking one turns its mark on the wall, too. See `found_update`."""
    return _board("found", None)


def _board(name: str, value: Any, **properties: Any) -> Any:
    """Add a wall; both have one style sheet, and the first part of their scripts."""
    script = part("marking-tiles.js") + part(f"marking-{name}.js")
    return component(
        f"marking-{name}", value, css_template=part("marking.css"), js_on_load=script, elem_classes=f"mimax-{name}",
        **properties,
    )  # fmt: skip


def wall_update(names: Sequence[str], folder: Path, label: str, marks: dict[str, Answers], of: str = "") -> Any:
    """Give the wall new pictures and marks: the small version of the first is `0000.jpg` in the folder.

    `of` is the name of what they belong to, which comes back with each button.
    """

    def marked(answers: Answers, kind: bool) -> list[str]:
        return [file for file, yes in answers.items() if yes == kind]

    listed = [
        {"label": name, "yes": marked(answers, True), "no": marked(answers, False)} for name, answers in marks.items()
    ]
    return gr.update(value={"label": label, "marks": listed, "of": of}, names=list(names), folder=str(folder))


def found_update(label: str, tiles: Sequence[tuple[str, Path, float]]) -> Any:
    """Give the pictures in which a thing was found: name, file and score."""
    listed = [{"name": name, "file": str(file), "score": score} for name, file, score in tiles]
    return gr.update(value={"label": label, "tiles": listed})


# --- what comes back


@dataclass(frozen=True)
class Marks:
    """What a visitor has marked."""

    label: str  # the class that is looked at; "" for none
    answers: dict[str, Answers]  # of every class with a mark

    @property
    def current(self) -> Answers:
        """Those of the class that is looked at."""
        return self.answers.get(self.label, {})


def plain_marks(marks: Marks) -> dict[str, Any]:
    """Give marks as what `read_marks` takes, to be saved and brought again."""
    return {
        "label": marks.label,
        "marks": [
            {"label": label, "yes": [name for name, yes in answers.items() if yes],
             "no": [name for name, yes in answers.items() if not yes]}
            for label, answers in marks.answers.items()
        ],
    }  # fmt: skip


def known_marks(value: Any, files: Sequence[str]) -> Any:
    """Leave out, of saved marks, those of pictures that are not there; what is malformed is left to `read_marks`."""
    known = set(files)
    if not isinstance(value, dict) or not isinstance(value.get("marks"), list):
        return value

    def there(sent: Any) -> Any:
        if not isinstance(sent, dict) or not all(isinstance(sent.get(kind), list) for kind in ("yes", "no")):
            return sent
        return sent | {
            kind: [name for name in sent[kind] if isinstance(name, str) and name in known] for kind in ("yes", "no")
        }

    return value | {"marks": [there(sent) for sent in value["marks"]]}


def read_marks(value: object, files: Sequence[str]) -> Marks:
    """Check the marks of a collection's pictures that a page, or a program, sends with each button.

    They are `{"label": class, "marks": [{"label": class, "yes": [file, ...], "no": [file, ...]}, ...]}`.

    Raises:
        ConfigError: They are anything else, too many, or contradict each other.
        DatasetError: They are of pictures that are not in the collection.
    """
    marks = value.get("marks") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(marks, list):
        raise ConfigError("The marks were not sent: load the page again.")
    if len(marks) > CLASSES:
        raise ConfigError(f"{len(marks)} things have marks: {CLASSES} at most are kept; load the page again.")
    known, answers = set(files), dict[str, Answers]()
    for sent in marks:
        if not isinstance(sent, dict):
            raise ConfigError("The marks of each thing must be its label, and the files with yes and no.")
        label = _class_name(sent.get("label"))
        if not label or label in answers:
            raise ConfigError("Each thing with marks needs a name of its own.")
        answers[label] = {}
        for yes, word in ((True, "yes"), (False, "no")):
            names = sent.get(word)
            # Their number first: nothing is done with more names than there are pictures.
            if not isinstance(names, list) or len(names) > len(files):
                raise ConfigError(f"The files marked {word} for “{label}” must be a list of the collection's pictures.")
            for name in names:
                if not isinstance(name, str) or name not in known:
                    raise DatasetError(
                        f"A mark for “{label}” is of no picture of this collection: mark its pictures again."
                    )
                if name in answers[label]:
                    raise ConfigError(f"{name} is marked twice for “{label}”: yes or no, not both.")
                answers[label][name] = yes
    return Marks(_class_name(value.get("label")), answers)


def _class_name(label: object) -> str:
    """Give the name of a class in one line.

    Raises:
        ConfigError: It is too long, or no text.
    """
    text = " ".join(label.split()) if isinstance(label, str) else None
    if text is None or len(text) > NAME or not text.replace("\u00a0", " ").isprintable():
        raise ConfigError(f"Name what you look for in at most {NAME} letters.")
    return text
