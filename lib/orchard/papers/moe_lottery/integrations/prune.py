"""A pruned checkpoint from a ranking: fewer experts per layer, in the layout of the original, without building the model.

Tensors are copied from shard to shard; only the experts and the rows of routers are chosen among. The config's count of
experts is set, and everything else in the folder (tokenizer, generation config, licence) is copied.

The configs of Hugging Face hold one count of experts for all layers. Where layers keep unequal counts, every layer is written
with as many experts as the largest keeps: its own, and the best of its dropped ones as padding. `orchard_experts.json` says
which slots are padding, and `load_pruned` masks them for good. **Stock transformers does not know that file and would use the
padding experts**: what it loads is another model, in which fewer experts are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from orchard.errors import OrchardError
from orchard.papers.moe_lottery.integrations.checkpoint import MASK_FILE, Checkpoint, beyond, open_checkpoint, opened
from orchard.papers.moe_lottery.integrations.families import EXPERT, PER_EXPERT, routers
from orchard.papers.moe_lottery.integrations.layerwise import LayerScores
from orchard.papers.moe_lottery.method.criteria import criterion
from orchard.papers.moe_lottery.method.dropping import (
    EXPERT_COUNTS,
    ExpertsError,
    MixtureLayer,
    check_drop,
    global_ranking,
    masked,
    worst,
)  # fmt: skip
from orchard.pretrained.folder import companions, copy_files, load_model

SHARD = 2**30  # bytes of a shard that is written: memory takes about twice as much
MORE_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers")  # of layers after the last, which are not written


@dataclass(frozen=True)
class Plan:
    """Per mixture, in numbers of the checkpoint as it is: experts `kept`, and `slots`, those written; both ascending."""

    kept: list[list[int]]
    slots: list[list[int]]

    @property
    def padding(self) -> list[list[int]]:
        """Places among the slots whose experts are not kept."""
        pairs = zip(self.kept, self.slots, strict=True)
        return [[place for place, expert in enumerate(slots) if expert not in kept] for kept, slots in pairs]

    @property
    def padded(self) -> bool:
        """Whether layers keep unequal counts."""
        return any(self.padding)


def direction_of(name: str, direction: str | None) -> str:
    """The direction in which a criterion drops: the given one, else the paper's.

    Raises:
        ExpertsError: neither is known, or it is not min or max.
    """
    direction = direction or ("min" if name == "random" else criterion(name).drop)
    if direction is None:
        raise ExpertsError(f"the paper gives no direction for the criterion {name!r}: choose --direction min or max")
    if direction not in ("min", "max"):
        raise ExpertsError(f"direction {direction!r}: choose min or max")
    return direction


def keep_equally(mixtures: Sequence[MixtureLayer], orders: Sequence[Sequence[int]], keep: int) -> Plan:
    """Every layer keeps `keep` experts; `orders[l]` names all experts of layer l, those to drop first. Where a router chooses
    among groups first, every group keeps equally many.

    Raises:
        ExpertsError: as :func:`check_plan`, or `keep` is no multiple of the number of groups.
    """
    dropped: dict[int, list[int]] = {}
    for layer, order in zip(mixtures, orders, strict=True):
        count, size = layer.num_experts - keep, layer.num_experts // layer.groups
        if not 0 <= keep <= layer.num_experts:
            wrong = f" and cannot keep {keep}: keep fewer" if keep > 0 else f", {count} are to be dropped: drop fewer"
            raise ExpertsError(f"layer {layer.place} has {layer.num_experts} experts{wrong}")
        if keep % layer.groups:
            raise ExpertsError(
                f"layer {layer.place}: its router chooses among {layer.groups} groups first and needs equally many experts in each: keep a "
                f"multiple of {layer.groups}, not {keep}"
            )
        each = count // layer.groups
        members = [[e for e in order if e // size == group] for group in range(layer.groups)]
        dropped[layer.place] = [e for group in members for e in group[:each]]
    return check_plan(mixtures, dropped, orders)


def drop_globally(mixtures: Sequence[MixtureLayer], scores: Sequence[Tensor], count: int, direction: str) -> Plan:
    """Drop `count` experts in all, worst score first wherever they are, no layer below its router's top-k. Counts per layer are
    then unequal: see the module's text for what is written.

    Raises:
        ExpertsError: so many cannot be dropped, or routers that choose among groups.
    """
    if count < 0:
        raise ExpertsError(f"{count} experts are to be dropped: give a number of experts")
    if grouped := [layer for layer in mixtures if layer.groups > 1]:
        raise ExpertsError(
            f"layer {grouped[0].place}: its router chooses among {grouped[0].groups} groups and needs equally many experts in each: "
            "choose the same number for every layer (--keep)"
        )
    least = [layer.top_k for layer in mixtures]
    dropped = global_ranking(scores, count, direction, least)
    orders = [worst(layer, len(layer), direction) for layer in scores]
    return check_plan(mixtures, dropped, orders)


def check_plan(
    mixtures: Sequence[MixtureLayer], dropped: dict[int, list[int]], orders: Sequence[Sequence[int]]
) -> Plan:
    """The plan that drops these experts; `orders` says which of them pad a layer that keeps fewer than another.

    Raises:
        ExpertsError: as :func:`check_drop`.
    """
    check_drop(mixtures, dropped)
    kept = [[e for e in range(layer.num_experts) if e not in dropped.get(layer.place, ())] for layer in mixtures]
    width = max(map(len, kept))
    slots = []
    for ids, order in zip(kept, orders, strict=True):
        best_first = [e for e in reversed(order) if e not in ids]
        slots.append(sorted([*ids, *best_first[: width - len(ids)]]))
    return Plan(kept, slots)


def plan_of(
    mixtures: Sequence[MixtureLayer], layers: Sequence[LayerScores], name: str, direction: str, keep: int | None, drop_total: int | None
) -> Plan:  # fmt: skip
    """The plan of a criterion, with `keep` experts in every layer or `drop_total` dropped in all. Without `layers`, before anything is
    ranked, experts are taken by number: the plan is a check that the budget can be met.

    Raises:
        ExpertsError: both or none of the two, a global budget for a criterion of pairs, or as the two functions above.
    """
    if (keep is None) == (drop_total is None):
        raise ExpertsError(
            "give either --keep, experts that stay in every layer, or --drop-total, experts dropped in all"
        )
    if drop_total is not None:
        if name != "random" and criterion(name).pairs is not None:
            raise ExpertsError(
                f"criterion {name!r} ranks pairs within a layer: choose the same number for every layer (--keep)"
            )
        scores = [layer.scores[name] for layer in layers] or [torch.zeros(layer.num_experts) for layer in mixtures]
        return drop_globally(mixtures, scores, drop_total, direction)
    assert keep is not None
    orders = [layer.orders[name, direction] for layer in layers] or [list(range(m.num_experts)) for m in mixtures]
    return keep_equally(mixtures, orders, keep)


def write_pruned(checkpoint: Checkpoint, plan: Plan, folder: Path) -> list[str]:
    """Write the pruned checkpoint into an existing, empty `folder`; returns warnings.

    Raises:
        ExpertsError: the checkpoint is padded itself.
    """
    if any(checkpoint.padding):
        raise ExpertsError(f"{checkpoint.folder} is padded ({MASK_FILE}): prune the checkpoint it was made from")
    slots = {layer.name.split(".")[2]: ids for layer, ids in zip(checkpoint.mixtures, plan.slots, strict=True)}
    written = [(name, new, rows) for name in checkpoint.stored for new, rows in _renamed(checkpoint, name, slots)]
    shards = list(_shards(checkpoint, written))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        with ExitStack() as stack:
            files = {path: opened(stack, path) for path in {checkpoint.stored[old].file for old, _, _ in shard}}
            content = {}
            for old, new, rows in shard:
                value = files[checkpoint.stored[old].file].get_tensor(old)
                content[new] = value if rows is None else value[torch.tensor(rows)]
            try:
                save_file(content, folder / name, metadata={"format": "pt"})
            except SafetensorError as error:
                raise OrchardError(f"{folder / name} cannot be written ({error}): free space on the disk") from None
        weight_map |= {new: name for _, new, _ in shard}
    if len(shards) > 1:
        size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    source = checkpoint.folder
    copy_files((name for name in companions(source) if not Path(name).name.startswith("orchard_")), source, folder)
    beyond_last = any(beyond(name, len(checkpoint.layers)) for name in checkpoint.stored)
    _write_config(checkpoint, len(plan.slots[0]), folder, beyond_last)
    originals = checkpoint.originals
    layers = [
        {"name": layer.name, "original": [old[e] for e in slots], "kept": [old[e] for e in kept], "padding": padding}
        for layer, old, slots, kept, padding in zip(checkpoint.mixtures, originals, plan.slots, plan.kept, plan.padding, strict=True)
    ]  # fmt: skip
    note = "slots in padding are never to be chosen; transformers alone would use them: load with orchard's load_pruned"
    (folder / MASK_FILE).write_text(json.dumps({"note": note, "layers": layers}, indent=1), encoding="utf-8")
    warnings = []
    if plan.padded:
        warnings.append(
            f"layers keep unequal counts, so that {sum(map(len, plan.padding))} dropped experts pad the checkpoint: transformers "
            "alone would use them; load it with orchard.papers.moe_lottery.integrations.prune.load_pruned, which masks them "
            f"({MASK_FILE})"
        )
    if beyond_last:
        warnings.append("layers after the last one, which predict further tokens, are not written")
    return warnings


def load_pruned(folder: str | Path) -> Any:
    """The model of a pruned checkpoint by `transformers`, with the padding masked for as long as it lives.

    `AutoModelForCausalLM.from_pretrained(folder)` gives the same model where all layers keep equally many experts; where they
    do not, it would use the padding, and is another model.

    Raises:
        ExpertsError: as :func:`open_checkpoint`.
    """
    checkpoint = open_checkpoint(folder)
    model = load_model(checkpoint.folder)
    if any(checkpoint.padding):
        mask = ExitStack()  # never closed: the model holds it
        mask.enter_context(masked(routers(model), dict(enumerate(checkpoint.padding))))
        model.orchard_mask = mask
    return model


def _renamed(checkpoint: Checkpoint, name: str, slots: dict[str, list[int]]) -> Iterator[tuple[str, list[int] | None]]:
    """The name that a tensor gets and the rows of it that stay (None: all); nothing where it is dropped."""
    if beyond(name, len(checkpoint.layers)):
        return
    if found := EXPERT.fullmatch(name):
        ids = slots[found["layer"]]
        if (expert := int(found["expert"])) in ids:
            yield f"{found['block']}.experts.{ids.index(expert)}.{found['matrix']}.{found['kind']}", None
    elif (found := PER_EXPERT.fullmatch(checkpoint.family.in_model(name))) and found["layer"] in slots:
        yield name, slots[found["layer"]]
    else:
        yield name, None


def _shards(checkpoint: Checkpoint, written: Sequence[tuple[str, str, list[int] | None]]) -> Iterator[list[Any]]:
    """Tensors to write, in shards of at most `SHARD` bytes (or one tensor)."""
    sizes = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2}
    shard: list[Any] = []
    total = 0
    for old, new, rows in written:
        stored = checkpoint.stored[old]
        shape = stored.shape if rows is None else (len(rows), *stored.shape[1:])
        size = torch.Size(shape).numel() * sizes.get(stored.dtype, 1)
        if shard and total + size > SHARD:
            yield shard
            shard, total = [], 0
        shard.append((old, new, rows))
        total += size
    yield shard


def _write_config(checkpoint: Checkpoint, count: int, folder: Path, fewer_layers: bool) -> None:
    config = dict(checkpoint.config)
    for key in {checkpoint.family.count, *(set(EXPERT_COUNTS) & set(config))}:
        config[key] = count
    for key in MORE_LAYERS:
        if fewer_layers and key in config:
            config[key] = 0
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
