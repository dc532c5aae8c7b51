"""Weights and configurations that no method may load, through the public classes and without work beyond bounds."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import artmodels
from artmodels import features, hub
from artmodels.errors import ArtModelsError, ConfigError, WeightsError, WeightsMismatch
from artmodels.hub.outline import SMALL, Outline

WEIGHTS = Path(__file__).parents[2] / "weights"
HUGE = 10**7


def loader(name: str) -> Callable[..., Any]:
    return lambda folder, **options: getattr(artmodels, name).from_pretrained(folder, device="cpu", **options)


# Each class that reads weights, on a checkpoint of ours.
READERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "ArbitraryStyle": ("arbitrary-style", loader("ArbitraryStyle")),
    "ArtMiner": ("artminer-paintings", loader("ArtMiner")),
    "Detector": ("mimax-seascapes", loader("Detector")),
    "FastStyle": ("fast-style-woodcut", loader("FastStyle")),
    "MIMax": ("mimax-seascapes", loader("MIMax")),
    "RansacFlow": ("ransac-flow", loader("RansacFlow")),
    "RegionFeatures": ("art-regions", loader("RegionFeatures")),
    "SuperResolution": ("super-resolution-x2", loader("SuperResolution")),
    "TextureNetwork": ("texture-network-wood", loader("TextureNetwork")),
    "features, VGG": ("art-vgg", features.load),
    "features, ResNet": ("art-resnet", features.load),
}
NETWORKS = ("ArbitraryStyle", "FastStyle", "RansacFlow", "RegionFeatures", "SuperResolution", "TextureNetwork")


class Allocations(TorchDispatchMode):
    """Notes the largest tensor that has memory."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            if isinstance(each, Tensor) and not each.is_meta:
                self.largest = max(self.largest, each.numel())
        return found


def copied(reader: str, folder: Path) -> tuple[Path, Callable[..., Any]]:
    name, load = READERS[reader]
    return Path(shutil.copytree(WEIGHTS / name, folder / "copy")), load


def changed(folder: Path, change: Callable[[Tensor], Tensor]) -> str:
    """Change one tensor of the file, the first weight by name."""
    tensors = load_file(folder / "model.safetensors")
    key = next(key for key in sorted(tensors) if key.endswith(("weight", "weights")))
    tensors[key] = change(tensors[key])
    save_file(tensors, folder / "model.safetensors")
    return key


def put(value: float, kind: torch.dtype) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        flat = tensor.to(kind).flatten().clone()
        flat[-1] = value
        return flat.view_as(tensor)

    return change


BAD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "int8": (lambda t: t.to(torch.int8), "is I8"),
    "int64": (lambda t: t.to(torch.int64), "is I64"),
    "bool": (lambda t: t > 0, "is BOOL"),
    "complex64": (lambda t: t.to(torch.complex64), "is C64"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "is F8_E4M3"),
    "nan": (put(float("nan"), torch.float32), "holds values that are not finite"),
    "inf": (put(float("inf"), torch.float16), "holds values that are not finite"),
    "huge": (put(1e300, torch.float64), r"has values up to 1e\+300, too large for float32"),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_class_loads_what_cannot_be_computed_with(tmp_path: Path, reader: str) -> None:
    folder, load = copied(reader, tmp_path)
    for change, message in BAD.values():
        shutil.copy(WEIGHTS / READERS[reader][0] / "model.safetensors", folder)
        key = changed(folder, change)
        with pytest.raises(WeightsMismatch, match=message) as caught:
            load(folder)
        assert str(folder / "model.safetensors") in str(caught.value) and key in str(caught.value)
        assert "load another checkpoint" in str(caught.value)


def test_values_must_fit_what_is_computed_in(tmp_path: Path) -> None:
    folder, load = copied("FastStyle", tmp_path)
    key = changed(folder, put(70000.0, torch.float32))
    with pytest.raises(WeightsMismatch, match=f"{key} has values up to 70000, too large for float16"):
        load(folder, dtype=torch.float16)
    load(folder, dtype=torch.float32)
    folder, load = copied("features, VGG", tmp_path / "other")
    changed(folder, put(70000.0, torch.float32))
    with pytest.raises(WeightsMismatch, match="has values up to 70000, too large for float16"):
        load(folder, dtype=torch.float16)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_type_loads_and_counters_are_integers(tmp_path: Path, kind: torch.dtype) -> None:
    folder, load = copied("TextureNetwork", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    for count in (torch.float16, torch.int32, torch.int64):
        save_file(
            {key: value.to(count if key.endswith("num_batches_tracked") else kind) for key, value in tensors.items()},
            folder / "model.safetensors",
        )
        state = load(folder).network.state_dict()
        assert all(torch.equal(state[key], tensors[key].to(kind).to(state[key].dtype)) for key in tensors)
        counters = [key for key in state if key.endswith("num_batches_tracked")]
        assert counters and all(key in tensors for key in counters)
    saved = load(folder).save_pretrained(tmp_path / "saved")
    assert load_file(saved / "model.safetensors")[counters[0]].dtype in (torch.float32, torch.int64)


def test_a_negative_variance_is_refused(tmp_path: Path) -> None:
    folder, load = copied("TextureNetwork", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    key = next(key for key in sorted(tensors) if key.endswith("running_var"))
    tensors[key] = put(-1.0, torch.float32)(tensors[key])
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=f"{key} holds a negative variance, -1"):
        load(folder)


def test_what_would_not_load_is_not_saved(tmp_path: Path) -> None:
    model = artmodels.FastStyle.from_pretrained("fast-style-woodcut", device="cpu")
    model.network.last.bias.data[0] = 1e6  # saved in float16
    with pytest.raises(WeightsError, match=r"FastStyle is not saved.*last\.bias holds values that are not finite"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# --- Configurations


def reconfigured(folder: Path, **settings: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | settings), encoding="utf-8")


WIDE: dict[str, dict[str, object]] = {
    "ArbitraryStyle": {"widths": [HUGE] * 3},
    "FastStyle": {"widths": [HUGE] * 3},
    "RansacFlow": {"heads": [HUGE] * 3},
    "RegionFeatures": {"width": HUGE},
    "SuperResolution": {"channels": HUGE},
    "TextureNetwork": {"widths": [HUGE] * 6},
    "ArtMiner": {"dims": HUGE},
}
DEEP: dict[str, dict[str, object]] = {
    "ArbitraryStyle": {"blocks": 10**9},
    "FastStyle": {"blocks": 10**9},
    "RansacFlow": {"window": 10**9 + 1},
    "SuperResolution": {"convs": 10**9},
    "RegionFeatures": {"before": 10**9},
    "ArtMiner": {"scales": [10**9], "reference": 10**9},
}


@pytest.mark.parametrize("reader", sorted(WIDE))
def test_huge_widths_take_no_memory(tmp_path: Path, reader: str) -> None:
    folder, load = copied(reader, tmp_path)
    reconfigured(folder, **WIDE[reader])
    with Allocations() as made, pytest.raises(ConfigError, match="must be .*at most 16384") as caught:
        load(folder)
    assert str(folder / "config.json") in str(caught.value) and made.largest < 10**5
    # As wide as may be asked for: the file is of another network.
    allowed = json.loads(json.dumps(WIDE[reader]).replace(str(HUGE), "16384"))
    reconfigured(folder, **allowed)
    with Allocations() as made, pytest.raises(WeightsMismatch, match="does not fit this architecture"):
        load(folder)
    assert made.largest < 5 * 10**6  # the backbone of those that have one
    (folder / "model.safetensors").unlink()
    with Allocations() as made, pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        load(folder)
    assert made.largest < 5 * 10**6


@pytest.mark.parametrize("reader", sorted(DEEP))
def test_huge_counts_are_refused_before_anything_is_made(tmp_path: Path, reader: str) -> None:
    folder, load = copied(reader, tmp_path)
    reconfigured(folder, **DEEP[reader])
    with Allocations() as made, pytest.raises(ConfigError, match=r"config\.json does not do: .* must be .*at most"):
        load(folder)
    assert made.largest < 10**5


@pytest.mark.parametrize("reader", NETWORKS)
def test_an_outline_is_the_network_without_its_weights(reader: str) -> None:
    name, load = READERS[reader]
    model = load(WEIGHTS / name)
    before = torch.random.get_rng_state()
    with Outline(), Allocations() as made:
        network = (
            artmodels.methods.region_features.pipeline.make_network(model.config, model.network.backbone).stored
            if (reader == "RegionFeatures")
            else type(model)._network(model.config)
        )
    assert torch.equal(before, torch.random.get_rng_state())
    wanted = (model.network.stored if reader == "RegionFeatures" else model.network).state_dict()
    found = network.state_dict()
    assert {key: (value.shape, value.dtype) for key, value in found.items()} == {
        key: (value.shape, value.dtype) for key, value in wanted.items()
    }
    assert all(value.is_meta for value in found.values() if value.numel() > SMALL) and made.largest <= SMALL


@pytest.mark.parametrize("value", [2**62, -1, 0, 1e308, "x" * 50_000, [], [[]], {}, {"a": {"b": []}}, None, True])
@pytest.mark.parametrize("reader", sorted({*NETWORKS, "ArtMiner", "MIMax"}))
def test_whatever_a_setting_is_there_is_a_config_or_a_config_error(reader: str, value: object) -> None:
    kind = getattr(artmodels, reader).config_class
    stored = hub.read_config(WEIGHTS / READERS[reader][0])
    stored = {key: item for key, item in stored.items() if key not in ("method", "artmodels_version")}
    for field in kind.__dataclass_fields__:
        try:
            hub.config_from(kind, stored | {field: value})
        except ArtModelsError as error:
            assert isinstance(error, ConfigError)
            if "x" * 100 not in repr(value):
                assert len(str(error)) < 2000


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"mean": "abc", "std": [1, 1, 1]}, "Preprocessing.mean must be"),
        ({"mean": [0, 0], "std": [1, 1, 1]}, "Preprocessing.mean must be"),
        ({"mean": [0, 0, 0], "std": [1, 0, 1]}, r"std=\(1.0, 0.0, 1.0\)"),
    ],
)
def test_the_preprocessing_that_a_file_states_is_checked(tmp_path: Path, stated: object, message: str) -> None:
    folder, load = copied("features, VGG", tmp_path)
    reconfigured(folder, pretrained_cfg=stated)
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_outlines_import_nothing_slow() -> None:
    """Arithmetic on the meta device would import sympy and some 900 modules more, longer than a gallery starts."""
    # Regions are found with torchvision, which imports it by itself.
    names = [READERS[reader][0] for reader in NETWORKS if reader != "RegionFeatures"]
    code = (
        "import sys, artmodels\n"
        f"for name in {names!r}:\n"
        "    artmodels.load(name, device='cpu')\n"
        "    assert 'sympy' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
