"""The fine stage: what is left to move once a transform has brought two pictures together, in one pass or several.

Shen, Darmon, Efros and Aubry 2020, "RANSAC-Flow: generic two-stage image alignment" (arXiv:2004.01526), section 3.2; a
pass at half the size and then one at the whole is what its authors do for KITTI. The network moves a place by at most
24 pixels of what it sees, so that small sizes reach farther and large ones are more exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence import geometry
from artmodels.images.resampling import resized
from artmodels.images.tiling import SizeRequirements
from artmodels.methods.ransac_flow.results.alignment import Warp
from artmodels.runtime.devices import Runner

__all__ = ["Fine", "Moved"]

SPREAD, FADED = 16.0, 1e-3  # px of what the network sees, and the share of known places at which what is near fades


@dataclass(frozen=True, eq=False)
class Moved:
    """What the fine stage says of a source that a transform has brought onto a target of [h, w] pixels."""

    # [2, h, w], added to the relative target coordinates before the transform. Where nothing can be matched it is that
    # of the surroundings, fading to what the pass before found, or to 0.
    displacement: Tensor
    matchability: Tensor  # [h, w] in [0, 1], of both directions, the mean of the passes; 0 outside the source
    error: Tensor  # [h, w], pixels between a place and where it comes back to
    passes: int = 0  # that it comes from

    def at(self, size: tuple[int, int]) -> "Moved":
        """The same at another size."""
        if self.error.shape == size:
            return self
        scale = size[1] / self.error.shape[1]
        planes = torch.cat([self.displacement, self.matchability[None], self.error[None] * scale])[None]
        planes = F.interpolate(planes, size, mode="bilinear", align_corners=False)[0]
        return Moved(planes[:2], planes[2], planes[3], self.passes)


class Fine:
    """The network with the sizes at which it works."""

    def __init__(
        self, runner: Runner, passes: Sequence[float], matchable: float, requirements: SizeRequirements
    ) -> None:
        """Take what computes a `FineNetwork`, and the network's requirements; for the others see `RansacFlowConfig`."""
        self.runner, self.passes, self.matchable, self.requirements = runner, passes, matchable, requirements

    def targets(self, target: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """A target [1, 3, H, W] in [0, 1] at the size of each pass, of which 1.0 is (height, width) `size`.

        Also where that is larger than the target: its cells are finer then.
        """
        sizes = [self.requirements.size(round(size[0] * factor), round(size[1] * factor)) for factor in self.passes]
        return [resized(target, size).clamp(0, 1) for size in sizes]

    def __call__(
        self,
        source: Tensor,
        targets: Sequence[Tensor],
        matrix: Tensor,
        size: tuple[int, int],
        before: Moved | None = None,
    ) -> Moved:
        """Find what is left to move, at (height, width) `size`, after what earlier passes found.

        Of the source [1, 3, H, W] in [0, 1], the targets that `targets` gives for the next passes, and a matrix from
        relative target to relative source coordinates.
        """
        found = before or Moved(torch.zeros(2, *size), torch.zeros(size), torch.zeros(size))
        for target in targets:
            found = self._pass(source, target, matrix, found)
        return found.at(size)

    def _pass(self, source: Tensor, target: Tensor, matrix: Tensor, before: Moved) -> Moved:
        """What the network adds to what was found before, at the size of a target."""
        height, width = target.shape[2:]
        before = before.at((height, width))
        earlier = before.displacement
        warp = Warp(matrix[None], torch.zeros(height, width, dtype=torch.int64), earlier)
        there, back = self.runner(warp.read(source, height, width, cubic=False)[0], target).float().cpu().chunk(2, 1)
        here = geometry.identity(height, width)[None]
        places = (here + there[:, :2].permute(0, 2, 3, 1)).clamp(-1, 1)
        returned = F.grid_sample(back, places, padding_mode="border", align_corners=False)
        home = places + returned[:, :2].permute(0, 2, 3, 1)
        error = ((home - here) * torch.tensor([width, height]) / 2).norm(dim=3)[0]
        # What was read there had already been moved.
        carried = F.grid_sample(earlier[None], places, padding_mode="border", align_corners=False)
        displacement = there[0, :2] + carried[0]
        inside = geometry.inside(replace(warp, displacement=displacement).grid(height, width))
        trust = there[0, 2] * returned[0, 2] * inside
        displacement = earlier + _filled(displacement - earlier, trust, self.matchable)
        matchability = (before.matchability * inside * before.passes + trust) / (before.passes + 1)
        return Moved(displacement, matchability, error, before.passes + 1)


def _filled(displacement: Tensor, trust: Tensor, matchable: float) -> Tensor:
    """A displacement [2, h, w] whose values where nothing can be matched are those of the surroundings, fading to 0.

    What the network says there is chance, and would tear the borders of what it moves.
    """
    known = (trust / max(matchable, 1e-6)).clamp(0, 1).numpy()
    values = displacement.numpy()
    near = gaussian_filter(values * known, (0, SPREAD, SPREAD), mode="constant")
    near /= gaussian_filter(known, SPREAD, mode="constant") + FADED
    return torch.from_numpy(known * values + (1 - known) * near).float()
