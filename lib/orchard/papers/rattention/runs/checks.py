"""The exact claims, decided by computing: C1 to C6, C16 and C17, in seconds on a CPU.

Each function yields rows (part, seed, unit, value); a claim holds when every value does. `part` says what was compared,
`unit` numbers the cases within a part, `seed` is the seed of the random numbers (0 where there are none). The metrics
are those that `papers/rattention/claims.yaml` names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from orchard.data.published import published
from orchard.kernels.residual import naive as reference
from orchard.kernels.residual import residual_linear_attention
from orchard.kernels.residual.fused import fused
from orchard.nn import Attention, Block, Decoder, FeedForward, RMSNorm
from orchard.papers.rattention.method import costs
from orchard.papers.rattention.method.attention import RAttention, ResidualCache, residual_linear_attention_step
from orchard.papers.rattention.method.models import arm, paper_model

Row = tuple[str, int, int, float]  # part, seed, unit, value
COMMONSENSE = ("ARC-C", "ARC-E", "HellaSwag", "LAMBADA", "PIQA", "SciQ", "WinoGrande", "TriviaQA", "WebQS")


def _relative(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max |b|; 0 where both are zero everywhere."""
    gap, scale = float((a - b).detach().abs().max()), float(b.detach().abs().max())
    return gap / scale if scale else gap


# C1: batch, time, query heads, kv heads, head dim, window, chunk, feature map. Odd lengths, ragged chunks, w = -1 to T.
FORM_CASES = (
    (2, 37, 4, 2, 8, 5, 7, "softmax"),
    (1, 65, 4, 1, 16, 15, 16, "softmax"),
    (2, 33, 3, 3, 8, 0, 64, "softmax"),
    (1, 19, 2, 1, 4, 19, 4, "softmax"),
    (1, 41, 6, 2, 8, -1, 8, "softmax"),
    (2, 29, 4, 2, 8, 3, 5, "relu"),
    (1, 23, 4, 4, 8, 7, 1, "identity"),
)


Form = Callable[..., tuple[Tensor, Tensor]]  # q, k, v, window, feature map, h0 -> output, final state


def _equal(unit: int, seed: int, forms: dict[str, Form]) -> Iterator[Row]:
    """Rows of forms against the recurrence in a case, gradients in q, k, v and h0 included."""
    inputs, weight = _form_inputs(unit, seed)
    *qkv, start = inputs
    *_, window, _, name = FORM_CASES[unit]

    def values(form: Form) -> tuple[list[Tensor], list[Tensor]]:
        output, state = form(*qkv, window, name, start)
        total = (output * weight).sum() + state.square().sum()
        return [output, state], list(torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True))

    expected = values(reference.recurrent)
    for label, form in forms.items():
        for what, ours, theirs in zip(("outputs and state", "gradients"), values(form), expected, strict=True):
            yield f"{label}, {what}", seed, unit, max(map(_relative, ours, theirs))


def c1_equal_forms(seed: int = 0) -> Iterator[Row]:
    """Recurrent, quadratic and chunked form, with gradients in q, k, v and h0, and one-token decoding are one function;
    `c1_triton_form` holds the kernels to the same.

    value: largest absolute difference from the recurrence over its largest absolute value, fp32.
    """
    for unit, (_, time, _, _, dim, window, chunk, name) in enumerate(FORM_CASES):
        chunked = partial(residual_linear_attention, chunk_size=chunk)
        yield from _equal(unit, seed, {"quadratic form": reference.quadratic, "chunked form": chunked})
        q, k, v, start = (x.detach() for x in _form_inputs(unit, seed)[0])
        cache = ResidualCache(start, window + 1, dim, name, dtype=torch.float32)
        steps = [
            residual_linear_attention_step(q[:, t : t + 1], k[:, t : t + 1], v[:, t : t + 1], cache)
            for t in range(time)
        ]
        output, state = reference.recurrent(q, k, v, window, name, start)
        decoded = max(_relative(torch.cat(steps, dim=1), output), _relative(cache.state, state))
        yield "one-token decode, outputs and state", seed, unit, decoded


def _form_inputs(unit: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """q, k, v, h0 of a case of C1, and the weights of its scalar."""
    batch, time, heads, kv_heads, dim, _, _, name = FORM_CASES[unit]
    draw = torch.Generator().manual_seed(seed * len(FORM_CASES) + unit)
    shapes = [(batch, time, h, dim) for h in (heads, kv_heads, kv_heads)]
    shapes.append((batch, kv_heads, reference.feature_dim(name, dim), dim))
    inputs = [torch.randn(shape, generator=draw).requires_grad_() for shape in shapes]
    return inputs, torch.randn(shapes[0], generator=draw)


def c1_triton_form(seed: int = 0) -> Iterator[Row]:
    """The kernels in Triton's interpreter, in a process of its own: it is chosen when triton is first imported.

    No rows where triton is not installed; C1 then lacks these parts, and says so.
    """
    if find_spec("triton") is None:
        return
    program = f"import json; from {__name__} import interpreted; print(json.dumps(list(interpreted({seed}))))"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the kernels do not run in Triton's interpreter:\n{done.stderr[-2000:]}")
    yield from map(tuple, json.loads(done.stdout.splitlines()[-1]))


def interpreted(seed: int) -> Iterator[Row]:
    """The rows of C1 about the Triton kernels; needs TRITON_INTERPRET=1 before triton is imported."""

    def kernels(q: Tensor, k: Tensor, v: Tensor, window: int, name: str, start: Tensor) -> tuple[Tensor, Tensor]:
        return fused(q, k, v, window, start, tile=(16, 2))

    # The paper's phi, several heads and batches, a window inside the text; the tests have more cases.
    yield from _equal(0, seed, {"Triton kernels": kernels})


# Golden vectors of the official implementation (apple/axlearn, axlearn/common/rattention; Apache-2.0).
#
# Made by running its token-by-token scan: batch 1, 2 query heads, 1 kv head, 6 tokens, head dim 4, zero initial state;
# q = 2 sin(0.9s + 1.7u + 0.7h), k = 2 sin(1.3s + 0.6u + 1), v = sin(0.5s + 1.1u + 2) with s = t + 1, u = j + 1 for token
# t, channel j and head h, all counted from 0.
#
# feature map, window, output of both heads at the last token, sum of |output|, sum of |final state| (a copy per head)
GOLDEN: tuple[tuple[str, int, list[list[float]], float, float], ...] = (
    ("softmax", 0, [[-1.65897, -0.95735, 0.79047, 1.67446], [-1.71553, -1.13802, 0.68313, 1.75775]],
     28.72688, 46.60355),
    ("softmax", 1, [[-1.19598, -1.25428, 0.05811, 1.30699], [-1.30391, -1.40200, 0.03202, 1.43106]],
     19.45609, 40.41233),
    ("softmax", 3, [[-0.66002, -1.12599, -0.36147, 0.79807], [-0.75082, -1.23773, -0.37204, 0.90021]],
     9.65451, 20.27645),
    ("relu", 0, [[-11.22849, -6.02146, 5.76587, 11.25221], [-10.93413, -6.52335, 5.01619, 11.07400]],
     192.50555, 126.58092),
    ("relu", 1, [[-8.05018, -8.05980, 0.73838, 8.72966], [-8.48866, -8.09170, 1.14793, 9.13310]],
     131.08546, 112.49590),
    ("relu", 3, [[-4.76960, -7.76538, -2.27510, 5.70143], [-4.60950, -7.20418, -1.92607, 5.45686]],
     63.56577, 54.23568),
)  # fmt: skip

# Softmax, window 1, loss = sum of output * cos(0, 1, 2, ...) with the output flattened as [batch, heads, time, dim]:
# the loss, then the sums of |dq|, |dk|, |dv|.
GOLDEN_GRADIENTS = (-2.180912, 2.64040, 2.53040, 5.56975)


def golden_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """q [1, 6, 2, 4], k and v [1, 6, 1, 4], fp32."""
    s = torch.arange(1.0, 7.0)[:, None, None]
    h = torch.arange(2.0)[None, :, None]
    u = torch.arange(1.0, 5.0)[None, None, :]
    q = 2 * torch.sin(0.9 * s + 1.7 * u + 0.7 * h)
    k = 2 * torch.sin(1.3 * s + 0.6 * u + 1)
    v = torch.sin(0.5 * s + 1.1 * u + 2)
    return q[None], k[None], v[None]


def c2_golden_vectors() -> Iterator[Row]:
    """Our chunked form against numbers made by the official code.

    value: absolute difference for the five printed decimals of a component; for sums and the loss, difference over
    max(1, |printed|), since their last digits carry the rounding of hundreds of terms.
    """
    q, k, v = golden_inputs()

    def gap(found: Tensor, printed: float) -> float:
        return abs(float(found.detach()) - printed) / max(1.0, abs(printed))

    for unit, (name, window, heads, output_sum, state_sum) in enumerate(GOLDEN):
        output, state = residual_linear_attention(q, k, v, window, name)
        gaps = (output[0, -1] - torch.tensor(heads)).abs()
        yield "output at the last token", 0, unit, float(gaps.max())
        yield "sum of |output|", 0, unit, gap(output.abs().sum(), output_sum)
        groups = q.shape[2] // k.shape[2]  # the official state holds one copy per query head
        yield "sum of |final state|", 0, unit, gap(groups * state.abs().sum(), state_sum)

    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    output, _ = residual_linear_attention(inputs[0], inputs[1], inputs[2], window=1)
    flat = output.transpose(1, 2).flatten()  # [batch, heads, time, head_dim], as the constants were made
    loss = (flat * torch.arange(flat.numel(), dtype=flat.dtype).cos()).sum()
    found = [loss, *(x.abs().sum() for x in torch.autograd.grad(loss, inputs))]
    for unit, (ours, printed) in enumerate(zip(found, GOLDEN_GRADIENTS, strict=True)):
        yield "loss and sums of |gradient|", 0, unit, gap(ours, printed)


def _small_model(name: str, seed: int, **rattention: Any) -> Decoder:
    """A decoder of four layers whose local branches matter to the logits: full-size outputs, gains that are not one."""
    cfg = arm(
        name, dim=32, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=8, ffn_dim=48, vocab_size=61, **rattention
    )
    for layer in cfg.layers:
        layer.set(output_init_std=cfg.dim**-0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cfg.build()
        for module in model.modules():
            if isinstance(module, RMSNorm):
                torch.nn.init.uniform_(module.gain, 0.5, 1.5)
    return model.eval()


def _cache_gap(model: Decoder, tokens: Tensor, expected: Tensor, pieces: list[int]) -> float:
    cache = model.new_cache(*tokens.shape, device=tokens.device, dtype=expected.dtype)
    found = torch.cat([model(piece, cache) for piece in tokens.split(pieces, dim=1)], dim=1)
    return float((found - expected).abs().max())


@torch.no_grad()
def c3_decode_equals_parallel(seed: int = 0, window: int = 4) -> Iterator[Row]:
    """Logits with a cache against logits without, over 3(w+1)+5 tokens, for `rattn` and `la` arms.

    value: largest absolute difference, fp32. Decoding token by token from nothing; from a prefill of every length;
    and the sequence in pieces of 1, 2, 3, ... tokens (chunked prefill).
    """
    for name in (f"rattn@{window + 1}", "la"):
        model = _small_model(name, seed)
        time = 3 * (window + 1) + 5
        tokens = torch.randint(0, model.vocab_size, (2, time), generator=torch.Generator().manual_seed(seed))
        gap = partial(_cache_gap, model, tokens, model(tokens))
        yield f"{name}: token by token", seed, 0, gap([1] * time)
        for split in range(2, time + 1):
            yield f"{name}: prefill, then token by token", seed, split, gap([split] + [1] * (time - split))
        yield f"{name}: prefill in pieces", seed, 0, gap([1, 2, 3, 4, 5, time - 15])
        yield f"{name}: prefill in pieces", seed, 1, gap([2, 1, time - 4, 1])


@lru_cache(maxsize=1)
def parameters() -> dict[str, tuple[int, int, int]]:
    """On the meta device, by published size: what RAttention adds to sliding windows, 2Hd per local layer, and non-embedding parameters."""
    found = {}
    with torch.device("meta"):
        for size, shape in costs.SHAPES.items():
            swa, ours = paper_model(size, "swa@512").build(), paper_model(size, "rattn@512").build()
            local = sum(isinstance(layer.attention, RAttention) for layer in ours.layers)
            added = ours.num_parameters() - swa.num_parameters()
            found[size] = added, 2 * shape.num_heads * shape.head_dim * local, swa.num_parameters(embedding=False)
    return found


def c4_parameters() -> Iterator[Row]:
    """value: |parameters(RAtt) - parameters(SWA) - 2Hd per local layer|, parameters."""
    for size, (added, expected, _) in parameters().items():
        yield size, 0, 0, float(abs(added - expected))


def c4b_parameter_share() -> Iterator[Row]:
    """value: (parameters(RAtt) - parameters(SWA)) / non-embedding parameters, a fraction."""
    for size, (added, _, whole) in parameters().items():
        yield size, 0, 0, added / whole


def c5_kv_saving() -> Iterator[Row]:
    """value: |1 - KV tokens(window 1k) / KV tokens(window 4k) - 0.5625| at a context of 4096, a fraction."""
    yield "window 1k against 4k at 4k", 0, 0, abs(costs.kv_saving(4096, window=1023) - 0.5625)


def c6_step_time() -> Iterator[Row]:
    """value: |cut - published cut| in points of percent; context 4096, window 512 against 4k, bf16 state."""
    for size, cut in (("3B", 60.8), ("12B", 56.1)):
        shape = costs.SHAPES[size]
        limit = 100 * costs.step_time_cut(shape, 4096, batch=float("inf"))
        traffic = 100 * costs.kv_saving(4096, window=511, state=costs.state_tokens(shape))
        yield f"{size}: step time, large batch", 0, 0, abs(limit - cut)
        yield f"{size}: KV traffic alone", 0, 0, abs(traffic - 63.3)


# C16: layers L and left context w of a stack that has no global layer.
RECEPTIVE_CASES = ((1, 0), (1, 3), (2, 3), (3, 2))


def reach(local: Attention.Config, layers: int, time: int = 14, seed: int = 0) -> Tensor:
    """Bool [time, time]: whether the output at t (row) of `layers` blocks depends on the input at s (column).

    By gradient, in fp64: an entry is false where d out[t] / d x[s] is exactly zero.
    """
    block = Block.Config(dim=16, attention=local, feed_forward=FeedForward.Config(hidden_dim=16), output_init_std=0.25)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stack = torch.nn.Sequential(*(block.clone().build() for _ in range(layers))).double()
        x = torch.randn(1, time, 16, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(16, dtype=torch.float64)
    output = stack(x)[0] @ weight
    rows = [torch.autograd.grad(output[t], x, retain_graph=True)[0][0].abs().amax(-1) for t in range(time)]
    return torch.stack(rows) > 0


def c16_receptive_field(seed: int = 0) -> Iterator[Row]:
    """value: 1 where d out[t] / d x[s] of pure SWA is zero exactly when s > t or t - s > L w; of RAtt when s > t."""
    heads: dict[str, Any] = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
    for unit, (layers, window) in enumerate(RECEPTIVE_CASES):
        swa = reach(Attention.Config(**heads, window=window), layers, seed=seed)
        ours = reach(RAttention.Config(**heads, window=window), layers, seed=seed)
        distance = torch.arange(len(swa))[:, None] - torch.arange(len(swa))[None, :]
        past = distance >= 0
        near = past & (distance <= layers * window)
        yield "pure SWA: zero beyond L w", seed, unit, float(torch.equal(swa, near))
        yield "RAttention: sees all of the past", seed, unit, float(torch.equal(ours, past))


def c17_published_means(tables: pd.DataFrame | None = None) -> Iterator[Row]:
    """value: |mean of the nine 0/1-shot scores - printed average|, points of percent; one part per column of a table.

    Only columns that print all nine scores can be recomputed: Tables 1 and 2.
    """
    tables = published("rattention") if tables is None else tables
    for key, group in tables.groupby(["table", "model", "context", "arm"], sort=False):
        scores = group.set_index("metric")["value"]
        if {*COMMONSENSE, "Avg"} <= set(scores.index):
            yield f"{key[0]}: {key[-1]}", 0, 0, abs(float(scores[list(COMMONSENSE)].mean()) - float(scores["Avg"]))


CHECKS: dict[str, Callable[[], Iterator[Row]]] = {
    "C1": c1_equal_forms,
    "C2": c2_golden_vectors,
    "C3": c3_decode_equals_parallel,
    "C4": c4_parameters,
    "C4b": c4b_parameter_share,
    "C5": c5_kv_saving,
    "C6": c6_step_time,
    "C16": c16_receptive_field,
    "C17": c17_published_means,
}


def _table(checks: dict[str, Callable[[], Iterator[Row]]]) -> pd.DataFrame:
    rows = [(claim, *row) for claim, check in checks.items() for row in check()]
    return pd.DataFrame(rows, columns=["claim", "part", "seed", "unit", "value"])


def exact_checks() -> pd.DataFrame:
    """All of them in one table: claim, part, seed, unit, value."""
    return _table(CHECKS)


def kernel_checks() -> pd.DataFrame:
    """The rows of :func:`c1_triton_form`, apart from the others, since the interpreter is slow."""
    return _table({"C1": c1_triton_form})
