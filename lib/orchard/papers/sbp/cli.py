"""`orchard sbp run TEXT OUT`: pair, tune, synthesise, filter and mix on a corpus of your own.

    orchard sbp run notes/ out/synthetic --documents 300
    orchard sbp run text.jsonl out/synthetic --model ~/models/SmolLM-135M --device cuda

Nothing is downloaded. Each stage is a run in the store: a command that was killed goes on where it was. An error leaves no file at OUT.

`orchard bench sbp`: sampling beside its naive peers, the search for neighbours among up to 100,000 documents.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib.figure import Figure

from orchard.papers.sbp.experiments import speed
from orchard.papers.sbp.figures import stages
from orchard.papers.sbp.runs import search_speed

_say = partial(print, flush=True)
app = typer.Typer(no_args_is_help=True, add_completion=False, help="Synthetic documents from a corpus of your own.")


@app.callback()
def _app() -> None:
    """Synthetic documents from a corpus of your own."""


@app.command()
def run(
    text: Annotated[Path, typer.Argument(help="a file or folder of .txt, .md, .jsonl or .parquet")],
    out: Annotated[Path, typer.Argument(help="OUT.parquet gets the documents, OUT.json the report")],
    documents: Annotated[int | None, typer.Option(min=1, help="documents of the text that are used; by default all")] = None,
    cap: Annotated[int, typer.Option(min=8, help="tokens of a document; tails are cut")] = 256,
    tokenizer: Annotated[str | None, typer.Option(help="bytes, bpe or a folder; by default bpe, or the model's own")] = None,
    vocabulary: Annotated[int, typer.Option(min=257, help="of bpe")] = 1024,
    embedder: Annotated[str, typer.Option(help="own (the model's states), tfidf, or the folder of an embedding model")] = "own",
    model: Annotated[str | None, typer.Option(help="folder of a causal language model; by default one of ours is pretrained")] = None,
    size: Annotated[str, typer.Option(help="of the decoder: tiny, small, 10M or 40M")] = "tiny",
    tokens: Annotated[int | None, typer.Option(help="synthetic tokens to keep; by default as many as the text has")] = None,
    share: Annotated[float, typer.Option(help="synthetic part of the mixture")] = 0.375,
    k: Annotated[int, typer.Option(help="neighbours of a document")] = 8,
    exceedance: Annotated[float | None, typer.Option(help="share of random pairs above the threshold; by default k/documents")] = None,
    temperature: Annotated[float, typer.Option(help="of sampling")] = 1.0,
    top_p: Annotated[float | None, typer.Option("--top-p", help="sample from the likeliest tokens of this mass")] = None,
    pretrain_steps: Annotated[int | None, typer.Option(help="of the decoder; by default 20 passes, 200 steps at most")] = None,
    tuning_steps: Annotated[int, typer.Option(help="at most: the best weights on held-out pairs are kept")] = 80,
    batch: Annotated[int, typer.Option(help="documents, or pairs, a step")] = 16,
    sampling_batch: Annotated[int, typer.Option(min=1, help="documents sampled together")] = 256,
    learning_rate: Annotated[float | None, typer.Option(help="by default that of the size, 3e-5 for a local model")] = None,
    weight_decay: Annotated[float, typer.Option()] = 1.0,
    seed: Annotated[int, typer.Option()] = 0,
    licence: Annotated[str | None, typer.Option(help="of the text; goes into the report and the parquet")] = None,
    save_model: Annotated[Path | None, typer.Option("--save-model", help="write a tuned local model to this new folder")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps")] = "auto",
    store: Annotated[str | None, typer.Option("--store", help="folder of the run store")] = None,
) -> None:  # fmt: skip
    """All five stages on one text; writes OUT.parquet and OUT.json."""
    from orchard.errors import BadInput
    from orchard.papers.sbp.experiments import pipeline
    from orchard.runs import Store

    places = pipeline.places(out)
    if save_model is not None and (model is None or save_model.exists()):
        why = "needs --model" if model is None else "exists: choose a new folder, it is left alone"
        raise BadInput(f"--save-model {save_model} {why}")
    options = pipeline.Options(
        documents=documents, cap=cap, tokenizer=tokenizer, vocabulary=vocabulary, embedder=embedder, model=model, size=size, tokens=tokens,
        share=share, k=k, exceedance=exceedance, temperature=temperature, top_p=top_p, pretrain_steps=pretrain_steps,
        tuning_steps=tuning_steps, batch=batch, learning_rate=learning_rate, weight_decay=weight_decay, sampling_batch=sampling_batch,
        seed=seed,
    )  # fmt: skip
    chosen = pipeline.plan(text, options)
    done = pipeline.run(chosen, Store(store), device, _say)
    made = pipeline.write_out(chosen, done, out, licence)
    if save_model is not None:
        pipeline.save_synthesizer(done["tune"], chosen.tune, save_model)
    for row in pipeline.documents(chosen, done).head(3).itertuples():
        _say(f"from {row.seed_name}: {str(row.text)[:200]!r}")
    for warning in made["warnings"]:
        _say(f"warning: {warning}")
    _say(f"written: {places[0]} ({made['stages']['filter']['result']['rejections']['kept']} documents), {places[1]}")


def bench(tables: Callable[[str], pd.DataFrame]) -> list[tuple[str, str, pd.DataFrame, Figure | None]]:
    """Title, file name, table and figure of every part, in order; the search is measured now, on the CPU."""
    times = tables("sampling_speed")
    title = f"sampling on {times['hardware'].iloc[0]}: tokens/s, times slower than batched with a cache (at least 10 for the last)"
    searched = search_speed.search_speed()
    near = f"neighbours on {search_speed.THREADS} CPU threads: time, memory beside the vectors, recall at 8"
    return [
        (title, "sampling", speed.slower(times), stages.sampling_speed(times)),
        (near, "pairing", searched, None),
        ("how the search grows with the number of documents", "pairing_growth", search_speed.growth(searched), None),
    ]
