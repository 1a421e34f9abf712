"""What the result hangs on: one change at a time, everything else as in the arm sbp-nn-lm (K9).

| ablation | what changes |
|---|---|
| k, threshold | pairing: partners at most, share of random pairs that score above alpha |
| temperature, top-p | sampling |
| order | of synthetic and real documents in the training of the joint model |
| synthesizer | begins from the repetition model, or from scratch with that model's steps added to its own |

Apart from them: the share of the budget that is synthetic, for two sizes of the model (`share_sweep`), and the precision of pairs
(`dose_response`): if partners work by what they tell of each other, the loss falls as more pairs are true. And what the same D and
the same FLOPs give without a synthetic document, in an ensemble (`ensembles`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from orchard.evidence import Evidence, Tables, rows
from orchard.papers.sbp.experiments.arms import Study
from orchard.papers.sbp.experiments.comparison import mean_excess, studies
from orchard.papers.sbp.experiments.costs import ARM
from orchard.papers.sbp.experiments.profiles import PROFILES, Ablations, Cell
from orchard.papers.sbp.runs.embedding import LMEmbedder
from orchard.papers.sbp.runs.ensemble import Ensemble
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.papers.sbp.runs.tune import Tune, precision
from orchard.runs import Run, Runner, Setting

SCRATCH = "from scratch"
MEMBERS = 2  # of an ensemble: seeds of one world


@dataclass(frozen=True)
class Point:
    """One value of an ablation; ``tuned`` is its synthesizer."""

    value: str
    tuned: Tune.Config
    model: Pretrain.Config


def _point(study: Study, value: str, tuned: Tune.Config, mix: dict[str, Any] | None = None, **sampling: Any) -> Point:
    return Point(value, tuned, study.joint(study.synthesise(tuned, value, **sampling), value, **(mix or {})))


def _tuned(study: Study) -> Tune.Config:
    return study.tune(study.pairs(ARM), ARM)


def _paired(study: Study, name: str, **changes: Any) -> Tune.Config:
    embedder = LMEmbedder.Config(pretrained=study.repetition())
    return study.tune(study.nearest(embedder, name, **changes), name)


def neighbours(study: Study, sizes: Ablations) -> Iterator[Point]:
    """Partners of a document, at most."""
    for k in sorted({study.profile.neighbours, *sizes.neighbours}):
        yield _point(study, f"{k}", _paired(study, f"k = {k}", k=k))


def threshold(study: Study, sizes: Ablations) -> Iterator[Point]:
    """Share of random pairs that score above alpha."""
    for share in sorted({study.profile.exceedance, *sizes.thresholds}):
        yield _point(study, f"{share:g}", _paired(study, f"exceedance {share:g}", exceedance=share))


def temperature(study: Study, sizes: Ablations) -> Iterator[Point]:
    """Of sampling."""
    for value in sorted({1.0, *sizes.temperatures}):
        yield _point(study, f"{value:g}", _tuned(study), temperature=value)


def top_p(study: Study, sizes: Ablations) -> Iterator[Point]:
    """Sampling from the likeliest tokens with this probability together; 1 leaves none out."""
    for value in sorted(sizes.top_ps):
        yield _point(study, f"{value:g}", _tuned(study), top_p=value)
    yield _point(study, "1", _tuned(study))


def order(study: Study, sizes: Ablations) -> Iterator[Point]:
    """Of synthetic and real documents."""
    for value in ("mixed", *sizes.orders):
        yield _point(study, value.replace("_", " "), _tuned(study), {"order": value})


def synthesizer(study: Study, sizes: Ablations) -> Iterator[Point]:
    """What the synthesizer begins from. New weights learn at the rate of pretraining, and for as many steps as the repetition model
    and the tuning take together: otherwise they would only be trained less."""
    yield _point(study, "repetition model", _tuned(study))
    if not sizes.scratch:
        return
    steps = study.steps + study.profile.tuning_steps
    new = _tuned(study).set(scratch=True, steps=steps, validate_every=-(-steps // 8))
    new.optim.set(learning_rate=study.regular.learning_rate)
    yield _point(study, SCRATCH, new)


ABLATIONS: dict[str, Callable[[Study, Ablations], Iterator[Point]]] = {
    "k": neighbours, "threshold": threshold, "temperature": temperature, "top-p": top_p, "order": order, "synthesizer": synthesizer,
}  # fmt: skip


def ablations(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell, ablation and value: variant, world, seed, ablation, value, ``own`` (the comparison's own value), ``last`` and
    ``best`` (nats above Bayes), ``pair_loss`` of its synthesizer on held-out pairs (nats per second document, pairs differ between
    values of k and threshold). The rows of ablation "none" are repetition. Ablations of one value alone are left out."""
    sizes = PROFILES[setting.profile].ablations
    wanted: list[tuple[dict[str, Any], Study, Pretrain.Config, Tune.Config | None]] = []
    for cell, study in studies(setting, run, "dep")[: sizes.cells]:
        own = study.arm(ARM).fingerprint()
        wanted.append(
            ({**cell.columns, "ablation": "none", "value": "repetition", "own": False}, study, study.repetition(), None)
        )
        for name, make in ABLATIONS.items():
            points = list(make(study, sizes))
            for point in points if len(points) > 1 else []:
                row = {**cell.columns, "ablation": name, "value": point.value, "own": point.model.fingerprint() == own}
                wanted.append((row, study, point.model, point.tuned))
    done = run([model for *_, model, _ in wanted])
    rows = []
    for (row, study, _, tuned), finished in zip(wanted, done, strict=True):
        loss = np.nan if tuned is None else run([tuned])[0].result["loss"]
        rows.append({**row, **mean_excess(study, finished), "pair_loss": loss})
    return pd.DataFrame(rows)


def dose_response(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell and pairing: variant, world, seed, pairs (drawn, or neighbours), ``truth`` asked for, measured ``precision``,
    ``last`` and ``best`` (nats above Bayes)."""
    sizes = PROFILES[setting.profile].ablations
    wanted = []
    for cell, study in studies(setting, run, "dep")[: sizes.cells]:
        for truth in sizes.truths:
            pairs: Run.Config = study.drawn(truth)
            name = f"{truth:.0%} true"
            model = study.joint(study.synthesise(study.tune(pairs, name), name), name)
            wanted.append(({**cell.columns, "pairs": "drawn", "truth": truth}, study, pairs, model))
        nearest = study.pairs(ARM)
        assert nearest is not None  # an arm that is tuned on pairs
        wanted.append(({**cell.columns, "pairs": "neighbours", "truth": np.nan}, study, nearest, study.arm(ARM)))
    done = run([model for *_, model in wanted])
    return pd.DataFrame([
        {**row, "precision": precision(run([pairs])[0], study.corpus.build()), **mean_excess(study, finished)}
        for (row, study, pairs, model), finished in zip(wanted, done, strict=True)
    ])  # fmt: skip


def at_share(study: Study, share: float, greatest: float) -> Pretrain.Config:
    """The joint model with a share. Documents come in one order whatever the share, so one synthesis, for the greatest share, serves
    all; only the comparison's own model keeps its own, which begins with the same documents."""
    if share == 0 or (share == study.profile.share and study.size == study.profile.size):
        return study.arm(ARM, share)
    return study.joint(study.sampled(ARM, greatest), f"{ARM}, share {share:g}", share)


def share_sweep(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per cell, size and share: variant, world, seed, size (smaller, larger), parameters, share, ``last`` and ``best`` (nats
    above Bayes). Both have the regularisation tuned for repetition at the profile's own size."""
    sizes = PROFILES[setting.profile].ablations
    wanted = []
    for cell, study in studies(setting, run, "dep")[: sizes.share_cells]:
        shapes = sorted((study.profile.size, study.profile.other_size), key=lambda shape: shape.dim)
        for size, shape in zip(("smaller", "larger"), shapes, strict=True):
            sized = study.with_(size=shape, name=f"{study.name}, {size} model")
            for share in sizes.shares:
                row = {**cell.columns, "size": size, "share": share}
                wanted.append((row, sized, at_share(sized, share, max(sizes.shares))))
    done = run([model for *_, model in wanted])
    return pd.DataFrame([
        {**row, "parameters": finished.result["parameters"], **mean_excess(study, finished)}
        for (row, study, model), finished in zip(wanted, done, strict=True)
    ])  # fmt: skip


def ensembles(setting: Setting, run: Runner) -> pd.DataFrame:
    """What D gives without synthetic documents: one row per world and model: variant, world, seed, arm (repetition of each seed, SBP of
    the first, their ensemble), ``trainings`` of the size that it takes, ``last`` and ``best`` (nats above Bayes; an ensemble
    is one of last checkpoints, and has no other)."""
    by_world: dict[int, list[tuple[Cell, Study]]] = {}
    for cell, study in studies(setting, run, "dep"):
        by_world.setdefault(cell.world, []).append((cell, study))
    wanted: list[tuple[Cell, Study, str, int, Run.Config]] = []
    for found in by_world.values():
        chosen = found[:MEMBERS]
        members = [study.repetition() for _, study in chosen]
        wanted += [(cell, study, "repetition", 1, cfg) for (cell, study), cfg in zip(chosen, members, strict=True)]
        cell, study = chosen[0]
        wanted.append((cell, study, ARM, 1, study.arm(ARM)))
        together = Ensemble.Config(
            members=members, eval_documents=study.profile.held_out, label=f"ensemble; {study.name}"
        )
        wanted.append((cell, study, "ensemble", len(members), together))
    done = run([cfg for *_, cfg in wanted])
    return pd.DataFrame([
        {**cell.columns, "arm": arm, "trainings": count, **mean_excess(study, finished)}
        for (cell, study, arm, count, _), finished in zip(wanted, done, strict=True)
    ])  # fmt: skip


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "ablations": ablations, "dose_response": dose_response, "share_sweep": share_sweep, "ensembles": ensembles,
}  # fmt: skip


def best_shares(table: pd.DataFrame, column: str = "best") -> pd.DataFrame:
    """world, seed and the share with the smallest loss, for the smaller and for the larger model."""
    place = table.groupby(["world", "seed", "size"])[column].idxmin()
    return table.loc[place].pivot(index=["world", "seed"], columns="size", values="share").reset_index()


def interior_share(tables: Tables) -> pd.DataFrame:
    """K9: 1 where the best share is neither the smallest nor the greatest of the sweep, for both sizes, and not smaller for the larger
    model; best checkpoints."""
    table = tables("share_sweep")
    found = best_shares(table)
    low, high = table["share"].min(), table["share"].max()
    inside = found[["smaller", "larger"]].gt(low).all(axis=1) & found[["smaller", "larger"]].lt(high).all(axis=1)
    holds = inside & (found["larger"] >= found["smaller"])
    return rows("dep", 1000 * found["world"] + found["seed"], "cell", holds.astype(float))


EVIDENCE: dict[str, Evidence] = {"K9": interior_share}
