"""Checkpoints of Hugging Face with mixtures of experts, read layer by layer: sections 5 and 10 of the specification.

A checkpoint is a folder: `config.json`, and the weights in one file `model.safetensors` or in shards that
`model.safetensors.index.json` lists. Experts are stored in one of two ways, whatever the model type:

    one by one   model.layers.i.mlp.experts.j.{gate_proj,up_proj,down_proj}.weight, in Mixtral
                 model.layers.i.block_sparse_moe.experts.j.{w1,w3,w2}.weight    (what transformers writes by default)
    fused        model.layers.i.mlp.experts.{gate_up_proj [n, 2f, d], down_proj [n, d, f]}          (as in memory)

with the router in `....gate.weight` [n, d] and, in DeepSeek-V3, `....gate.e_score_correction_bias` [n]; `families` knows where a model
type differs. The model itself is built on the meta device, where it takes no memory; a layer gets its weights from the disk while it
is needed.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from orchard.errors import closest
from orchard.papers.moe_lottery.integrations.families import EXPERT, FAMILIES, HALVES, Family, Mixture, mixtures
from orchard.papers.moe_lottery.method.dropping import ExpertsError
from orchard.pretrained.folder import import_transformers, load_config

LAYER = re.compile(r"model\.layers\.(\d+)\.")
MASK_FILE = "orchard_experts.json"  # which slots are padding, and the original numbers of all of them


@dataclass(frozen=True)
class Stored:
    """A tensor of the checkpoint: the file that holds it, its shape, its type as safetensors calls it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass
class Checkpoint:
    """A checkpoint, checked where there is one. `stored`: tensors by their name on the disk; `sources`: names on the disk by the name
    in the model (several where experts are stored one by one); `model`: the causal language model of `transformers`, on the meta
    device, its `layers` and their `mixtures`; `shapes` of its parameters by name; `originals`: number that the expert in each slot
    of a mixture had in the unpruned model; `padding`: slots never used."""

    folder: Path
    config: dict[str, Any]
    stored: dict[str, Stored]
    model: Any

    def __post_init__(self) -> None:
        self.layers: list[nn.Module] = list(self.model.model.layers)
        parameters = _parameters(self.model, self.layers)
        self.shapes = {name: value.shape for name, value in parameters.items()}
        self.sources = _sources(self, parameters) if self.stored else {}
        self.mixtures = mixtures(self.model)
        self.originals, self.padding = _slots(self)
        stored = self.stored and _dtype(self.stored["model.embed_tokens.weight"].dtype)
        self.dtype: torch.dtype = getattr(self.model.config, "dtype", None) or stored or torch.bfloat16

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @property
    def layout(self) -> str:
        """How experts are stored: "one by one", "fused", or "fused under other names" than in memory."""
        if any(EXPERT.fullmatch(name) for name in self.stored):
            return "one by one"
        return "fused" if self.sources.keys() <= self.stored.keys() else "fused under other names"

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.vocab_size)

    def mixture_of(self, number: int) -> Mixture | None:
        """The mixture in decoder layer `number`, or None where that layer is dense."""
        prefix = f"model.layers.{number}."
        return next((layer for layer in self.mixtures if layer.name.startswith(prefix)), None)

    def bytes(self, prefix: str) -> int:
        """Bytes that the parameters whose names in the model begin so take in memory."""
        numbers = sum(shape.numel() for name, shape in self.shapes.items() if name.startswith(prefix))
        return numbers * self.dtype.itemsize

    def read(self, name: str, device: str | torch.device = "cpu") -> Tensor:
        """A parameter of the model, in the model's type, assembled where experts are stored one by one."""
        keep = self.model._keep_in_fp32_modules_strict
        keep = keep | self.model._keep_in_fp32_modules if self.dtype == torch.float16 else keep
        dtype = torch.float32 if keep.intersection(name.split(".")) else self.dtype
        names = self.sources[name]
        with ExitStack() as stack:
            files = {path: opened(stack, path) for path in {self.stored[source].file for source in names}}
            if EXPERT.fullmatch(names[0]) is None:
                return files[self.stored[names[0]].file].get_tensor(names[0]).to(device, dtype)
            whole = torch.empty(self.shapes[name], dtype=dtype, device=device)
            for source, found in zip(names, map(EXPERT.fullmatch, names), strict=True):
                assert found is not None
                place, half = whole[int(found["expert"])], HALVES.get(found["matrix"])
                rows = place if half is None else place.chunk(2)[half]
                rows.copy_(files[self.stored[source].file].get_tensor(source))
            return whole

    @contextmanager
    def layer(self, number: int, device: str | torch.device = "cpu") -> Iterator[nn.Module]:
        """Decoder layer `number` with its weights, inside the block alone."""
        layer, prefix = self.layers[number], f"model.layers.{number}."
        state = {name.removeprefix(prefix): self.read(name, device) for name in self.sources if name.startswith(prefix)}
        layer.load_state_dict(state, assign=True)
        del state
        try:
            yield layer
        finally:
            layer.to("meta")


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Read what `folder` holds and check that it is a whole checkpoint of a known layout; no weight is read.

    Raises:
        ExpertsError: no checkpoint, a shard that is missing or damaged, a dense model, an unknown model type or layout, a
            quantised checkpoint.
        BadInput: `transformers` is not installed.
    """
    folder = Path(folder).expanduser().resolve()
    if not (folder / "config.json").is_file():
        raise ExpertsError(f"{folder} holds no config.json: give the folder of a Hugging Face checkpoint on this disk")
    config = _json(folder / "config.json")
    stored = _stored(folder)
    kind = config.get("model_type")
    if kind not in FAMILIES:
        if not any(".experts." in name for name in stored):
            raise ExpertsError(
                f"{folder} has the model type {kind!r} and no experts: it is a dense model, and there is nothing to drop"
            )
        raise ExpertsError(
            f"{folder} has the model type {kind!r}, whose layout of experts is not known here: {closest(str(kind), FAMILIES)}"
        )
    if packed := next((name for name in stored if name.endswith(("_proj_blocks", "_proj_scales"))), None):
        raise ExpertsError(
            f"{stored[packed].file} holds {packed}, a tensor of MXFP4: dequantise the checkpoint first, in transformers with "
            "from_pretrained(..., quantization_config=Mxfp4Config(dequantize=True)) and save_pretrained(..., save_original_format=False)"
        )
    if "quantization_config" in config:
        raise ExpertsError(
            f"{folder} is quantised (quantization_config in config.json): scores need the weights in bfloat16, float16 or "
            "float32; give the unquantised checkpoint"
        )
    return Checkpoint(folder, config, stored, _meta(load_config(folder)))


def _meta(config: Any) -> Any:
    """A causal language model on the meta device, except for the angles of its rotary embedding."""
    with torch.device("meta"):
        model = import_transformers().AutoModelForCausalLM.from_config(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    return model.eval()


def of_config(config: Any) -> Checkpoint:
    """A checkpoint that only has a config of `transformers`: its shapes, in bfloat16, without any weight."""
    return Checkpoint(Path(), {"model_type": config.model_type}, {}, _meta(config))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ExpertsError(f"{path} cannot be read as JSON ({error}): copy the checkpoint anew") from None
    if not isinstance(content, dict):
        raise ExpertsError(f"{path} holds no JSON object: copy the checkpoint anew")
    return content


def _stored(folder: Path) -> dict[str, Stored]:
    """Every tensor of the checkpoint, from the heads of its files."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        names = sorted(set(_json(index)["weight_map"].values()))
    elif single.is_file():
        names = [single.name]
    else:
        raise ExpertsError(
            f"{folder} holds neither model.safetensors nor model.safetensors.index.json: only safetensors are read; "
            "load it with transformers and save_pretrained it anew"
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ExpertsError(
            f"{folder} lacks the shard {missing[0]} ({len(missing)} of {len(names)} missing): download it again"
        )
    stored: dict[str, Stored] = {}
    for name in names:
        with ExitStack() as stack:
            file = opened(stack, folder / name)
            for key in file.keys():  # noqa: SIM118  (safe_open is no dictionary)
                part = file.get_slice(key)
                stored[key] = Stored(folder / name, tuple(part.get_shape()), part.get_dtype())
    return stored


def opened(stack: ExitStack, path: Path) -> Any:
    try:
        return stack.enter_context(safe_open(path, framework="pt"))
    except (SafetensorError, OSError) as error:
        raise ExpertsError(f"{path} cannot be read as safetensors ({error}): copy or download it again") from None


def _parameters(model: Any, layers: list[nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers that a checkpoint holds, by name, without an output matrix that is tied to the embedding."""
    found = {name: value for name, value in model.state_dict().items() if not LAYER.match(name)}
    if model.config.tie_word_embeddings:
        found.pop("lm_head.weight", None)
    for number, layer in enumerate(layers):
        found |= {f"model.layers.{number}.{name}": value for name, value in layer.state_dict().items()}
    return found


def beyond(name: str, num_layers: int) -> bool:
    """Whether a tensor belongs to a layer after the last one: those that predict further tokens (DeepSeek-V3), which
    `transformers` leaves out."""
    found = LAYER.match(name)
    return found is not None and int(found[1]) >= num_layers


def _sources(checkpoint: Checkpoint, expected: dict[str, Tensor]) -> dict[str, list[str]]:
    """Names on the disk for every name in the model. ExpertsError where the two do not fit."""
    folder, stored, num_layers = checkpoint.folder, checkpoint.stored, len(checkpoint.layers)
    sources: dict[str, list[str]] = defaultdict(list)
    for name in stored:
        mapped = checkpoint.family.in_model(name)
        if mapped in expected:
            sources[mapped].append(name)
        elif not (beyond(name, num_layers) or name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight"):
            raise ExpertsError(
                f"{folder} holds {name}, which is no tensor of a {checkpoint.model_type} model: its layout is not known here; load it with "
                "transformers and save_pretrained it anew"
            )
    for name, value in expected.items():
        parts, wanted = sources.get(name, []), 1
        one_by_one = bool(parts) and EXPERT.fullmatch(parts[0]) is not None
        if one_by_one:
            wanted = len(value) * (2 if name.endswith("gate_up_proj") else 1)
        if len(parts) != wanted:
            raise ExpertsError(
                f"{folder} holds {len(parts)} of the {wanted} tensors that make {name}: a shard or its entry in the index is missing, or "
                "config.json belongs to another checkpoint"
            )
        rows = value.shape[1] // 2 if name.endswith("gate_up_proj") else value.shape[1] if one_by_one else 0
        shape = (rows, value.shape[2]) if one_by_one else tuple(value.shape)
        if wrong := [part for part in parts if stored[part].shape != shape]:
            raise ExpertsError(
                f"{folder}: {wrong[0]} has the shape {list(stored[wrong[0]].shape)}, the config says {list(shape)}: "
                "config.json belongs to another checkpoint"
            )
    return dict(sources)


def _slots(checkpoint: Checkpoint) -> tuple[list[list[int]], list[list[int]]]:
    """Original numbers of the experts in each slot, and the padding, from the mask file of a pruned checkpoint."""
    path, counts = checkpoint.folder / MASK_FILE, [layer.num_experts for layer in checkpoint.mixtures]
    if not checkpoint.stored or not path.is_file():
        return [list(range(count)) for count in counts], [[] for _ in counts]
    entries = _json(path)["layers"]
    if [len(entry["original"]) for entry in entries] != counts:
        raise ExpertsError(f"{path} does not describe this model: it belongs to another checkpoint")
    return [entry["original"] for entry in entries], [entry["padding"] for entry in entries]


def _dtype(name: str) -> torch.dtype:
    found = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    if name not in found:
        raise ExpertsError(f"weights of type {name} are not read: give a checkpoint in bfloat16, float16 or float32")
    return found[name]
