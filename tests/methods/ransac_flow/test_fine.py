"""The passes of the fine stage, with a network that reads the truth off pictures whose colours are coordinates."""

import pytest
import torch
from torch import Tensor

from artmodels.correspondence import geometry
from artmodels.errors import ConfigError
from artmodels.images.tiling import SizeRequirements
from artmodels.methods.ransac_flow.fine import Fine
from artmodels.methods.ransac_flow.pipeline import RansacFlowConfig

SIZE = (96, 128)
REACH = 24.0  # px
PLAIN = torch.eye(3, dtype=torch.float64)


class Reader:
    """Moves each place to the same colours, by so many pixels of what it sees at most, and is sure where it is told."""

    bucket = 1

    def __init__(self, trust: dict[int, float]) -> None:
        """Take the matchability by the width of what is seen."""
        self.trust, self.widths = trust, list[int]()

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """Give both ways; what comes back is not moved, and matchable."""
        height, width = target.shape[2:]
        self.widths.append(width)
        half = torch.tensor([width, height]).view(1, 2, 1, 1) / 2
        pixels = ((target - source)[:, :2] * 2 * half).clamp(-REACH, REACH)
        sure = torch.full((1, 1, height, width), self.trust.get(width, 1.0))
        back = torch.cat([torch.zeros(1, 2, height, width), torch.ones(1, 1, height, width)], 1)
        return torch.cat([pixels / half, sure, back], 1)


def coordinates(grid: Tensor) -> Tensor:
    """A picture [1, 3, h, w] of a grid."""
    colours = (grid + 1) / 2
    return torch.cat([colours, torch.zeros_like(colours[..., :1])], 2).permute(2, 0, 1)[None]


def bent(pixels: float) -> Tensor:
    """A map that moves the middle of a picture by about so many pixels to the right and half as many down."""
    here = geometry.identity(*SIZE)
    bump = (1 - here.square()).prod(2, keepdim=True)
    return here + bump * torch.tensor([pixels / SIZE[1], pixels / 2 / SIZE[0]]) * 2


def moved(truth: Tensor, passes: tuple[float, ...], **trust: float) -> tuple[Tensor, Reader, Tensor]:
    """What passes find: [h, w] pixels off, the network, and the matchability."""
    reader = Reader({int(width[1:]): value for width, value in trust.items()})
    fine = Fine(reader, passes, 0.5, SizeRequirements(minimum=32, multiple_of=8))
    source, target = coordinates(geometry.identity(*SIZE)), coordinates(truth)
    found = fine(source, fine.targets(target, SIZE), PLAIN, SIZE)
    assert found.displacement.shape == (2, *SIZE) and found.error.shape == SIZE
    reached = geometry.identity(*SIZE) + found.displacement.permute(1, 2, 0)
    return ((reached - truth) * torch.tensor([SIZE[1], SIZE[0]]) / 2).norm(dim=2), reader, found.matchability


def test_one_pass_finds_what_is_within_its_reach() -> None:
    off, reader, _ = moved(bent(10.0), (1.0,))
    assert reader.widths == [128] and off.max() < 0.2


def test_a_pass_at_half_the_size_reaches_twice_as_far() -> None:
    truth = bent(40.0)
    once, _, _ = moved(truth, (1.0,))
    twice, reader, _ = moved(truth, (0.5, 1.0))
    assert reader.widths == [64, 128]
    assert once.max() > 10  # 40 px are wanted, and 24 there
    assert twice.max() < 2 and twice.mean() < 0.5


def test_each_pass_goes_on_from_the_last() -> None:
    truth = bent(30.0)
    errors = [float(moved(truth, (0.5,) + (1.0,) * n)[0].mean()) for n in (0, 1, 2, 3)]
    assert max(errors) < 0.05  # none undoes what the ones before found


def test_what_a_pass_does_not_trust_stays_as_it_was() -> None:
    truth = bent(30.0)
    before, _, _ = moved(truth, (0.5,))
    after, _, _ = moved(truth, (0.5, 1.0), w128=0.0)
    assert torch.allclose(after, before, atol=0.2)


def test_all_passes_tell_alike_what_can_be_matched() -> None:
    _, _, told = moved(bent(4.0), (0.5, 1.0, 2.0), w64=0.3, w128=0.9, w256=0.6)
    assert torch.allclose(told[4:-4, 4:-4], torch.tensor(0.6), atol=1e-4)


def test_nothing_to_pass_is_no_displacement() -> None:
    fine = Fine(Reader({}), (1.0,), 0.5, SizeRequirements(minimum=32, multiple_of=8))
    found = fine(torch.rand(1, 3, *SIZE), [], PLAIN, SIZE)
    assert not found.displacement.any() and not found.matchability.any()


@pytest.mark.parametrize("passes", [(), (0.0,), (1.0, 9.0), (-1.0,)])
def test_sizes_that_make_no_sense_are_refused(passes: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="passes"):
        RansacFlowConfig(passes=passes)
