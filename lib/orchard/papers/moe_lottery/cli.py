"""`orchard moe_lottery scores` and `orchard moe_lottery prune`: the criteria on a local checkpoint of Hugging Face.

    orchard moe_lottery scores MODEL OUT --calibration text.jsonl
    orchard moe_lottery prune MODEL OUT --calibration text.jsonl --criterion ean --keep 32

Nothing is downloaded. An error leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

ABOUT = "Rank and drop the experts of a local Hugging Face checkpoint."
KINDS = "folder of a checkpoint: Mixtral, OLMoE, Qwen2-MoE, Qwen3-MoE, DeepSeek-V2 or -V3, gpt-oss, GraniteMoE or Phi-3.5-MoE"
app = typer.Typer(no_args_is_help=True, add_completion=False, help=ABOUT)

Model = Annotated[Path, typer.Argument(help=KINDS)]
Out = Annotated[Path, typer.Argument(help="folder to write, new or empty")]
Text = Annotated[Path, typer.Option("--calibration", help="text: a file or folder of .txt, .md, .jsonl or .parquet")]
Sequences = Annotated[int, typer.Option("--sequences", help="sequences of calibration text at most")]
Length = Annotated[int, typer.Option("--length", help="tokens per sequence")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="sequences that pass together")]
Tokenizer = Annotated[str, typer.Option("--tokenizer", help="model: the checkpoint's own; bytes: for models of bytes")]
_say = partial(print, flush=True)
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda")]


@app.command()
def scores(
    model: Model, out: Out, calibration: Text, sequences: Sequences = 256, length: Length = 2048, batch: Batch = 4,
    criteria: Annotated[str, typer.Option(help="names, joined by commas; by default all without gradients that are quick")] = "",
    tokenizer: Tokenizer = "model", device: Device = "auto",
) -> None:  # fmt: skip
    """Score every expert by every criterion that needs no gradient; write the ranking table and a report."""
    from orchard.papers.moe_lottery.integrations.layerwise import DEFAULT, device_of
    from orchard.papers.moe_lottery.integrations.report import score

    checkpoint, text = _opened(model, out, calibration, sequences, length, tokenizer)
    names = [name.strip() for name in criteria.split(",") if name.strip()] or DEFAULT
    report = score(checkpoint, text, out, names, batch_size=batch, device=device_of(device), progress=_say)
    _say(f"perplexity of the calibration text {report['before']['perplexity']:.3f}")
    _end(out, report)


@app.command()
def prune(
    model: Model, out: Out, calibration: Text,
    criterion: Annotated[str, typer.Option(help="a criterion, such as ean, or random")],
    direction: Annotated[str | None, typer.Option(help="drop the min or the max; by default the paper's")] = None,
    keep: Annotated[int | None, typer.Option(help="experts that stay in every layer")] = None,
    drop_total: Annotated[int | None, typer.Option(help="experts dropped in all, wherever they are worst: needs load_pruned")] = None,
    seed: Annotated[int, typer.Option(help="of the criterion random")] = 0,
    sequences: Sequences = 256, length: Length = 2048, batch: Batch = 4, tokenizer: Tokenizer = "model", device: Device = "auto",
) -> None:  # fmt: skip
    """Drop experts and write a checkpoint with those that stay, the ranking table and a report.

    With --keep the result loads in transformers as it is. With --drop-total layers keep unequal counts, which a config of
    Hugging Face cannot say: the checkpoint is padded, and only orchard's load_pruned leaves the padding out.
    """
    from orchard.papers.moe_lottery.integrations.layerwise import device_of
    from orchard.papers.moe_lottery.integrations.report import prune as write

    checkpoint, text = _opened(model, out, calibration, sequences, length, tokenizer)
    report = write(
        checkpoint, text, out, criterion, direction, keep=keep, drop_total=drop_total, seed=seed, batch_size=batch,
        device=device_of(device), progress=_say,
    )  # fmt: skip
    count, before, after = report["experts"], report["before"], report["after"]
    _say(f"kept {count['after']} of {count['before']} experts by {report['criterion']} ({report['direction']})")
    _say(f"perplexity of the calibration text {before['perplexity']:.3f} before, {after['perplexity']:.3f} after")
    mass = [sum(state["mass"].values()) / len(state["mass"]) for state in (before, after)]
    _say(f"sum of the router's weights per token {mass[0]:.3f} before, {mass[1]:.3f} after")
    _end(out, report)


def _opened(model: Path, out: Path, text: Path, sequences: int, length: int, tokenizer: str) -> tuple[Any, Any]:
    from orchard.papers.moe_lottery.integrations.checkpoint import open_checkpoint
    from orchard.papers.moe_lottery.integrations.text import calibration
    from orchard.pretrained.folder import check_new

    check_new(out)
    checkpoint = open_checkpoint(model)
    return checkpoint, calibration(checkpoint, text, sequences, length, tokenizer)


def _end(out: Path, report: dict[str, Any]) -> None:
    for warning in report["warnings"]:
        _say(f"warning: {warning}")
    _say(f"written to {out}")


def bench(tables: Callable[[str], Any]) -> list[tuple[str, str, Any, None]]:
    """What `orchard bench moe_lottery` prints: title, file name, table and figure of every part, in order."""
    from orchard.papers.moe_lottery.experiments.speed import relative
    from orchard.runs.measurement import medians

    times = tables("speed")
    milliseconds = medians(times, ["shape", "measurement", "what", "name"])
    ms, collector = milliseconds.assign(ms=1e3 * milliseconds.pop("seconds")), relative(times, "statistics", "plain")
    return [
        ("milliseconds, median over rounds", "speed", ms, None),
        ("collector over a plain forward pass, no gradients (at most 1.5)", "collector", collector, None),
        ("peak memory of the collector, bytes (no growth with tokens)", "collector_memory", tables("collector_memory"), None),
        ("time over ours, above 1 where ours is faster", "mixtures", relative(times, "block", "ours"), None),
    ]  # fmt: skip
