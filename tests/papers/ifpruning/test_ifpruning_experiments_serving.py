"""What the measurement of latency measures and derives, and the replay of streams; no test here depends on a time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from orchard.errors import BadInput
from orchard.papers.ifpruning import cli
from orchard.papers.ifpruning.data import published
from orchard.papers.ifpruning.data.published import PARTS
from orchard.papers.ifpruning.experiments import EVIDENCE, serving, speed
from orchard.papers.ifpruning.experiments.serving import PER_INPUT, PER_TASK, Masks
from orchard.papers.ifpruning.experiments.speed import LATENCY, latency_ratios, medians, repetitions
from orchard.papers.ifpruning.explorers.cache import cache_explorer
from orchard.papers.ifpruning.figures import serving as figures
from orchard.papers.ifpruning.method.models import Reader, Size
from orchard.papers.ifpruning.runs.speed import SHOWN, Latency, SoftTopKSpeed
from orchard.runs import Finished, Setting, Store

TINY = LATENCY["smoke"].clone().set(
    size=asdict(Size(dim=8, num_layers=1, num_heads=2, num_kv_heads=1, width=12, keep=4)),
    reader=asdict(Reader(dim=8, num_layers=1, num_heads=2, width=9, rank=3)), prompt=5, answer=2, rounds=2,
)  # fmt: skip
MEASURED = {
    ("dense_D", "prefill"), ("dense_D", "decode"), ("dense_k", "prefill"), ("dense_k", "decode"), ("ifp", "select"), ("ifp", "load"),
    ("ifp", "prefill"), ("ifp", "decode"), ("ifp_masked", "select"), ("ifp_masked", "prefill"), ("ifp_masked", "decode"),
    ("ifp_copied", "load"), ("moe", "prefill"), ("moe", "decode"),
}  # fmt: skip


def times(seconds: dict[tuple[str, str], float]) -> pd.DataFrame:
    """Three repetitions, the second twice and the third three times as long as the first."""
    rows = [
        {"model": model, "part": part, "round": i, "seconds": value * (i + 1), "device": "cpu", "hardware": "here"}
        for (model, part), value in seconds.items()
        for i in range(3)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def measured() -> pd.DataFrame:
    return times({key: float(i + 1) for i, key in enumerate(sorted(MEASURED))})


def test_every_part_of_every_model_is_measured(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LATENCY, "smoke", TINY)
    store = Store(tmp_path)

    def run(cfgs: Any) -> list[Finished]:
        return [store.compute(cfg, "cpu") for cfg in cfgs]

    table = speed.latency(Setting(), run)
    assert set(zip(table["model"], table["part"], strict=True)) == MEASURED
    assert (table.groupby(["model", "part"])["round"].nunique() == 2).all()
    assert (table["seconds"] > 0).all()
    assert set(table.columns) == {"model", "part", "round", "seconds", "device", "hardware"}


def test_the_steps_do_what_they_are_named() -> None:
    cfg = TINY
    torch.manual_seed(0)
    with torch.no_grad():
        peers = Latency(cfg).peers("cpu")
        first = {name: peers[name, "prefill"]() for name in SHOWN}
        assert torch.equal(first["ifp"], first["ifp_masked"])
        loads = [peers["ifp", "load"]() for _ in range(3)]
    assert all(token.shape == (1, 1) for token in first.values())
    assert len({id(decoder) for decoder in loads}) == 1  # one sub-network is ready, and filled anew


def test_sizes_for_a_gpu_are_refused_elsewhere(tmp_path: Any) -> None:
    with pytest.raises(BadInput, match="latency by part has sizes for a GPU and would run on cpu"):
        Store(tmp_path).compute(TINY.clone().set(gpu=True), "cpu")


def test_medians_and_ratios(measured: pd.DataFrame) -> None:
    value = {key: float(i + 1) for i, key in enumerate(sorted(MEASURED))}
    table = medians(measured).set_index("model")
    assert list(table.columns) == list(PARTS)
    assert list(table.index) == list(SHOWN)
    assert table.loc["ifp", "load"] == 2 * value["ifp", "load"]
    assert table.loc["dense_k", "select"] == 0
    found = repetitions(measured)
    overhead = (value["ifp", "select"] + value["ifp", "load"]) / value["ifp", "prefill"]
    assert found["overhead"].to_list() == pytest.approx([overhead] * 3)
    assert found["decode"].iloc[0] == pytest.approx(value["ifp", "decode"] / value["dense_k", "decode"])
    assert found["moe"].iloc[0] == pytest.approx(value["moe", "decode"] / value["ifp", "decode"])
    summary = latency_ratios(measured)
    assert len(summary) == found.shape[1]
    assert summary["median"].to_list() == pytest.approx(found.median().to_list())


def test_evidence_is_one_value_per_repetition(measured: pd.DataFrame) -> None:
    found = repetitions(measured)
    for claim, column in {"C7": "overhead", "C7b": "decode", "C9": "moe"}.items():
        rows = EVIDENCE[claim](lambda name: {"latency": measured}[name])
        assert list(rows.columns) == ["part", "seed", "unit", "value"]
        assert rows["value"].to_list() == found[column].to_list()


def test_what_the_bench_prints(measured: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "BENCH", SoftTopKSpeed.Config(batch=2, rounds=3, layers=2, width=65, k=13))
    parts = cli.bench(lambda name: {"latency": measured}[name])
    assert [name for _, name, *_ in parts] == ["softtopk", "latency", "latency_ratios"]
    assert "D 65, k 13, 2 layers, batch 2" in parts[0][0]
    assert parts[1][3] is not None


class Kept(Finished):
    """A finished run that holds these masks, and answers of which every second one is right."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.kept = tensors

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        if name == "masks":
            return self.kept
        domain = torch.arange(16) // 2
        right = torch.arange(16) % 2
        return {
            "test.right": right, "test.domain": domain, "task.right": torch.ones_like(right), "task.domain": domain,
        }  # fmt: skip


def masks() -> Masks:
    """Two domains of four wordings each; the first two wordings of a domain share a mask."""
    kind = torch.tensor([0, 0, 1, 2, 3, 3, 4, 5])
    split = torch.tensor([0, 0, 1, 2] * 2)
    return Masks(
        Kept(masks=torch.nn.functional.one_hot(kind, 9)[:, None].bool(), domain=torch.arange(8) // 4, split=split)
    )


SECONDS = {"select": 1.0, "load": 10.0, "prefill": 100.0}


def test_a_replay_counts_hits_and_the_time_to_the_first_token() -> None:
    stream = np.array([0, 1, 4, 0, 5])
    one = serving.replay(masks(), stream, PER_INPUT, 1, SECONDS)
    assert one == {"hits": 1, "evictions": 3, "hit_rate": 0.2, "ttft": 100 + (5 * 1 + 4 * 10) / 5}
    two = serving.replay(masks(), stream, PER_INPUT, 2, SECONDS)
    assert two == {"hits": 3, "evictions": 0, "hit_rate": 0.6, "ttft": 100 + (5 * 1 + 2 * 10) / 5}
    task = serving.replay(masks(), stream, PER_TASK, 2, SECONDS)
    assert task["ttft"] == 100 + (2 * 1 + 2 * 10) / 5


def test_a_stream_follows_the_law_and_repeats() -> None:
    found = masks()
    stream = found.stream(4000, 2.0, 1)
    assert np.array_equal(stream, found.stream(4000, 2.0, 1))
    assert max((stream < 4).mean(), (stream >= 4).mean()) == pytest.approx(0.8, abs=0.03)  # 1 : 1/4
    assert np.bincount(stream[stream < 4]).min() > 0


def test_figures_draw_the_tables(measured: pd.DataFrame) -> None:
    rows = [
        {"seed": s, "masks": per, "slots": n, **serving.replay(masks(), masks().stream(50, 1.0, s), per, n, SECONDS)}
        for s in (0, 1)
        for per in (PER_INPUT, PER_TASK)
        for n in (1, 2, 4)
    ]
    made = figures.cache_curves(pd.DataFrame(rows), 2)
    assert [axes.get_ylabel() for axes in made.axes] == ["hit rate (%)", "mean time to first token (ms)"]
    assert len(figures.latency_ratios(repetitions(measured)).axes) == 1
    ours = pd.DataFrame({"seed": [0, 0, 1], "gap": [0.5, -0.5, 0.0]})
    labels = [tick.get_text() for tick in figures.task_masks(ours, published.per_task()).axes[0].get_yticklabels()]
    assert labels == ["paper, 6B→3B", "paper, 9B→3B", "paper, 12B→3B", "ours, seed 0", "ours, seed 1"]


def served(measured: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A runner that gives the masks of this module for every seed."""
    monkeypatch.setattr(serving, "latency", lambda setting, run: measured)
    kept = Kept(**vars_of(masks()))
    monkeypatch.setattr(Kept, "result", {"gauge": {"chance": 1 / 9}}, raising=False)
    return lambda cfgs: [kept for _ in cfgs]


def vars_of(found: Masks) -> dict[str, torch.Tensor]:
    return {"masks": found.masks, "domain": found.domain, "split": torch.tensor([0, 0, 1, 2] * 2)}


def test_tables_of_serving(measured: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    run = served(measured, monkeypatch)
    streams = serving.serving_replay(Setting(), run)
    assert len(streams) == 2 * 2 * len(serving.SLOTS)
    assert set(streams.loc[streams["masks"] == PER_TASK, "distinct"]) == {2}
    assert (streams["hits"] + streams["evictions"] <= streams["requests"]).all()
    assert (
        streams[streams["masks"] == PER_INPUT]
        .groupby("seed")["hit_rate"]
        .apply(lambda r: r.is_monotonic_increasing)
        .all()
    )
    widths = serving.batches(Setting(), run).set_index(["seed", "size", "order"])["width"]
    assert widths.xs(1, level="size").to_list() == pytest.approx([1.0] * 6)
    assert (widths.xs("by overlap", level="order") <= widths.xs("fifo", level="order")).all()
    figures.batch_width(serving.batches(Setting(), run))
    tasks = serving.per_task(Setting(), run)
    assert tasks[["per_input", "per_task", "gap"]].drop_duplicates().to_numpy().tolist() == [[50.0, 100.0, -50.0]]


def test_the_explorer_shows_what_slower_loads_do(measured: pd.DataFrame) -> None:
    draw = cache_explorer(masks(), measured)
    fast, slow = (draw(slots=1, zipf=1.0, slower=slower).axes[1].lines[0].get_ydata() for slower in (1, 100))
    assert np.asarray(slow)[0] > np.asarray(fast)[0]
