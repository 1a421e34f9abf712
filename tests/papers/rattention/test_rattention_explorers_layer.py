"""The explorers show the layer itself: weights reproduce its output, the spectrum is that of its state."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from orchard.kernels.residual import FEATURE_MAPS
from orchard.kernels.residual.naive import recurrent
from orchard.nn import Decoder, RMSNorm, Rotary
from orchard.papers.rattention.explorers import layer as explorers
from orchard.papers.rattention.method.attention import RAttention
from orchard.papers.rattention.method.models import arm

TEXT = "for t in range(time):  # é\n\tfolded = t - 1"


def small(name: str = "rattn@8", **fields: object) -> Decoder:
    return arm(
        name, dim=24, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=6, ffn_dim=32, vocab_size=257, **fields
    ).build()


@pytest.fixture
def probed() -> explorers.Probe:
    return explorers.probe(small(), TEXT, layer=1)


def layer_and_inputs(time: int = 19, **fields: object) -> tuple[RAttention, list[Tensor]]:
    config: dict = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "window": 5, "chunk_size": 4, **fields}
    layer = RAttention.Config(dim=24, **config).build().double()
    for module in layer.modules():
        if isinstance(module, RMSNorm):
            torch.nn.init.uniform_(module.gain, 0.5, 1.5)
    for scale in (layer.q_scale, layer.k_scale):
        if scale is not None:
            torch.nn.init.uniform_(scale, 0.5, 1.5)
    return layer, [torch.randn(2, time, heads, 6, dtype=torch.float64) for heads in (4, 2, 2)]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"window": 0},
        {"window": 30},
        {"chunk_size": 1},
        {"feature_map": "relu", "window": 2},
        {"feature_map": "identity", "qk_norm": RMSNorm.Config(), "rotary": Rotary.Config(theta=5e5)},
        {"output_norm": None},
        {"use_qk_scale": True, "rotary": None},
    ],
    ids=str,
)
def test_weights_times_values_are_the_output_of_the_layer(fields: dict) -> None:
    layer, (q, k, v) = layer_and_inputs(**fields)
    weights = explorers.token_weights(layer, q, k, v)
    torch.testing.assert_close(explorers.weighted_values(layer, weights, v), layer.attend(q, k, v), rtol=0, atol=1e-12)

    swa, rla = ((part != 0).any(dim=1)[0] for part in weights)
    distance = torch.arange(19)[:, None] - torch.arange(19)[None, :]
    assert torch.equal(swa, (distance >= 0) & (distance <= layer.window))
    assert not (rla & (distance <= layer.window)).any()


def test_a_wrong_weight_would_be_seen(monkeypatch: pytest.MonkeyPatch, probed: explorers.Probe) -> None:
    true = explorers.token_weights
    assert explorers.received_table(probed, 30).attrs["gap"] < 1e-5
    monkeypatch.setattr(explorers, "token_weights", lambda *inputs: tuple(1.01 * part for part in true(*inputs)))
    assert explorers.received_table(probed, 30).attrs["gap"] > 1e-3


def test_layers_without_such_weights_are_refused() -> None:
    layer, inputs = layer_and_inputs(use_learned_init=True)
    with pytest.raises(ValueError, match="use_learned_init adds a state that belongs to no token"):
        explorers.token_weights(layer, *inputs)
    layer, inputs = layer_and_inputs(window=-1)
    with pytest.raises(ValueError, match="window=-1 has no window part"):
        explorers.token_weights(layer, *inputs)


def test_a_probe_holds_what_the_layer_gets_in_the_model() -> None:
    model, seen = small(), []
    model.layers[2].attention.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    found = explorers.probe(model, TEXT, layer=2)
    with torch.no_grad():
        model(torch.tensor([list(TEXT.encode())]))
        layer, (_, output) = found.layer, seen[0]
        torch.testing.assert_close(layer.o_proj(layer.attend(found.q, found.k, found.v).flatten(-2)), output)
    assert layer is model.layers[2].attention
    assert len(found.tokens) == len(TEXT.encode())
    with pytest.raises(ValueError, match="layer 3 is Attention, not RAttention with a window"):
        explorers.probe(model, TEXT, layer=3)
    with pytest.raises(ValueError, match="not RAttention with a window"):
        explorers.probe(small("la"), TEXT)


@pytest.mark.parametrize(
    ("position", "window", "chunk"), [(30, 7, 8), (30, 7, 1), (7, 7, 8), (8, 7, 8), (0, 0, 4), (40, 0, 9)]
)
def test_the_table_says_what_the_chunked_form_takes_from_its_state(
    probed: explorers.Probe, position: int, window: int, chunk: int
) -> None:
    """The chunked form cuts the tokens behind the window from position 0 on; query t reads the first t - w of them."""
    table = explorers.received_table(probed, position, window, chunk)
    part = table["part"]
    behind = max(position - window, 0)
    assert (part == explorers.WINDOW).sum() == min(position, window) + 1
    assert (part.isin([explorers.STATE, explorers.CHUNK])).sum() == behind
    own = (part == explorers.CHUNK).sum()
    assert own == (behind - 1) % chunk + 1 if behind else own == 0
    assert (table["weight"][part == ""] == 0).all()
    weights = explorers.token_weights(probed.varied(window, chunk), probed.q, probed.k, probed.v)
    np.testing.assert_allclose(table["weight"], (weights[0] + weights[1])[0, 0, position], rtol=1e-6)


def test_the_chunk_does_not_change_the_weights_nor_the_output(probed: explorers.Probe) -> None:
    tables = [explorers.received_table(probed, 35, window=3, chunk=chunk) for chunk in (1, 5, 64)]
    for table in tables:
        pd.testing.assert_series_equal(table["weight"], tables[0]["weight"])
        assert table.attrs["gap"] < 1e-5


def test_the_original_layer_stays_as_it_was(probed: explorers.Probe) -> None:
    explorers.received_table(probed, 20, window=2, chunk=3, feature_map="relu")
    assert (probed.layer.window, probed.layer.feature_map) == (7, "softmax")
    for bad, message in (({"position": 99}, "position=99, head=0"), ({"position": 1, "head": 4}, "heads 0 to 3")):
        with pytest.raises(ValueError, match=message):
            explorers.received_table(probed, **bad)
    with pytest.raises(ValueError, match="window=-1: the explorers need a window branch"):
        explorers.received_table(probed, 1, window=-1)


@pytest.mark.parametrize("name", sorted(FEATURE_MAPS))
def test_the_spectrum_is_that_of_the_state_the_token_reads(probed: explorers.Probe, name: str) -> None:
    table = explorers.state_spectrum_table(probed, window=4, feature_map=name, scale=1.5, points=5)
    for (head, position), rows in table.groupby(["head", "position"]):
        seen = slice(0, position + 1)
        scaled = probed.k[:, seen] * 1.5
        _, state = recurrent(probed.q[:, seen], scaled, probed.v[:, seen], 4, name)
        np.testing.assert_allclose(rows["value"], np.linalg.svd(state[0, head])[1], rtol=1e-4, atol=1e-5)
        energy = float(state[0, head].square().sum())
        assert rows["top_share"].iloc[0] == pytest.approx(rows["value"].iloc[0] ** 2 / energy, rel=1e-4)
        assert 1 - 1e-4 <= rows["effective_rank"].iloc[0] <= len(rows) + 1e-4
        if (
            name == "softmax"
        ):  # each half of phi sums to one: the constant direction holds exactly the sum of the values
            held = probed.v[0, : position - 4, head].sum(0) * 2 / 12**0.5
            assert rows["constant_share"].iloc[0] == pytest.approx(float(held.square().sum()) / energy, rel=1e-4)


def test_for_independent_values_the_constant_feature_holds_one_part_in_e() -> None:
    """Unit variance keys, values of mean zero, large d: share 4/F over E|phi|^2 = 2e/d, that is 1/e."""
    dim, time = 64, 8192
    k, v = torch.randn(1, time, 1, dim), torch.randn(1, time, 1, dim)
    layer = RAttention.Config(dim=dim, num_heads=1, head_dim=dim, window=0).build()
    table = explorers.state_spectrum_table(explorers.Probe(layer, k, k, v, ("x",) * time), window=0, points=3)
    last = table[table["position"] == time - 1].iloc[0]
    assert last["constant_share"] == pytest.approx(np.exp(-1), abs=0.08)


def shown(figure: Figure) -> str:
    figure.draw_without_rendering()
    return " ".join(axes.get_title(loc="left") for axes in figure.axes)


def test_every_extreme_draws(probed: explorers.Probe) -> None:
    for position, window, chunk, head in ((0, 0, 1, 0), (40, 60, 64, 3), (40, 0, 1, 3)):
        title = shown(explorers.received(probed, position, window, chunk, "identity", head))
        assert f"t = {position}, identity, head {head}, chunks of {chunk}" in title
    one = explorers.probe(small(), "x")
    assert "t = 0" in shown(explorers.received(one, 0, window=0, chunk=1))
    for window in (0, 40, 41, 60):
        assert f"window of {window + 1}" in shown(explorers.state_spectrum(probed, window))
    long = explorers.probe(small(), TEXT * 3)
    assert "t = 100" in shown(explorers.received(long, 100, 16, 16))
