"""What dropping hurts and what restores it: knowledge, reasoning, instructions; examples and fine-tuning; 2:4 sparsity (6.4).

Models are asked the battery of `data.probes`; each run of `runs.smaller` makes one model smaller in one way. Losses of a capability are
compared on one scale, the share that is lost of what the full model has above guessing:

    relative drop = (full - smaller) / (full - guess)

Guessing among the options gives 1/options of right answers and half of the rank score. A model that forgets the facts and keeps
the format drops by 1 in both; one that loses the format drops in generated answers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from statistics import mean
from typing import Any

import pandas as pd
import scipy  # its submodules load when first used

from orchard.evidence import Evidence, Tables, difference, of, paired, together
from orchard.papers.moe_lottery.data.episodes import HELPS, PLAIN, SFT, SHUFFLED, TASKLESS
from orchard.papers.moe_lottery.data.probes import CAPABILITY, CORRECT, OUTCOMES, STATE, UNPARSEABLE
from orchard.papers.moe_lottery.experiments.profiles import PROFILES, SHARES, Model, models
from orchard.papers.moe_lottery.runs.smaller import FULL, NO_HELP, RANDOM, SPARSE, TASKS, Smaller, items_of
from orchard.runs import Finished, Runner, Setting
from orchard.runs.grid import Best, best_of

CRITERIA = ("ean", "ege", "euf")  # the paper's best two, and usage
ABOVE = 0.05  # significance of being above guessing
HALF = 50.0  # percent: where the claims compare
EAN = "ean"
CELL = ["model", "seed", "arm", "s", "draw", "help"]
INSTRUCTIONS = [task for task, capability in CAPABILITY.items() if capability == "instructions"]


Rates = Mapping[tuple[str, str], float]  # learning rate by removal and help


def cells(setting: Setting, rates: Rates | None = None) -> Iterator[tuple[Model, Smaller.Config]]:
    """Every run of this part: those without help first, then the fine-tuned ones, at the `rates` of :func:`tuned`, which are those of
    the first model; fine-tuning on shuffled answers has the rate of fine-tuning on true ones."""
    profile, size = PROFILES[setting.profile], PROFILES[setting.profile].capabilities
    shots, zero, half = list(size.shots), [0], [HALF / 100]
    for model in models(setting):
        common = Smaller.Config(
            base=model.run, batch_size=size.batch_size, seed=model.seed, calibration=profile.calibration,
            windows=profile.eval_windows, sums=size.sums,
        )  # fmt: skip
        wanted: list[dict[str, Any]] = [
            {"removal": RANDOM, "shares": list(SHARES), "shots": list(size.random_shots), "draws": profile.draws},
            {"removal": FULL, "shots": shots},
            *({"removal": name, "shares": list(SHARES), "shots": shots} for name in CRITERIA),
            *({"removal": name, "shares": half, "draws": profile.draws if "random" in name else 1} for name in SPARSE),
        ]
        for help in HELPS:
            tuned: dict[str, Any] = {"help": help, "steps": size.steps, "shots": zero}
            shares = list(size.helped_shares) if help == SFT else half
            wanted.append({"removal": FULL, **tuned})
            wanted += [{"removal": name, "shares": shares, **tuned} for name in size.helped]
            if help == PLAIN:
                wanted += [{"removal": name, "shares": half, **tuned} for name in SPARSE if "random" not in name]
                wanted.append({"removal": RANDOM, "shares": half, "draws": 2, **tuned})
        for fields in wanted:
            key = (fields["removal"], SFT if fields.get("help") == SHUFFLED else fields.get("help", NO_HELP))
            rate = (rates or {}).get(key, size.learning_rates[0])
            label = f"{fields['removal']}, {fields.get('help', NO_HELP)}, {model.name}"
            yield model, common.clone().set(**fields, learning_rate=rate, label=label)


def tuned(setting: Setting, run: Runner) -> Best:
    """The rate of every fine-tuned arm, at its first share: by the loss of validation text where that is what is learned (of the
    domains that are), else by the right answers about taught entities, in tasks that the full model passes in the test: an answer at
    guessing level says nothing about a rate. A family is the label of its run."""
    first = models(setting)[0].name
    [whole] = [cfg for model, cfg in cells(setting) if (model.name, cfg.removal, cfg.help) == (first, FULL, NO_HELP)]
    families = {
        cfg.label: cfg.clone().set(split="validation", seed=1000 + cfg.seed, shares=cfg.shares[:1], draws=1, sums=0)
        for model, cfg in cells(setting) if model.name == first and cfg.help in (SFT, PLAIN, TASKLESS)
    }  # fmt: skip

    @cache
    def able() -> list[str]:
        passed = gates(_units([({"model": first, "seed": 0, "arm": FULL, "help": NO_HELP}, run([whole])[0])])).query(
            "above"
        )
        return [task for task in INSTRUCTIONS if task in set(passed["task"])] or INSTRUCTIONS

    def score(done: Finished) -> float:
        if done.result["help"] == PLAIN:
            return mean(done.result["cells"][0]["windows"])
        if done.result["help"] == TASKLESS:
            return mean(loss for domain, loss in done.result["cells"][0]["domains"].items() if domain not in TASKS)
        items = items_of(done)
        return -float((items.loc[items["task"].isin(able()), "outcome"] == CORRECT).mean())

    def trial(family: str, rate: float) -> Smaller.Config:
        return families[family].clone().set(learning_rate=rate, label=f"rate {rate:g}, {family}")

    grids = dict.fromkeys(families, PROFILES[setting.profile].capabilities.learning_rates)
    return best_of(grids, trial, score, run, widen=0 if setting.profile == "smoke" else 2)


def rates(setting: Setting, run: Runner) -> pd.DataFrame:
    """The grids of :func:`tuned`: family, learning_rate, score (lower is better), chosen."""
    return tuned(setting, run).table.rename(columns={"value": "learning_rate"})[
        ["family", "learning_rate", "score", "chosen"]
    ]


def _runs(setting: Setting, run: Runner) -> list[tuple[dict[str, Any], Finished]]:
    """Every finished run with the columns that name it."""
    best = tuned(setting, run).chosen
    at = {(cfg.removal, cfg.help): best[cfg.label] for _, cfg in cells(setting) if cfg.label in best}
    chosen = list(cells(setting, at))
    place = {model.name: number for number, model in enumerate(models(setting))}
    names = [{"model": m.name, "seed": place[m.name], "arm": cfg.removal, "help": cfg.help} for m, cfg in chosen]
    return list(zip(names, run([cfg for _, cfg in chosen]), strict=True))


def helped_by(shots: int, help: str) -> str:
    """The name of a help: examples in the prompt, a fine-tuning, or none."""
    return f"{shots} example{'s' * (shots > 1)}" if shots else help


def capability_units(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per model, arm, s, draw, help and question: `task`, `unit` (the fact or the sum), `options`, `rank`, `rank_score` and
    `first` by likelihood; for generated answers `text`, `outcome` and `correct`. `seed` numbers the models."""
    return _units(_runs(setting, run))


def _units(runs: list[tuple[dict[str, Any], Finished]]) -> pd.DataFrame:
    tables = [items_of(done).assign(**names) for names, done in runs]
    table = pd.concat(tables, ignore_index=True)
    table["help"] = [helped_by(shots, help) for shots, help in zip(table["shots"], table["help"], strict=True)]
    table["capability"] = table["task"].map(CAPABILITY)
    table["correct"] = (table["outcome"] == CORRECT).astype(float).where(table["outcome"].notna())
    own = ["wording", "options", "rank", "rank_score", "first", "text", "outcome", "correct"]
    return table[[*CELL, "capability", "task", "unit", *own]]


def losses(setting: Setting, run: Runner) -> pd.DataFrame:
    """One row per model, arm, s, draw, help and test window: `unit`, `loss` (nats/byte); and per domain under `unit` = its name."""
    rows = []
    for names, done in _runs(setting, run):
        for cell in done.result["cells"]:
            own = {**names, "s": cell["s"], "draw": cell["draw"]}
            rows += [{**own, "kind": "domain", "unit": name, "loss": nats} for name, nats in cell["domains"].items()]
            rows += [{**own, "kind": "window", "unit": str(i), "loss": nats} for i, nats in enumerate(cell["windows"])]
    return pd.DataFrame(rows)


METRICS = {"exact match": "correct", "rank score": "rank_score", "likeliest": "first"}


def capabilities(setting: Setting, run: Runner) -> pd.DataFrame:
    """Tidy: model, seed, arm, s, draw, help, task, metric, value, guess. Metrics: the test loss of every domain (nats/byte; no guess),
    `exact match` and `parsed` of generated answers, `rank score` and `likeliest` by likelihood."""
    units = capability_units(setting, run)
    scored = units.assign(parsed=(units["outcome"] != UNPARSEABLE).astype(float).where(units["outcome"].notna()))
    parts = []
    for metric, column in {**METRICS, "parsed": "parsed"}.items():
        held = scored.dropna(subset=[column])
        groups = held.groupby([*CELL, "capability", "task"], sort=False)
        table = groups.agg(value=(column, "mean"), options=("options", "mean"), count=(column, "size")).reset_index()
        guess = {"rank score": 0.5, "parsed": float("nan")}
        parts.append(table.assign(metric=metric, guess=guess.get(metric, 1 / table["options"])).drop(columns="options"))
    text = losses(setting, run)
    domain = text[text["kind"] == "domain"].drop(columns="kind").rename(columns={"unit": "task", "loss": "value"})
    parts.append(domain.assign(capability="language", metric="test loss", guess=float("nan"), count=1))
    return pd.concat(parts, ignore_index=True)[[*CELL, "capability", "task", "metric", "value", "guess", "count"]]


def errors(setting: Setting, run: Runner) -> pd.DataFrame:
    """Shares of the three outcomes of generated answers: model, arm, s, help, task, outcome, share; mean over draws."""
    units = capability_units(setting, run)
    asked = units.dropna(subset=["outcome"])
    keys = ["model", "seed", "arm", "s", "help", "capability", "task"]
    shares = asked.groupby(keys, sort=False)["outcome"].value_counts(normalize=True).unstack(fill_value=0)
    shares = shares.reindex(columns=list(OUTCOMES), fill_value=0.0)
    return shares.reset_index().melt(keys, list(OUTCOMES), "outcome", "share")


def gates(units: pd.DataFrame) -> pd.DataFrame:
    """Whether the full model, without help, is above guessing in every task: only then can dropping take anything from it.

    One row per model and task: `right`, `count`, `guess`, `p` of a one-sided binomial test, `above` (p < 0.05). In statements
    a question is right where the true value is the likeliest, counted once per fact (mean over the wordings, rounded).
    """
    full = units[(units["arm"] == FULL) & (units["help"] == NO_HELP)]
    rows = []
    for (model, seed, task), own in full.groupby(["model", "seed", "task"], sort=False):
        right = own.groupby("unit")["first" if task == STATE else "correct"].mean()
        guess, hits = float(1 / own["options"].mean()), round(right.sum())
        p = float(scipy.stats.binomtest(hits, len(right), guess, alternative="greater").pvalue)
        rows.append({"model": model, "seed": seed, "task": task, "right": hits, "count": len(right), "guess": guess,
                     "p": p, "above": p < ABOVE})  # fmt: skip
    return pd.DataFrame(rows)


def _gated(units: pd.DataFrame) -> pd.DataFrame:
    """The rows of models and tasks that pass the gate."""
    passed = gates(units).set_index(["seed", "task"])["above"]
    return units[passed.reindex(pd.MultiIndex.from_frame(units[["seed", "task"]])).to_numpy(dtype=bool)]


def drops(table: pd.DataFrame, gate: pd.DataFrame) -> pd.DataFrame:
    """Relative drop of every arm by task and metric without help, mean over draws, from `capabilities` and `gates`: `drop`, NaN where
    the full model does not pass the gate; for the test loss the increase as a share of the full model's."""
    plain = table[table["help"] == NO_HELP]
    keys = ["model", "seed", "capability", "task", "metric"]
    full = plain[plain["arm"] == FULL].set_index(keys)["value"].rename("full")
    groups = plain[plain["arm"] != FULL].groupby([*keys, "arm", "s"], sort=False, dropna=False)
    joined = groups[["value", "guess"]].mean().reset_index().join(full, on=keys)
    joined = joined.merge(gate[["seed", "task", "above"]], how="left", on=["seed", "task"])
    above = (joined["full"] - joined["guess"]).where(joined["above"].eq(True))
    loss = joined["metric"] == "test loss"
    relative = (joined["full"] - joined["value"]) / above.where(above > 0)
    return joined.assign(drop=relative.where(~loss, joined["value"] / joined["full"] - 1))


def recovery(setting: Setting, run: Runner) -> pd.DataFrame:
    """Exact match and its gap to the full model given the same help: model, seed, arm, s, help, task, value, full, gap, guess, and the
    parse rates of both, `parsed` and `full_parsed`; mean over draws."""
    table = capabilities(setting, run)
    keys = ["model", "seed", "help", "capability", "task"]
    groups = table[table["metric"].isin(["exact match", "parsed"])].groupby([*keys, "arm", "s", "metric"], sort=False)
    means = groups["value"].mean().unstack().rename(columns={"exact match": "value"}).rename_axis(columns=None)
    guess = table[table["metric"] == "exact match"].groupby(keys, sort=False)["guess"].mean()
    flat = means.reset_index()
    full = flat[flat["arm"] == FULL].set_index(keys)[["value", "parsed"]].set_axis(["full", "full_parsed"], axis=1)
    joined = flat.join(full, on=keys).join(guess, on=keys)
    return joined.assign(gap=joined["full"] - joined["value"])


def _halved(table: pd.DataFrame) -> pd.DataFrame:
    """The arms of the 2:4 comparison: half of the experts' weights are gone, or none."""
    arms = [FULL, EAN, RANDOM, *SPARSE]
    return table[table["arm"].isin(arms) & table["s"].isin([0.0, HALF]) & table["help"].isin([NO_HELP, PLAIN])]


def sparsity(setting: Setting, run: Runner) -> pd.DataFrame:
    """Half of the experts' weights gone in different ways: model, seed, arm, help (none, or plain text for all alike), `loss`
    (nats/byte), `exact match` of zero-shot instructions, `likeliest` of the statements, `parsed`, `draws`."""
    keys = ["model", "seed", "arm", "help"]
    windows = sparsity_units(setting, run)
    loss = windows.groupby(keys, sort=False).agg(loss=("loss", "mean"), draws=("draw", "nunique"))
    table = _halved(capabilities(setting, run))
    wanted = (("knowledge", "likeliest"), ("instructions", "exact match"), ("instructions", "parsed"))
    kept = table[[cell in wanted for cell in zip(table["capability"], table["metric"], strict=True)]]
    return loss.join(kept.groupby([*keys, "metric"], sort=False)["value"].mean().unstack()).reset_index()


def sparsity_units(setting: Setting, run: Runner) -> pd.DataFrame:
    """Test loss of every window: model, seed, arm, s, draw, help, unit, loss (nats/byte)."""
    table = losses(setting, run)
    return _halved(table[table["kind"] == "window"]).drop(columns="kind")


EXPERIMENTS: dict[str, Callable[[Setting, Runner], pd.DataFrame]] = {
    "capabilities": capabilities, "capability_units": capability_units, "capability_rates": rates, "errors": errors,
    "recovery": recovery, "sparsity": sparsity, "sparsity_units": sparsity_units,
}  # fmt: skip


def _ean(units: pd.DataFrame, help: str, column: str) -> tuple[pd.Series, pd.Series]:
    """`column` of the full model and of the one with half of its experts dropped by EAN, per question (mean over wordings and tasks)."""
    own = units[(units["help"] == help) & ((units["arm"] == FULL) | ((units["arm"] == EAN) & (units["s"] == HALF)))]
    means = own.groupby(["arm", "seed", "task", "unit"])[column].mean(skipna=False)
    full, small = (means[means.index.get_level_values("arm") == arm].droplevel("arm") for arm in (FULL, EAN))
    return full.align(small, join="inner")


def knowledge_and_instructions(tables: Tables, control: bool = False) -> pd.DataFrame:
    """M11: relative drop of knowledge minus that of zero-shot instructions, fact by fact, over tasks that pass the gate. Models that
    pass it in only one of the two are left out. Control: the same facts as statements, right where the true value is the likeliest,
    in the place of instructions: whether a rank drops less than a right answer where no instruction is followed."""
    units = _gated(tables("capability_units"))
    parts = []
    second = ([STATE], "first") if control else (INSTRUCTIONS, "correct")
    for tasks, column, guess in (([STATE], "rank_score", False), (*second, True)):
        own = units[units["task"].isin(tasks)]
        level = own.groupby(["seed", "task"])["options"].mean().rdiv(1.0) if guess else 0.5
        full, small = _ean(own, NO_HELP, column)
        above = full.groupby(["seed", "task"]).mean().sub(level).groupby("seed").mean()
        lost = (full - small).groupby(["seed", "unit"]).mean(skipna=False)
        parts.append(lost.div(above[above > 0], level="seed"))
    return difference(parts[0], parts[1], "EAN")


def _by_task(units: pd.DataFrame) -> pd.DataFrame:
    """Units that are questions, not facts."""
    return units.assign(unit=units["task"] + " " + units["unit"])


def new_errors(tables: Tables, control: bool = False) -> pd.DataFrame:
    """M11b: 1 where the smaller model's answer is unparseable, 0 where it is wrong, over the questions that the full one answers, in
    tasks that pass the gate. Control: over the errors of the full model."""
    units = _gated(tables("capability_units"))
    asked = _by_task(units[units["task"].isin(INSTRUCTIONS) & (units["help"] == NO_HELP)])
    keys = ["seed", "unit"]
    full = asked[asked["arm"] == FULL].set_index(keys)["outcome"]
    small = asked[(asked["arm"] == EAN) & (asked["s"] == HALF)].set_index(keys)["outcome"]
    new = full[full != CORRECT] if control else small[(full.reindex(small.index) == CORRECT) & (small != CORRECT)]
    return of((new == UNPARSEABLE).astype(float), "EAN")


def closed_gaps(tables: Tables, control: bool = False) -> pd.DataFrame:
    """M12: gap to the full model with the same help, minus the gap without: for examples (mean over k >= 1) and for fine-tuning; over
    tasks that pass the gate. Control: plain text that shows no task and states no fact, in the place of both helps."""
    units = tables("capability_units")
    asked = _by_task(_gated(units[units["task"].isin(INSTRUCTIONS)]))

    def gap(help: str) -> pd.Series:
        full, small = _ean(asked, help, "correct")
        return (full - small).droplevel("task")

    without = gap(NO_HELP)
    if control:
        return together([difference(gap(TASKLESS), without, part) for part in ("examples", SFT)])
    counts = [help for help in units["help"].unique() if "example" in help]
    shown = pd.concat([gap(help) for help in counts]).groupby(["seed", "unit"]).mean(skipna=False)
    return together([difference(shown, without, "examples"), difference(gap(SFT), without, SFT)])


def against_sparsity(tables: Tables, removal: str = EAN) -> pd.DataFrame:
    """M13: test loss after dropping half of the experts by EAN minus that after 2:4, window by window, with and without fine-tuning.
    Control: experts dropped at random."""
    table = tables("sparsity_units")
    return together(
        paired(table[table["help"] == help], "arm", removal, kind, units=["unit"], value="loss", part=kind + words)
        for help, words in ((NO_HELP, ""), (PLAIN, ", fine-tuned")) for kind in SPARSE if "random" not in kind
    )  # fmt: skip


EVIDENCE: dict[str, Evidence] = {
    "M11": knowledge_and_instructions, "M11b": new_errors, "M12": closed_gaps, "M13": against_sparsity,
}  # fmt: skip
CONTROLS: dict[str, Evidence] = {
    "M11": partial(knowledge_and_instructions, control=True), "M11b": partial(new_errors, control=True),
    "M12": partial(closed_gaps, control=True), "M13": partial(against_sparsity, removal=RANDOM),
}  # fmt: skip
