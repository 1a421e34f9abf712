"""IFPruning: a predictor reads the instruction and chooses, per feed-forward layer, the k of D channels that answer it.

    h = activation(W_gate x) * (W_up x)                 y = W_down (h * g_l)                  masked feed-forward (equations 1 and 2)
    z = W_2 act(W_1 f),  f = backbone(prompt)[last]     z in R^{L x D}                        sparsity predictor (appendix A.1)
    lambda_l = SoftTopK(z_l, k)                         g_l = lambda_l * Top(lambda_l, k)     gates (equation 3)

What a gate is in training and afterwards, where the paper is silent:

    mode            training                                             afterwards
    soft            lambda Top; the paper's equation                     the same: lambda folds into W_down
    soft_binarize   lambda Top                                           Top
    st              Top, gradient of lambda on the chosen channels       Top
    st_full         Top, gradient of lambda on all channels              Top

Shapes: x [batch, time, dim], h [batch, time, D], gates [batch, time or 1, L, D]. Only feed-forward layers are pruned.
Source: Hou et al. 2025, arXiv 2501.02086. What is not in it (initial spread, activation of the head) is ours and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from orchard.config import REQUIRED, Configurable, replace
from orchard.errors import BadInput
from orchard.nn import Decoder, FeedForward
from orchard.nn.feedforward import ACTIVATIONS
from orchard.papers.ifpruning.method.examples import Examples
from orchard.papers.ifpruning.method.softtopk import check, hard_top_k, soft_top_k

MODES = ("soft", "soft_binarize", "st", "st_full")
ALIKE = 1e-6  # relative: float32 rounding
Prompts = Int[Tensor, "rows prompt_time"]
Lengths = Int[Tensor, "rows"]
HEAD_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "identity": lambda x: x}


class MaskedFeedForward(FeedForward):
    """A feed-forward layer whose hidden channels are multiplied by ``gates`` where there are any; see :func:`gated`."""

    class Config(FeedForward.Config):
        keep: int = REQUIRED  # channels that a mask leaves, k

    def __init__(self, cfg: MaskedFeedForward.Config) -> None:
        super().__init__(cfg)
        check(cfg.hidden_dim, cfg.keep)
        self.keep = cfg.keep
        self.gates: Float[Tensor, "batch #time width"] | None = None

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        hidden = ACTIVATIONS[self.activation](self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(hidden if self.gates is None else hidden * self.gates.to(hidden.dtype))


def masked(cfg: Decoder.Config, keep: int) -> Decoder.Config:
    """A copy of a decoder's config whose feed-forward layers can be masked: one swap. Raises ValueError where there is none."""
    cfg = cfg.clone()
    replace(cfg, FeedForward, MaskedFeedForward.Config(keep=keep))
    return cfg


def masked_layers(model: nn.Module) -> list[MaskedFeedForward]:
    """The masked feed-forward layers, first layer first."""
    return [module for module in model.modules() if isinstance(module, MaskedFeedForward)]


@contextmanager
def gated(model: nn.Module, gates: Float[Tensor, "batch #time layers width"] | None) -> Iterator[None]:
    """Within this context the model computes with these gates; None: with all channels.

    Raises ValueError when the gates are not for as many layers, or as wide, as the model has.
    """
    layers = masked_layers(model)
    if gates is not None:
        own = {layer.down_proj.in_features for layer in layers}
        if gates.shape[2] != len(layers) or own != {gates.shape[3]}:
            raise ValueError(
                f"gates for {gates.shape[2]} layers of width {gates.shape[3]}, but the model has {len(layers)} masked layers "
                f"of width {', '.join(map(str, sorted(own))) or 'none'}: use the predictor that was made for this model"
            )
        for i, layer in enumerate(layers):
            layer.gates = gates[:, :, i]
    try:
        yield
    finally:
        for layer in layers:
            layer.gates = None


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Within this context the modules are in evaluation mode, and nothing has a gradient; afterwards each part is as it was."""
    was = [(part, part.training) for module in modules if module is not None for part in module.modules()]
    for part, _ in was:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in was:
            part.training = training


class Gates(nn.Module, Configurable):
    """From logits to gates, the last step of every selector that prunes. Computes in float32, also under autocast."""

    class Config(Configurable.Config):
        width: int = REQUIRED  # D
        keep: int = REQUIRED  # k
        epsilon: float = 0.3  # not published; see the series on how it goes with the spread of the logits
        mode: str = "soft"
        entropy: str = "shannon"
        block: int = 1  # neighbouring channels that are chosen together; with keep, one of width / keep experts

    def __init__(self, cfg: Gates.Config) -> None:
        super().__init__()
        check(cfg.width, cfg.keep, cfg.epsilon)
        if cfg.mode not in MODES:
            raise ValueError(f"Gates.Config.mode is {cfg.mode!r}: choose one of {', '.join(MODES)}")
        if cfg.width % cfg.block or cfg.keep % cfg.block:
            raise ValueError(f"Gates.Config.block is {cfg.block}: it must divide width {cfg.width} and keep {cfg.keep}")
        self.cfg = cfg

    @property
    def logits(self) -> int:
        """Logits per layer."""
        return self.cfg.width // self.cfg.block

    def top(self, z: Float[Tensor, "*batch logits"]) -> Bool[Tensor, "*batch width"]:
        """The chosen channels: exactly k."""
        return hard_top_k(z.float(), self.cfg.keep // self.cfg.block).repeat_interleave(self.cfg.block, dim=-1)

    def forward(self, z: Float[Tensor, "*batch logits"]) -> Float[Tensor, "*batch width"]:
        cfg = self.cfg
        top = self.top(z)
        if not self.training and cfg.mode != "soft":
            return top.to(torch.float32)
        weights = soft_top_k(z, cfg.keep // cfg.block, cfg.epsilon, cfg.entropy).repeat_interleave(cfg.block, dim=-1)
        gates = top.to(weights.dtype)
        if cfg.mode == "st":
            return gates * (1 + weights - weights.detach())
        return gates + weights - weights.detach() if cfg.mode == "st_full" else weights * gates


class Selector(nn.Module, Configurable):
    """Base of what conditions a decoder on an example. A subclass gives the logits; most read the prompts."""

    prunes: ClassVar[bool] = True  # False: it conditions in another way, and has no masks
    learned: ClassVar[bool] = True  # False: gates of 1, since nothing is learned through them
    penalty: Tensor | None = None  # what the last forward pass in training adds to the loss

    class Config(Configurable.Config):
        gates: Gates.Config = Gates.Config()  # width and keep are pushed down from the decoder
        num_layers: int = REQUIRED
        spread: float = 3.5  # standard deviation of the first logits over channels, in epsilon: see calibrate()

    def __init__(self, cfg: Selector.Config) -> None:
        super().__init__()
        self.num_layers, self.spread = cfg.num_layers, cfg.spread
        self.gates: Gates = cfg.gates.build()

    def logits(self, examples: Examples) -> Float[Tensor, "examples masks layers logits"]:
        """z of every prompt of every example."""
        raise NotImplementedError

    def forward(self, examples: Examples) -> Float[Tensor, "examples masks layers width"]:
        """One set of gates per prompt."""
        z = self.logits(examples)
        return self.gates(z) if self.learned else self.gates.top(z).float()

    @contextmanager
    def applied(self, decoder: Decoder, examples: Examples, warmth: float = 1.0) -> Iterator[None]:
        """Within this context the decoder computes as this selector says. ``warmth`` < 1 mixes in the full model: 1 - w + w g."""
        with gated(decoder, over_time(1 - warmth + warmth * self(examples), examples.span)):
            yield

    def calibrate(self, examples: Examples, importance: Float[Tensor, "layers width"]) -> None:
        """Set the first logits so that their standard deviation over channels is ``spread * epsilon`` (nothing by default).

        With less, SoftTopK gives every channel about k/D and the masks of all prompts coincide: the run starts collapsed.
        """

    def training_flops(self, prompts: Int[Tensor, "examples masks prompt_time"]) -> float:
        """FLOPs that choosing takes in a training step, forward and backward (nothing by default)."""
        return 0.0

    def scale(self, importance: Float[Tensor, "layers width"]) -> Float[Tensor, "layers logits"]:
        """Importances with mean 0 and standard deviation 1 in every layer, those of a block summed."""
        grouped = reduce(importance, "layers (logits block) -> layers logits", "sum", block=self.gates.cfg.block)
        return (grouped - grouped.mean(-1, keepdim=True)) / grouped.std(-1, keepdim=True)


def over_time(
    gates: Float[Tensor, "examples masks layers width"], span: Int[Tensor, "examples time"]
) -> Float[Tensor, "examples #time layers width"]:
    """Gates of every token: those of the mask that its span names. One mask per example stays one."""
    if gates.shape[1] == 1:
        return gates
    return gates[torch.arange(len(gates), device=gates.device)[:, None], span]


class Predictor(Selector):
    """The sparsity predictor: a small causal decoder and a head of two matrices (d_p -> rank -> L D), read at the last token of the prompt.

    The paper does not name an activation between the two matrices and its authors' code has none ("identity"); GELU is our choice.
    """

    class Config(Selector.Config):
        backbone: Decoder.Config = REQUIRED  # tied, so that it has no output matrix; vocab_size is pushed down
        rank: int = 128
        activation: str = "gelu"
        bias_share: float = 0.3  # of the spread that is the importance of the channel, the same for all prompts
        max_prompt: int = 4096  # tokens

    def __init__(self, cfg: Predictor.Config) -> None:
        super().__init__(cfg)
        if cfg.activation not in HEAD_ACTIVATIONS:
            raise ValueError(f"Predictor activation {cfg.activation!r}: choose one of {', '.join(HEAD_ACTIVATIONS)}")
        self.activation, self.bias_share, self.max_prompt = cfg.activation, cfg.bias_share, cfg.max_prompt
        self.backbone: Decoder = cfg.backbone.build()
        self.head_in = nn.Linear(cfg.backbone.dim, cfg.rank)
        self.head_out = nn.Linear(cfg.rank, cfg.num_layers * self.gates.logits)

    def feature(self, prompts: Prompts, lengths: Lengths) -> Float[Tensor, "rows rank"]:
        """What the masks are chosen from: the state at the last token before the padding, through the first matrix.

        Raises ValueError for an empty prompt or one that is longer than ``max_prompt``.
        """
        if prompts.shape[1] == 0 or (not lengths.is_cuda and int(lengths.min()) < 1):
            raise ValueError("the predictor got an empty prompt: give at least one token, such as the tokenizer's bos")
        if prompts.shape[1] > self.max_prompt:
            raise ValueError(
                f"the prompt has {prompts.shape[1]} tokens, the predictor reads {self.max_prompt}: shorten the instruction, "
                "or build the predictor with a larger max_prompt"
            )
        return HEAD_ACTIVATIONS[self.activation](self.head_in(self._last(prompts, lengths)))

    def _last(self, prompts: Prompts, lengths: Lengths) -> Float[Tensor, "rows dim"]:
        states = self.backbone.features(prompts)
        return states[torch.arange(len(states), device=states.device), lengths - 1]

    def of_prompts(self, prompts: Prompts, lengths: Lengths) -> Float[Tensor, "rows layers logits"]:
        """z of every prompt."""
        z = self.head_out(self.feature(prompts, lengths))
        return rearrange(z, "rows (layers logits) -> rows layers logits", layers=self.num_layers)

    def logits(self, examples: Examples) -> Float[Tensor, "examples masks layers logits"]:
        z = self.of_prompts(examples.prompts.flatten(0, 1), examples.prompt_lengths.flatten())
        return z.unflatten(0, examples.prompts.shape[:2])

    def flops_per_prompt(self, length: int) -> float:
        """Forward FLOPs of choosing one set of masks."""
        head = 2.0 * (self.head_in.weight.numel() + self.head_out.weight.numel())
        return self.backbone.flops_per_token(length) * length + head

    def training_flops(self, prompts: Int[Tensor, "examples masks prompt_time"]) -> float:
        return (3 if self.learned else 1) * self.flops_per_prompt(prompts.shape[-1]) * prompts[..., 0].numel()

    @torch.no_grad()
    def calibrate(self, examples: Examples, importance: Float[Tensor, "layers width"]) -> None:
        """Set the first logits by one forward pass over the prompts: centred over prompts, then with the spread wanted over channels.

        New weights give states that hardly differ between prompts (their last tokens are alike), so without the centring the spread is
        that of one mask for all. The bias is then the importance of the channels, the same for all prompts.
        """
        last = self._last(examples.prompts.flatten(0, 1), examples.prompt_lengths.flatten())
        calibrate_head(
            self.head_in, self.head_out, HEAD_ACTIVATIONS[self.activation], last, self.bias_share * self.scale(importance),
            self.spread * self.gates.cfg.epsilon,
        )  # fmt: skip


@torch.no_grad()
def calibrate_head(
    first: nn.Linear, second: nn.Linear, activation: Callable[[Tensor], Tensor], states: Float[Tensor, "prompts dim"],
    bias: Float[Tensor, "layers logits"], spread: float,
) -> None:  # fmt: skip
    """Scale a head, z = second(activation(first(states))), as `Predictor.calibrate` says: z has the standard deviation ``spread`` over
    channels, ``bias`` (in units of the part that depends on the prompt) beside a part that is centred over these prompts.

    Raises BadInput where these prompts are all alike: nothing tells then how much the logits will differ between prompts."""
    if len(states) < 2 or not states.std(dim=0).mean() > ALIKE * states.abs().mean():
        raise BadInput(
            f"the {len(states)} prompts that calibrate the predictor are all alike to it: give some of different instructions"
        )

    def logits() -> Tensor:
        return second(activation(first(states))).unflatten(-1, bias.shape)

    first.bias.zero_()
    first.weight.div_(first(states).std(dim=0).mean())
    first.bias.copy_(-first(states).mean(dim=0))
    second.bias.zero_()
    z = logits()
    centre = z.mean(dim=0)
    unit = (z - centre).std(dim=-1).mean()
    whole = ((z - centre) / unit + bias).std(dim=-1).mean()
    second.weight.mul_(spread / (unit * whole))
    second.bias.copy_((spread / whole * (bias - centre / unit)).flatten())


@torch.no_grad()
def channel_importance(decoder: Decoder, examples: Examples) -> Float[Tensor, "layers width"]:
    """The static importance of every hidden channel on these examples: norm of its column in W_down times its mean size E|h|."""
    down = [layer.down_proj for layer in masked_layers(decoder)]
    return importance_of(down, lambda: decoder.features(examples.tokens))


@torch.no_grad()
def importance_of(
    down: Sequence[nn.Linear], forward: Callable[[], object], counts: Bool[Tensor, "batch time"] | None = None
) -> Float[Tensor, "layers width"]:
    """The importance of what enters these projections in one call of ``forward``, over the tokens that ``counts`` names (None: all)."""
    found: list[Tensor] = []

    def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        size = inputs[0].abs()
        mean = size.mean(dim=(0, 1)) if counts is None else size[counts].mean(dim=0)
        found.append(mean * module.weight.norm(dim=0))  # type: ignore[operator]

    hooks = [layer.register_forward_pre_hook(read) for layer in down]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found)


def counted_logits(decoder: Decoder, examples: Examples) -> Float[Tensor, "counted vocab"]:
    """Logits at the places before the tokens that count, in order: the output matrix is multiplied with nothing else."""
    return decoder.logits(decoder.features(examples.tokens[:, :-1])[examples.counts[:, 1:]]).float()


def conditioned_logits(
    decoder: Decoder, selector: Selector | None, examples: Examples, warmth: float = 1.0
) -> Float[Tensor, "counted vocab"]:
    """Logits of the tokens that count, computed as the selector says."""
    if selector is None:
        return counted_logits(decoder, examples)
    with selector.applied(decoder, examples, warmth):
        return counted_logits(decoder, examples)
