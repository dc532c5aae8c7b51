"""The package as its users meet it: names, import cost, `load`, runtime choices, and the wheel."""

import json
import logging
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import artmodels
from artmodels import errors, runtime
from artmodels.errors import ConfigError, DeviceError, MissingWeights
from artmodels.hub import catalogue
from artmodels.runtime import devices

ROOT = Path(__file__).parent.parent


def modules_after(statement: str) -> list[str]:
    lines = [
        "import json, sys",
        "old = set(sys.modules)",
        statement,
        "print(json.dumps([*set(sys.modules) - old]))",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return json.loads(done.stdout)


HEAVY = {
    "PIL",
    "gradio",
    "huggingface_hub",
    "numpy",
    "rich",
    "scipy",
    "skimage",
    "torch",
    "torchvision",
    "typer",
}


def test_import_is_light() -> None:
    """The promise is 0.3 s; a count says the same on every machine."""
    loaded = modules_after("import artmodels")
    assert "artmodels" in loaded
    assert HEAVY.isdisjoint(name.split(".")[0] for name in loaded)
    assert len(loaded) <= 45, loaded


def test_a_notebook_without_ipywidgets_is_told_of_no_fault() -> None:
    notebook = "import sys, types\nsys.modules |= {'ipykernel.zmqshell': types.ModuleType('z'), 'ipywidgets': None}\n"
    shell = "sys.modules['IPython'] = types.SimpleNamespace(get_ipython=object)\n"
    code = f"{notebook}{shell}import artmodels\nfrom tqdm.auto import tqdm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""


def test_listing_the_catalogue_is_light() -> None:
    loaded = modules_after("import artmodels\nartmodels.list_models()")
    assert "artmodels.hub.catalogue" in loaded
    assert HEAVY.isdisjoint(name.split(".")[0] for name in loaded)


def test_the_command_line_starts_without_torch() -> None:
    for words in ([], ["--help"], ["list"], ["run", "--help"]):
        run = "import contextlib, io\nwith contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): "
        loaded = modules_after(
            f"import sys\nsys.argv = ['artmodels', *{words}]\n{run}import artmodels.cli as c; c.main()"
        )
        assert "artmodels.cli.commands" in loaded
        assert (HEAVY - {"rich", "typer"}).isdisjoint(name.split(".")[0] for name in loaded), words


def test_exported_names() -> None:
    """Each method brings its class, and nothing else is added unnoticed."""
    classes = {method.class_name for method in catalogue.read()} - {""}
    assert set(artmodels.__all__) == classes | {
        "ArtModelsError",
        "ConfigError",
        "DatasetError",
        "DeadlineExceeded",
        "DeviceError",
        "HashMismatch",
        "ImageError",
        "ImageTooLarge",
        "MIMax",
        "MissingWeights",
        "UndecodableImage",
        "UnsafeFormat",
        "WeightsError",
        "WeightsMismatch",
        "__version__",
        "list_models",
        "load",
    }
    assert artmodels.__all__ == sorted(artmodels.__all__)
    assert set(artmodels.__all__) <= set(dir(artmodels))
    assert set(errors.__all__) <= set(artmodels.__all__)


@pytest.mark.parametrize("name", artmodels.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    assert getattr(artmodels, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No artmodels attribute FastStile"):
        artmodels.FastStile  # noqa: B018 - the access is the test


def test_every_method_of_the_catalogue_has_a_loader() -> None:
    for method in catalogue.read():
        assert method.models, method.id
        assert method.id == "features" or getattr(artmodels, method.class_name).method == method.id


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("texture-patches", "TextureSynthesizer"),
        ("style-random-filters", "NeuralStyle"),
        ("random-filters", "FeatureExtractor"),
    ],
)
def test_load_finds_the_class(name: str, kind: str) -> None:
    assert type(artmodels.load(name, device="cpu")).__name__ == kind


def test_load_names_near_misses() -> None:
    with pytest.raises(MissingWeights, match="'texture-patches'"):
        artmodels.load("texture-patch")


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert version("artmodels") == artmodels.__version__


# --- runtime


def test_device_by_default_is_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert runtime.pick_device() == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.pick_device() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.pick_device() == torch.device("cuda")
    assert runtime.pick_device("cuda:1") == torch.device("cuda:1")
    assert runtime.pick_device("cpu") == torch.device("cpu")
    assert runtime.pick_device("mps:0") == torch.device("mps:0")


@pytest.mark.parametrize("device", ["cuda", "cuda:2", "mps", "meta", "tpu", "cuda:-1"])
def test_a_device_that_is_not_there_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match=f"device '{device}' is not on this machine; it has cpu"):
        runtime.pick_device(device)


def test_dtype(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    cpu = torch.device("cpu")
    assert runtime.pick_dtype(cpu) is torch.float32
    assert runtime.pick_dtype(cpu, "float64") is torch.float64
    with pytest.raises(ConfigError, match="'float33' is not one of"):
        runtime.pick_dtype(cpu, "float33")
    with pytest.raises(ConfigError, match=r"torch\.int32 is not one of"):
        runtime.pick_dtype(cpu, torch.int32)
    with pytest.raises(DeviceError, match="mps cannot compute in float64"):
        runtime.pick_dtype(torch.device("mps"), torch.float64)
    for fast, messages in ((True, 0), (False, 1)):
        monkeypatch.setattr(devices, "bf16_is_fast", lambda answer=fast: answer)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="artmodels.runtime.devices"):
            assert runtime.pick_dtype(cpu, "bfloat16") is torch.bfloat16
        assert len(caplog.records) == messages


def test_bf16_is_what_the_processor_says() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        pytest.skip("only Linux lists the processor's instructions")
    words = set(flags.read_text(encoding="utf-8").split())
    assert runtime.bf16_is_fast() == bool(words & {"avx512_bf16", "amx_bf16", "amx_tile"})


def test_generators_are_independent_and_repeatable() -> None:
    first = torch.rand(3, generator=runtime.generator(7))
    torch.rand(5)
    assert torch.equal(first, torch.rand(3, generator=runtime.generator(7)))
    assert not torch.equal(first, torch.rand(3, generator=runtime.generator(8)))


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "1", True])
def test_a_bad_seed_is_refused(seed: object) -> None:
    with pytest.raises(ConfigError, match="is not an integer from 0"):
        runtime.generator(seed)


def test_versions() -> None:
    versions = runtime.versions()
    assert list(versions) == ["artmodels", "python", "torch", "gradio", "device", "provider"]
    assert versions["artmodels"] == artmodels.__version__
    assert versions["torch"] == torch.__version__
    assert all(isinstance(value, str) and value for value in versions.values())


def test_the_runner_runs_in_evaluation_mode_without_gradients() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Dropout(0.5)).train()
    image = torch.rand(1, 3, 4, 5)
    output = runtime.TorchRunner(network, device="cpu")(image)
    assert torch.equal(output, network[0](image))
    assert not output.requires_grad


# --- the wheel


def test_the_wheel_carries_the_spaces_and_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hatchling.build import build_editable, build_wheel

    monkeypatch.chdir(ROOT)
    names = set(zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path))).namelist())
    assert {"artmodels/__init__.py", "artmodels/py.typed", "artmodels/_spaces/gallery/app.py"} <= names
    for model in ROOT.glob("weights/*/model.safetensors"):
        assert f"artmodels/_weights/{model.parent.name}/model.safetensors" in names
    assert {catalogue.manifest(method.id).relative_to(ROOT).as_posix() for method in catalogue.read()} <= names
    outside = {name for name in names if not name.startswith(("artmodels/", "artmodels-"))}
    assert not outside
    # An editable install must read the checkout's own spaces and weights, not copies of some earlier day.
    (tmp_path / "editable").mkdir()
    editable = zipfile.ZipFile(tmp_path / "editable" / build_editable(str(tmp_path / "editable")))
    assert not [name for name in editable.namelist() if name.startswith("artmodels/")]
