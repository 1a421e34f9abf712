"""The five stages on a corpus of the reader's own: pair, tune, synthesise, filter, mix; a parquet of synthetic documents comes out.

    text -> D -> [pretrain or a local model] -> pair -> tune -> synthesise -> filter -> mix -> OUT.parquet, OUT.json

Each stage is a run in the store: a command that was killed goes on where it was, in the middle of a batch of samples too, and a second
command that differs in the temperature alone pairs and tunes nothing anew. Every document carries its seed document, synthesizer, sampling
seed and batch. Synthetic text is derived from the text it was made from: the licence is carried along.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orchard.data import BPETokenizer, ByteTokenizer, Tokenizer, text_source
from orchard.errors import BadInput, closest
from orchard.files import to_json, write
from orchard.papers.sbp.data.text import TextCorpus, folder_tokenizer
from orchard.papers.sbp.experiments.arms import Study, optimizer
from orchard.papers.sbp.experiments.profiles import PROFILES, Regular
from orchard.papers.sbp.integrations.decoder import LocalDecoder, check_length, local_model
from orchard.papers.sbp.integrations.embedder import local_embedder
from orchard.papers.sbp.method.documents import check_enough
from orchard.papers.sbp.method.embedding import Embedder, TfidfEmbedder
from orchard.papers.sbp.method.models import M10, M40, TINY, Size
from orchard.papers.sbp.method.ngrams import NearDuplicates
from orchard.papers.sbp.runs.embedding import LMEmbedder
from orchard.papers.sbp.runs.filter import Filter, provenance_table
from orchard.papers.sbp.runs.mix import Mix
from orchard.papers.sbp.runs.pair import Pair
from orchard.papers.sbp.runs.pretrain import Adopt, Pretrain
from orchard.papers.sbp.runs.synthesise import Synthesise
from orchard.papers.sbp.runs.tune import Tune, load_synthesizer
from orchard.runs import Finished, Run, Store

SIZES: dict[str, Size] = {"tiny": TINY, "small": Size(128, 4, 4, 4, 344), "10M": M10, "40M": M40}
LEARNING_RATES = {"tiny": 1e-2, "small": 4e-3, "10M": 2e-3, "40M": 1e-3}
HELD_OUT = 64  # documents of validation at least: pairs among them stop the tuning
HUBS = 5


@dataclass(frozen=True)
class Options:
    """What a reader may choose. The defaults are for small corpora on a laptop."""

    documents: int | None = None  # of D; None: all
    cap: int = 256  # tokens of a document
    tokenizer: str | None = None  # bytes, bpe or a folder; None: that of the model's folder, else bpe
    vocabulary: int = 1024  # of bpe
    embedder: str = "own"  # own, tfidf or a folder
    model: str | None = None  # folder of a causal language model; None: a decoder of ours, pretrained on D
    size: str = "tiny"  # of ours
    tokens: int | None = None  # synthetic, kept; None: as many as D has
    share: float = 0.375  # synthetic, of the mixture
    k: int = 8
    exceedance: float | None = None  # of random pairs; None: what gives a document about k partners, 0.05 at most
    temperature: float = 1.0
    top_p: float | None = None
    pretrain_steps: int | None = None  # None: 20 passes over D, 200 steps at most
    tuning_steps: int = 80
    batch: int = 16  # documents or pairs a step
    learning_rate: float | None = None  # None: that of the size (a quarter of it in tuning), 3e-5 for a local model
    weight_decay: float = 1.0
    sampling_batch: int = 256  # documents
    seed: int = 0


@dataclass(frozen=True)
class LocalStudy(Study):
    """A study that begins with a local model instead of a decoder of ours."""

    model: LocalDecoder.Config = field(default_factory=LocalDecoder.Config)
    learning_rate: float = 3e-5

    def repetition(self) -> Pretrain.Config:
        mix, label = self.mix(f"D; {self.name}", steps=1), f"the model as it is; {self.name}"
        return Adopt.Config(model=self.model, mix=mix, eval_documents=self.profile.held_out, label=label)

    def tune(self, pairs: Run.Config | None, name: str, arm: str = "sbp-nn-lm", **changes: Any) -> Tune.Config:
        return super().tune(pairs, name, arm, **changes).set(optim=optimizer(self.regular, self.learning_rate))


@dataclass(frozen=True)
class Plan:
    """The stages as configs: each holds those before it."""

    corpus: TextCorpus.Config
    pretrain: Pretrain.Config
    pair: Pair.Config
    tune: Tune.Config
    synthesise: Synthesise.Config
    filter: Filter.Config
    mix: Mix.Config

    def stages(self) -> dict[str, Run.Config]:
        """By name, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "corpus"}


def of_study(study: Study, arm: str = "sbp-nn-lm") -> Plan:
    """The stages of an arm of a study on text."""
    pairs, joint = study.pairs(arm), study.arm(arm)
    tuned = study.synthesizer(arm)
    sampled = study.synthesise(tuned, arm)
    return Plan(study.corpus, study.repetition(), pairs, tuned, sampled, study.filtered(sampled, arm), joint.mix)  # type: ignore[arg-type]


def plan(text: str | Path, options: Options = Options()) -> Plan:
    """The stages for a text. Everything that can be wrong before anything is computed is found here.

    Raises:
        BadInput: a path that does not exist, an empty or too small corpus, no UTF-8, a folder without model or tokenizer, a value out
            of its range.
    """
    _check(options)
    model = None if options.model is None else local_model(options.model)
    corpus = TextCorpus.Config(
        source=text_source(str(text)), tokenizer=_tokenizer(options), documents=options.documents, pool=1, cap=options.cap,
        validation_at_least=HELD_OUT,
    )  # fmt: skip
    built: TextCorpus = corpus.build()
    real = built.documents("train")
    check_enough(real, options.k + 1, f"pairing with k = {options.k} neighbours")
    tokens = int((real.lengths + 1).sum())
    if model is not None:
        model.set(vocab_size=built.symbols.vocab_size)
        check_length(Path(model.folder), 2 * corpus.cap + 4)
    steps = options.pretrain_steps or min(200, max(20, 20 * len(real) // options.batch))
    exceedance = min(0.05, options.k / len(real)) if options.exceedance is None else options.exceedance
    profile = replace(
        PROFILES["smoke"], neighbours=options.k, exceedance=exceedance, tuning_steps=options.tuning_steps, tuning_batch=options.batch,
        sampling_batch=options.sampling_batch, evaluations=6, held_out=128, share=options.share, batch=options.batch,
    )  # fmt: skip
    name = Path(str(text)).name
    regular = Regular(
        options.weight_decay, 0.0, options.learning_rate or LEARNING_RATES[options.size], options.weight_decay
    )
    budget = steps * options.batch * tokens // len(real)
    given = (profile, corpus, name, options.seed, regular, SIZES[options.size], budget, steps)
    study = Study(*given)
    if model is not None:
        study = LocalStudy(*given, model=model, learning_rate=options.learning_rate or 3e-5)
    pair = study.nearest(_embedder(options, study), options.embedder, copies=NearDuplicates.Config())
    tuned = study.tune(pair, "on neighbours")
    wanted = max(tokens, _least(options)) if options.tokens is None else options.tokens
    drawing: dict[str, Any] = {"temperature": options.temperature, "top_p": options.top_p, "label": f"samples; {name}"}
    sampled = study.synthesise(tuned, options.embedder, tokens=wanted, **drawing)
    kept = study.filtered(sampled, "of the samples")
    budget = max(int((wanted - 2 * (corpus.cap + 1)) / options.share), corpus.cap + 1)
    mix = study.mix(f"mixture; {name}", synthetic=kept, share=options.share, budget=budget, steps=1)
    return Plan(corpus, study.repetition(), pair, tuned, sampled, kept, mix)


def _least(options: Options) -> int:
    return 4 * (options.cap + 1)


def _check(options: Options) -> None:
    if options.size not in SIZES:
        raise BadInput(f"size {options.size!r}: {closest(options.size, SIZES)}")
    if options.tokens is not None and options.tokens < (least := _least(options)):
        raise BadInput(f"tokens = {options.tokens}: ask for at least four documents of the cap, {least} tokens")
    if not 0 < options.share <= 1:
        raise BadInput(f"share = {options.share}: the synthetic part of the mixture is above 0 and at most 1")
    if options.k < 1 or options.batch < 1 or options.tuning_steps < 1 or (options.pretrain_steps or 1) < 1:
        raise BadInput(
            f"k = {options.k}, batch = {options.batch}, steps = {options.pretrain_steps}, {options.tuning_steps}: take 1 or more"
        )
    if options.exceedance is not None and not 0 < options.exceedance < 1:
        raise BadInput(f"exceedance = {options.exceedance}: a share of random pairs lies between 0 and 1")
    temperature, top_p = options.temperature, options.top_p
    if not temperature > 0 or (top_p is not None and not 0 < top_p <= 1):
        raise BadInput(f"temperature {temperature}, top_p {top_p}: temperature is above 0, top_p in (0, 1]")


def _tokenizer(options: Options) -> Tokenizer.Config:
    name = options.tokenizer or options.model or "bpe"
    if options.model is not None and options.tokenizer not in (None, options.model):
        raise BadInput(
            f"tokenizer {name!r} with the model of {options.model}: a local model reads its own tokens alone, leave it out"
        )
    if name == "bytes":
        return ByteTokenizer.Config()
    if name == "bpe":
        return BPETokenizer.Config(vocab_size=options.vocabulary)
    if Path(name).expanduser().is_dir():
        return folder_tokenizer(name)
    raise BadInput(f"tokenizer {name!r}: give bytes, bpe, or a folder that exists")


def _embedder(options: Options, study: Study) -> Embedder.Config:
    if options.embedder == "own":
        return LMEmbedder.Config(pretrained=study.repetition())
    if options.embedder == "tfidf":
        return TfidfEmbedder.Config()
    if Path(options.embedder).expanduser().is_dir():
        return local_embedder(options.embedder)
    raise BadInput(f"embedder {options.embedder!r}: give own, tfidf, or a folder that exists")


def run(chosen: Plan, store: Store, device: str = "auto", say: Callable[[str], None] = print) -> dict[str, Finished]:
    """The finished runs of all stages, computed where they are missing; says after each what it found.

    Raises:
        BadInput: no pair is left, a synthesizer that never ends, rules that reject nearly everything; what is finished stays.
    """
    for line in corpus_lines(chosen):
        say(line)
    done: dict[str, Finished] = {}
    for name, cfg in chosen.stages().items():
        done[name] = store.compute(cfg, device)
        for line in stage_lines(name, chosen, done):
            say(f"{name:10} {line}")
    return done


def corpus_lines(chosen: Plan) -> list[str]:
    """What the text is: documents, tokens, what was cut."""
    built: TextCorpus = chosen.corpus.build()
    manifest, real = built.source.manifest(), built.documents("train")
    about, pool = built.about, built.documents("pool")
    lines = [
        f"{'text':10} {manifest.name}: {manifest.rows} documents, {manifest.bytes} bytes, {manifest.dropped} duplicates left out; "
        f"D has {len(real)}, {int((real.lengths + 1).sum())} tokens, {len(built.documents('validation'))} are held out"
    ]
    if cut := about["cut"]["pool"]:
        where = f"{cut} of {len(pool)} documents"
        lines.append(f"{'':10} {where} were longer than {chosen.corpus.cap} tokens: their tails are cut")
    if chosen.corpus.documents is not None and len(real) < chosen.corpus.documents:
        lines.append(f"{'':10} {chosen.corpus.documents} documents were asked, the text has {len(real)}")
    if about["asked"] is not None and len(real) < len(pool) < about["asked"]:
        lines.append(f"{'':10} the pool has {len(pool)} documents, not {about['asked']}: all there are")
    return lines


def stage_lines(stage: str, chosen: Plan, done: dict[str, Finished]) -> list[str]:
    """What a stage found."""
    result = done[stage].result
    match stage:
        case "pretrain":
            kind = "a local model" if isinstance(chosen.pretrain, Adopt.Config) else f"{result['steps']} steps"
            loss = result["last"]["validation_loss"]
            return [f"{result['parameters']} parameters, {kind}: {loss:.1f} nats per held-out document"]
        case "pair":
            counts, share = result["pairs"], chosen.pair.exceedance
            left = f"{counts['below']} below, {counts['near_duplicates']} near-duplicates, {counts['capped']} of hubs"
            top = ", ".join(f"{row.document} ({row.pairs})" for row in hubs(chosen, done).head(HUBS).itertuples())
            return [
                f"{counts['pairs']} pairs above {result['alpha']:.4f}, which {share:.2g} of random pairs exceed; left out: {left}",
                f"{result['held_out']['pairs']} pairs are held out; {result['copies']} documents of D were near-copies and have none",
                f"most often a partner: {top}",
            ]
        case "tune":
            best = f"best at step {result['best_step']} of {chosen.tune.steps}"
            before, after = result["loss_before"], result["loss"]
            return [f"{before:.1f} -> {after:.1f} nats per second document of held-out pairs, {best}"]
        case "synthesise":
            rate = done[stage].provenance["sampling"]["tokens_per_s"]
            amount = f"{result['documents']} documents, {result['tokens']} tokens in {result['batches']} batches"
            return [f"{amount}, {rate:.0f} tokens/s"]
        case "filter":
            reasons = {name: count for name, count in result["rejections"].items() if count}
            total = sum(reasons.values())
            shown = ", ".join(f"{name} {count} ({count / total:.1%})" for name, count in reasons.items())
            return [f"{shown}; {result['kept_tokens']} tokens kept"]
    amount = f"{result['synthetic_tokens']} synthetic and {result['real_tokens']} real tokens"
    return [f"{amount}: D is repeated {result['repeats']:.2f} times in a mixture of {result['tokens']}"]


def hubs(chosen: Plan, done: dict[str, Finished]) -> pd.DataFrame:
    """Documents of D by the number of pairs that they are the second of: document, pairs."""
    names = chosen.corpus.build().documents("train").names
    count = np.bincount(done["pair"].tensors("pairs")["second"].numpy(), minlength=len(names))
    order = np.argsort(-count, kind="stable")
    return pd.DataFrame({"document": [names[i] for i in order], "pairs": count[order]})


def documents(chosen: Plan, done: dict[str, Finished]) -> pd.DataFrame:
    """One row per synthetic document that was kept, with where it comes from; see `runs.filter.provenance_table`. ``samples`` is the id of
    the run that sampled it."""
    table = provenance_table(chosen.corpus.build(), done["synthesise"], done["filter"])
    return table.assign(samples=done["synthesise"].id)


def report(chosen: Plan, done: dict[str, Finished], licence: str | None = None) -> dict[str, Any]:
    """Manifest, licence, warnings, and for every stage its run, config hash, result and seconds. JSON values only."""
    built: TextCorpus = chosen.corpus.build()
    manifest = built.source.manifest()
    stages = {
        name: {"run": run.id, "result": run.result, "seconds": run.provenance["wall_s"]} for name, run in done.items()
    }
    terms = licence or manifest.licence
    return {
        "text": manifest.to_dict(), "licence": terms, "warnings": [licence_warning(terms)],
        "documents": {split: len(built.documents(split)) for split in ("train", "validation")}, "cut": built.about["cut"],
        "hubs": hubs(chosen, done).head(HUBS).to_dict("records"), "stages": stages,
    }  # fmt: skip


def licence_warning(licence: str) -> str:
    """What to know about the licence of synthetic text."""
    return (
        f"the licence of the text is: {licence}. Synthetic documents are derived from it and can repeat passages of it: under a "
        "share-alike licence (CC BY-SA, CDLA-Sharing, ODbL) they inherit its terms, and attribution stays due"
    )


def places(out: str | Path) -> tuple[Path, Path]:
    """The parquet and the report of OUT, which may be written. Raises BadInput where one exists or the folder cannot be written."""
    target = Path(out).expanduser().absolute()
    stem = target.with_suffix("") if target.suffix in (".parquet", ".json") else target
    both = stem.with_name(stem.name + ".parquet"), stem.with_name(stem.name + ".json")
    for place in both:
        if place.exists():
            raise BadInput(f"{place} exists: choose another OUT, it is left alone")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=stem.parent):
            pass
    except OSError as error:
        raise BadInput(f"{stem.parent} cannot be written ({error.strerror}): choose another OUT") from None
    return both


def write_out(chosen: Plan, done: dict[str, Finished], out: str | Path, licence: str | None = None) -> dict[str, Any]:
    """Write OUT.parquet and OUT.json, each complete or not at all; returns the report. Raises BadInput as `places`."""
    import pyarrow
    import pyarrow.parquet

    parquet, json_place = places(out)
    made = report(chosen, done, licence)
    table = pyarrow.Table.from_pandas(documents(chosen, done), preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"licence": made["licence"].encode()})
    part = parquet.with_name(f".{parquet.name}.{os.getpid()}.part")
    try:
        pyarrow.parquet.write_table(table, part)
        write(json_place, to_json(made))
        part.rename(parquet)
    finally:
        part.unlink(missing_ok=True)
    return made


def save_synthesizer(run: Finished, cfg: Tune.Config, folder: Path) -> None:
    """Write a tuned local model as ``from_pretrained`` reads it. Raises BadInput for a decoder of ours."""
    model = load_synthesizer(run, cfg)
    if not isinstance(model, LocalDecoder):
        raise BadInput(f"run {run.id} tuned a decoder of this library, which transformers does not know")
    model.save(folder)
