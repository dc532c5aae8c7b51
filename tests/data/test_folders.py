"""Collections of images: found, split and cut the same way everywhere."""

import logging
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from artmodels.data.folders import Crops, ImageSet, fingerprint, image_files, split
from artmodels.errors import DatasetError
from artmodels.runtime.devices import generator


def picture(path: Path, width: int = 20, height: int = 12, colour=(200, 100, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)
    return path


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=generator(seed), dtype=torch.uint8)


# --- files


def test_images_are_found_below_folders_sorted_and_once(tmp_path) -> None:
    wanted = [picture(tmp_path / name) for name in ("a/2.png", "a/deep/1.JPG", "b/0.webp")]
    (tmp_path / "a" / "notes.txt").write_text("no image")
    picture(tmp_path / "c" / "other.png")
    assert image_files(tmp_path, ["b", "a", "a/deep"]) == sorted(wanted)
    assert len(image_files(tmp_path)) == 4


def test_no_folder_and_no_image_are_different_errors(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no folder .*missing"):
        image_files(tmp_path, ["missing"])
    with pytest.raises(DatasetError, match="holds no image in empty"):
        image_files(tmp_path, ["empty"])


def test_split_is_stable() -> None:
    files = [Path(f"folder/{number}.jpg") for number in range(300)]
    train, held_out = split(files, held_out=10)
    assert sorted(train + held_out) == sorted(files)
    assert 15 <= len(held_out) <= 45
    # By the name alone: another folder, fewer files or another order move nothing.
    fewer = [Path("elsewhere", path.name) for path in reversed(files[::2])]
    assert {path.name for path in split(fewer)[1]} == {path.name for path in held_out} & {p.name for p in fewer}
    # Recorded once; another hash would mix what was trained on with what was held out.
    assert [path.stem for path in held_out[:5]] == ["4", "37", "48", "49", "55"]


def test_fingerprint_follows_names_contents_and_order(tmp_path) -> None:
    first, second = picture(tmp_path / "1.png"), picture(tmp_path / "2.png", colour=(0, 0, 0))
    before = fingerprint([first, second])
    assert before == fingerprint([first, second])
    assert before != fingerprint([second, first])
    moved = first.rename(tmp_path / "3.png")
    assert before != fingerprint([moved, second])
    moved.rename(first)
    assert before == fingerprint([first, second])
    picture(first, colour=(200, 100, 51))
    assert before != fingerprint([first, second])


# --- decoding


def test_broken_files_are_left_out_with_a_warning(tmp_path, caplog) -> None:
    good = picture(tmp_path / "good.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:30])
    with caplog.at_level(logging.WARNING, "artmodels.data.folders"):
        found = ImageSet.load([broken, good], side=64)
    assert len(found.images) == 1
    assert found.images[0][:, 0, 0].tolist() == [200, 100, 50]
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [f"{broken} is left out"]
    with pytest.raises(DatasetError, match="None of 1 files"):
        ImageSet.load([broken], side=64)


def test_images_are_reduced_but_never_enlarged(tmp_path) -> None:
    wide, small = picture(tmp_path / "wide.png", 90, 30), picture(tmp_path / "small.png", 9, 7)
    found = ImageSet.load([wide, small], side=15)
    assert [tuple(image.shape) for image in found.images] == [(3, 15, 45), (3, 7, 9)]
    assert {image.dtype for image in found.images} == {torch.uint8}


# --- crops


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (16, 16), (5, 9), (1, 30)])
def test_crops_have_their_size_and_stay_in_range(shape) -> None:
    crops = Crops(size=16, jitter=0.5)(ImageSet((noise(*shape),)), 20, generator(1))
    assert crops.shape == (20, 3, 16, 16)
    assert crops.dtype == torch.float32
    assert crops.min() >= 0
    assert crops.max() <= 1


def test_crops_follow_from_their_generator() -> None:
    images = ImageSet((noise(40, 60), noise(30, 30, seed=1)))
    cut = Crops(size=16, jitter=0.3)
    assert torch.equal(cut(images, 6, generator(1)), cut(images, 6, generator(1)))
    assert not torch.equal(cut(images, 6, generator(1)), cut(images, 6, generator(2)))


def test_a_crop_is_a_piece_of_the_image_unless_it_is_told_otherwise() -> None:
    pixels = noise(16, 40)
    crops = Crops(size=16, smallest=1, flips=False)(ImageSet((pixels,)), 8, generator(0))
    pieces = {pixels[:, :, left : left + 16].numpy().tobytes() for left in range(25)}
    found = {(crop * 255).round().to(torch.uint8).contiguous().numpy().tobytes() for crop in crops}
    assert found <= pieces
    assert len(found) > 1


def test_half_of_the_crops_are_mirrored() -> None:
    pixels = noise(16, 16)
    crops = Crops(size=16)(ImageSet((pixels,)), 60, generator(0))
    plain = pixels.float() / 255
    mirrored = [torch.equal(crop, plain.flip(-1)) for crop in crops]
    assert all(mirror or torch.equal(crop, plain) for mirror, crop in zip(mirrored, crops, strict=True))
    assert 15 < sum(mirrored) < 45


def test_crops_cover_every_scale_down_to_the_smallest() -> None:
    # A ramp's slope says how much of it a crop covers: 200 px from black to white.
    ramp = (torch.arange(200) * 255 / 199).round().to(torch.uint8).expand(3, 200, 200)
    crops = Crops(size=20, smallest=0.4, flips=False)(ImageSet((ramp,)), 80, generator(0))
    share = crops[:, 0, 0, -1] - crops[:, 0, 0, 0]  # a little less than the crop covers: pixels have a width
    assert 0.35 < share.min() < 0.42
    assert 0.85 < share.max() <= 1
    assert float(share.log().median()) == pytest.approx(math.log(0.6), abs=0.15)  # even in the logarithm


def test_jitter_changes_light_contrast_and_colour() -> None:
    pixels = noise(16, 16)
    images = ImageSet((pixels // 2 + 64,))
    plain = Crops(size=16, flips=False)(images, 20, generator(0))
    changed = Crops(size=16, flips=False, jitter=0.3)(images, 20, generator(0))
    light = changed.mean((1, 2, 3)) / plain.mean((1, 2, 3))
    colour = (changed - changed.mean(1, keepdim=True)).std((1, 2, 3)) / (plain - plain.mean(1, keepdim=True)).std(
        (1, 2, 3)
    )
    assert 0.69 < light.min() < 0.8
    assert 1.2 < light.max() < 1.31
    assert colour.min() < 0.8
    assert colour.max() > 1.2


def test_grounds_take_the_upper_part_of_their_share_of_crops() -> None:
    images = ImageSet((noise(40, 50),))
    crops = Crops(size=32, grounds=0.5)(images, 40, generator(0))
    assert crops.min() >= 0 and crops.max() <= 1
    rough = crops.mean(1)[:, :8].std(2).mean(1) > 0.04
    assert 10 <= int((~rough).sum()) <= 30
    assert not any((Crops(size=32)(images, 40, generator(0)).mean(1)[:, :8].std(2).mean(1) < 0.04).tolist())


def test_what_systems_add_is_no_picture_and_what_is_not_read_is_named(tmp_path, caplog) -> None:
    kept = ("a.jpg", "b.jfif", "d.jpe", "e", "f.heic", "g.jp2", "deep/h.AVIF")
    system = ("@eaDir/thumb.jpg", "._a.jpg", "#recycle/i.png", "__MACOSX/j.png", ".hidden/k.png", ".l.png", "Thumbs.db")
    for name in (*kept, *system):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name, "JPEG")
    for name in ("README", "notes.txt", "m.bmp", "deep/n.CR2"):
        (tmp_path / name).write_text("no picture")
    with caplog.at_level(logging.WARNING, "artmodels.data.folders"):
        found = image_files(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == sorted(kept)
    (record,) = caplog.records
    assert record.getMessage().endswith("left out, because their kind is not read: deep/n.CR2, m.bmp")
    hidden = tmp_path / ".hidden"
    assert image_files(hidden) == [hidden / "k.png"]  # whoever asks for it gets it
