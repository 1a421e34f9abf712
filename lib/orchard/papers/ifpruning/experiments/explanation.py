"""What the comparison says, with intervals: scores, gap recovery, differences, and what explains the gain.

    R     = (arm - dense_k) / (dense_D - dense_k)     share of the gap between small and large that an arm recovers
    share = (control - dense_k) / (ifp - dense_k)     share of the gain that a control has which cannot do what ifp does

Film and the soft prefix condition a small decoder on the instruction and select nothing; random masks select without learning. What they
have of the gain, learned selection cannot claim. Intervals come from resampling seeds, and within each seed the questions, of all arms at
once; nothing here trains more than the comparison does, except one run that collapses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from orchard.papers.ifpruning.data.factgrid import FactGrid
from orchard.papers.ifpruning.experiments.arms import Study, studies, words
from orchard.papers.ifpruning.experiments.comparison import answers, arms, chain_metrics
from orchard.papers.ifpruning.method.overlap import overlaps
from orchard.papers.ifpruning.runs.train import Train
from orchard.runs import Runner, Setting
from orchard.stats import Interval

Statistic = Callable[[Float[np.ndarray, "draws columns"]], Float[np.ndarray, "draws"]]
RESAMPLES = 4000
NO_INTERVAL = "no interval: the gap may be 0"
READ = "ifp_sft_short"  # ifp without continued pre-training
UNREAD = "ifp_unread"  # the same, whose predictor begins with new weights: it has to learn to read while it selects
SHOWN = 128  # prompts on a map
PLACES = {"win": "", "kin": ", where domains of a group share most facts and examples mix domains"}
BASE, LARGE, METHOD, RANDOM = "dense_k", "dense_D", "ifp", "rand_mask"
COMPARED = {  # minus these, and the claim that each decides
    "dense_k": " (C1)", "dense_k_long": " (C1f)", "dense_D": " (C3)", "dense_D_tag": "", "static": "", "static_kd": " (C2)", "moe": "",
    "moe_seq": "", "film_k": "", "prefix_cond": "", "rand_mask": "", "rand_lsh": "", "oracle": "",
}  # fmt: skip
CONTROLS = ("film_k", "prefix_cond", "rand_mask", "rand_lsh", "dense_D_tag")  # each can do a part of what ifp does


def interval(
    table: pd.DataFrame, columns: Sequence[tuple[str, str]], statistic: Statistic, variant: str = "win"
) -> tuple[Interval, int]:
    """A statistic of mean scores with its 95 % interval, and over how many seeds; ``columns`` names (arm, evaluation) of each.

    A resample draws seeds with replacement and, for each, its questions: the same ones for all columns. Questions with the same
    outcomes are drawn together, which changes nothing and takes as long for a million of them. Missing columns give NaN over 0 seeds; a
    ratio whose denominator is 0 in so many resamples that an end is not finite has an estimate and no interval.
    """
    ours = table[table["variant"] == variant]
    series = [
        ours[(ours["arm"] == arm) & (ours["evaluation"] == name)].set_index(["seed", "question"])["right"]
        for arm, name in columns
    ]
    wide = pd.concat(series, axis=1, keys=range(len(series))).dropna()
    by_seed = [part.to_numpy(dtype=float) for _, part in wide.groupby(level="seed")]
    if not by_seed:
        return Interval(np.nan, np.nan, np.nan, 0.95, "not measured"), 0
    estimate = statistic(np.mean([part.mean(axis=0) for part in by_seed], axis=0)[None])[0]
    random = np.random.default_rng(0)
    drawn = random.integers(len(by_seed), size=(RESAMPLES, len(by_seed)))
    means = np.empty((*drawn.shape, len(columns)))
    for number, part in enumerate(by_seed):
        outcomes, counts = np.unique(part, axis=0, return_counts=True)
        here = drawn == number
        weights = random.multinomial(len(part), counts / len(part), size=int(here.sum()))
        means[here] = weights @ outcomes / len(part)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanquantile(statistic(means.mean(axis=1)), [0.025, 0.975])
    one_seed = "one seed: the interval covers the questions, not the spread between training runs"
    note = one_seed if len(by_seed) == 1 else ""
    if not np.isfinite([low, high]).all():
        low, high, note = np.nan, np.nan, NO_INTERVAL
    return Interval(float(estimate), float(low), float(high), 0.95, note), len(by_seed)


def with_interval(estimate: float, low: float, high: float, digits: int = 2) -> str:
    """In words: ``0.71 (0.60 to 0.82)``, or that nothing was measured, or that there is no interval and why."""
    if np.isnan(estimate):
        return "not measured"
    ends = f"{low:.{digits}f} to {high:.{digits}f}" if np.isfinite([low, high]).all() else NO_INTERVAL
    return f"{estimate:.{digits}f} ({ends})"


def first(columns: Float[np.ndarray, "draws columns"]) -> Float[np.ndarray, "draws"]:
    """The mean itself."""
    return columns[..., 0]


def share_of(columns: Float[np.ndarray, "draws three"]) -> Float[np.ndarray, "draws"]:
    """(first - second) / (third - second)."""
    return (columns[..., 0] - columns[..., 1]) / (columns[..., 2] - columns[..., 1])


def minus(columns: Float[np.ndarray, "draws two"]) -> Float[np.ndarray, "draws"]:
    """first - second."""
    return columns[..., 0] - columns[..., 1]


def _row(found: tuple[Interval, int], **names: Any) -> dict[str, Any]:
    interval, seeds = found
    return {**names, "effect": interval.estimate, "low": interval.low, "high": interval.high, "seeds": seeds}


def scores(setting: Setting, run: Runner) -> pd.DataFrame:
    """Every arm on held-out wordings: arm, accuracy, low, high, recovery (R), recovery_low, recovery_high, seeds, active_parameters,
    training_flops, reader_flops (the predictor's language model, apart), flops_factor (training FLOPs over those of dense_k)."""
    table = answers(setting, run)
    costs = arms(setting, run).query("variant == 'win'")
    ledgers = costs.groupby("arm", sort=False)[["active_parameters", "training_flops", "reader_flops"]].mean()
    rows = []
    for arm, ledger in ledgers.iterrows():
        own = (str(arm), "test")
        score, seeds = interval(table, [own], first)
        found, _ = interval(table, [own, (BASE, "test"), (LARGE, "test")], share_of)
        rows.append({
            "arm": arm, "accuracy": score.estimate, "low": score.low, "high": score.high, "recovery": found.estimate,
            "recovery_low": found.low, "recovery_high": found.high, "seeds": seeds, **ledger.to_dict(),
            "flops_factor": ledger["training_flops"] / ledgers.loc[BASE, "training_flops"],
        })  # fmt: skip
    return pd.DataFrame(rows)


def differences(setting: Setting, run: Runner) -> pd.DataFrame:
    """ifp minus everything that it is claimed to beat, to equal, or not to equal: label, other, variant, effect, low, high, seeds."""
    table = answers(setting, run)
    pairs = [(words(arm) + claim, arm, "test", "win") for arm, claim in COMPARED.items()]
    pairs += [
        ("IFP with one mask per task (C5)", METHOD, "task", "win"),
        ("IFP with masks of another domain (C6d)", METHOD, "swapped", "win"),
        ("small dense where all is shared (C1n)", "dense_k", "test", "null"),
        ("random masks by hash, kin domains (C2s)", "rand_lsh", "test", "kin"),
        ("random masks, told the domain, kin domains", "rand_mask", "test", "kin"),
    ]
    rows = [
        _row(interval(table, [(METHOD, "test"), (arm, evaluation)], minus, variant), label=label, variant=variant,
             other=evaluation if arm == METHOD else arm)
        for label, arm, evaluation, variant in pairs
    ]  # fmt: skip
    return pd.DataFrame(rows).query("seeds > 0").reset_index(drop=True)


def explained(setting: Setting, run: Runner) -> pd.DataFrame:
    """The share of the gain of ifp over dense_k that each control has: arm, label, effect, low, high, seeds."""
    table = answers(setting, run)
    ends = [(BASE, "test"), (METHOD, "test")]
    rows = [_row(interval(table, [(arm, "test"), *ends], share_of), arm=arm, label=words(arm)) for arm in CONTROLS]
    return pd.DataFrame(rows).query("seeds > 0").reset_index(drop=True)


def headline(scores: pd.DataFrame, differences: pd.DataFrame) -> str:
    """What the comparison comes to, from :func:`scores` and :func:`differences`: is learning which channels to take worth anything?"""
    order = scores[scores["arm"].isin((BASE, LARGE, METHOD, RANDOM))].sort_values("accuracy", ascending=False)
    listed = ", ".join(f"{words(row.arm)} {row.accuracy:.3f}" for row in order.itertuples())
    row = differences[(differences["other"] == RANDOM) & (differences["variant"] == "win")].iloc[0]
    said = "learned masks and random ones are not told apart"
    if row["low"] > 0:
        said = "learned masks beat random ones"
    if row["high"] < 0:
        said = "random masks, never learned, beat learned ones"
    return f"Right answers: {listed}; {said} ({100 * row['effect']:+.1f} points, {100 * row['low']:+.1f} to {100 * row['high']:+.1f})."


def conclusion(table: pd.DataFrame) -> list[str]:
    """What :func:`differences` says about selection, a sentence per control and variant: does ifp beat random masks that read the prompt,
    random masks that are told the domain, and conditioning without any selection? An interval that holds 0 shows no difference."""
    said = []
    for other, ahead, otherwise in (
        ("rand_lsh", "learned selection beats random masks that read the same prompts",
         "learned selection is not shown to beat random masks with the same information: conditioning, not selection, explains the gain"),
        ("rand_mask", "learned masks beat random masks of every domain",
         "a random mask for every domain, never learned, is not shown to be worse: which channels are chosen need not matter, only "
         "that every domain has its own; what a predictor needs to learn is then to tell the domains apart"),
        ("film_k", "conditioning a small decoder on the domain does not do the same",
         "conditioning a small decoder on the domain, without any mask, is not shown to be worse"),
    ):  # fmt: skip
        for row in table[(table["other"] == other) & table["variant"].isin(PLACES)].to_dict("records"):
            points = f"{100 * row['effect']:+.1f} points ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
            said.append(
                f"IFP minus {words(other)}{PLACES[row['variant']]}: {points}; {ahead if row['low'] > 0 else otherwise}."
            )
    return said


# --------------------------------------------------------------------- collapse


def unread(study: Study) -> Train.Config:
    """ifp_sft_short with a predictor of new weights, which does not begin with a language model."""
    cfg = study.arm(READ).clone()
    return cfg.set(reader=None, label=cfg.label.replace(READ, UNREAD))


def collapse(setting: Setting, run: Runner) -> pd.DataFrame:
    """The gauge while masks are learned, first seed: arm (ifp, ifp_sft_short, ifp_unread), seed, stage, step, within, across, union,
    use, spread, chance, validation_accuracy. Step 0 is the end of dense pre-training."""
    cell, study = studies(setting, run)[0]
    chosen = {METHOD: study.arm(METHOD), READ: study.arm(READ), UNREAD: unread(study)}
    run(list(chosen.values()))
    tables = [chain_metrics(cfg, run).assign(arm=arm, seed=cell.seed) for arm, cfg in chosen.items()]
    return pd.concat(tables, ignore_index=True).dropna(subset=["across"])


def swaps(setting: Setting, run: Runner) -> pd.DataFrame:
    """Right answers with masks of the prompt, of a description of its task and of another domain, first seed: arm, masks, effect, low,
    high; of ifp, ifp_sft_short, moe_seq and of the run that collapses."""
    _, study = studies(setting, run)[0]
    arms = {arm: study.arm(arm) for arm in (METHOD, READ, "moe_seq")} | {UNREAD: unread(study)}
    kinds = {"test": "of the prompt", "task": "of the task", "swapped": "of another domain"}
    rows = []
    for arm, done in zip(arms, run(list(arms.values())), strict=True):
        for evaluation, masks in kinds.items():
            right = done.tensors("answers")[f"{evaluation}.right"].numpy().astype(float)
            table = pd.DataFrame({"question": np.arange(len(right)), "right": right, "evaluation": evaluation})
            found = interval(table.assign(arm=arm, variant="win", seed=0), [(arm, evaluation)], first)
            rows.append(_row(found, arm=arm, masks=masks))
    return pd.DataFrame(rows)


# --------------------------------------------------------------------- which prompts share masks


def prompt_pairs(setting: Setting, run: Runner) -> pd.DataFrame:
    """Overlap of the masks of every two prompts of ifp, first seed: layer, prompt, other, overlap, and of ``prompt`` domain, group,
    wording (training or held out), text, x, y: its place on a map where prompts with the same masks coincide."""
    _, study = studies(setting, run)[0]
    cfg = study.arm(METHOD)
    kept = run([cfg])[0].tensors("masks")
    corpus: FactGrid = cfg.corpus.build()
    chosen = _spread_out(kept["domain"], SHOWN)
    masks = kept["masks"][chosen].bool()
    pairs = overlaps(masks)
    place = embedded(pairs.mean(dim=0).numpy())
    prompts = [corpus.prompts(split) for split in ("seen", "validation", "test")]
    texts = [
        corpus.text(row[:length])
        for part in prompts
        for row, [length] in zip(part.prompts[:, 0], part.prompt_lengths, strict=True)
    ]
    about = pd.DataFrame({
        "prompt": np.arange(len(chosen)), "domain": [corpus.domains[d] for d in kept["domain"][chosen]],
        "group": [chr(65 + corpus.groups[d]) for d in kept["domain"][chosen]],
        "wording": np.where(kept["split"][chosen] == 0, "training", "held out"), "text": [texts[i] for i in chosen],
        "x": place[:, 0], "y": place[:, 1],
    })  # fmt: skip
    layer, first, second = np.indices(pairs.shape).reshape(3, -1)
    table = pd.DataFrame({"layer": layer + 1, "prompt": first, "other": second, "overlap": pairs.flatten().numpy()})
    return table.merge(about, on="prompt")


def _spread_out(domain: torch.Tensor, most: int) -> list[int]:
    """At most ``most`` prompts, as many of each domain, the held-out wordings (which stand last) before those of the training."""
    number = [torch.where(domain == d)[0].tolist() for d in range(int(domain.max()) + 1)]
    return sorted(i for own in number for i in own[-max(1, most // len(number)) :])


def embedded(overlap: Float[np.ndarray, "prompts prompts"]) -> Float[np.ndarray, "prompts two"]:
    """Two coordinates per prompt: classical scaling (Torgerson 1952) of the distances 1 - overlap, largest axes first."""
    centring = np.eye(len(overlap)) - 1 / len(overlap)
    values, vectors = np.linalg.eigh(-0.5 * centring @ (1 - overlap) ** 2 @ centring)
    place = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
    place = place[:, ::-1]
    found: Float[np.ndarray, "prompts two"] = place * np.where(place.sum(axis=0) < 0, -1, 1)
    return found


def nearest(table: pd.DataFrame, prompt: int, count: int = 8) -> pd.DataFrame:
    """The prompts whose masks are most like those of one, from :func:`prompt_pairs`: other, domain, wording, text, overlap per layer and
    their mean. Raises KeyError for a prompt that is not on the map."""
    own = table[table["prompt"] == prompt]
    if own.empty:
        raise KeyError(f"prompt {prompt} is not on the map: give 0 to {table['prompt'].max()}")
    layers = own.pivot(index="other", columns="layer", values="overlap").add_prefix("layer ").drop(index=prompt)
    about = table.drop_duplicates("prompt").set_index("prompt")[["domain", "wording", "text"]]
    return about.join(layers.assign(mean=layers.mean(axis=1)), how="inner").nlargest(count, "mean")


def neighbours(table: pd.DataFrame, count: int = 8) -> dict[str, float]:
    """From :func:`prompt_pairs`: share of the ``count`` nearest prompts that are of the same domain ("own domain"; "by chance" if they
    were any), and mean overlap with other domains of the group ("group") and with other groups ("other groups")."""
    about = table.drop_duplicates("prompt").set_index("prompt")
    pairs = table[table["prompt"] != table["other"]].groupby(["prompt", "other"])[["overlap"]].mean().reset_index()
    for name in ("domain", "group"):
        pairs[f"same {name}"] = pairs["prompt"].map(about[name]) == pairs["other"].map(about[name])
    nearest_ones = pairs.sort_values("overlap", ascending=False, kind="stable").groupby("prompt").head(count)
    others = pairs[~pairs["same domain"]].groupby("same group")["overlap"].mean()
    return {
        "own domain": float(nearest_ones["same domain"].mean()), "by chance": float(pairs["same domain"].mean()),
        "group": float(others.get(True, np.nan)), "other groups": float(others.get(False, np.nan)),
    }  # fmt: skip
