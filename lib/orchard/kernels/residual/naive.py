"""Residual linear attention written as its definition: the specification that the fast forms are tested against.

With left context `window` = w (token t's sliding window is t-w ... t) and delta = w + 1, per kv head:

    S_t = S_{t-1} + phi(k_t)^T v_t,   S_{-1} = initial state (default 0)
    o_t = phi(q_t) S_{t-delta}                                     raw q and k: no rotation, no norm, no d^-0.5

so o_t reads the tokens 0 ... t-w-1, exactly those that the window cannot see. `window = -1` gives delta = 0: plain
linear attention that includes the current token. A feature map phi takes d numbers to d' (RAttention, section 3.1).

Packed sequences: with `cu_seqlens` [N+1], the batch is one row of N sequences, sequence i being the tokens cu_seqlens[i]
... cu_seqlens[i+1]-1. Each has its own initial and final state, and none reads another. A sequence may be empty: its
final state is its initial state.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Pair = tuple[Tensor, Tensor]
Form = Callable[..., Pair]


def _both_signs(x: Tensor) -> Tensor:
    """[x, -x] on a new axis before the last: [..., d] -> [..., 2, d]."""
    return torch.stack([x, -x], dim=-2)


# The paper's phi is "softmax": two separate softmaxes side by side. "half_softmax" keeps the first half alone.
FEATURE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: _both_signs(x).softmax(-1).flatten(-2),
    "relu": lambda x: _both_signs(x).relu().flatten(-2),
    "identity": lambda x: x,
    "half_softmax": lambda x: x.softmax(-1),
    "elu": lambda x: F.elu(x) + 1,
}


def feature_dim(name: str, head_dim: int) -> int:
    """d', the number of features that map `name` makes of `head_dim` channels. Raises ValueError on an unknown map."""
    _known(name)
    return 2 * head_dim if name in ("softmax", "relu") else head_dim


def feature_map(x: Float[Tensor, "*rows head_dim"], name: str = "softmax") -> Float[Tensor, "*rows features"]:
    """phi(x) in fp32 (fp64 stays fp64), whatever autocast says. Raises ValueError on an unknown map. Section 3.1."""
    _known(name)
    with no_autocast(x):
        return FEATURE_MAPS[name](x.to(accumulator(x)))


phi = feature_map  # for the functions below, whose parameter `feature_map` is a name


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Keeps mixed precision away from the block under it: autocast would turn phi, products and sums into bf16."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def accumulator(x: Tensor) -> torch.dtype:
    """The type sums are kept in: at least fp32, because a bf16 state loses percents within thousands of tokens."""
    return torch.promote_types(x.dtype, torch.float32)


def _known(name: str) -> None:
    if name not in FEATURE_MAPS:
        raise ValueError(f"feature_map={name!r} is not known: use one of {', '.join(FEATURE_MAPS)}")


def check(q: Tensor, k: Tensor, window: int, name: str) -> None:
    """One clear ValueError for a window below -1, heads that do not share out, or an unknown feature map."""
    _known(name)
    if window < -1:
        raise ValueError(f"window={window}: use the left context, 0 or more tokens, or -1 for linear attention alone")
    if q.shape[-2] % k.shape[-2]:
        raise ValueError(
            f"{q.shape[-2]} query heads cannot share {k.shape[-2]} key-value heads: the first must be a multiple"
        )


def check_shapes(
    q: Tensor, k: Tensor, v: Tensor, name: str, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> None:
    """One clear ValueError for tensors that do not fit together, and for an empty sequence."""
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(
            f"q, k, v have {q.ndim}, {k.ndim}, {v.ndim} dimensions: each is [batch, time, heads, head_dim], 4 of them"
        )
    if k.shape != v.shape:
        raise ValueError(f"k {tuple(k.shape)} and v {tuple(v.shape)} differ: one key per value, of the same head_dim")
    if q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in more than the number of heads (axis 2)")
    if not q.shape[1]:
        raise ValueError(f"q {tuple(q.shape)} has no tokens: a sequence holds at least one")
    sequences = q.shape[0]
    if cu_seqlens is not None:
        if q.shape[0] != 1:
            raise ValueError(f"cu_seqlens with batch {q.shape[0]}: packed sequences are one row, batch 1")
        if cu_seqlens.ndim != 1 or len(cu_seqlens) < 2 or cu_seqlens.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"cu_seqlens is {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}: give the N+1 borders of N sequences, int32 "
                "or int64"
            )
        sequences = len(cu_seqlens) - 1
    if initial_state is not None:
        needed = (sequences, k.shape[2], feature_dim(name, q.shape[3]), q.shape[3])
        if tuple(initial_state.shape) not in (needed, (1, *needed[1:])):
            raise ValueError(
                f"initial_state {tuple(initial_state.shape)} should be {needed}: sequences, kv_heads, features, head_dim"
            )


def borders(cu_seqlens: Tensor, time: int) -> list[int]:
    """The borders of packed sequences as numbers. ValueError unless they rise from 0 to `time`."""
    if cu_seqlens.is_meta:
        raise ValueError("cu_seqlens on the meta device has no values: give it on the CPU")
    found = [int(x) for x in cu_seqlens.tolist()]
    if found[0] != 0 or found[-1] != time or found != sorted(found):
        shown = str(found) if len(found) < 12 else f"[{found[0]}, {found[1]}, ..., {found[-1]}]"
        raise ValueError(f"cu_seqlens={shown}: borders start at 0, never fall, and end at the number of tokens, {time}")
    return found


def _each(
    form: Form, q: Tensor, k: Tensor, v: Tensor, window: int, name: str, start: Tensor | None, cu: Tensor
) -> Pair:
    """`form` on each packed sequence by itself; a sequence without tokens keeps its state."""
    ends = borders(cu, q.shape[1])
    shape = (len(ends) - 1, k.shape[2], feature_dim(name, q.shape[3]), q.shape[3])
    wide = accumulator(q)
    states = torch.zeros(shape, dtype=wide, device=q.device) if start is None else start.to(wide).expand(shape)
    outputs, finals = [], []
    for state, a, b in zip(states.split(1), ends, ends[1:], strict=False):
        if a < b:
            output, state = form(q[:, a:b], k[:, a:b], v[:, a:b], window, name, state)
            outputs.append(output)
        finals.append(state)
    return torch.cat(outputs, dim=1), torch.cat(finals)


def recurrent(
    q: Float[Tensor, "batch time heads head_dim"],
    k: Float[Tensor, "batch time kv_heads head_dim"],
    v: Float[Tensor, "batch time kv_heads head_dim"],
    window: int,
    feature_map: str = "softmax",
    initial_state: Float[Tensor, "#sequences kv_heads features head_dim"] | None = None,
    cu_seqlens: Int[Tensor, " borders"] | None = None,
) -> tuple[Float[Tensor, "batch time heads head_dim"], Float[Tensor, "sequences kv_heads features head_dim"]]:
    """Token by token, as the equation reads. Returns the outputs and the state after the last folded token."""
    check(q, k, window, feature_map)
    check_shapes(q, k, v, feature_map, initial_state, cu_seqlens)
    if cu_seqlens is not None:
        return _each(recurrent, q, k, v, window, feature_map, initial_state, cu_seqlens)
    batch, time, heads, dim = q.shape
    kv_heads = k.shape[2]
    queries, keys, values = phi(q, feature_map), phi(k, feature_map), v.to(accumulator(v))
    state = queries.new_zeros(batch, kv_heads, keys.shape[-1], dim)
    if initial_state is not None:
        state = state + initial_state.to(state.dtype)
    outputs = []
    for t in range(time):
        folded = t - window - 1
        if folded >= 0:
            state = state + torch.einsum("bhf,bhd->bhfd", keys[:, folded], values[:, folded])
        grouped = queries[:, t].reshape(batch, kv_heads, heads // kv_heads, -1)
        outputs.append(torch.einsum("bhgf,bhfd->bhgd", grouped, state).reshape(batch, heads, dim))
    return torch.stack(outputs, dim=1), state


def quadratic(
    q: Float[Tensor, "batch time heads head_dim"],
    k: Float[Tensor, "batch time kv_heads head_dim"],
    v: Float[Tensor, "batch time kv_heads head_dim"],
    window: int,
    feature_map: str = "softmax",
    initial_state: Float[Tensor, "#sequences kv_heads features head_dim"] | None = None,
    cu_seqlens: Int[Tensor, " borders"] | None = None,
) -> tuple[Float[Tensor, "batch time heads head_dim"], Float[Tensor, "sequences kv_heads features head_dim"]]:
    """The same by one masked [time, time] matrix: o = (phi(q) phi(k)^T * [s <= t - w - 1]) v + phi(q) S_{-1}."""
    check(q, k, window, feature_map)
    check_shapes(q, k, v, feature_map, initial_state, cu_seqlens)
    if cu_seqlens is not None:
        return _each(quadratic, q, k, v, window, feature_map, initial_state, cu_seqlens)
    batch, time, heads, dim = q.shape
    kv_heads = k.shape[2]
    queries = phi(q, feature_map).reshape(batch, time, kv_heads, heads // kv_heads, -1)
    keys, values = phi(k, feature_map), v.to(accumulator(v))
    seen = residual_mask(time, window, device=q.device)
    scores = torch.einsum("bthgf,bshf->bhgts", queries, keys) * seen
    output = torch.einsum("bhgts,bshd->bthgd", scores, values)
    folded = max(time - window - 1, 0)
    state = torch.einsum("bshf,bshd->bhfd", keys[:, :folded], values[:, :folded])
    if initial_state is not None:
        start = initial_state.to(state.dtype).expand_as(state)
        output = output + torch.einsum("bthgf,bhfd->bthgd", queries, start)
        state = state + start
    return output.reshape(batch, time, heads, dim), state


def residual_mask(time: int, window: int, device: torch.device | str | None = None) -> Tensor:
    """Bool [time, time]: row t, column s true where residual linear attention at t reads token s (s <= t - w - 1)."""
    return torch.ones(time, time, dtype=torch.bool, device=device).tril(-(window + 1))
