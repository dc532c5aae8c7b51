"""Super-resolution: the published networks weight for weight, any picture, no seams, and a training that learns."""

import dataclasses
import io
import json
import struct
import zlib

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage.metrics import structural_similarity
from torch.nn import functional as F
from typer.testing import CliRunner

from artmodels import images
from artmodels.errors import (
    ArtModelsError,
    ConfigError,
    DatasetError,
    ImageError,
    ImageTooLarge,
    MissingWeights,
    UnsafeFormat,
    WeightsMismatch,
)
from artmodels.methods.super_resolution import (
    SuperResolution,
    SuperResolutionConfig,
    checkpoint_for,
    examine,
    pipeline,
    wear,
)
from artmodels.methods.super_resolution import evaluate as judge
from artmodels.methods.super_resolution.model import make_network
from artmodels.methods.super_resolution.train import (
    Damage,
    SuperResolutionRecipe,
    SuperResolutionSettings,
    damaged,
    web_copy,
)
from artmodels.training import Sources, TrainingConfig, fit
from tests.verbs import picture
from weights import __main__ as command
from weights.convert import super_resolution as realesrgan

SLIM = SuperResolutionConfig(scale=2, channels=8, convs=3, base="bicubic")
NARROW = SuperResolutionConfig(architecture="rrdb", channels=8, growth=4, blocks=1)


def random_network(config, seed=0):
    """A network all of whose layers do something."""
    network = make_network(config).requires_grad_(False)
    rng = torch.Generator().manual_seed(seed)
    for value in network.parameters():
        size = value[0].numel() ** -0.5 if value.dim() == 4 else 0.1
        value.copy_(size * torch.randn(value.shape, generator=rng))
    return network


def method(config=SLIM, **options):
    return SuperResolution(config, network=random_network(config), device="cpu", **options)


# --- the networks


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (SuperResolutionConfig(), 621_424),
        (SuperResolutionConfig(convs=32), 1_213_296),
        (SuperResolutionConfig(architecture="rrdb"), 16_697_987),
        (SuperResolutionConfig(architecture="rrdb", blocks=6), 4_467_779),
    ],
)
def test_as_many_parameters_as_published(config, count):
    with torch.device("meta"):  # where nothing is drawn or stored
        network = make_network(config)
    assert sum(value.numel() for value in network.parameters()) == count


@pytest.mark.parametrize("scale", [2, 4])
def test_untrained_it_is_the_plain_enlargement(scale):
    x = picture(13, 17)
    nearest = make_network(SuperResolutionConfig(scale=scale, channels=4, convs=1))(x)
    assert torch.equal(nearest, F.interpolate(x, scale_factor=scale, mode="nearest"))
    smooth = make_network(SuperResolutionConfig(scale=scale, channels=4, convs=1, base="bicubic"))(x)
    inner = slice(3 * scale, -3 * scale)  # at the border one repeats pixels, the other leaves the kernel out
    expected = judge.bicubic(x, scale)[..., inner, inner]
    assert torch.allclose(smooth[..., inner, inner], expected, atol=2e-6)
    assert not torch.allclose(
        F.interpolate(x, scale_factor=scale, mode="nearest")[..., inner, inner], expected, atol=0.01
    )


@pytest.mark.parametrize(
    "config",
    [SLIM, NARROW, dataclasses.replace(NARROW, scale=2)],
    ids=["srvgg", "rrdb", "rrdb x2"],
)
def test_the_radius_is_exact(config):
    network = random_network(config).double()
    network.last.weight.mul_(0.01)  # far from 0 and 1, where values are cut and depend on nothing
    if config.architecture == "rrdb":
        network.last.bias.fill_(0.5)
    middle = network.radius + 4 + network.radius % 2  # even
    side, scale = 2 * middle, config.scale
    x = torch.rand(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.45
    x.requires_grad_(True)
    result = network(x)
    reached = 0
    for row in range(middle * scale, (middle + 2) * scale):
        (gradient,) = torch.autograd.grad(result[0, :, row, middle * scale].sum(), x, retain_graph=True)
        rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
        centre = row // scale
        reached = max(reached, centre - int(rows.min()), int(rows.max()) - centre)
    assert reached == network.radius


def test_wrong_settings():
    for settings, message in (
        ({"architecture": "swin"}, "architecture='swin' must be"),
        ({"scale": 3}, "scale=3 must be one of 2, 4"),
        ({"base": "linear"}, "base='linear' must be"),
        ({"convs": 0}, "convs=0 must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            SuperResolutionConfig(**settings)


# --- tiles


@pytest.mark.parametrize(
    "config",
    [
        SLIM,
        SuperResolutionConfig(scale=4, channels=8, convs=6),
        SuperResolutionConfig(architecture="rrdb", channels=4, growth=2, blocks=23, scale=2),
    ],
    ids=["x2", "x4", "rrdb"],
)
def test_tiles_do_not_show(config):
    upscale = method(config)
    least = 8 * upscale.graph.context
    x = picture(least + 41, least + 77)
    whole = upscale(x, tile=2048).tensor
    pieces = upscale(x, tile=32).tensor
    assert judge.seam_score(whole, pieces) < 1
    rough = torch.cat([upscale(x[..., :100, :100]).tensor, upscale(x[..., :100, 100:200]).tensor], 3)
    assert judge.seam_score(whole[..., : rough.shape[2], : rough.shape[3]], rough) > 3  # the measure sees seams


def test_tiles_are_used():
    upscale = method(SLIM)
    shapes = []
    upscale.network.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape[-2:])))
    upscale(picture(100, 100), tile=64)
    assert len(shapes) > 1 and set(shapes) == {(64, 64)}
    shapes.clear()
    upscale(picture(100, 100))
    assert shapes == [(100, 100)]


@pytest.mark.parametrize("tile", [0, 31, 2049, 64.0, "64"])
def test_a_wrong_tile(tile):
    with pytest.raises(ConfigError, match="must be a whole number from 32 to 2048"):
        method()(picture(8, 8), tile=tile)


# --- pictures


@pytest.mark.parametrize("config", [SLIM, NARROW, dataclasses.replace(NARROW, scale=2)], ids=["srvgg", "rrdb", "x2"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (33, 45)])
def test_any_size(config, size):
    result = method(config)(picture(*size))
    height, width = (config.scale * side for side in size)
    assert result.tensor.shape == (1, 3, height, width) and result.tensor.isfinite().all()
    assert 0 <= result.tensor.min() and result.tensor.max() <= 1
    assert result.image.size == (width, height) and result.image.mode == "RGB" and result.alpha is None


def test_a_list_gives_a_list_with_the_same_results():
    upscale = method()
    first, second = picture(9, 12), picture(20, 8, seed=1)
    both = upscale([first, second])
    assert torch.equal(both[0].tensor, upscale(first).tensor) and torch.equal(both[1].tensor, upscale(second).tensor)
    assert not torch.equal(both[0].tensor[..., :16, :16], both[1].tensor[..., :16, :16])


def test_transparency_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    pixels = np.concatenate([rng.integers(0, 256, (12, 16, 3)), np.full((12, 16, 1), 255)], 2).astype(np.uint8)
    upscale = SuperResolution(SLIM, device="cpu")  # untrained: bicubic, so that what is right is known
    opaque = upscale(Image.fromarray(pixels))
    assert opaque.image.mode == "RGBA" and np.asarray(opaque.image)[..., 3].min() == 255
    assert torch.equal(opaque.tensor, upscale(pixels[..., :3]).tensor)
    pixels[:, :8, 3] = 0
    pixels[:, :, :3] = (200, 40, 90)
    result = upscale(Image.fromarray(pixels))
    found = np.asarray(result.image).astype(int)
    assert result.alpha.shape == (1, 1, 24, 32)
    assert found[:, :10, 3].max() == 0 and found[:, 24:, 3].min() == 255
    assert 0 < found[12, 16, 3] < 255
    seen = found[..., 3] > 25
    # The colour is that of the picture wherever it can be seen: no white fringe, only the overshoot of bicubic.
    difference = found[seen][:, :3] - (200, 40, 90)
    assert -16 <= difference.min() and difference.max() <= 6
    assert np.allclose(result.tensor[0, :, :, :8], 1)  # the tensor lies on white
    result.save(tmp_path / "cut.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "cut.png")), found)


def cut_out(soft: float) -> np.ndarray:
    """A disc of one colour [64, 64, 4] whose alpha falls from 255 to 0 within so many pixels; black under the rest."""
    y, x = np.mgrid[:64, :64]
    alpha = np.rint(255 * np.clip((22.5 - np.hypot(y - 31.5, x - 31.5)) / soft, 0, 1)).astype(np.uint8)
    return np.dstack([np.where(alpha[..., None] > 0, np.uint8((200, 30, 30)), np.uint8(0)), alpha])


def palette_with_transparency(pixels: np.ndarray) -> Image.Image:
    """The disc as palette and tRNS, one entry for each alpha, black where it is 0."""
    picture = Image.fromarray(pixels[..., 3], "L").convert("P")
    picture.putdata(pixels[..., 3].ravel().tolist())
    picture.putpalette([0, 0, 0] + [200, 30, 30] * 255)
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=bytes(range(256)))
    return Image.open(file)


CUT_OUTS = {
    "RGBA": (lambda pixels: Image.fromarray(pixels), (200, 30, 30)),
    "palette": (palette_with_transparency, (200, 30, 30)),
    "LA": (lambda pixels: Image.fromarray(pixels[..., [0, 3]], "LA"), (200, 200, 200)),
    "16 bits": (lambda pixels: pixels.astype(np.uint16) * 257, (200, 30, 30)),
    "floats": (lambda pixels: pixels.astype(np.float32) / 255, (200, 30, 30)),
}


@pytest.mark.parametrize("name", ["super-resolution-x2", "super-resolution-x4"])
@pytest.mark.parametrize("kind", CUT_OUTS)
@pytest.mark.parametrize("soft", [1, 15])
def test_cut_outs_have_no_fringe(name, kind, soft, tmp_path):
    pixels = cut_out(soft)
    make, colour = CUT_OUTS[kind]
    upscale = SuperResolution.from_pretrained(name, device="cpu")
    result = upscale(make(pixels), tile=32 if kind == "RGBA" else None)
    found = np.asarray(result.image).astype(int)
    assert result.bits == (16 if kind in ("16 bits", "floats") else 8)
    assert np.abs(found[..., :3] - colour).max(-1)[found[..., 3] >= 8].max() <= 2
    # What is opaque or transparent with all its neighbours stays so.
    scale = upscale.config.scale
    inner, outer = (
        np.kron(scipy.ndimage.minimum_filter(full, 3, mode="nearest"), np.ones((scale, scale), bool))
        for full in (pixels[..., 3] == 255, pixels[..., 3] == 0)
    )
    assert inner.any() and (found[..., 3][inner] == 255).all() and (found[..., 3][outer] == 0).all()
    assert 0 <= result.alpha.min() and result.alpha.max() <= 1
    result.save(tmp_path / "cut.png", bits=8)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "cut.png").convert("RGBA")), found)


def test_what_lies_under_transparent_pixels_does_not_show():
    upscale, pixels = SuperResolution.from_pretrained("super-resolution-x2", device="cpu"), cut_out(1)
    other = np.where(pixels[..., 3:] == 0, np.uint8((0, 255, 90, 0)), pixels)
    assert torch.equal(upscale(pixels).tensor, upscale(other).tensor)


def test_a_picture_that_was_composited_gives_its_colours_back():
    """To what 8 bits tell: half a level over alpha."""
    loaded = images.load(cut_out(15), background=(0, 90, 255))
    found = np.asarray(SuperResolution(SLIM, device="cpu")(loaded).image).astype(int)
    for alpha in (32, 128, 255):
        apart = np.abs(found[..., :3] - (200, 30, 30)).max(-1)[found[..., 3] >= alpha].max()
        assert apart <= np.ceil(1.1 * 255 / 2 / (alpha - 24 if alpha < 255 else alpha)) + 1


def test_sixteen_bits_are_kept(tmp_path):
    ramp = np.linspace(1000, 1512, 40 * 30).reshape(40, 30).astype(np.uint16)  # two levels of 8 bits
    grey = SuperResolution(SLIM, device="cpu")(ramp)
    assert grey.bits == 16
    grey.save(tmp_path / "grey.png")
    again = images.load(tmp_path / "grey.png")
    assert again.pixels.dtype == np.uint16 and len(np.unique(again.pixels)) > 400
    assert (again.tensor() - grey.tensor).abs().max() <= 0.51 / 65535
    assert images.read_metadata(tmp_path / "grey.png")["artmodels"] == grey.metadata["artmodels"]
    grey.save(tmp_path / "eight.png", bits=8)
    assert images.load(tmp_path / "eight.png").pixels.dtype == np.uint8
    with pytest.raises(ConfigError, match="bits=12 must be 8, or 16 for a .png"):
        grey.save(tmp_path / "no.png", bits=12)


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_is_a_valid_png(tmp_path, channels):
    pixels = np.random.default_rng(1).integers(0, 65536, (9, 7, channels)).astype(np.uint16)
    result = method()(pixels)
    path = tmp_path / "deep.png"
    result.save(path)
    header, values = parse_png(path.read_bytes())
    assert header == (14, 18, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    assert np.array_equal(values.reshape(18, 14, channels), result._pixels(16))
    assert len(np.unique(values & 255)) > 100  # the lower bytes are used
    with Image.open(path) as opened:  # which has 8 bits of each
        assert opened.mode == {3: "RGB", 4: "RGBA"}[channels]
        assert np.array_equal(np.asarray(opened), (values >> 8).reshape(18, 14, channels))
    stored = json.loads(images.read_metadata(path)["artmodels"])
    assert stored["method"] == "super_resolution" and stored["channels"] == 8
    assert list(tmp_path.iterdir()) == [path]


def parse_png(data):
    """Header and 16-bit samples of a PNG whose rows are differences to the row above."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    position, chunks = 8, []
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        assert struct.unpack(">I", data[position + 8 + length : position + 12 + length])[0] == zlib.crc32(kind + body)
        chunks.append((kind, body))
        position += 12 + length
    header = struct.unpack(">IIBBBBB", dict(chunks)[b"IHDR"])
    lines = np.frombuffer(zlib.decompress(dict(chunks)[b"IDAT"]), np.uint8).reshape(header[1], -1)
    assert (lines[:, 0] == 2).all() and chunks[-1] == (b"IEND", b"")
    rows = np.cumsum(lines[:, 1:], axis=0, dtype=np.uint8)
    return header, rows.copy().view(">u2").astype(np.uint16)


def test_a_deep_file_that_cannot_be_written(tmp_path):
    result = method()(np.zeros((2, 2, 3), np.uint16) + np.arange(3, dtype=np.uint16))
    with pytest.raises(ConfigError, match=r"does not end in \.png"):
        result.save(tmp_path / "deep.tif")
    with pytest.raises(ArtModelsError, match="could not write .*nowhere"):
        result.save(tmp_path / "nowhere" / "deep.png")
    assert list(tmp_path.iterdir()) == []


def test_grey_stays_grey():
    result = method()(picture(20, 20)[:, :1].expand(-1, 3, -1, -1)).tensor
    assert torch.equal(result[:, 0], result[:, 1]) and torch.equal(result[:, 0], result[:, 2])
    colour = method()(picture(20, 20)).tensor
    assert not torch.allclose(colour[:, 0], colour[:, 1], atol=0.05)


def test_half_precision_says_that_it_loses_some():
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    assert any("computed in bfloat16" in note for note in method(dtype=torch.bfloat16)(deep).notes)
    assert not any("computed in" in note for note in method()(deep).notes)
    assert not any("computed in" in note for note in method(dtype=torch.bfloat16)((deep >> 8).astype(np.uint8)).notes)


def test_too_large_a_result_names_the_limit(monkeypatch):
    monkeypatch.setattr(pipeline, "LARGEST", 4_000)
    with pytest.raises(ImageTooLarge, match=r"80 x 60 = 0\.0 megapixels and the limit is 0\.004: .* 0\.001 megapixels"):
        method()(picture(30, 40))
    assert method()(picture(25, 40)).tensor.shape[-2:] == (50, 80)
    monkeypatch.undo()
    with pytest.raises(ImageTooLarge, match=r"16000 x 16000 = 256\.0 megapixels and the limit is 200: .* 12\.5 meg"):
        method(SuperResolutionConfig(channels=1, convs=1))(np.zeros((4000, 4000), np.uint8))
    with pytest.raises(ImageError, match="there is no file"):
        method()("nowhere.png")


def test_it_saves_and_loads(tmp_path):
    model = method()
    folder = model.save_pretrained(tmp_path / "mine")
    again = SuperResolution.from_pretrained(folder, device="cpu")
    assert again.config == model.config
    x = picture(11, 14)
    assert torch.allclose(again(x).tensor, model(x).tensor, atol=2e-3)  # weights are stored in half precision
    assert torch.equal(SuperResolution.from_pretrained(folder, device="cpu")(x).tensor, again(x).tensor)
    assert "kernel" not in load_file(folder / "model.safetensors")
    settings = json.loads(again(x).metadata["artmodels"])
    assert (settings["scale"], settings["base"], settings["tile"]) == (2, "bicubic", None)
    with pytest.raises(WeightsMismatch, match="does not fit this architecture"):
        SuperResolution.from_pretrained(folder, device="cpu", channels=9)


# --- published weights


def official_srvgg(state, x, scale):
    """SRVGGNetCompact from its own names, as the paper's repository describes it."""
    last = max(int(key.split(".")[1]) for key in state)
    y = x
    for index in range(0, last, 2):
        y = F.conv2d(y, state[f"body.{index}.weight"], state[f"body.{index}.bias"], padding=1)
        y = F.prelu(y, state[f"body.{index + 1}.weight"])
    y = F.conv2d(y, state[f"body.{last}.weight"], state[f"body.{last}.bias"], padding=1)
    return F.pixel_shuffle(y, scale) + F.interpolate(x, scale_factor=scale, mode="nearest")


def official_rrdb(state, x, blocks, scale):
    """RRDBNet from its own names, in the layout of Real-ESRGAN."""

    def conv(name, y):
        return F.conv2d(y, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def rectified(y):
        return F.leaky_relu(y, 0.2)

    def dense(prefix, y):
        seen = y
        for index in range(1, 5):
            seen = torch.cat([seen, rectified(conv(f"{prefix}.conv{index}", seen))], 1)
        return conv(f"{prefix}.conv5", seen) * 0.2 + y

    first = conv("conv_first", F.pixel_unshuffle(x, 2) if scale == 2 else x)
    y = first
    for block in range(blocks):
        inner = y
        for index in (1, 2, 3):
            inner = dense(f"body.{block}.rdb{index}", inner)
        y = inner * 0.2 + y
    y = first + conv("conv_body", y)
    for name in ("conv_up1", "conv_up2"):
        y = rectified(conv(name, F.interpolate(y, scale_factor=2, mode="nearest")))
    return conv("conv_last", rectified(conv("conv_hr", y)))


def drawn(shapes, seed=3):
    rng = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(shape, generator=rng) * (0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5)
        for key, shape in shapes.items()
    }


def srvgg_state(scale, channels=6, convs=2):
    shapes = {}
    widths = [3, *[channels] * (convs + 1)]
    for index, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        shapes |= {f"body.{2 * index}.weight": (outputs, inputs, 3, 3), f"body.{2 * index}.bias": (outputs,)}
        shapes[f"body.{2 * index + 1}.weight"] = (outputs,)
    last = 2 * convs + 2
    shapes |= {f"body.{last}.weight": (3 * scale**2, channels, 3, 3), f"body.{last}.bias": (3 * scale**2,)}
    return drawn(shapes)


def rrdb_state(scale=4, blocks=2, channels=6, growth=3):
    convs = {"conv_first": (channels, 12 if scale == 2 else 3)}
    for block in range(blocks):
        for dense in (1, 2, 3):
            for index in range(1, 6):
                outputs = channels if index == 5 else growth
                convs[f"body.{block}.rdb{dense}.conv{index}"] = (outputs, channels + (index - 1) * growth)
    convs |= dict.fromkeys(("conv_body", "conv_up1", "conv_up2", "conv_hr"), (channels, channels))
    convs["conv_last"] = (3, channels)
    shapes = {f"{name}.weight": (*pair, 3, 3) for name, pair in convs.items()}
    return drawn(shapes | {f"{name}.bias": pair[:1] for name, pair in convs.items()})


def renamed(state, *pairs):
    """With parts of the names replaced, in order."""
    result = {}
    for key, value in state.items():
        for old, new in pairs:
            key = key.replace(old, new)
        result[key] = value
    return result


ESRGAN = (
    *(("conv_body", "trunk_conv"), ("body.", "RRDB_trunk."), ("rdb", "RDB")),
    *(("conv_up", "upconv"), ("conv_hr", "HRconv")),
)
OLDER = (
    *((f".conv{index}.", f".conv{index}.0.") for index in range(1, 6)),
    *(("conv_body", "model.1.sub.2"), ("body.", "model.1.sub."), ("rdb", "RDB"), ("conv_first", "model.0")),
    *(("conv_up1", "model.3"), ("conv_up2", "model.6"), ("conv_hr", "model.8"), ("conv_last", "model.10")),
)


@pytest.mark.parametrize("scale", [2, 4])
def test_published_compact_weights(scale):
    state = srvgg_state(scale)
    config, tensors = realesrgan.convert(state)
    assert config == SuperResolutionConfig(scale=scale, channels=6, convs=2)
    network = make_network(config)
    network.load_state_dict(tensors)
    x = picture(7, 9)
    assert torch.allclose(network.unclamped(x), official_srvgg(state, x, scale), atol=1e-5)


@pytest.mark.parametrize("names", [(), ESRGAN, OLDER], ids=["Real-ESRGAN", "ESRGAN", "older"])
@pytest.mark.parametrize("scale", [2, 4])
def test_published_rrdb_weights(scale, names):
    state = rrdb_state(scale)
    state["conv_last.weight"] *= 0.2
    state["conv_last.bias"] = torch.full((3,), 0.5)
    config, tensors = realesrgan.convert(renamed(state, *names))
    assert config == SuperResolutionConfig(architecture="rrdb", scale=scale, channels=6, growth=3, blocks=2)
    network = make_network(config)
    network.load_state_dict(tensors)
    x = picture(8, 10)
    expected = official_rrdb(state, x, 2, scale)
    assert expected.std() > 0.01 and expected.min() > -0.5  # neither even nor all cut off
    assert torch.allclose(network(x), expected.clamp(0, 1), atol=1e-5)


def test_the_command_converts_a_file(tmp_path, capsys):
    state = srvgg_state(2)
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "compact.safetensors")
    arguments = ["convert", "super_resolution", str(tmp_path / "compact.safetensors"), str(tmp_path / "mine")]
    assert "artmodels.SuperResolution.from_pretrained" in CliRunner().invoke(command.app, arguments).output
    model = SuperResolution.from_pretrained(tmp_path / "mine", device="cpu")
    assert model.config.convs == 2
    x = picture(9, 9)
    half = {key: value.half().float() for key, value in state.items()}
    assert torch.allclose(model(x).tensor, official_srvgg(half, x, 2).clamp(0, 1), atol=1e-5)


def test_files_that_are_not_converted(tmp_path):
    (tmp_path / "x4plus.pth").write_bytes(b"never read")
    with pytest.raises(UnsafeFormat, match=r"(?s)nothing else is ever opened.*weights_only=True.*x4plus\.safetensors"):
        realesrgan.convert_file(tmp_path / "x4plus.pth", tmp_path / "out")
    arguments = ["convert", "super_resolution", str(tmp_path / "none.safetensors"), str(tmp_path / "out")]
    assert "none.safetensors: check the path" in str(CliRunner().invoke(command.app, arguments).exception)
    (tmp_path / "bad.safetensors").write_bytes(b"12345678")
    with pytest.raises(WeightsMismatch, match="is damaged"):
        realesrgan.convert_file(tmp_path / "bad.safetensors", tmp_path / "out")
    with pytest.raises(MissingWeights):
        realesrgan.convert_file(tmp_path / "none.safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_other_networks_are_refused():
    with pytest.raises(WeightsMismatch, match="'layer1.0.conv1.weight' is no weight of RRDBNet or SRVGGNetCompact"):
        realesrgan.convert({"layer1.0.conv1.weight": torch.zeros(1, 1, 3, 3)})
    state = rrdb_state()
    del state["body.0.rdb2.conv3.bias"]
    with pytest.raises(WeightsMismatch, match=r"1 tensors .* the first becomes 'blocks\.0\.dense\.1\.convs\.2\.bias'"):
        realesrgan.convert(state)
    state = rrdb_state()
    del state["conv_first.weight"]
    with pytest.raises(WeightsMismatch, match="is not complete"):
        realesrgan.convert(state)
    with pytest.raises(WeightsMismatch, match="enlarges by 3; only 2 and 4"):
        realesrgan.convert(srvgg_state(3))


# --- measures


def test_measures_are_those_of_the_field():
    x, y = picture(40, 50), picture(40, 50, seed=1).lerp(picture(40, 50), 0.9)
    first, second = judge.luma(x), judge.luma(y)
    assert judge.luma(torch.ones(1, 3, 1, 1)).item() == pytest.approx(235, abs=0.01)
    assert judge.luma(torch.zeros(1, 3, 1, 1)).item() == 16
    error = ((first - second) ** 2).mean().item()
    assert judge.psnr(first, second) == pytest.approx(20 * np.log10(255) - 10 * np.log10(error))
    assert judge.psnr(first, first) == float("inf")
    assert judge.ssim(first, first) == pytest.approx(1)
    _, whole = structural_similarity(
        first[0, 0].numpy(), second[0, 0].numpy(), data_range=255, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    assert judge.ssim(first, second) == pytest.approx(whole[5:-5, 5:-5].mean(), abs=1e-6)


def test_the_grid_score_sees_grids():
    def plain(x):
        return F.interpolate(x, scale_factor=2, mode="nearest")

    grid = torch.tensor([[0.0, 2 / 255], [0.0, 0.0]]).repeat(64, 64)
    assert judge.grid_score(plain, 2) < 0.01
    assert judge.grid_score(lambda x: plain(x) + grid, 2) == pytest.approx(2 * 0.75**0.5 / 2, rel=0.01)


@pytest.fixture
def data(tmp_path):
    """Small pieces of photographs, in the folder `photos`; the split by name puts the last two aside."""
    folder = tmp_path / "data" / "photos"
    folder.mkdir(parents=True)
    wholes = (skimage.data.astronaut(), skimage.data.coffee())
    for index in (*range(10), 15, 31):
        top, left = np.random.default_rng(index).integers(0, 300, 2)
        Image.fromarray(wholes[index % 2][top : top + 96, left : left + 104]).save(folder / f"shapes-{index}.png")
    return tmp_path / "data"


def test_evaluate(data):
    files = sorted((data / "photos").iterdir())[:2]
    report = judge.evaluate(lambda x: judge.bicubic(x, 2), files, scale=2)
    assert report["gain"] == 0 and 15 < report["psnr"] < 35 and 0.5 < report["ssim"] == report["ssim of bicubic"] < 1
    worse = judge.evaluate(lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), files, scale=2)
    assert worse["psnr of bicubic"] == report["psnr"] and worse["gain"] != 0
    web = judge.evaluate(lambda x: judge.bicubic(x, 2), files, scale=2, reduce=web_copy)
    assert web["psnr"] < report["psnr"]
    with pytest.raises(DatasetError, match="no picture to evaluate on"):
        judge.evaluate(lambda x: x, [], scale=2)
    Image.new("RGB", (14, 40)).save(data / "small.png")
    with pytest.raises(DatasetError, match="14 x 40 px: evaluate on pictures of 15 or more"):
        judge.evaluate(lambda x: x, [data / "small.png"], scale=2)
    with pytest.raises(DatasetError, match="cannot be evaluated on: .*no file"):
        judge.evaluate(lambda x: x, [data / "none.png"], scale=2)


# --- training


def test_damage():
    x = picture(48, 40)
    damage = Damage()

    def drawn_with(seed, settings=damage):
        return damaged(x, 2, settings, torch.Generator().manual_seed(seed))

    first = drawn_with(0)
    assert first.shape == (1, 3, 24, 20) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, drawn_with(0)) and not torch.equal(first, drawn_with(1))
    none = Damage(blur=(0, 0), resize=(4, 4), noise=(0, 0), uncompressed=1)
    assert (drawn_with(0, none) - judge.reduced(x, 2)).abs().mean() < 0.02
    for more in ({"blur": (1.5, 1.5)}, {"noise": (30, 30)}, {"uncompressed": 0, "jpeg": (10, 10)}):
        changed = drawn_with(0, dataclasses.replace(none, **more))
        assert (changed - drawn_with(0, none)).abs().mean() > 0.02, more
    blurred = drawn_with(0, dataclasses.replace(none, blur=(1.5, 1.5)))
    assert blurred.diff().abs().mean() < 0.8 * drawn_with(0, none).diff().abs().mean()
    for wrong, message in (
        ({"noise": (3, 2)}, r"noise=\(3, 2\) must be a range"),
        ({"jpeg": (5, 50)}, r"jpeg=\(5, 50\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            Damage(**wrong)


def recipe(data, **settings):
    network = SuperResolutionConfig(scale=2, channels=12, convs=2, base="bicubic")
    chosen = {"network": network, "folders": ("photos",), "crop": 16, "batch": 4} | settings
    return SuperResolutionRecipe(SuperResolutionSettings(**chosen), Sources(data, data, data), seed=0)


def test_it_learns_and_what_it_learns_is_saved(data, tmp_path):
    training = recipe(data)
    before = training.evaluate()
    # On the pictures' border, bicubic leaves out what the network repeats.
    assert abs(before["gain (photos)"]) < 0.1 and before["false grid"] < 0.01
    list(fit(training, TrainingConfig(steps=120, rate=4e-3, warmup=5)))
    after = training.evaluate()
    assert after["gain (photos)"] > 0.4 and after["ssim (photos)"] > before["ssim (photos)"]
    assert set(training.files).isdisjoint(training.unseen) and training.unseen
    config, tensors = training.checkpoint()
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    model = SuperResolution.from_pretrained(folder, device="cpu")
    x = picture(10, 10)
    assert torch.allclose(model(x).tensor, training.network(x).detach(), atol=0.01)


@pytest.mark.parametrize("clean", [1.0, 0.3])
def test_the_same_seed_gives_the_same_bytes(data, clean):
    states = []
    for _ in range(2):
        torch.manual_seed(len(states))  # which must not matter
        training = recipe(data, clean=clean)
        list(fit(training, TrainingConfig(steps=4)))
        states.append(training.network.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    other = recipe(data, clean=1.3 - clean)
    list(fit(other, TrainingConfig(steps=4)))
    assert not torch.equal(other.network.last.weight, states[0]["last.weight"])


def test_settings_that_cannot_be_trained(data):
    with pytest.raises(DatasetError, match="No image is as large as a crop, 100 px"):
        recipe(data, crop=50)
    for wrong, message in (
        ({"clean": 1.5}, "clean=1.5 must be at least 0 and at most 1"),
        ({"network": NARROW}, "Only SRVGG is trained"),
        ({"batch": 0}, "batch=0 must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            SuperResolutionSettings(**wrong)


# --- worn pictures


def detail(name: str = "coffee", side: int = 192) -> torch.Tensor:
    """The middle of a photograph, at half size: [1, 3, side, side]."""
    whole = images.load(getattr(skimage.data, name)()).tensor()
    top, left = (length // 2 - side for length in whole.shape[-2:])
    return judge.reduced(whole[..., max(top, 0) :, left:][..., : 2 * side, : 2 * side], 2)


def levels(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_a_screen_keeps_every_tone_and_has_its_period():
    colour = torch.tensor([0.7, 0.45, 0.3]).view(1, 3, 1, 1)
    tones = torch.cat([share * colour.expand(1, 3, 240, 240) for share in (0.2, 0.6, 1.0, 1.4)])
    printed = wear.screened(tones, levels(5.3, 6.1, 7.4, 8.2), levels(0, 10, 30, 80), levels(0.5, 0, 1, 0.7))
    assert torch.allclose(printed.mean((2, 3)), tones.mean((2, 3)), atol=0.006)
    assert printed.std((2, 3)).min() > 0.05
    for index, period in enumerate((5.3, 6.1, 7.4, 8.2)):
        spectrum = torch.fft.rfft2(printed[index].mean(0) - printed[index].mean()).abs()
        down, across = divmod(int(spectrum.argmax()), spectrum.shape[1])
        assert 240 / np.hypot(min(down, 240 - down), across) == pytest.approx(period, rel=0.1)
    paper, ink = wear.screened(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32), *[levels(5, 5)] * 3)
    assert torch.equal(paper, torch.ones(3, 32, 32)) and torch.equal(ink, torch.zeros(3, 32, 32))


@pytest.mark.parametrize("quality", [20, 50, 85])
def test_jpeg_is_that_of_a_file(quality):
    x = detail()
    found, expected = wear.jpeg(x, torch.tensor([float(quality)])), judge.compressed(x, quality)
    apart = judge.psnr(255 * found, 255 * expected)
    assert apart > 40 and apart > judge.psnr(255 * x, 255 * expected) + 4
    both = wear.jpeg(torch.cat([x, x]), torch.tensor([10.0, float(quality)]))
    assert torch.equal(both[1:], found) and not torch.equal(both[:1], found)


def test_wear():
    x = torch.cat([detail("coffee", 64), detail("astronaut", 64)]).repeat(3, 1, 1, 1)

    def drawn_with(seed=0, **settings):
        return wear.worn(x, 2, wear.Wear(**settings), torch.Generator().manual_seed(seed))

    small, wanted = drawn_with()
    assert small.shape == (6, 3, 24, 24) and wanted.shape == (6, 3, 48, 48)
    assert 0 <= small.min() and small.max() <= 1 and torch.equal((small * 255).round() / 255, small)
    assert all(map(torch.equal, drawn_with(), (small, wanted)))
    assert not torch.equal(drawn_with(1)[0], small)

    nothing = dict.fromkeys(("blurred", "noisy", "compressed", "printed", "yellowed", "grey", "clean"), 0.0)
    small, wanted = drawn_with(**nothing)
    assert (small - judge.reduced(wanted, 2))[..., 2:-2, 2:-2].abs().max() < 1.5 / 255
    same = drawn_with(**nothing | {"clean": 1.0, "noisy": 1.0, "yellowed": 1.0, "printed": 1.0})
    assert all(map(torch.equal, same, (small, wanted)))
    for what, options in {
        "blurred": {"blur": (1.3, 1.3)},
        "noisy": {"noise": (10, 10)},
        "compressed": {"jpeg": (20, 20)},
        "printed": {},
    }.items():
        changed, target = drawn_with(**nothing | {what: 1.0} | options)
        assert torch.equal(target, wanted), what
        assert ((changed - small).abs().mean((1, 2, 3)) > 0.01).all(), what


def test_yellowed_paper_and_missing_colour_are_not_to_be_undone():
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).mul(0.5).add(0.5)
    nothing = dict.fromkeys(("blurred", "noisy", "compressed", "printed", "yellowed", "grey", "clean"), 0.0)
    small, wanted = wear.worn(x, 2, wear.Wear(**nothing | {"yellowed": 1.0}), torch.Generator().manual_seed(0))
    assert torch.allclose(small.mean((2, 3)), wanted.mean((2, 3)), atol=0.01)
    assert (wanted[:, 2].mean((1, 2)) < wanted[:, 0].mean((1, 2))).all()
    small, wanted = wear.worn(x, 2, wear.Wear(**nothing | {"grey": 1.0}), torch.Generator().manual_seed(0))
    assert torch.equal(wanted[:, :1].expand(-1, 3, -1, -1), wanted) and (small.std(1).max() < 2 / 255)


def test_wear_that_cannot_be():
    for wrong, message in (
        ({"period": (1.5, 3)}, r"period=\(1\.5, 3\) must be a range within 2 to 16"),
        ({"noise": (3, 2)}, r"noise=\(3, 2\) must be a range"),
        ({"printed": 1.2}, "printed=1.2 must be at least 0 and at most 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            wear.Wear(**wrong)
    with pytest.raises(ConfigError, match="crop=48 must be 8 less than a multiple of 16 where pictures are worn"):
        SuperResolutionSettings(wear=wear.Wear(), crop=48)


def test_worn_pictures_are_trained_on_and_measured(data):
    network = SuperResolutionConfig(scale=2, channels=12, convs=2, base="bicubic")
    noisy = wear.Wear(noisy=1, blurred=0, compressed=0, printed=0, grey=0, clean=0, noise=(30, 40))
    training = recipe(data, network=network, wear=noisy, crop=24)
    assert training.side == 64

    def loss():
        with torch.no_grad():
            return float(training.losses(torch.Generator().manual_seed(5))["log charbonnier"])

    before = loss()
    list(fit(training, TrainingConfig(steps=60, rate=5e-3, warmup=5)))
    assert loss() < before - 0.05
    assert {f"gain (photos, {name})" for name in judge.WORN} <= set(training.evaluate())


def test_a_training_starts_from_a_network_with_fewer_layers(data):
    def started(**network):
        config = SuperResolutionConfig(**{"scale": 2, "channels": 32, "convs": 8, "base": "bicubic"} | network)
        return recipe(data, network=config, start="super-resolution-x2").network

    deep, x = started(), picture(24, 20)
    known = SuperResolution.from_pretrained("super-resolution-x2", device="cpu").network
    assert len(deep.layers) == len(known.layers) + 2
    assert torch.allclose(deep(x), known(x), atol=1e-5) and not torch.allclose(deep(x), judge.bicubic(x, 2), atol=0.01)
    assert all(value.requires_grad for value in deep.parameters())
    for wrong, message in (
        ({"convs": 3}, "at most as many layers"),
        ({"channels": 12}, "of the same width"),
        ({"base": "nearest"}, "of the same scale and base"),
    ):
        with pytest.raises(ConfigError, match=message):
            started(**wrong)


def test_each_kind_of_wear_does_its_work():
    x = detail(side=120)
    clean = judge.reduced(x, 2)
    for name, make in judge.WORN.items():
        found = make(x, 2)
        assert found.shape == clean.shape and 0 <= found.min() and found.max() <= 1, name
        assert torch.allclose(found.mean((2, 3)), clean.mean((2, 3)), atol=0.03), name
        assert judge.psnr(255 * found, 255 * clean) < 33, name


# --- condition


@pytest.mark.parametrize("name", ["coffee", "astronaut", "chelsea"])
def test_a_clean_picture_has_no_faults(name):
    whole = images.load(getattr(skimage.data, name)()).tensor()
    found = examine(judge.reduced(whole, 2))
    assert found.faults == () and checkpoint_for(found) == "super-resolution-x2"
    assert checkpoint_for(found, 4) == "super-resolution-x4"


@pytest.mark.parametrize(
    ("kind", "words"),
    {
        "blur": "edges blurred by",
        "noise": "noise of",
        "JPEG 40": "strong blocks of JPEG",
        "print": "print dots 3.8 pixels apart",
        "print and JPEG": "print dots 4.5 pixels apart",
        "blur, noise and JPEG": "strong blocks of JPEG",
    }.items(),
)
def test_each_fault_is_seen_and_named(kind, words):
    found = examine(judge.WORN[kind](images.load(skimage.data.astronaut()).tensor(), 2))
    assert found.faults[0].startswith(words), found


def test_what_was_measured_is_what_was_done():
    whole = judge.reduced(images.load(skimage.data.astronaut()).tensor(), 2)
    grain = torch.randn(1, 1, *whole.shape[-2:], generator=torch.Generator().manual_seed(0))
    flat = torch.full_like(whole, 0.5)
    for level in (3, 8, 15):
        # A little low: it is the least of many squares.
        for under, apart in ((flat, 0.15), (0.2 + 0.6 * whole, 0.2)):
            assert examine((under + grain * level / 255).clamp(0, 1)).noise == pytest.approx(level, rel=apart)
    steps = (torch.arange(256) // 32 % 2).float().expand(1, 3, 256, 256)
    for deviation in (1.0, 1.5, 2.0):
        soft = torch.from_numpy(scipy.ndimage.gaussian_filter(steps.numpy(), (0, 0, deviation, deviation)))
        assert examine(soft).blur == pytest.approx(deviation, rel=0.15)
    shifted = judge.compressed(whole, 30)[..., 3:, 5:]  # wherever the grid begins
    assert examine(shifted).blocks > 0.45 > 0.1 > examine(whole).blocks


def test_a_weave_and_ruled_lines_are_no_print_screen():
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    canvas = 0.5 + 0.1 * (2 * np.pi * x / 4).cos() + 0.1 * (2 * np.pi * y / 4).cos()
    hatching = 0.5 + 0.2 * (2 * np.pi * (x + y) / 5).cos()
    grain = 0.02 * torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    for picture_of in (canvas, hatching):
        found = examine((picture_of + grain).expand(1, 3, 256, 256))
        assert found.screen < 12, found


def test_small_and_even_pictures_are_judged_clean():
    for size in ((1, 1), (63, 500), (64, 64), (300, 70)):
        found = examine(torch.full((1, 3, *size), 0.5))
        assert found.faults == () and found.paper == pytest.approx((0.5, 0.5, 0.5), abs=1e-4) and not found.yellowed
    tiny = examine(picture(40, 40))
    assert (tiny.noise, tiny.blur, tiny.blocks, tiny.screen) == (0, 0, 0, 0)
    with pytest.raises(ImageError, match="there is no file"):
        examine("nowhere.png")


def test_a_worn_picture_takes_the_checkpoint_for_it_where_there_is_one():
    worn = examine(judge.WORN["noise"](images.load(skimage.data.astronaut()).tensor(), 2))
    assert checkpoint_for(worn) == "super-resolution-x2-worn" and checkpoint_for(worn, 4) == "super-resolution-x4"
    assert checkpoint_for(dataclasses.replace(worn, noise=0.0)) == "super-resolution-x2"
    blocks = dataclasses.replace(worn, noise=0.0, blocks=0.6)
    assert blocks.faults == ("blocks of JPEG",) and checkpoint_for(blocks) == "super-resolution-x2"
    blocks = dataclasses.replace(blocks, blocks=0.9)
    assert blocks.faults == ("strong blocks of JPEG",) and checkpoint_for(blocks) == "super-resolution-x2-worn"


def test_yellow_paper_is_kept_unless_it_is_to_be_neutral():
    page = torch.full((1, 3, 80, 80), 0.9)
    page[..., 20:40, 20:60] = 0.1
    old = page * torch.tensor([0.97, 0.88, 0.66]).view(1, 3, 1, 1)
    assert examine(old).yellowed and not examine(page).yellowed
    upscale = SuperResolution(SLIM, device="cpu")  # untrained: bicubic
    kept, half, whole = (upscale(old, neutral=share) for share in (0, 0.5, 1))
    assert not any("paper" in note for note in kept.notes)
    assert torch.allclose(kept.tensor[0, :, 5, 5], old[0, :, 2, 2], atol=1e-3)
    spread = [float(result.tensor[0, :, 5, 5].diff().abs().max()) for result in (kept, half, whole)]
    assert spread[2] < 0.002 < 0.4 * spread[0] < spread[1] < 0.6 * spread[0]
    assert whole.tensor[0, :, 60, 80].max() < 0.13
    assert "was taken for paper" in whole.notes[-1] and whole.settings["neutral"] == 1
    same = upscale(page, neutral=1)
    assert same.notes[-1] == "No yellow paper was found: the colours are as they were."
    assert torch.equal(same.tensor, upscale(page).tensor)
    for wrong in (-0.1, 1.1, float("nan"), "half"):
        with pytest.raises(ConfigError, match="neutral=.* must be at least 0 and at most 1"):
            upscale(page, neutral=wrong)


def test_the_network_for_worn_scans_takes_grain_off():
    whole = images.load(skimage.data.astronaut()).tensor()
    small = judge.WORN["noise"](whole, 2)
    wanted = judge.luma(whole)
    plain, worn = (
        judge.psnr(judge.luma(SuperResolution.from_pretrained(name, device="cpu")(small).tensor), wanted)
        for name in ("super-resolution-x2", "super-resolution-x2-worn")
    )
    assert worn > plain + 1  # dB
