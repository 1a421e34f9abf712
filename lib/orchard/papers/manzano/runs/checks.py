"""The exact claims as rows: S1 to S6 and M10, in seconds on a CPU. Each function yields rows (part, seed, unit, value).

S1   space-to-channel: largest difference from a permuted pixel_unshuffle, and of its inverse from what was put in
S2   FSQ: ids that differ from the specification and, where it is installed, from vector-quantize-pytorch; distance of the values
S3   bytes of the frozen weights, and codes of fixed pictures, that a training of the language model changes; and, as a control, that
     of the language model's own weights changes some
S4   largest error of Euler with the exact velocity
S5   weights in blocks beside their formulas, and beside published totals (relative)
S6   share of objects and of characters that the parser reads right on clean renders
M10  relative error of d L / d logits of image targets from the weight times that at weight 1; of text targets from no change
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from orchard.nn import Decoder, channel_to_space, space_to_channel
from orchard.papers.manzano.data.parser import characters_right, objects_right, read
from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.method import naive
from orchard.papers.manzano.method.decoder import BLOCKS, block_weights, blocks, count_parameters
from orchard.papers.manzano.method.flow import euler
from orchard.papers.manzano.method.fsq import FSQ
from orchard.papers.manzano.method.models import DIT_AIR, Picture, Size, language_model, tokenizer
from orchard.papers.manzano.method.tokenizer import HybridTokenizer
from orchard.papers.manzano.method.unified import Sequences, Vocabulary, generation, losses, understanding
from orchard.papers.manzano.runs.unified import changed_bytes
from orchard.train import AdamW

Row = tuple[str, int, int, float]  # part, seed, unit, value
LEVELS = ([8, 8, 8, 5, 5, 5], [8, 5, 5, 5], [8, 8, 8, 6, 5], [3], [4, 7, 1000])
PUBLISHED = {  # weights of size B, embedders and heads included (arXiv 2503.10618)
    "MMDiT": 902e6, "MMDiT, shared modulation": 631e6, "DiT-Air": 321e6, "DiT-Air Lite, attention shared": 230e6,
}  # fmt: skip
TINY, VOCABULARY = Picture(12, 24), Vocabulary(text_size=7, codes=60)
WEIGHTS = (0.1, 0.25, 0.5, 2.0)


def s1_space_to_channel(seed: int = 0) -> Iterator[Row]:
    """Both must be 0."""
    x = torch.randn(2, 6 * 9, 5, generator=torch.Generator().manual_seed(seed))
    squares = space_to_channel(x, 6, 9, 3)
    channels_first = F.pixel_unshuffle(x.mT.unflatten(2, (6, 9)), 3)  # channels (c p q)
    permuted = channels_first.unflatten(1, (5, 9)).transpose(1, 2).flatten(1, 2).flatten(2).mT
    yield "pixel_unshuffle", seed, 0, float((squares - permuted).abs().max())
    yield "inverse", seed, 0, float((channel_to_space(squares, 6, 9, 3) - x).abs().max())


def s2_fsq(seed: int = 0) -> Iterator[Row]:
    """Ids that differ must be 0, distances of values rounding."""
    for unit, levels in enumerate(LEVELS):
        fsq: FSQ = FSQ.Config(levels=levels).build()
        z = 2 * torch.randn(10_000, len(levels), generator=torch.Generator().manual_seed(seed))
        values, ids = fsq(z)
        wanted = [naive.fsq(row, levels) for row in z[:500].tolist()]
        differ = ids[:500] != torch.tensor([number for _, number in wanted])
        gap = (values[:500] - torch.tensor([value for value, _ in wanted])).abs().max()
        yield "specification, ids", seed, unit, float(differ.sum())
        yield "specification, values", seed, unit, float(gap)
        if find_spec("vector_quantize_pytorch") is not None:
            from vector_quantize_pytorch import FSQ as Theirs

            theirs, numbers = Theirs(levels)(z[None])
            yield "vector-quantize-pytorch, ids", seed, unit, float((numbers[0] != ids).sum())
            yield "vector-quantize-pytorch, values", seed, unit, float((theirs[0] - values).abs().max())


def tiny_models(seed: int) -> tuple[Decoder, HybridTokenizer, Tensor, Callable[[], tuple[Sequences, Tensor]]]:
    """A language model, a frozen tokenizer, pictures, and what makes a batch of both tasks from them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder: Decoder = language_model(Size(16, 2, 4, 24, 2), VOCABULARY).build()
        built: HybridTokenizer = tokenizer(TINY, Size(8, 1, 2, 8), [5, 4, 3], hidden_dim=12, dim=16).build()
        pictures = torch.randint(0, 256, (4, TINY.height, TINY.width, 3), dtype=torch.uint8)

    def batch() -> tuple[Sequences, Tensor]:
        vectors, ids = built.encode(pictures)
        read = understanding(VOCABULARY, built.n, [[1, 2]] * 4, [[3, 4], [5], [6, 6], [2, 1]])
        return Sequences.joined([read, generation(VOCABULARY, [[1, 2, 3]] * 4, ids)]), vectors

    return decoder, built.freeze(), pictures, batch


def s3_freeze(seed: int = 0, steps: int = 5) -> Iterator[Row]:
    """Frozen bytes and codes must be 0, the others not."""
    decoder, tok, pictures, batch = tiny_models(seed)
    model = torch.nn.ModuleDict({"language_model": decoder, "tokenizer": tok})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    codes = tok.encode(pictures)[1]
    optimizer = AdamW.Config(learning_rate=0.1).build().optimizer(model, fused=False)
    for _ in range(steps):
        optimizer.zero_grad()
        losses(decoder, *batch()).total().backward()
        optimizer.step()
    old = {name.removeprefix("tokenizer."): value for name, value in before.items() if name.startswith("tokenizer.")}
    yield "frozen bytes", seed, 0, float(changed_bytes(old, tok.state_dict()))
    yield "codes of fixed pictures", seed, 0, float((tok.encode(pictures)[1] != codes).sum())
    learned = ("language_model.embedding.weight", "tokenizer.continuous.output.weight")
    after = model.state_dict()
    for name in learned:
        yield f"control: {name}", seed, 0, float((after[name] != before[name]).sum())


def s4_sampler(seed: int = 0) -> Iterator[Row]:
    """value: largest absolute error, fp32."""
    generator = torch.Generator().manual_seed(seed)
    x0, noise = (torch.randn(4, 6, 6, 3, generator=generator) for _ in range(2))
    for steps in (1, 2, 10, 30):
        yield "Euler", seed, steps, float((euler(lambda x, t: noise - x0, noise, steps) - x0).abs().max())


def s5_decoders() -> Iterator[Row]:
    """value: weights apart from the formula; relative distance of the formula from the published total."""
    for kind in BLOCKS:
        for unit, size in enumerate(DIT_AIR.values()):
            with torch.device("meta"):
                held = count_parameters(blocks(kind, size.num_layers, size.dim))
            yield f"{kind}: formula", 0, unit, float(abs(held - block_weights(kind, size.num_layers, size.dim)))
    for kind, total in PUBLISHED.items():
        size = DIT_AIR["B"]
        yield f"{kind}: published", 0, 0, abs(block_weights(kind, size.num_layers, size.dim) / total - 1)


def s6_parser(scenes: int = 1000) -> Iterator[Row]:
    """value: share that is right."""
    for unit, k in enumerate((1, 2, 3, 6)):
        world: SceneWorld = SceneWorld.Config(k=k, test=scenes).build()
        drawn = world.scenes("test")
        found = read(world, world.pixels(drawn)).records
        yield "objects", 0, unit, float(objects_right(found, drawn.records).mean())
        yield "characters", 0, unit, float(characters_right(found, drawn.records).mean())


def m10_one_loss(seed: int = 0) -> Iterator[Row]:
    """value: largest relative error, fp32."""
    decoder, _, _, batch = tiny_models(seed)
    logits: list[Tensor] = []
    plain = decoder.logits

    def watched(features: Tensor) -> Tensor:
        logits.append(plain(features))
        return logits[-1]

    decoder.logits = watched  # type: ignore[method-assign]
    found = losses(decoder, *batch())
    base = torch.autograd.grad(found.total(1.0), logits, retain_graph=True)
    for unit, weight in enumerate(WEIGHTS):
        gradients = torch.autograd.grad(found.total(weight), logits, retain_graph=True)
        for name, gradient, one, factor in zip(("text", "image"), gradients, base, (1.0, weight), strict=True):
            yield name, seed, unit, float((gradient - factor * one).abs().max() / (factor * one).abs().max())


CHECKS: dict[str, Callable[[], Iterator[Row]]] = {
    "S1": s1_space_to_channel,
    "S2": s2_fsq,
    "S3": s3_freeze,
    "S4": s4_sampler,
    "S5": s5_decoders,
    "S6": s6_parser,
    "M10": m10_one_loss,
}


def exact_checks() -> pd.DataFrame:
    """All of them in one table: claim, part, seed, unit, value."""
    rows = [(claim, *row) for claim, check in CHECKS.items() for row in check()]
    return pd.DataFrame(rows, columns=["claim", "part", "seed", "unit", "value"])
