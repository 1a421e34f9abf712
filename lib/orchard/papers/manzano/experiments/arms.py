"""The arms of the comparison, and every run of a seed. All arms have the same language model, samples and tokenizer, which is frozen.

| arm | reads | writes | learns |
|---|---|---|---|
| hybrid | continuous vectors | codes of the same tokenizer | both |
| pure_discrete, pure_discrete_feat | its codes: rows of the embedding, or outputs of the discrete adapter | the same codes | both |
| dual_encoder | continuous vectors | codes of an auto-encoder, trained on pixels | both |
| dual_semantic | continuous vectors | codes of the tokenizer of the next seed | both |
| und_only, gen_only | as hybrid | as hybrid | to read, to write; as many sequences of it |
| blind | nothing | - | to read |
| quarter | as hybrid | as hybrid | both, a quarter of the steps |

The baseline of the paper is the better of the two discrete arms by validation loss of text, seed by seed. Every family of arms has its
own learning rate, the best on validation at a seed that decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from orchard.papers.manzano.data.scene_world import SceneWorld
from orchard.papers.manzano.experiments.profiles import PROFILES, Lesson, Mix, Profile, seeds
from orchard.papers.manzano.method import models
from orchard.papers.manzano.method.fsq import codebook_size
from orchard.papers.manzano.method.models import Picture, Size
from orchard.papers.manzano.method.unified import Vocabulary
from orchard.papers.manzano.runs.autoencoder import TrainAutoEncoder
from orchard.papers.manzano.runs.features import Features
from orchard.papers.manzano.runs.image_decoder import Resolution, TrainDecoder
from orchard.papers.manzano.runs.scores import Answers, Drawings
from orchard.papers.manzano.runs.scores import Edits as EditScores
from orchard.papers.manzano.runs.tokenizer import Phase, Stream, Tokenizer
from orchard.papers.manzano.runs.unified import Reads, Stage, Unified
from orchard.runs import Finished, Run, Runner, Setting
from orchard.runs.grid import Best, best_of
from orchard.train import AdamW


@dataclass(frozen=True)
class Arm:
    """What a language model reads, whose codes it writes, what it learns, and for which share of the steps."""

    words: str
    reads: Reads = "continuous"
    codes: str = "hybrid"
    understanding: bool = True
    generation: bool = True
    steps: float = 1.0


OWN, PIXELS, NEXT = "hybrid", "auto-encoder", "next seed"  # whose codes
Shuffled = Literal["nothing", "reference", "instruction"]
ARMS = {
    "hybrid": Arm("hybrid tokenizer"),
    "pure_discrete": Arm("pure discrete, rows of codes", reads="codes"),
    "pure_discrete_feat": Arm("pure discrete, discrete adapter", reads="adapter"),
    "dual_encoder": Arm("dual encoder: codes of pixels", codes=PIXELS),
    "dual_semantic": Arm("dual encoder: codes of another text-aligned tokenizer", codes=NEXT),
    "und_only": Arm("understanding alone", generation=False),
    "gen_only": Arm("generation alone", understanding=False),
    "blind": Arm("blind", reads="nothing", generation=False),
    "quarter": Arm("hybrid, a quarter of the steps", steps=0.25),
}
DISCRETE = ("pure_discrete", "pure_discrete_feat")
BASELINE = "discrete"  # the better of the two
WORDS = {name: arm.words for name, arm in ARMS.items()} | {
    BASELINE: "pure discrete (the better of two)", "hybrid_shuffled": "hybrid, codes of another prompt",
    **{f"{name}_other": f"{ARMS[name].words}, shown another picture" for name in ("hybrid", *DISCRETE)},
    "posthoc": "codes fitted after the fact", "bottleneck": "as many floats, not rounded",
}  # fmt: skip
READ = {"objects": 0.4, "read": 0.4, "name": 0.2}  # tasks of understanding
METRIC_OF = {"objects": "general", "name": "knowledge", "read": "text-rich"}
DRAW = {"full": 0.2, "geneval": 0.8}  # of generation
LIKE = {  # whose rate an arm takes
    "pure_discrete_feat": "pure_discrete", "dual_semantic": "hybrid", "quarter": "hybrid", "edits": "hybrid", "blind": "und_only",
}  # fmt: skip
NO_WORDS = Vocabulary(1, 0)  # runs set the vocabulary
ADAPTERS = {"posthoc": True, "bottleneck": False}  # discrete adapters after the fact -> whether they round


def words(arm: object) -> str:
    """An arm in words; what is no arm stays as it is."""
    return WORDS.get(str(arm), str(arm))


@dataclass(frozen=True)
class Study:
    """A seed and its runs. ``rates``: by family."""

    profile: Profile
    seed: int
    next_seed: int
    few: bool = True  # whether it is among the seeds of the studies that need fewer
    rates: Mapping[str, float] = field(default_factory=dict)
    world: SceneWorld.Config | None = None  # None, here and below: those of the profile
    levels: tuple[int, ...] = ()
    lessons: tuple[Lesson, ...] = ()
    stages: tuple[Mix, ...] = ()
    reading: Mapping[str, float] = field(default_factory=lambda: READ)
    name: str = ""

    def has(self, arm: str) -> bool:
        """Whether an arm is trained at this seed."""
        return arm != "dual_semantic" or self.few

    def strips(self, k: int, levels: tuple[int, ...]) -> Study:
        """The study of strips of text of a density."""
        size, own = self.profile.strips, {f"read k{k}": 0.9, "read k1": 0.1} if k > 1 else {"read k1": 1.0}
        first, second, last = size.until
        shown = self.profile.world
        world = SceneWorld.Config(
            height=12,
            width=shown.width,
            k=k,
            most=0,
            alphabet=shown.alphabet,
            train=size.train,
            validation=200,
            test=size.test,
        )
        lessons = (Lesson(first, {"read k1": 1.0}, 0.0), Lesson(second, own, 0.0), Lesson(last, own, 0.5))
        stages = (Mix(size.steps, self.profile.stages[0].understanding, 0, 0),)
        name = f"strips k{k}, {codebook_size(list(levels))} codes, "
        return replace(
            self, world=world, levels=levels, lessons=lessons, stages=stages, reading={"read": 1.0}, name=name
        )

    # ------------------------------------------------------------------ what is trained

    @property
    def shown(self) -> SceneWorld.Config:
        """The world of its pictures."""
        return self.world or self.profile.world

    @property
    def codebook(self) -> list[int]:
        return list(self.levels or self.profile.levels)

    def _training(self, what: str, steps: int, rate: float, seed: int | None = None) -> dict[str, Any]:
        seed, every = self.seed if seed is None else seed, -(-steps // 10)
        optim = AdamW.Config(learning_rate=rate, weight_decay=0.01)
        return {
            "optim": optim, "seed": seed, "label": f"{what}, {self.name}seed {seed}", "validate_every": every,
            "log_every": max(1, every // 5), "checkpoint_every": every * 2,
        }  # fmt: skip

    def tokenizer(self, what: str = "tokenizer", rate: float = 0.0, **changes: Any) -> Tokenizer.Config:
        """Stage 0."""
        profile, lessons = self.profile, changes.pop("lessons", self.lessons or self.profile.lessons)
        picture = Picture(self.shown.height, self.shown.width)
        made = models.tokenizer(
            picture, profile.vision, self.codebook, profile.adapter, profile.reader.dim, changes.pop("rounded", True)
        )
        return Tokenizer.Config(
            tokenizer=made, language_model=models.language_model(profile.reader, NO_WORDS), world=self.shown,
            phases=[Phase.Config(until=one.until, streams=_streams(one), discrete=one.discrete) for one in lessons],
            batch_size=profile.tokenizer_batch, test_items=profile.items, validation_items=min(100, self.shown.validation),
            **self._training(what, lessons[-1].until, rate or profile.tokenizer_rate), **changes,
        )  # fmt: skip

    def after_the_fact(self, name: str, rate: float = 0.0) -> Tokenizer.Config:
        """A discrete adapter fitted to the frozen vision transformer of this seed, by its name in ``ADAPTERS``."""
        lesson = Lesson(self.profile.posthoc_steps, {f"read k{self.shown.k}": 1.0}, 1.0)
        rate = rate or self.rates[name]
        return self.tokenizer(
            f"{name} adapter", rate, lessons=(lesson,), rounded=ADAPTERS[name], start=self.tokenizer(), posthoc=True
        )

    def features(self) -> Features.Config:
        """What the frozen tokenizer makes of all pictures."""
        edits = [] if self.world else list(self.profile.edits)
        return Features.Config(
            tokenizer=self.tokenizer(), world=self.shown, edits=edits, label=f"features, {self.name}seed {self.seed}"
        )

    def codes(self, whose: str) -> Features.Config | TrainAutoEncoder.Config:
        """What makes codes: this seed's tokenizer, its auto-encoder, the next seed's tokenizer."""
        if whose == PIXELS:
            return self.autoencoder()
        return replace(self, seed=self.next_seed if whose == NEXT else self.seed).features()

    def autoencoder(self) -> TrainAutoEncoder.Config:
        """The auto-encoder of the dual-encoder arm."""
        profile = self.profile
        model = models.autoencoder(profile.square, profile.autoencoder, self.codebook)
        return TrainAutoEncoder.Config(
            model=model, world=self.shown, steps=profile.autoencoder_steps, batch_size=profile.decoder_batch,
            **self._training("auto-encoder", profile.autoencoder_steps, profile.decoder_rate),
        )  # fmt: skip

    def decoder(self, whose: str = OWN, reference: bool = False, size: Size | None = None) -> TrainDecoder.Config:
        """The image decoder of codes; one that edits sees the picture that is edited."""
        profile, size = self.profile, size or self.profile.decoder
        square, dim = profile.square if whose == PIXELS else profile.picture.square, len(self.codebook)
        model: Any
        if patch := profile.editing_patch if reference else profile.decoder_patch:
            model = models.image_decoder(profile.picture, size, patch, dim, square, reference)
        else:
            model = models.regression_decoder(profile.picture, size, dim, square)
        what = f"image decoder of {'its own' if whose == NEXT else whose} codes{', with a reference' * reference}"
        seed = self.next_seed if whose == NEXT else self.seed
        steps = profile.decoder_stages[-1][0]
        return TrainDecoder.Config(
            model=model, codes=self.codes(whose), batch_size=profile.decoder_batch, edits=list(profile.edits) * reference,
            stages=[Resolution.Config(until=until, shrink=shrink) for until, shrink in profile.decoder_stages],
            **self._training(what.replace("its own", OWN) + _wide(size, profile.decoder), steps, profile.decoder_rate, seed),
        )  # fmt: skip

    def unified(self, name: str, rate: float = 0.0, size: Size | None = None) -> Unified.Config:
        """The language model of an arm, of another size where one is given."""
        arm, size = ARMS[name], size or self.profile.size
        stages = [
            Stage.Config(
                until=max(1, round(arm.steps * mix.until)), text=mix.text, understanding=mix.understanding * arm.understanding,
                generation=mix.generation * arm.generation,
            )
            for mix in self.stages or self.profile.stages
        ]  # fmt: skip
        codes = None if arm.codes == OWN else self.codes(arm.codes)
        return self._language_model(name, rate, size, stages, reads=arm.reads, codes=codes)

    def editor(self, reads: bool) -> Unified.Config:
        """A language model that learns to read and to edit, with or without the picture that is edited."""
        stages = [
            Stage.Config(until=mix.until, text=mix.text, understanding=mix.understanding, edits=mix.generation)
            for mix in self.profile.stages
        ]
        kinds = dict.fromkeys(self.profile.edits, 1.0)
        what = "edits" if reads else "edits, blind"
        return self._language_model(
            what, self.rates["hybrid"], self.profile.size, stages, edits=kinds, edits_read=reads
        )

    def _language_model(
        self, what: str, rate: float, size: Size, stages: list[Stage.Config], **changes: Any
    ) -> Unified.Config:
        rate = rate or self.rates[family(what, size, self.profile)]
        made = models.language_model(size, NO_WORDS)
        return Unified.Config(
            language_model=made, features=self.features(), stages=stages, understanding=dict(self.reading), generation=DRAW,
            **self._training(f"language model {what}" + _wide(size, self.profile.size), stages[-1].until, rate), **changes,
        )  # fmt: skip

    # ------------------------------------------------------------------ how it is scored

    def answers(self, name: str, other: bool = False, size: Size | None = None) -> Answers.Config:
        """Answers of an arm about test pictures, or ``other`` ones than are shown."""
        return self._answers(self.unified(name, size=size), other)

    def _answers(self, model: Unified.Config, other: bool = False) -> Answers.Config:
        return Answers.Config(
            model=model, tasks=list(model.understanding), count=self.profile.items, shuffled=other,
            label=f"answers{', another picture' * other}: {model.label}",
        )  # fmt: skip

    def edit_reader(self) -> Answers.Config:
        """Answers of the language model that edits."""
        return self._answers(self.editor(True))

    def drawings(
        self, name: str = "", whose: str = OWN, shuffled: bool = False, size: Size | None = None, **changes: Any
    ) -> Drawings.Config:
        """GenEval-mini of an arm; without a name of true codes, the ceiling."""
        model = self.unified(name, size=size) if name else None
        decoder = changes.pop("decoder", None) or self.decoder(ARMS[name].codes if name else whose)
        who = model.label if model else f"true codes, {decoder.label}"
        values = {"guidance": self.profile.guidance, "count": self.profile.items, **changes}
        label = f"drawings{', of another prompt' * shuffled}, guidance {values['guidance']:g}: {who}"
        return Drawings.Config(
            decoder=decoder,
            model=model,
            steps=self.profile.euler,
            seed=self.seed,
            shuffled=shuffled,
            label=label,
            **values,
        )

    def edits(self, arm: str, shuffled: Shuffled = "nothing") -> EditScores.Config:
        """Edits of an arm: "language model", "decoder", "both" see the reference; "true codes" of the target, with the reference."""
        model = None if arm == "true codes" else self.editor(arm != "decoder")
        return EditScores.Config(
            decoder=self.decoder(reference=arm != "language model"), model=model,
            kinds=list(self.profile.edits), count=self.profile.edit_items, steps=self.profile.euler, shuffled=shuffled, kept=4,
            seed=self.seed, label=f"edits, {arm}, {shuffled} shuffled, seed {self.seed}",
        )  # fmt: skip


def _streams(lesson: Lesson) -> list[Stream.Config]:
    return [
        Stream.Config(task=name.split(" k")[0], k=int(name.split(" k")[1]), share=share)
        for name, share in lesson.streams.items()
    ]


def _wide(size: Size, usual: Size) -> str:
    return "" if size == usual else f", width {size.dim}"


def family(arm: str, size: Size, profile: Profile) -> str:
    """Whose rate an arm of a size takes."""
    name = LIKE.get(arm.split(",")[0], arm)
    return name if size == profile.size or name != "hybrid" else f"hybrid, width {size.dim}"


def tuning_study(setting: Setting) -> Study:
    """The seed that decides nothing."""
    profile = PROFILES[setting.profile]
    return Study(profile, profile.tuning_seed, profile.tuning_seed + 1)


def tuned(setting: Setting, run: Runner) -> Best:
    """The learning rate of every family, by validation loss; of an adapter after the fact, that of its own texts."""
    base = tuning_study(setting)
    profile, k = base.profile, base.shown.k
    plain = {name: profile.size for name in ARMS if name not in LIKE}
    sizes = {f"hybrid, width {size.dim}": size for size in profile.other_sizes}

    def trial(name: str, rate: float) -> Run.Config:
        if name in ADAPTERS:
            return base.after_the_fact(name, rate)
        return base.unified(name.split(",")[0], rate, (plain | sizes)[name])

    def score(done: Finished) -> float:
        return float(done.result.get(f"discrete/read k{k}/loss", done.result["validation_loss"]))

    return best_of(dict.fromkeys((*plain, *sizes, *ADAPTERS), profile.rates), trial, score, run, widen=profile.widen)


def studies(setting: Setting, run: Runner, few: bool = False) -> list[Study]:
    """The study of every compared seed, or of the first ``few``, at tuned rates."""
    rates = tuned(setting, run).chosen
    return [replace(study, rates=rates) for study in untuned(setting, few)]


def untuned(setting: Setting, few: bool = False) -> list[Study]:
    """The same before rates are known: tokenizers and decoders need none."""
    profile, all_of = PROFILES[setting.profile], seeds(setting)
    after = (*all_of[1:], all_of[0] if len(all_of) > 1 else all_of[0] + 1)
    found = [Study(profile, seed, after[i], few=i < profile.few) for i, seed in enumerate(all_of)]
    return [study for study in found if study.few or not few]
