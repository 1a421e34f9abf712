"""``make bench``: how fast the library is, as ratios against peers in the same run. Nothing here is asserted in a test.

``orchard bench SLUG`` measures what the function ``bench`` of a paper's ``cli.py`` names and saves tables and figures under
``reports/``; without a slug the library comes first and then every paper.

Peers are timed in turn, round by round, so that a slow moment of the machine hits all of them; the ratio is the median over rounds.
"""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F

from orchard import plot
from orchard.data import ResumableLoader, Windows, tokens
from orchard.errors import BadInput
from orchard.nn import Attention, Block, Decoder, FeedForward
from orchard.runs import Store, Workspace, execute
from orchard.runs.device import resolve_device
from orchard.series import open_series, paper_module, relative, slugs
from orchard.train import TrainLM, choose
from orchard.train.lm import token_losses
from orchard.train.loop import LanguageModel, train_loop

STEPS, ROUNDS = 30, 5
DIM, LAYERS, HEADS, HIDDEN, LENGTH = 128, 4, 4, 344, 128  # of the decoder that is trained: 0.82 M parameters


def bench() -> pd.DataFrame:
    """All benchmarks on this machine's CPU with one thread: columns what, value, unit, target."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [*_training(), *_imports(), _store_hit(), *_runner()]
    finally:
        torch.set_num_threads(threads)
    return pd.DataFrame(rows, columns=["what", "value", "unit", "target"])


Row = tuple[str, float, str, str]


def training(steps: int) -> TrainLM.Config:
    """A small decoder that is trained on bytes, without validation and checkpoints on the way."""
    layer = Block.Config(
        attention=Attention.Config(num_heads=HEADS), feed_forward=FeedForward.Config(hidden_dim=HIDDEN)
    )
    model = Decoder.Config(vocab_size=257, dim=DIM, layers=[layer.clone() for _ in range(LAYERS)], tie_embeddings=True)
    return TrainLM.Config(
        model=model, seq_len=LENGTH, batch_size=8, eval_windows=32, steps=steps, log_every=1, validate_every=steps + 1,
        checkpoint_every=steps + 1, label="bench",
    )  # fmt: skip


def _training() -> list[Row]:
    """Tokens per second of processor time in our training step, against bare loops: with the same model, with a transformers Llama
    of the same shape, with a decoder as nanoGPT has it of as many parameters; and what each part costs in which ours differs."""
    cfg = training(STEPS)
    windows = Windows(tokens(cfg.source, cfg.tokenizer, "train"), cfg.seq_len)
    peers: dict[str, Callable[[], float]] = {
        "ours": lambda: _ours(cfg, windows),
        "bare": lambda: _bare(cfg.model.clone().build(), token_losses, cfg, windows),
        "llama": lambda: _bare(_llama(cfg), _llama_losses, cfg, windows),
        "gpt": lambda: _bare(_GPT(cfg.model.vocab_size), token_losses, cfg, windows),
        "rotary": lambda: _bare(_GPT(cfg.model.vocab_size, rotary=True), token_losses, cfg, windows),
        "rms": lambda: _bare(_GPT(cfg.model.vocab_size, rms=True), token_losses, cfg, windows),
        "gated": lambda: _bare(_GPT(cfg.model.vocab_size, gated=True), token_losses, cfg, windows),
        "parts": lambda: _bare(_GPT(cfg.model.vocab_size, True, True, True), token_losses, cfg, windows),
    }
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for run in peers.values():  # warm up
        run()
    for _ in range(ROUNDS):
        for name, run in peers.items():
            seconds[name].append(run())
    rate = STEPS * cfg.batch_size * cfg.seq_len / statistics.median(seconds["ours"])

    def row(what: str, one: str, other: str, target: str) -> Row:
        ratios = (b / a for a, b in zip(seconds[one], seconds[other], strict=True))
        return (what, statistics.median(ratios), "× throughput", target)

    return [
        ("our training step", rate, "tokens/s", ""),
        row("our training step / bare PyTorch loop, same model", "ours", "bare", "≥ 0.95"),
        row("our training step / transformers Llama, same shape", "ours", "llama", "≥ 1"),
        row("our training step / nanoGPT's architecture, as many parameters", "ours", "gpt", "≥ 0.95"),
        row("our training step / nanoGPT's loop with our three parts", "ours", "parts", "≥ 0.95"),
        row("nanoGPT with rotary positions / nanoGPT", "rotary", "gpt", ""),
        row("nanoGPT with RMSNorm / nanoGPT", "rms", "gpt", ""),
        row("nanoGPT with gated feed-forward / nanoGPT", "gated", "gpt", ""),
        row("nanoGPT with our three parts / nanoGPT", "parts", "gpt", ""),
    ]


def _ours(cfg: TrainLM.Config, windows: Windows) -> float:
    hardware = choose("cpu")
    with tempfile.TemporaryDirectory() as folder:
        work = Workspace(Path(folder), Path(folder) / "checkpoints")
        module = LanguageModel(cfg.model.clone().build(), cfg.optim.build(), cfg.steps, hardware.fused_optimizer)
        loader = ResumableLoader(windows, cfg.batch_size, 0)
        start = time.process_time()
        train_loop(module, loader, cfg, work, hardware, [])
        return time.process_time() - start


def _bare(model: torch.nn.Module, losses: Any, cfg: TrainLM.Config, windows: Windows) -> float:
    optim = cfg.optim.build()
    optimizer = optim.optimizer(model, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: optim.scale(step, cfg.steps))
    batches = iter(ResumableLoader(windows, cfg.batch_size, 0))
    start = time.process_time()
    for _ in range(cfg.steps):
        loss = losses(model, next(batches)["tokens"]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
        optimizer.step()
        schedule.step()
    return time.process_time() - start


def _llama(cfg: TrainLM.Config) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaConfig(
        vocab_size=cfg.model.vocab_size, hidden_size=DIM, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, head_dim=DIM // HEADS, max_position_embeddings=cfg.seq_len,
        use_cache=False, tie_word_embeddings=True,
    )  # fmt: skip
    llama._attn_implementation = "sdpa"
    return LlamaForCausalLM(llama)


def _llama_losses(model: torch.nn.Module, window: torch.Tensor) -> torch.Tensor:
    logits = model(window[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), window[:, 1:].flatten(), reduction="none")


class _GPT(torch.nn.Module):
    """A decoder as nanoGPT has it: learned positions, LayerNorm, one matrix for queries, keys and values, GELU, tied embeddings.

    Three of its parts may be ours: `rotary` positions, RMSNorm (`rms`), a feed-forward that is `gated` by SiLU. With all of them it
    computes what our decoder computes.
    """

    def __init__(self, vocab_size: int, rotary: bool = False, rms: bool = False, gated: bool = False) -> None:
        super().__init__()
        self.gated = gated
        inner = HIDDEN if gated else 4 * DIM  # as many parameters within a per cent
        self.tokens = torch.nn.Embedding(vocab_size, DIM)
        self.positions = None if rotary else torch.nn.Embedding(LENGTH, DIM)
        half = DIM // HEADS // 2
        angles = torch.arange(LENGTH)[:, None, None] * 10_000.0 ** (-torch.arange(half) / half)  # [time, 1, half]
        self.cos, self.sin = angles.cos().repeat(1, 1, 2), torch.cat((-angles.sin(), angles.sin()), dim=-1)
        self.layers: Any = torch.nn.ModuleList(torch.nn.ModuleDict({
            "norm": _norm(rms), "qkv": torch.nn.Linear(DIM, 3 * DIM, bias=False),
            "out": torch.nn.Linear(DIM, DIM, bias=False), "norm2": _norm(rms),
            "up": torch.nn.Linear(DIM, inner, bias=False), "down": torch.nn.Linear(inner, DIM, bias=False),
            "gate": torch.nn.Linear(DIM, inner, bias=False) if gated else torch.nn.Identity(),
        }) for _ in range(LAYERS))  # fmt: skip
        self.norm = _norm(rms)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions(torch.arange(length))
        for layer in self.layers:
            parts = layer["qkv"](layer["norm"](x)).split(DIM, dim=-1)
            q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in parts)
            if self.positions is None:
                cos, sin = self.cos[:length], self.sin[:length]
                q, k = (y * cos + y.roll(DIM // HEADS // 2, dims=-1) * sin for y in (q, k))
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + layer["out"](mixed.transpose(1, 2).flatten(-2))
            y = layer["norm2"](x)
            inner = F.silu(layer["gate"](y)) * layer["up"](y) if self.gated else F.gelu(layer["up"](y))
            x = x + layer["down"](inner)
        return F.linear(self.norm(x), self.tokens.weight)


def _norm(rms: bool) -> torch.nn.Module:
    return torch.nn.RMSNorm(DIM, eps=1e-6) if rms else torch.nn.LayerNorm(DIM, bias=False)


def _imports() -> list[Row]:
    """Time and memory of importing the package and of importing what a training needs, in fresh processes."""
    code = (
        "import json, time, psutil; a = time.perf_counter(); import {module}; b = time.perf_counter() - a;"
        "print(json.dumps([b, psutil.Process().memory_info().rss / 2**20]))"
    )
    rows: list[Row] = []
    for module, target in (("orchard", "< 1 s"), ("orchard.train", ""), ("torch, lightning.pytorch", "")):
        runs = [
            json.loads(subprocess.check_output([sys.executable, "-c", code.format(module=module)])) for _ in range(3)
        ]
        rows.append((f"import {module}", min(r[0] for r in runs), "s", target))
        rows.append((f"import {module}", min(r[1] for r in runs), "MiB", ""))
    return rows


def _store_hit() -> Row:
    """Time to find a finished run, its identity and verification included."""
    cfg = training(1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        execute([cfg], store, jobs=1, device="cpu", report=lambda line: None)
        times = []
        for _ in range(20):
            start = time.perf_counter()
            assert store.get(cfg) is not None
            times.append(time.perf_counter() - start)
    return ("finding a finished run in the store", 1e3 * statistics.median(times), "ms", "")


def _runner() -> list[Row]:
    """Seconds that our notebook runner takes for a notebook that does nothing, minus what plain papermill takes."""
    import nbformat
    import papermill

    from orchard.notebooks import execute as execute_notebook

    with tempfile.TemporaryDirectory() as folder:
        notebook, out = Path(folder) / "empty.ipynb", Path(folder) / "out.ipynb"
        cell = nbformat.v4.new_code_cell("PROFILE = 'smoke'", metadata={"tags": ["parameters"]})
        content = nbformat.v4.new_notebook(cells=[cell])
        content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(content, notebook)
        ours, plain = [], []
        for _ in range(3):
            start = time.perf_counter()
            papermill.execute_notebook(str(notebook), str(out), {"PROFILE": "smoke"}, progress_bar=False)
            plain.append(time.perf_counter() - start)
            start = time.perf_counter()
            execute_notebook(notebook, out, {"PROFILE": "smoke"})
            ours.append(time.perf_counter() - start)
    return [
        (
            "our notebook runner − plain papermill",
            statistics.median(ours) - statistics.median(plain),
            "s per notebook",
            "",
        )
    ]


def main() -> None:
    """Print the table."""
    _print(bench())


def _print(table: pd.DataFrame) -> None:
    def number(value: float) -> str:
        return (
            "–"
            if math.isnan(value)
            else f"{value:.2e}"
            if 0 < value < 1e-3
            else f"{value:,.3f}"
            if value < 100
            else f"{value:,.0f}"
        )

    print(table.to_string(index=False, float_format=number, na_rep="–"))


def papers() -> list[str]:
    """Papers that have operations of their own to measure: a function ``bench`` in their ``cli.py``."""
    return [slug for slug in slugs() if _measures(slug) is not None]


def _measures(slug: str) -> Callable[..., Any] | None:
    """The function ``bench`` of a paper, if it has one."""
    if importlib.util.find_spec(f"orchard.papers.{slug}.cli") is None:
        return None
    found: Callable[..., Any] | None = getattr(paper_module(slug, "cli"), "bench", None)
    return found


def bench_paper(slug: str, profile: str | None = None, device: str = "auto") -> None:
    """Measure a paper's operations now, print the tables, save them and the figures under ``reports/<slug>/<profile>/figures``.

    Args:
        profile: by default ``gpu`` on a GPU, else ``smoke``.

    Raises:
        BadInput: no such paper or profile, or a paper that has nothing to measure.
    """
    paper_module(slug, "experiments")
    measures = _measures(slug)
    if measures is None:
        raise BadInput(f"{slug} has no operations of its own to measure: leave it out for the general benchmarks")
    chosen = profile or ("gpu" if resolve_device(device) == "cuda" else "smoke")
    with tempfile.TemporaryDirectory() as folder:  # measured now, not found in the store
        series = open_series(slug, "bench", profile=chosen, device=device, store=folder)
        for title, name, table, figure in measures(series.table):
            print(f"\n{title}")
            _print(table)
            stem = series.output / "figures" / f"bench_{name}"
            if figure is None:
                stem.parent.mkdir(parents=True, exist_ok=True)
                table.to_csv(stem.with_suffix(".csv"), index=False)
            else:
                plot.save(plot.mark_profile(figure, chosen), stem, table)
    print(f"\ntables and figures: {relative(series.output / 'figures')}")
