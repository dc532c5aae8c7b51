"""Lists, tables and folders of images that labels come in."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from artmodels.data.folders import image_files
from artmodels.errors import DatasetError, some, suggest
from artmodels.files import text_of

__all__ = [
    "LABELS",
    "Images",
    "check_known",
    "check_present",
    "check_unique",
    "labels_of",
    "read_csv",
]

LABELS = {"1": 1, "+1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1}


class Images:
    """The image files below a folder, found by their path with or without its suffix."""

    def __init__(self, root: Path) -> None:
        """List the folder once.

        Raises:
            DatasetError: There is no such folder, or no image in it.
        """
        self.root = root
        self.files = tuple(image_files(root))
        self._named = dict[str, list[Path]]()
        for file in self.files:
            name = file.relative_to(root)
            for key in {name.as_posix(), name.with_suffix("").as_posix()}:
                self._named.setdefault(key, []).append(file)

    def find_all(self, names: Iterable[str]) -> dict[str, Path]:
        """Find the file of each name.

        Raises:
            DatasetError: Files are missing, several have one name, or two names are one file.
        """
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
    """Read a table in UTF-8: its columns, and one row a line.

    Raises:
        DatasetError: It is empty or no table, a column occurs twice, or a line has another length than the header.
    """
    lines = csv.reader(io.StringIO(text_of(table), newline=""), strict=True)
    try:
        columns = [column.strip() for column in next(lines, [])]
        rows = [(lines.line_num, line) for line in lines if line]
    except csv.Error as error:
        what = f"not a table of comma-separated values: {error}"
        raise DatasetError(f"{table}, line {lines.line_num}: {what}. Save it as CSV again.") from error
    if not columns or not rows:
        raise DatasetError(f"{table} is empty; give a header and one row an image.")
    check_unique(columns, f"the header of {table}")
    for number, line in rows:
        if len(line) != len(columns):
            raise DatasetError(f"{table}, line {number}: {len(line)} values for {len(columns)} columns.")
    return columns, [dict(zip(columns, line, strict=True)) for _, line in rows]


def labels_of(rows: Sequence[Mapping[str, str]], column: str, table: Path) -> list[bool]:
    """Read one column of labels: 0 and 1, or -1 and +1.

    Raises:
        DatasetError: Something else is in it; the message names the first.
    """
    values = [LABELS.get(row[column].strip()) for row in rows]
    if None in values:
        first = values.index(None)
        raise DatasetError(
            f"{table}, column {column!r}: {rows[first][column]!r} in row {first + 1} is no label; labels are 0 and 1, "
            "or -1 and +1. Name the columns of labels with classes, if this is none."
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
