"""Two networks on one collection: what is compared, what the page says, and that nothing of a file name runs in it."""

import re
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from artmodels.errors import ConfigError, DatasetError
from artmodels.features import build
from artmodels.methods.interpret.activations import Reading, top_activations
from artmodels.methods.interpret.comparison import compare, usual_taps
from artmodels.methods.interpret.report import (
    InterpretationReport,
    ReportConfig,
    changed_channels,
    main,
    network_of,
    stream_report,
)
from artmodels.methods.interpret.taps import HookedNetwork
from artmodels.progress import result_of

READING = Reading(side=64, batch=4)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("collection")
    draw = torch.Generator().manual_seed(0)
    for kind, smooth in (("smooth", 4), ("rough <b>", 64)):
        (root / kind).mkdir()
        for number in range(5):
            pixels = torch.rand(1, 3, smooth, smooth, generator=draw)
            pixels = torch.nn.functional.interpolate(pixels, (64, 64), mode="bilinear")[0]
            image = Image.fromarray((pixels * 255).to(torch.uint8).permute(1, 2, 0).numpy())
            image.save(root / kind / f"{number}.png")
    (root / "smooth" / "broken.png").write_bytes(b"\x89PNG no picture")
    return root


def test_one_pass_gives_what_the_parts_give(collection: Path) -> None:
    before, after = build("art-resnet"), build("art-resnet", seed=1)
    found = compare(before, after, collection, count=4, reading=READING)
    alone = top_activations(after, collection, count=4, reading=READING)
    assert found.after.names == alone.names == found.before.names
    assert len(found.after.names) == 10 and list(found.after.skipped) == ["smooth/broken.png"]
    for tap, top in alone.layers.items():
        assert torch.equal(top.pictures, found.after.layers[tap].pictures)
    assert found.shared == usual_taps(before) == ("layer1", "layer2", "layer3")
    assert found.labels is not None and found.labels.classes == ("rough <b>", "smooth")
    entropies = found.entropies()
    assert entropies[1]["layer3"].shape == (256,) and float(entropies[1]["layer3"].nan_to_num().max()) <= 1
    assert float(found.impurities()[0]["layer1"].nan_to_num().max()) <= 0.5
    assert {tap: tuple(o.shared.shape) for tap, o in found.overlaps().items()}["layer2"] == (128,)
    assert set(found.cka) == {"biased", "debiased", "minibatch"}
    assert found.cka["biased"].shape == (3, 3) and len(found.weights) == 18


def test_a_network_is_itself(collection: Path) -> None:
    network = build("art-resnet")
    found = compare(network, network, collection, taps=["layer1", "layer3"], count=3, reading=READING)
    assert found.cka["debiased"].diagonal().tolist() == pytest.approx([1, 1])
    for shared in found.overlaps().values():
        assert torch.equal(shared.of_smaller, (shared.smaller > 0).float())
    assert {weight.frobenius for weight in found.weights} == {0.0}


def test_different_architectures_have_cka_alone(collection: Path) -> None:
    toy = HookedNetwork(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), {"relu": "1"})
    found = compare(build("art-resnet"), toy, collection, reading=READING)
    assert found.cka["debiased"].shape == (3, 1)
    assert found.shared == () and found.weights == () and found.overlaps() == {}


def test_of_a_collection_without_classes_there_is_no_entropy(collection: Path) -> None:
    network = build("art-resnet")
    found = compare(network, network, collection / "smooth", count=2, reading=READING)
    with pytest.raises(ConfigError, match="put those of a class in a folder"):
        found.entropies()
    labels = {name: "odd" if int(name[0]) % 2 else "even" for name in found.before.names}
    given = compare(network, network, collection / "smooth", count=2, reading=READING, labels=labels)
    assert given.labels is not None and given.labels.classes == ("even", "odd")
    files = sorted((collection / "smooth").glob("[0-2].png"))
    with pytest.raises(DatasetError, match="CKA needs four pictures, and 3"):
        compare(network, network, files, reading=READING)
    with pytest.raises(ConfigError, match="has none of the taps 'relu1_1'"):
        compare(network, network, collection, taps=["relu1_1"], reading=READING)


def test_the_page_shows_it_all_and_runs_nothing(collection: Path, tmp_path: Path) -> None:
    before, after = build("art-resnet"), build("art-resnet", seed=1)
    config = ReportConfig(channels=2, shown=3, steps=2, size=48)
    *steps, report = stream_report(
        before, after, collection, names=("old <i>", "new"), config=config, count=4, reading=READING
    )
    assert isinstance(report, InterpretationReport)
    assert [step.total for step in steps[-8:]] == [8] * 8 and steps[-1].done == 8
    html = report.html
    assert "<script" not in html and "<b>" not in html and "<i>" not in html
    assert "rough &lt;b&gt;/" in html and "old &lt;i&gt;" in html
    assert "default-src 'none'" in html and not re.search(r"(?:src|href)=\"(?!data:)", html)
    assert html.count("data:image/webp;base64,") == 2 * 2 * (1 + 3)
    assert "broken.png" in html and "1 files could not be read" in html
    for number, (tap, channel) in enumerate(changed_channels(report.comparison, 2)):
        assert f"Channel {tap}:{channel}" in html, number
    assert f"{float(report.comparison.cka['debiased'][2, 2]):.2f}" in html
    assert html.count('class="mean"') == 3 * 2 + 3
    file = tmp_path / "report.html"
    report.save(file)
    assert file.stat().st_size < 200_000


def test_channels_that_changed_least_and_most() -> None:
    from artmodels.methods.interpret.activations import TopActivations, TopPictures
    from artmodels.methods.interpret.comparison import Comparison

    def tops(rows: list[list[int]]) -> TopActivations:
        pictures = torch.tensor(rows)
        top = TopPictures(
            values=(pictures >= 0).float(),
            pictures=pictures,
            places=torch.zeros(*pictures.shape, 2),
            positive=(pictures >= 0).sum(1),
        )
        return TopActivations(layers={"a": top}, names=tuple("abcdefgh"))

    found = Comparison(
        before=tops([[0, 1], [0, 1], [2, 3], [0, -1]]),
        after=tops([[4, 5], [1, 0], [2, 6], [1, -1]]),
        cka={},
        labels=None,
        weights=(),
    )
    assert changed_channels(found, 5) == [("a", 0), ("a", 1)]
    assert changed_channels(found, 1) == [("a", 0)]


def run(*words: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, words)
    return done.exit_code, done.output


def test_the_command(collection: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.html"
    words = (str(collection), "--before", "art-resnet", "--after", "artminer-paintings", "-o", str(file))
    code, said = run(*words, "--side", "64", "--steps", "0", "--count", "3", "--channel", "layer2:7")
    assert code == 0, said
    assert "10 pictures" in said and "smooth/broken.png was left out" in said
    assert "Channel layer2:7" in file.read_text(encoding="utf-8")
    assert network_of("artminer-paintings").taps == ("layer1", "layer2", "layer3")
    code, said = run(*words[:-1], str(tmp_path / "none" / "out.html"))
    assert code == 2 and "is no .html file in a folder that exists" in " ".join(said.split()).replace("│ ", "")
    code, said = run(*words, "--channel", "layer2")
    assert code == 2 and "TAP:NUMBER" in said
    code, said = run(str(collection), "--before", "art-resnett", "--after", "art-resnet", "-o", str(file))
    assert code == 1 and "Did you mean 'art-resnet'" in said


def test_wrong_channels_and_models_are_refused(collection: Path) -> None:
    network = build("art-resnet")
    stream = stream_report(network, network, collection, channels=[("layer1", 99)], reading=READING)
    with pytest.raises(ConfigError, match="no channel layer1:99 in both networks"):
        result_of(stream)
    with pytest.raises(ConfigError, match="which has no network with taps"):
        network_of("x2")
    with pytest.raises(ConfigError, match="must be at least 0 and at most 12"):
        ReportConfig(channels=40)
