"""What `orchard ifpruning` and `orchard bench ifpruning` do: masks for a decoder of your own, and the small model of one instruction.

    orchard ifpruning train MODEL DATA OUT --predictor FOLDER --keep 1536
    orchard ifpruning prune OUT SMALL --prompt "Translate to French."

Nothing is downloaded. Each stage is a run in the store: a command that was killed goes on where it was. An error leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_say = partial(print, flush=True)
app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Instruction-following pruning of a local Hugging Face decoder."
)


@app.command()
def train(
    model: Annotated[Path, typer.Argument(help="folder of a decoder with gated MLPs: Llama, Mistral, Qwen2, Qwen3, Gemma 1 to 3")],
    data: Annotated[Path, typer.Argument(help="rows with instructions and answers: .jsonl or .parquet, text beside them")],
    out: Annotated[Path, typer.Argument(help="new folder for the decoder, the predictor and its head")],
    predictor: Annotated[Path, typer.Option(help="folder of a small language model that reads the instruction")],
    keep: Annotated[int, typer.Option(help="channels that a mask leaves in every feed-forward layer, k")],
    mode: Annotated[str, typer.Option(help="soft (the paper's), soft_binarize, st or st_full")] = "soft",
    cpt_steps: Annotated[int, typer.Option(help="of continued pre-training on pairs of chunks; 0: none")] = 1000,
    sft_steps: Annotated[int, typer.Option(help="of fine-tuning on the answers")] = 1000,
    batch: Annotated[int, typer.Option(help="texts a step")] = 16,
    learning_rate: Annotated[float, typer.Option(help="of the decoder")] = 1e-5,
    predictor_rate: Annotated[float, typer.Option(help="learning rate of the predictor and its head")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="on matrices, those of masked layers left out")] = 0.1,
    block: Annotated[int, typer.Option(help="tokens of a chunk")] = 512,
    longest: Annotated[int, typer.Option(help="tokens of a conversation; tails are cut")] = 1024,
    longest_prompt: Annotated[int, typer.Option(help="tokens that the predictor reads")] = 512,
    rank: Annotated[int, typer.Option(help="of the head")] = 128,
    epsilon: Annotated[float, typer.Option(help="of SoftTopK")] = 0.3,
    spread: Annotated[float, typer.Option(help="of the first logits over channels, in epsilon")] = 3.5,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="less memory, a third more time")] = False,
    on_collapse: Annotated[str, typer.Option(help="raise or record: when masks no longer depend on the instruction")] = "raise",
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps")] = "auto",
    store: Annotated[str | None, typer.Option("--store", help="folder of the run store")] = None,
) -> None:  # fmt: skip
    """Continued pre-training and fine-tuning of a decoder under masks, with its predictor; writes OUT."""
    from orchard.papers.ifpruning.runs import tune
    from orchard.pretrained.folder import check_new
    from orchard.runs import Store
    from orchard.train import AdamW

    check_new(out)
    optim = AdamW.Config(learning_rate=learning_rate, weight_decay=weight_decay, warmup_fraction=0.05)
    chosen = tune.plan(
        model, str(data), predictor, keep, cpt_steps, sft_steps, mode=mode, batch_size=batch, optim=optim, predictor_rate=predictor_rate,
        block=block, longest=longest, longest_prompt=longest_prompt, rank=rank, epsilon=epsilon, spread=spread,
        gradient_checkpointing=gradient_checkpointing, seed=seed,
    )  # fmt: skip
    tune.train(chosen, out, Store(store), device, on_collapse, _say)
    _say(f'written to {out}; the small model of an instruction: orchard ifpruning prune {out} SMALL --prompt "..."')


@app.command()
def prune(
    model: Annotated[Path, typer.Argument(help="folder that `orchard ifpruning train` wrote")],
    out: Annotated[Path, typer.Argument(help="new folder for the small model, which transformers loads as it is")],
    prompt: Annotated[str, typer.Option(help="one instruction, or the description of a task")],
) -> None:  # fmt: skip
    """Write the small dense model that one instruction chooses."""
    from orchard.papers.ifpruning.integrations.folder import load_pruned, save_small
    from orchard.pretrained.folder import check_new

    check_new(out)
    pruned = load_pruned(model)
    small = save_small(pruned, prompt, out)
    before, after = (sum(p.numel() for p in part.parameters()) for part in (pruned.decoder, small))
    where = f"{pruned.settings.keep} of {pruned.width} channels in {len(pruned.layer_names)} layers"
    _say(f"{where}: {before:,} parameters became {after:,}")
    _say(f"written to {out}")


def bench(tables: Callable[[str], pd.DataFrame]) -> list[tuple[str, str, pd.DataFrame, Figure | None]]:
    """What `orchard bench ifpruning` prints: title, file name, table and figure of every part.

    SoftTopK beside the iterative form of the literature at the size of the paper's 6B model, a batch of 8 measured now; then the seconds of
    a request by part.
    """
    import pandas as pd

    from orchard.papers.ifpruning.data import published
    from orchard.papers.ifpruning.experiments.speed import BENCH, latency_ratios, medians, softtopk_ratios
    from orchard.papers.ifpruning.figures.published import latency_bars
    from orchard.papers.ifpruning.runs.speed import softtopk_rows
    from orchard.train import choose

    hardware = choose("auto")
    forms = softtopk_ratios(pd.DataFrame(softtopk_rows(BENCH, hardware.device)))
    forms_title = (
        f"SoftTopK forward and backward, D {BENCH.width}, k {BENCH.k}, {BENCH.layers} layers, batch {BENCH.batch} on "
        f"{hardware.device} (wanted: the iterative form at least 5 times slower)"
    )
    times = tables("latency")
    shown = medians(times)
    title = f"seconds of a request by part, median, {times['hardware'].iloc[0]}"
    return [
        (forms_title, "softtopk", forms, None),
        (title, "latency", shown, latency_bars(published.latency(), shown)),
        ("ratios within a round, median over rounds", "latency_ratios", latency_ratios(times), None),
    ]
