"""The arms of the comparison as configs: same initial seed, tokenizer, steps and tokens; only what is read differs.

| arm | what fills the synthetic share |
|---|---|
| repetition | nothing: D is repeated                     |
| oracle | nothing: 20 times as many unique documents |
| sbp-nn-lm, sbp-nn-tfidf | tuned on neighbours by the repetition model's own states, by TF-IDF |
| sbp-random, sbp-true | tuned on random pairs, on pairs that truly share their concept |
| sbp-unrelated | tuned on pairs that never share it; in no comparison, the control of K4 and K5 |
| uncond | tuned on D alone, sampled from bos |
| paraphrase | seeds with tokens dropped and replaced |
| icp | nothing: neighbours in one context, loss on both |
| exact-posterior | sampled from the world's own conditional: leaks the world |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVarTuple

from orchard.papers.sbp.experiments.profiles import PROFILES, Cell, Profile, Regular, world
from orchard.papers.sbp.method.documents import Corpus
from orchard.papers.sbp.method.embedding import Embedder, TfidfEmbedder
from orchard.papers.sbp.method.models import Size, decoder
from orchard.papers.sbp.runs.controls import ExactPosterior, Paraphrase
from orchard.papers.sbp.runs.embedding import LMEmbedder
from orchard.papers.sbp.runs.filter import Filter
from orchard.papers.sbp.runs.mix import Mix
from orchard.papers.sbp.runs.pair import DrawnPairs, Pair
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.papers.sbp.runs.synthesise import Synthesise
from orchard.papers.sbp.runs.tune import Tune
from orchard.papers.sbp.runs.unrelated import UnrelatedPairs
from orchard.runs import Finished, Run, Runner, Setting
from orchard.train import AdamW

Facts = TypeVarTuple("Facts")

REFERENCES = ("repetition", "oracle")
NEAREST = ("sbp-nn-lm", "sbp-nn-tfidf")
CONTROLS = ("sbp-random", "sbp-true", "uncond", "paraphrase", "icp", "exact-posterior")
ARMS = REFERENCES + NEAREST + CONTROLS
TUNED = ("sbp-nn-lm", "sbp-nn-tfidf", "sbp-random", "sbp-true", "uncond")  # arms whose documents a tuned decoder wrote
UNRELATED = "sbp-unrelated"
COMPARED = ("repetition", "oracle", "sbp-nn-lm", "sbp-random", "uncond")  # in every cell
SPARE_TOKENS = 2  # documents: a share is met by whole documents


@dataclass(frozen=True)
class Study:
    """Everything the arms of one cell have in common, and what was tuned for each. ``with_`` changes one thing for all of them.

    The budget is ``profile.pool`` times D, the number of repeats of the baseline. A synthesizer is tuned with a quarter of the rate of
    repetition, whose model it starts from, and a weight decay of its own.
    """

    profile: Profile
    corpus: Corpus.Config
    name: str
    seed: int
    regular: Regular  # of repetition, and of every arm that has none of its own
    size: Size
    budget: int
    steps: int
    own: Mapping[str, Regular] = field(default_factory=dict)  # by arm

    def with_(self, **changes: Any) -> Study:
        """The same study with some fields changed."""
        return replace(self, **changes)

    def regularised(self, arm: str, regular: Regular) -> Study:
        """The study with another regularisation of one arm."""
        return self.with_(regular=regular) if arm == "repetition" else self.with_(own={**self.own, arm: regular})

    def regularised_as(self, other: Study) -> Study:
        """The study with what was tuned in another one."""
        return self.with_(regular=other.regular, own=other.own)

    def regular_of(self, arm: str) -> Regular:
        """What was tuned for an arm."""
        return self.own.get(arm, self.regular)

    def pretrain(self, label: str, regular: Regular | None = None, **mix: Any) -> Pretrain.Config:
        """A joint model from scratch on a mixture."""
        chosen = regular or self.regular
        every = -(-self.steps // self.profile.evaluations)
        name = f"{label}; {self.name}"
        return Pretrain.Config(
            model=decoder(self.size, chosen.dropout), mix=self.mix(f"mix for {name}", **mix), optim=optimizer(chosen),
            seed=self.seed, validate_every=every, log_every=max(1, every // 2), eval_documents=self.profile.held_out, label=name,
        )  # fmt: skip

    def mix(self, label: str, **fields: Any) -> Mix.Config:
        """A mixture of the budget of all arms."""
        sizes: dict[str, Any] = {"budget": self.budget, "steps": self.steps, **fields}
        return Mix.Config(corpus=self.corpus, seed=self.seed, label=label, **sizes)

    def repetition(self) -> Pretrain.Config:
        """D repeated: the baseline, the embedder and what every synthesizer starts from."""
        return self.pretrain("repetition")

    def oracle(self) -> Pretrain.Config:
        """As many tokens, all of them of documents seen once."""
        return self.pretrain("oracle", self.regular_of("oracle"), real="pool")

    def nearest(self, embedder: Embedder.Config, name: str, **changes: Any) -> Pair.Config:
        """Pairs of neighbours."""
        fields: dict[str, Any] = {"k": self.profile.neighbours, "exceedance": self.profile.exceedance, **changes}
        return Pair.Config(
            corpus=self.corpus, embedder=embedder, held_out=self.profile.held_out, seed=self.seed,
            label=f"pairs by {name}; {self.name}", **fields,
        )  # fmt: skip

    def drawn(self, truth: float) -> DrawnPairs.Config:
        """Pairs of which a share ``truth`` is true and the rest random."""
        return DrawnPairs.Config(
            corpus=self.corpus, truth=truth, k=self.profile.neighbours, held_out=self.profile.held_out, seed=self.seed,
            label=f"pairs, {truth:.0%} true; {self.name}",
        )  # fmt: skip

    def pairs(self, arm: str) -> Run.Config | None:
        """The pairs that an arm's synthesizer is tuned on."""
        if arm in ("sbp-nn-lm", "icp"):
            return self.nearest(LMEmbedder.Config(pretrained=self.repetition()), "states of the repetition model")
        if arm == "sbp-nn-tfidf":
            return self.nearest(TfidfEmbedder.Config(), "TF-IDF")
        if arm == UNRELATED:
            return UnrelatedPairs.Config(
                corpus=self.corpus, k=self.profile.neighbours, held_out=self.profile.held_out, seed=self.seed,
                label=f"pairs that share no concept; {self.name}",
            )  # fmt: skip
        return {"sbp-random": self.drawn(0.0), "sbp-true": self.drawn(1.0)}.get(arm)

    def tune(self, pairs: Run.Config | None, name: str, arm: str = "sbp-nn-lm", **changes: Any) -> Tune.Config:
        """A synthesizer that starts from the repetition model, with what was tuned for that of ``arm``."""
        regular = replace(self.regular, weight_decay=self.regular_of(arm).tuning_decay)
        steps = self.profile.tuning_steps
        fields: dict[str, Any] = {"steps": steps, "batch_size": self.profile.tuning_batch, **changes}
        return Tune.Config(
            pretrained=self.repetition(), pairs=pairs, optim=optimizer(regular, rate=regular.learning_rate / 4),
            seed=self.seed, validate_every=-(-steps // 6), held_out=self.profile.held_out, label=f"synthesizer {name}; {self.name}",
            **fields,
        )  # fmt: skip

    def synthesizer(self, arm: str) -> Tune.Config:
        """The synthesizer of an arm that has one; that of unrelated pairs is tuned as that of random ones."""
        return self.tune(self.pairs(arm), arm, "sbp-random" if arm == UNRELATED else arm)

    def needed(self, share: float | None = None) -> int:
        """Tokens that a share of the budget takes, and a little more: whole documents fill it."""
        share = self.profile.share if share is None else share
        return round(share * self.budget) + SPARE_TOKENS * (self.corpus.build().cap + 1)

    def synthesise(
        self, tuned: Tune.Config, name: str, share: float | None = None, **changes: Any
    ) -> Synthesise.Config:
        """Documents sampled from a synthesizer, enough for the share."""
        fields: dict[str, Any] = {"tokens": self.needed(share), "label": f"samples {name}; {self.name}", **changes}
        return Synthesise.Config(tuned=tuned, batch_size=self.profile.sampling_batch, seed=self.seed, **fields)

    def filtered(self, sampled: Run.Config, name: str) -> Filter.Config:
        """What the rules keep."""
        return Filter.Config(corpus=self.corpus, sampled=sampled, label=f"kept {name}; {self.name}")

    def sampled(self, arm: str, share: float | None = None) -> Run.Config:
        """The run that makes an arm's synthetic documents."""
        if arm in ("paraphrase", "exact-posterior"):
            control, label = Paraphrase if arm == "paraphrase" else ExactPosterior, f"samples {arm}; {self.name}"
            return control.Config(corpus=self.corpus, tokens=self.needed(share), seed=self.seed, label=label)
        return self.synthesise(self.synthesizer(arm), arm, share)

    def joint(
        self, sampled: Run.Config, name: str, share: float | None = None, arm: str = "sbp-nn-lm", **mix: Any
    ) -> Pretrain.Config:
        """The joint model on D and what was kept of a synthetic corpus, with what was tuned for ``arm``."""
        share = self.profile.share if share is None else share
        return self.pretrain(name, self.regular_of(arm), synthetic=self.filtered(sampled, name), share=share, **mix)

    def arm(self, name: str) -> Pretrain.Config:
        """The joint model of an arm, by its name in ``ARMS``."""
        if name == "repetition":
            return self.repetition()
        if name == "oracle":
            return self.oracle()
        if name == "icp":
            return self.pretrain("icp", self.regular_of("icp"), neighbours=self.pairs("icp"))
        return self.joint(self.sampled(name), name, arm=name)


def optimizer(regular: Regular, rate: float | None = None) -> AdamW.Config:
    """AdamW as tuned, with another learning rate where one is given."""
    rate = regular.learning_rate if rate is None else rate
    return AdamW.Config(learning_rate=rate, weight_decay=regular.weight_decay, warmup_fraction=0.05)


def ran(run: Runner, rows: Iterable[tuple[*Facts, Run.Config]]) -> list[tuple[*Facts, Finished]]:
    """Rows that end with a config, with the finished run in its place; all are one batch of runs."""
    wanted = list(rows)
    return [(*row[:-1], done) for row, done in zip(wanted, run([row[-1] for row in wanted]), strict=True)]


def study(setting: Setting, cell: Cell, documents: int | None = None, size: Size | None = None) -> Study:
    """The study of a cell before anything is tuned: the profile's sizes, another D where ``documents`` says so (budget and steps follow
    it, those of tuning too), or another ``size`` of all its models."""
    profile = PROFILES[setting.profile]
    count, name = profile.documents, cell.name
    if documents is not None and documents != count:
        steps = max(6, round(profile.tuning_steps * documents / count))
        profile, count, name = replace(profile, tuning_steps=steps), documents, f"{name}, {documents} documents"
    if size is not None and size != profile.size:
        name = f"{name}, width {size.dim}"
    corpus = world(setting, cell.variant, cell.world, count)
    budget, steps = profile.pool * count * (corpus.build().cap + 1), profile.pool * count // profile.batch
    own = {"oracle": profile.oracle_start}
    return Study(profile, corpus, name, cell.seed, profile.start, size or profile.size, budget, steps, own)
