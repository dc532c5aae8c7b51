"""MI-Net: small networks that pool the instances of a bag, a baseline of MI-max.

X. Wang, Y. Yan, P. Tang, X. Bai and W. Liu, Revisiting multiple instance neural networks, Pattern Recognition 74
(2018). Widths, dropout and the optimiser's numbers are those that the comparison with MI-max used (arXiv:2008.01178).
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import logsigmoid

from artmodels.data.bags import Bags
from artmodels.errors import ConfigError
from artmodels.methods.mimax.labels import Baseline
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Positive, Weight

__all__ = ["MINet"]

Variant = Literal["plain", "ds", "rc", "instance"]
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
WIDTHS = (256, 128, 64)
WIDTHS_RC = (128, 128, 128)  # residuals need equal widths
READ = 2**24  # values that are scored at a time


class _Network(nn.Module):
    """Three layers, and heads on what they give: the last, all (ds), or the sum of all (rc)."""

    def __init__(self, features: int, classes: int, variant: Variant, dropout: float, draw: torch.Generator) -> None:
        super().__init__()
        widths = WIDTHS_RC if variant == "rc" else WIDTHS
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip((features, *widths), widths, strict=False))
        self.heads = nn.ModuleList(nn.Linear(width, classes) for width in (widths if variant == "ds" else widths[-1:]))
        self.variant, self.dropout = variant, dropout
        # Glorot's uniform weights and no bias, as the authors' library sets them.
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                bound = math.sqrt(6 / sum(layer.weight.shape))
                nn.init.uniform_(layer.weight, -bound, bound, generator=draw)
                nn.init.zeros_(layer.bias)

    def forward(self, bags: Bags, draw: torch.Generator | None = None) -> list[Tensor]:
        """Logits [B, C] of each head; `draw` is for dropout, which None leaves out."""
        x, hidden = bags.instances.float(), []
        for number, layer in enumerate(self.layers):
            x = layer(x).relu()
            dropped = x
            # The plain forms drop units of the last layer only; the others pool each layer, and drop in each.
            if draw is not None and self.dropout and (number == 2 or self.variant in ("ds", "rc")):
                kept = torch.rand(x.shape, generator=draw) >= self.dropout
                dropped = x * kept / (1 - self.dropout)
            hidden.append(dropped)
        if self.variant == "instance":
            return [bags.max(self.heads[0](hidden[-1]))]
        if self.variant == "ds":
            return [head(bags.max(h)) for head, h in zip(self.heads, hidden, strict=True)]
        if self.variant == "rc":
            return [self.heads[0](torch.stack([bags.max(h) for h in hidden]).sum(0))]
        return [self.heads[0](bags.max(hidden[-1]))]


@dataclass(eq=False, repr=False)
class MINet(Baseline):
    """A network for bags: layers of 256, 128 and 64 units on each instance, a maximum over the bag, a sigmoid.

    Standardise the features, or the training may diverge, which is an error. Several classes share all but the head.

        >>> bags = [np.eye(3)[[0, 1]], np.eye(3)[[1, 2]]] * 3
        >>> MINet(seed=1).fit(bags, [1, 0] * 3).predict(bags[:2]).tolist()
        [1, 0]

    Attributes:
        classes_: The two labels, the positive one last; or the numbers of the columns of y.
        network_: The trained network.
        loss_: Mean cross-entropy of the bags over the last epoch, with dropout, summed over heads and classes.
    """

    variant: Annotated[
        Variant,
        '"plain" (MI-Net: pooled embeddings), "ds" (with deep supervision: a head on each layer, and their mean '
        'probability decides), "rc" (with residual connections: three layers of 128, whose pooled outputs are added) '
        'or "instance" (mi-Net: pooled scores).',
    ] = "plain"
    _: KW_ONLY
    epochs: Annotated[Count, "Passes over the bags."] = 20
    batch_size: Annotated[
        Count,
        "Bags a step; 1 in the reference, slower and no better (benchmarks/mil.py --slow). The losses of a step's bags "
        "are added, not averaged, and the penalty counts once for each bag, hence an epoch moves the weights about as "
        "far at any batch size.",
    ] = 8
    learning_rate: Annotated[Positive, "Of stochastic gradient descent, for one bag."] = 1e-3
    momentum: Annotated[BelowOne, "Nesterov's, of the descent."] = 0.9
    decay: Annotated[Weight, "The learning rate after t bags is learning_rate / (1 + decay t)."] = 1e-4
    weight_decay: Annotated[Weight, "Factor of the squared weights (not biases) in the loss."] = 0.005
    dropout: Annotated[BelowOne, "Share of units that are dropped in training."] = 0.5
    seed: Annotated[int, "Of first weights, order and dropout. The same seed gives the same bytes on the CPU."] = 0

    def _learn(self, bags: Bags, labels: Tensor) -> None:
        targets = (labels.T > 0).float()
        draw = generator(self.seed)
        network = _Network(bags.features, len(labels), self.variant, self.dropout, draw)
        self._descend(network, bags, targets, draw)
        self.network_ = network.eval().requires_grad_(False)

    def _descend(self, network: _Network, bags: Bags, targets: Tensor, draw: torch.Generator) -> None:
        weights = [parameter for parameter in network.parameters() if parameter.dim() > 1]
        biases = [parameter for parameter in network.parameters() if parameter.dim() == 1]
        groups: list[dict[str, Any]] = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
        step = torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=self.momentum > 0)
        seen = 0
        for _ in range(self.epochs):
            total = torch.zeros(())
            for chosen in torch.split(torch.randperm(len(bags), generator=draw), self.batch_size):
                for group in step.param_groups:
                    group["lr"] = self.learning_rate / (1 + self.decay * seen)
                # The derivative of weight_decay * w^2 is twice that of the optimiser's own convention.
                step.param_groups[0]["weight_decay"] = 2 * self.weight_decay * len(chosen)
                part = bags[chosen]
                heads = torch.stack(network(part, draw))
                loss = cross_entropy(heads, targets[chosen].expand_as(heads), reduction="sum")
                step.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                step.step()
                seen += len(chosen)
                total += loss.detach()
            if not torch.isfinite(total):
                raise ConfigError("the training diverged: standardise the features, or lower learning_rate or momentum")
        self.loss_ = float(total) / len(bags)

    def _logits(self, bags: Bags) -> Tensor:
        """Of the probability that decides: [B, C]."""
        heads = []
        with torch.inference_mode():
            for _, part in bags.chunks(max(1, READ // max(bags.features, *WIDTHS))):
                logits = torch.stack(self.network_(part)).double()
                # The logit of the mean probability, which may be 0 or 1 to the last digit.
                log_odds = logsigmoid(logits).logsumexp(0) - logsigmoid(-logits).logsumexp(0)
                heads.append(log_odds if len(logits) > 1 else logits[0])
        return torch.cat(heads)

    def _scores(self, bags: Bags) -> Tensor:
        alone = Bags(bags.instances, torch.ones(len(bags.instances), dtype=torch.int64))
        return self._logits(alone)

    def _bag_scores(self, bags: Bags) -> Tensor:
        return self._logits(bags)
