"""The Spaces as a program meets them: through gradio_client and HTTP, against the running gallery."""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import numpy as np
import psutil
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError
from gradio_client.utils import QueueError
from PIL import Image

import artmodels
from artmodels import images, ui
from artmodels.descent.optimise import Step
from artmodels.hub import catalogue
from artmodels.images.examples import PATTERNS, example
from artmodels.images.results import ImageResult
from artmodels.ui.server.modelcache import ModelCache, size_in_bytes
from artmodels.ui.widgets.wall import tiles, wall

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "api.json"
TEXTURE, STYLE = "/texture_synthesis_run", "/neural_style_run"
FAST, BATCH = "/fast_style_run", "/fast_style_batch"
NETWORK = "/texture_network_run"
ANY = "/arbitrary_style_run"
SMALL = {"width": 64, "height": 64, "quality": "Draft"}


@pytest.fixture
def client(gallery_url: str, tmp_path: Path):
    client = Client(gallery_url, verbose=False, download_files=tmp_path / "downloads", analytics_enabled=False)
    yield client
    client.close()


def png(path: Path, name: str = "bricks", size: int = 64) -> Path:
    example(name).resize((size, size)).save(path)
    return path


@pytest.fixture
def brick(tmp_path: Path) -> Path:
    return png(tmp_path / "brick.png")


class FakeMethod:
    """Steps as slowly as it is told to, and remembers what happened to it."""

    def __init__(self, steps: int = 2, pause: float = 0.0, allowed: int = 10**6) -> None:
        self.config = SimpleNamespace(steps=steps, style_weight=1.0, tv_weight=0.5)
        self.steps, self.pause = steps, pause
        self.seen: list[object] = []
        self.taken = 0
        self.gate, self.closed = threading.Event(), threading.Event()
        self.gate.set()
        self.allowed = threading.Semaphore(allowed)  # steps, or pictures

    def stream(self, exemplar, *args, **options):
        self.seen.append((exemplar, args, options))
        picture = torch.full((1, 3, 8, 8), 0.25)
        try:
            for index in range(1, self.steps + 1):
                self.gate.wait(120)
                self.allowed.acquire(timeout=120)
                time.sleep(self.pause)
                self.taken = index
                yield Step(done=index, total=self.steps, level=0, levels=1, loss=1 / index, image=picture, seconds=0.0)
            yield ImageResult(tensor=picture, settings={"seed": options["seed"]}, losses=(), seconds=0.0)
        finally:
            self.closed.set()

    def __call__(self, picture, **options):
        self.seen.append((picture, (), options))
        self.allowed.acquire(timeout=120)
        time.sleep(self.pause)
        height, width = options.pop("size", (picture.height, picture.width))
        return ImageResult(tensor=torch.full((1, 3, height, width), 0.25), settings=options, seconds=0.0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    """Put a fake method into the model cache."""

    methods = []

    def put(**options) -> FakeMethod:
        method = FakeMethod(**options)
        methods.append(method)
        monkeypatch.setattr(ui.MODELS, "_models", OrderedDict())
        monkeypatch.setattr(ui.MODELS, "load", lambda name: method)
        return method

    yield put
    for method in methods:
        method.pause = 0
        method.gate.set()
        method.allowed.release(10**6)


# --- what can be called


def test_the_api_is_the_one_that_was_promised(client: Client) -> None:
    api = client.view_api(return_format="dict", print_info=False)
    assert api["unnamed_endpoints"] == {}
    surface = {
        name: {
            "about": endpoint["description"].strip(),
            "parameters": [
                [each["parameter_name"], each["python_type"]["type"], each["parameter_default"]]
                if each["parameter_has_default"]
                else [each["parameter_name"], each["python_type"]["type"]]
                for each in endpoint["parameters"]
            ],
            "returns": [[each["label"], each["component"]] for each in endpoint["returns"]],
        }
        for name, endpoint in api["named_endpoints"].items()
    }
    if os.environ.get("ARTMODELS_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(surface, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert surface == json.loads(GOLDEN.read_text(encoding="utf-8"))
    methods = {method.id for method in catalogue.methods()}
    assert {re.sub("^/|_(run|batch|search|pairs|group)$", "", name) for name in surface} == methods


@pytest.mark.parametrize(
    "name",
    [
        *("texture_synthesis_run_page", "neural_style_run_page", "fast_style_run_page", "fast_style_batch_page"),
        *("super_resolution_run_page", "super_resolution_batch_page"),
        *("arbitrary_style_run_page", "arbitrary_style_batch_page"),
        *("texture_network_run_page", "texture_network_batch_page"),
        "load_example",
    ],
)
def test_everything_else_is_private(client: Client, name: str) -> None:
    with pytest.raises(ValueError, match="Cannot find a function"):
        client.predict(api_name=f"/{name}")


# --- the main job


def fields(settings: dict, method: type) -> dict:
    names = method.config_class.__dataclass_fields__
    return {name: value for name, value in settings.items() if name in names}


def test_a_texture_is_what_its_settings_make_again(client: Client, brick: Path) -> None:
    image, settings, file = client.predict(handle_file(brick), **SMALL, seed=3, api_name=TEXTURE)
    assert images.read_metadata(file)["seed"] == "3"
    assert json.loads(images.read_metadata(file)["artmodels"]) == settings
    assert Path(file).name == "texture-64x64-seed3.png"
    with Image.open(image) as shown, Image.open(file) as saved:
        assert (shown.format, shown.size) == ("PNG", (64, 64))
        pixels = np.asarray(shown)
        np.testing.assert_array_equal(pixels, np.asarray(saved))
    method = artmodels.TextureSynthesizer.from_pretrained()
    again = method(brick, size=tuple(settings["size"]), seed=settings["seed"], **fields(settings, type(method)))
    np.testing.assert_array_equal(pixels, np.asarray(again.image))


def test_a_styled_picture_is_what_its_settings_make_again(client: Client, brick: Path, tmp_path: Path) -> None:
    style = png(tmp_path / "style.png", "marbling")
    options = {"size": 64, "quality": "Draft", "seed": 3}
    image, settings, file = client.predict(handle_file(brick), handle_file(style), **options, api_name=STYLE)
    assert json.loads(images.read_metadata(file)["artmodels"]) == settings
    with Image.open(image) as shown:
        assert (shown.format, shown.size) == ("PNG", (64, 64))
        pixels = np.asarray(shown)
    method = artmodels.NeuralStyle.from_pretrained()
    again = method(brick, style, size=tuple(settings["size"]), seed=settings["seed"], **fields(settings, type(method)))
    np.testing.assert_array_equal(pixels, np.asarray(again.image))


def test_styles_weights_and_masks_arrive(client: Client, brick: Path, tmp_path: Path, fake) -> None:
    method = fake()
    weave, marbling = png(tmp_path / "weave.png", "weave"), png(tmp_path / "marbling.png", "marbling")
    mask = tmp_path / "mask.png"
    Image.new("L", (64, 64), 7).save(mask)
    client.predict(
        handle_file(brick),
        handle_file(weave),
        size=128,
        strength=2,
        style_3=handle_file(marbling),
        weight_3=0.5,
        mask_3=handle_file(mask),
        api_name=STYLE,
    )
    ((content, (styles,), options),) = method.seen
    np.testing.assert_array_equal(content.pixels, np.asarray(Image.open(brick)))
    for style, path in zip(styles, (weave, marbling), strict=True):
        np.testing.assert_array_equal(style.pixels, np.asarray(Image.open(path)))
    assert options["style_weights"] == [1, 0.5]
    assert options["masks"][0] is None
    assert options["masks"][1].pixels.tolist() == np.full((64, 64, 3), 7).tolist()
    assert (options["size"], options["style_weight"]) == ((128, 128), 2)


def test_without_masks_none_are_passed(client: Client, brick: Path, fake) -> None:
    method = fake()
    client.predict(handle_file(brick), handle_file(brick), api_name=STYLE)
    assert method.seen[0][2]["masks"] is None


@pytest.mark.parametrize("kind", ["16-bit grey", "alpha"])
def test_uploads_keep_their_contrast(client: Client, tmp_path: Path, fake, kind: str) -> None:
    method = fake()
    path = tmp_path / "scan.png"
    if kind == "alpha":
        Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(path)
        expected = np.full((64, 64, 3), 255)
    else:
        ramp = (np.arange(64 * 64) * 15).astype(np.uint16).reshape(64, 64)
        Image.fromarray(ramp).save(path)
        expected = np.repeat(ramp[..., None], 3, axis=2)
    client.predict(handle_file(path), **SMALL, api_name=TEXTURE)
    np.testing.assert_array_equal(method.seen[0][0].pixels, expected)


# --- one pass


@pytest.mark.parametrize(("size", "pixels"), [(0, (96, 64)), (128, (128, 85))])
def test_a_repainted_picture_is_what_its_settings_make_again(
    client: Client, tmp_path: Path, size: int, pixels: tuple[int, int]
) -> None:
    photo = tmp_path / "photo.png"
    example("astronaut").resize((96, 64)).save(photo)
    options = {"style": "fast-style-scream", "strength": 0.7, "size": size}
    image, settings, file = client.predict(handle_file(photo), **options, api_name=FAST)
    assert settings.items() >= {"model": "fast-style-scream", "strength": 0.7, "size": list(pixels[::-1])}.items()
    assert json.loads(images.read_metadata(file)["artmodels"]) == settings
    assert Path(file).name == "fast-style-scream.png"
    with Image.open(image) as shown:
        assert (shown.format, shown.size) == ("PNG", pixels)
        values = np.asarray(shown)
    method = artmodels.FastStyle.from_pretrained(settings["model"])
    again = method(photo, strength=settings["strength"], size=tuple(settings["size"]))
    np.testing.assert_array_equal(values, np.asarray(again.image))


def test_without_style_it_is_the_picture_itself(client: Client, brick: Path) -> None:
    image, settings, _ = client.predict(handle_file(brick), strength=0, api_name=FAST)
    np.testing.assert_array_equal(np.asarray(Image.open(image)), np.asarray(Image.open(brick)))
    assert settings["model"] == catalogue.default("fast_style").name


@pytest.mark.parametrize("colour", ["none", "transfer"])
def test_a_blend_of_styles_is_what_its_settings_make_again(client: Client, tmp_path: Path, colour: str) -> None:
    for name in ("astronaut", "terrazzo", "marbling"):
        example(name).resize((96, 64)).save(tmp_path / f"{name}.png")
    photo, first, second = (handle_file(tmp_path / f"{name}.png") for name in ("astronaut", "terrazzo", "marbling"))
    options = {"strength": 0.8, "colour": colour, "style_size": 64, "size": 128, "weight_1": 3.0, "style_3": second}
    image, settings, file = client.predict(photo, first, **options, api_name=ANY)
    assert settings.items() >= {"style_weights": [0.75, 0.25], "strength": 0.8, "size": [85, 128]}.items()
    assert json.loads(images.read_metadata(file)["artmodels"]) == settings
    assert Path(file).name == "arbitrary-style.png"
    values = np.asarray(Image.open(image))
    styles = [tmp_path / "terrazzo.png", tmp_path / "marbling.png"]
    chosen = {key: settings[key] for key in ("style_weights", "strength", "colour", "style_size")}
    method = artmodels.ArbitraryStyle.from_pretrained(settings["model"])
    again = method(tmp_path / "astronaut.png", styles, **chosen, size=tuple(settings["size"]))
    np.testing.assert_array_equal(values, np.asarray(again.image))


def test_several_pictures_take_one_style(client: Client, tmp_path: Path) -> None:
    files = [png(tmp_path / "a.png", size=40), text_file(tmp_path / "b.png"), png(tmp_path / "c.png", size=24)]
    style = handle_file(png(tmp_path / "style.png", size=32))
    archive, report = client.predict([handle_file(file) for file in files], style, api_name="/arbitrary_style_batch")
    assert [row.get("result") for row in report] == ["a.png", None, "c.png"]
    assert "text, not pixels" in report[1]["error"]
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == ["a.png", "c.png", "report.json"]
        assert Image.open(io.BytesIO(packed.read("c.png"))).size == (24, 24)


@pytest.mark.parametrize("scale", [2, 4])
def test_an_enlarged_picture_keeps_its_transparency(client: Client, tmp_path: Path, scale: int) -> None:
    scan = example("coffee").resize((40, 30)).convert("RGBA")
    scan.putalpha(Image.linear_gradient("L").resize((40, 30)))
    scan.save(tmp_path / "scan.png")
    name = f"super-resolution-x{scale}"
    _, settings, file = client.predict(handle_file(tmp_path / "scan.png"), name, api_name="/super_resolution_run")
    assert settings["model"] == name
    artmodels.load(name)(tmp_path / "scan.png").save(tmp_path / "expected.png")
    with Image.open(file) as made, Image.open(tmp_path / "expected.png") as expected:
        assert (made.mode, made.size) == ("RGBA", (40 * scale, 30 * scale))
        np.testing.assert_array_equal(np.asarray(made), np.asarray(expected))


def test_super_resolution_takes_what_suits_the_picture_and_says_what_it_saw(
    client: Client, tmp_path: Path, fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).normal(0, 12, (96, 96, 1))
    for name, grain in (("clean", 0), ("noisy", noise)):
        Image.fromarray((np.full((96, 96, 3), 128) + grain).astype(np.uint8)).save(tmp_path / f"{name}.png")
    example("astronaut").resize((256, 256)).save(tmp_path / "blocky.jpg", quality=65)
    method, taken = fake(), list[str]()
    monkeypatch.setattr(ui.MODELS, "load", lambda name: taken.append(name) or method)

    def notes(**options) -> list[str]:
        taken.clear()
        ui.MODELS._models.clear()
        files = [handle_file(tmp_path / name) for name in ("clean.png", "noisy.png", "blocky.jpg")]
        _, report = client.predict(files, **options, api_name="/super_resolution_batch")
        return [" ".join(row.get("notes", [])) for row in report]

    plain, worn = "super-resolution-x2", "super-resolution-x2-worn"
    clean, noisy, blocky = notes(neutral=0.5)
    assert clean == f"It looks clean: {plain} was taken."
    assert noisy.startswith("It looks worn (noise of 1") and f"{worn} takes that off" in noisy
    assert blocky.startswith(f"It has blocks of JPEG: {plain} was taken")
    assert list(dict.fromkeys(taken)) == [plain, worn]
    assert [options for _, _, options in method.seen] == [{"neutral": 0.5}] * 3
    assert notes(restore="never") == [""] * 3 and set(taken) == {plain}
    assert notes(restore="always") == [""] * 3 and set(taken) == {worn}
    *_, noisy, _ = notes(model="super-resolution-x4")
    assert "no weights for that enlarge as much: super-resolution-x4 was taken" in noisy
    with pytest.raises(ValidationError, match="no weights that restore beside super-resolution-x4: choose auto"):
        notes(model="super-resolution-x4", restore="always")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "super-resolution-x2-worn"}, "'super-resolution-x2-worn' is not one of .*Did you mean"),
        ({"restore": "sometimes"}, "'sometimes' is not one of automatic, always, never"),
    ],
)
def test_super_resolution_refuses_what_it_does_not_offer(
    client: Client, brick: Path, given: dict, message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        client.predict(handle_file(brick), **given, api_name="/super_resolution_run")


@pytest.mark.parametrize(("seamless", "noted"), [(True, True), (False, False)])
def test_a_sample_of_texture_network_is_what_its_settings_make_again(
    client: Client, seamless: bool, noted: bool
) -> None:
    options = {"width": 90, "height": 64, "seed": 3, "seamless": seamless}
    image, settings, file = client.predict("texture-network-gravel", **options, api_name=NETWORK)
    assert json.loads(images.read_metadata(file)["artmodels"]) == settings
    assert Path(file).name == "texture-network-gravel-90x64-seed3.png"
    with Image.open(image) as shown:
        assert (shown.format, shown.size) == ("PNG", (90, 64))
        values = np.asarray(shown)
    model = artmodels.TextureNetwork.from_pretrained(settings["model"])
    again = model(size=tuple(settings["size"]), seed=settings["seed"], tileable=settings["tileable"])
    np.testing.assert_array_equal(values, np.asarray(again.image))
    assert bool(again.notes) is noted


def test_without_a_name_texture_network_makes_its_default(client: Client) -> None:
    _, settings, _ = client.predict(width=64, height=32, api_name=NETWORK)
    assert settings["model"] == catalogue.default("texture_network").name == "texture-network-wood"
    assert (settings["size"], settings["seed"], settings["tileable"]) == ([32, 64], 0, True)


def test_several_samples_of_texture_network_have_seeds_that_follow(client: Client) -> None:
    options = {"width": 64, "height": 32, "seed": 8, "count": 3}
    archive, report = client.predict("texture-network-sand", **options, api_name="/texture_network_batch")
    assert Path(archive).name == "texture-network-sand.zip"
    assert [(row["result"], row["settings"]["seed"]) for row in report] == [
        ("seed8.png", 8),
        ("seed9.png", 9),
        ("seed10.png", 10),
    ]
    made = artmodels.TextureNetwork.from_pretrained("texture-network-sand")(size=(32, 64), seed=8, count=3)
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == ["seed8.png", "seed9.png", "seed10.png", "report.json"]
        for row, expected in zip(report, made, strict=True):
            data = packed.read(row["result"])
            assert json.loads(images.read_metadata(data)["artmodels"]) == row["settings"]
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(expected.image))


def test_four_copies_of_texture_network_stand_side_by_side(client: Client) -> None:
    four = sys.modules["spaces_gallery_app"].SPACES["texture_network"]["four"]
    tile = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(four(Image.fromarray(tile))), np.tile(tile, (2, 2, 1)))
    assert four(Image.new("RGB", (2048, 512))).size == (1600, 400)


def test_a_tile_of_texture_network_says_what_was_learnt_from(client: Client) -> None:
    caption = sys.modules["spaces_gallery_app"].SPACES["texture_network"]["caption"]
    assert caption(catalogue.get("texture-network-sand")) == ("Coast sand", "learnt from one picture (Poly Haven)")


def test_what_would_become_too_large_is_refused_or_reported(client: Client, tmp_path: Path) -> None:
    large = png(tmp_path / "large.png", size=1001)
    with pytest.raises(
        ValidationError,
        match="photo: This picture is 1001 x 1001 pixels, and 4 times that is more than the 16 megapixels",
    ):
        client.predict(handle_file(large), "super-resolution-x4", api_name="/super_resolution_run")
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (30, 20), (255, 0, 0, 99)).save(clear)
    archive, report = client.predict(
        [handle_file(large), handle_file(clear)], "super-resolution-x4", api_name="/super_resolution_batch"
    )
    assert "more than the 16 megapixels" in report[0]["error"]
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == ["clear.png", "report.json"]
        made = Image.open(io.BytesIO(packed.read("clear.png")))
    assert (made.mode, made.size) == ("RGBA", (120, 80))


def test_a_pass_does_not_wait_for_an_optimisation(client: Client, brick: Path, fake) -> None:
    method = fake()
    method.gate.clear()
    job = client.submit(handle_file(brick), api_name=TEXTURE)
    wait_for(lambda: method.seen)
    assert client.predict(handle_file(brick), strength=0.5, api_name=FAST)[1] == {"strength": 0.5}
    assert not job.done()
    method.gate.set()
    assert job.result(timeout=60)[1] == {"seed": 0}


@pytest.mark.parametrize(
    ("side", "size", "noted"),
    [
        (0, (30, ui.LONGEST), True),
        (64, (1, 64), False),
        (2 * ui.LONGEST, (60, 2 * ui.LONGEST), False),
    ],
)
def test_only_what_nobody_asked_for_is_noted(side: int, size: tuple[int, int], noted: bool) -> None:
    large = images.load(Image.new("RGB", (2 * ui.LONGEST, 60)))
    result = ui.at_size(FakeMethod(), large, side, strength=0.5)
    assert (tuple(result.tensor.shape[2:]), result.settings) == (size, {"strength": 0.5})
    limit = ui.LONGEST
    note = f"The picture of {2 * limit} x 60 pixels was reduced to this server's limit of {limit} a side"
    assert [text.startswith(note) for text in result.notes] == [True] * noted


# --- many pictures at once


def test_a_batch_reports_what_cannot_be_used_and_does_the_rest(client: Client, tmp_path: Path) -> None:
    example("astronaut").resize((64, 48)).save(tmp_path / "one.png")
    example("coffee").resize((48, 64)).save(tmp_path / "one.jpg")
    one_pixel(tmp_path / "dot.png")
    text_file(tmp_path / "note.png")
    given = [handle_file(tmp_path / name) for name in ("one.png", "note.png", "one.jpg", "dot.png")]
    archive, report = client.predict(given, style="fast-style-woodcut", strength=0.5, api_name=BATCH)
    assert Path(archive).name == "fast-style-woodcut.zip"
    assert [row["file"] for row in report] == ["one.png", "note.png", "one.jpg", "dot.png"]
    assert [row.get("result") for row in report] == ["one.png", None, "one-2.png", None]
    assert re.fullmatch("'note.png' is text, not pixels.*", report[1]["error"])
    assert report[3]["error"].startswith("the picture is 1 x 1 px, too small: ")
    method = artmodels.FastStyle.from_pretrained("fast-style-woodcut")
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == ["one.png", "one-2.png", "report.json"]
        assert json.loads(packed.read("report.json")) == report
        for row, name in ((report[0], "one.png"), (report[2], "one.jpg")):
            data = packed.read(row["result"])
            assert json.loads(images.read_metadata(data)["artmodels"]) == row["settings"]
            expected = np.asarray(method(tmp_path / name, strength=0.5).image)
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), expected)


def test_a_batch_of_nothing_usable_says_why(client: Client, tmp_path: Path) -> None:
    files = [handle_file(text_file(tmp_path / "a.png")), handle_file(one_pixel(tmp_path / "b.png"))]
    with pytest.raises(AppError, match="(?s)None of the files gave a result.*a.png: .*text.*b.png: .*1 x 1 px"):
        client.predict(files, api_name=BATCH)


def test_a_fault_of_ours_costs_one_file_and_tells_nothing(client: Client, brick: Path, tmp_path: Path, fake) -> None:
    class Fragile(FakeMethod):
        def __call__(self, picture, **options):
            if picture.width == 32:
                raise RuntimeError("/secret/path")
            return super().__call__(picture, **options)

    fake()
    ui.MODELS.load = lambda name: Fragile()
    _, report = client.predict([handle_file(png(tmp_path / "a.png", size=32)), handle_file(brick)], api_name=BATCH)
    assert report[0] == {"file": "a.png", "error": "It failed for a reason that the server's log tells."}
    assert report[1]["result"] == "brick.png"


def test_a_batch_without_its_weights_ends_at_once(client: Client, brick: Path, fake) -> None:
    loads = []

    def load(name: str) -> None:
        loads.append(name)
        raise artmodels.MissingWeights("the weights are gone: install again")

    fake()
    ui.MODELS.load = load
    with pytest.raises(AppError, match=r"^the weights are gone: install again$"):
        client.predict([handle_file(brick)] * 3, api_name=BATCH)
    assert loads == [catalogue.default("fast_style").name]


@contextlib.contextmanager
def cancelling(job) -> Iterator[threading.Event]:
    """Cancel a run; the server answers when the step that it is at has ended, which the caller must allow."""
    cancelled = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(job.cancel)
        answer.add_done_callback(lambda _: cancelled.set())
        cancelled.wait(0.5)  # so that the message has arrived; if not, the caller's next step waits for it
        yield cancelled
        assert answer.result()


def test_a_batch_stops_between_two_files(client: Client, gallery_url: str, brick: Path, tmp_path: Path, fake) -> None:
    method = fake(allowed=2)
    job = client.submit([handle_file(brick)] * 8, api_name=BATCH)
    wait_for(lambda: len(method.seen) > 2)
    other = Client(gallery_url, verbose=False, download_files=False, analytics_enabled=False)
    after = other.submit([handle_file(png(tmp_path / "after.png", size=32))], api_name=BATCH)
    with cancelling(job) as cancelled:
        while method.seen[-1][0].width == 64:  # the next run begins when this one has ended
            count = len(method.seen)
            method.allowed.release()
            wait_for(lambda count=count: len(method.seen) > count)
            cancelled.wait(1)
        method.allowed.release(8)
    assert after.result(timeout=60)[1][0]["file"] == "after.png"
    assert len(method.seen) - 1 <= 3 + 1 < 8  # one that was running, and one while the message travelled
    other.close()


def test_a_batch_has_a_limit(client: Client, gallery_url: str, brick: Path, fake) -> None:
    method = fake()
    with pytest.raises(ValidationError, match=r"photos: There are no pictures: upload some\."):
        client.predict(None, api_name=BATCH)
    with brick.open("rb") as file:
        (path,) = httpx.post(f"{gallery_url}gradio_api/upload", files={"files": file}).json()
    many = [{"path": path, "meta": {"_type": "gradio.FileData"}}] * 33
    assert "These are 33 files: give at most 32 at a time." in call(gallery_url, [many, *BATCH_DEFAULTS], BATCH)
    assert method.seen == []


# --- stopping


def wait_for(condition, seconds: float = 60) -> None:
    """Wait until something is so; the seconds only bound how long a test that fails may take."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_cancel_stops_within_a_step_and_cleans_up(client: Client, brick: Path, fake) -> None:
    method = fake(steps=1000, allowed=2)
    job = client.submit(handle_file(brick), api_name=TEXTURE)
    wait_for(lambda: any(image for image, *_ in job.outputs()))
    with cancelling(job):
        for _ in range(3):  # one that was running, and one while the message travelled
            method.allowed.release()
            if method.closed.wait(10):
                break
    assert method.closed.is_set()
    assert method.taken <= 2 + 3


def test_a_deadline_gives_the_best_so_far(client: Client, brick: Path, ticking: list[int]) -> None:
    image, settings, _ = client.predict(
        handle_file(brick), width=512, height=512, quality="Fine", seconds=12, api_name=TEXTURE
    )
    assert 12 <= ticking[-1] < 12 + 3  # that is where it stopped, and not at the last of its steps
    with Image.open(image) as shown:
        assert shown.size == (512, 512)
    assert settings["size"] == [512, 512]


def test_a_full_queue_says_so_and_lives_on(client: Client, gallery_url: str, brick: Path, fake) -> None:
    def waiting() -> int:
        return httpx.get(f"{gallery_url}gradio_api/queue/status").json()["queue_size"]

    method, file, room = fake(), handle_file(brick), ui.QUEUE["max_size"]
    method.gate.clear()
    jobs = [client.submit(file, api_name=TEXTURE)]
    wait_for(lambda: method.seen)
    for count in range(1, room + 1):  # one by one: each is counted when it has passed its checks
        jobs.append(client.submit(file, api_name=TEXTURE))
        wait_for(lambda count=count: waiting() == count)
    with pytest.raises(QueueError, match="Queue is full"):
        client.predict(file, api_name=TEXTURE)
    method.gate.set()
    assert [job.result(timeout=60)[1] for job in jobs] == [{"seed": 0}] * (1 + room)
    assert client.predict(file, api_name=TEXTURE)[1] == {"seed": 0}


# --- what is refused, and how


def one_pixel(path: Path) -> Path:
    Image.new("RGB", (1, 1)).save(path)
    return path


def text_file(path: Path) -> Path:
    path.write_text("not a picture")
    return path


def bomb(path: Path) -> Path:
    Image.new("1", (13000, 13000)).save(path)
    return path


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (None, {}, "exemplar: There is no picture: upload a picture of the texture, or pick an example"),
        (one_pixel, {}, "exemplar: This picture is 1 x 1 pixels: a picture of the texture needs at least 16"),
        (text_file, {}, "exemplar: .*input.png.*text, not pixels"),
        (bomb, {}, "exemplar: .*input.png.*13000 ?x ?13000"),
        (png, {"width": 4096}, "width: Width is 4096: give 64 to 1024. The limit of this machine is 1024"),
        (png, {"height": 3}, "height: Height is 3: give 64 to 1024"),
        (png, {"seed": -1}, "seed: Seed is -1: give 0 to 2147483647"),
        (png, {"model": "texture-patch"}, "model: 'texture-patch' is not one of .* Did you mean 'texture-patches'"),
    ],
)
def test_wrong_input_is_explained_beside_its_control(
    client: Client, tmp_path: Path, make, options: dict, message: str
) -> None:
    file = handle_file(make(tmp_path / "input.png")) if make else None
    with pytest.raises(ValidationError, match=f"(?s){message}") as caught:
        client.predict(file, **options, api_name=TEXTURE)
    assert "1 parameter(s) failed validation" in str(caught.value)
    assert os.environ["GRADIO_TEMP_DIR"] not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (None, {}, "photo: There is no picture: upload the picture to repaint, or pick an example"),
        (one_pixel, {}, "photo: This picture is 1 x 1 pixels: the picture to repaint needs at least 8"),
        (text_file, {}, "photo: .*input.png.*text, not pixels"),
        (bomb, {}, "photo: .*input.png.*13000 ?x ?13000"),
        (png, {"size": 63}, "size: Longest side is 63: give 0, or 64 to 2048. The limit of this machine is 2048"),
        (png, {"size": 2049}, "size: Longest side is 2049: give 0, or 64 to 2048"),
        (png, {"style": "fast-style-screan"}, "style: .*-screan' is not one of .* Did you mean 'fast-style-scream'"),
    ],
)
def test_wrong_input_of_fast_style_is_explained(
    client: Client, tmp_path: Path, make, options: dict, message: str
) -> None:
    file = handle_file(make(tmp_path / "input.png")) if make else None
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        client.predict(file, **options, api_name=FAST)


@pytest.mark.parametrize(
    ("style", "options", "message"),
    [
        (None, {}, "style_1: There is no picture: upload a picture to take the style from"),
        (one_pixel, {}, "style_1: This picture is 1 x 1 pixels: a picture to take the style from needs at least 8"),
        (png, {"style_size": 31}, "style_size: Stroke size is 31: give 32 to 1024"),
        (png, {"size": 63}, "size: Longest side is 63: give 0, or 64 to 2048"),
    ],
)
def test_wrong_input_of_arbitrary_style_is_explained(
    client: Client, brick: Path, tmp_path: Path, style, options: dict, message: str
) -> None:
    file = handle_file(style(tmp_path / "style.png")) if style else None
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        client.predict(handle_file(brick), file, **options, api_name=ANY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texture": "texture-network-wool"}, "texture: .*-wool' is not one of .* Did you mean 'texture-network-wood'"),
        ({"width": 31}, "width: Width is 31: give 32 to 2048. The limit of this machine is 2048 pixels a side"),
        ({"height": 2049}, "height: Height is 2049: give 32 to 2048"),
        ({"seed": -1}, "seed: Seed is -1: give 0 to 2147483647"),
        ({"count": 0}, "count: Count is 0: give 1 to 16. For more, run again with another seed"),
        ({"count": 17}, "count: Count is 17: give 1 to 16"),
    ],
)
def test_wrong_input_of_texture_network_is_explained(client: Client, options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        client.predict(**options, api_name="/texture_network_batch")
    if "count" not in options:
        with pytest.raises(ValidationError, match=f"(?s){message}"):
            client.predict(**options, api_name=NETWORK)


def test_a_mask_of_another_size_is_explained(client: Client, brick: Path, tmp_path: Path) -> None:
    mask = png(tmp_path / "mask.png", size=32)
    message = "mask_1: This picture is 32 x 32 pixels and the content 64 x 64. Paint the mask over a copy"
    with pytest.raises(ValidationError, match=message):
        client.predict(handle_file(brick), handle_file(brick), mask_1=handle_file(mask), api_name=STYLE)


def test_errors_of_a_method_are_explained(client: Client, brick: Path, fake) -> None:
    def fail(*args, **options):
        raise artmodels.ConfigError("the tile is too long: ask for less")

    fake().stream = fail
    with pytest.raises(AppError, match="the tile is too long: ask for less"):
        client.predict(handle_file(brick), api_name=TEXTURE)


def test_unexpected_errors_tell_nothing(client: Client, brick: Path, fake) -> None:
    def fail(*args, **options):
        raise RuntimeError("/secret/path")

    fake().stream = fail
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(brick), api_name=TEXTURE)
    assert "secret" not in str(caught.value)


def call(url: str, data: list, api_name: str = TEXTURE) -> str:
    """Call an endpoint without the client, whose own checks an attacker would not run."""
    answer = httpx.post(f"{url}gradio_api/call{api_name}", json={"data": data}, timeout=60)
    if answer.status_code != 200:
        return answer.text
    event = answer.json()["event_id"]
    return httpx.get(f"{url}gradio_api/call{api_name}/{event}", timeout=60).text


DEFAULTS = ["texture-patches", 64, 64, "Draft", False, 0, 5]
BATCH_DEFAULTS = ["fast-style-starry-night", 1, 0]


def test_files_of_the_server_cannot_be_read(gallery_url: str, fake) -> None:
    method = fake()
    for path in ("/etc/passwd", "../../etc/passwd", str(ROOT / "pyproject.toml")):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for text in (
            call(gallery_url, [file, *DEFAULTS]),
            call(gallery_url, [[file], *BATCH_DEFAULTS], BATCH),
        ):
            assert "not" in text
            assert "root:" not in text
    assert method.seen == []
    for path in ("/etc/passwd", str(ROOT / "pyproject.toml"), str(ROOT / "spaces" / "gallery" / "app.py")):
        assert httpx.get(f"{gallery_url}gradio_api/file={path}").status_code in {403, 404}


def test_addresses_are_not_fetched(gallery_url: str, fake) -> None:
    method, hits = fake(), []

    class Trap(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Trap) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/secret.png"
        for file in ({"path": address}, {"path": "x.png", "url": address}):
            file = file | {"meta": {"_type": "gradio.FileData"}}
            call(gallery_url, [file, *DEFAULTS])
            call(gallery_url, [[file], *BATCH_DEFAULTS], BATCH)
        server.shutdown()
    assert hits == []
    assert method.seen == []


def test_uploads_have_a_limit(gallery_url: str) -> None:
    files = {"files": ("big.png", io.BytesIO(bytes(41 * 2**20)))}
    assert httpx.post(f"{gallery_url}gradio_api/upload", files=files, timeout=60).status_code == 413


def test_the_server_is_hardened(gallery_url: str) -> None:
    config = httpx.get(f"{gallery_url}config").json()
    assert config["analytics_enabled"] is False
    assert config["show_error"] is False
    assert httpx.get(f"{gallery_url}monitoring").status_code >= 400
    assert ui.QUEUE["max_size"] == config.get("queue_max_size", ui.QUEUE["max_size"])


# --- living long


def census(gallery: object) -> dict[str, int]:
    """How much each container of the server holds."""
    holders = {"queue": gallery.demo._queue, "app": gallery.demo.app, "models": ui.MODELS}
    return {
        f"{holder}.{name}": len(value)
        for holder, thing in holders.items()
        for name, value in vars(thing).items()
        if isinstance(value, dict | list | set)
    }


def test_two_hundred_calls_leave_nothing_behind(gallery_url: str, brick: Path, tmp_path: Path, fake) -> None:
    method, gallery = fake(), sys.modules["spaces_gallery_app"]
    right, wrong = handle_file(brick), handle_file(one_pixel(tmp_path / "one.png"))
    client = Client(gallery_url, verbose=False, download_files=False, analytics_enabled=False)

    def batch(count: int) -> None:
        for number in range(count):
            if number % 4 == 0:
                assert client.predict(right, api_name=TEXTURE)[1] == {"seed": 0}
                continue
            with pytest.raises(ValidationError, match="needs at least 16"):
                client.predict(wrong, api_name=TEXTURE)
        time.sleep(0.5)

    batch(100)
    before, memory = census(gallery), psutil.Process().memory_info().rss
    batch(100)
    after = census(gallery)
    client.close()
    assert after.pop("queue.event_analytics") <= 50  # full only after 200 calls that came to something
    assert {name: (before.get(name), size) for name, size in after.items() if size > before.get(name, 0)} == {}
    assert psutil.Process().memory_info().rss - memory < 20 * 2**20
    assert len(method.seen) == 50


def test_health(gallery_url: str) -> None:
    answer = httpx.get(f"{gallery_url}health")
    assert answer.status_code == 200
    assert answer.json().items() >= {"ok": True, "artmodels": artmodels.__version__, "device": "cpu"}.items()
    assert {"torch", "gradio", "python", "provider"} <= answer.json().keys()


# --- the model cache


def test_a_model_is_loaded_once_however_many_ask() -> None:
    loads = []

    def load(name: str) -> torch.nn.Module:
        loads.append(name)
        time.sleep(0.05)
        return torch.nn.Linear(4, 4)

    cache = ModelCache(load)
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(cache, ["a", "b"] * 8))
    assert sorted(loads) == ["a", "b"]
    assert len(set(map(id, models))) == 2


def test_the_least_recently_used_model_goes_first() -> None:
    cache = ModelCache(lambda name: torch.nn.Linear(10, 10, bias=False), limit=1000)  # 400 bytes each
    for name in ("a", "b", "a", "c"):
        cache(name)
    assert (cache.names, cache.bytes) == (("a", "c"), 800)
    assert ModelCache(lambda name: torch.nn.Linear(100, 100), limit=1)("huge") is not None


def test_a_failed_load_is_tried_again() -> None:
    answers = [artmodels.MissingWeights("later"), "model"]

    def load(name: str) -> SimpleNamespace:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(name=answer)

    cache = ModelCache(load)
    with pytest.raises(artmodels.MissingWeights):
        cache("a")
    assert cache("a").name == "model"


def test_size_counts_shared_tensors_once() -> None:
    layer = torch.nn.Linear(10, 10, bias=False)
    assert size_in_bytes(SimpleNamespace(one=layer, two=layer, extra=torch.zeros(5), name="x")) == 420


# --- the wall and the camera


def test_a_wall_shows_what_each_model_makes_of_the_same_picture(fake) -> None:
    method = fake()
    sample = example("chelsea")
    made = tiles("fast_style", lambda entry: (entry.name, "by hand"), sample)
    assert [tile.value for tile in made] == [entry.name for entry in ui.models("fast_style")]
    assert made[0].value == catalogue.default("fast_style").name
    assert {tile.picture.size for tile in made} == {(224, 224)}
    assert [tile.picture.getpixel((0, 0)) for tile in made] == [(64, 64, 64)] * len(method.seen)
    with gr.Blocks():
        control = wall("Painting", made)
    assert control.choices == [(tile.title, tile.value) for tile in made]
    assert control.value == made[0].value


def test_a_wall_stands_without_a_model_that_cannot_be_loaded(fake, caplog: pytest.LogCaptureFixture) -> None:
    fake()

    def load(name: str) -> FakeMethod:
        if name == "fast-style-woodcut":
            raise artmodels.HashMismatch("not the promised bytes")
        return FakeMethod()

    ui.MODELS.load = load
    made = tiles("fast_style", lambda entry: ("", ""), Image.new("RGB", (300, 200), "red"))
    colours = {tile.value: tile.picture.getpixel((0, 0)) for tile in made}
    assert colours.pop("fast-style-woodcut") == (255, 0, 0)
    assert set(colours.values()) == {(64, 64, 64)}
    assert "fast-style-woodcut: not the promised bytes" in caplog.text


def test_a_wall_downloads_nothing(fake) -> None:
    method = fake()
    made = tiles("neural_style", lambda entry: ("", ""), Image.new("RGB", (8, 8), "red"))
    assert len(method.seen) == len(made) - 1 > 0
    assert [tile.value for tile in made if tile.picture.getpixel((0, 0)) == (255, 0, 0)] == ["style-vgg19"]


@pytest.mark.parametrize(("setting", "offered"), [(None, False), ("0", False), ("1", True)])
def test_the_camera_is_off_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, offered: bool
) -> None:
    monkeypatch.delenv("ARTMODELS_WEBCAM", raising=False)
    if setting is not None:
        monkeypatch.setenv("ARTMODELS_WEBCAM", setting)
    with gr.Blocks():
        assert ("webcam" in ui.upload("Photograph").sources) is offered


# --- examples and starting


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_patterns_tile_and_do_not_change(name: str) -> None:
    pixels = PATTERNS[name]().astype(float)
    assert pixels.shape == (256, 256, 3)
    np.testing.assert_array_equal(pixels, PATTERNS[name]())
    inside = np.abs(np.diff(pixels, axis=0)).mean(axis=(1, 2)).max()
    assert np.abs(pixels[0] - pixels[-1]).mean() <= inside
    inside = np.abs(np.diff(pixels, axis=1)).mean(axis=(0, 2)).max()
    assert np.abs(pixels[:, 0] - pixels[:, -1]).mean() <= inside


def test_examples_come_from_the_wheel_of_scikit_image() -> None:
    assert example("gravel").size == (384, 384)
    assert example("chelsea").mode == "RGB"
    assert max(example("chelsea").size) == 384


def test_without_gradio_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['gradio'] = None; import artmodels.ui.controls"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "ConfigError: The demos need gradio" in done.stderr
    assert "pip install 'artmodels[demo]'" in done.stderr


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# What the start of a page has no use for, and takes long to import.
LATER = {"accelerate", "cv2", "faiss", "matplotlib", "onnx", "onnxruntime", "ray", "sklearn", "timm", "torchvision"}


def test_every_space_starts_by_its_path_and_does_nothing_twice(tmp_path: Path) -> None:
    ports = {space: free_port() for space in ("gallery", *(method.id for method in catalogue.methods()))}
    apps = [word for space, port in ports.items() for word in (str(port), str(ROOT / "spaces" / space / "app.py"))]
    command = [sys.executable, str(Path(__file__).parents[1] / "starting.py"), str(tmp_path), *apps]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, bufsize=1, cwd=tmp_path, env=environment) as start:
        for port in ports.values():
            wait_for((tmp_path / f"{port}.json").exists, 120)
            assert httpx.get(f"http://127.0.0.1:{port}", timeout=60).status_code == 200
            assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=60).json()["ok"] is True
            start.stdin.write("next\n")
    work = {}
    for space, port in ports.items():
        assert f"http://127.0.0.1:{port}" in (tmp_path / f"{port}.log").read_text(encoding="utf-8")
        work[space] = json.loads((tmp_path / f"{port}.json").read_text(encoding="utf-8"))
    gallery = work.pop("gallery")
    # The gallery has each Space, a page for it and its own; gradio builds the routes when it is queued and launched.
    assert (gallery["pages"], gallery["routes"]) == (1 + 2 * len(work), 2)
    assert {space: (each["pages"], each["routes"]) for space, each in work.items()} == dict.fromkeys(work, (1, 4))
    # Each model of a wall is read once and makes one tile, in the gallery as alone; nothing else is computed.
    assert gallery["checkpoints"] == {name: 1 for each in work.values() for name in each["checkpoints"]}
    walls = [*artmodels.list_models("fast_style"), *artmodels.list_models("texture_network")]
    assert gallery["checkpoints"].keys() == {entry.name for entry in walls if catalogue.download(entry) is None}
    assert gallery["flops"] == sum(each["flops"] for each in work.values()) < 4e9 * len(gallery["checkpoints"])
    for each in (gallery, *work.values()):
        assert LATER.isdisjoint(each["modules"])
