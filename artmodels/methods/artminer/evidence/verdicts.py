"""What experts say of pairs: kept in a file, and used to calibrate scores and to train.

The file is JSON Lines, one verdict a line, only ever added to. A line is written by one call to the system, so lines of
several processes do not mix, and a process that is killed leaves at most one torn line, which is passed over.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from artmodels.detections.boxes import Box
from artmodels.errors import ArtModelsError, ConfigError, DatasetError
from artmodels.images.decoding import Array
from artmodels.methods.artminer.groups.pairtable import Pair

__all__ = ["LEAST", "VERDICTS", "Calibration", "Verdict", "VerdictFile", "calibrate", "hard_negatives", "judged"]

logger = logging.getLogger(__name__)

Method = Literal["logistic", "isotonic"]

VERDICTS = ("same", "similar", "no")
LEAST = 5  # verdicts of each kind, below which a threshold would be chance


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What somebody thinks of two pictures; which one is first matters only where it is about a detail of that.

    What is no verdict, an empty name, and a time that is not in ISO 8601 are a ConfigError.
    """

    first: str  # name of a picture
    second: str
    verdict: str  # "same" detail or composition, "similar" but not that, or "no"
    who: str = ""  # whose it is, "" where nobody asked
    when: str = ""  # time in ISO 8601, or ""
    box: Box | None = None  # of the detail of `first` that was asked about, px; None where it was whole pictures

    def __post_init__(self) -> None:
        """Check the values."""
        if self.verdict not in VERDICTS:
            raise ConfigError(f"verdict={self.verdict!r} must be one of {', '.join(map(repr, VERDICTS))}")
        if not all(isinstance(name, str) and name for name in (self.first, self.second)):
            raise ConfigError(f"a verdict is about two pictures, not {self.first!r} and {self.second!r}: name both")
        if self.box is not None:
            box = tuple(float(value) for value in self.box)
            if len(box) != 4 or not all(map(np.isfinite, box)):
                raise ConfigError(f"box={self.box!r} must be left, top, right, bottom in pixels, or None")
            object.__setattr__(self, "box", box)
        if self.when:
            try:
                datetime.fromisoformat(self.when)
            except ValueError as error:
                raise ConfigError(f"when={self.when!r} must be a time in ISO 8601, or empty") from error

    @property
    def subject(self) -> tuple[object, ...]:
        """What it is about: a later verdict on the same replaces it."""
        if self.box is None:
            return tuple(sorted((self.first, self.second)))
        return self.first, self.second, self.box


class VerdictFile:
    """Verdicts in a file, which is made with the first one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name the file."""
        self.path = Path(path)

    def add(self, verdict: Verdict) -> None:
        """Write one at the end of the file; it is on the disk when this returns.

        Raises:
            ArtModelsError: The file cannot be written.
        """
        line = (json.dumps(asdict(verdict), ensure_ascii=True) + "\n").encode()
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                size = os.fstat(handle).st_size
                # What a killed process left unfinished must not swallow the new line.
                if size and os.pread(handle, 1, size - 1) != b"\n":
                    line = b"\n" + line
                if os.write(handle, line) < len(line):
                    raise OSError(None, "the line was cut short")
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise ArtModelsError(
                f"could not write the verdict to {str(self.path)!r}: {error.strerror}; check that its folder exists, "
                "may be written to and has space left"
            ) from error

    def history(self) -> list[Verdict]:
        """All that were given, in the order of the file; none if there is no file.

        Torn lines, which are no JSON, are passed over, and the log says so.

        Raises:
            DatasetError: The file cannot be read, or a whole line is not a verdict.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DatasetError(f"{self.path} cannot be read: {error.strerror}. Check its permissions.") from error
        found, torn = list[Verdict](), list[int]()
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                if line.strip():
                    torn.append(number)
                continue
            try:
                found.append(Verdict(**record))
            except (TypeError, ValueError, OverflowError, ConfigError) as error:
                raise DatasetError(
                    f"{self.path}, line {number} is no verdict: {error}. Correct it or take it out."
                ) from error
        if torn:
            more = f" and {len(torn) - 1} more" if len(torn) > 1 else ""
            logger.warning("%s, line %d is torn%s, and passed over.", self.path, torn[0], more)
        return found

    def current(self) -> list[Verdict]:
        """The last one on each pair, or on each detail and picture, in the order in which they were first judged."""
        return list({verdict.subject: verdict for verdict in self.history()}.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """From scores to probabilities of "same"."""

    precision: float  # that was asked for
    method: Method
    positives: int  # verdicts "same" that it rests on
    negatives: int  # and verdicts that are not
    knots: tuple[float, ...]  # scores, ascending: of the verdicts for "isotonic"; centre and scale for "logistic"
    values: tuple[float, ...]  # probabilities at the knots; for "logistic" slope and intercept

    @cached_property
    def threshold(self) -> float:
        """The least score whose probability is `precision` or more; infinite where none is."""
        knots, values, wanted = np.array(self.knots), np.array(self.values), self.precision
        if self.method == "logistic":
            (centre, scale), (slope, intercept) = knots, values
            return float(centre + scale * (np.log(wanted / (1 - wanted)) - intercept) / slope)
        if values[-1] < wanted:
            return float("inf")
        place = int(np.argmax(values >= wanted))
        if place == 0:
            return float(knots[0])
        share = (wanted - values[place - 1]) / (values[place] - values[place - 1])
        return float(knots[place - 1] + share * (knots[place] - knots[place - 1]))

    def probability(self, scores: Sequence[float] | Array) -> Array:
        """Probability in [0, 1] that an expert says "same", for scores of any shape."""
        scores = np.asarray(scores, np.float64)
        if self.method == "isotonic":
            result: Array = np.interp(scores, self.knots, self.values)
            return result
        (centre, scale), (slope, intercept) = self.knots, self.values
        result = 0.5 * (1 + np.tanh(0.5 * (slope * (scores - centre) / scale + intercept)))  # a sigmoid, no overflow
        return result


def calibrate(
    scores: Mapping[tuple[str, str], float] | Mapping[tuple[str, str, Box], float],
    verdicts: Iterable[Verdict],
    *,
    method: Method = "logistic",
    precision: float = 0.5,
    similar: bool = False,
) -> Calibration:
    """Learn from verdicts what scores mean.

    Both kinds count alike, however many there are of each: what is judged is chosen, not drawn.

    Args:
        scores: By the names of two pictures, in either order; or, of details, by the picture with the detail, the one
            where it was found, and the box of the detail.
        verdicts: The current ones; those on what has no score are left out.
        method: "logistic" regression, for few verdicts, or "isotonic", which only assumes that a higher score is not
            worse, for some hundred.
        precision: Probability that the threshold is to have.
        similar: Whether "similar" counts as "same", and not as "no".

    Raises:
        ConfigError: `method` is unknown, or `precision` not in (0, 1).
        DatasetError: Fewer than five verdicts of either kind have a score, a score is not finite, or higher scores are
            not more often "same".
    """
    if method not in ("logistic", "isotonic"):
        raise ConfigError(f"method={method!r} must be 'logistic' or 'isotonic'")
    if not 0 < precision < 1:
        raise ConfigError(f"precision={precision} must be in (0, 1)")
    known: dict[tuple[object, ...], float] = {
        tuple(sorted(about)) if len(about) == 2 else about: float(score) for about, score in scores.items()
    }
    rated = [(known[verdict.subject], verdict.verdict) for verdict in verdicts if verdict.subject in known]
    yes = {"same", "similar"} if similar else {"same"}
    x = np.array([score for score, _ in rated], np.float64)
    y = np.array([verdict in yes for _, verdict in rated], bool)
    positives, negatives = int(y.sum()), int((~y).sum())
    if min(positives, negatives) < LEAST:
        raise DatasetError(
            f"of what has a score {positives} are judged the same and {negatives} not; judge at least {LEAST} of each"
        )
    if not np.isfinite(x).all():
        raise DatasetError(f"{int((~np.isfinite(x)).sum())} scores of judged pairs are not finite; compute them again")
    if not x[y].mean() > x[~y].mean():
        raise DatasetError(
            f"pairs judged the same score {x[y].mean():.4g} on average, the others {x[~y].mean():.4g}: these scores "
            "cannot tell them apart; check that scores and verdicts belong together"
        )
    knots, values = _logistic(x, y) if method == "logistic" else _isotonic(x, y)
    return Calibration(
        precision=precision, method=method, positives=positives, negatives=negatives, knots=knots, values=values
    )


def judged(pairs: Iterable[Pair], verdicts: Iterable[Verdict]) -> list[Pair]:
    """The pairs with the last verdict on each; verdicts on details are not about pairs of whole pictures."""
    last = {verdict.subject: verdict.verdict for verdict in verdicts if verdict.box is None}
    return [replace(pair, verdict=last.get(tuple(sorted((pair.first, pair.second))), pair.verdict)) for pair in pairs]


def hard_negatives(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """What was taken for a match and is judged "no" in the end, each once: what `tuning.tune` takes."""
    last = {verdict.subject: verdict for verdict in verdicts}
    return [verdict for verdict in last.values() if verdict.verdict == "no"]


def _logistic(x: Array, y: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    centre, scale = float(x.mean()), float(x.std())
    model = LogisticRegression(class_weight="balanced").fit((x[:, None] - centre) / scale, y)
    return (centre, scale), (float(model.coef_[0, 0]), float(model.intercept_[0]))


def _isotonic(x: Array, y: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    weights = np.where(y, 0.5 / y.mean(), 0.5 / (~y).mean())
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(x, y, sample_weight=weights)
    return tuple(model.X_thresholds_.tolist()), tuple(model.y_thresholds_.tolist())
