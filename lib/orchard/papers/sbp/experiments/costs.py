"""The second accounting: everything that was computed before the last model could be trained (K10).

    training    3 F per token of the budget          F: FLOPs of a forward pass, per token
    embedding   1 F per token of D                   (a language model embeds; TF-IDF costs nothing worth counting)
    tuning      3 F per token of a pair
    sampling    1 F per sampled token and per token of its seed, rejected documents included
    base model  3 F per token of the budget          the repetition model that embeds and that the synthesizer starts from

The paper counts training alone. An arm is a tree of runs, so what it costs is the sum over the runs in its tree, each once, as they
reported it. The base model stands apart: repetition *is* that model, so whoever has it anyway pays for the other three alone.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from orchard.evidence import Tables
from orchard.papers.sbp.experiments.arms import Study
from orchard.papers.sbp.experiments.comparison import arms_of, document_excess, gap, studies
from orchard.papers.sbp.experiments.profiles import PROFILES, Regular
from orchard.papers.sbp.runs.embedding import LMEmbedder
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.papers.sbp.runs.synthesise import Synthesise
from orchard.papers.sbp.runs.tune import Tune
from orchard.runs import Run, Runner, Setting

STAGES = ("training", "embedding", "tuning", "sampling", "base model")
SYNTHESIS = ("embedding", "tuning", "sampling")  # what synthesis adds for somebody who has the base model
ARM = "sbp-nn-lm"


def costs_of(cfg: Pretrain.Config, run: Runner) -> dict[str, float]:
    """FLOPs of an arm by stage, over every run in its tree."""
    (done,) = run([cfg])
    found = dict.fromkeys(STAGES, 0.0) | {"training": float(done.result["training_flops"])}
    stages: dict[type[Run.Config], tuple[str, str]] = {
        Tune.Config: ("tuning", "flops"), Synthesise.Config: ("sampling", "flops"), Pretrain.Config: ("base model", "training_flops"),
    }  # fmt: skip
    nodes = [node for path, node, *_ in cfg.walk() if path]
    inside = {node.fingerprint(): node for node in nodes if isinstance(node, Run.Config)}
    for kind, (stage, field) in stages.items():
        runs = [node for node in inside.values() if isinstance(node, kind)]
        found[stage] = float(sum(one.result[field] for one in run(runs)))
    embedders = {
        node.pretrained.fingerprint(): node.pretrained for node in nodes if isinstance(node, LMEmbedder.Config)
    }
    found["embedding"] = sum(
        (forward_flops(model, run) * unique_tokens(model, run) for model in embedders.values()), 0.0
    )
    return found


def forward_flops(cfg: Pretrain.Config, run: Runner) -> float:
    """FLOPs of a forward pass of a trained model, per token."""
    result = run([cfg])[0].result
    return float(result["training_flops"]) / (3 * result["tokens"])


def unique_tokens(cfg: Pretrain.Config, run: Runner) -> int:
    """Tokens of the unique real documents that a training reads."""
    return int(run([cfg.mix])[0].result["unique_real_tokens"])


def costs(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm and stage in the first cell of `dep`: arm, stage, flops, and ``times``, in trainings of the arm itself."""
    cell, chosen = studies(setting, run, "dep")[0]
    names = arms_of(setting, cell)
    run([chosen.arm(name) for name in names])
    rows = []
    for name in names:
        own = costs_of(chosen.arm(name), run)
        rows += [
            {**cell.columns, "arm": name, "stage": stage, "flops": own[stage], "times": own[stage] / own["training"]}
            for stage in STAGES
        ]
    return pd.DataFrame(rows)


# ------------------------------------------------------------- equal FLOPs


def longer(chosen: Study, factor: float) -> Study:
    """The study with ``factor`` times the tokens and steps: the schedule is stretched anew."""
    return chosen.with_(
        budget=round(chosen.budget * factor), steps=round(chosen.steps * factor), name=f"{chosen.name}, {factor:.3f} times the tokens"
    )  # fmt: skip


def factors(cfg: Pretrain.Config, run: Runner) -> dict[str, float]:
    """How much longer a reference trains with the FLOPs of an arm, without and with the base model's training."""
    own = costs_of(cfg, run)
    without = sum(own[stage] for stage in ("training", *SYNTHESIS)) / own["training"]
    return {"without base": without, "with base": without + own["base model"] / own["training"]}


def flop_matched(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, accounting and test document: variant, world, seed, arm, ``charged`` (tokens: all read as many; without base,
    with base: all cost as many FLOPs), flops, tokens, weight_decay, document, ``last`` and ``best`` (nats above Bayes).

    SBP is the same in all three. The references train for longer, on more passes over what they have, and may choose their weight decay
    anew among the profile's factors, on validation documents.
    """
    sizes, tables = PROFILES[setting.profile].matched, []
    chosen_cells = studies(setting, run, "dep")[: sizes.cells]
    run([study.arm(name) for _, study in chosen_cells for name in ("repetition", "oracle", ARM)])
    trials: list[tuple[int, str, str, Study, Pretrain.Config]] = []
    for place, (_, study) in enumerate(chosen_cells):
        sbp = study.arm(ARM)
        trials += [(place, ARM, charge, study, sbp) for charge in ("tokens", *sizes.charged)]
        trials += [(place, name, "tokens", study, study.arm(name)) for name in ("repetition", "oracle")]
        for charge in sizes.charged:
            more = longer(study, factors(sbp, run)[charge])
            trials += [
                (place, name, charge, more, _regularised(more, name, factor))
                for name in sizes.longer
                for factor in sizes.weight_decays
            ]
    done = run([cfg for *_, cfg in trials])
    best: dict[tuple[int, str, str], int] = {}
    for number, ((place, name, charge, *_), finished) in enumerate(zip(trials, done, strict=True)):
        known = best.setdefault((place, name, charge), number)
        if finished.result["best"]["validation_loss"] < done[known].result["best"]["validation_loss"]:
            best[place, name, charge] = number
    for (place, name, charge), number in best.items():
        study, cfg = trials[number][3:]
        cell = chosen_cells[place][0]
        own = costs_of(cfg, run)
        counted = [
            "training",
            *(SYNTHESIS if charge != "tokens" else ()),
            *(["base model"] if charge == "with base" else []),
        ]
        tables.append(document_excess(study, done[number]).assign(
            **cell.columns, arm=name, charged=charge, tokens=cfg.mix.budget, flops=sum(own[stage] for stage in counted),
            weight_decay=cfg.optim.weight_decay,
        ))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _regularised(study: Study, name: str, factor: float) -> Pretrain.Config:
    """The arm with ``factor`` times its tuned weight decay."""

    def scaled(regular: Regular) -> Regular:
        return replace(regular, weight_decay=factor * regular.weight_decay)

    oracle = scaled(study.oracle_regular or study.regular)
    return study.with_(regular=scaled(study.regular), oracle_regular=oracle).arm(name)


def beats_with_equal_flops(tables: Tables) -> pd.DataFrame:
    """K10: SBP minus repetition with as many FLOPs (the base model not charged), each test document, best checkpoints."""
    return gap(tables("flop_matched").query("charged == 'without base'"), "dep", ARM, "repetition")
