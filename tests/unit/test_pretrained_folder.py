"""Folders of models that others made: known by their contents, read quietly and without pickle, written as the original loads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchard.errors import BadInput
from orchard.pretrained import folder as pretrained
from orchard.pretrained.folder import (
    BASE,
    check_new,
    companions,
    copy_files,
    load_config,
    load_model,
    load_tokenizer,
    model_folder,
    model_shape,
    new_folder,
    quiet,
    save_tokenizer,
    tokenizer_files,
    tokenizer_sha256,
)

CHAT = [{"role": "user", "content": "hi"}]
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer with two chat templates, as published ones have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    made.chat_template = {"default": TEMPLATE, "tool": TEMPLATE.upper()}
    made.save_pretrained(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=264, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=64,
    )  # fmt: skip
    with quiet():
        LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


def ids(tokenizer: Any) -> list[list[int]]:
    """Of every special token in text, and of a chat."""
    chat = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=True)["input_ids"]
    return [list(chat), *(tokenizer(text)["input_ids"] for text in ("<s>", "a</s>b", "plain text"))]


# --- what a folder holds -------------------------------------------------------------------------------------------


def test_a_folder_is_its_files_and_not_its_place(folder: Path, tmp_path: Path) -> None:
    first = model_folder(folder)
    assert model_folder(shutil.copytree(folder, tmp_path / "other")).sha256 == first.sha256
    assert model_folder(shutil.copytree(folder, tmp_path / "again")).fingerprint() == first.fingerprint()
    (folder / "README.md").write_text("about")
    assert model_folder(folder) == first
    for name in ("config.json", "model.safetensors", "chat_template.jinja", "additional_chat_templates/tool.jinja"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before + b" ")
        assert model_folder(folder).sha256 != first.sha256, name
        (folder / name).write_bytes(before)
    assert model_folder(folder) == first


def test_the_files_of_a_tokenizer(folder: Path) -> None:
    names = ["additional_chat_templates/tool.jinja", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    assert tokenizer_files(folder) == names
    before = tokenizer_sha256(folder)
    for name in ("spiece.model", "vocab.json", "tokenizer.pkl", "tokenizer_code.py", "notes.txt"):
        (folder / name).write_text("x")
    (folder / "tokenizer").mkdir()
    assert set(tokenizer_files(folder)) - set(names) == {"spiece.model", "vocab.json"}
    assert tokenizer_sha256(folder) != before
    assert tokenizer_files(folder / "tokenizer") == []


def test_what_goes_along_with_a_model_and_what_never_does(folder: Path, tmp_path: Path) -> None:
    own = ["LICENSE", "README.md", "generation_config.json", "modeling_own.py", "templates/chat.jinja"]
    along = [*own, *tokenizer_files(folder)]
    never = [
        *(
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "onnx/config.json",
            "runs/events.out.tfevents.1.host.0",
            "runs/hparams.yaml",
        ),
        *(
            "checkpoint-500/optimizer.0.distcp",
            "checkpoint-500/trainer_state.json",
            "pruned/config.json",
            "pruned/deep/model.safetensors",
        ),
        *(
            "trainer_state.json",
            "model.safetensors.index.json",
            "optimizer.pt",
            "rng_state.pth",
            "training_args.bin",
            "model.gguf",
        ),
        *("adapter_model.safetensors", ".cache/x.json", ".gitattributes", "tokenizer.pkl"),
    ]
    for name in [*along, *never]:
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
    assert companions(folder) == sorted(along)
    (tmp_path / "far").write_text("linked")
    (folder / "NOTICE").symlink_to(tmp_path / "far")
    copy_files(companions(folder), folder, tmp_path / "out")
    copied = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert copied == {*along, "NOTICE"}
    assert not (tmp_path / "out" / "NOTICE").is_symlink()
    assert (tmp_path / "out" / "NOTICE").read_text() == "linked"


# --- loading -------------------------------------------------------------------------------------------------------


def test_models_load_quietly(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = load_model(folder)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in load_model(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}
    base = load_model(folder, BASE)
    tokens = torch.arange(5)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.lm_head(base(tokens).last_hidden_state), model(tokens).logits)
    shape = model_shape(folder)
    assert {p.device.type for p in shape.parameters()} == {"meta"}
    assert [tuple(p.shape) for p in shape.parameters()] == [tuple(p.shape) for p in model.parameters()]
    assert load_config(folder).hidden_size == 16
    load_tokenizer(folder)
    with quiet():
        model.save_pretrained(folder / "again")
    assert capfd.readouterr() == ("", "")


def test_special_tokens_in_text(folder: Path) -> None:
    assert load_tokenizer(folder)("<s>")["input_ids"] == [ord(c) - 33 for c in "<s>"]
    assert load_tokenizer(folder, split_special_tokens=False)("<s>")["input_ids"] == [256]


def test_folders_that_hold_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"'owner/name' is no folder on this disk .*if this is the id of a model on a hub"
    ):
        model_folder("owner/name")
    with pytest.raises(BadInput, match=r"is no folder on this disk \(looked for .*none\): give the folder"):
        load_tokenizer(tmp_path / "none")
    weights = folder / "model.safetensors"
    some = {name: value for name, value in load_file(weights).items() if "q_proj" not in name}
    save_file(some, weights, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"lacks 1 weights of its LlamaForCausalLM, .*q_proj.weight among them: copy it"):
        load_model(folder)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BadInput, match=r"model holds no causal language model that transformers can load \("):
        load_model(folder)
    torch.save({}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(
        BadInput, match=r"holds no weights \(\*\.safetensors\): .*pickled weights \(\*\.bin\) are not read"
    ):
        model_folder(folder)
    with pytest.raises(BadInput, match="holds no causal language model that transformers can load"):
        load_model(folder)
    (folder / "config.json").write_text('{"model_type": "nobody"}')
    for call in (load_config, model_shape):
        with pytest.raises(BadInput, match=r"holds no config.json that transformers knows"):
            call(folder)
    (folder / "config.json").unlink()
    with pytest.raises(BadInput, match=r"holds no model: config\.json is missing"):
        model_folder(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(BadInput, match="holds no tokenizer that transformers can load"):
        load_tokenizer(folder)
    for name in tokenizer_files(folder):
        (folder / name).unlink()
    with pytest.raises(BadInput, match=r"holds no tokenizer .*copy the files of the tokenizer there"):
        load_tokenizer(folder)


# --- writing -------------------------------------------------------------------------------------------------------


def test_a_tokenizer_is_written_as_it_was(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    wanted = ids(AutoTokenizer.from_pretrained(folder))
    loaded = load_tokenizer(folder)
    loaded("some text", truncation=True, max_length=3)  # use is no change
    save_tokenizer(loaded, tmp_path / "out")
    assert tokenizer_files(tmp_path / "out") == tokenizer_files(folder)
    assert all(
        (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes() for name in tokenizer_files(folder)
    )
    assert ids(AutoTokenizer.from_pretrained(tmp_path / "out")) == wanted


@pytest.mark.parametrize("case", ["tokens were added", "the folder is gone", "saved by the reader"])
def test_arguments_of_loading_are_not_saved(case: str, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    wanted, out = ids(AutoTokenizer.from_pretrained(folder)), tmp_path / "out"
    loaded = load_tokenizer(folder)
    if case == "tokens were added":
        loaded.add_tokens(["<new>"])
    elif case == "the folder is gone":
        loaded = AutoTokenizer.from_pretrained(folder, split_special_tokens=True, local_files_only=True)
        folder.rename(tmp_path / "moved")
    if case == "saved by the reader":
        loaded.save_pretrained(out)
    else:
        save_tokenizer(loaded, out)
    assert not set(json.loads((out / "tokenizer_config.json").read_text())) & set(pretrained.LOADING)
    again = AutoTokenizer.from_pretrained(out)
    assert ids(again) == wanted
    assert ("<new>" in again.get_vocab()) == (case == "tokens were added")
    assert again.chat_template == {"default": TEMPLATE, "tool": TEMPLATE.upper()}


@pytest.mark.usefixtures("umask")
def test_a_new_folder_appears_complete_and_for_all_to_read(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "out") as part:
        (part / "sub").mkdir()
        save_file({"a": torch.zeros(1)}, part / "sub" / "a.safetensors")
        (part / "b.json").write_text("{}")
        assert not (tmp_path / "deep" / "out").exists()
    files = [path for path in (tmp_path / "deep").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o664}
    assert len(files) == 2
    with pytest.raises(BadInput, match="out exists: choose a new folder, it is left alone"):
        check_new(tmp_path / "deep" / "out")
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as part:
        (part / "b.json").write_text("{}")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["b.json"]


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    def write(fails: bool) -> None:
        with new_folder(tmp_path / "out") as part:
            (part / "b.json").write_text("{}")
            if fails:
                raise KeyboardInterrupt
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").touch()

    with pytest.raises(KeyboardInterrupt):
        write(fails=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadInput, match="out exists: choose a new folder, it is left alone"):
        write(fails=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file cannot be made \(.*\): choose another folder"):
        check_new(tmp_path / "file" / "x")
