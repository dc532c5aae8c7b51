"""LTLL, Oxford5K and Brueghel run from end to end on small folders laid out as theirs, by the script too."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image, ImageOps
from support import load_script

from artmodels import features
from artmodels.errors import ConfigError, DatasetError
from artmodels.images.decoding import LoadedImage
from artmodels.methods.artminer.discovery import DiscoveryConfig, discover
from artmodels.methods.artminer.evaluation.landmarks import (
    Ltll,
    oxford_mean,
    read_ltll,
    read_oxford,
    stream_ltll_answers,
    stream_oxford_rankings,
    top_1_accuracy,
)
from artmodels.methods.artminer.oneshot import detail
from artmodels.methods.artminer.pipeline import ArtMiner, ArtMinerConfig
from artmodels.progress import result_of

published = load_script(Path(__file__).parents[3] / "benchmarks" / "artminer_published.py")
CONFIG = ArtMinerConfig(scales=(30, 20), reference=30, views=("",))
BOX = (60, 40, 180, 140)


def painted(seed: int, width: int = 240, height: int = 180) -> Image.Image:
    """Soft blots of colour, and fine noise."""
    random = np.random.default_rng(seed)
    blots = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    soft = np.asarray(blots.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((soft + random.integers(-25, 26, (height, width, 3))).clip(0, 255).astype(np.uint8))


def showing(building: int, around: int, place: tuple[int, int] = BOX[:2]) -> Image.Image:
    """A building in front of something else."""
    picture = painted(around)
    picture.paste(painted(building).crop(BOX), place)
    return picture


@pytest.fixture(scope="module")
def miner() -> ArtMiner:
    return ArtMiner(CONFIG, backbone=features.load("art-resnet"), device="cpu")


@pytest.fixture(scope="module")
def checkpoint(miner: ArtMiner, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("weights")
    miner.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def ltll(tmp_path_factory) -> Path:
    """Three landmarks, each old and grey once and new twice; and an old photograph that shows none of them."""
    folder = tmp_path_factory.mktemp("ltll")
    landmarks = {"bridge": 1, "gate": 2, "tower": 3}
    known = {}
    for name, building in landmarks.items():
        (folder / name).mkdir()
        old = ImageOps.grayscale(showing(building, 10 + building)).convert("RGB")
        for file, picture in (
            ("old", old),
            ("new_1", showing(building, 20 + building, (90, 60))),
            ("new_2", showing(building, 30 + building, (20, 20))),
        ):
            picture.save(folder / name / f"{name}_{file}.png")
            known[f"{name}_{file}.png"] = name
    painted(99).save(folder / "lost_old.png")
    known["lost_old.png"] = "castle"
    queries = sorted(name for name in known if "old" in name)
    layout = {"test": queries, "searchImg": sorted(set(known) - set(queries)), "val": ["gate_old.png"], "anno": known}
    (folder / "labels.json").write_text(json.dumps(layout), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def oxford(tmp_path_factory) -> Path:
    """Two buildings; a picture of each is junk, and two pictures show neither."""
    folder = tmp_path_factory.mktemp("oxford")
    (folder / "truth").mkdir()
    for name, building in (("hall", 1), ("spire", 2)):
        for number, place in enumerate([BOX[:2], (90, 60), (20, 20), (100, 20)]):
            showing(building, 10 * building + 40 + number, place).save(folder / f"{name}_{number}.png")
        left, top, right, bottom = BOX
        texts = {"query": f"oxc1_{name}_0 {left} {top} {right} {bottom}.0", "good": f"{name}_0\n{name}_1"}
        for part, text in (texts | {"ok": f"{name}_2", "junk": f"{name}_3"}).items():
            (folder / "truth" / f"{name}_1_{part}.txt").write_text(text, encoding="utf-8")
    for number in range(2):
        painted(80 + number).save(folder / f"street_{number}.png")
    return folder


@pytest.fixture(scope="module")
def photographs(miner: ArtMiner, ltll: Path):
    return miner.describe({file.name: file for file in sorted(ltll.rglob("*.png"))})


@pytest.fixture(scope="module")
def buildings(miner: ArtMiner, oxford: Path):
    return miner.describe({file.stem: file for file in sorted(oxford.glob("*.png"))})


# --- LTLL


def test_old_photographs_find_their_landmark(miner: ArtMiner, ltll: Path, photographs) -> None:
    labels = read_ltll(ltll / "labels.json")
    *steps, answers = stream_ltll_answers(miner, labels, photographs)
    assert [(step.done, step.total) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [step.what for step in steps] == list(labels.queries)
    assert {name: labels.database[answer] for name, answer in answers.items() if "lost" not in name} == {
        "bridge_old.png": "bridge",
        "gate_old.png": "gate",
        "tower_old.png": "tower",
    }
    assert top_1_accuracy(labels, answers) == 3 / 4, "what shows no landmark is answered wrongly"
    turned = dict(zip(labels.queries, [*list(labels.queries.values())[1:], "bridge"], strict=True))
    assert top_1_accuracy(Ltll(turned, labels.database, ()), answers) < 3 / 4


def test_answers_do_not_look_at_labels_and_are_the_best_pair(miner: ArtMiner, ltll: Path, photographs) -> None:
    labels = read_ltll(ltll / "labels.json")
    blind = Ltll(dict.fromkeys(labels.queries, ""), dict.fromkeys(labels.database, ""), ())
    answers = result_of(stream_ltll_answers(miner, blind, photographs))
    assert answers == result_of(stream_ltll_answers(miner, labels, photographs))

    def both(query: str, other: str) -> float:
        views = photographs.pyramid(query), photographs.pyramid(other)
        scores = [discover(a.at(30), b.maps, DiscoveryConfig(margin=3, tolerance=2)).score
                  for a, b in (views, views[::-1])]  # fmt: skip
        return max(scores)

    for query in ("gate_old.png", "lost_old.png"):
        scores = {name: both(query, name) for name in labels.database}
        assert answers[query] == max(scores, key=scores.__getitem__)


def test_pooled_vectors_are_the_largest_of_each_feature(miner: ArtMiner, ltll: Path, photographs) -> None:
    labels = read_ltll(ltll / "labels.json")
    answers = result_of(stream_ltll_answers(miner, labels, photographs, by="pooled"))

    def vector(name: str) -> np.ndarray:
        largest = photographs.pyramid(name).at(30).double().numpy().max((1, 2))
        return largest / np.linalg.norm(largest)

    for query, answer in answers.items():
        cosines = {name: float(vector(query) @ vector(name)) for name in labels.database}
        assert answer == max(cosines, key=cosines.__getitem__)
    with pytest.raises(ConfigError, match="Unknown way to rank 'cosine'. Choose one of 'discovery', 'pooled'"):
        next(stream_ltll_answers(miner, labels, photographs, by="cosine"))


# --- Oxford5K


def test_a_building_is_found_and_junk_is_neither_right_nor_wrong(miner: ArtMiner, oxford: Path, buildings) -> None:
    queries = read_oxford(oxford / "truth")
    *steps, rankings = stream_oxford_rankings(miner, queries, buildings, lambda name: oxford / f"{name}.png")
    assert [(step.done, step.total) for step in steps] == [(10, 10)]
    for query in queries:
        building = query.name.removesuffix("_1")
        assert set(rankings[query.name][:4]) == {f"{building}_{number}" for number in range(4)}
        assert sorted(rankings[query.name]) == sorted(buildings.names)
    assert oxford_mean(queries, rankings) == 1
    released = oxford_mean(queries, rankings, released=True)
    # Junk at rank r of 4 lowers the precisions after it.
    expected = []
    for query in queries:
        at = rankings[query.name].index(query.name.replace("_1", "_3"))
        expected.append(np.mean([(n + 1) / (n + 1 + (n >= at)) for n in range(3)]))
    assert released == pytest.approx(np.mean(expected))
    swapped = {"hall_1": rankings["spire_1"], "spire_1": rankings["hall_1"]}
    assert oxford_mean(queries, swapped) < 0.5
    with pytest.raises(ConfigError, match="1 of 2 queries have no ranking"):
        oxford_mean(queries, {"hall_1": rankings["hall_1"]})


def test_scores_are_those_of_the_box_at_25_cells(miner: ArtMiner, oxford: Path, buildings, monkeypatch) -> None:
    (query, _) = read_oxford(oxford / "truth")
    picture = LoadedImage(np.array(Image.open(oxford / f"{query.image}.png")))
    with torch.inference_mode():
        kernel = detail(miner.describer, picture, query.box, cells=25, margin=5)
    assert max(kernel.shape[1:]) == 25
    config = DiscoveryConfig(margin=0, tolerance=2, iterations=1000, saliency=False)
    scores = {name: discover(kernel, buildings.pyramid(name).maps, config).score for name in buildings.names}
    monkeypatch.setattr("artmodels.methods.artminer.evaluation.landmarks.TOGETHER", 3)
    rankings = result_of(stream_oxford_rankings(miner, [query], buildings, lambda name: oxford / f"{name}.png"))
    assert rankings[query.name] == sorted(buildings.names, key=lambda name: -scores[name])
    outside = dataclasses.replace(query, box=(500.0, 500.0, 600.0, 600.0))
    with pytest.raises(ConfigError, match="lies outside"):
        next(stream_oxford_rankings(miner, [outside], buildings, lambda name: oxford / f"{name}.png"))


# --- The script


def figures(printed: str, weights: str) -> dict[str, float]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]
    return {row[1]: float(row[3]) for row in rows if row[0] == weights}


def test_the_script_prints_landmarks_beside_the_published_figures(checkpoint, ltll, oxford, capsys) -> None:
    published.main(
        ltll=ltll, labels=ltll / "labels.json", oxford=oxford, truth=oxford / "truth", weights=checkpoint, paper=False
    )
    printed = capsys.readouterr().out
    first, second = printed.split("Oxford5K: mAP")
    assert "| ResNet-18, ImageNet | discovery | 80.9 | - | - |   |" in first
    assert "| ResNet-18, ImageNet | discovery | 85.0 | - | - |   |" in second
    old = figures(first, checkpoint)
    assert (old["discovery"], old["discovery, without the validation"]) == (75.0, 66.7)
    assert set(old) == {"discovery", "max-pooled, image level"} | {
        f"{method}, without the validation" for method in ("discovery", "max-pooled, image level")
    }
    boxes = figures(second, checkpoint)
    assert boxes["discovery; official, without junk"] == 100 > boxes["discovery"]


def test_the_script_runs_brueghel_with_both_means(checkpoint, tmp_path, capsys, monkeypatch) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    layout = {}
    for category, places in (("cart", [(60, 40), (100, 70), (20, 20)]), ("tree", [(60, 40), (110, 70)])):
        instances = []
        for number, (left, top) in enumerate(places):
            showing(len(category) + ord(category[0]), ord(category[0]) * 9 + number, (left, top)).save(
                folder / f"{category}{number}.png"
            )
            instances.append([f"{category}{number}.png", [left, top, left + 120, top + 100]])
        layout[category] = [
            {"query": each, "gt": [other for other in instances if other != each]} for each in instances
        ]
    painted(5).save(folder / "distractor.png")
    file = tmp_path / "brueghelTest.json"
    file.write_text(json.dumps(layout), encoding="utf-8")
    part = tmp_path / "brueghelVal.json"
    part.write_text(json.dumps({"tree": layout["tree"][:1]}), encoding="utf-8")
    published.main(brueghel=folder, queries=file, validation=part, weights=checkpoint, paper=False)
    printed = capsys.readouterr().out
    assert "1 of the 5 test queries are in the validation set too" in printed.replace("\n", " ")
    found = figures(printed, checkpoint)
    assert set(found) == {f"{by}, mean of {of}" for by in ("cosine", "discovery") for of in ("categories", "queries")}
    assert min(found.values()) > 60
    # Boxes of the other category are nowhere to be found.
    other = {"cart": [{"query": each["query"], "gt": layout["tree"][0]["gt"]} for each in layout["cart"]]}
    file.write_text(json.dumps(other | {"tree": layout["tree"]}), encoding="utf-8")
    monkeypatch.setattr(published, "ONE_SHOT", published.ONE_SHOT[:1])
    published.main(brueghel=folder, queries=file, held_out=1, weights=checkpoint, paper=False)
    printed = capsys.readouterr().out
    (left_out,) = re.findall(r"Left out of the test: (\w+)\.", printed)
    assert figures(printed, checkpoint)["cosine, mean of queries"] == (0 if left_out == "tree" else 100)


def test_the_script_says_what_is_missing(checkpoint, ltll, tmp_path) -> None:
    with pytest.raises(typer.BadParameter, match="--labels belong together"):
        published.main(ltll=ltll, weights=checkpoint)
    layout = json.loads((ltll / "labels.json").read_text(encoding="utf-8"))
    layout["searchImg"].append("gone.png")
    layout["anno"]["gone.png"] = "gate"
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(layout), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"1 of 11 pictures are not once in .*: gone\.png"):
        published.main(ltll=ltll, labels=file, weights=checkpoint, paper=False)
