"""The comparison on real text: Stdlib-10, whose facts every machine has, or instructions of your own.

The same stages and the same code as in FactGrid; bytes or byte pairs are tokens. An answer is right when greedy decoding would give all of
it. At `smoke` the steps are so few that nothing is learned: that run shows that everything works, and `gpu` what it is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from orchard.papers.ifpruning.data.corpus import Corpus
from orchard.papers.ifpruning.data.instructions import Instructions, instruction_source
from orchard.papers.ifpruning.experiments.arms import Study
from orchard.papers.ifpruning.experiments.profiles import TEXT, Cell
from orchard.papers.ifpruning.runs.train import Train
from orchard.runs import Finished, Runner, Setting
from orchard.stats import wilson_interval

Table = Callable[[Setting, Runner, Corpus.Config], pd.DataFrame]


def own_instructions(setting: Setting) -> Instructions.Config:
    """The corpus that DATA names. DataError for "embedded", and for rows that are no instructions."""
    size = TEXT[setting.profile]
    return Instructions.Config(
        source=instruction_source(setting.data), tokenizer=size.tokenizer, longest=size.longest,
        longest_prompt=size.longest_prompt, items=size.items, chunk=size.chunk,
    )  # fmt: skip


def finished(setting: Setting, run: Runner, corpus: Corpus.Config) -> list[tuple[str, int, Train.Config, Finished]]:
    """Arm, seed, config and finished run of each."""
    size = TEXT[setting.profile]
    wanted = [(arm, seed) for seed in setting.seeds or size.seeds for arm in size.arms]
    studies = {seed: Study(Cell(size.profile, corpus, corpus, seed)) for _, seed in wanted}
    cfgs = [studies[seed].arm(arm) for arm, seed in wanted]
    return [(*want, cfg, done) for want, cfg, done in zip(wanted, cfgs, run(cfgs), strict=True)]


def by_domain(setting: Setting, run: Runner, corpus: Corpus.Config) -> pd.DataFrame:
    """Right answers: arm, seed, evaluation, domain, group, questions, right (share), low, high.

    Domains where no answer is right or wrong have no row."""
    rows = []
    built: Corpus = corpus.build()
    for arm, seed, _, done in finished(setting, run, corpus):
        kept = done.tensors("answers")
        for evaluation in done.result["accuracy"]:
            table = pd.DataFrame({name: kept[f"{evaluation}.{name}"].numpy() for name in ("right", "domain")})
            for number, domain in enumerate(built.domains):
                right = table.loc[table["domain"] == number, "right"]
                if right.empty:
                    continue
                found = wilson_interval(int(right.sum()), len(right))
                rows.append({
                    "arm": arm, "seed": seed, "evaluation": evaluation, "domain": domain, "group": built.groups[number],
                    "questions": len(right), "right": right.mean(), "low": found.low, "high": found.high,
                })  # fmt: skip
    return pd.DataFrame(rows)


def summary(setting: Setting, run: Runner, corpus: Corpus.Config) -> pd.DataFrame:
    """One row per arm and seed: right and loss (nats per token that counts) on test, with swapped masks too; the gauge; both ledgers."""
    rows = []
    for arm, seed, _, done in finished(setting, run, corpus):
        result = done.result
        rows.append({
            "arm": arm, "seed": seed, "right": result["accuracy"]["test"], "loss": result["loss"]["test"],
            "loss, swapped masks": result["loss"].get("swapped"), **result["gauge"],
            "active_parameters": result["active_parameters"],
            "training_flops": result["training_flops"] + result["flops_before"], "reader_flops": result["reader_flops"],
        })  # fmt: skip
    return pd.DataFrame(rows)


def _stdlib(setting: Setting, run: Runner, table: Table) -> pd.DataFrame:
    return table(setting, run, TEXT[setting.profile].stdlib.clone())


def _own(setting: Setting, run: Runner, table: Table) -> pd.DataFrame:
    """A table of the instructions that DATA names; empty for the embedded text."""
    return pd.DataFrame() if setting.data == "embedded" else table(setting, run, own_instructions(setting))


stdlib10, stdlib10_summary = partial(_stdlib, table=by_domain), partial(_stdlib, table=summary)
instructions, instructions_summary = partial(_own, table=by_domain), partial(_own, table=summary)
