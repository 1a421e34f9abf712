"""The comparison on real text: docstrings of installed packages, or the reader's own corpus.

    bits per byte = -log2 p(d) summed over held-out documents / their bytes of UTF-8

No exact law is known here. Instead: losses of the arms, each at its best checkpoint (chosen on validation documents); how much likelier a
held-out document is after its neighbour than after anyone; what relation in code neighbours have; how much of what is sampled is new.
The weight decay of every arm is tuned by itself.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from jaxtyping import Float64

from orchard.data import Source, text_source
from orchard.papers.sbp.data.docstrings import RELATIONS, Docstrings, Relations
from orchard.papers.sbp.data.text import TextCorpus
from orchard.papers.sbp.experiments.arms import Study, ran
from orchard.papers.sbp.experiments.profiles import TEXT
from orchard.papers.sbp.experiments.regularisation import TRIAL_SEED, regularised
from orchard.papers.sbp.method.documents import Documents
from orchard.papers.sbp.method.ngrams import at_least, hashes
from orchard.papers.sbp.runs.mix import kept_documents
from orchard.papers.sbp.runs.partners import PartnerGap
from orchard.papers.sbp.runs.pretrain import Pretrain
from orchard.papers.sbp.runs.tune import pairs_of
from orchard.runs import Finished, Run, Runner, Setting


def corpus(setting: Setting) -> TextCorpus.Config:
    """The corpus of a setting: docstrings, or what ``setting.data`` names."""
    size = TEXT[setting.profile]
    source: Source.Config = Docstrings.Config(packages=list(size.packages), max_bytes=size.max_bytes)
    if setting.data != "embedded":
        source = text_source(setting.data)
    count, pool = size.sizes.documents, size.sizes.pool
    return TextCorpus.Config(source=source, tokenizer=size.tokenizer, documents=count, pool=pool, cap=size.cap)


def base(setting: Setting, seed: int) -> Study:
    """The study of a seed, before anything is tuned. The budget is that of as many repeats as the pool has times the documents of D."""
    size, text = TEXT[setting.profile], corpus(setting)
    profile = size.sizes
    name = "real text" if setting.data == "embedded" else setting.data
    steps = profile.pool * profile.documents // profile.batch
    budget = profile.pool * profile.documents * size.length
    own = {"oracle": profile.oracle_start}
    return Study(profile, text, f"{name}, seed {seed}", seed, profile.start, profile.size, budget, steps, own)


def seeds(setting: Setting) -> tuple[int, ...]:
    """The seeds of the models."""
    return TEXT[setting.profile].seeds if setting.seeds is None else setting.seeds


def _tuned(setting: Setting, run: Runner) -> tuple[list[Study], pd.DataFrame]:
    """The study of `TRIAL_SEED` with the weight decay of every arm, and the trials."""
    return regularised(run, [(base(setting, TRIAL_SEED), TEXT[setting.profile].arms)], ["weight_decay"])


def regularisation(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per trial: arm, weight_decay, validation and test loss (nats per document), chosen."""
    return _tuned(setting, run)[1].drop(columns="study")


def studies(setting: Setting, run: Runner) -> list[Study]:
    """The studies of all seeds, regularised."""
    (best,), _ = _tuned(setting, run)
    return [base(setting, seed).regularised_as(best) for seed in seeds(setting)]


def paired(setting: Setting, study: Study) -> dict[str, Run.Config]:
    """The arms whose synthesizer is tuned on pairs, with their pairs."""
    found = {arm: study.pairs(arm) for arm in TEXT[setting.profile].arms}
    return {arm: pairs for arm, pairs in found.items() if pairs is not None}


def _finished(setting: Setting, run: Runner) -> list[tuple[Study, str, Pretrain.Config, Finished]]:
    wanted = [(study, arm, study.arm(arm)) for study in studies(setting, run) for arm in TEXT[setting.profile].arms]
    return ran(run, [(*row, row[-1]) for row in wanted])


def _bytes(study: Study, count: int) -> Float64[np.ndarray, "documents"]:
    built = study.corpus.build()
    return built.byte_counts(built.documents("test").head(count)).astype(np.float64)


def real_text(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, seed and test document: ``best`` and ``last`` (bits per byte of the document), ``bytes``."""
    tables = []
    for study, arm, cfg, done in _finished(setting, run):
        scores = done.tensors("eval")
        best = int(scores["validation"].double().mean(dim=1).argmin())
        size = _bytes(study, cfg.eval_documents)
        bits = scores["test"].double().numpy() / math.log(2) / size
        columns = {"document": np.arange(len(size)), "bytes": size, "best": bits[best], "last": bits[-1]}
        tables.append(pd.DataFrame(columns).assign(arm=arm, seed=study.seed))
    return pd.concat(tables, ignore_index=True)


def real_text_curves(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per arm, seed and evaluation: step, tokens, bits_per_byte over all test documents."""
    tables = []
    for study, arm, cfg, done in _finished(setting, run):
        scores, size = done.tensors("eval"), _bytes(study, cfg.eval_documents).sum()
        step, nats = scores["step"].numpy(), scores["test"].double().sum(dim=1).numpy()
        tokens, bits = step * cfg.mix.budget / cfg.mix.steps, nats / math.log(2) / size
        columns = {"arm": arm, "seed": study.seed, "step": step, "tokens": tokens, "bits_per_byte": bits}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def by_arm(table: pd.DataFrame) -> pd.DataFrame:
    """Bits per byte over all documents, by arm and seed: ``best``, ``last``."""
    bits = table.assign(best=table["best"] * table["bytes"], last=table["last"] * table["bytes"])
    total = bits.groupby(["arm", "seed"], sort=False)[["best", "last", "bytes"]].sum()
    return total[["best", "last"]].div(total["bytes"], axis=0).reset_index()


def real_text_pairs(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per seed, way of pairing and relation: share of its pairs, share among all pairs of D (chance), lift, pairs.

    Docstrings alone: other text states no relations, and the table is empty.
    """
    columns = ["seed", "pairing", "relation", "share", "chance", "lift", "pairs"]
    if setting.data != "embedded":
        return pd.DataFrame(columns=columns)
    rows = []
    for study in studies(setting, run):
        built = study.corpus.build()
        real = built.documents("train")
        relations = Relations(real.names, built.source.bases())
        everyone = np.stack(np.triu_indices(len(real), 1))[:, :: max(1, len(real) ** 2 // 400_000)]
        chance = _shares(relations.of(*everyone))
        for arm, pairs in paired(setting, study).items():
            first, second = pairs_of(run([pairs])[0], "pairs")
            found = _shares(relations.of(first, second))
            for number, relation in enumerate(RELATIONS):
                lift = found[number] / chance[number] if chance[number] else math.nan
                rows.append([study.seed, arm, relation, found[number], chance[number], lift, len(first)])
    return pd.DataFrame(rows, columns=columns)


def _shares(relation: np.ndarray) -> np.ndarray:
    return np.bincount(relation, minlength=len(RELATIONS)) / max(len(relation), 1)


def real_text_gap(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per seed, synthesizer and held-out pair of neighbours: nats of the second document after its neighbour, after a random
    document, and alone. Every synthesizer is scored on the same pairs, those of the language model's own states."""
    wanted, tables = [], []
    for study in studies(setting, run):
        own = paired(setting, study)
        for arm in own:
            tuned, label = study.synthesizer(arm), f"partners of {arm}; {study.name}"
            cfg = PartnerGap.Config(tuned=tuned, pairs=own["sbp-nn-lm"], seed=study.seed, label=label)
            wanted.append((study, arm, cfg))
    for study, arm, done in ran(run, wanted):
        values = {name: value.numpy() for name, value in done.tensors("nll").items()}
        tables.append(pd.DataFrame(values).assign(synthesizer=arm, seed=study.seed))
    return pd.concat(tables, ignore_index=True)


def real_text_novelty(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per seed, text and length n: the share of n-grams that do not occur in D, and of those, for samples, that are not in their
    seed document. Texts: samples of every synthesizer, and held-out documents."""
    rows = []
    for study in studies(setting, run):
        built = study.corpus.build()
        real = built.documents("train")
        texts = {"held-out documents": built.documents("test")}
        for arm in paired(setting, study):
            texts[arm] = kept_documents(run([study.filtered(study.sampled(arm), arm)])[0])
        for name, documents in texts.items():
            for n in TEXT[setting.profile].grams:
                rows.append({"seed": study.seed, "text": name, "n": n, "novel": novelty(documents, real, n)})
    return pd.DataFrame(rows)


def novelty(documents: Documents, real: Documents, n: int) -> float:
    """The share of n-grams of ``documents`` that do not occur in ``real``; documents shorter than n have none."""
    long = at_least(documents, n)
    return float((~np.isin(hashes(long, n)[0], hashes(real, n)[0])).mean()) if len(long) else math.nan


def real_text_samples(setting: Setting, run: Runner, count: int = 6) -> pd.DataFrame:
    """Seeds and what was written from them, as text: the first kept samples of the first seed's synthesizer."""
    study = studies(setting, run)[0]
    built = study.corpus.build()
    real = built.documents("train")
    kept = run([study.filtered(study.sampled("sbp-nn-lm"), "sbp-nn-lm")])[0]
    pairs = zip(kept_documents(kept).head(count), kept.tensors("kept")["seed"].tolist(), strict=False)
    return pd.DataFrame([
        {"seed document": real.names[seed], "seed": built.text(real[seed]), "sample": built.text(body)} for body, seed in pairs
    ])  # fmt: skip
