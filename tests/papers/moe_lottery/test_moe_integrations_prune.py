"""Pruned checkpoints: equal to the masked original in stock transformers, padding where counts are unequal, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchard.cli import main
from orchard.errors import BadInput, OrchardError
from orchard.papers.moe_lottery.integrations import prune as pruning
from orchard.papers.moe_lottery.integrations.checkpoint import Checkpoint, open_checkpoint
from orchard.papers.moe_lottery.integrations.families import routers
from orchard.papers.moe_lottery.integrations.layerwise import score_checkpoint
from orchard.papers.moe_lottery.integrations.prune import (
    Plan,
    check_plan,
    direction_of,
    drop_globally,
    keep_equally,
    load_pruned,
    plan_of,
    write_pruned,
)
from orchard.papers.moe_lottery.integrations.report import agreement, prune
from orchard.papers.moe_lottery.integrations.text import Calibration
from orchard.papers.moe_lottery.integrations.tiny import VOCAB, save_tiny
from orchard.papers.moe_lottery.method.collect import collect
from orchard.papers.moe_lottery.method.criteria import chosen
from orchard.papers.moe_lottery.method.dropping import ExpertsError, logits_of, masked
from orchard.pretrained.folder import load_model

TOKENS = torch.randint(0, VOCAB, (3, 21), generator=torch.Generator().manual_seed(1))
TEXT = Calibration(TOKENS, {"made.txt": "0" * 64}, 3, "bytes")


def dropped(plan: Plan, experts: int) -> dict[int, list[int]]:
    return {place: [e for e in range(experts) if e not in kept] for place, kept in enumerate(plan.kept)}


@pytest.fixture
def olmoe(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(save_tiny(tmp_path / "full", "olmoe"))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return logits_of(model, TOKENS)


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def test_unequal_counts_are_padded_and_masked(olmoe: Checkpoint, tmp_path: Path) -> None:
    scores = [torch.arange(8.0) + 3 * place for place in range(3)]  # the first layer holds the lowest scores
    plan = drop_globally(olmoe.mixtures, scores, 7, "min")
    assert [len(kept) for kept in plan.kept] == [3, 6, 8]
    assert plan.padding == [[0, 1, 2, 3, 4], [0, 1], []]
    assert plan.padded
    (out := tmp_path / "padded").mkdir()
    [warning] = write_pruned(olmoe, plan, out)
    assert "7 dropped experts pad the checkpoint: transformers alone would use them" in warning
    with masked(full := load_model(olmoe.folder), dropped(plan, 8)):
        want = logits(full)
    torch.testing.assert_close(logits(load_pruned(out)), want, rtol=0, atol=2e-5)
    assert float((logits(load_model(out)) - want).abs().max()) > 0.1  # stock transformers: another model
    passed = score_checkpoint(open_checkpoint(out), TOKENS, ("euf",))
    assert passed.layers[0].scores["euf"][:5].tolist() == [0] * 5
    with pytest.raises(ExpertsError, match=r"is padded \(orchard_experts.json\)"):
        write_pruned(open_checkpoint(out), plan, tmp_path / "again")


def test_padding_is_the_best_of_the_dropped(olmoe: Checkpoint) -> None:
    orders = [[7, 6, 5, 4, 3, 2, 1, 0]] * 3  # 7 goes first, so that 0 is the best
    plan = check_plan(olmoe.mixtures, {0: [0, 7, 3], 1: [7]}, orders)
    assert plan.kept[0] == [1, 2, 4, 5, 6]
    assert plan.slots[0] == list(range(8))
    plan = check_plan(olmoe.mixtures, {0: [0, 7, 3], 1: [7], 2: [7]}, orders)
    assert plan.slots[0] == [0, 1, 2, 3, 4, 5, 6]


def test_numbers_of_experts_are_those_of_the_unpruned_model(olmoe: Checkpoint, tmp_path: Path) -> None:
    (first := tmp_path / "first").mkdir()
    (second := tmp_path / "second").mkdir()
    orders = [[0, 2, 4, 6, 1, 3, 5, 7], [7, 6, 5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6, 7]]
    write_pruned(olmoe, keep_equally(olmoe.mixtures, orders, 6), first)
    once = open_checkpoint(first)
    assert once.originals[0] == [1, 3, 4, 5, 6, 7]
    write_pruned(once, keep_equally(once.mixtures, [[0, 1, 2, 3, 4, 5]] * 3, 4), second)
    assert open_checkpoint(second).originals == [[4, 5, 6, 7], [2, 3, 4, 5], [4, 5, 6, 7]]
    want = {0: [0, 2, 1, 3], 1: [7, 6, 0, 1], 2: [0, 1, 2, 3]}
    with masked(full := load_model(olmoe.folder), want):
        torch.testing.assert_close(logits(load_model(second)), logits(full), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("name", "direction"), [("ean", "max"), ("reap", "min"), ("ecc", "max"), ("ets", "min")])
def test_a_plan_drops_what_the_criterion_chooses(name: str, direction: str, olmoe: Checkpoint) -> None:
    layers = score_checkpoint(olmoe, TOKENS, (name,), batch_size=2).layers
    plan = plan_of(olmoe.mixtures, layers, name, direction, 5, None)
    statistics = collect(load_model(olmoe.folder), iter(TOKENS.split(2)), VOCAB)
    want = {place: sorted(chosen(stats, name, 3, direction)) for place, stats in enumerate(statistics)}
    assert dropped(plan, 8) == want
    assert not plan.padded


def test_groups_keep_equally_many(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny(tmp_path / "m", "deepseek_v3"))
    plan = keep_equally(checkpoint.mixtures, [[0, 1, 2, 3, 4, 5, 6, 7]] * 2, 6)
    assert plan.kept == [[1, 2, 3, 5, 6, 7]] * 2
    with pytest.raises(ExpertsError, match=r"2 groups first and needs equally many.*keep a multiple of 2, not 5"):
        keep_equally(checkpoint.mixtures, [range(8)] * 2, 5)
    with pytest.raises(ExpertsError, match=r"2 groups and needs equally many.*\(--keep\)"):
        drop_globally(checkpoint.mixtures, [torch.zeros(8)] * 2, 3, "min")
    wide = open_checkpoint(save_tiny(tmp_path / "w", "deepseek_v3", num_experts_per_tok=3))
    with pytest.raises(
        ExpertsError, match="opens 1 of 2 groups, which would hold 2 experts, and chooses 3: keep at least 6"
    ):
        keep_equally(wide.mixtures, [range(8)] * 2, 4)


def test_budgets_that_cannot_be_met(olmoe: Checkpoint) -> None:
    orders = [range(8)] * 3
    with pytest.raises(ExpertsError, match="layer 0 has 8 experts and cannot keep 9"):
        keep_equally(olmoe.mixtures, orders, 9)
    with pytest.raises(ExpertsError, match="layer 0 has 8 experts, 9 are to be dropped: drop fewer"):
        keep_equally(olmoe.mixtures, orders, -1)
    with pytest.raises(ExpertsError, match="leaves 1, but its router chooses 2: drop at most 6"):
        keep_equally(olmoe.mixtures, orders, 1)
    with pytest.raises(ExpertsError, match="19 experts are to be dropped, but the layers can spare 18"):
        drop_globally(olmoe.mixtures, [torch.zeros(8)] * 3, 19, "min")
    with pytest.raises(ExpertsError, match="-1 experts are to be dropped: give a number of experts"):
        drop_globally(olmoe.mixtures, [torch.zeros(8)] * 3, -1, "min")
    layers = score_checkpoint(olmoe, TOKENS, ("ean", "ecc")).layers
    for keep, drop_total in ((None, None), (4, 4)):
        with pytest.raises(ExpertsError, match="give either --keep"):
            plan_of(olmoe.mixtures, layers, "ean", "min", keep, drop_total)
    with pytest.raises(ExpertsError, match=r"'ecc' ranks pairs within a layer.*\(--keep\)"):
        plan_of(olmoe.mixtures, layers, "ecc", "max", None, 4)
    with pytest.raises(ExpertsError, match="the paper gives no direction for the criterion 'ewn'"):
        direction_of("ewn", None)
    with pytest.raises(ExpertsError, match="direction 'low': choose min or max"):
        direction_of("ean", "low")


@pytest.mark.parametrize("model_type", ["gpt_oss", "granitemoe", "granitemoeshared", "phimoe"])
@pytest.mark.parametrize("fused", [False, True])
def test_other_families(model_type: str, fused: bool, tmp_path: Path) -> None:
    """As few experts as a router chooses, and unequal counts; tensors keep the names of the original."""
    checkpoint = open_checkpoint(save_tiny(tmp_path / "full", model_type, fused=fused))
    layers = score_checkpoint(checkpoint, TOKENS, ("ean",)).layers
    full = load_model(checkpoint.folder)
    for keep, drop_total, load in ((2, None, load_model), (None, 7, load_pruned)):
        plan = plan_of(checkpoint.mixtures, layers, "ean", "min", keep, drop_total)
        assert plan.padded == (keep is None)
        (out := tmp_path / f"kept_{keep}").mkdir()
        write_pruned(checkpoint, plan, out)
        pruned = open_checkpoint(out)
        assert pruned.layout == checkpoint.layout
        assert pruned.stored.keys() <= checkpoint.stored.keys()
        assert pruned.config["num_local_experts"] == len(plan.slots[0])
        with masked(routers(full), dropped(plan, 8)):
            want = logits(full)
        torch.testing.assert_close(logits(load(out)), want, rtol=0, atol=2e-5)
        loss = torch.nn.functional.cross_entropy(want[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
        assert score_checkpoint(pruned, TOKENS, ("euf",)).loss == pytest.approx(float(loss), abs=2e-6)


def test_shards_other_files_and_layers_after_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny(tmp_path / "m", "deepseek_v3")
    extra = {f"model.layers.3.mlp.experts.{j}.up_proj.weight": torch.zeros(24, 32) for j in range(8)}
    file = sorted(folder.glob("*.safetensors"))[0]
    save_file(load_file(file) | extra, file)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] |= dict.fromkeys(extra, file.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text()) | {"num_nextn_predict_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "LICENSE").write_text("free")
    (folder / "pytorch_model.bin").write_bytes(b"old weights")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    (folder / "templates").mkdir()
    (folder / "templates" / "chat.jinja").write_text("{{ x }}")

    checkpoint = open_checkpoint(folder)
    monkeypatch.setattr(pruning, "SHARD", 40_000)
    (out := tmp_path / "out").mkdir()
    plan = keep_equally(checkpoint.mixtures, [range(8)] * 2, 4)
    assert write_pruned(checkpoint, plan, out) == [
        "layers after the last one, which predict further tokens, are not written"
    ]
    shards = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    assert all(path.stat().st_size < 45_000 for path in out.glob("*.safetensors"))
    written = json.loads((out / "config.json").read_text())
    assert (written["n_routed_experts"], written["num_nextn_predict_layers"]) == (4, 0)
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"LICENSE", "templates/chat.jinja", "generation_config.json"} <= names
    assert not {"pytorch_model.bin", ".cache/x.json"} & names
    with masked(full := load_model(folder), dropped(plan, 8)):
        torch.testing.assert_close(logits(load_model(out)), logits(full), rtol=0, atol=2e-5)


def test_nothing_is_half_written(olmoe: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(pruning, "save_file", full)
    with pytest.raises(OrchardError, match=r"model.safetensors cannot be written.*free space"):
        prune(olmoe, TEXT, tmp_path / "out", "ean", keep=4, progress=quiet)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="used exists: choose a new folder, it is left alone"):
        prune(olmoe, TEXT, tmp_path / "used", "ean", keep=4, progress=quiet)
    with pytest.raises(ExpertsError, match="cannot keep 9"):  # before any work is done
        prune(olmoe, TEXT, tmp_path / "out", "ean", keep=9, progress=quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "used"]
    assert (tmp_path / "used" / "mine.txt").read_text() == "mine"


def test_ranking_report_and_agreement(olmoe: Checkpoint, tmp_path: Path) -> None:
    report = prune(olmoe, TEXT, tmp_path / "out", "ewn", "max", keep=5, progress=quiet)
    assert report == json.loads((tmp_path / "out" / "orchard_report.json").read_text())
    table = pd.read_parquet(tmp_path / "out" / "orchard_ranking.parquet")
    assert table.equals(pd.read_csv(tmp_path / "out" / "orchard_ranking.csv"))
    ours = table[(table["criterion"] == "ewn") & (table["direction"] == "max")]
    assert len(ours) == 24
    assert (ours["dropped"] == (ours["rank"] <= 3)).all()
    assert ours.sort_values("rank").groupby("place")["score"].is_monotonic_decreasing.all()
    kept = ours[~ours["dropped"]].groupby("layer")["original"].apply(list).to_dict()
    assert kept == report["kept"]
    assert report["experts"] == {"before": 24, "after": 15, "written per layer": 5, "padding": 0}
    assert report["calibration"]["tokens"] == TOKENS.numel()
    for state, folder in (("before", olmoe.folder), ("after", tmp_path / "out")):
        with torch.no_grad():
            loss = float(load_model(folder)(TOKENS, labels=TOKENS).loss)
        assert report[state]["loss"] == pytest.approx(loss, abs=2e-6)
    assert all(report["after"]["mass"][name] > mass for name, mass in report["before"]["mass"].items())  # section 5
    assert report["memory"]["bound_bytes"]["total"] > 0
    layers = score_checkpoint(olmoe, TOKENS, ("ewn", "aimer")).layers
    both = agreement(layers).set_index(["a", "b"])["spearman"]
    want = [ranks.corr(method="spearman").iloc[0, 1] for ranks in (pd.DataFrame(layer.scores) for layer in layers)]
    assert both["ewn", "aimer"] == pytest.approx(sum(want) / 3)
    assert both["ewn", "ewn"] == pytest.approx(1)


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    try:
        main([str(argument) for argument in arguments])
        status = 0
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_command(olmoe: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some calibration text, " * 20)
    options = ("--calibration", text, "--sequences", "4", "--length", "32", "--tokenizer", "bytes", "--device", "cpu")
    status, out, _ = call(
        capsys, "moe_lottery", "scores", olmoe.folder, tmp_path / "scores", *options, "--criteria", "ean,ewn"
    )
    assert status == 0
    assert "memory at most" in out
    assert set(pd.read_csv(tmp_path / "scores" / "orchard_ranking.csv")["criterion"]) == {"ean", "ewn"}
    pruned = ("moe_lottery", "prune", olmoe.folder, tmp_path / "pruned", *options)
    status, out, _ = call(capsys, *pruned, "--criterion", "random", "--seed", "3", "--drop-total", "5")
    assert status == 0
    assert "kept 19 of 24 experts by random (min)" in out
    assert "transformers alone would use them" in out.replace("\n", " ")
    assert sum(map(len, open_checkpoint(tmp_path / "pruned").padding)) > 0
    before = sorted(path.name for path in tmp_path.iterdir())
    for wrong, message in (
        (("--criterion", "ean", "--keep", "4"), "exists: choose a new folder"),
        (("--criterion", "ege", "--keep", "4"), "needs gradients"),
        (("--criterion", "ean", "--keep", "1"), "its router chooses 2"),
        (("--criterion", "ean"), "give either --keep"),
    ):
        place = tmp_path / "pruned" if message == "exists: choose a new folder" else tmp_path / "other"
        status, _, err = call(capsys, "moe_lottery", "prune", olmoe.folder, place, *options, *wrong)
        assert status == 2
        assert message in err
        assert err.count("\n") == 1
    text.write_text("")
    wrong = ("--criterion", "ean", "--keep", "4")
    assert call(capsys, "moe_lottery", "prune", olmoe.folder, tmp_path / "other", *options, *wrong)[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == before
