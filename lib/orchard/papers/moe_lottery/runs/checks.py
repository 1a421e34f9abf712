"""Claim M15 as rows: equalities that hold by definition, checked on a tiny decoder with real routing.

Every value is the largest absolute difference over the largest absolute value of what it should be, in fp32 against the threshold
1e-5 (counts and -inf must agree exactly). Parts:

    slice against mask      experts removed = their router logits at -inf, before the softmax
    save and reload         unequal counts per layer, through `orchard.train.save_model`
    criteria against loops  each criterion of the streaming collector against `method.naive`, in float64 from stored rows
    permuted experts        permuting the experts of a layer permutes the scores and leaves the logits alone
    one function            grouped product, loop, the watched forward, and the implementations of `transformers`, with one set of weights

and, on checkpoints of Hugging Face in every layout that is known, those of `integrations.tiny.invariants`.
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from orchard.config import REQUIRED
from orchard.data import ByteTokenizer
from orchard.nn import Attention, Block, Decoder, MixtureOfExperts
from orchard.nn.moe import Dispatch, combine, grouped_outputs
from orchard.papers.moe_lottery.integrations.tiny import gap
from orchard.papers.moe_lottery.integrations.tiny import invariants as layout_invariants
from orchard.papers.moe_lottery.method.collect import Collector, collect
from orchard.papers.moe_lottery.method.criteria import CRITERIA
from orchard.papers.moe_lottery.method.dropping import drop_experts, masked, mixture_layers, pruned_config
from orchard.papers.moe_lottery.method.naive import NAIVE, stored
from orchard.runs import Run, Workspace

Row = tuple[str, str, float]  # part, unit, value
VOCAB, DIM, EXPERTS, TOP_K, HIDDEN = 19, 24, 6, 2, 4
UNEQUAL = {0: [1, 4], 1: [0, 2, 3]}  # layer -> experts


def tiny_config(vocab_size: int = VOCAB, **mixture: Any) -> Decoder.Config:
    """Two layers of six experts, top 2; `mixture` overrides fields of the mixtures."""
    experts = MixtureOfExperts.Config(**{"hidden_dim": HIDDEN, "num_experts": EXPERTS, "top_k": TOP_K} | mixture)
    attention = Attention.Config(num_heads=2, num_kv_heads=2, head_dim=DIM // 2)
    layers = [Block.Config(attention=attention, feed_forward=experts) for _ in range(2)]
    return Decoder.Config(vocab_size=vocab_size, dim=DIM, layers=layers)


def tiny(seed: int = 0, vocab_size: int = VOCAB, **mixture: Any) -> Decoder:
    """A decoder of `tiny_config` whose routers send tokens to different experts and whose rows have outliers."""
    torch.manual_seed(seed)
    model: Decoder = tiny_config(vocab_size, **mixture).build().eval()
    with torch.no_grad():
        for layer in mixture_layers(model):
            layer.gate.weight.normal_(0, 0.3)
            layer.experts.down_proj.normal_(0, 0.3)
            layer.experts.down_proj[:, 0] *= 8  # one loud channel
    return model


def batches(seed: int = 0, vocab_size: int = VOCAB) -> list[Int[Tensor, "_ _"]]:
    """Two batches of odd sizes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab_size, shape, generator=generator) for shape in ((2, 17), (3, 11))]


def slicing(seed: int) -> Iterator[Row]:
    """Removing experts against masking them, with and without renormalised weights; then save and reload."""
    for unit, renormalise in (("renormalised", True), ("softmax kept", False)):
        model, tokens = tiny(seed, renormalise=renormalise), batches(seed)[0]
        with torch.no_grad(), masked(model, UNEQUAL):
            wanted = model(tokens)
        drop_experts(model, UNEQUAL)
        with torch.no_grad():
            yield "slice against mask", unit, gap(model(tokens), wanted)


def reloading(seed: int) -> Iterator[Row]:
    """A pruned model, saved and loaded again: its logits."""
    from orchard.train import TextModel, load_saved, save_model

    tokenizer = ByteTokenizer.Config().build()
    model = tiny(seed, tokenizer.vocab_size)
    kept = drop_experts(model, UNEQUAL)
    tokens = batches(seed, tokenizer.vocab_size)[0]
    with tempfile.TemporaryDirectory() as folder:
        cfg = pruned_config(tiny_config(tokenizer.vocab_size), kept)
        save_model(Path(folder) / "model", TextModel(cfg, model, tokenizer))
        loaded = load_saved(Path(folder) / "model").model
    with torch.no_grad():
        yield "save and reload", "orchard, unequal counts", gap(loaded(tokens), model(tokens))


def criteria_rows(seed: int) -> Iterator[Row]:
    """Every criterion from running sums against the loops over stored rows."""
    model, text = tiny(seed), batches(seed)
    exact, found = stored(model, text, VOCAB, gradients=True), collect(model, text, VOCAB, gradients=True)
    for name, criterion in CRITERIA.items():
        wanted = [torch.tensor(NAIVE[name](rows), dtype=torch.float64) for rows in exact]
        pairs = zip(map(criterion.score, found), wanted, strict=True)
        yield "criteria against loops", name, max(gap(scores, loops) for scores, loops in pairs)


def permuted(model: Decoder, order: list[int]) -> Decoder:
    """A copy in which the experts of every layer stand in another order: expert order[i] is number i."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for layer in mixture_layers(model):
            for parameter in (layer.gate.weight, *layer.weights):
                parameter.copy_(parameter[order].clone())
    return model


def permutation(seed: int) -> Iterator[Row]:
    """Scores and logits of a model and of one whose experts changed places."""
    model, text = tiny(seed), batches(seed)
    order = torch.randperm(EXPERTS, generator=torch.Generator().manual_seed(seed)).tolist()
    other = permuted(model, order)
    before, after = (collect(either, text, VOCAB, gradients=True) for either in (model, other))
    yield "permuted experts", "logits", gap(other(text[0]), model(text[0]))
    for name, criterion in CRITERIA.items():
        pairs = zip(after, before, strict=True)
        yield "permuted experts", name, max(gap(criterion.score(a), criterion.score(b)[order]) for a, b in pairs)


def one_function(seed: int) -> Iterator[Row]:
    """Every way to compute a mixture against the loop over experts: output, and gradient of all weights."""
    model = tiny(seed)
    grouped: Any = model.layers[0].feed_forward
    x = torch.randn(2, 17, DIM, generator=torch.Generator().manual_seed(seed))
    ours = {"sorted": grouped, "grouped product": _grouped_product(grouped), "watched": _watched(grouped, x)}
    ways: dict[str, tuple[Callable[[Tensor], Tensor], nn.Module]] = {name: (way, grouped) for name, way in ours.items()}
    if importlib.util.find_spec("transformers") is not None:
        for implementation in ("eager", "grouped_mm", "batched_mm"):
            block = mixtral_block(grouped, implementation)
            ways[f"transformers, {implementation}"] = (block, block)
    loop = MixtureOfExperts.Config(dim=DIM, hidden_dim=HIDDEN, num_experts=EXPERTS, top_k=TOP_K, backend="loop").build()
    loop.load_state_dict(grouped.state_dict())
    wanted = _output_and_gradient(loop.eval(), loop, x)
    for name, (way, module) in ways.items():
        found = _output_and_gradient(way, module, x)
        for what, a, b in zip(("output", "gradients"), found, wanted, strict=True):
            yield "one function", f"{name}: {what}", gap(a, b)


def mixtral_block(ours: MixtureOfExperts, implementation: str, device: str = "cpu") -> nn.Module:
    """The Mixtral block of `transformers` with our weights. `implementation`: eager, grouped_mm (its default) or batched_mm."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    n, two_hidden, dim = ours.experts.gate_up_proj.shape
    cfg = MixtralConfig(
        hidden_size=dim, intermediate_size=two_hidden // 2, num_local_experts=n, num_experts_per_tok=ours.gate.top_k
    )
    cfg._experts_implementation = implementation
    block = MixtralSparseMoeBlock(cfg).to(device)
    block.load_state_dict(ours.state_dict())  # the same names and layout
    return block.eval()


def _grouped_product(mixture: MixtureOfExperts) -> Callable[[Tensor], Tensor]:
    """The form that a GPU takes."""

    def forward(x: Tensor) -> Tensor:
        experts, hidden = mixture.experts, x.flatten(0, 1)
        _, weights, index = mixture.gate(hidden)
        dispatch = Dispatch.of(index, experts.num_experts)
        rows = hidden.repeat_interleave(index.shape[1], dim=0)[dispatch.order]
        outputs = grouped_outputs(rows, dispatch.offsets, experts.gate_up_proj, experts.down_proj, experts.act_fn)
        return combine(outputs, dispatch, weights).view_as(x)

    return forward


def _watched(mixture: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    collector = Collector(mixture_layers(nn.ModuleList([mixture])), VOCAB)
    collector.tokens = torch.zeros(x.shape[:2], dtype=torch.long)

    def forward(x: Tensor) -> Tensor:
        with collector.watching():
            output: Tensor = mixture(x)
        return output

    return forward


def _output_and_gradient(way: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    output = way(x)
    gradients = torch.autograd.grad(output, list(module.parameters()), weight)
    return output, torch.cat([gradient.flatten() for gradient in gradients])


class Invariants(Run):
    """All parts; a run, so that they are computed once."""

    class Config(Run.Config):
        seed: int = REQUIRED

    cfg: Config

    parts: ClassVar[Sequence[Callable[[int], Iterable[Row]]]] = (
        slicing, reloading, criteria_rows, permutation, one_function,
    )  # fmt: skip

    def compute(self, work: Workspace) -> dict[str, Any]:
        """Rows part, seed, unit, value."""
        found = [(*row, self.cfg.seed) for part in self.parts for row in part(self.cfg.seed)]
        return {"rows": [dict(zip(("part", "unit", "value", "seed"), row, strict=True)) for row in found]}


class Layouts(Invariants):
    """The same on tiny checkpoints of Hugging Face, in every layout: written, pruned, padded, loaded again. No rows where
    `transformers` is missing."""

    parts = (layout_invariants,) if importlib.util.find_spec("transformers") is not None else ()
