"""What 06_real_checkpoint looks at: two tiny checkpoints with random weights, one of the reader's own, and tables about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from orchard.data import Source
from orchard.papers.moe_lottery.integrations.checkpoint import Checkpoint, of_config, open_checkpoint
from orchard.papers.moe_lottery.integrations.families import routers
from orchard.papers.moe_lottery.integrations.layerwise import DEFAULT, memory_bound
from orchard.papers.moe_lottery.integrations.prune import load_pruned
from orchard.papers.moe_lottery.integrations.tiny import save_tiny
from orchard.papers.moe_lottery.method.dropping import logits_of, masked
from orchard.pretrained.folder import import_transformers, load_model

TINY = ("mixtral", "olmoe")


def checkpoints(scratch: str | Path, own: str | None = None) -> dict[str, Checkpoint]:
    """Tiny checkpoints written to `scratch`, and the reader's `own`, by name.

    Raises:
        ExpertsError: `own` is no checkpoint that can be read.
    """
    made = {f"tiny {name}": open_checkpoint(save_tiny(Path(scratch) / name, name)) for name in TINY}
    return made | ({Path(own).name: open_checkpoint(own)} if own else {})


def calibration_file(source: Source, path: str | Path, characters: int = 200_000) -> Path:
    """The beginning of the validation documents of `source` as JSONL."""
    path, left = Path(path), characters
    with path.open("w", encoding="utf-8") as file:
        for document in source.documents("validation"):
            file.write(json.dumps({"text": document.text[:left]}, ensure_ascii=False) + "\n")
            left -= len(document.text)
            if left <= 0:
                break
    return path


def layouts(found: Mapping[str, Checkpoint]) -> pd.DataFrame:
    """One row per checkpoint: type, how experts are stored, layers, mixtures, experts, top-k, tensors and files on the disk, MiB."""
    return pd.DataFrame([
        {
            "checkpoint": name, "type": one.model_type, "experts stored": one.layout, "layers": len(one.layers),
            "mixtures": len(one.mixtures), "experts": one.mixtures[0].num_experts, "top-k": one.mixtures[0].top_k,
            "tensors": len(one.stored), "files": len({tensor.file for tensor in one.stored.values()}), "MiB": one.bytes("") / 2**20,
        }
        for name, one in found.items()
    ])  # fmt: skip


def published() -> dict[str, Checkpoint]:
    """Two published models on the meta device, in bfloat16."""
    auto = import_transformers()
    olmoe = auto.OlmoeConfig(hidden_size=2048, intermediate_size=1024, num_hidden_layers=16)
    return {"Mixtral-8x7B": of_config(auto.MixtralConfig()), "OLMoE-1B-7B": of_config(olmoe)}


def memory(found: Mapping[str, Checkpoint], batch_size: int, length: int) -> pd.DataFrame:
    """Bound of the memory of a pass, term by term in GiB, beside the size of the whole model."""
    whole = {name: {"model": one.bytes("")} for name, one in found.items()}
    terms = {name: whole[name] | memory_bound(one, batch_size, length, DEFAULT) for name, one in found.items()}
    return (pd.DataFrame(terms).T / 2**30).rename_axis("checkpoint").reset_index()


@torch.no_grad()
def largest_differences(
    full: Checkpoint, pruned: Path, kept: Mapping[str, list[int]], tokens: Int[Tensor, "batch time"]
) -> dict[str, float]:
    """Largest difference of a logit from the masked full model: of what stock `transformers` loads from the pruned folder, and
    of what `load_pruned` loads. All three models are built: only for those that fit in memory."""
    dropped = {one.place: [e for e in range(one.num_experts) if e not in kept[one.name]] for one in full.mixtures}
    with masked(routers(whole := load_model(full.folder)), dropped):
        want = logits_of(whole, tokens)
    found = {"transformers": load_model(pruned), "load_pruned": load_pruned(pruned)}
    return {name: float((logits_of(model, tokens) - want).abs().max()) for name, model in found.items()}
