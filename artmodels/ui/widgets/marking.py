"""Pictures that one marks yes or no by clicking: the marks live in the browser, and are sent whole with each button.

A click never waits for the server: what is marked while a training runs is there for the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from artmodels.errors import ConfigError, DatasetError

__all__ = ["Answers", "Marks", "found_update", "found_wall", "read_marks", "wall", "wall_update"]

CLASSES = 50  # that one can mark
NAME = 80  # characters of a class's name

Answers = dict[str, bool]
"""File -> whether it shows the thing; of a file that is not in it nothing is known."""

WALL = """
<div class="board">
  <label class="what">What are you looking for?
    <input type="text" maxlength="80" autocomplete="off" placeholder="Name it, such as “ship”"></label>
  <div class="classes" role="group" aria-label="Things with marks"></div>
  <p class="count" role="status"></p>
  <div class="grid" role="group" aria-label="Pictures: click to mark ?, ✓ yes, ✗ no"></div>
  <button type="button" class="others">Mark all others ✗ no</button>
</div>
"""

FOUND = """
<div class="board">
  <p class="count"></p>
  <div class="grid" role="group" aria-label="Found, best first: click to change a mark"></div>
</div>
"""

STYLE = """
.board { display: flex; flex-direction: column; gap: .6rem; }
.board p { margin: 0; font-size: .9rem; min-height: 1.4em; color: var(--body-text-color-subdued); }
.what { font-size: .9rem; }
.what input {
  display: block; width: 100%; box-sizing: border-box; margin-top: .3rem; padding: .55rem .7rem; font: inherit;
  font-size: 1rem; color: inherit; border: 1px solid var(--border-color-primary);
  background: var(--input-background-fill);
}
.classes { display: flex; flex-wrap: wrap; gap: .4rem; }
.classes:empty { display: none; }
.board button { cursor: pointer; font: inherit; color: inherit; border: 1px solid var(--border-color-primary); }
.classes button, .others { padding: .45rem .8rem; background: var(--button-secondary-background-fill); }
.classes button { font-size: .85rem; overflow-wrap: anywhere; }
.classes button[aria-pressed=true] { border-color: currentColor; font-weight: 600; }
.grid {
  display: grid; gap: .4rem; grid-template-columns: repeat(auto-fill, minmax(min(var(--tile), 44%), 1fr));
  max-height: var(--high); overflow-y: auto; overscroll-behavior: contain; padding: 3px;
}
.grid:empty { display: none; }
.tile {
  position: relative; display: block; padding: 0; min-width: 0; text-align: left;
  background: var(--block-background-fill);
}
.tile img {
  display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: contain; margin: 0; background: rgb(128 128 128 / .16);
}
.tile .mark {
  position: absolute; left: 0; top: 0; padding: .05rem .45rem; font-size: .8rem; line-height: 1.6; font-weight: 600;
  color: #fff; background: rgb(40 40 40 / .72);
}
.tile .text { display: block; padding: .3rem .5rem; font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
.tile[aria-pressed=true] { outline: 3px solid #18794e; outline-offset: -1px; }
.tile[aria-pressed=true] .mark { background: #18794e; }
.tile[aria-pressed=false] { outline: 3px solid #b3261e; outline-offset: -1px; }
.tile[aria-pressed=false] .mark { background: #b3261e; }
.board button:focus-visible, .what input:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 1px; }
.others:disabled { opacity: .5; cursor: default; }
"""

# What both walls do. A class's marks are a Map from file to yes or no: names of visitors are no keys of objects.
_TILES = """
const part = (name) => element.querySelector(name);
const board = part('.board'), grid = part('.grid');
const WORDS = { true: '✓ yes', false: '✗ no', undefined: '?' };
const SPOKEN = { true: 'yes', false: 'no', undefined: 'unknown' };
const address = (file) => {
  const config = window.gradio_config || {};
  return (config.root || '') + (config.api_prefix || '/gradio_api') + '/file=' + encodeURI(file);
};
function tile(name, file, text) {
  const button = document.createElement('button'), image = document.createElement('img');
  const mark = document.createElement('span');
  button.type = 'button';
  button.className = 'tile';
  button.dataset.name = name;
  image.loading = 'lazy';
  image.decoding = 'async';
  image.alt = '';
  image.src = address(file);
  mark.className = 'mark';
  button.append(image, mark);
  if (text) {
    const caption = document.createElement('span');
    caption.className = 'text';
    caption.textContent = text;
    button.append(caption);
  }
  return button;
}
function show(button, yes) {
  button.setAttribute('aria-pressed', yes === undefined ? 'mixed' : String(yes));
  button.setAttribute('aria-label', button.dataset.name + ': ' + SPOKEN[yes]);
  button.title = button.dataset.name;
  button.querySelector('.mark').textContent = WORDS[yes];
}
"""

_WALL_SCRIPT = (
    _TILES
    + """
let label = '', marks = new Map(), hint = '';
const answers = (of) => marks.get(of) || new Map();
const count = (of, yes) => [...answers(of).values()].filter((each) => each === yes).length;

function paint() {
  for (const button of grid.children) show(button, answers(label).get(button.dataset.name));
  tell();
}
function tell() {
  const field = part('.what input'), total = grid.children.length;
  if (field !== document.activeElement || field.value.trim() === '') field.value = label;
  part('.others').disabled = !label || !total;
  part('.count').textContent = hint || (label && total
    ? `“${label}”: ${count(label, true)} ✓ yes, ${count(label, false)} ✗ no, of ${total} pictures` : '');
  const names = [...new Set([...marks.keys(), ...(label ? [label] : [])])].sort();
  part('.classes').replaceChildren(...(names.length < 2 ? [] : names.map((name) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = name;
    button.dataset.label = name;
    button.setAttribute('aria-pressed', String(name === label));
    return button;
  })));
  const found = document.querySelector('.mimax-found .board');
  if (found && found.paint) found.paint();
}
function send() {
  const only = (of, yes) => [...of].filter(([, each]) => each === yes).map(([name]) => name);
  const all = [...marks].filter(([, of]) => of.size);
  props.value = { label, marks: all.map(([name, of]) => ({ label: name, yes: only(of, true), no: only(of, false) })) };
}
function turn(of, name) {
  if (!of) {
    hint = 'Name what you look for first.';
    tell();
    part('.what input').focus();
    return;
  }
  if (!marks.has(of)) marks.set(of, new Map());
  const known = marks.get(of), yes = known.get(name);
  if (yes === undefined) known.set(name, true); else if (yes) known.set(name, false); else known.delete(name);
  if (of === label) {
    for (const button of grid.children) if (button.dataset.name === name) show(button, known.get(name));
  }
  tell();
  send();
}
function look(name) {
  const field = part('.what input');
  label = name.split(/\\s+/).filter(Boolean).join(' ');
  hint = '';
  field.value = label;
  paint();
  send();
  trigger('looked');
}
function load() {
  const value = props.value || {};
  label = value.label || '';
  hint = '';
  marks = new Map((value.marks || []).map(({ label: name, yes, no }) =>
    [name, new Map([...yes.map((file) => [file, true]), ...no.map((file) => [file, false])])]));
  part('.what input').value = label;
  paint();
}
function build() {
  const number = (index) => String(index).padStart(4, '0');
  const files = props.names || [];
  grid.replaceChildren(...files.map((name, index) => tile(name, `${props.folder}/${number(index)}.jpg`)));
  grid.scrollTop = 0;
  load();
}
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.matches('.tile')) turn(label, button.dataset.name);
  if (button.dataset.label !== undefined) look(button.dataset.label);
  if (button.matches('.others')) {
    if (!marks.has(label)) marks.set(label, new Map());
    const known = marks.get(label);
    for (const { dataset } of grid.children) if (!known.has(dataset.name)) known.set(dataset.name, false);
    paint();
    send();
  }
});
element.addEventListener('change', (event) => { if (event.target.matches('.what input')) look(event.target.value); });
board.turn = turn;
board.answer = (of, name) => answers(of).get(name);
watch(['names', 'folder'], build);
watch('value', load);
build();
"""
)

_FOUND_SCRIPT = (
    _TILES
    + """
const wall = () => document.querySelector('.mimax-wall .board');
const label = () => (props.value && props.value.label) || '';
board.paint = () => {
  const marks = wall();
  for (const button of grid.children) show(button, marks && marks.answer && marks.answer(label(), button.dataset.name));
};
function build() {
  const tiles = (props.value && props.value.tiles) || [];
  grid.replaceChildren(...tiles.map(({ name, file, score }) => tile(name, file, `${score.toFixed(2)}  ${name}`)));
  part('.count').textContent = tiles.length ? `“${label()}”, best first; click to change a mark` : '';
  board.paint();
}
element.addEventListener('click', (event) => {
  const button = event.target.closest('.tile');
  if (button) wall().turn(label(), button.dataset.name);
});
watch('value', build);
build();
"""
)


def wall() -> Any:
    """Add the pictures of a collection, and what one looks for; the event `looked` tells that this changed.

    Its value is what `read_marks` takes; `wall_update` gives it another collection.
    """
    return gr.HTML(
        {"label": "", "marks": []}, html_template=WALL, css_template=".board { --tile: 120px; --high: 440px; }" + STYLE,
        js_on_load=_WALL_SCRIPT, elem_classes="mimax-wall", apply_default_css=False, names=[], folder="",
    )  # fmt: skip


def found_wall() -> Any:
    """Add pictures in which something was found; clicking one turns its mark on the wall, too. See `found_update`."""
    return gr.HTML(
        None, html_template=FOUND, css_template=".board { --tile: 200px; --high: 560px; }" + STYLE,
        js_on_load=_FOUND_SCRIPT, elem_classes="mimax-found", apply_default_css=False,
    )  # fmt: skip


def wall_update(names: Sequence[str], folder: Path, label: str, marks: dict[str, Answers]) -> Any:
    """Give the wall new pictures and marks: the small version of the first is `0000.jpg` in the folder."""
    listed = [
        {
            "label": name,
            "yes": [file for file, yes in answers.items() if yes],
            "no": [file for file, yes in answers.items() if not yes],
        }
        for name, answers in marks.items()
    ]
    return gr.update(value={"label": label, "marks": listed}, names=list(names), folder=str(folder))


def found_update(label: str, tiles: Sequence[tuple[str, Path, float]]) -> Any:
    """Give the pictures in which a thing was found: name, file and score."""
    listed = [{"name": name, "file": str(file), "score": score} for name, file, score in tiles]
    return gr.update(value={"label": label, "tiles": listed})


# --- what comes back


@dataclass(frozen=True)
class Marks:
    """What a visitor has marked.

    Attributes:
        label: The class that is looked at; "" for none.
        answers: Of every class with a mark.
    """

    label: str
    answers: dict[str, Answers]

    @property
    def current(self) -> Answers:
        """Those of the class that is looked at."""
        return self.answers.get(self.label, {})


def read_marks(value: object, files: Sequence[str]) -> Marks:
    """Check the marks that a page, or a program, sends with each button.

    Args:
        value: `{"label": class, "marks": [{"label": class, "yes": [file, ...], "no": [file, ...]}, ...]}`.
        files: The names of the collection's pictures.

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
