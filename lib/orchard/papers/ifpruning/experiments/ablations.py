"""What the result hangs on: how the masks begin, and one change at a time.

| experiment | what changes |
|---|---|
| initial_spread | r = std(z) / epsilon of the first logits, epsilon, mode, the predictor's first weights and rate (C11) |
| one_change | mode, activation and rank of the head, chunks of a text, fade-in, decay, entropy, contrast, a predictor that stops learning |
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
from scipy.stats import rankdata

from orchard import evidence
from orchard.evidence import Tables
from orchard.papers.ifpruning.data.factgrid import FactGrid
from orchard.papers.ifpruning.experiments.arms import Study, compared, named, studies
from orchard.papers.ifpruning.experiments.profiles import (
    ABLATIONS,
    DIAGRAMS,
    PROFILES,
    STARTS,
    TOKEN_ROUTED,
    Start,
    grid_cells,
)
from orchard.papers.ifpruning.method.overlap import by_domain
from orchard.papers.ifpruning.runs.masks import PREFIXES, Binarised, PrefixMasks
from orchard.papers.ifpruning.runs.train import Train
from orchard.runs import Finished, Run, Runner, Setting
from orchard.stats import spearman

PAIRINGS = 9999  # random ones of a permutation test
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
    arms = [named(begun(Study(cell).arm("ifp"), start), known, start.name) for start, cell in starts]
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
    arms = [named(point.arm, known, f"{point.ablation} {point.value}") for point, _ in places]
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


def consistency(tables: Tables, overlap: str = "within") -> pd.DataFrame:
    """C11: Spearman's correlation of the overlap within a domain with right answers over the runs of the grid; nothing with fewer than
    three of them."""
    return _ranked(tables("initial_spread"), overlap, "right", lambda x, y: spearman(x, y).rho)


def consistency_by_chance(tables: Tables, overlap: str = "within") -> pd.DataFrame:
    """C11b: how often random pairings of the same runs correlate as much."""
    return _ranked(tables("initial_spread"), overlap, "right", by_chance)


def _ranked(table: pd.DataFrame, x: str, y: str, measure: Callable[[np.ndarray, np.ndarray], float]) -> pd.DataFrame:
    """Evidence from all runs of a table at once, for each of its seeds."""
    if len(table) < 3:
        return evidence.together([])
    value = measure(table[x].to_numpy(float), table[y].to_numpy(float))
    return evidence.rows("ifp", np.sort(table["seed"].unique()), f"{len(table)} runs", value)


def by_chance(x: np.ndarray, y: np.ndarray) -> float:
    """One-sided p of a positive rank correlation: the share of random pairings that correlate as much."""
    first, second = (rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    random = np.random.default_rng(0)
    drawn = np.stack([random.permutation(second) for _ in range(PAIRINGS)]) @ first
    return float((1 + (drawn >= second @ first - 1e-9).sum()) / (1 + PAIRINGS))


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
                wanted += [named(Study(cell).arm(arm), known, point.name, whole=True) for arm in arms]
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
    """One row per line (dense: all of D is used; IFP: k of it), D / k and seed: panel, line, ratio, D, score and, with the masks of
    another domain, swapped (right answers, %), across (overlap of masks across domains), union (share of channels in use), chance
    (k / D). dense at ratio 1 is dense_k."""
    known, profile = compared(setting, run), PROFILES[setting.profile]
    places, wanted = [], []
    for cell, study in studies(setting, run)[: profile.few_seeds]:
        places.append(("dense", 1, cell))
        wanted.append(study.arm("dense_k"))
        for ratio in profile.ratios:
            lines = [("dense", "dense_D")] * (ratio in profile.dense_ratios) + [("IFP", "ifp")]
            places += [(line, ratio, cell) for line, _ in lines]
            source = of_width(study, ratio)
            wanted += [named(source.arm(arm), known, f"D = {ratio}k", whole=True) for _, arm in lines]
    rows = [
        {
            "panel": "FactGrid", "line": line, "ratio": ratio, "D": ratio * cell.profile.size.keep, "seed": cell.seed,
            "score": 100 * done.result["accuracy"]["test"], "swapped": 100 * done.result["accuracy"].get("swapped", float("nan")),
            **{name: done.result["gauge"].get(name, float("nan")) for name in ("across", "union", "chance")},
        }
        for (line, ratio, cell), done in zip(places, run(wanted), strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def grows_with_source(tables: Tables, score: str = "score") -> pd.DataFrame:
    """C4: how often random pairings of D with right answers, over D and seeds, correlate as much; nothing with fewer than three runs."""
    return _ranked(tables("source_sizes").query("line == 'IFP'"), "D", score, by_chance)
