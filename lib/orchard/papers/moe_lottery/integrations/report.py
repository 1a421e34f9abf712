"""What comes out of a checkpoint: the ranking table of all experts, the pruned checkpoint, and a report of both as JSON.

Perplexity is exp(loss) of the calibration text itself, before and, of the written checkpoint, after. `mass` is the mean sum of
the router's weights of the chosen experts: where they are not renormalised (OLMoE, Qwen2-MoE, DeepSeek-V2) dropping experts
raises it, and the output of the layer grows (section 5 of the specification).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orchard.papers.moe_lottery.integrations.checkpoint import Checkpoint, open_checkpoint
from orchard.papers.moe_lottery.integrations.layerwise import (
    DEFAULT,
    LayerScores,
    Passed,
    check_criteria,
    memory_bound,
    score_checkpoint,
)  # fmt: skip
from orchard.papers.moe_lottery.integrations.prune import (
    Plan,
    direction_of,
    plan_of,
    write_pruned,
)  # fmt: skip
from orchard.papers.moe_lottery.integrations.text import Calibration
from orchard.papers.moe_lottery.method.collect import rarely_used
from orchard.pretrained.folder import new_folder

RANKING, REPORT = "orchard_ranking", "orchard_report.json"
Progress = Callable[[str], None]


def ranking_table(checkpoint: Checkpoint, layers: Sequence[LayerScores], plan: Plan | None = None) -> pd.DataFrame:
    """One row per mixture, expert, criterion and direction.

    Columns layer (name in the model), place (among the mixtures), expert, original (its number in the unpruned model), tokens
    (routed to it), criterion, direction, score, rank (1 is dropped first), and, with a plan, dropped.
    """
    tables = []
    for layer, originals in zip(layers, checkpoint.originals, strict=True):
        for (name, direction), order in layer.orders.items():
            table = pd.DataFrame({
                "layer": layer.name, "place": layer.place, "expert": range(len(order)), "original": originals,
                "tokens": layer.count.tolist(), "criterion": name, "direction": direction, "score": layer.scores[name].tolist(),
                "rank": 1 + np.argsort(order),
            })  # fmt: skip
            tables.append(
                table if plan is None else table.assign(dropped=~table["expert"].isin(plan.kept[layer.place]))
            )
    return pd.concat(tables, ignore_index=True)


def agreement(layers: Sequence[LayerScores]) -> pd.DataFrame:
    """Spearman rank correlation of the scores of every two criteria within a layer, mean over the layers in which both vary.

    Columns a, b (criteria), spearman (NaN where no layer varies).
    """
    scores = [pd.DataFrame({name: own.tolist() for name, own in layer.scores.items()}) for layer in layers]
    mean = pd.concat([table.rank().corr() for table in scores]).groupby(level=0, sort=False).mean()
    mean = mean.rename_axis(index="b", columns="a")  # symmetric
    return mean.melt(ignore_index=False, value_name="spearman").reset_index()[["a", "b", "spearman"]]


def starved(layers: Sequence[LayerScores]) -> list[str]:
    """A warning for every mixture with experts to which fewer than two tokens were routed."""
    return [
        f"{layers[place].name}: fewer than 2 tokens were routed to experts {', '.join(map(str, experts))}: criteria of activations "
        "drop them first; more calibration text tells more about them"
        for place, experts in rarely_used(layers).items()
    ]


def score(
    checkpoint: Checkpoint, text: Calibration, out: str | Path, criteria: Sequence[str] = DEFAULT, *,
    batch_size: int = 4, device: str = "cpu", progress: Progress = print,
) -> dict[str, Any]:  # fmt: skip
    """Rank all experts and write the ranking table and the report to the folder `out`. Returns the report.

    Raises:
        BadInput, ExpertsError: as :func:`score_checkpoint`, or `out` is not empty.
    """
    check_criteria(criteria)
    with new_folder(out) as part:
        options = {"batch_size": batch_size, "device": device, "scratch": part, "progress": progress}
        passed, report = _passed(checkpoint, text, criteria, options)
        report |= {"warnings": starved(passed.layers)}
        _write(part, ranking_table(checkpoint, passed.layers), report)
    return report


def prune(
    checkpoint: Checkpoint, text: Calibration, out: str | Path, name: str, direction: str | None = None, *,
    keep: int | None = None, drop_total: int | None = None, seed: int = 0,
    batch_size: int = 4, device: str = "cpu", progress: Progress = print,
) -> dict[str, Any]:  # fmt: skip
    """Drop experts by a criterion (or "random") and write the pruned checkpoint to the folder `out`, with the ranking and the
    report, which is returned. `keep` experts stay in every layer, or `drop_total` are dropped in all.

    Raises:
        BadInput, ExpertsError: as :func:`score_checkpoint`, :func:`plan_of` and :func:`write_pruned`, or `out` is not empty.
            Nothing is then written.
    """
    check_criteria([name] if name != "random" else [])
    direction = direction_of(name, direction)
    plan_of(checkpoint.mixtures, [], name, direction, keep, drop_total)
    criteria = [*DEFAULT, *([name] if name not in DEFAULT else [])]
    with new_folder(out) as part:
        options: dict[str, Any] = {"batch_size": batch_size, "device": device, "scratch": part, "progress": progress}
        before, report = _passed(checkpoint, text, criteria, options | {"seed": seed})
        plan = plan_of(checkpoint.mixtures, before.layers, name, direction, keep, drop_total)
        warnings = [*write_pruned(checkpoint, plan, part), *starved(before.layers)]
        progress("the pruned checkpoint:")
        after = score_checkpoint(open_checkpoint(part), text.tokens, ("euf",), **options)
        kept = [[old[e] for e in ids] for old, ids in zip(checkpoint.originals, plan.kept, strict=True)]
        report |= {
            "criterion": name, "direction": direction, "seed": seed if name == "random" else None,
            "budget": {"keep": keep, "drop_total": drop_total}, "after": _state(after), "warnings": warnings,
            "kept": {layer.name: ids for layer, ids in zip(before.layers, kept, strict=True)},
            "experts": {"before": sum(layer.num_experts for layer in checkpoint.mixtures), "after": sum(map(len, kept)),
                        "written per layer": len(plan.slots[0]), "padding": sum(map(len, plan.padding))},
        }  # fmt: skip
        _write(part, ranking_table(checkpoint, before.layers, plan), report)
    return report


def _passed(
    checkpoint: Checkpoint, text: Calibration, criteria: Sequence[str], options: dict[str, Any]
) -> tuple[Passed[LayerScores], dict[str, Any]]:
    """Announce and make a pass over the full checkpoint: what it gives, and the beginning of its report."""
    (sequences, length), progress = text.tokens.shape, options["progress"]
    bound = memory_bound(checkpoint, options["batch_size"], length, criteria)
    disk = text.tokens.numel() * int(checkpoint.model.config.hidden_size) * checkpoint.dtype.itemsize
    counts = sorted({layer.num_experts for layer in checkpoint.mixtures})
    progress(
        f"{checkpoint.model_type}, {len(checkpoint.layers)} layers, {len(checkpoint.mixtures)} mixtures of "
        f"{' or '.join(map(str, counts))} experts, stored {checkpoint.layout}"
    )
    progress(f"calibration: {sequences} sequences of {length} tokens from {', '.join(text.files)}")
    parts = ", ".join(f"{name} {_size(value)}" for name, value in bound.items() if name != "total")
    progress(f"memory at most {_size(bound['total'])} ({parts}); hidden states on the disk {_size(disk)}")
    passed = score_checkpoint(checkpoint, text.tokens, criteria, **options)
    model = {"folder": checkpoint.folder.name, "model_type": checkpoint.model_type, "layout": checkpoint.layout}
    about = {"model": model, "calibration": text.manifest(), "before": _state(passed), "memory": {"bound_bytes": bound}}
    return passed, about


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _state(passed: Passed[LayerScores]) -> dict[str, Any]:
    mass = {layer.name: layer.mass for layer in passed.layers}
    return {"loss": passed.loss, "perplexity": math.exp(min(passed.loss, 700.0)), "mass": mass}


def _write(folder: Path, table: pd.DataFrame, report: dict[str, Any]) -> None:
    table.to_parquet(folder / f"{RANKING}.parquet", index=False)
    table.to_csv(folder / f"{RANKING}.csv", index=False)
    (folder / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
