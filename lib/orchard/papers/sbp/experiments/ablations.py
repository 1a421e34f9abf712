"""What the result hangs on: one change at a time, everything else as in the arm sbp-nn-lm (K9).

| ablation | what changes |
|---|---|
| k, threshold | pairing: partners at most, share of random pairs that score above alpha |
| temperature, top-p | sampling |
| order | of synthetic and real documents in the training of the joint model |
| synthesizer | begins from the repetition model, or from scratch with that model's steps added to its own |

Apart from them: the share of the budget that is synthetic, for two sizes of the model (`share_sweep`), and the precision of pairs
(`dose_response`): if partners work by what they tell of each other, the loss falls as more pairs are true. And what the same D and
the same FLOPs give without a synthetic document, in an ensemble and in a model distilled from it (`ensembles`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from orchard.config import derive
from orchard.evidence import Tables, rows
from orchard.papers.sbp.experiments import arms
from orchard.papers.sbp.experiments.arms import Study, ran
from orchard.papers.sbp.experiments.comparison import mean_excess, possible, studies
from orchard.papers.sbp.experiments.costs import ARM
from orchard.papers.sbp.experiments.profiles import PROFILES, Ablations, Cell, cells
from orchard.papers.sbp.experiments.regularisation import regularised, trial_study, validation_loss
from orchard.papers.sbp.runs.embedding import LMEmbedder
from orchard.papers.sbp.runs.ensemble import Distill, Ensemble
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.papers.sbp.runs.tune import Tune, precision
from orchard.runs import Run, Runner, Setting
from orchard.runs.grid import best_of

MEMBERS = 2  # of an ensemble: seeds of one world
ABLATIONS = ("k", "threshold", "temperature", "top-p", "order", "synthesizer")


@dataclass(frozen=True)
class Point:
    """One value of an ablation: its synthesizer and its joint model."""

    ablation: str
    value: str
    tuned: Tune.Config
    model: Pretrain.Config


def points(study: Study, sizes: Ablations) -> Iterator[Point]:
    """Every value of every ablation, the comparison's own among them."""
    own, embedder = study.synthesizer(ARM), LMEmbedder.Config(pretrained=study.repetition())

    def point(ablation: str, value: str, tuned: Tune.Config = own, order: str = "mixed", **sampling: Any) -> Point:
        sampled = study.synthesise(tuned, value, **sampling)
        return Point(ablation, value, tuned, study.joint(sampled, value, order=order))

    def paired(name: str, **changes: Any) -> Tune.Config:
        return study.tune(study.nearest(embedder, name, **changes), name)

    for k in sorted({study.profile.neighbours, *sizes.neighbours}):
        yield point("k", f"{k}", paired(f"k = {k}", k=k))
    for share in sorted({study.profile.exceedance, *sizes.thresholds}):
        yield point("threshold", f"{share:g}", paired(f"exceedance {share:g}", exceedance=share))
    for value in sorted({1.0, *sizes.temperatures}):
        yield point("temperature", f"{value:g}", temperature=value)
    for mass in sorted(sizes.top_ps):
        yield point("top-p", f"{mass:g}", top_p=mass)
    yield point("top-p", "1")  # leaves no token out
    for order in ("mixed", *sizes.orders):
        yield point("order", order.replace("_", " "), order=order)
    yield point("synthesizer", "repetition model")
    if sizes.scratch:
        # New weights learn at the rate of pretraining, and for as many steps as the repetition model and the tuning take together:
        # otherwise they would only be trained less.
        steps = study.steps + study.profile.tuning_steps
        new = own.clone().set(scratch=True, steps=steps, validate_every=-(-steps // 8))
        new.optim.set(learning_rate=study.regular.learning_rate)
        yield point("synthesizer", "from scratch", new)


def ablations(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell, ablation and value: variant, world, seed, ablation, value, ``own`` (the comparison's own value), ``last`` and
    ``best`` (nats above Bayes), ``pair_loss`` of its synthesizer on held-out pairs (nats per second document, pairs differ between
    values of k and threshold). The rows of ablation "none" are repetition. Ablations of one value alone are left out."""
    sizes = PROFILES[setting.profile].ablations
    wanted: list[tuple[dict[str, Any], Study, Tune.Config | None, Run.Config]] = []
    for cell, study in studies(setting, run, "dep")[: sizes.cells]:
        base = {**cell.columns, "ablation": "none", "value": "repetition", "own": False}
        wanted.append((base, study, None, study.repetition()))
        own, tried = study.arm(ARM).fingerprint(), list(points(study, sizes))
        values = Counter(point.ablation for point in tried)
        for point in [point for point in tried if values[point.ablation] > 1]:
            about = {"ablation": point.ablation, "value": point.value, "own": point.model.fingerprint() == own}
            wanted.append(({**cell.columns, **about}, study, point.tuned, point.model))
    rows = []
    for row, study, tuned, finished in ran(run, wanted):
        loss = np.nan if tuned is None else run([tuned])[0].result["loss"]
        rows.append({**row, **mean_excess(study, finished), "pair_loss": loss})
    return pd.DataFrame(rows)


def dose_response(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell and pairing: variant, world, seed, pairs (drawn, neighbours, or none: repetition), ``truth`` asked for, measured
    ``precision``, ``last`` and ``best`` (nats above Bayes). All have what was tuned for neighbours."""
    sizes = PROFILES[setting.profile].ablations
    wanted: list[tuple[dict[str, Any], Study, Run.Config | None, Run.Config]] = []
    for cell, study in studies(setting, run, "dep")[: sizes.cells]:
        wanted.append(({**cell.columns, "pairs": "none", "truth": np.nan}, study, None, study.repetition()))
        for truth in sizes.truths:
            drawn, name = study.drawn(truth), f"{truth:.0%} true"
            model = study.joint(study.synthesise(study.tune(drawn, name), name), name)
            wanted.append(({**cell.columns, "pairs": "drawn", "truth": truth}, study, drawn, model))
        nearest = study.pairs(ARM)
        wanted.append(({**cell.columns, "pairs": "neighbours", "truth": np.nan}, study, nearest, study.arm(ARM)))
    rows = []
    for row, study, pairs, finished in ran(run, wanted):
        share = np.nan if pairs is None else precision(run([pairs])[0], study.corpus.build())
        rows.append({**row, "precision": share, **mean_excess(study, finished)})
    return pd.DataFrame(rows)


NAMES = ("smaller", "larger")
SWEPT = (ARM, "exact-posterior")  # whose documents are shared out: SBP's, and as a control those of the world's own law


def share_sweep(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell, arm, size and share: variant, world, seed, arm (`SWEPT`; of the control the first cell alone), size (smaller,
    larger), parameters, share, weight_decay, ``possible`` (share of raw samples), ``last`` and ``best`` (nats above Bayes).

    Each size is regularised by itself, and each share has a weight decay of its own. The control has every second share. Documents come
    in one order whatever the share, so one synthesis, for the greatest share, serves all."""
    profile, sizes = PROFILES[setting.profile], PROFILES[setting.profile].ablations
    shapes = sorted((profile.size, profile.other_size), key=lambda shape: shape.dim)
    bases = regularised(run, [(trial_study(setting, "dep", size=shape), ("repetition", ARM)) for shape in shapes])[0]
    swept = {arm: [share for share in sizes.shares[:: 1 if arm == ARM else 2] if share] for arm in SWEPT}
    families = {
        f"{arm}, {name}, {share:g}": (base, arm, share)
        for arm in SWEPT for name, base in zip(NAMES, bases, strict=True) for share in swept[arm]
    }  # fmt: skip

    def at(sized: Study, arm: str, share: float, decay: float) -> Pretrain.Config:
        regular = replace(sized.regular_of(arm), weight_decay=decay)
        sampled, label = sized.sampled(arm, max(sizes.shares)), f"{arm}, share {share:g}"
        return sized.regularised(arm, regular).joint(sampled, label, share, arm)

    grids = {
        family: [base.regular_of(arm).weight_decay * factor for factor in sizes.share_decays]
        for family, (base, arm, _) in families.items()
    }
    trials = best_of(
        grids, lambda family, decay: at(*families[family], decay), validation_loss, run, widen=profile.widen
    )
    wanted: list[tuple[dict[str, Any], Study, Run.Config]] = []
    of_arm = [(arm, cell) for arm in SWEPT for cell in cells(setting, "dep")[: sizes.share_cells if arm == ARM else 1]]
    for (arm, cell), (name, base) in product(of_arm, zip(NAMES, bases, strict=True)):
        sized = arms.study(setting, cell, size=base.size).regularised_as(base)
        for share in (0.0, *swept[arm]):
            decay = trials.chosen[f"{arm}, {name}, {share:g}"] if share else base.regular.weight_decay
            row = {**cell.columns, "arm": arm, "size": name, "share": share, "weight_decay": decay}
            wanted.append((row, sized, at(sized, arm, share, decay) if share else sized.repetition()))
    return pd.DataFrame([
        {**row, "parameters": finished.result["parameters"], **mean_excess(sized, finished),
         "possible": possible(sized, run([sized.sampled(row["arm"], max(sizes.shares))])[0])}
        for row, sized, finished in ran(run, wanted)
    ])  # fmt: skip


def ensembles(setting: Setting, run: Runner) -> pd.DataFrame:
    """What D gives without synthetic documents: one row per world and model: variant, world, seed, arm (repetition of each seed, SBP of
    the first, their ensemble, distilled), ``trainings`` of the size that it takes, ``last`` and ``best`` (nats above Bayes; an ensemble
    is one of last checkpoints, and has no other)."""
    by_world: dict[int, list[tuple[Cell, Study]]] = {}
    for cell, study in studies(setting, run, "dep"):
        by_world.setdefault(cell.world, []).append((cell, study))
    wanted: list[tuple[Cell, Study, str, int, Run.Config]] = []
    for found in by_world.values():
        members = [study.repetition() for _, study in found[:MEMBERS]]
        wanted += [(*own, "repetition", 1, cfg) for own, cfg in zip(found[:MEMBERS], members, strict=True)]
        cell, study = found[0]
        label, held_out = f"ensemble; {study.name}", study.profile.held_out
        together = Ensemble.Config(members=members, eval_documents=held_out, label=label)
        wanted += [(cell, study, ARM, 1, study.arm(ARM)), (cell, study, "ensemble", len(members), together)]
        if PROFILES[setting.profile].ablations.distilled:
            taught = derive(study.repetition(), Distill, teachers=members, label=f"distilled; {study.name}")
            wanted.append((cell, study, "distilled", len(members) + 1, taught))
    return pd.DataFrame([
        {**cell.columns, "arm": arm, "trainings": count, **mean_excess(study, finished)}
        for cell, study, arm, count, finished in ran(run, wanted)
    ])  # fmt: skip


def best_shares(table: pd.DataFrame, column: str = "best") -> pd.DataFrame:
    """arm, world, seed and the share with the smallest loss, for the smaller and for the larger model."""
    keys = ["arm", "world", "seed"]
    place = table.groupby([*keys, "size"])[column].idxmin()
    return table.loc[place].pivot(index=keys, columns="size", values="share").reset_index()


def interior_share(tables: Tables, arm: str = ARM) -> pd.DataFrame:
    """K9: 1 where the best share is neither the smallest nor the greatest of the sweep, for both sizes, and not smaller for the larger
    model; best checkpoints. The control is the world's own law, whose documents are never too many."""
    table = tables("share_sweep").query("arm == @arm")
    found = best_shares(table)
    low, high = table["share"].min(), table["share"].max()
    inside = found[["smaller", "larger"]].gt(low).all(axis=1) & found[["smaller", "larger"]].lt(high).all(axis=1)
    holds = inside & (found["larger"] >= found["smaller"])
    return rows("dep", 1000 * found["world"] + found["seed"], "cell", holds.astype(float))
