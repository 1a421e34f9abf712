"""What `orchard manzano` and `orchard bench manzano` do: a picture tokenizer and a unified model from pictures of your own.

    orchard manzano tokenizer train --images PICTURES --out TOKENIZER
    orchard manzano tokenizer encode --tokenizer TOKENIZER --images PICTURES --out ids.safetensors
    orchard manzano tokenizer decode --tokenizer TOKENIZER --ids ids.safetensors --out DRAWN
    orchard manzano unify --backbone MODEL --images PICTURES --out UNIFIED

Nothing is downloaded. Each stage is a run in the store: a command that was killed goes on where it was. An error leaves nothing at OUT.
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

SHOWN = 16  # pictures of a grid
FIRST = {
    "tokenizer": "vision transformer",
    "codes": "with a cache",
    "decoder": "DiT-Air",
}  # what a part's others are compared with
_say = partial(print, flush=True)
app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Pictures as codes, and a language model that reads and draws them."
)  # fmt: skip
tokenizer_app = typer.Typer(no_args_is_help=True, help="A hybrid tokenizer of your own pictures.")
app.add_typer(tokenizer_app, name="tokenizer")

Images = Annotated[
    Path, typer.Option(help="a folder of pictures with metadata.jsonl (file_name, caption), .jsonl, .parquet or .tar")
]
Tokenizer = Annotated[Path, typer.Option(help="folder that `tokenizer train` wrote")]
Out = Annotated[Path, typer.Option(help="new, for what is made")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps")]
StorePath = Annotated[str | None, typer.Option("--store", help="folder of the run store")]


@tokenizer_app.command()
def train(
    images: Images, out: Out,
    size: Annotated[str, typer.Option(help="of the models: tiny, small or base")] = "small",
    side: Annotated[int | None, typer.Option(help="pixels of the pictures; by default their own, 48 at most, or the tower's")] = None,
    vision: Annotated[str | None, typer.Option(help="folder of a SigLIP, CLIP or DINOv2 as the vision transformer")] = None,
    levels: Annotated[str | None, typer.Option(help="of the codebook; by default 8,5,5,5, from 2,000 pictures on 8,8,8,6,5")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="by default 20 passes, 600 to 6,000; the decoder has half as many again")] = None,
    batch: Annotated[int, typer.Option(min=1, help="pictures a step")] = 48,
    loss: Annotated[str, typer.Option(help="what shapes the codes: text (the paper's), recon or both")] = "text",
    freeze_vit: Annotated[bool, typer.Option("--freeze-vit", help="a given vision tower does not learn")] = False,
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = "auto", store: StorePath = None,
) -> None:  # fmt: skip
    """Train a tokenizer on captions, and an image decoder on its codes; writes OUT, with held-out pictures beside decoded ones."""
    from orchard.errors import BadInput
    from orchard.papers.manzano.experiments import pipeline
    from orchard.pretrained.folder import check_new
    from orchard.runs import Store

    check_new(out)
    try:
        chosen = None if levels is None else [int(level) for level in levels.split(",")]
    except ValueError:
        raise BadInput(f"--levels {levels}: give whole numbers with commas between them, such as 8,5,5,5") from None
    stages = pipeline.plan(
        images, size=size, side=side, vision=vision, levels=chosen, steps=steps, batch=batch, loss=loss, freeze_vit=freeze_vit, seed=seed,
    )  # fmt: skip
    saved = pipeline.trained_tokenizer(stages, Store(store), device, _say)
    pipeline.write_tokenizer(saved, stages, out, SHOWN)
    _say(f"written to {out}; originals beside decoded pictures: {out / 'decoded.png'}")


@tokenizer_app.command()
def encode(tokenizer: Tokenizer, images: Images, out: Out, device: Device = "auto") -> None:
    """Write the codes (`ids`) and continuous vectors (`vectors`) of all pictures, and their names, as safetensors."""
    from orchard.papers.manzano.experiments import pipeline

    count, tokens = pipeline.encode(tokenizer, images, out, device)
    _say(f"{count} pictures, {tokens} codes each, written to {out}")


@tokenizer_app.command()
def decode(
    tokenizer: Tokenizer, out: Out,
    ids: Annotated[Path, typer.Option(help="what `tokenizer encode` wrote")],
    steps: Annotated[int, typer.Option(min=1, help="from noise to a picture")] = 20,
    guidance: Annotated[float, typer.Option(help="1 is the codes alone")] = 1.5,
    seed: Annotated[int, typer.Option(help="of the noise")] = 0,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Draw a PNG from the codes of every picture, under its name."""
    from orchard.papers.manzano.experiments import pipeline

    _say(f"{pipeline.decode(tokenizer, ids, out, steps, guidance, seed, device)} pictures written to {out}")


@app.command()
def unify(
    backbone: Annotated[Path, typer.Option(help="folder of a causal language model of Hugging Face, with its tokenizer")],
    images: Images, out: Out,
    tokenizer: Annotated[Path | None, typer.Option(help="folder that `tokenizer train` wrote; by default one is trained")] = None,
    size: Annotated[str, typer.Option(help="of a tokenizer that is trained: tiny, small or base")] = "small",
    steps: Annotated[int, typer.Option(min=1, help="of the language model")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="pictures to read, and to draw, a step")] = 16,
    learning_rate: Annotated[float, typer.Option()] = 1e-4,
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = "auto", store: StorePath = None,
) -> None:  # fmt: skip
    """Tune a language model to read pictures and to draw them; writes OUT, with pictures drawn by held-out captions."""
    from orchard.papers.manzano.experiments import pipeline
    from orchard.pretrained.folder import check_new
    from orchard.runs import Store

    check_new(out)
    stages = pipeline.plan(images, size=size, seed=seed) if tokenizer is None else pipeline.plan_with(tokenizer, images)
    cfg = pipeline.plan_unified(stages, backbone, steps, batch, learning_rate, seed)
    model = pipeline.trained_unified(stages, cfg, Store(store), device, _say)
    for prompt, said in pipeline.write_unified(model, stages, out, SHOWN):
        _say(f"{prompt!r} is read as {said!r}")
    _say(f"written to {out}; originals beside pictures that are drawn by their captions: {out / 'drawn.png'}")


def bench(tables: Callable[[str], pd.DataFrame]) -> list[tuple[str, str, pd.DataFrame, Figure | None]]:
    """What `orchard bench manzano` prints: of every part how many pictures its peers do in a second, and how much slower they are."""
    import pandas as pd

    from orchard.runs.measurement import medians, ratios

    times = tables("speed")
    times = times.assign(per_second=times["items"] / times["seconds"])
    shown = []
    for part, base in FIRST.items():
        peers = times[times["part"] == part]
        rates = medians(peers, ["part", "name"], "per_second")
        shown.append(rates.assign(times_slower=rates["name"].map(ratios(peers, base).median()).fillna(1.0)))
    missing = times[times["seconds"].isna()][["part", "name", "reason"]]
    title = f"pictures a second on {times['hardware'].iloc[0]}, and times slower than the first of each part"
    return [(title, "speed", pd.concat([*shown, missing], ignore_index=True), None)]
