"""What was found and judged, as texts to take home."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from artmodels.errors import ConfigError, DatasetError
from artmodels.images.decoding import LoadedImage
from artmodels.methods.artminer.discovery import Match
from artmodels.methods.artminer.evidence.exports import clusters_csv
from artmodels.methods.artminer.evidence.findings import Claim, Findings
from artmodels.methods.artminer.evidence.proof import facts, hit_of_pair, proof
from artmodels.methods.artminer.evidence.verdicts import Verdict, VerdictFile, calibrate
from artmodels.methods.artminer.groups.clusters import Cluster, Pair
from artmodels.methods.artminer.oneshot import Hit, Searched

BOX = (10.0, 20.0, 50.0, 60.0)


def match(score: float = 0.3) -> Match:
    """Four cells in the middle of a map of 4 x 4, where they are."""
    cells = torch.tensor([[1, 1], [1, 2], [2, 1], [2, 2]])
    return Match(score, torch.eye(3), cells, cells, torch.ones(4), (4, 4), (4, 4))


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    sizes = dict.fromkeys(("a.png", "b.png", "c.png"), (100, 80))
    made = Findings(lambda _: LoadedImage(pixels), sizes, VerdictFile(tmp_path / "verdicts.jsonl"))
    hits = (Hit("b.png", BOX, 0.6, match=match()), Hit("b.png", (60, 20, 90, 60), 0.5), Hit("c.png", BOX, 0.1))
    made.take(Searched(hits, "a.png", BOX, (8, 8), "f" * 64))
    return made


def test_the_best_place_of_a_picture_is_judged_and_scored(findings: Findings) -> None:
    best, second, _ = findings.last.hits
    assert findings.scores == {("a.png", "b.png", BOX): 0.6, ("a.png", "c.png", BOX): 0.1}
    assert findings.judge(Claim("a.png", best, BOX), "same") == (1, 0)
    with pytest.raises(ConfigError, match=r"say it of the best place in b\.png"):
        findings.judge(Claim("a.png", second, BOX), "no")
    assert findings.verdict_on("a.png", "b.png", BOX) == "same" and findings.verdict_on("a.png", "b.png") == ""
    with pytest.raises(DatasetError, match="of what has a score 1 are judged the same and 0 not"):
        findings.calibration(details=True)


def test_verdicts_on_details_calibrate_details_and_none_else() -> None:
    """One on a detail of two pictures is none on the pair of them, and that on another detail another one."""
    boxes = [(0.0, 0.0, 10.0 + number, 10.0) for number in range(10)]
    given = [
        Verdict(first="a", second="b", verdict="same" if number < 5 else "no", box=box)
        for number, box in enumerate(boxes)
    ]
    scores = {("a", "b", box): 0.9 - 0.05 * number for number, box in enumerate(boxes)}
    found = calibrate(scores, given)
    assert (found.positives, found.negatives) == (5, 5) and 0.65 < found.threshold < 0.7
    with pytest.raises(DatasetError, match="0 are judged the same and 0 not"):
        calibrate({("a", "b"): 0.5}, given)


def test_verdicts_of_another_day_are_taken_up(findings: Findings, tmp_path: Path) -> None:
    other = VerdictFile(tmp_path / "other.jsonl")
    for second in ("b.png", "elsewhere.png"):
        other.add(Verdict(first="a.png", second=second, verdict="no"))
    assert findings.bring(other.path, ["a.png", "b.png"]) == (1, 1)
    assert findings.verdict_on("b.png", "a.png") == "no"
    other.path.write_bytes(b"\n" * (2**21 + 1))
    with pytest.raises(DatasetError, match="has more than 2 MiB"):
        findings.bring(other.path, ["a.png", "b.png"])


def test_what_was_found_is_packed(findings: Findings, tmp_path: Path) -> None:
    findings.pairs = [Pair("a.png", "b.png", match(), "mirror"), Pair("a.png", "c.png", match(0.1))]
    texts = findings.search_files({"name": "tiny"}, threshold=0.4)
    texts |= findings.pair_files({"name": "tiny"}, threshold=0.2, model="f" * 64)
    findings.judge(Claim("a.png", findings.last.hits[0], BOX), "same")
    findings.pack(tmp_path / "all.zip", texts)
    with zipfile.ZipFile(tmp_path / "all.zip") as packed:
        assert set(packed.namelist()) == {*texts, "verdicts.jsonl"}
        hits = json.loads(packed.read("detail/hits.json"))
        pairs = json.loads(packed.read("repeats/pairs.json"))
    assert [hit["score"] for hit in hits["hits"]] == [0.6, 0.5] and hits["parameters"]["threshold"] == 0.4
    assert [(pair["first"]["image"], pair["second"]["image"]) for pair in pairs["pairs"]] == [("a.png", "b.png")]
    assert "repeats/iiif/a.png.json" in texts and "detail/iiif/c.png.json" not in texts


def test_places_below_the_threshold_are_written_apart_and_only_if_asked_for(findings: Findings) -> None:
    hidden, asked = (findings.search_files({}, threshold=0.4, below=below) for below in (False, True))
    assert "detail/below_threshold.csv" not in hidden and "below_threshold" not in json.loads(
        hidden["detail/hits.json"]
    )
    assert asked["detail/hits.csv"] == hidden["detail/hits.csv"] and "c.png" not in asked["detail/hits.csv"]
    assert "c.png" in asked["detail/below_threshold.csv"]
    (under,) = json.loads(asked["detail/hits.json"])["below_threshold"]
    assert (under["rank"], under["image"]) == (3, "c.png")


def test_a_box_like_everything_raises_what_is_written(findings: Findings) -> None:
    findings.searched = replace(findings.last, chance=0.55)
    listed = json.loads(findings.search_files({}, threshold=0.2)["detail/hits.json"])
    assert [hit["score"] for hit in listed["hits"]] == [0.6]
    assert listed["parameters"] == {"threshold": 0.55, "chance": 0.55}


def test_no_spreadsheet_runs_the_name_of_a_picture() -> None:
    group = Cluster(images=("=1+1.jpg", "b.jpg"), pairs=(), support=(0.0, 0.0))
    assert clusters_csv([group]).split() == ["cluster,image", "1,'=1+1.jpg", "1,b.jpg"]


def test_a_proof_shows_both_places_at_one_size(findings: Findings) -> None:
    image = findings.picture("b.png")
    hit = findings.last.hits[0]
    made = proof(image, BOX, image, hit, name="a.png")
    assert made.detail.size == made.found.size == (440, 440) and [name for name, _ in made.wholes] == ["b.png"]
    assert made.cells and made.how == "as it is", "the match puts the detail all over the picture, the box does not"
    pair = hit_of_pair(Pair("a.png", "b.png", match(), "mirror"), findings.sizes)
    made = proof(image, None, image, pair, name="a.png")
    assert made.how == "aligned with it" and [name for name, _ in made.wholes] == ["a.png", "b.png"]
    assert facts(pair, pair=True)["Compared"] == "mirrored" and "Score" not in facts(pair, pair=True)
