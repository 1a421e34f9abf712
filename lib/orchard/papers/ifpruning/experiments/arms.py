"""The arms of the comparison, each a chain of stages at equal optimizer steps.

    dense_k, dense_D, dense_k_long      dense decoders of width k and D; k with 1.8 times the steps before fine-tuning (the paper's rule)
    ifp, ifp_st                         the predictor, in the paper's own form (soft) and in mode st
    ifp_contrast                        with the contrastive loss that the paper names as future work
    ifp_sft_only, ifp_sft_short         without continued pre-training: equal total steps, equal steps of fine-tuning
    static, static_kd                   one learned mask, pruned after continued pre-training; with the dense_D teacher
    oracle, rand_mask, film_k           told the domain: learned masks, random masks, factors on dense_k
    rand_lsh, prefix_cond               reading the prompt: random masks by hash, a soft token on dense_k
    moe, moe_seq                        D/k experts of width k: per token (load balance 0.01), per prompt

Masked arms and both static ones start from the same dense_D after `pretrain`; arms of width k from a dense_k after as many steps.
Learning rates are chosen alike for every family before anything is compared: the best on validation questions, at the first seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pandas as pd

from orchard.config import replace
from orchard.nn import Decoder, FeedForward, MixtureOfExperts
from orchard.papers.ifpruning.experiments.profiles import Cell, Rates, cells
from orchard.papers.ifpruning.method.masks import Gates, Predictor, Selector, masked
from orchard.papers.ifpruning.method.models import decoder, reader
from orchard.papers.ifpruning.method.selectors import DomainMasks, DomainTable, Film, HashedMasks, Prefix, Static
from orchard.papers.ifpruning.runs.train import Train
from orchard.runs import Runner, Setting
from orchard.runs.grid import Best, best_of
from orchard.train import AdamW

ARMS = (
    "dense_k", "dense_k_long", "dense_D", "static", "static_kd", "ifp", "ifp_st", "ifp_contrast", "ifp_sft_only",
    "ifp_sft_short", "oracle", "rand_mask", "rand_lsh", "film_k", "prefix_cond", "moe", "moe_seq",
)  # fmt: skip
LONGER = 1.8  # times the pre-training of dense_k_long: 9T over 5T tokens
CONTRAST = 0.1
FAMILIES = ("dense_k", "static", "ifp")  # each chooses the learning rates of arms like it


def family(name: str) -> str:
    """The arm whose rates an arm takes."""
    if name.startswith("static"):
        return "static"
    masked_arms = ("ifp", "oracle", "rand", "moe_seq")
    return "ifp" if name.startswith(masked_arms) else "dense_k"


@dataclass(frozen=True)
class Study:
    """A cell and the runs of its arms. ``tuned``: rates by family, where the profile leaves a choice."""

    cell: Cell
    tuned: Mapping[str, float] = field(default_factory=dict)

    def rates(self, name: str) -> Rates:
        """Those of an arm: its own, those of its family, or the profile's first."""
        profile = self.cell.profile
        tuned = Rates(self.tuned.get(family(name), profile.rates[0]), profile.selector_rate)
        return profile.own_rates.get(name, tuned)

    def dense(self, width: int, steps: int | None = None) -> Train.Config:
        """A dense decoder after pre-training."""
        size = self.cell.profile.size
        name = "dense_k" if width == size.keep else "dense_D"
        return self._stage("pretrain", decoder(size, width), name, steps=steps)

    def predictor(self, **gates: Any) -> Predictor.Config:
        """The predictor of the profile."""
        shape = self.cell.profile.reader
        return Predictor.Config(backbone=reader(shape), rank=shape.rank, gates=Gates.Config(**gates))

    def reading(self) -> Train.Config:
        """The small language model that predictors begin with (appendix A.1: pre-trained on web data); the same for all variants."""
        model = reader(self.cell.profile.reader)
        return self._stage("read", model, "predictor").set(corpus=self.cell.reading)

    def arm(self, name: str) -> Train.Config:
        """The last stage of an arm. Raises KeyError for one that does not exist."""
        size, steps = self.cell.profile.size, self.cell.profile.steps
        k, wide, reads = size.keep, size.width, self.predictor()
        match name:
            case "ifp":
                return self.pruned(name, reads)
            case "ifp_st":
                return self.pruned(name, self.predictor(mode="st"))
            case "ifp_contrast":
                return self.pruned(name, reads, contrast=CONTRAST)
            case "ifp_sft_only":
                return self.pruned(name, reads, cpt=0, sft=steps.sft + steps.cpt)
            case "ifp_sft_short":
                return self.pruned(name, reads, cpt=0)
            case "moe_seq":
                return self.pruned(name, self.predictor(block=k))
            case "oracle":
                return self.pruned(name, DomainTable.Config(gates=Gates.Config(mode="st")))
            case "rand_mask":
                return self.pruned(name, DomainMasks.Config())
            case "rand_lsh":
                return self.pruned(name, HashedMasks.Config(backbone=reads.backbone))
            case "static" | "static_kd":
                return self.static(name, name == "static_kd")
            case "film_k":
                return self._finish(name, self.dense(k), masked(decoder(size, k), k), selector=Film.Config())
            case "prefix_cond":
                prefix = Prefix.Config(backbone=reads.backbone, rank=reads.rank)
                model = masked(decoder(size, k), k)
                return self._finish(name, self.dense(k), model, selector=prefix, reader=self.reading())
            case "moe":
                model = decoder(size, k)
                experts = MixtureOfExperts.Config(hidden_dim=k, num_experts=wide // k, top_k=1, renormalise=False)
                replace(model, FeedForward, experts)
                return self._finish(name, self._stage("pretrain", model, name), model)
            case "dense_k":
                start = self.dense(k)
            case "dense_D":
                start = self.dense(wide)
            case "dense_k_long":
                start = self.dense(k, round((LONGER - 1) * (steps.pretrain + steps.cpt)) + steps.pretrain)
            case _:
                raise KeyError(name)
        return self._finish(name, start, start.model)

    def pruned(
        self, name: str, selector: Selector.Config, cpt: int | None = None, sft: int | None = None, **fields: Any
    ) -> Train.Config:
        """A masked decoder from the dense one of width D: continued pre-training and fine-tuning."""
        size = self.cell.profile.size
        model = masked(decoder(size, size.width), size.keep)
        if isinstance(selector, Predictor.Config):
            fields["reader"] = self.reading()
        return self._finish(name, self.dense(size.width), model, cpt, sft, selector=selector, **fields)

    def static(self, name: str, distil: bool) -> Train.Config:
        """One mask learned in continued pre-training; then the pruned decoder is fine-tuned."""
        size = self.cell.profile.size
        model = masked(decoder(size, size.width), size.keep)
        more: dict[str, Any] = {"teacher": self.arm("dense_D")} if distil else {}
        learned = self._stage("cpt", model, name, start=self.dense(size.width), selector=Static.Config(), **more)
        return self._stage("sft", decoder(size, size.keep), name, start=learned, prune_start=True, **more)

    def _finish(
        self, name: str, start: Train.Config, model: Decoder.Config, cpt: int | None = None, sft: int | None = None, **fields: Any
    ) -> Train.Config:  # fmt: skip
        cpt = self.cell.profile.steps.cpt if cpt is None else cpt
        if cpt:
            start = self._stage("cpt", model, name, start=start, steps=cpt, **fields | {"on_collapse": "record"})
        return self._stage("sft", model, name, start=start, steps=sft, **fields)

    def _stage(
        self, stage: str, model: Decoder.Config, name: str, steps: int | None = None, **fields: Any
    ) -> Train.Config:
        profile = self.cell.profile
        scored = ["test", "seen"] + ["mixed"] * (getattr(self.cell.corpus, "mix_share", 0) > 0)
        planned = profile.steps.pretrain if stage == "read" else getattr(profile.steps, stage)
        fields.setdefault("on_collapse", profile.on_collapse)
        rates = self.rates(name)
        return Train.Config(
            model=model, corpus=self.cell.corpus, stage=stage, optim=AdamW.Config(learning_rate=rates.decoder, warmup_fraction=0.05),
            selector_rate=rates.selector, batch_size=profile.batch_size, steps=planned if steps is None else steps,
            seed=self.cell.seed, validate_every=profile.validate_every, label=f"{name}, {stage}, seed {self.cell.seed}",
            evaluations=scored if stage == "sft" else [], **fields,
        )  # fmt: skip


def tuning(setting: Setting, run: Runner) -> Best:
    """The decoder's rate of every family, the best on validation questions at the first seed. Nothing is computed for a grid of one."""
    cell = cells(setting)[0]

    def trial(name: str, rate: float) -> Train.Config:
        profile = dataclasses.replace(cell.profile, rates=(rate,), own_rates={})
        return Study(dataclasses.replace(cell, profile=profile)).arm(name)

    grids = dict.fromkeys(FAMILIES, cell.profile.rates)
    return best_of(grids, trial, lambda done: float(done.result["validation_accuracy"]), run, highest=True)


def rates(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per family and learning rate of the decoder: family, value, score (validation accuracy), chosen, widened."""
    return tuning(setting, run).table


def studies(setting: Setting, run: Runner, **variant: float | int) -> list[tuple[Cell, Study]]:
    """The cells of a setting with their studies, at the best rates of every family."""
    tuned = tuning(setting, run).chosen
    return [(cell, Study(cell, tuned)) for cell in cells(setting, **variant)]


def compared(setting: Setting, run: Runner) -> frozenset[str]:
    """Fingerprints of the arms of the comparison."""
    return _fingerprints(setting, tuple(tuning(setting, run).chosen.items()))


@cache
def _fingerprints(setting: Setting, tuned: tuple[tuple[str, float], ...]) -> frozenset[str]:
    return frozenset(Study(cell, dict(tuned)).arm(arm).fingerprint() for cell in cells(setting) for arm in ARMS)


def recorded(arm: Train.Config, known: frozenset[str], name: str, whole: bool = False) -> Train.Config:
    """An arm whose collapse is a finding and no error, and whose runs are called by what is varied: those with masks, or the ``whole``
    chain where the dense model differs too. Arms of the comparison stay as they are: they are the same runs."""
    if arm.fingerprint() in known:
        return arm
    stage: Train.Config | None = arm.set(on_collapse="record")
    while stage is not None and (whole or stage.selector is not None):
        stage.set(label=f"{name}: {stage.label}")
        stage = stage.start
    return arm
