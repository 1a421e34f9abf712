"""What the result hangs on: how the masks begin, and one change at a time.

| experiment | what changes |
|---|---|
| initial_spread | r = std(z) / epsilon of the first logits, epsilon, mode, the predictor's first weights and rate (C11) |
| one_change | mode, activation and rank of the head, chunks of a text, fade-in, decay, entropy, contrast, a predictor that stops learning |
| hard_concrete | the gates: HardConcrete with a penalty instead of SoftTopK (C10) |
| channel_use | nothing: which channels any prompt has selected |
| phase, source_sizes | the corpus: what domains share, instructions that say nothing, mixed examples; the width of the source (C4) |
| shared_prefixes | what stands in front of the instruction, read by the trained predictor without further training |

Runs that collapse are kept: that is what is studied.

On prefixes (section 4.4, Figure 3): the paper overlaps masks of MMLU and GSM8K prompts whose examples are the same for all prompts of a
subject. A predictor reads all of a prompt, so identical text alone makes masks alike: the diagonal of its maps is partly that. Here

    raw       instruction :
    shared    k k v v ... instruction :         the queries in front are the same for all prompts of a domain
    own       k k v v ... instruction :         every prompt has its own

and `shared - own` is what the identity of the prefix does. Prompts of these kinds are in no training, so `raw - own` also holds what a
predictor makes of prompts that it does not know. `rand_lsh` hashes what a language model makes of the prompt and has learned nothing about
masks: it shows what identical text does by itself.

On the phase diagram: where a mask per instruction gains over a dense model of its active size, and where not.

    gain(arm) = right answers of the arm - right answers of dense_k                  share of all questions, held-out wordings

    sharing     rho_all x tagless       how much every domain shares x how many training instructions say nothing
    mixing      mix x method            domains in one example x mask per prompt (ifp) or expert per token (moe)

Expected before anything ran: at rho_all = 1 the gain is 0 or less, since the key alone says the answer; it falls with tagless and with
mix; where one example needs several masks, a mixture that chooses per token overtakes.

`source_sizes` varies the source at constant active size: D = 2k, 3k, 4k, 6k pruned to k, beside dense decoders of width D. The paper prunes
6B, 9B and 12B to 3B and reports that larger sources give better results (Figure 2); the dense line is what the same source does when all of
it is used. D = 4k are the runs of the comparison, and the two lines meet at D = k, dense_k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from orchard import evidence
from orchard.evidence import Tables
from orchard.papers.ifpruning.data.factgrid import FactGrid
from orchard.papers.ifpruning.experiments.arms import Study, compared, recorded, studies
from orchard.papers.ifpruning.experiments.comparison import chain_metrics
from orchard.papers.ifpruning.experiments.profiles import (
    ABLATIONS,
    DIAGRAMS,
    PROFILES,
    STARTS,
    TOKEN_ROUTED,
    Cell,
    Start,
    grid_cells,
)
from orchard.papers.ifpruning.method.overlap import by_domain
from orchard.papers.ifpruning.method.selectors import HardConcrete, expected_open, settled
from orchard.papers.ifpruning.runs.masks import PREFIXES, Binarised, PrefixMasks
from orchard.papers.ifpruning.runs.train import Train
from orchard.runs import Finished, Run, Runner, Setting
from orchard.stats import spearman

GATES = {"SoftTopK": "ifp", "HardConcrete": "hard_concrete"}
USED = ("ifp", "ifp_st", "rand_mask")  # arms of channel_use
CELL = ["diagram", "rho_all", "tagless", "mix", "seed"]  # of the phase diagram
FIRST, LAST = slice(1), slice(-1, None)  # of the masked stages


def masked_stages(arm: Train.Config) -> list[Train.Config]:
    """The stages of an arm that have masks, first one first."""
    chain = [arm]
    while chain[0].start is not None and chain[0].start.selector is not None:
        chain.insert(0, chain[0].start)
    return chain


def begun(arm: Train.Config, start: Start) -> Train.Config:
    """The arm with masks that begin so."""
    for stage in masked_stages(arm):
        assert stage.selector is not None
        stage.selector.set(spread=start.r)
        stage.selector.gates.set(epsilon=start.epsilon, mode=start.mode)
        reader = stage.reader if start.reads else None
        stage.set(selector_rate=start.rate * stage.selector_rate, reader=reader)
    return arm


@dataclass(frozen=True)
class Point:
    """One value of an ablation; ``own`` is the comparison's. ``binarised``: evaluated with gates of 1."""

    ablation: str
    value: str
    arm: Train.Config
    own: bool = False
    binarised: bool = False


def points(study: Study, values: Mapping[str, Sequence[Any]]) -> Iterator[Point]:
    """The values of all ablations that a profile has. What needs continued pre-training is left out where there is none."""
    profile, two_stages = study.cell.profile, study.cell.profile.steps.cpt > 0

    def ifp(stages: slice = slice(0), **fields: Any) -> Train.Config:
        """The method's own arm, with some of its masked stages changed."""
        arm = study.arm("ifp")
        for stage in masked_stages(arm)[stages]:
            stage.set(**fields)
        return arm

    def chunked(count: int) -> Train.Config:
        corpus = study.cell.corpus.clone()
        assert isinstance(corpus, FactGrid.Config)
        return ifp(FIRST, corpus=corpus.set(chunks=count))

    def gated(value: str, **gates: Any) -> Train.Config:
        return ifp() if value == "soft_binarize" else study.pruned(value, study.predictor(**gates))

    def changed(value: object, **fields: Any) -> Train.Config:
        return study.pruned(f"{value}", study.predictor().set(**fields))

    ablations: dict[str, tuple[object, Callable[[Any], Train.Config]]] = {
        "mode": ("soft", lambda mode: gated(mode, mode=mode)),
        "head": ("gelu", lambda activation: changed(activation, activation=activation)),
        "rank": (profile.reader.rank, lambda rank: changed(rank, rank=rank)),
        "chunks": (profile.corpus.chunks, chunked),
        "fade-in": (0.0, lambda share: ifp(FIRST, warmup=share)),
        "entropy": ("shannon", lambda entropy: gated(entropy, entropy=entropy)),
        "contrast": (0.0, lambda factor: study.pruned("contrast", study.predictor(), contrast=factor)),
        "decay": ("of chosen layers off", lambda _: ifp(slice(None), decay_channels=True)),
        "frozen": ("never", lambda _: ifp(LAST, selector_rate=0.0)),
    }
    for ablation, (own, made) in ablations.items():
        others = [value for value in values.get(ablation, ()) if value != own]
        if others and (two_stages or ablation not in ("chunks", "frozen")):
            yield Point(ablation, str(own), ifp(), own=True)
            for value in others:
                yield Point(ablation, str(value), made(value), binarised=value == "soft_binarize")


def measured(done: Finished) -> dict[str, float]:
    """Right answers, with the masks of another domain too, and the gauge of an arm: share of channels no prompt selects (``never``)."""
    result: dict[str, Any] = done.result
    gauge = result["gauge"]
    names = ("within", "across", "union", "chance", "spread")
    scores = {"right": result["accuracy"]["test"], "swapped": result["accuracy"].get("swapped", float("nan"))}
    never = 1 - float(done.tensors("masks")["masks"].any(dim=0).float().mean()) if gauge else float("nan")
    return scores | {name: gauge.get(name, float("nan")) for name in names} | {"never": never}


def initial_spread(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per start and seed: r, epsilon, mode, reads, rate, seed; right, swapped (shares), within, across, union, chance, spread
    (r at the end), never."""
    known = compared(setting, run)
    starts = [(start, cell) for cell in grid_cells(setting) for start in STARTS[setting.profile]]
    arms = [recorded(begun(Study(cell).arm("ifp"), start), known, start.name) for start, cell in starts]
    rows = [
        {**vars(start), "seed": cell.seed, **measured(done)}
        for (start, cell), done in zip(starts, run(arms), strict=True)
    ]
    return pd.DataFrame(rows)


def one_change(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per ablation, value and seed: own (the comparison's value), right, swapped, within, across, union, never; change (of right
    answers from the own value)."""
    known, sizes = compared(setting, run), ABLATIONS[setting.profile]
    places = [(point, cell) for cell in grid_cells(setting) for point in points(Study(cell), sizes)]
    arms = [recorded(point.arm, known, f"{point.ablation} {point.value}") for point, _ in places]
    wanted: list[Run.Config] = [
        Binarised.Config(trained=arm, label=f"{arm.label}, gates of 1") if point.binarised else arm
        for (point, _), arm in zip(places, arms, strict=True)
    ]
    rows = []
    for (point, cell), trained, done in zip(places, run(arms), run(wanted), strict=True):
        about = {"ablation": point.ablation, "value": point.value, "own": point.own, "seed": cell.seed}
        hard = {"right": done.result["right"], "swapped": float("nan")} if point.binarised else {}
        rows.append(about | measured(trained) | hard)
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    own = table[table["own"]].set_index(["ablation", "seed"])["right"].rename("before")
    return table.join(own, on=["ablation", "seed"]).assign(change=lambda t: t["right"] - t.pop("before"))


def _gate_arms(setting: Setting, run: Runner) -> list[tuple[Cell, str, Train.Config, Finished]]:
    known, found = compared(setting, run), []
    for cell, study in studies(setting, run)[: PROFILES[setting.profile].few_seeds]:
        reads = study.predictor()
        concrete = HardConcrete.Config(backbone=reads.backbone, rank=reads.rank)
        made = {"ifp": study.arm("ifp"), "hard_concrete": study.pruned("hard_concrete", concrete)}
        found += [(cell, gates, recorded(made[arm], known, gates)) for gates, arm in GATES.items()]
    return [(*one, done) for one, done in zip(found, run([arm for *_, arm in found]), strict=True)]


def hard_concrete(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per kind of gates (SoftTopK, HardConcrete), seed and question of `test`: gates, seed, question, right (0 or 1)."""
    tables = []
    for cell, gates, _, done in _gate_arms(setting, run):
        right = done.tensors("answers")["test.right"].numpy().astype(float)
        table = pd.DataFrame({"question": np.arange(len(right)), "right": right})
        tables.append(table.assign(gates=gates, seed=cell.seed))
    return pd.concat(tables, ignore_index=True)


def gate_curves(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per kind of gates, seed and logged step of the masked stages: stage, step (over both), loss (nats per token; of HardConcrete
    with its penalty), validation_loss (without), validation_accuracy."""
    tables = []
    for cell, gates, arm, _ in _gate_arms(setting, run):
        metrics = chain_metrics(arm, run)
        before = metrics.loc[metrics["stage"] == "pretrain", "step"].max()
        masked = metrics[metrics["stage"] != "pretrain"]
        tables.append(masked.assign(step=masked["step"] - before, gates=gates, seed=cell.seed))
    return pd.concat(tables, ignore_index=True)


def gate_ends(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per kind of gates and seed: what :func:`measured` says, and for HardConcrete the share of gates that are open, expected
    (what the penalty holds at k / D) and without noise, before the cut to k."""
    rows = []
    for cell, gates, arm, done in _gate_arms(setting, run):
        shares = {"expected": float("nan"), "settled": float("nan")}
        if isinstance(arm.selector, HardConcrete.Config):
            z = done.tensors("masks")["z"]
            shares = {"expected": float(expected_open(z).mean()), "settled": float((settled(z) > 0).float().mean())}
        rows.append({"gates": gates, "seed": cell.seed, **measured(done), **shares})
    return pd.DataFrame(rows)


def channel_use(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, layer (from 1) and channel, most used first: rank (share of the channels before it), use (share of all prompts,
    those of training too, that select it). `ifp` with new weights and the least spread stands for a collapsed run."""
    cell, study = studies(setting, run)[0]
    arms = {name: study.arm(name) for name in USED}
    if starts := STARTS[setting.profile]:
        worst = min(starts, key=lambda start: (start.reads, start.r))
        grid = grid_cells(setting)[0]
        arms["new weights"] = recorded(begun(Study(grid).arm("ifp"), worst), compared(setting, run), worst.name)
    tables = []
    for name, done in zip(arms, run(list(arms.values())), strict=True):
        use = done.tensors("masks")["masks"].float().mean(dim=0).sort(dim=-1, descending=True).values
        for layer, row in enumerate(use.numpy(), 1):
            rank = np.arange(len(row)) / len(row)
            tables.append(pd.DataFrame({"arm": name, "layer": layer, "rank": rank, "use": row, "seed": cell.seed}))
    return pd.concat(tables, ignore_index=True)


def gates_agree(tables: Tables) -> pd.DataFrame:
    """C10: SoftTopK minus HardConcrete, question by question."""
    table = tables("hard_concrete")
    return evidence.paired(table, "gates", *GATES, units=["question"], value="right", part="ifp")


def consistency(tables: Tables) -> pd.DataFrame:
    """C11: Spearman's correlation of the overlap within a domain with right answers over the runs of the grid; nothing with fewer than
    three of them."""
    table = tables("initial_spread")
    if len(table) < 3:
        return evidence.together([])
    rho = spearman(table["within"].to_numpy(float), table["right"].to_numpy(float)).rho
    return evidence.rows("ifp", 0, f"{len(table)} runs", [rho])


PREFIX_ARMS = ("ifp", "ifp_st", "rand_lsh")


def shared_prefixes(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, seed, prefix (raw, shared, own) and layer (from 1): within (mean overlap of different prompts of one domain),
    related (of two domains of one group), other (of two groups), chance."""
    chosen = studies(setting, run)[: PROFILES[setting.profile].few_seeds]
    places = [(arm, cell, study) for cell, study in chosen for arm in PREFIX_ARMS]
    wanted = [
        PrefixMasks.Config(trained=study.arm(arm), label=f"prefixes, {arm}, seed {cell.seed}")
        for arm, cell, study in places
    ]
    rows = []
    for (arm, cell, _), done in zip(places, run(wanted), strict=True):
        corpus, kept = cell.corpus.build(), done.tensors("masks")
        group = torch.tensor(corpus.groups)
        same = torch.eye(len(group), dtype=torch.bool)
        kin = (group[:, None] == group) & ~same
        for name in PREFIXES:
            for layer, means in enumerate(by_domain(kept[name], kept["domain"], len(group)), 1):
                rows.append({
                    "arm": arm, "seed": cell.seed, "prefix": name, "layer": layer, "within": float(means[same].mean()),
                    "related": float(means[kin].mean()), "other": float(means[~same & ~kin].mean()), "chance": done.result["chance"],
                })  # fmt: skip
    return pd.DataFrame(rows)


# --------------------------------------------------------------------- the corpus and the source


def phase(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per diagram, point, seed and arm (dense_k, ifp, moe): rho_all, tagless, mix, right (answers; share), gain (over dense_k of
    the same point and seed), across (overlap of masks of two domains; NaN without masks). Mixed points are scored on mixed prompts."""
    known, routed = compared(setting, run), TOKEN_ROUTED.get(setting.profile, ())
    places, wanted = [], []
    for diagram, points in DIAGRAMS[setting.profile].items():
        for point in points:
            arms = ("dense_k", "ifp", "moe") if point in routed else ("dense_k", "ifp")
            for cell in grid_cells(setting, **point.variant):
                places += [(diagram, point, cell.seed, arm) for arm in arms]
                wanted += [recorded(Study(cell).arm(arm), known, point.name, whole=True) for arm in arms]
    rows = [
        {
            "diagram": diagram, "rho_all": point.rho_all, "tagless": point.tagless, "mix": point.mix, "seed": seed, "arm": arm,
            "right": done.result["accuracy"]["mixed" if point.mix > 1 else "test"],
            "across": done.result["gauge"].get("across", float("nan")),
        }
        for (diagram, point, seed, arm), done in zip(places, run(wanted), strict=True)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    dense = table[table["arm"] == "dense_k"].set_index(CELL)["right"].rename("dense")
    return table.join(dense, on=CELL).assign(gain=lambda t: t["right"] - t.pop("dense"))


def of_width(study: Study, ratio: int) -> Study:
    """The study whose source has ``ratio`` times the channels that a mask leaves, at the same learning rates."""
    profile = study.cell.profile
    size = replace(profile.size, width=ratio * profile.size.keep)
    return Study(replace(study.cell, profile=replace(profile, size=size)), study.tuned)


def source_sizes(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per line (dense: all of D is used; IFP: k of it), D / k and seed: panel, line, ratio, D, score (right answers, %), across
    (overlap of masks across domains), union (share of channels in use), chance (k / D). dense at ratio 1 is dense_k."""
    known, profile = compared(setting, run), PROFILES[setting.profile]
    places, wanted = [], []
    for cell, study in studies(setting, run)[: profile.few_seeds]:
        places.append(("dense", 1, cell))
        wanted.append(study.arm("dense_k"))
        for ratio in profile.ratios:
            lines = [("dense", "dense_D")] * (ratio in profile.dense_ratios) + [("IFP", "ifp")]
            places += [(line, ratio, cell) for line, _ in lines]
            source = of_width(study, ratio)
            wanted += [recorded(source.arm(arm), known, f"D = {ratio}k", whole=True) for _, arm in lines]
    rows = [
        {
            "panel": "FactGrid", "line": line, "ratio": ratio, "D": ratio * cell.profile.size.keep, "seed": cell.seed,
            "score": 100 * done.result["accuracy"]["test"],
            **{name: done.result["gauge"].get(name, float("nan")) for name in ("across", "union", "chance")},
        }
        for (line, ratio, cell), done in zip(places, run(wanted), strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def grows_with_source(tables: Tables) -> pd.DataFrame:
    """C4: the one-sided p of Spearman's correlation of D with right answers, over D and seeds; nothing with fewer than three runs."""
    table = tables("source_sizes").query("line == 'IFP'")
    if len(table) < 3:
        return evidence.together([])
    p = spearman(table["D"].to_numpy(float), table["score"].to_numpy(float), alternative="greater").p_value
    return evidence.rows("ifp", 0, f"{len(table)} runs", [p])
