"""HardConcrete gates in the place of SoftTopK: random gates that can be exactly 0 and 1, and a penalty that wants k of D open.

    s = sigmoid((log u - log(1 - u) + z) / beta),  u ~ U(0, 1)        g = clip(s (zeta - gamma) + gamma, 0, 1)          training
    P(g > 0) = sigmoid(z - beta log(-gamma / zeta))                   open = mean of P over the channels of a layer
    loss += l1 (open - k/D) + l2 (open - k/D)^2                       l1, l2 of every layer: gradient ascent
    g = clip(sigmoid(z) (zeta - gamma) + gamma, 0, 1) Top(z, k)       afterwards, without u: k channels at most, as every arm

beta = 2/3, gamma = -0.1, zeta = 1.1. SoftTopK holds the number of channels by construction; here training has to find it, and it starts
with most gates open: the loss rises once the multipliers close them (the authors' plots show such a spike).

Shapes: z [batch, masks, L, D]. Sources: Louizos, Welling, Kingma 2018, arXiv 1712.01312, equations 10 to 13; the constraint is that of
Sheared LLaMA (Xia et al. 2023, arXiv 2310.06694, equation 3), with multipliers that learn much faster than the gates.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchard.papers.ifpruning.data import Examples
from orchard.papers.ifpruning.method import Predictor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
BISECTIONS = 40


class HardConcrete(Predictor):
    """The predictor with HardConcrete gates; its z are their log alpha."""

    class Config(Predictor.Config):
        multiplier_rate: float = 100.0  # learning rate of the multipliers over that of the predictor

    def __init__(self, cfg: HardConcrete.Config) -> None:
        super().__init__(cfg)
        self.multiplier_rate = cfg.multiplier_rate
        self.multipliers = nn.Parameter(torch.zeros(2 * cfg.num_layers))  # l1 and then l2 of every layer, over the rate

    def forward(self, examples: Examples) -> Float[Tensor, "examples masks layers width"]:
        z = self.logits(examples).float()
        if not self.training:
            return settled(z) * self.gates.top(z)
        self.penalty = self.price(expected_open(z).mean(dim=-1))
        return sampled(z, torch.rand_like(z))

    @torch.no_grad()
    def calibrate(self, examples: Examples, importance: Float[Tensor, "layers width"]) -> None:
        """As the predictor; then the logits of every layer are shifted until k of D gates are open in expectation."""
        super().calibrate(examples, importance)
        z = self.logits(examples).flatten(0, 1)
        low, high = z.new_full(z.shape[1:2], -50.0), z.new_full(z.shape[1:2], 50.0)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            over = expected_open(z + middle[:, None]).mean(dim=(0, 2)) > self.gates.cfg.keep / self.gates.cfg.width
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        self.head_out.bias.add_(((low + high) / 2).repeat_interleave(self.gates.logits))

    def price(self, share: Float[Tensor, "examples masks layers"]) -> Float[Tensor, ""]:
        """The penalty: its gradient lowers the distance from k/D and raises the multipliers."""
        l1, l2 = (self.multiplier_rate * ascended(self.multipliers)).chunk(2)
        excess = share - self.gates.cfg.keep / self.gates.cfg.width
        return (l1 * excess + l2 * excess.square()).mean()


def sampled(z: Float[Tensor, "*shape"], u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Gates for the noise u in [0, 1)."""
    noise = torch.logit(u, eps=1e-6)
    return (torch.sigmoid((noise + z) / BETA) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def settled(z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Gates without noise."""
    return (torch.sigmoid(z) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def expected_open(z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The probability that a gate is not 0."""
    return torch.sigmoid(z - BETA * math.log(-GAMMA / ZETA))


def ascended(p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same values; a step down their gradient is a step up."""
    return 2 * p.detach() - p
