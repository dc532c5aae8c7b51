"""Training a detector while somebody watches, and packing what it found."""

import json
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from artmodels.detections import annotations
from artmodels.errors import DatasetError
from artmodels.ui.controls import MODELS
from artmodels.ui.uploads import Names, markdown

if TYPE_CHECKING:
    from collection import Collection  # of this folder, loaded by its path

REGIONS = "art-regions"
PAUSE = 0.4  # seconds between reports of progress
FORMATS = ("JSON", "COCO", "Pascal VOC", "IIIF")
IIIF = "https://example.org"  # nobody's: to be replaced by the address of the collection


def train(work: "Collection", marks: Mapping[str, Mapping[str, bool]]) -> Iterator[str]:
    """Train a detector for each class from whether pictures show it, and say how far it is."""
    # Not at the top: the gallery is to be up before anybody trains.
    from artmodels.methods.mimax import Detector, MIMax, MIMaxStep
    from artmodels.methods.region_features import Extraction

    following = 0.0
    for number, (label, answers) in enumerate(marks.items(), start=1):
        for kind, words in ((True, "✓ yes"), (False, "✗ no")):
            if kind not in answers.values():
                raise DatasetError(f"No picture is marked “{words}” for “{label}”: mark at least one, then train.")
        given = {name: [label] if shown else [] for name, shown in answers.items()}
        detector = Detector(MODELS(REGIONS), MIMax(standardize=True))
        of = f" ({number} of {len(marks)}: {markdown(label)})" if len(marks) > 1 else ""
        kind = None
        for step in detector.stream_fit(work.pictures, given, classes=[label], store=work.store):
            if type(step) is kind and time.monotonic() < following:
                continue
            kind, following = type(step), time.monotonic() + PAUSE
            if isinstance(step, Extraction):
                yield f"Looking at picture {step.done} of {step.total}…"
            elif isinstance(step, MIMaxStep):
                yield f"Training{of}: step {step.done} of {step.total}, loss {step.loss:.3f}."
        work.detectors[label], work.learnt[label] = detector, dict(answers)


def pack(archive: Path, work: "Collection", labels: list[str], threshold: float, formats: tuple[str, ...]) -> None:
    """Write annotations of all pictures and the classifiers into a ZIP file."""
    folder = archive.parent
    found = merged(work, labels, threshold)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        if "JSON" in formats:
            packed.writestr("detections.json", json.dumps(annotations.plain(found), indent=1))
        if "COCO" in formats:
            packed.writestr("coco.json", json.dumps(annotations.coco(found, labels)))
        if "IIIF" in formats:
            for one in found:
                address = quote(one.image)
                page = annotations.iiif_page(one, page=f"{IIIF}/annotations/{address}", canvas=f"{IIIF}/{address}")
                packed.writestr(f"iiif/{one.image}.json", json.dumps(page, indent=1))
        if "Pascal VOC" in formats:
            names = Names()
            for one in found:
                packed.writestr(f"voc/{names.unused(f'{Path(one.image).stem}.xml')}", annotations.voc(one))
        folders = Names()
        for label in labels:
            name = folders.unused(plain_name(label))
            work.detectors[label].save_pretrained(folder / name)
            for file in sorted((folder / name).iterdir()):
                packed.write(file, f"classifier-{name}/{file.name}")


def plain_name(label: str) -> str:
    """Make the name of a class one of a file: it is the visitor's, and may be a path."""
    return re.sub(r"\W+", "-", label).strip("-") or "thing"


def merged(work: "Collection", labels: list[str], threshold: float) -> list[annotations.Detections]:
    """Give the detections of all classes, one an image."""
    per_class = [work.detectors[label].collection(threshold=threshold) for label in labels]
    return [
        annotations.Detections(
            image=parts[0].image,
            width=parts[0].width,
            height=parts[0].height,
            boxes=[box for part in parts for box in part.boxes.tolist()],
            scores=[score for part in parts for score in part.scores.tolist()],
            labels=tuple(name for part in parts for name in part.labels),
        )
        for parts in zip(*per_class, strict=True)
    ]
