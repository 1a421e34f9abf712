"""Checkpoints that cannot be read: one message each, that names the value, the place and the fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchard.papers.moe_lottery.integrations.checkpoint import open_checkpoint
from orchard.papers.moe_lottery.integrations.tiny import save_tiny, tiny_model
from orchard.papers.moe_lottery.method.dropping import ExpertsError


def edit(**changes: Any) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))

    return harm


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def without_weights(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()


def without_shard(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def cut(folder: Path) -> None:
    file = sorted(folder.glob("model-*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-100])


def without_tensor(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        save_file({n: v for n, v in load_file(file).items() if "layers.1.mlp.experts.3.up_proj" not in n}, file)


def other_names(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        save_file({name.replace("gate_proj", "gate_matrix"): value for name, value in load_file(file).items()}, file)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without_config, "holds no config.json: give the folder of a Hugging Face checkpoint"),
        (broken_config, "cannot be read as JSON"),
        (without_weights, "only safetensors are read"),
        (without_shard, r"lacks the shard model-00002-of-\d+.safetensors \(1 of \d+ missing\): download it again"),
        (cut, "cannot be read as safetensors"),
        (without_tensor, r"holds 15 of the 16 tensors that make model.layers.1.mlp.experts.gate_up_proj"),
        (
            edit(model_type="llama4_text"),
            "type 'llama4_text', whose layout of experts is not known here: known: deepseek_v2, .*gpt_oss, .*phimoe",
        ),
        (other_names, r"gate_matrix.*no tensor of a olmoe model: its layout is not known"),
        (edit(quantization_config={"quant_method": "fp8"}), "is quantised"),
        (edit(intermediate_size=25), r"has the shape \[24, 32\], the config says \[25, 32\]"),
        (edit(num_experts=9), r"gate.weight has the shape \[8, 32\], the config says \[9, 32\]"),
    ],
)
def test_checkpoints_that_cannot_be_read(harm: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    save_tiny(tmp_path, "olmoe")
    harm(tmp_path)
    with pytest.raises(ExpertsError, match=message):
        open_checkpoint(tmp_path)


def test_mxfp4(tmp_path: Path) -> None:
    """Blocks of 32 weights in 16 bytes, as OpenAI published gpt-oss. What `transformers` makes of them on the way that the message
    names is read; without the last argument it is not, by `transformers` itself either."""
    from transformers import AutoModelForCausalLM, Mxfp4Config

    folder = save_tiny(tmp_path / "m", "gpt_oss", hidden_size=64, intermediate_size=32)
    for file in folder.glob("*.safetensors"):
        content = load_file(file)
        for name in [n for n in content if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
            n, inner, outer = content.pop(name).shape
            content[f"{name}_blocks"] = torch.randint(0, 256, (n, outer, inner // 32, 16), dtype=torch.uint8)
            content[f"{name}_scales"] = torch.full((n, outer, inner // 32), 125, dtype=torch.uint8)
        save_file(content, file, metadata={"format": "pt"})
    for file in folder.glob("*.index.json"):
        index = {n: f.name for f in folder.glob("*.safetensors") for n in load_file(f)}
        file.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    edit(quantization_config={"quant_method": "mxfp4"})(folder)
    message = r"/model-\d+-of-\d+.safetensors holds .*_blocks, a tensor of MXFP4: dequantise the checkpoint first"
    with pytest.raises(ExpertsError, match=message):
        open_checkpoint(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=Mxfp4Config(dequantize=True))
    model.save_pretrained(tmp_path / "whole", save_original_format=False)
    whole = open_checkpoint(tmp_path / "whole")
    name = "model.layers.1.mlp.experts.down_proj"
    assert torch.equal(whole.read(name), model.state_dict()[name].to(whole.dtype))


def test_a_dense_checkpoint(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ExpertsError, match="'llama' and no experts: it is a dense model, and there is nothing to drop"):
        open_checkpoint(tmp_path)


def test_a_type_that_is_known_but_has_no_expert(tmp_path: Path) -> None:
    save_tiny(tmp_path, "qwen3_moe", mlp_only_layers=[0, 1, 2])
    with pytest.raises(ExpertsError, match="it is a dense model, and there is nothing to drop"):
        open_checkpoint(tmp_path)


def test_a_tiny_model_of_an_unknown_type() -> None:
    with pytest.raises(ExpertsError, match="no tiny model of the type 'llama': choose one of mixtral, "):
        tiny_model("llama")
