import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artmodels import features, images
from artmodels.errors import ConfigError, ImageError, WeightsMismatch
from artmodels.methods.artminer.collection.collection import Collection, InMemory
from artmodels.methods.artminer.discovery import discover
from artmodels.methods.artminer.pipeline import ArtMiner, ArtMinerConfig
from artmodels.progress import Progress

SMALL = ArtMinerConfig(scales=(30, 20), reference=30, views=("",))
BOX = (40, 30, 120, 100)


def random(seed: int = 0) -> features.FeatureExtractor:
    return features.build("art-resnet", seed=seed)


@pytest.fixture(scope="module")
def backbone() -> features.FeatureExtractor:
    return features.load("art-resnet")


@pytest.fixture(scope="module")
def miner(backbone: features.FeatureExtractor) -> ArtMiner:
    return ArtMiner(SMALL, backbone=backbone, device="cpu")


def painted(seed: int, width: int = 240, height: int = 180) -> Image.Image:
    """Soft blots of colour, and fine noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    fine = rng.integers(-25, 26, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + fine).clip(0, 255).astype(np.uint8))


def pictures(mirrored: bool = False) -> dict[str, Image.Image]:
    """Four pictures, of which the second and the third show the same detail as the first, elsewhere."""
    first = painted(0)
    piece = first.crop(BOX)
    second, third = painted(1), painted(2)
    second.paste(piece, (100, 60))
    third.paste(piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else piece, (20, 90))
    return {"first": first, "second": second, "third": third, "other": painted(3)}


@pytest.fixture(scope="module")
def described(miner: ArtMiner):
    return miner.describe(pictures())


def far(box: tuple[float, ...], wanted: tuple[float, ...]) -> float:
    return float(np.abs(np.subtract(box, wanted)).max())


def test_a_detail_is_found_where_it_was_pasted(miner: ArtMiner, described) -> None:
    found = miner.search(pictures()["first"], BOX, described, query="first")
    assert found.query == "first" and found.box == BOX and found.cells == (7, 8) and found.model == miner.fingerprint
    assert {hit.image for hit in found.hits[:2]} == {"second", "third"} and "first" not in {h.image for h in found.hits}
    for hit in found.hits[:2]:
        left, top = {"second": (100, 60), "third": (20, 90)}[hit.image]
        assert far(hit.box, (left, top, left + 80, top + 70)) <= 16, hit
        assert hit.match is not None and hit.match.score > 0.1
        # The corners of the detail are where the transform says: relative to the picture, then to the box.
        corner = torch.tensor([left / 240, top / 180, 1.0])
        assert float((hit.match.transform @ corner)[:2].abs().max()) < 0.2
    scores = [hit.score for hit in found.hits]
    assert scores == sorted(scores, reverse=True) and scores[1] > scores[2] + 0.05
    assert found.hits[-1].match is None or len({hit.image for hit in found.hits}) == len(found.hits)


def test_the_picture_itself_is_found_unless_it_is_left_out(miner: ArtMiner, described) -> None:
    for by, least in (("verified", 0.6), ("cosine", 0.8)):  # its cells are of another size than those of the scales
        best = miner.search(pictures()["first"], BOX, described, verify=0, by=by).hits[0]
        assert best.image == "first" and best.score > least and far(best.box, BOX) <= 16 and best.match is None
    assert len(miner.search(pictures()["first"], BOX, described, count=3).hits) == 3


def test_a_mirrored_copy_is_found_where_mirrored_views_are(miner: ArtMiner, backbone) -> None:
    both = ArtMiner(dataclasses.replace(SMALL, views=("", "mirror")), backbone=backbone, device="cpu")
    shown = pictures(mirrored=True)
    plain = {h.image: h for h in reversed(miner.search(shown["first"], BOX, miner.describe(shown), query="first").hits)}
    seen = {h.image: h for h in reversed(both.search(shown["first"], BOX, both.describe(shown), query="first").hits)}
    assert seen["third"].view == "mirror" and seen["second"].view == ""
    assert far(seen["third"].box, (20, 90, 100, 160)) <= 16 and seen["third"].score > plain["third"].score + 0.05


def test_pictures_that_share_something_are_found_unprompted(miner: ArtMiner, described) -> None:
    found = sorted(miner.pairs(described), key=lambda pair: -pair.match.score)
    best = [{pair.first, pair.second} for pair in found[:3]]
    assert {frozenset(each) for each in best} == {
        frozenset(each) for each in (("first", "second"), ("first", "third"), ("second", "third"))
    }
    assert all(pair.view == "" and pair.match.score > 0 for pair in found)
    if len(found) > 3:
        assert found[3].match.score < found[2].match.score / 2
    asked = list(
        miner.pairs(
            described,
            [("second", "first"), ("second", "other", "mirror"), ("third", "first"), ("first", "second")],
            least=0.005,
        )
    )
    assert [(sorted((p.first, p.second))) for p in asked] == [["first", "second"], ["first", "third"]]
    again = {frozenset((p.first, p.second)): p.match.score for p in found}
    assert all(p.match.score == again[frozenset((p.first, p.second))] for p in asked)


def test_pairs_and_searches_tell_where_they_are_and_what_they_have(miner: ArtMiner, described) -> None:
    *steps, found = miner.stream_pairs(described)
    assert [step.done for step in steps] == list(range(1, 7)) and {step.total for step in steps} == {6}
    assert steps[0].what == "first and second"
    assert found == [step.pair for step in steps if step.pair is not None] and 3 <= len(found) < 6
    again = miner.pairs(described)
    assert [(p.first, p.second, p.match.score) for p in again] == [(p.first, p.second, p.match.score) for p in found]
    few = miner.stream_pairs(described, [("second", "first"), ("first", "second"), ("third", "other")])
    assert [step.total for step in list(few)[:-1]] == [2, 2], "each pair once"
    *steps, searched = miner.stream_search(pictures()["first"], BOX, described, query="first", verify=2)
    assert [(step.done, step.total, step.what) for step in steps[:3]] == [
        (1, 3, "second"), (2, 3, "third"), (3, 3, "other"),
    ]  # fmt: skip
    assert {step.what for step in steps[3:]} == {hit.image for hit in searched.hits if hit.match is not None}
    assert len(steps) == 5 and [step.done for step in steps[3:]] == [3, 3]


def test_a_search_shows_what_it_has_while_pictures_are_still_described(miner: ArtMiner, tmp_path: Path) -> None:
    for name, picture in pictures().items():
        picture.save(tmp_path / f"{name}.png")
    collection, ready = Collection.create(tmp_path / "features", miner), list[str]()

    def described() -> Iterator[str]:
        for step in collection.stream_add(tmp_path, miner):
            if isinstance(step, Progress):
                ready.append(step.what)
                yield step.what

    steps = miner.stream_search(pictures()["first"], BOX, collection, query="first.png", names=described())
    shown = [(set(ready), step.so_far()) for step in itertools.islice(steps, 3)]
    assert [len(there) for there, _ in shown] == [2, 3, 4], "one after the other, the query's own among them"
    for there, found in shown:
        assert {hit.image for hit in found.ranked} == there - {"first.png"}
        assert found.query == "first.png" and [hit.score for hit in found.ranked] == sorted(
            (hit.score for hit in found.ranked), reverse=True
        )
    *closer, searched = steps
    again = miner.search(pictures()["first"], BOX, collection, query="first.png")
    assert [(hit.image, hit.box, hit.score) for hit in searched.ranked] == [
        (hit.image, hit.box, hit.score) for hit in again.ranked
    ]
    last = closer[-1].so_far()
    assert (last.ranked, last.threshold) == (searched.ranked, searched.threshold)


def test_the_better_direction_is_kept(miner: ArtMiner, described) -> None:
    (forward,), (back,) = miner.compare("first", ["second"], described), miner.compare("second", ["first"], described)
    assert forward.match.score == back.match.score and (forward.first, forward.second) == (back.first, back.second)
    ends = described.pyramid("first"), described.pyramid("second")
    scores = [discover(a.at(30), b.maps, miner.config.discovery).score for a, b in (ends, ends[::-1])]
    assert forward.match.score == max(scores) > min(scores)
    assert (forward.first == "first") == (scores[0] > scores[1])


def test_a_size_between_the_scales_is_found_by_a_closer_look(backbone) -> None:
    """The detail fills 8 cells of 20 in its picture, and five in the second."""
    coarse = ArtMiner(dataclasses.replace(SMALL, scales=(20,), reference=20), backbone=backbone, device="cpu")
    shown = {"first": painted(0), "second": painted(1), "other": painted(3)}
    box = (40, 30, 140, 120)
    shown["second"].paste(shown["first"].crop(box).resize((62, 56), Image.Resampling.LANCZOS), (150, 90))
    described = coarse.describe(shown)
    quick, closely, one = (
        coarse.search(shown["first"], box, described, query="first", verify=count).ranked for count in (0, 2, 1)
    )
    before, after = (next(hit for hit in hits if hit.image == "second") for hits in (quick, closely))
    assert (before.closer, after.closer) == (False, True) and after.score > before.score + 0.1, (before, after)
    assert closely[0] is after and far(after.box, (150, 90, 212, 146)) <= 12 < far(before.box, (150, 90, 212, 146))
    looked = [hit.image for hit in one if hit.closer]
    assert len(looked) == 1 and one[0].image == looked[0], "the best stays before those that were not looked at"
    blind = InMemory({name: {"": described.pyramid(name)} for name in described.names})
    unseen = coarse.search(shown["first"], box, blind, query="first").ranked
    assert [(hit.image, hit.score, hit.closer) for hit in unseen] == [(h.image, h.score, False) for h in quick]


def test_a_picture_that_was_deleted_is_found_without_a_closer_look(miner: ArtMiner, tmp_path) -> None:
    file = tmp_path / "second.png"
    pictures()["second"].save(file)
    described = miner.describe({"second": file})
    file.unlink()
    found = miner.search(pictures()["first"], BOX, described)
    assert found.hits[0].match is not None and not any(hit.closer for hit in found.hits)


def test_a_box_that_is_like_everything_raises_its_threshold(backbone) -> None:
    """Six pictures of one repeating ground, in one of which there is a figure."""
    miner = ArtMiner(dataclasses.replace(SMALL, threshold=0.2), backbone=backbone, device="cpu")
    tile = painted(7, 48, 36)
    shown = {str(number): Image.new("RGB", (240, 180)) for number in range(7)}
    for number, picture in enumerate(shown.values()):
        for left in range(-8 * number, 240, 48):
            for top in range(-5 * number, 180, 36):
                picture.paste(tile, (left, top))
    figure = painted(8, 70, 60)
    for name, at in (("0", (20, 30)), ("1", (120, 90))):
        shown[name].paste(figure, at)
    described = miner.describe(shown)
    ground = miner.search(shown["0"], (120, 90, 200, 160), described, query="0", verify=0)
    assert ground.raised and ground.threshold == ground.chance > 0.5 and not ground.hits
    assert len({hit.image for hit in ground.below if hit.score > 0.2}) == 6, "all were shown"
    found = miner.search(shown["0"], (20, 30, 90, 90), described, query="0", verify=0)
    assert [hit.image for hit in found.hits] == ["1"] and found.threshold < ground.threshold
    assert found.hits + found.below == found.ranked
    assert found.from_score(0.99).hits == () and found.from_score(0).threshold == max(found.chance, 0)
    everything = dataclasses.replace(miner.config, threshold=-1.0)
    open_minded = ArtMiner(everything, backbone=backbone, device="cpu").search(shown["0"], (20, 30, 90, 90), described)
    assert open_minded.hits == open_minded.ranked, "nothing was measured for these features"


@pytest.mark.parametrize("size", [(1, 1), (10, 10), (300, 4)])
def test_small_pictures_are_searched(miner: ArtMiner, size: tuple[int, int]) -> None:
    described = miner.describe({"small": Image.new("RGB", size, "white"), "blank": Image.new("RGB", (50, 50), "grey")})
    found = miner.search(painted(0), BOX, described)
    assert all(np.isfinite(hit.score) for hit in found.hits) and {hit.image for hit in found.hits} == {"small", "blank"}
    assert list(miner.pairs(described)) == []


def test_a_collection_of_one_has_no_pairs_and_no_other_hits(miner: ArtMiner) -> None:
    alone = miner.describe({"first": painted(0)})
    assert list(miner.pairs(alone)) == [] and miner.search(painted(0), BOX, alone, query="first").hits == ()


def test_bad_boxes_and_pictures_are_refused(miner: ArtMiner, described) -> None:
    with pytest.raises(ConfigError, match="lies outside the picture of 240 x 180 px"):
        miner.search(painted(0), (250, 0, 300, 20), described)
    with pytest.raises(ImageError, match="no file"):
        miner.search("nowhere.png", BOX, described)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"views": ()}, "views="),
        ({"views": ("mirror",)}, "must include ''"),
        ({"views": ("", "upside")}, "views="),
        ({"dims": 0}, "dims=0"),
        ({"scales": ()}, "scales="),
        ({"scales": (20, 20)}, "scales="),
        ({"reference": 4}, "reference=4"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ArtMinerConfig(**wrong)


def test_a_tuned_checkpoint_holds_backbone_and_projection(tmp_path, miner: ArtMiner) -> None:
    projection = torch.linalg.qr(torch.randn(256, 16, generator=torch.Generator().manual_seed(0))).Q
    config = dataclasses.replace(SMALL, tuned=True, dims=16)
    made = ArtMiner(config, backbone=random(1), projection=projection, device="cpu")
    made.save_pretrained(tmp_path / "made")
    again = ArtMiner.from_pretrained(tmp_path / "made", device="cpu")
    assert again.config == config and again.dims == 16
    picture = painted(0)
    for one, other in zip(again.pyramids(picture)[""].maps, made.pyramids(picture)[""].maps, strict=True):
        torch.testing.assert_close(one, other, atol=5e-3, rtol=0)  # weights are stored in half precision
    assert again.fingerprint != made.fingerprint != miner.fingerprint
    with pytest.raises(ConfigError, match=r"needs a projection of shape \(256, 16\), and there is none"):
        ArtMiner(config, backbone=random(1))
    (tmp_path / "made" / "config.json").write_text(
        (tmp_path / "made" / "config.json").read_text().replace('"dims": 16', '"dims": 8')
    )
    with pytest.raises(WeightsMismatch, match="projection"):
        ArtMiner.from_pretrained(tmp_path / "made")


def test_the_fingerprint_is_of_what_decides_features() -> None:
    miner = ArtMiner(SMALL, backbone=random(), device="cpu")
    same = ArtMiner(dataclasses.replace(SMALL, seed=3, iterations=9), backbone=random(), device="cpu")
    assert same.fingerprint == miner.fingerprint
    assert (
        ArtMiner(dataclasses.replace(SMALL, reference=31), backbone=random(), device="cpu").fingerprint
        != miner.fingerprint
    )
    assert ArtMiner(SMALL, backbone=random(1), device="cpu").fingerprint != miner.fingerprint


def test_describing_twice_gives_the_same_bytes(miner: ArtMiner) -> None:
    first, second = (miner.pyramids(images.load(painted(5))) for _ in range(2))
    assert list(first) == [""] and [tuple(m.shape) for m in first[""].maps] == [(256, 22, 30), (256, 15, 20)]
    assert all(torch.equal(a, b) for a, b in zip(first[""].maps, second[""].maps, strict=True))


def test_two_pictures_are_compared(miner: ArtMiner, backbone) -> None:
    shown = pictures()
    found = miner(shown["first"], shown["second"])
    assert found.image.size == (240, 180) and found.score > 0.005 and found.notes == ()
    pixels, other = np.asarray(found.image).astype(int), np.asarray(found.other).astype(int)
    first, second = np.asarray(shown["first"]).astype(int), np.asarray(shown["second"]).astype(int)
    # What both show is nearly as it was, and the rest is pale.
    assert (
        np.abs(pixels[50:80, 60:100] - first[50:80, 60:100]).mean()
        < 20
        < np.abs(pixels[:, 160:] - first[:, 160:]).mean()
    )
    assert np.abs(other[80:110, 120:160] - second[80:110, 120:160]).mean() < 20
    assert found.side_by_side().size == (488, 180)
    both = ArtMiner(dataclasses.replace(SMALL, views=("", "mirror")), backbone=backbone, device="cpu")
    mirrored = pictures(mirrored=True)["third"]
    seen = both(shown["first"], mirrored)
    assert seen.pair.view == "mirror" and seen.score > 0.005
    there = np.asarray(seen.other).astype(int)[110:140, 40:80] - np.asarray(mirrored).astype(int)[110:140, 40:80]
    assert np.abs(there).mean() < 20
    nothing = miner(Image.new("RGB", (60, 40), "grey"), shown["first"])
    assert nothing.score == 0 and nothing.notes[0].startswith("Nothing is found that both show: ")
    assert np.asarray(nothing.image).min() > 190
