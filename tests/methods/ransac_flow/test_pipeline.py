"""Bring pictures onto each other: what comes out, what is refused, and the pictures and files that are made of it."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from artmodels import RansacFlow, images
from artmodels.correspondence import geometry
from artmodels.errors import ArtModelsError, ConfigError, ImageError
from artmodels.hub import catalogue
from artmodels.methods.ransac_flow import groups
from artmodels.methods.ransac_flow.results import evidence
from artmodels.methods.ransac_flow.results.alignment import Alignment, animated, save_data
from artmodels.methods.ransac_flow.training.synthetic import WarpConfig, Warper
from artmodels.progress import Progress

EXAMPLES = Path(__file__).parents[3] / "spaces" / "artminer" / "examples"
SMALL = {"side": 240, "hypotheses": 2000, "steps": 1}


@pytest.fixture(scope="module")
def aligner() -> RansacFlow:
    return RansacFlow.from_pretrained(device="cpu", **SMALL)


@pytest.fixture(scope="module")
def painting() -> Tensor:
    picture = images.load(EXAMPLES / "tapestry.jpg").tensor()
    return F.interpolate(picture, (300, 400), mode="bicubic", antialias=True).clamp(0, 1)


def moved(picture: Tensor, seed: int = 0, *, bend: float = 6.0, corners: float = 25.0) -> tuple[Tensor, Tensor]:
    """The picture read at a known grid, and the grid [1, H, W, 2]."""
    config = WarpConfig(bend=bend, ripple=0.0, corners=corners, covered=0.0)
    grid = Warper(config, *picture.shape[2:])(1, torch.Generator().manual_seed(seed))
    return F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False), grid


@pytest.fixture(scope="module")
def pair(aligner: RansacFlow, painting: Tensor) -> tuple[Alignment, Tensor]:
    target, grid = moved(painting)
    return aligner(painting, target), grid


def off(grid: Tensor, truth: Tensor) -> float:
    """Mean distance in pixels of what the source really shows."""
    seen = geometry.inside(truth)
    height, width = truth.shape[:2]
    return float(((grid - truth) * torch.tensor([width, height]) / 2).norm(dim=-1)[seen].mean())


# --- what comes out


def test_a_warped_picture_is_found_to_the_pixel(
    pair: tuple[Alignment, Tensor], aligner: RansacFlow, painting: Tensor
) -> None:
    alignment, truth = pair
    assert alignment.found and alignment.view == "" and alignment.reason == "" and alignment.score > 0.3
    assert off(alignment.grid(), truth[0]) < 2.0
    coarse = aligner(painting, moved(painting)[0], fine=False)
    assert off(alignment.grid(), truth[0]) < off(coarse.grid(), truth[0])


def test_parts_that_moved_apart_have_a_homography_each(aligner: RansacFlow, painting: Tensor) -> None:
    alignment = aligner(torch.cat([painting[..., 200:], painting[..., :200]], 3), painting)  # halves change places
    assert len(alignment.matrices) == 2
    here = geometry.identity(300, 400)
    truth = here + torch.where(here[..., :1] < 0, 1.0, -1.0) * torch.tensor([1.0, 0.0])
    errors = ((alignment.grid() - truth) * torch.tensor([200.0, 150.0])).norm(dim=2)
    assert all((part < 2).float().mean() > 0.9 for part in errors[20:280, 20:380].chunk(2, 1))


def test_what_the_source_has_once_is_not_found_twice(aligner: RansacFlow, painting: Tensor) -> None:
    twice = torch.cat([painting, painting], 3)
    alignment = aligner(painting, twice)
    assert alignment.found and len(alignment.matrices) == 1
    sides = alignment.matchability.chunk(2, 1)
    assert sorted(float((side > 0.5).float().mean()) > 0.8 for side in sides) == [False, True]


def served_twice(alignment: Alignment, cells: int = 48) -> float:
    """Share of the source's places, in so many cells a side, that matched places of the target far apart show."""
    height, width = alignment.matchability.shape
    grid = alignment.grid(height, width)
    matched = (alignment.matchability >= 0.5) & geometry.inside(grid)
    column, row = ((grid[matched] + 1) / 2 * cells).long().clamp(0, cells - 1).unbind(1)
    index = (row * cells + column)[:, None].expand(-1, 2)
    here = geometry.identity(height, width)[matched]
    first = torch.full((cells * cells, 2), 9.0).scatter_reduce(0, index, here, "amin")
    last = torch.full((cells * cells, 2), -9.0).scatter_reduce(0, index, here, "amax")
    return float(((last - first) > 0.25).any(1).sum() / (last[:, 0] >= first[:, 0]).sum())


@pytest.mark.parametrize(("certainty", "count"), [(45.0, 1), (15.0, 2)])
def test_a_place_of_the_source_serves_once(painting: Tensor, certainty: float, count: int) -> None:
    """Three times the left half, which alone cannot be found twice; the right half is there once."""
    aligner = RansacFlow.from_pretrained(device="cpu", certainty=certainty, **SMALL)
    left, right = painting[..., :150], painting[..., 250:]
    alignment = aligner(torch.cat([left, right], 3), torch.cat([left, left, right, left], 3))
    # The further transform has some 18 of 33 matches of its own, certainty 24.
    assert len(alignment.matrices) == count
    assert served_twice(alignment) <= 0.02
    assert float((alignment.matchability >= 0.5).float().mean()) > 0.25


def test_what_the_source_has_twice_serves_once_each(aligner: RansacFlow, painting: Tensor) -> None:
    left, right = painting[..., :150], painting[..., 250:]
    alignment = aligner(torch.cat([left, right, left], 3), torch.cat([left, right, left], 3))
    assert served_twice(alignment) <= 0.02
    assert float((alignment.matchability >= 0.5).float().mean()) > 0.9


def test_identical_pictures_give_the_identity(aligner: RansacFlow, painting: Tensor) -> None:
    alignment = aligner(painting, painting, fine=False)
    assert off(alignment.grid(), geometry.identity(300, 400)) < 0.1
    assert alignment.inliers == alignment.matches
    assert (alignment.tensor - painting).abs().mean() < 0.01


@pytest.mark.parametrize(("view", "change"), [("mirror", lambda x: x.flip(3)), ("90", lambda x: x.rot90(1, (2, 3)))])
def test_turned_pictures_are_recognised(
    aligner: RansacFlow, painting: Tensor, view: str, change: Callable[[Tensor], Tensor]
) -> None:
    alignment = aligner(painting, change(painting), fine=False)
    assert alignment.view == view
    assert (alignment.tensor - change(painting)).abs().mean() < 0.02


def test_unrelated_pictures_give_no_picture_that_pretends_an_alignment(
    aligner: RansacFlow, painting: Tensor, tmp_path: Path
) -> None:
    noise = torch.rand(1, 3, 300, 400, generator=torch.Generator().manual_seed(3))
    alignment = aligner(painting, noise)
    assert not alignment.found and alignment.reason and "No alignment was found" in alignment.notes[-1]
    assert alignment.tensor.shape == (1, 3, 300, 400) and alignment.tensor.mean() > 0.8  # the target, pale
    for use in (
        lambda: alignment.grid(),
        lambda: alignment.places(torch.zeros(1, 2)),
        lambda: evidence.overlay(alignment),
        lambda: save_data(alignment, tmp_path / "flow.npz"),
        lambda: animated(alignment, tmp_path / "flicker.gif"),
        lambda: evidence.transferred(alignment),
        lambda: evidence.changes(alignment),
    ):
        with pytest.raises(ConfigError, match="there is no alignment to use"):
            use()
    with pytest.raises(ArtModelsError, match="no alignment was found"):
        alignment.save(tmp_path / "aligned.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("blank", [0.0, 0.5, 1.0])
def test_a_blank_picture_is_no_alignment(aligner: RansacFlow, painting: Tensor, blank: float) -> None:
    assert not aligner(painting, torch.full((1, 3, 300, 400), blank)).found
    assert not aligner(torch.full((1, 3, 300, 400), blank), painting).found


def test_sizes_that_differ_fifty_times(aligner: RansacFlow, painting: Tensor) -> None:
    small = F.interpolate(painting, (30, 40), mode="bicubic", antialias=True).clamp(0, 1)
    large = F.interpolate(painting, (1500, 2000), mode="bicubic").clamp(0, 1)
    alignment = aligner(large, small, fine=False)
    assert alignment.found and alignment.tensor.shape == (1, 3, 30, 40)
    assert (alignment.tensor - small).abs().mean() < 0.05  # filtered, not skipped through
    assert aligner(small, large, fine=False).tensor.shape == (1, 3, 1500, 2000)


def test_a_single_channel_is_read(aligner: RansacFlow, painting: Tensor) -> None:
    grey = (painting.mean(1)[0].numpy() * 255).astype(np.uint8)
    assert aligner(grey, painting).found


def test_too_small_a_picture_says_what_to_do(aligner: RansacFlow, painting: Tensor) -> None:
    with pytest.raises(ImageError, match="too small"):
        aligner(torch.rand(1, 3, 4, 40), painting)


def test_prepared_pictures_give_the_same(aligner: RansacFlow, painting: Tensor, pair: tuple[Alignment, Tensor]) -> None:
    source = aligner.prepare(painting)
    again = aligner(source, aligner.prepare(moved(painting)[0]))
    assert torch.equal(again.tensor, pair[0].tensor)


# --- using it


def test_places_flow_and_homographies_agree(pair: tuple[Alignment, Tensor]) -> None:
    alignment, truth = pair
    points = torch.tensor([[200.5, 150.5], [60.5, 220.5]])
    found = alignment.places(points)
    grid, flow = alignment.grid(), alignment.flow()
    for point, place in zip(points, found.source, strict=True):
        column, row = (int(value) for value in point)
        expected = (grid[row, column] + 1) / 2 * torch.tensor([400, 300])
        assert torch.allclose(place, expected, atol=1e-3)
        assert torch.allclose(place - point, flow[row, column], atol=1e-3)
        assert (place - ((truth[0, row, column] + 1) / 2 * torch.tensor([400, 300]))).norm() < 4
    assert found.inside.all() and (found.matchability > 0.3).all()
    centre = geometry.apply(alignment.matrices[0], torch.tensor([[200.0, 150.0]], dtype=torch.float64))[0]
    assert (centre - torch.tensor([200.0, 150.0]) - flow[150, 200]).norm() < 12  # but for the bend
    with pytest.raises(ConfigError, match="A point lies outside the target: give x from 0 to 400 and y from 0 to 300"):
        alignment.places(torch.tensor([[401.0, 3.0]]))
    light = alignment.without_pixels()
    assert light.sizes == alignment.sizes and light.tensor.numel() == 3
    assert torch.equal(light.places(points).source, found.source), "places need no pixels"


def test_the_grid_does_not_depend_on_how_it_is_cut(
    pair: tuple[Alignment, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    alignment, _ = pair
    whole = alignment.grid(777, 1001)
    monkeypatch.setattr("artmodels.methods.ransac_flow.results.alignment.STRIP", 5000)
    assert torch.equal(alignment.grid(777, 1001), whole)


def test_the_full_resolution_is_used(aligner: RansacFlow, painting: Tensor) -> None:
    """A fine pattern that the working size cannot show is in the result."""
    stripes = (torch.arange(1600) % 2).float().expand(1, 3, 1200, 1600)
    large = (0.8 * F.interpolate(painting, (1200, 1600), mode="bicubic") + 0.2 * stripes).clamp(0, 1)
    alignment = aligner(large, F.interpolate(painting, (1200, 1600), mode="bicubic").clamp(0, 1), fine=False)
    change = alignment.tensor[..., 1:] - alignment.tensor[..., :-1]
    assert change.abs().mean() > 0.1


def test_files(pair: tuple[Alignment, Tensor], tmp_path: Path) -> None:
    alignment, _ = pair
    for suffix in (".png", ".npz", ".gif", ".mp4"):
        if suffix == ".mp4":
            pytest.importorskip("cv2")
        alignment.save(tmp_path / f"aligned{suffix}")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gif", ".mp4", ".npz", ".png"]
    with np.load(tmp_path / "aligned.npz", allow_pickle=False) as data:
        assert data["flow"].shape == (300, 400, 2) and data["inside"].shape == (300, 400)
        assert np.allclose(data["flow"], alignment.flow().numpy())
        assert data["homographies"].shape[1:] == (3, 3) and list(data["source_size"]) == [400, 300]
    with Image.open(tmp_path / "aligned.gif") as gif:
        assert gif.n_frames == 2 and gif.info["duration"] == 500
    with pytest.raises(ConfigError, match=r"does not end in \.png, \.jpg, \.webp, \.npz, \.gif or \.mp4"):
        alignment.save(tmp_path / "aligned.tif")
    with pytest.raises(ArtModelsError, match="could not write"):
        alignment.save(tmp_path / "missing" / "aligned.npz")


def test_pictures_of_the_evidence(pair: tuple[Alignment, Tensor]) -> None:
    alignment, _ = pair
    target = np.asarray(alignment.pictures[1].pil())
    assert np.array_equal(np.asarray(evidence.overlay(alignment, 0.0)), target)
    assert np.array_equal(np.asarray(evidence.overlay(alignment, 1.0)), np.asarray(alignment.image))
    board = np.asarray(evidence.chequered(alignment, 4))
    assert np.array_equal(board[:100, :100], target[:100, :100])
    assert np.array_equal(board[:100, 100:200], np.asarray(alignment.image)[:100, 100:200])
    assert evidence.side_by_side(alignment, height=120).size == (4 * 160 + 3 * 8, 120)
    assert evidence.flow_picture(alignment).size == evidence.heat(alignment).size == (400, 300)
    assert evidence.heat(alignment, "error").size == evidence.flow_picture(alignment, fine=True).size == (400, 300)
    wheel = np.asarray(evidence.flow_wheel(101)).astype(int)
    assert (wheel[50, 50] > 240).all() and (wheel[0, 0] == 255).all()  # no flow is white, as is what is outside
    assert len({tuple(wheel[y, x]) for y, x in ((50, 95), (50, 5), (5, 50), (95, 50))}) == 4
    with pytest.raises(ConfigError, match="opacity"):
        evidence.overlay(alignment, 1.5)


# --- workflows


def test_a_group_gets_sharper_step_by_step(aligner: RansacFlow, painting: Tensor) -> None:
    """Oracle 13: unaligned, then coarse, then fine."""
    pictures = {"reference": painting}
    for seed, (top, left) in enumerate(((20, 0), (0, 30), (25, 25)), start=1):
        pictures[str(seed)] = moved(painting, seed)[0][..., top:, left:]
    pictures["other"] = torch.rand(1, 3, 200, 200, generator=torch.Generator().manual_seed(1))
    *steps, group = groups.stream_align_group(aligner, pictures, reference="reference")
    assert group.left_out == ("other",)
    assert steps == [Progress(n, 4, name) for n, name in enumerate(("1", "2", "3", "other"), start=1)]
    sharp = {stage: mean.sharpness for stage, mean in group.means.items()}
    assert sharp["unaligned"] < sharp["coarse"] < sharp["fine"] < groups.sharpness(painting) * 1.05
    deviation = {stage: float(mean.deviation.mean()) for stage, mean in group.means.items()}
    assert deviation["fine"] < deviation["coarse"] < deviation["unaligned"]
    assert group.means["fine"].image.size == (400, 300)


def test_the_reference_is_the_one_most_agree_with(aligner: RansacFlow, painting: Tensor) -> None:
    pictures = {
        "part": painting[..., :150, :150],
        "whole": painting,
        "other part": painting[..., 150:, 200:],
    }
    assert groups.align_group(aligner, pictures).reference == "whole"
    with pytest.raises(ConfigError, match="needs two or more"):
        groups.align_group(aligner, {"one": painting})
    with pytest.raises(ConfigError, match="no picture is called 'x'"):
        groups.align_group(aligner, pictures, reference="x")


def test_the_look_is_taken_where_it_matches(aligner: RansacFlow, painting: Tensor) -> None:
    grey = painting.mean(1, keepdim=True).expand(-1, 3, -1, -1).clone()
    grey[..., :90, :120] = torch.rand(1, 1, 90, 120, generator=torch.Generator().manual_seed(4))
    alignment = aligner(painting, grey)
    made = evidence.transferred(alignment)
    colour = (made - made.mean(1, keepdim=True)).abs().mean()
    assert colour > 0.3 * (painting - painting.mean(1, keepdim=True)).abs().mean()
    outside = F.interpolate(alignment.matchability[None, None], (300, 400))[0, 0] < 0.2
    assert outside[10:60, 10:80].float().mean() > 0.9
    assert torch.allclose(made[0][:, outside], grey[0][:, outside], atol=1 / 255)
    with pytest.raises(ConfigError, match="feather"):
        evidence.transferred(alignment, feather=-1)


def test_what_was_painted_over_is_found(aligner: RansacFlow, painting: Tensor) -> None:
    changed = painting.clone()
    changed[..., 100:180, 220:300] = torch.rand(1, 3, 80, 80, generator=torch.Generator().manual_seed(2))
    faded = painting * 0.6 + 0.3  # fading alone is no change
    found = evidence.changes(aligner(faded, changed))
    left, top, right, bottom = found.boxes[0]
    assert 200 <= left <= 240 and 80 <= top <= 120 and 280 <= right <= 320 and 160 <= bottom <= 200
    assert evidence.changes(aligner(faded, painting)).boxes == ()
    assert found.image.size == (400, 300)


# --- as all methods


def test_the_method_is_public(pair: tuple[Alignment, Tensor]) -> None:
    assert catalogue.find_method("ransac_flow").class_name == "RansacFlow"
    out = io.BytesIO()
    pair[0].image.save(out, "PNG")
    assert pair[0].settings["method"] == "ransac_flow" and pair[0].settings["found"]
