"""Labelled collections of art: which classes an image shows, and where, read from the layouts that they are shared in.

IconArt, PeopleArt, Watercolor2k, Comic2k, Clipart1k, CASPA, any folder in the layout of Pascal VOC, any table with a
column a class, any folder of images with VOC files. No image is opened, and nothing is downloaded.

Layouts: Everingham 2010 (VOC), Gonthier 2018, Westlake 2016 (PeopleArt), Inoue 2018 (-2k, -1k), Thomas 2018 (CASPA).
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from pathlib import Path, PurePosixPath

import numpy as np

from artmodels.data.folders import image_files
from artmodels.data.voc import Annotation, Box, Reader
from artmodels.errors import DatasetError, some, suggest
from artmodels.files import text_of
from artmodels.images.decoding import Array

__all__ = ["READERS", "Box", "Item", "LabelledSet", "annotated_folder", "labelled_csv", "read", "voc"]

ICONART = ("angel", "Child_Jesus", "crucifixion_of_Jesus", "Mary", "nudity", "ruins", "Saint_Sebastien")
ICONART_V2 = (*ICONART, "beard", "capital", "turban")
SIX = ("bicycle", "bird", "car", "cat", "dog", "person")
CASPA = ("bear", "bird", "cat", "cow", "dog", "elephant", "horse", "sheep")
TWENTY = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
LABELS = {"1": 1, "+1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "1,0": 1, "0,0": 0, "-1,0": -1}
# As spreadsheets and people write them, in a few languages.
LABELS |= dict.fromkeys(("TRUE", "YES", "X", "WAHR", "JA", "VRAI", "OUI", "VERO", "SI", "SÌ", "VERDADERO", "SÍ"), 1)
LABELS |= dict.fromkeys(("FALSE", "NO", "FALSCH", "NEIN", "FAUX", "NON", "FALSO"), 0)
_SPLITS = ("train", "val", "trainval", "test", "extra")
NAME_COLUMNS = ("item", "name_img", "file", "filename", "file_name", "image", "path")


@dataclass(frozen=True, kw_only=True)
class Item(Annotation):
    """One image of a collection, with what its annotation says."""

    path: Path  # the file, which exists
    split: str | None = None  # "train", "val", "test" or another part of the collection; None where there are no parts


@dataclass(frozen=True)
class LabelledSet:
    """Images with the classes that they show. All methods raise a DatasetError where a name is unknown."""

    name: str  # what it is called in tables
    classes: tuple[str, ...]  # in the order of the columns of `labels`
    items: tuple[Item, ...]

    def __len__(self) -> int:
        """How many images."""
        return len(self.items)

    def split(self, name: str) -> "LabelledSet":
        """Keep one part; "trainval" is train and val together."""
        wanted = {"train", "val", "trainval"} if name == "trainval" else {name}
        kept = tuple(item for item in self.items if item.split in wanted)
        if not kept:
            parts = Counter(str(item.split) for item in self.items)
            known = ", ".join(f"{part} ({count} images)" for part, count in sorted(parts.items()))
            raise DatasetError(
                f"{self.name} has no part {name!r}, only {known or 'no image'}.{suggest(name, parts)} Name one of them."
            )
        return replace(self, items=kept)

    def boxed(self) -> "LabelledSet":
        """Keep the images whose boxes are known: what detection is measured on."""
        return replace(self, items=tuple(item for item in self.items if item.boxed))

    def labels(self) -> Array:
        """Which classes each image shows, [N, C] uint8 of 0 and 1."""
        shown = [name in item.labels for item in self.items for name in self.classes]
        return np.array(shown, np.uint8).reshape(len(self.items), len(self.classes))

    def restrict(self, classes: Sequence[str]) -> "LabelledSet":
        """Forget all other classes. Every image stays: one that shows none of them is a negative."""
        check_known(classes, self.classes, f"class of {self.name}")
        kept = frozenset(classes)
        items = tuple(
            replace(item, labels=item.labels & kept, boxes=tuple(box for box in item.boxes if box.label in kept))
            for item in self.items
        )
        return LabelledSet(self.name, tuple(classes), items)

    def common_classes(self, other: "LabelledSet") -> tuple[str, ...]:
        """The classes that two collections share, in the order of this one."""
        return tuple(name for name in self.classes if name in other.classes)


# --- the layouts: all raise a DatasetError where a folder, file, column, class or box is not what it should be


def voc(
    root: str | os.PathLike[str],
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    ignored: Iterable[str] = (),
    splits: Sequence[str] | None = None,
    clip: bool = False,
) -> LabelledSet:
    """Read a folder in the layout of Pascal VOC: JPEGImages, Annotations, ImageSets/Main.

    An image without a file in Annotations shows nothing: a negative. The box 1, 1, 1, 1 stands for "somewhere", as in
    the `extra` part of Watercolor2k, Comic2k and Clipart1k: the class counts, and the image's boxes are not known.

    Args:
        root: The folder.
        name: What to call it; the folder's name by default.
        classes: Names to expect, in this order, whatever their case in the files; all that occur, sorted, by default.
        ignored: Names of objects that are passed over.
        splits: Lists `ImageSets/Main/<split>.txt` to read; those of train, val, trainval, test and extra by default.
            An image of trainval that is also in train or val belongs to that; none is in two other parts.
        clip: Cut boxes that leave the image instead of refusing them.
    """
    root = Path(root)
    lists = root / "ImageSets" / "Main"
    there = sorted(path.stem for path in lists.glob("*.txt"))
    if splits is None:
        splits = [split for split in _SPLITS if split in there]
    missing = [split for split in splits if split not in there]
    if missing or not splits:
        raise DatasetError(
            f"{lists} has no list {', '.join(f'{split}.txt' for split in missing or _SPLITS)}; it has "
            f"{some(there) if there else 'none'}. Name the lists to read with splits, or unpack the collection again."
        )
    images, annotations = Images(root / "JPEGImages"), root / "Annotations"
    reader = Reader(classes, ignored, clip=clip)
    entries = dict[str, str]()
    for split in sorted(splits, key=lambda split: split == "trainval"):
        listed = [line.strip() for line in text_of(lists / f"{split}.txt").splitlines() if line.strip()]
        check_unique(listed, f"{split}.txt")
        if split == "trainval":
            listed = [entry for entry in listed if entries.get(entry) not in ("train", "val")]
        twice = [entry for entry in listed if entry in entries]
        if twice:
            raise DatasetError(f"{some(twice)} are in {split}.txt and in another list; each belongs to one part.")
        entries |= dict.fromkeys(listed, split)
    paths = images.find_all(entries)
    items = [_item(reader, paths[entry], annotations / f"{entry}.xml", split) for entry, split in entries.items()]
    return LabelledSet(name or root.name, reader.classes, tuple(items))


def annotated_folder(
    images: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    ignored: Iterable[str] = (),
    clip: bool = False,
) -> LabelledSet:
    """Read a folder of images, with folders inside or not, and one of VOC files of the same names.

    Images without such a file show nothing. The other arguments are those of `voc`.
    """
    found, annotations = Images(Path(images)), Path(annotations)
    if not annotations.is_dir():
        raise DatasetError(f"There is no folder {annotations}: name the folder that holds the .xml files.")
    files = {path.relative_to(annotations).with_suffix("").as_posix(): path for path in annotations.rglob("*.xml")}
    if not files:
        raise DatasetError(f"{annotations} holds no .xml file.")
    of_image = {path: files[entry] for entry, path in found.find_all(sorted(files)).items()}
    reader = Reader(classes, ignored, clip=clip)
    items = [_item(reader, path, of_image.get(path), None) for path in found.files]
    return LabelledSet(name or Path(images).name, reader.classes, tuple(items))


def labelled_csv(
    table: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    name_column: str | None = None,
    split_column: str = "set",
    other_columns: Sequence[str] = (),
) -> LabelledSet:
    """Read labels of whole images from a table: a column of file names, and one a class, of 0 and 1 or of -1 and +1.

    Args:
        table: The CSV file, with a header, as spreadsheets write it: commas, semicolons or tabs; UTF-8, UTF-16 or, of
            older programs on Windows, cp1252; labels may be TRUE and FALSE.
        images: The folder that the file names are in; a name may lack its suffix.
        name: What to call it; the table's name by default.
        classes: The columns to read; by default all but the file name, the part and `other_columns`.
        name_column: Column of the file names; by default the first of item, name_img, file, filename, file_name,
            image and path that there is.
        split_column: Column of the part, such as train and test; it need not be there.
        other_columns: Columns to pass over.
    """
    columns, rows = read_csv(Path(table))
    if name_column is None:
        by_name = {column.casefold(): column for column in reversed(columns)}
        name_column = next((by_name[column] for column in NAME_COLUMNS if column in by_name), None)
        if name_column is None:
            has = f"it has {some(columns)}"
            raise DatasetError(
                f"{table} has no column of file names: {has}. Call the one that holds them 'file' in the table, or say "
                "which it is with name_column."
            )
    check_known([name_column, *other_columns, *(classes or ())], columns, f"column of {table}")
    if classes is None:
        classes = [column for column in columns if column not in {name_column, split_column, *other_columns}]
    if not classes:
        raise DatasetError(f"{table} has no column of labels, only {some(columns)}; give one column a class.")
    shown = [labels_of(rows, column, Path(table)) for column in classes]
    names = [row[name_column].strip() for row in rows]
    check_unique(names, str(table))
    paths = Images(Path(images)).find_all(names)
    items = list[Item]()
    for entry, row, values in zip(names, rows, zip(*shown, strict=True), strict=True):
        labels = frozenset(compress(classes, values))
        items.append(
            Item(path=paths[entry], labels=labels, boxed=False, split=row.get(split_column, "").strip() or None)
        )
    return LabelledSet(name or Path(table).stem, tuple(classes), tuple(items))


def iconart(root: str | os.PathLike[str], *, version: int = 1, clip: bool = False) -> LabelledSet:
    """Read IconArt: labels from ImageSets/Main/IconArt_v1.csv (or v2), boxes where its column Anno says so.

    Version 1 has the seven classes of the papers, 2 ten. `clip` is as in `voc`.
    """
    if version not in (1, 2):
        raise DatasetError(f"IconArt has no version {version}; give 1 or 2.")
    root, classes = Path(root), ICONART if version == 1 else ICONART_V2
    table = root / "ImageSets" / "Main" / f"IconArt_v{version}.csv"
    columns, rows = read_csv(table)
    check_known(["item", "set", "Anno", *classes], columns, f"column of {table}")
    labels = labelled_csv(table, root / "JPEGImages", name=f"IconArt v{version}", classes=classes, name_column="item")
    drawn = [row["item"].strip() for row, anno in zip(rows, labels_of(rows, "Anno", table), strict=True) if anno]
    files = {entry: root / "Annotations" / f"{entry}.xml" for entry in drawn}
    check_present(files)
    reader = Reader(classes, set(ICONART_V2) - set(classes), clip=clip)
    items = list[Item]()
    for row, unboxed in zip(rows, labels.items, strict=True):
        file = files.get(row["item"].strip())
        boxed = _item(reader, unboxed.path, file, unboxed.split) if file else unboxed
        items.append(replace(boxed, labels=unboxed.labels))
    return replace(labels, items=tuple(items))


def peopleart(root: str | os.PathLike[str], *, clip: bool = False) -> LabelledSet:
    """Read PeopleArt: lists Annotations/person_<split>.txt of +1 and -1, boxes for the images that show people."""
    folder = Path(root) / "Annotations"
    reader, entries = Reader(("person",), (), clip=clip), dict[str, tuple[str, bool]]()
    for split in ("train", "val", "test"):
        file = folder / f"person_{split}.txt"
        lines = [line.rsplit(None, 1) for line in text_of(file).splitlines() if line.strip()]
        wrong = [" ".join(line) for line in lines if len(line) != 2 or LABELS.get(line[1]) not in (-1, 1)]
        if wrong:
            raise DatasetError(f"{file}: {some(wrong)} should be a file name and 1 or -1.")
        check_unique([*entries, *(line[0] for line in lines)], f"{file} and the lists before it")
        entries |= {line[0]: (split, LABELS[line[1]] == 1) for line in lines}
    paths = Images(Path(root) / "JPEGImages").find_all(entries)
    check_present({entry: folder / f"{entry}.xml" for entry, (_, shown) in entries.items() if shown})
    items = list[Item]()
    for entry, (split, shown) in entries.items():
        found = _item(reader, paths[entry], folder / f"{entry}.xml" if shown else None, split)
        items.append(replace(found, labels=frozenset({"person"} if shown else ())))
    return LabelledSet("PeopleArt", ("person",), tuple(items))


watercolor2k = partial(voc, name="Watercolor2k", classes=SIX)
comic2k = partial(voc, name="Comic2k", classes=SIX)
clipart1k = partial(voc, name="Clipart1k", classes=TWENTY)
caspa = partial(voc, name="CASPA", classes=CASPA)

READERS: Mapping[str, Callable[[str | os.PathLike[str]], LabelledSet]] = {
    "iconart": iconart,
    "peopleart": peopleart,
    "watercolor2k": watercolor2k,
    "comic2k": comic2k,
    "clipart1k": clipart1k,
    "caspa": caspa,
    "voc": voc,
}


def read(name: str, root: str | os.PathLike[str]) -> LabelledSet:
    """Read a collection by the name of its layout, one of `READERS`."""
    if name not in READERS:
        raise DatasetError(f"There is no reader {name!r}.{suggest(name, READERS)} Those are {', '.join(READERS)}.")
    return READERS[name](root)


def _item(reader: Reader, path: Path, file: Path | None, split: str | None) -> Item:
    """An image with what its annotation says; without one it shows nothing."""
    found = reader.read(file) if file and file.is_file() else Annotation()
    return Item(path=path, split=split, **vars(found))


# --- lists, tables and folders that they are made of


class Images:
    """The image files below a folder, found by their path with or without its suffix."""

    def __init__(self, root: Path) -> None:
        """List the folder once."""
        self.root = root
        self.files = tuple(image_files(root))
        self._named = dict[str, list[Path]]()
        for file in self.files:
            name = file.relative_to(root)
            for key in {name.as_posix(), name.with_suffix("").as_posix()}:
                self._named.setdefault(key, []).append(file)

    def find_all(self, names: Iterable[str]) -> dict[str, Path]:
        """Find the file of each name; no two names may be one file."""
        names = list(names)
        found = {name: self._named.get(PurePosixPath(name).as_posix(), []) for name in names}
        missing = [name for name, files in found.items() if not files]
        if missing:
            raise DatasetError(
                f"{len(missing)} of {len(names)} images are not in {self.root}: {some(missing)}. Copy them there, or "
                "take them out of the list."
            )
        double = [name for name, files in found.items() if len(files) > 1]
        if double:
            raise DatasetError(f"{some(double)}: there are several files of that name in {self.root}; give the suffix.")
        paths = {name: files[0] for name, files in found.items()}
        check_unique(list(map(str, paths.values())), "the list, once with and once without suffix")
        return paths


def read_csv(table: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a table as spreadsheets write it: its columns, and one row a line of as many values.

    Columns and rows without any value are left out, as those that are behind the last ones.
    """
    text = text_of(table, encodings=("utf-8-sig", "utf-16", "cp1252"))
    hint = re.match(r'"?sep=(.)"?[\r\n]+', text)  # of Excel
    text = text[hint.end() :] if hint else text
    first = text.split("\n", 1)[0]
    separator = hint[1] if hint else max(",;\t", key=first.count)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        columns = [column.strip() for column in next(lines, [])]
        rows = [(lines.line_num, line) for line in lines if any(map(str.strip, line))]
        while columns and not columns[-1] and not any(any(line[len(columns) - 1 :]) for _, line in rows):
            columns, rows = columns[:-1], [(number, line[: len(columns) - 1]) for number, line in rows]
    except csv.Error as error:
        what = f"not a table of values between {separator!r}: {error}"
        raise DatasetError(f"{table}, line {lines.line_num}: {what}. Save it as CSV again.") from error
    if not columns or not rows:
        raise DatasetError(f"{table} is empty; give a header and one row an image.")
    check_unique(columns, f"the header of {table}")
    for number, line in rows:
        if len(line) != len(columns):
            raise DatasetError(f"{table}, line {number}: {len(line)} values for {len(columns)} columns.")
    return columns, [dict(zip(columns, line, strict=True)) for _, line in rows]


def labels_of(rows: Sequence[Mapping[str, str]], column: str, table: Path) -> list[bool]:
    """Read one column of labels: 0 and 1, or -1 and +1."""
    values = [LABELS.get(row[column].strip().upper()) for row in rows]
    if None in values:
        first = values.index(None)
        raise DatasetError(
            f"{table}, column {column!r}: {rows[first][column]!r} in row {first + 1} is no label; labels are 0 and 1, "
            "-1 and +1, or TRUE and FALSE. Name the columns of labels with classes, if this is none."
        )
    if {0, -1} <= set(values):
        raise DatasetError(f"{table}, column {column!r} mixes 0 and -1; give 0 and 1, or -1 and +1.")
    return [value == 1 for value in values]


def check_known(wanted: Iterable[str], known: Sequence[str], what: str) -> None:
    """Raise a DatasetError that names near misses for the first name that is not known."""
    for name in wanted:
        if name not in known:
            raise DatasetError(f"There is no {what} {name!r}.{suggest(name, known)} There are {', '.join(known)}.")


def check_unique(names: Sequence[str], where: str) -> None:
    """Raise a DatasetError if a name occurs twice."""
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise DatasetError(f"{some(double)} occur more than once in {where}; each once.")


def check_present(files: Mapping[str, Path]) -> None:
    """Raise a DatasetError that counts the files that are not there and names the first."""
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(files)} annotations are missing: {some(missing)}. Unpack the collection again."
        )
