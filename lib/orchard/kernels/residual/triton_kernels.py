"""Residual linear attention in Triton: five kernels, forward and backward (RAttention, arXiv 2506.15545, section 3).

Shifted tiles: tile n holds the queries nC ... nC+C-1 and the keys nC-delta ... nC-delta+C-1, delta = window + 1, so that
inside a tile key c is read by query r iff c <= r. The shift is an offset of the pointer; no shifted copy exists. A
supertile is M tiles. States are saved once per supertile, one per kv head, and walked tile by tile on chip:

    state_fwd  S before each supertile, and the final state      S += phi(K)^T V                       over all tiles
    out_fwd    O  = phi(Q) S + tril(phi(Q) phi(K)^T) V
    dq         dphi(Q) = dO S^T + tril(dO V^T) phi(K)
    state_bwd  dS after each supertile, and dS of the initial    dS += sum_heads phi(Q)^T dO           in reverse
    dkv        dV = tril(phi(Q) phi(K)^T)^T dO + phi(K) dS;      dphi(K) = tril(dO V^T)^T phi(Q) + V dS^T

phi(x) = [softmax(x), softmax(-x)]; its halves are two states [d, d], `half` 0 and 1, never concatenated. `dkv` sums over
the query heads of a group inside one program: no atomics, so gradients are deterministic. Sums are fp32.

Memory: q, out, dO, dq [tokens, heads, d]; k, v, dk, dv [tokens, kv_heads, d]; states [supertiles, kv_heads, 2, d, d].
Sequences lie one after the other: sequence i starts at i * time, or at cu[i] when sequences are packed (cu is not None).
Tokens outside the sequence are never loaded, channels from DIM to D (a power of two) are zero.
"""

from typing import no_type_check  # keeps run-time type checks, which the tests switch on, out of compiled code

import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

INTERPRETED = not isinstance(tl.cdiv, JITFunction)  # TRITON_INTERPRET=1 when triton was imported

_VARYING = ["time", "delta", "sequences", "supertiles"]  # no new compilation when these change


@triton.jit
@no_type_check
def _round(x, dtype: tl.constexpr, INTERPRET: tl.constexpr):
    """x in another type, rounded to nearest even as on a GPU; the interpreter cuts bf16 off instead."""
    if INTERPRET and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        x = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
@no_type_check
def _dot(a, b, OPERANDS: tl.constexpr, INTERPRET: tl.constexpr):
    """a b in fp32; OPERANDS "bf16" rounds the factors, otherwise it names the precision of the fp32 product."""
    if OPERANDS == "bf16":
        a = _round(a, tl.bfloat16, INTERPRET)
        b = _round(b, tl.bfloat16, INTERPRET)
        if INTERPRET:  # the interpreter multiplies the bit patterns of bf16
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        product = tl.dot(a, b)
    else:
        product = tl.dot(a, b, input_precision=OPERANDS)
    return product


@triton.jit
@no_type_check
def _softmax(x, DIM: tl.constexpr, D: tl.constexpr):
    """Over the DIM valid channels of each row; the padded ones get 0."""
    x = tl.where((tl.arange(0, D) < DIM)[None, :], x, float("-inf"))
    e = tl.exp(x - tl.max(x, axis=1)[:, None])
    return e / tl.sum(e, axis=1)[:, None]


@triton.jit
@no_type_check
def _softmax_backward(y, dy):
    return y * (dy - tl.sum(y * dy, axis=1)[:, None])


@triton.jit
@no_type_check
def _rows(positions, channels, stride, valid, DIM: tl.constexpr):
    """Offsets and mask of a tile: rows `positions`, `stride` numbers apart, of `channels`."""
    offsets = positions.to(tl.int64)[:, None] * stride + channels[None, :]
    return offsets, valid[:, None] & (channels < DIM)[None, :]


@triton.jit
@no_type_check
def _load(base, positions, channels, stride, valid, DIM: tl.constexpr):
    offsets, mask = _rows(positions, channels, stride, valid, DIM)
    return tl.load(base + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def _state(index, kv, half, keys, values, KV_HEADS: tl.constexpr, DIM: tl.constexpr):
    """Offsets and mask of one half of one state in [.., kv_heads, 2, DIM, DIM]."""
    start = ((index.to(tl.int64) * KV_HEADS + kv) * 2 + half) * DIM * DIM
    return start + keys[:, None] * DIM + values[None, :], (keys < DIM)[:, None] & (values < DIM)[None, :]


@triton.jit
@no_type_check
def _sequence(cu, sequence, time):
    """First token and number of tokens of a sequence."""
    if cu is None:
        start = sequence.to(tl.int64) * time
        length = time
    else:
        start = tl.load(cu + sequence).to(tl.int64)
        length = (tl.load(cu + sequence + 1) - start).to(tl.int32)
    return start, length


@triton.jit
@no_type_check
def _first_supertile(first, sequence, supertiles):
    return sequence * supertiles if first is None else tl.load(first + sequence)


@triton.jit
@no_type_check
def _owner(owner, index, supertiles):
    """The sequence that a supertile belongs to; when packed, a number >= sequences for one that is not used."""
    return index // supertiles if owner is None else tl.load(owner + index)


@triton.jit(do_not_specialize=_VARYING)
@no_type_check
def state_fwd(
    k, v, initial, states, final, cu, first, time, delta, supertiles,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, C: tl.constexpr, M: tl.constexpr, BV: tl.constexpr,
    OPERANDS: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid: sequences * kv_heads, blocks of BV values, 2 halves. A scan over the tiles of one sequence."""
    sequence, kv = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    half = tl.program_id(2)
    sign = 1.0 - 2.0 * half
    start, length = _sequence(cu, sequence, time)
    base = (start * KV_HEADS + kv) * DIM
    keys, values, c = tl.arange(0, D), tl.program_id(1) * BV + tl.arange(0, BV), tl.arange(0, C)

    offsets, inside = _state(sequence, kv, half, keys, values, KV_HEADS, DIM)
    state = tl.zeros([D, BV], dtype=tl.float32)
    if initial is not None:
        state += tl.load(initial + offsets, mask=inside, other=0.0).to(tl.float32)
    index = _first_supertile(first, sequence, supertiles)
    for s in range(tl.cdiv(length, C * M)):
        saved, _ = _state(index + s, kv, half, keys, values, KV_HEADS, DIM)
        tl.store(states + saved, state, mask=inside)
        for j in range(M):
            position = (s * M + j) * C - delta + c
            valid = (position >= 0) & (position < length - delta)
            key = _load(k + base, position, keys, KV_HEADS * DIM, valid, DIM)
            value = _load(v + base, position, values, KV_HEADS * DIM, valid, DIM)
            state += _dot(tl.trans(_softmax(sign * key, DIM, D)), value, OPERANDS, INTERPRET)
    tl.store(final + offsets, state, mask=inside)


@triton.jit(do_not_specialize=_VARYING)
@no_type_check
def out_fwd(
    q, k, v, states, out, cu, first, owner, time, delta, sequences, supertiles,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    BV: tl.constexpr, OPERANDS: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid: supertiles * heads, blocks of BV values."""
    index, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    kv = head // (HEADS // KV_HEADS)
    sequence = _owner(owner, index, supertiles)
    if sequence >= sequences:
        return
    start, length = _sequence(cu, sequence, time)
    s = index - _first_supertile(first, sequence, supertiles)
    q_base, k_base = (start * HEADS + head) * DIM, (start * KV_HEADS + kv) * DIM
    keys, values, c = tl.arange(0, D), tl.program_id(1) * BV + tl.arange(0, BV), tl.arange(0, C)
    lower = c[:, None] >= c[None, :]

    plus, inside = _state(index, kv, 0, keys, values, KV_HEADS, DIM)
    state_plus = tl.load(states + plus, mask=inside, other=0.0)
    state_minus = tl.load(states + plus + DIM * DIM, mask=inside, other=0.0)
    for j in range(tl.minimum(M, tl.cdiv(length, C) - s * M)):
        time_q = (s * M + j) * C + c
        position = time_q - delta
        valid = (position >= 0) & (position < length - delta)
        query = _load(q + q_base, time_q, keys, HEADS * DIM, time_q < length, DIM)
        key = _load(k + k_base, position, keys, KV_HEADS * DIM, valid, DIM)
        value = _load(v + k_base, position, values, KV_HEADS * DIM, valid, DIM)

        phi_q, phi_k = _softmax(query, DIM, D), _softmax(key, DIM, D)
        scores = _dot(phi_q, tl.trans(phi_k), OPERANDS, INTERPRET)
        output = _dot(phi_q, state_plus, OPERANDS, INTERPRET)
        state_plus += _dot(tl.trans(phi_k), value, OPERANDS, INTERPRET)
        phi_q, phi_k = _softmax(-query, DIM, D), _softmax(-key, DIM, D)
        scores += _dot(phi_q, tl.trans(phi_k), OPERANDS, INTERPRET)
        output += _dot(phi_q, state_minus, OPERANDS, INTERPRET)
        state_minus += _dot(tl.trans(phi_k), value, OPERANDS, INTERPRET)

        output += _dot(tl.where(lower, scores, 0.0), value, OPERANDS, INTERPRET)
        offsets, mask = _rows(time_q, values, HEADS * DIM, time_q < length, DIM)
        tl.store(out + q_base + offsets, _round(output, out.dtype.element_ty, INTERPRET), mask=mask)


@triton.jit(do_not_specialize=_VARYING)
@no_type_check
def dq(
    q, k, v, states, d_out, d_q, cu, first, owner, time, delta, sequences, supertiles,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    OPERANDS: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid: supertiles * heads. One half of phi at a time, which halves the registers; the second adds to the first."""
    index, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    kv = head // (HEADS // KV_HEADS)
    sequence = _owner(owner, index, supertiles)
    if sequence >= sequences:
        return
    start, length = _sequence(cu, sequence, time)
    s = index - _first_supertile(first, sequence, supertiles)
    q_base, k_base = (start * HEADS + head) * DIM, (start * KV_HEADS + kv) * DIM
    channels, c = tl.arange(0, D), tl.arange(0, C)
    lower = c[:, None] >= c[None, :]

    for half in range(2):
        sign = 1.0 - 2.0 * half
        saved, inside = _state(index, kv, half, channels, channels, KV_HEADS, DIM)
        state = tl.load(states + saved, mask=inside, other=0.0)
        for j in range(tl.minimum(M, tl.cdiv(length, C) - s * M)):
            time_q = (s * M + j) * C + c
            position = time_q - delta
            valid = (position >= 0) & (position < length - delta)
            phi_q = _softmax(sign * _load(q + q_base, time_q, channels, HEADS * DIM, time_q < length, DIM), DIM, D)
            phi_k = _softmax(sign * _load(k + k_base, position, channels, KV_HEADS * DIM, valid, DIM), DIM, D)
            value = _load(v + k_base, position, channels, KV_HEADS * DIM, valid, DIM)
            grad = _load(d_out + q_base, time_q, channels, HEADS * DIM, time_q < length, DIM)

            weights = tl.where(lower, _dot(grad, tl.trans(value), OPERANDS, INTERPRET), 0.0)
            d_phi = _dot(grad, tl.trans(state), OPERANDS, INTERPRET)
            d_phi += _dot(weights, phi_k, OPERANDS, INTERPRET)
            state += _dot(tl.trans(phi_k), value, OPERANDS, INTERPRET)

            offsets, mask = _rows(time_q, channels, HEADS * DIM, time_q < length, DIM)
            place = d_q + q_base + offsets
            earlier = tl.load(place, mask=mask & (half > 0), other=0.0)
            tl.store(place, earlier + sign * _softmax_backward(phi_q, d_phi), mask=mask)
        tl.debug_barrier()  # the second half reads what the first wrote


@triton.jit(do_not_specialize=_VARYING)
@no_type_check
def state_bwd(
    q, d_out, d_final, d_states, d_initial, cu, first, time, supertiles,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    BV: tl.constexpr, OPERANDS: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid: sequences * kv_heads, blocks of BV values, 2 halves. The scan of state_fwd, backwards."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    sequence, kv = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    half = tl.program_id(2)
    sign = 1.0 - 2.0 * half
    start, length = _sequence(cu, sequence, time)
    base = (start * HEADS + kv * GROUP) * DIM
    keys, values, c = tl.arange(0, D), tl.program_id(1) * BV + tl.arange(0, BV), tl.arange(0, C)

    offsets, inside = _state(sequence, kv, half, keys, values, KV_HEADS, DIM)
    d_state = tl.zeros([D, BV], dtype=tl.float32)
    if d_final is not None:
        d_state += tl.load(d_final + offsets, mask=inside, other=0.0)
    index = _first_supertile(first, sequence, supertiles)
    count = tl.cdiv(length, C * M)
    for back in range(count):
        s = count - 1 - back
        saved, _ = _state(index + s, kv, half, keys, values, KV_HEADS, DIM)
        tl.store(d_states + saved, d_state, mask=inside)
        for j in range(M * GROUP):  # the tiles of a supertile and the heads of a group in any order: it is one sum
            time_q = (s * M + j // GROUP) * C + c
            row = base + (j % GROUP) * DIM
            query = _load(q + row, time_q, keys, HEADS * DIM, time_q < length, DIM)
            grad = _load(d_out + row, time_q, values, HEADS * DIM, time_q < length, DIM)
            d_state += _dot(tl.trans(_softmax(sign * query, DIM, D)), grad, OPERANDS, INTERPRET)
    tl.store(d_initial + offsets, d_state, mask=inside)


@triton.jit(do_not_specialize=_VARYING)
@no_type_check
def dkv(
    q, k, v, d_out, d_states, d_k, d_v, cu, first, owner, time, delta, sequences, supertiles,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
    OPERANDS: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid: supertiles * kv_heads. Tiles in reverse, inside them the query heads of the group; adds to d_k, d_v."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    index, kv = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    sequence = _owner(owner, index, supertiles)
    if sequence >= sequences:
        return
    start, length = _sequence(cu, sequence, time)
    s = index - _first_supertile(first, sequence, supertiles)
    q_base, k_base = (start * HEADS + kv * GROUP) * DIM, (start * KV_HEADS + kv) * DIM
    channels, c = tl.arange(0, D), tl.arange(0, C)
    lower = c[:, None] >= c[None, :]
    tiles = tl.minimum(M, tl.cdiv(length, C) - s * M)

    for half in range(2):
        sign = 1.0 - 2.0 * half
        saved, inside = _state(index, kv, half, channels, channels, KV_HEADS, DIM)
        d_state = tl.load(d_states + saved, mask=inside, other=0.0)
        for back in range(tiles):
            time_q = (s * M + tiles - 1 - back) * C + c
            position = time_q - delta
            valid = (position >= 0) & (position < length - delta)
            phi_k = _softmax(sign * _load(k + k_base, position, channels, KV_HEADS * DIM, valid, DIM), DIM, D)
            value = _load(v + k_base, position, channels, KV_HEADS * DIM, valid, DIM)
            d_value = _dot(phi_k, d_state, OPERANDS, INTERPRET)
            d_phi = _dot(value, tl.trans(d_state), OPERANDS, INTERPRET)
            for g in range(GROUP):
                row = q_base + g * DIM
                query = _load(q + row, time_q, channels, HEADS * DIM, time_q < length, DIM)
                grad = _load(d_out + row, time_q, channels, HEADS * DIM, time_q < length, DIM)
                phi_q = _softmax(sign * query, DIM, D)
                scores = tl.where(lower, _dot(phi_q, tl.trans(phi_k), OPERANDS, INTERPRET), 0.0)
                d_value += _dot(tl.trans(scores), grad, OPERANDS, INTERPRET)
                weights = tl.where(lower, _dot(grad, tl.trans(value), OPERANDS, INTERPRET), 0.0)
                d_phi += _dot(tl.trans(weights), phi_q, OPERANDS, INTERPRET)
                d_state += _dot(tl.trans(phi_q), grad, OPERANDS, INTERPRET)

            offsets, mask = _rows(position, channels, KV_HEADS * DIM, valid, DIM)
            place = d_k + k_base + offsets
            earlier = tl.load(place, mask=mask, other=0.0)
            tl.store(place, earlier + sign * _softmax_backward(phi_k, d_phi), mask=mask)
            place = d_v + k_base + offsets
            tl.store(place, tl.load(place, mask=mask, other=0.0) + d_value, mask=mask)
        tl.debug_barrier()  # the second half adds to what the first wrote
