"""The arms of the comparison, each a chain of stages at equal optimizer steps.

    dense_k, dense_D, dense_k_long      dense decoders of width k and D; k with 1.8 times the steps before fine-tuning (the paper's rule)
    ifp, ifp_st                         the predictor, in the paper's own form (soft) and in mode st
    ifp_contrast                        with the contrastive loss that the paper names as future work
    ifp_sft_only, ifp_sft_short         without continued pre-training: equal total steps, equal steps of fine-tuning
    static, static_kd                   one learned mask, pruned after continued pre-training; with the dense_D teacher
    hard_concrete                       the predictor with HardConcrete gates instead of SoftTopK
    oracle, rand_mask, film_k           told the domain: learned masks, random masks, factors on dense_k
    dense_D_tag                         told the domain: a learned token in the place of bos, on dense_D
    rand_lsh, prefix_cond               reading the prompt: random masks by hash, a soft token on dense_k
    moe, moe_seq                        D/k experts of width k: per token (load balance 0.01), per prompt
    dense_k_sft_only, dense_k_sft_short dense_k without continued pre-training: the control of ifp_sft_only and ifp_sft_short

Masked arms and both static ones start from the same dense_D after `pretrain`; arms of width k from a dense_k after as many steps.
Learning rates are chosen for every family before anything is compared: the best on validation questions at a seed of its own, at the
family's own budget, on a grid that widens at its edge. So are the temperature of a static mask and the rate of HardConcrete's multipliers.
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
from orchard.papers.ifpruning.experiments.profiles import PROFILES, SELECTOR_RATES, Cell, Profile, Rates, cells
from orchard.papers.ifpruning.method import selectors
from orchard.papers.ifpruning.method.masks import Gates, Predictor, Selector, masked
from orchard.papers.ifpruning.method.models import decoder, reader
from orchard.papers.ifpruning.runs.train import Train
from orchard.runs import Runner, Setting
from orchard.runs.grid import Best, best_of
from orchard.train import AdamW

WORDS = {  # every arm as figures and tables call it
    "dense_k": "small dense (width k)", "dense_k_long": "small dense, 1.8 times as long",
    "dense_k_sft_only": "small dense, fine-tuning only, as long", "dense_k_sft_short": "small dense, fine-tuning only",
    "dense_D": "large dense (width D), unpruned", "dense_D_tag": "large dense, told the domain", "static": "one mask for all",
    "static_kd": "one mask for all, distilled", "ifp": "mask per instruction (IFP)", "ifp_st": "IFP, straight-through",
    "ifp_contrast": "IFP, contrastive", "ifp_sft_only": "IFP, fine-tuning only, as long", "ifp_sft_short": "IFP, fine-tuning only",
    "hard_concrete": "IFP, HardConcrete gates", "oracle": "learned masks, told the domain",
    "rand_mask": "random masks, told the domain", "rand_lsh": "random masks by hash of the prompt",
    "film_k": "small dense, factors per domain", "prefix_cond": "small dense, soft token", "moe": "experts per token",
    "moe_seq": "experts per prompt", "ifp_unread": "IFP, predictor with new weights",
}  # fmt: skip
ARMS = tuple(name for name in WORDS if name != "ifp_unread")  # which is a run that collapses, of `explanation.collapse`
LONGER = 1.8  # times the pre-training of dense_k_long: 9T over 5T tokens
CONTRAST = 0.1
# Families that choose their rates, in turns: masked arms start from the dense_D of the first. Arms that no claim is about have those of
# one like them.
TURNS = (
    ("dense_k", "dense_k_long", "dense_D"),
    ("static", "static_kd", "ifp", "ifp_sft_only", "hard_concrete", "rand_mask", "rand_lsh"),
)
LIKE = {
    "dense_D_tag": "dense_D", "ifp_st": "ifp", "ifp_contrast": "ifp", "ifp_sft_short": "ifp_sft_only", "oracle": "ifp", "moe_seq": "ifp",
}  # fmt: skip
EPSILON, MULTIPLIERS = "static: epsilon", "hard_concrete: rate of the multipliers"  # the last turn


def words(arm: object) -> str:
    """An arm in words; what is no arm stays as it is."""
    return WORDS.get(str(arm), str(arm))


def family(name: str) -> str:
    """The arm whose rate an arm takes."""
    return name if any(name in turn for turn in TURNS) else LIKE.get(name, "dense_k")


@dataclass(frozen=True)
class Study:
    """A cell and the runs of its arms. ``tuned``: rates by family, ``EPSILON`` and ``MULTIPLIERS``, where the profile leaves a choice."""

    cell: Cell
    tuned: Mapping[str, float] = field(default_factory=dict)

    def rates(self, name: str) -> Rates:
        """Those of an arm: those of its family, or the profile's first."""
        profile = self.cell.profile
        selector = SELECTOR_RATES.get(name, 1.0) * profile.selector_rate
        return Rates(self.tuned.get(family(name), profile.rates[0]), selector)

    def dense(self, width: int, steps: int | None = None, name: str = "") -> Train.Config:
        """A dense decoder after pre-training."""
        size = self.cell.profile.size
        name = name or ("dense_k" if width == size.keep else "dense_D")
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
            case "hard_concrete":
                rate = self.tuned.get(MULTIPLIERS, self.cell.profile.multipliers[0])
                return self.pruned(
                    name, selectors.HardConcrete.Config(backbone=reads.backbone, rank=reads.rank, multiplier_rate=rate)
                )
            case "oracle":
                return self.pruned(name, selectors.DomainTable.Config(gates=Gates.Config(mode="st")))
            case "rand_mask":
                return self.pruned(name, selectors.DomainMasks.Config())
            case "rand_lsh":
                return self.pruned(name, selectors.HashedMasks.Config(backbone=reads.backbone))
            case "static" | "static_kd":
                return self.static(name, name == "static_kd")
            case "film_k":
                return self._finish(name, self.dense(k), masked(decoder(size, k), k), selector=selectors.Film.Config())
            case "dense_D_tag":
                return self._finish(
                    name, self.dense(wide), masked(decoder(size, wide), wide), selector=selectors.DomainTag.Config()
                )
            case "prefix_cond":
                prefix = selectors.Prefix.Config(backbone=reads.backbone, rank=reads.rank)
                model = masked(decoder(size, k), k)
                return self._finish(name, self.dense(k), model, selector=prefix, reader=self.reading())
            case "moe":
                model = decoder(size, k)
                experts = MixtureOfExperts.Config(hidden_dim=k, num_experts=wide // k, top_k=1, renormalise=False)
                replace(model, FeedForward, experts)
                return self._finish(name, self._stage("pretrain", model, name), model)
            case "dense_k":
                start = self.dense(k)
            case "dense_k_sft_only":
                start = self.dense(k)
                return self._finish(name, start, start.model, cpt=0, sft=steps.sft + steps.cpt)
            case "dense_k_sft_short":
                start = self.dense(k)
                return self._finish(name, start, start.model, cpt=0)
            case "dense_D":
                start = self.dense(wide)
            case "dense_k_long":
                start = self.dense(k, round((LONGER - 1) * (steps.pretrain + steps.cpt)) + steps.pretrain, name)
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
        gates = Gates.Config(epsilon=self.tuned.get(EPSILON, self.cell.profile.epsilons[0]))
        learned = self._stage(
            "cpt", model, name, start=self.dense(size.width), selector=selectors.Static.Config(gates=gates), **more
        )
        return self._stage("sft", decoder(size, size.keep), name, start=learned, prune_start=True, **more)

    def _finish(
        self, name: str, start: Train.Config, model: Decoder.Config, cpt: int | None = None, sft: int | None = None, **fields: Any
    ) -> Train.Config:  # fmt: skip
        cpt = self.cell.profile.steps.cpt if cpt is None else cpt
        if cpt:
            start = self._stage("cpt", model, name, start=start, steps=cpt, **fields)
        return self._stage("sft", model, name, start=start, steps=sft, **fields)

    def _stage(
        self, stage: str, model: Decoder.Config, name: str, steps: int | None = None, **fields: Any
    ) -> Train.Config:
        profile = self.cell.profile
        scored = ["test", "seen"] + ["mixed"] * (getattr(self.cell.corpus, "mix_share", 0) > 0)
        planned = profile.steps.pretrain if stage == "read" else getattr(profile.steps, stage)
        rates = self.rates(name)
        return Train.Config(
            model=model, corpus=self.cell.corpus, stage=stage, optim=AdamW.Config(learning_rate=rates.decoder, warmup_fraction=0.05),
            selector_rate=rates.selector, batch_size=profile.batch_size, steps=planned if steps is None else steps,
            seed=self.cell.seed, validate_every=profile.validate_every, label=f"{name}, {stage}, seed {self.cell.seed}",
            evaluations=scored if stage == "sft" else [], on_collapse="record", **fields,  # the gates of the claims say so
        )  # fmt: skip


def tuning(setting: Setting, run: Runner) -> Best:
    """The best value of everything that is tuned, on validation questions at the trial seed. Nothing is computed for a grid of one."""
    profile = PROFILES[setting.profile]
    [cell] = cells(dataclasses.replace(setting, seeds=(profile.trial_seed,)))
    found = Best(pd.DataFrame(), {}, {})
    for grids in _turns(profile):

        def trial(name: str, value: float) -> Train.Config:
            return Study(cell, found.chosen | {name: value}).arm(name.partition(":")[0])  # noqa: B023

        turn = best_of(grids, trial, lambda done: float(done.result["validation_accuracy"]), run, highest=True)
        found = Best(pd.concat([found.table, turn.table], ignore_index=True), found.chosen | turn.chosen, {})
    return found


def _turns(profile: Profile) -> list[dict[str, tuple[float, ...]]]:
    """Grids by what is tuned, those together that do not wait for one another."""
    rates = [dict.fromkeys(turn, profile.rates) for turn in TURNS]
    return [*rates, {EPSILON: profile.epsilons, MULTIPLIERS: profile.multipliers}]


def rates(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per family and value tried: family, value (learning rate of the decoder, or what the family names), score (validation
    accuracy), chosen, widened, failed."""
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


def named(arm: Train.Config, known: frozenset[str], name: str, whole: bool = False) -> Train.Config:
    """An arm whose runs are called by what is varied: those with masks, or the ``whole`` chain where the dense model differs too. Arms of
    the comparison stay as they are: they are the same runs."""
    if arm.fingerprint() in known:
        return arm
    stage: Train.Config | None = arm
    while stage is not None and (whole or stage.selector is not None):
        stage.set(label=f"{name}: {stage.label}")
        stage = stage.start
    return arm
