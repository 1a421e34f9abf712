"""The controls beside the predictor: what else could choose a mask, or condition a decoder, and what it may know.

    Static         one mask for everything, learned                      knows nothing of the example
    DomainTable    logits per domain, learned                            is told the domain
    DomainMasks    a random mask per domain, never learned               is told the domain
    HashedMasks    random masks keyed by a SimHash of the prompt         reads the prompt, as the predictor does; never learned
    Film           factors per domain and channel of a small model       is told the domain; conditioning without selection
    DomainTag      a learned token per domain                            is told the domain; conditioning without selection
    Prefix         a soft token from the predictor's feature             reads the prompt; conditioning without selection
    HardConcrete   the predictor, with other gates than SoftTopK         reads the prompt

A random mask per domain beats every dense model where domains share nothing: a mask that is never learned already tells the layers
which domain they are in. So that a predictor beats a dense model says nothing about learned selection; these arms do.

HardConcrete gates are random and can be exactly 0 and 1; a penalty wants k of D open.

    s = sigmoid((log u - log(1 - u) + z) / beta),  u ~ U(0, 1)        g = clip(s (zeta - gamma) + gamma, 0, 1)          training
    P(g > 0) = sigmoid(z - beta log(-gamma / zeta))                   open = mean of P over the channels of a layer
    loss += l1 (open - k/D) + l2 (open - k/D)^2                       l1, l2 of every layer: gradient ascent
    g = clip(sigmoid(z) (zeta - gamma) + gamma, 0, 1) Top(z, k)       afterwards, without u: k channels at most, as every arm

beta = 2/3, gamma = -0.1, zeta = 1.1. SoftTopK holds the number of channels by construction; here training has to find it: the loss rises
once the multipliers close gates (the authors' plots show such a spike).

Shapes: z [batch, masks, L, D]. Sources of HardConcrete: Louizos, Welling, Kingma 2018, arXiv 1712.01312, equations 10 to 13; the constraint
is that of Sheared LLaMA (Xia et al. 2023, arXiv 2310.06694, equation 3), with multipliers that learn much faster than the gates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.nn import Decoder
from orchard.papers.ifpruning.method.examples import Examples
from orchard.papers.ifpruning.method.masks import Lengths, Predictor, Prompts, Selector, gated


class Static(Selector):
    """One learned mask: structured pruning in the manner of Sheared LLaMA (arXiv 2310.06694), with SoftTopK as its relaxation."""

    def __init__(self, cfg: Static.Config) -> None:
        super().__init__(cfg)
        self.z = nn.Parameter(torch.zeros(cfg.num_layers, self.gates.logits))

    def logits(self, examples: Examples) -> Float[Tensor, "examples masks layers logits"]:
        return self.z.expand(*examples.prompts.shape[:2], -1, -1)

    @torch.no_grad()
    def calibrate(self, examples: Examples, importance: Float[Tensor, "layers width"]) -> None:
        """Begin with the importance of the channels, at the same spread as the predictor."""
        self.z.copy_(self.scale(importance) * self.spread * self.gates.cfg.epsilon)


class DomainTable(Selector):
    """Learned logits of every domain, the oracle of the predictor: it is told what the predictor has to find out."""

    class Config(Selector.Config):
        num_domains: int = REQUIRED

    def __init__(self, cfg: DomainTable.Config) -> None:
        super().__init__(cfg)
        self.z = nn.Parameter(torch.randn(cfg.num_domains, cfg.num_layers, self.gates.logits) * cfg.gates.epsilon)

    def logits(self, examples: Examples) -> Float[Tensor, "examples masks layers logits"]:
        return self.z[examples.domain][:, None].expand(-1, examples.prompts.shape[1], -1, -1)

    @torch.no_grad()
    def calibrate(self, examples: Examples, importance: Float[Tensor, "layers width"]) -> None:
        self.z.mul_(self.spread * self.gates.cfg.epsilon / self.z.std(dim=-1).mean())


class DomainMasks(DomainTable):
    """As the table, but its random logits stay as they are."""

    learned = False

    def __init__(self, cfg: DomainMasks.Config) -> None:
        super().__init__(cfg)
        self.z.requires_grad_(False)


class HashedMasks(Predictor):
    """Random masks from what a prompt says, never learned: the information that the predictor has, without its selection.

    f = backbone(prompt)[last]          frozen: the small language model that predictors begin with
    z = R sign(P (f - mean f))          SimHash of f; prompts that share most bits share most of their masks (Charikar 2002)
    """

    learned = False

    class Config(Predictor.Config):
        bits: int = 6  # of 4, 6, 8, 16, 64 and 256 the best on validation questions in a small trial

    def __init__(self, cfg: HashedMasks.Config) -> None:
        super().__init__(cfg)
        del self.head_in, self.head_out
        self.backbone.requires_grad_(False)
        self.mean: Tensor
        self.project: Tensor
        self.table: Tensor
        self.register_buffer("mean", torch.zeros(cfg.backbone.dim))
        self.register_buffer("project", torch.randn(cfg.bits, cfg.backbone.dim))
        self.register_buffer("table", torch.randn(cfg.bits, cfg.num_layers * self.gates.logits))

    @torch.no_grad()
    def of_prompts(self, prompts: Prompts, lengths: Lengths) -> Float[Tensor, "rows layers logits"]:
        bits = torch.where((self._last(prompts, lengths) - self.mean) @ self.project.T > 0, 1.0, -1.0)
        return (bits @ self.table).unflatten(-1, (self.num_layers, -1))

    def flops_per_prompt(self, length: int) -> float:
        return self.backbone.flops_per_token(length) * length

    @torch.no_grad()
    def calibrate(self, examples: Examples, importance: Float[Tensor, "layers width"]) -> None:
        """Centre the features over these prompts."""
        self.mean = self._last(examples.prompts.flatten(0, 1), examples.prompt_lengths.flatten()).mean(dim=0)


class Film(Selector):
    """A learned factor for every domain and channel, first 1: conditioning without selection and without more hidden channels."""

    prunes = False

    class Config(Selector.Config):
        num_domains: int = REQUIRED

    def __init__(self, cfg: Film.Config) -> None:
        super().__init__(cfg)
        self.factor = nn.Parameter(torch.ones(cfg.num_domains, cfg.num_layers, cfg.gates.width))

    def forward(self, examples: Examples) -> Float[Tensor, "examples masks layers width"]:
        return self.factor[examples.domain][:, None].expand(-1, examples.prompts.shape[1], -1, -1)


class DomainTag(Selector):
    """A learned token for every domain in the place of bos, first as bos: a decoder that need not read what it is asked."""

    prunes = False

    class Config(Selector.Config):
        num_domains: int = REQUIRED
        dim: int = REQUIRED  # of the decoder

    def __init__(self, cfg: DomainTag.Config) -> None:
        super().__init__(cfg)
        self.tag = nn.Parameter(torch.zeros(cfg.num_domains, cfg.dim))

    @contextmanager
    def applied(self, decoder: Decoder, examples: Examples, warmth: float = 1.0) -> Iterator[None]:
        with _first_token(decoder, self.tag[examples.domain]):
            yield


class Prefix(Predictor):
    """The predictor's feature as a soft token in the place of bos: the same reader of prompts, and no mask."""

    prunes = False

    class Config(Predictor.Config):
        dim: int = REQUIRED  # of the decoder

    def __init__(self, cfg: Prefix.Config) -> None:
        super().__init__(cfg)
        self.head_out = nn.Linear(cfg.rank, cfg.dim)
        nn.init.zeros_(self.head_out.weight)
        nn.init.zeros_(self.head_out.bias)

    def calibrate(self, examples: Examples, importance: Float[Tensor, "layers width"]) -> None:
        """Nothing: the soft token begins as bos."""

    @contextmanager
    def applied(self, decoder: Decoder, examples: Examples, warmth: float = 1.0) -> Iterator[None]:
        """Within this context the first embedding of every sequence has the soft token added to it (that of its first prompt)."""
        with _first_token(decoder, self.head_out(self.feature(examples.prompts[:, 0], examples.prompt_lengths[:, 0]))):
            yield


@contextmanager
def _first_token(decoder: Decoder, soft: Float[Tensor, "examples dim"]) -> Iterator[None]:
    """Within this context this is added to the first embedding of every sequence, and no channel is masked."""

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.cat([output[:, :1] + soft[:, None].to(output.dtype), output[:, 1:]], dim=1)

    hook = decoder.embedding.register_forward_hook(add)
    try:
        with gated(decoder, None):
            yield
    finally:
        hook.remove()


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
        ascended = (
            2 * self.multipliers.detach() - self.multipliers
        )  # the same values: a step down their gradient is a step up
        l1, l2 = (self.multiplier_rate * ascended).chunk(2)
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
