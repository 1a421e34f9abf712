"""Residual linear attention on the CPU: packed sequences, the one call and its choice of form, the operator, bad input."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from orchard.kernels.residual import feature_map, op, residual_linear_attention
from orchard.kernels.residual.chunked import chunked
from orchard.kernels.residual.fused import fused, residual_backward, residual_forward
from orchard.kernels.residual.naive import borders, check_shapes, quadratic, recurrent
from orchard.kernels.residual.tiles import choose_tile
from residual_cases import assert_close, draw, evaluate, exact, without_type_checks

BORDERS = [0, 1, 14, 14, 37]  # one token, an odd number, none


def packed(form, window, name="softmax", cu=None, **options):
    return lambda q, k, v, h: form(q, k, v, window, name, h, cu_seqlens=cu, **options)


@pytest.mark.parametrize("name", ["softmax", "relu", "identity"])
@pytest.mark.parametrize("window", [-1, 0, 4, 20, 50])
def test_packed_sequences_in_every_form(window, name):
    cu = torch.tensor(BORDERS)
    inputs = draw((1, 37, 4, 2, 5), sequences=4, dtype=torch.float64, name=name)
    expected = exact(inputs, window, name=name, cu_seqlens=cu)
    for form in (packed(quadratic, window, name, cu), packed(chunked, window, name, cu, chunk_size=6)):
        assert_close(evaluate(form, inputs), expected, torch.float64)


def test_packed_is_each_sequence_by_itself():
    """The definition: outputs, states and gradients are those of separate calls."""
    cu = torch.tensor(BORDERS)
    inputs = draw((1, 37, 2, 1, 8), sequences=4, dtype=torch.float64)
    q, k, v, state = inputs
    pieces = [(i, slice(a, b)) for i, (a, b) in enumerate(pairwise(BORDERS)) if b > a]
    apart = [recurrent(q[:, x], k[:, x], v[:, x], 3, "softmax", state[i : i + 1]) for i, x in pieces]
    output, final = recurrent(q, k, v, 3, "softmax", state, cu)
    assert torch.equal(output, torch.cat([x for x, _ in apart], dim=1))
    assert torch.equal(final[[0, 1, 3]], torch.cat([x for _, x in apart]))
    assert torch.equal(final[2], state[2])  # an empty sequence keeps its state


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("form", [recurrent, quadratic, chunked, residual_linear_attention])
def test_nothing_leaks_between_documents(form, with_state):
    """Exactly: a document that changes, even to NaN, changes no other's output, state or gradient."""
    cu = torch.tensor([0, 9, 14, 30])
    inputs = draw((1, 30, 2, 1, 8), sequences=3)
    clean = evaluate(packed(form, 2, cu=cu), inputs, with_state)
    with torch.no_grad():
        for x in inputs[:3]:
            x[:, 9:14] = float("nan")
        inputs[3][1] = float("nan")
    spoilt = evaluate(packed(form, 2, cu=cu), inputs, with_state)
    for a, b in zip(clean, spoilt, strict=True):
        for part in [[0, *range(1, 9)], list(range(14, 30))] if a.shape[0] == 1 else [[0], [2]]:
            assert torch.equal(*((x[0, part] if a.shape[0] == 1 else x[part]) for x in (a, b)))


def test_gradients_across_documents_are_zero():
    cu = torch.tensor([0, 9, 30])
    q, k, v, state = draw((1, 30, 2, 1, 8), sequences=2)
    output, final = residual_linear_attention(q, k, v, 2, "softmax", state, None, cu)
    grads = torch.autograd.grad(output[:, :9].sum() + final[0].sum(), (q, k, v, state))
    assert not any(x[:, 9:].any() for x in grads[:3])
    assert not grads[3][1].any()
    assert all(x[:, :6].any() for x in grads[:3])  # not for want of any gradient


def test_one_document_is_the_row():
    inputs = draw((1, 37, 2, 1, 8))
    one = evaluate(packed(chunked, 5, cu=torch.tensor([0, 37])), inputs)
    assert_close(one, evaluate(packed(chunked, 5), inputs), torch.float32)


@pytest.mark.parametrize("borders_", [None, BORDERS])
def test_memory_is_linear_in_time(borders_):
    """No tensor of the forward pass or saved for the backward pass grows with the square of the time."""
    sizes = []
    for repeat in (1, 8):
        shape = (1, 37 * repeat, 2, 1, 8)
        cu = None
        if borders_ is not None:
            cu = torch.tensor([37 * i + x for i in range(repeat) for x in borders_[:-1]] + [37 * repeat])
        inputs = draw(shape, sequences=None if cu is None else len(cu) - 1)
        saved: list[int] = []

        def pack(x, saved=saved):
            saved.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            chunked(*inputs[:3], 3, "softmax", None, 8, cu)
        sizes.append(sum(saved))
    assert sizes[1] < 12 * sizes[0]


# The operator


def arguments(dtype=torch.float32, cu=None, with_state=True):
    inputs = draw(
        (1 if cu is not None else 2, 37, 4, 2, 16), sequences=None if cu is None else len(cu) - 1, dtype=dtype
    )
    return [*inputs[:3], 5, inputs[3] if with_state else None, cu, 16, 2]


@pytest.mark.parametrize(
    ("cu", "dtype", "with_state"),
    [(None, torch.float32, True), (torch.tensor(BORDERS), torch.bfloat16, False)],
    ids=["batch", "packed"],
)
def test_the_operator_keeps_the_rules_of_operators(cu, dtype, with_state):
    """Schema, autograd registration, fake kernel and AOT dispatch, checked by torch."""
    args = arguments(dtype, cu, with_state)
    torch.library.opcheck(residual_forward, args)
    q, k, v, window, _, _, chunk, supertile = args
    output, final, states = (x.detach() for x in residual_forward(*args))
    with torch.no_grad():
        torch.library.opcheck(
            residual_backward,
            [*(x.detach() for x in (q, k, v)), states, output, final, window, cu, chunk, supertile],
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("cu", [None, torch.tensor(BORDERS)], ids=["batch", "packed"])
@pytest.mark.parametrize("window", [-1, 0, 7, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_on_the_cpu_is_the_recurrence(window, cu, dtype):
    q, k, v, _, state, *_ = arguments(dtype, cu)
    inputs = [q, k, v, state]
    found = evaluate(lambda q, k, v, h: fused(q, k, v, window, h, cu, (16, 2)), inputs)
    assert_close(found, exact(inputs, window, cu_seqlens=cu), dtype)


def test_one_output_alone_has_gradients():
    q, k, v, state = draw((2, 20, 2, 1, 16))
    for i in range(2):
        pair = [form(q, k, v, 3, initial_state=state)[i].sum() for form in (fused, residual_linear_attention)]
        grads = [torch.autograd.grad(x, (q, k, v, state), allow_unused=True, materialize_grads=True) for x in pair]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cu", [None, torch.tensor(BORDERS)], ids=["batch", "packed"])
def test_compiles_whole(cu):
    args = arguments(cu=cu)
    inputs = [*args[:3], args[4]]
    compiled = torch.compile(lambda q, k, v, h: fused(q, k, v, 5, h, cu), fullgraph=True, backend="aot_eager")
    found, expected = (evaluate(form, inputs) for form in (compiled, lambda q, k, v, h: fused(q, k, v, 5, h, cu)))
    assert_close(found, expected, torch.float32)


def test_the_call_compiles_whole_without_triton():
    """And importing it imports no triton. A process of its own: torch.compile cannot trace the shape checks of the tests."""
    without_type_checks("compile_whole('cpu')")


@pytest.mark.parametrize("packed_", [False, True])
def test_the_kernels_have_shapes_on_the_meta_device(packed_):
    q, k = torch.empty(1, 2048, 8, 128, device="meta"), torch.empty(1, 2048, 2, 128, device="meta", requires_grad=True)
    cu = torch.empty(4, dtype=torch.int32, device="meta") if packed_ else None
    output, final = residual_linear_attention(q, k, k, 511, cu_seqlens=cu, backend="triton")
    assert output.is_meta
    assert (output.shape, final.shape) == (q.shape, (3 if packed_ else 1, 2, 256, 128))
    assert torch.autograd.grad(output.sum(), k)[0].shape == k.shape


# The choice of form


@pytest.mark.parametrize("name", ["softmax", "elu"])
def test_auto_on_the_cpu_is_the_chunked_form(name):
    q, k, v, _ = draw((1, 20, 2, 1, 8))
    for a, b in zip(residual_linear_attention(q, k, v, 3, name), chunked(q, k, v, 3, name), strict=True):
        assert torch.equal(a, b)
        assert "residual_forward" not in str(a.grad_fn)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (it is Linux only)")
def test_auto_on_a_gpu_is_the_kernels_where_they_can_run(monkeypatch):
    """Tensors that only say they are on a GPU: shapes and the choice, without one."""

    used = []
    monkeypatch.setattr(op, "fused", lambda *args: used.append(args) or fused(*args))
    monkeypatch.setattr(op, "chunked", lambda q, k, *_: (q, k.new_empty(1, 2, 1, q.shape[-1])))

    def taken(name="softmax", dtype=torch.bfloat16, dim=64, chunk=None, backend="auto"):
        q, k = (torch.empty(1, 100, h, dim, dtype=dtype, device="cuda") for h in (4, 2))
        used.clear()
        output, _ = residual_linear_attention(q, k, k, 31, name, None, chunk, None, backend)
        assert (output.shape, output.dtype, output.device.type) == (q.shape, dtype, "cuda")
        return bool(used)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with FakeTensorMode():
        assert taken()
        assert taken(dtype=torch.float32, chunk=32)
        assert not taken(backend="chunked")
        assert not taken("relu")
        assert not taken(dtype=torch.float64)
        assert not taken(dim=160)
        assert not taken(chunk=24)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert not taken()
        with pytest.raises(ValueError, match=r"compute capability below 8\.0"):
            taken(backend="triton")


def test_triton_where_it_cannot_run_says_why():
    q, k, v, _ = (x.detach() for x in draw((1, 20, 2, 1, 8)))
    with pytest.raises(ValueError, match=r"backend='triton': the tensors are on cpu.*use backend='chunked'"):
        residual_linear_attention(q, k, v, 3, backend="triton")
    with pytest.raises(ValueError, match="backend='cuda' is not known: use one of auto, chunked, triton"):
        residual_linear_attention(q, k, v, 3, backend="cuda")
    q, k, v = (x.to("meta") for x in (q, k, v))
    with pytest.raises(ValueError, match=r"feature_map='relu', the kernels hold 'softmax' alone"):
        residual_linear_attention(q, k, v, 3, "relu", backend="triton")
    with pytest.raises(ValueError, match=r"inputs of torch\.float64"):
        residual_linear_attention(q.double(), k, v, 3, backend="triton")
    with pytest.raises(ValueError, match="chunk_size=24, the kernels take tiles of 16, 32, 64, 128 tokens"):
        residual_linear_attention(q, k, v, 3, chunk_size=24, backend="triton")
    wide = torch.empty(1, 20, 1, 256, device="meta")
    with pytest.raises(ValueError, match="head_dim=256, the kernels take at most 128"):
        residual_linear_attention(wide, wide, wide, 3, backend="triton")


def test_tiles():
    q = torch.empty(1, 8, 1, 64)
    assert choose_tile(q, q, q, (32, 2))[:2] == (32, 2)
    assert choose_tile(q, q, q, (32, None)).supertile == choose_tile(q, q, q).supertile
    for bad, message in (((24, 1), "tile of 24 tokens"), ((16, 0), "0 tiles per supertile")):
        with pytest.raises(ValueError, match=message):
            choose_tile(q, q, q, bad)
    with pytest.raises(ValueError, match="head_dim=129"):
        choose_tile(*[torch.empty(1, 8, 1, 129)] * 3)


def test_a_late_switch_to_the_interpreter_is_an_error(monkeypatch):
    kernels = pytest.importorskip("orchard.kernels.residual.triton_kernels", exc_type=ImportError)
    if kernels.INTERPRETED:
        pytest.skip("this process interprets")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1 was set after triton was imported"):
        fused(*(x.detach() for x in draw((1, 4, 1, 1, 16))[:3]), 0)


# Bad input


def test_shapes_that_do_not_fit_say_how():
    q, k = torch.zeros(2, 6, 4, 8), torch.zeros(2, 6, 2, 8)
    one_row = q[:1], k[:1], k[:1]
    cu = torch.tensor([0, 2, 6])
    cases = [
        ((q, k, k[..., :7], "softmax", None, None), r"k \(2, 6, 2, 8\) and v \(2, 6, 2, 7\) differ"),
        ((q[:, :5], k, k, "softmax", None, None), "differ in more than the number of heads"),
        ((q[..., :7], k, k, "softmax", None, None), "differ in more than the number of heads"),
        ((q[0], k, k, "softmax", None, None), "q, k, v have 3, 4, 4 dimensions"),
        ((q[:, :0], k[:, :0], k[:, :0], "softmax", None, None), "no tokens: a sequence holds at least one"),
        ((q, k, k, "softmax", torch.zeros(2, 2, 8, 8), None), r"should be \(2, 2, 16, 8\)"),
        ((q, k, k, "softmax", None, cu), "cu_seqlens with batch 2: packed sequences are one row"),
        ((*one_row, "softmax", None, cu.float()), "cu_seqlens is torch.float32"),
        ((*one_row, "softmax", None, cu[:1]), r"cu_seqlens is torch.int64 \(1,\)"),
        ((*one_row, "softmax", torch.zeros(3, 2, 16, 8), cu), r"should be \(2, 2, 16, 8\)"),
    ]
    for args, message in cases:
        with pytest.raises(ValueError, match=message):
            check_shapes(*args)


@pytest.mark.parametrize("bad", [[1, 4, 6], [0, 4, 5], [0, 5, 4, 6], [0, 4, 7]])
def test_borders_that_do_not_rise_to_the_end(bad):
    q, k = torch.zeros(1, 6, 4, 8), torch.zeros(1, 6, 2, 8)
    message = "borders start at 0, never fall, and end at the number of tokens, 6"
    with pytest.raises(ValueError, match=message):
        borders(torch.tensor(bad), 6)
    for form in (recurrent, quadratic, chunked, residual_linear_attention):
        with pytest.raises(ValueError, match=message):
            form(q, k, k, 1, cu_seqlens=torch.tensor(bad))


def test_other_bad_arguments():
    q, k = torch.zeros(1, 6, 4, 8), torch.zeros(1, 6, 2, 8)
    with pytest.raises(ValueError, match="window=-2"):
        residual_linear_attention(q, k, k, -2)
    with pytest.raises(ValueError, match="4 query heads cannot share 3"):
        residual_linear_attention(q, q[:, :, :3], q[:, :, :3], 1)
    with pytest.raises(ValueError, match="chunk_size=0"):
        residual_linear_attention(q, k, k, 1, chunk_size=0)
    with pytest.raises(ValueError, match="cu_seqlens on the meta device has no values"):
        chunked(q, k, k, 1, cu_seqlens=torch.empty(3, dtype=torch.int32, device="meta"))


def test_a_nan_key_spoils_only_what_reads_its_chunk():
    """A NaN reaches the tokens that read it, in the chunks after its own, and none before its chunk."""
    q, k, v, _ = (x.detach() for x in draw((1, 40, 1, 1, 8)))
    k[:, 10] = float("nan")
    output, _ = residual_linear_attention(q, k, v, 3, chunk_size=4)
    assert output[:, :12].isfinite().all()
    assert output[:, 16:].isnan().all()
    assert feature_map(k)[:, 10].isnan().all()
