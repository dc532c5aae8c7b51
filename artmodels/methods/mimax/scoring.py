"""Trained classifiers applied: to bags of any size in bounded memory, and as a network that can be exported."""

import torch
from torch import Tensor, nn

from artmodels.data.bags import Bags
from artmodels.methods.mimax.model import at_once

__all__ = ["ScoringHead", "score"]


def score(
    bags: Bags,
    weights: Tensor,
    bias: Tensor,
    *,
    epsilon: float | None = None,
    memory: int | None = None,
) -> Tensor:
    """Score instances: (s + epsilon) max_j (w_j . x + b_j), eq. 3 before tanh.

    Args:
        bags: The bags.
        weights: [C, J, M], for instances as they come.
        bias: [C, J].
        epsilon: See `Objective`.
        memory: See `Objective`.

    Returns:
        [T, C] float32 on the CPU.
    """
    outputs, planes, width = weights.shape
    scores = torch.empty(len(bags.instances), outputs)
    for start, part in bags.chunks(at_once(4 * (width + 2 * outputs * planes), memory, weights.device)):
        x = part.instances.to(weights.device, weights.dtype)
        values = torch.addmm(bias.reshape(-1), x, weights.reshape(-1, width).T)
        values = values.view(-1, outputs, planes).amax(2)
        if epsilon is not None and part.objectness is not None:
            values *= (part.objectness.to(values) + epsilon)[:, None]
        first = int(bags.offsets[start])
        scores[first : first + len(x)] = values.cpu()
    return scores


class ScoringHead(nn.Module):
    """The classifiers as a network that can be exported: scores of padded bags, eq. 3 and its maximum over regions."""

    def __init__(self, weights: Tensor, bias: Tensor, *, epsilon: float | None, squash: bool = True) -> None:
        """Take trained classifiers.

        Args:
            weights: [C, J, M].
            bias: [C, J].
            epsilon: Added to the objectness; None leaves objectness out of the scores, though it stays an input.
            squash: Whether scores pass through tanh, into [-1, 1].
        """
        super().__init__()
        self.weights = nn.Parameter(weights.clone(), requires_grad=False)  # [C, J, M]
        self.bias = nn.Parameter(bias.clone(), requires_grad=False)  # [C, J]
        self.epsilon, self.squash = epsilon, squash

    def forward(self, features: Tensor, objectness: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Score regions and images.

        Args:
            features: [N, K, M].
            objectness: [N, K] in [0, 1].
            mask: [N, K] boolean; false is padding.

        Returns:
            Scores of regions [N, K, C], the lowest there is (-1, or -inf without tanh) for padding, and of images
            [N, C].
        """
        outputs, planes, width = self.weights.shape
        scores = features @ self.weights.reshape(outputs * planes, width).T + self.bias.reshape(-1)
        scores = torch.unflatten(scores, 2, (outputs, planes)).amax(3)  # [N, K, C]
        # Zero times the objectness keeps it among the inputs of a graph, which are the same for every checkpoint.
        factor = 1 + 0 * objectness if self.epsilon is None else objectness + self.epsilon
        scores = (scores * factor[..., None]).masked_fill(~mask[..., None], -torch.inf)
        if self.squash:
            scores = scores.tanh()
        return scores, scores.amax(1)
