"""Calibration text through a checkpoint that does not fit in memory, one decoder layer at a time.

    hidden states of all sequences, in a file:  h_0 = embedding(tokens)
    for every layer l:   read its weights,  h_l = layer_l(h_{l-1})  batch by batch in place,  statistics,  forget the weights
    loss = mean over positions of -log softmax(W_head norm(h_L))[next token]

The forward pass is the model's own: all its layers but one are taken away, so that masks, rotary angles and dense layers are
those of `transformers`. Memory (`memory_bound`) holds one layer, one batch and the running sums of one layer, whatever the
number of layers and of calibration tokens; the ids of the tokens alone are kept, 8 bytes each. Hidden states take
d * (bytes of the type) per token on the disk and are read and written a batch at a time.
"""

from __future__ import annotations

import ctypes
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from orchard.papers.moe_lottery.integrations.checkpoint import Checkpoint
from orchard.papers.moe_lottery.integrations.families import Mixture, Watcher, routers
from orchard.papers.moe_lottery.method.collect import LayerStatistics
from orchard.papers.moe_lottery.method.criteria import COLUMNS, CRITERIA, chosen, criterion
from orchard.papers.moe_lottery.method.dropping import ExpertsError, masked, swapped, worst
from orchard.train.hardware import choose

T = TypeVar("T")

ONE_BY_ONE = ("wsr", "ewn", "aimer")  # criteria of the weights of one expert alone
SLOW = ("wsr", "ews_matched")  # singular values, matched units: hours on the CPU for a model of billions of parameters
DEFAULT = tuple(name for name, c in CRITERIA.items() if c.cost != "backward" and name not in SLOW)
PIECE = 256  # positions whose logits are held at a time
RUNTIME = 2**26  # bytes


@dataclass(frozen=True)
class LayerScores:
    """What is kept of a mixture: `scores` [n] by criterion; `orders`, all experts in the order in which they would be dropped, by
    (criterion, direction), the paper's direction first; `count`, tokens routed to each expert; `mass`, mean sum of the router's
    weights of the chosen."""

    place: int
    name: str
    tokens: int
    count: Int[Tensor, "n"]
    mass: float
    scores: dict[str, Float[Tensor, "n"]]
    orders: dict[tuple[str, str], list[int]]


@dataclass(frozen=True)
class Passed(Generic[T]):
    """A pass: what is kept of every mixture, mean next-token loss of the text in nats."""

    layers: list[T]
    loss: float


def check_criteria(names: Sequence[str]) -> None:
    """Raise ``BadInput`` for an unknown criterion, ``ExpertsError`` for one that needs gradients."""
    for name in names:
        if criterion(name).cost == "backward":
            raise ExpertsError(
                f"criterion {name!r} needs gradients of the whole model, which a pass layer by layer does not have: choose one of "
                f"{', '.join(n for n, c in CRITERIA.items() if c.cost != 'backward')}; or, where the model fits in memory and "
                "its routers are called gate, load it with transformers and call "
                "orchard.papers.moe_lottery.method.collect(..., gradients=True)"
            )


def device_of(name: str) -> str:
    """The device of a pass: "auto", "cpu" or "cuda". Running sums are in float64, which Apple's GPUs do not have: the CPU there.

    Raises:
        BadInput: unknown, or not here.
    """
    found = choose(name).device
    return "cpu" if found == "mps" else found


def memory_bound(checkpoint: Checkpoint, batch_size: int, length: int, criteria: Sequence[str]) -> dict[str, int]:
    """Bytes that a pass takes at most beyond what the process holds before, term by term, and their sum under "total".

    `weights`  the largest of: a decoder layer, the embedding, the output matrix
    `files`    pages of the checkpoint's file that are mapped while a layer is read; the system can take them back
    `sums`     running sums of the largest mixture
    `batch`    activations of one batch in the largest layer, the statistics' float32 copies of the rows, and the logits
    `runtime`  code that PyTorch loads at its first use, and blocks that the allocator keeps (a constant, measured generously)
    `criteria` float64 copies that criteria make: of the weights of one expert, or of a piece of those of all; `ews_matched`: of all;
               and, of gpt-oss, all weights in the layout of the other families
    """
    config, size = checkpoint.model.config, checkpoint.dtype.itemsize
    layers = [checkpoint.bytes(f"model.layers.{i}.") for i in range(len(checkpoint.layers))]
    parts = [*layers, checkpoint.bytes("model.embed_tokens."), checkpoint.bytes("lm_head.")]
    tokens, dim, vocab = batch_size * length, int(config.hidden_size), checkpoint.vocab_size
    sums = work = rows = 0
    for mixture in checkpoint.mixtures:
        n, f = mixture.num_experts, mixture.experts.down_proj[0].numel() // dim
        expert = 3 * f * dim
        sums = max(sums, n * vocab * 4 + 8 * (3 * n * dim + n * n + 5 * n))
        one = (40 if "wsr" in criteria else 28) * expert if set(ONE_BY_ONE) & set(criteria) else 0
        every = (size + 16) * n * expert if "ews_matched" in criteria else 16 * n * min(COLUMNS, 2 * f * dim)
        work = max(work, (size * n * expert if mixture.turned else 0) + max(one, every, 10 * n * vocab))
        own = size * (5 * dim + 6 * f) if mixture.turned else 0
        rows = max(rows, tokens * mixture.top_k * (size * (3 * dim + 4 * f) + own + 16 * dim) + 8 * tokens * n)
    wide = max(s[0] for name, s in checkpoint.shapes.items() if ".layers." in name and len(s) == 2)
    attention = tokens * (size + 4) * (6 * dim + 8 * wide) + 6 * length * length
    if config._attn_implementation == "eager":  # gpt-oss: all weights of all heads
        attention += 5 * size * tokens * length * int(config.num_attention_heads)
    logits = 4 * PIECE * vocab * 4
    terms = {
        "weights": max(parts), "files": max(parts), "sums": sums, "batch": max(attention, rows) + logits,
        "criteria": work, "runtime": RUNTIME,
    }  # fmt: skip
    return terms | {"total": sum(terms.values())}


class _HiddenStates:
    """Hidden states [sequences, length, dim] in a file; a batch of them in memory."""

    def __init__(self, path: Path, sequences: int, length: int, dim: int, dtype: torch.dtype) -> None:
        self.row, self.shape, self.dtype = length * dim * dtype.itemsize, (length, dim), dtype
        if (free := shutil.disk_usage(path.parent).free) < self.row * sequences:
            raise ExpertsError(
                f"hidden states of {sequences} sequences of {length} tokens take {self.row * sequences / 2**30:.1f} GiB in {path.parent}, "
                f"{free / 2**30:.1f} GiB are free: take fewer sequences, or write to another disk"
            )
        self.file = path.open("w+b")

    def write(self, start: int, values: Tensor) -> None:
        self.file.seek(start * self.row)
        raw = values.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy()
        self.file.write(raw.data.cast("B"))

    def read(self, start: int, count: int) -> Tensor:
        self.file.seek(start * self.row)
        raw = np.empty(count * self.row, dtype=np.uint8)
        self.file.readinto(raw.data)
        return torch.from_numpy(raw).view(self.dtype).view(count, *self.shape)


def score_checkpoint(
    checkpoint: Checkpoint, tokens: Int[Tensor, "sequences length"], criteria: Sequence[str] = DEFAULT, *,
    batch_size: int = 4, device: str = "cpu", scratch: str | Path | None = None, seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Passed[LayerScores]:  # fmt: skip
    """Scores of every expert, layer by layer, and the loss of the text. Hidden states lie in a file in the folder `scratch`.

    Raises:
        BadInput: an unknown criterion.
        ExpertsError: a criterion that needs gradients, no text, or too little space on the disk.
    """
    check_criteria([name for name in criteria if name != "random"])
    generator = torch.Generator().manual_seed(seed)
    return run_layers(
        checkpoint, tokens, lambda layer, stats: _scores(layer, stats, criteria, generator),
        batch_size=batch_size, device=device, scratch=scratch, progress=progress,
    )  # fmt: skip


def run_layers(
    checkpoint: Checkpoint, tokens: Int[Tensor, "sequences length"],
    use: Callable[[Mixture, LayerStatistics], T], *, batch_size: int = 4, device: str = "cpu",
    scratch: str | Path | None = None, progress: Callable[[str], None] = lambda line: None,
) -> Passed[T]:  # fmt: skip
    """Pass `tokens` through the model; `use` sees each mixture and its statistics while its weights are in memory, and what it
    returns is kept. Padding of a pruned checkpoint is never chosen.

    Raises:
        ExpertsError: no text, or too little space on the disk.
    """
    if not tokens.numel():
        raise ExpertsError("no calibration text: not one sequence of tokens was given")
    if int(tokens.max()) >= checkpoint.vocab_size:
        raise ExpertsError(
            f"token {int(tokens.max())} is not one of the {checkpoint.vocab_size} of the model: use the model's own tokenizer"
        )
    sequences, length = tokens.shape
    if length > (most := int(checkpoint.model.config.max_position_embeddings)):
        raise ExpertsError(
            f"sequences of {length} tokens: the model was made for {most} at most; take a smaller --length"
        )
    starts, kept = range(0, sequences, batch_size), list[T]()
    with tempfile.TemporaryDirectory(dir=scratch) as folder, torch.no_grad():
        dim = int(checkpoint.model.config.hidden_size)
        hidden = _HiddenStates(Path(folder) / "hidden", sequences, length, dim, checkpoint.dtype)
        embedding = checkpoint.read("model.embed_tokens.weight")
        for start in starts:
            hidden.write(start, F.embedding(tokens[start : start + batch_size], embedding))
        del embedding
        for number in range(len(checkpoint.layers)):
            mixture = checkpoint.mixture_of(number)
            with checkpoint.layer(number, device) as layer:
                collector = Watcher([mixture] if mixture else [], checkpoint.vocab_size)
                with _alone(checkpoint, layer, number, mixture, device), collector.watching():
                    for start in starts:
                        collector.tokens = tokens[start : start + batch_size]
                        batch = hidden.read(start, len(collector.tokens)).to(device)
                        out = checkpoint.model.model(inputs_embeds=batch, use_cache=False).last_hidden_state
                        hidden.write(start, out)
                kept += [use(mixture, collector.statistics[0])] if mixture else []
                del collector
            _trim()
            progress(f"layer {number + 1} of {len(checkpoint.layers)}: {'experts' if mixture else 'dense'}")
        loss = _loss(checkpoint, hidden, tokens, batch_size, device)
        hidden.file.close()
    return Passed(kept, loss)


def _loss(checkpoint: Checkpoint, hidden: _HiddenStates, tokens: Tensor, batch_size: int, device: str) -> float:
    """Mean next-token loss in nats: final norm, output matrix, cross-entropy, a few positions at a time."""
    norm = checkpoint.model.model.norm
    parts = {name.removeprefix("model.norm."): name for name in checkpoint.sources if name.startswith("model.norm.")}
    norm.load_state_dict({name: checkpoint.read(full, device) for name, full in parts.items()}, assign=True)
    tied = "lm_head.weight" not in checkpoint.sources
    head = checkpoint.read("model.embed_tokens.weight" if tied else "lm_head.weight", device)
    bias = checkpoint.read("lm_head.bias", device) if "lm_head.bias" in checkpoint.sources else None
    scale = float(getattr(checkpoint.model.config, "logits_scaling", 1.0))
    total, count = 0.0, 0
    for start in range(0, len(tokens), batch_size):
        ids = tokens[start : start + batch_size].to(device)
        rows, target = norm(hidden.read(start, len(ids)).to(device))[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        for one, wanted in zip(rows.split(PIECE), target.split(PIECE), strict=True):
            total += float(F.cross_entropy(F.linear(one, head, bias).float() / scale, wanted, reduction="sum"))
        count += target.numel()
    norm.to("meta")
    return total / max(1, count)


@contextmanager
def _alone(
    checkpoint: Checkpoint, layer: nn.Module, number: int, mixture: Mixture | None, device: str
) -> Iterator[None]:
    """The model as one layer without a final norm; the padding of its mixture is masked."""
    base, config = checkpoint.model.model, checkpoint.model.config
    types = getattr(config, "layer_types", None)
    one = {"num_hidden_layers": 1} | ({} if types is None else {"layer_types": [types[number]]})
    hidden = masked(routers(layer), {0: checkpoint.padding[mixture.place]}) if mixture else nullcontext()
    parts: dict[str, Any] = {"layers": nn.ModuleList([layer]), "norm": nn.Identity()}
    parts |= {"embedding_multiplier": 1.0} if number and hasattr(base, "embedding_multiplier") else {}  # Granite's
    base.rotary_emb.to(device)
    with swapped(base, **parts), swapped(config, **one), hidden:
        yield


def _scores(layer: Mixture, stats: LayerStatistics, criteria: Sequence[str], generator: torch.Generator) -> LayerScores:
    scores: dict[str, Tensor] = {}
    orders: dict[tuple[str, str], list[int]] = {}
    for name in criteria:
        if name == "random":
            scores[name] = torch.rand(stats.num_experts, generator=generator, dtype=torch.float64)
            orders[name, "min"] = scores[name].argsort().tolist()
            continue
        found = criterion(name)
        scores[name] = _score(stats, name).cpu()
        for direction in ("max", "min") if found.drop == "max" else ("min", "max"):  # the paper's first
            if found.pairs is not None:  # looks at one number after the other: not on a GPU
                counts = replace(stats, count=stats.count.cpu(), together=stats.together.cpu(), seen=stats.seen.cpu())
                orders[name, direction] = chosen(counts, name, stats.num_experts, direction)
            else:
                orders[name, direction] = _order(layer, name, scores[name], direction)
    mass = float(stats.soft.sum() / stats.tokens)
    return LayerScores(layer.place, layer.name, stats.tokens, stats.count.cpu(), mass, scores, orders)


def _order(layer: Mixture, name: str, scores: Tensor, direction: str) -> list[int]:
    try:
        return worst(scores, len(scores), direction)
    except ValueError as error:
        raise ExpertsError(
            f"{layer.name}: {name} gives {error}; weights or hidden states are not finite: check the checkpoint, or its type"
        ) from None


def _score(stats: LayerStatistics, name: str) -> Tensor:
    """Score of a criterion, of one expert after the other where it looks at one alone: no float64 copy of the whole layer."""
    score = criterion(name).score
    if name not in ONE_BY_ONE:
        return score(stats)
    return torch.cat([score(_only(stats, expert)) for expert in range(stats.num_experts)])


def _only(stats: LayerStatistics, expert: int) -> LayerStatistics:
    """Statistics of one expert, as if the layer had no other."""
    values = {f.name: getattr(stats, f.name) for f in fields(stats)}
    one: dict[str, Any] = {name: v[expert : expert + 1] for name, v in values.items() if isinstance(v, Tensor)}
    return replace(stats, **(one | {"together": one["together"][:, expert : expert + 1]}))


def _trim() -> None:
    """Give freed memory back to the system: glibc keeps blocks below 32 MiB, scattered, and layers would add up."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # type: ignore[union-attr]
