"""The search for C of MI-max: every fold, C, class and restart at once."""

import torch
from torch import Tensor

from artmodels.methods.mimax.labels import folds_of
from artmodels.methods.mimax.model import MIMaxObjective, balanced

__all__ = ["GRID", "Search"]

GRID = tuple(round(0.1 * tenths, 1) for tenths in range(5, 15))  # of C="cv": that of MI-max-C


class Search:
    """The problems of a search for C: folds x grid x classes x restarts, all descended at once."""

    def __init__(self, signs: Tensor, starts: int, *, folds: int, seed: int) -> None:
        """Lay the problems out.

        Args:
            signs: [B, C] of 1 and -1.
            starts: R, restarts.
            folds: F, of which each holds out its share of the bags.
            seed: Of the folds.

        Raises:
            BagsError: A class has fewer positive or fewer negative bags than folds.
        """
        self.shape = (folds, len(GRID), signs.shape[1], starts)
        away = folds_of(signs.T, folds, seed).T[:, None] == torch.arange(folds)[:, None]  # [B, F, C]
        self.labels = self._spread(torch.where(away, 0, signs[:, None]))
        self.held_out = self._spread(torch.where(away, signs[:, None], 0))
        self.strength = torch.tensor(GRID)[None, :, None, None].expand(self.shape).reshape(-1)

    def _spread(self, labels: Tensor) -> Tensor:
        """[B, F, C] to [B, P]."""
        return labels[:, :, None, :, None].expand(-1, *self.shape).reshape(len(labels), -1)

    def expand(self, first: Tensor) -> Tensor:
        """The first vectors of all problems: folds and values of C begin alike."""
        trailing = first.shape[1:]
        wide = first.view(1, 1, *self.shape[2:], *trailing).expand(*self.shape, *trailing)
        return wide.reshape(-1, *trailing).clone()

    def best(self, problem: MIMaxObjective, values: Tensor) -> Tensor:
        """The value of C for each class [C]: lowest mean data term on the held-out bags, of the restarts kept."""
        trained = problem.data_term(values).sum(0).view(self.shape)
        held_out = balanced(self.held_out).to(values.device)
        tested = problem.data_term(values, held_out).sum(0).view(self.shape)
        kept = trained.argmin(3, keepdim=True)
        return torch.tensor(GRID)[tested.gather(3, kept)[..., 0].mean(0).argmin(0).cpu()]
