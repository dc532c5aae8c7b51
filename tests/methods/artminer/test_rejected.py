"""Verdicts "no" reach the tuning: from the file of the page to the weights."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence.cells import Pyramid
from artmodels.errors import ConfigError, DatasetError
from artmodels.methods.artminer.evidence.verdicts import Verdict, VerdictFile
from artmodels.methods.artminer.tuning.mining import MiningConfig, Pairs, PatchPlaces
from artmodels.methods.artminer.tuning.rejected import (
    WHOLE,
    Rejected,
    cells_inside,
    find_rejected,
    is_rejected,
    rejected_hinge,
)
from artmodels.methods.artminer.tuning.train import ArtMinerRecipe, ArtMinerSettings
from artmodels.methods.artminer.tuning.tune import tune
from artmodels.runtime.devices import generator
from artmodels.training import Sources, TrainingConfig, fit

WEIGHTS = Path(__file__).parents[3] / "weights"
MINING = MiningConfig(proposals=40, sides=(9,), margin=2, keep=4, draws=60, region=4, corners=6, pairs=12, least=3)
SETTINGS = ArtMinerSettings(
    dims=16,
    folders=(".",),
    side=144,
    scales=(9,),
    searched=10,
    mining=MINING,
    described=2,
    begin=1,
    every=100,
    batch=2,
    cells=6,
    anchors=8,
    styles=(),
    stylised=0.0,
    arbitrary=0.0,
)


def no(first: str, second: str, box: tuple[float, ...] | None = None) -> Verdict:
    return Verdict(first=first, second=second, verdict="no", box=box)


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator(seed)), dim=0)


# --- the parts


def test_pictures_are_found_by_name_and_boxes_become_shares(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, size in (("a.png", (40, 20)), ("deep/b.png", (20, 20)), ("d.png", (10, 10))):
        Image.new("RGB", size).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"torn")
    files = [tmp_path / name for name in ("a.png", "c.png", "d.png", "deep/b.png")]
    given = [
        no("a.png", "deep/b.png"),
        no("a.png", "d.png", (10, 5, 30, 20)),
        no("deep/b.png", "d.png"),
        Verdict(first="d.png", second="deep/b.png", verdict="similar"),
        no("a.png", "elsewhere.png"),
        Verdict(first="a.png", second="d.png", verdict="same"),
    ]
    # c.png has no number: it could not be read.
    assert find_rejected(given, tmp_path, files, read=3) == [Rejected(0, 2), Rejected(0, 1, (0.25, 0.25, 0.75, 1.0))]
    assert find_rejected(given[3:4], tmp_path, files, read=3) == []
    with pytest.raises(DatasetError, match=r"None of 1 verdicts “no” .* 'a.png' and 'elsewhere.png'.*path inside"):
        find_rejected(given[4:5], tmp_path, files, read=3)


def test_cells_inside_a_box() -> None:
    assert cells_inside(WHOLE, (2, 3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert cells_inside((0.4, 0.0, 1.0, 0.5), (2, 3)).tolist() == [1, 2]
    assert cells_inside((0.70, 0.70, 0.72, 0.71), (2, 3)).tolist() == [5], "a box between centres has the nearest cell"


def test_the_term_is_that_of_literal_loops() -> None:
    first, second = unit(6, 3, 4, seed=1), unit(6, 4, 5, seed=2)
    cells = torch.tensor([1, 4, 6, 11])
    flat, other = first.flatten(1).numpy(), second.flatten(1).numpy()
    wrong = sorted((np.mean(sorted((flat[:, cell] @ other).tolist())[-3:]) for cell in cells.tolist()), reverse=True)
    expected = np.mean([max(value - 0.3, 0) for value in wrong[:2]])
    found = rejected_hinge(first, second, cells, hardest=2, negatives=3, threshold=0.7)
    assert expected > 0 and float(found) == pytest.approx(expected, rel=1e-5)
    assert float(rejected_hinge(first, -first, torch.arange(12), hardest=99, negatives=99, threshold=0.7)) >= 0
    alike = unit(6, 1, 1, seed=3)
    assert float(rejected_hinge(alike, -alike, torch.tensor([0]), hardest=1, negatives=5, threshold=0.7)) == 0


def test_what_was_rejected_is_not_taken_for_a_positive() -> None:
    pyramids = [Pyramid((torch.zeros(1, 10, 5), torch.zeros(1, 4, 4)), 50, 100) for _ in range(3)]
    table = [
        # image, scale, row, column of both; votes. Pictures 0, 1, 2 are 7, 8, 9 among all.
        [0, 0, 0, 0, 1, 0, 0, 0, 9],  # 7 and 8
        [1, 1, 2, 2, 0, 1, 0, 0, 8],  # 8 and 7
        [0, 0, 7, 2, 2, 0, 3, 3, 7],  # 7 at (0.6, 0.8), and 9
        [2, 1, 0, 0, 0, 1, 0, 0, 6],  # 9, and 7 at (0.25, 0.25)
        [1, 0, 0, 0, 2, 0, 0, 0, 5],  # 8 and 9
    ]
    pairs, numbers = Pairs.of(torch.tensor(table)), torch.tensor([7, 8, 9])
    refused = [Rejected(8, 7), Rejected(7, 9, (0.5, 0.75, 0.7, 0.85))]
    assert is_rejected(pairs, numbers, pyramids, 2, refused).tolist() == [True, True, True, False, False]
    assert is_rejected(pairs, numbers, pyramids, 2, []).tolist() == [False] * 5
    assert isinstance(pairs.first, PatchPlaces)


# --- the tuning


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Soft shapes; of 00 and 01, 02 and 03, … each two share a piece."""
    root, rng = tmp_path_factory.mktemp("judged"), generator(7)
    before = torch.empty(0)
    for number in range(8):
        coarse = F.interpolate(torch.rand(1, 3, 20, 18, generator=rng), scale_factor=8, mode="bicubic")[0]
        if number % 2:
            coarse[:, 32:128, 24:120] = before[:, 24:120, 32:128]
        before = coarse.clamp(0, 1)
        Image.fromarray((before.permute(1, 2, 0) * 255).round().byte().numpy()).save(root / f"{number:02}.png")
    return root


def recipe(folder: Path, verdicts: list[Verdict], **more) -> ArtMinerRecipe:
    settings = dataclasses.replace(SETTINGS, **more)
    return ArtMinerRecipe(settings, Sources(folder, folder, WEIGHTS), seed=0, verdicts=verdicts)


def mined(made: ArtMinerRecipe) -> set[tuple[int, int]]:
    made._mine(generator(1))
    rows = made.network.mined
    return {tuple(sorted((int(row[0]), int(row[4])))) for row in rows[rows[:, 0] >= 0]}


def test_a_rejected_pair_is_mined_no_more(folder: Path) -> None:
    before = mined(recipe(folder, []))
    first, second = sorted(before)[0]
    after = mined(recipe(folder, [no(f"{second:02}.png", f"{first:02}.png")]))
    assert (first, second) not in after and after == before - {(first, second)}


def test_tuning_moves_what_was_rejected_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing else to learn from."""
    made = recipe(folder, [no("02.png", "03.png")], begin=99)
    monkeypatch.setattr(made, "_copy", lambda rng: (torch.zeros(()), torch.zeros(())))

    def deceptive() -> float:
        with torch.no_grad():
            maps = [made.describer(made._picture(number), 10, 9) for number in (2, 3)]
        return float(rejected_hinge(*maps, torch.arange(90), hardest=20, negatives=5, threshold=0.99))

    before = deceptive()
    steps = list(fit(made, TrainingConfig(steps=4, rate=3e-4, momentum=0.5, warmup=1)))
    assert set(steps[0].losses) == {"alike", "apart"} and steps[-1].losses["apart"] < steps[0].losses["apart"]
    assert deceptive() < 0.9 * before


def test_the_file_of_the_page_reaches_the_tuning(folder: Path, tmp_path: Path) -> None:
    file = VerdictFile(tmp_path / "verdicts.jsonl")
    file.add(Verdict(first="00.png", second="01.png", verdict="same"))
    options = {"steps": 1, "settings": SETTINGS, "device": "cpu"}
    tune(folder, tmp_path / "plain", **options)
    tune(folder, tmp_path / "same", verdicts=file.path, **options)
    file.add(no("02.png", "03.png", (24, 32, 120, 128)))
    tune(folder, tmp_path / "no", verdicts=file.path, **options)
    plain, same, refused = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "same", "no"))
    assert all(torch.equal(plain[key], same[key]) for key in plain), "only “no” is a negative"
    assert any(not torch.equal(plain[key], refused[key]) for key in plain)
    note = json.loads((tmp_path / ".no.tuning" / "tuning.json").read_text())
    assert note["rejected"] == [{"first": 2, "second": 3, "box": [24 / 144, 32 / 160, 120 / 144, 128 / 160]}]
    with pytest.raises(ConfigError, match="belongs to a tuning of other pictures, settings or verdicts"):
        tune(folder, tmp_path / "no", **options)
    with pytest.raises(DatasetError, match="no file of verdicts"):
        tune(folder, tmp_path / "none", verdicts=tmp_path / "none.jsonl", **options)


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "02.png")
    done = subprocess.run(
        [sys.executable, "-m", "artmodels.methods.artminer.tuning.tune", tmp_path, tmp_path / "out", "--steps", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "pictures to train on" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
