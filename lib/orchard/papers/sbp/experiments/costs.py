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

import pandas as pd

from orchard.evidence import Tables
from orchard.papers.sbp.experiments.arms import Study, ran
from orchard.papers.sbp.experiments.comparison import arms_of, document_excess, gap_in, studies
from orchard.papers.sbp.experiments.profiles import PROFILES, Cell
from orchard.papers.sbp.experiments.regularisation import regularised, tuned
from orchard.papers.sbp.runs.embedding import LMEmbedder
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.papers.sbp.runs.synthesise import Synthesise
from orchard.papers.sbp.runs.tune import Tune
from orchard.runs import Run, Runner, Setting

STAGES = ("training", "embedding", "tuning", "sampling", "base model")
SYNTHESIS = ("embedding", "tuning", "sampling")  # what synthesis adds for somebody who has the base model
CHARGED = {"tokens": ("training",), "without base": ("training", *SYNTHESIS), "with base": STAGES}
ARM = "sbp-nn-lm"
BOOTSTRAPPED = (ARM, "sbp-random")


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
    models = [node.pretrained for node in nodes if isinstance(node, LMEmbedder.Config)]
    for model in {model.fingerprint(): model for model in models}.values():
        trained, read = (one.result for one in run([model, model.mix]))
        forward = float(trained["training_flops"]) / (3 * trained["tokens"])  # per token
        found["embedding"] += forward * read["unique_real_tokens"]
    return found


def costs(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm and stage in the first cell of `dep`: arm, stage, flops, and ``times``, in trainings of the arm itself."""
    cell, chosen = studies(setting, run, "dep")[0]
    arms = {name: chosen.arm(name) for name in arms_of(setting, cell)}
    run(list(arms.values()))
    found = {name: costs_of(cfg, run) for name, cfg in arms.items()}
    return pd.DataFrame([
        {**cell.columns, "arm": name, "stage": stage, "flops": own[stage], "times": own[stage] / own["training"]}
        for name, own in found.items() for stage in STAGES
    ])  # fmt: skip


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

    The bootstrapped arms are the same in all three. The references train for longer, on more passes over what they have, and have their
    weight decay and dropout tuned anew for that, on the seed of all trials.
    """
    sizes = PROFILES[setting.profile].matched
    base = tuned(setting, run, ["dep"])["dep"]
    stretched = [longer(base, factors(base.arm(ARM), run)[charge]) for charge in sizes.charged]
    best = regularised(run, [(study, sizes.longer) for study in stretched], ["weight_decay", "dropout"])[0]
    wanted: list[tuple[Cell, str, str, Study, Pretrain.Config]] = []
    for cell, study in studies(setting, run, "dep")[: sizes.cells]:
        wanted += [
            (cell, name, charge, study, study.arm(name))
            for charge in ("tokens", *sizes.charged)
            for name in BOOTSTRAPPED
        ]
        wanted += [(cell, name, "tokens", study, study.arm(name)) for name in ("repetition", "oracle")]
        times = factors(study.arm(ARM), run)
        for charge, found in zip(sizes.charged, best, strict=True):
            more = longer(study, times[charge]).regularised_as(found)
            wanted += [(cell, name, charge, more, more.arm(name)) for name in sizes.longer]
    tables = []
    for cell, name, charge, study, cfg, done in ran(run, [(*row, row[-1]) for row in wanted]):
        own = costs_of(cfg, run)
        about = {**cell.columns, "arm": name, "charged": charge, "tokens": cfg.mix.budget}
        about |= {"flops": sum(own[stage] for stage in CHARGED[charge]), "weight_decay": cfg.optim.weight_decay}
        tables.append(document_excess(study, done).assign(**about))
    return pd.concat(tables, ignore_index=True)


def beats_with_equal_flops(tables: Tables, first: str = ARM) -> pd.DataFrame:
    """K10: SBP minus repetition with as many FLOPs (the base model not charged), each test document, best checkpoints. The control are
    random pairs in the place of SBP's."""
    return gap_in(tables("flop_matched").query("charged == 'without base'"), "repetition", first=first)
