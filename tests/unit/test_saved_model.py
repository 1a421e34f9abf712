"""Saved models: bit-equal after reloading, nothing pickled, complete or absent, and one message for everything that can
be wrong with a folder."""

from __future__ import annotations

import enum
import json
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchard.config import REQUIRED, Config, Configurable
from orchard.data import BPETokenizer, ByteTokenizer, LocalText, Tokenizer
from orchard.nn import Attention, Block, Decoder, FeedForward
from orchard.papers.rattention.method.models import arm
from orchard.runs import Finished, Run, Store
from orchard.train import TextModel, TrainLM, load_model, load_saved, save_model
from orchard.train.lm import load_tokenizer
from orchard.train.losses import next_token_loss
from orchard.train.saved import SavedModelError, config_of


def tiny(name: str = "rattn@4", vocab_size: int = 257, tokenizer: Tokenizer | None = None, **fields: Any) -> TextModel:
    cfg = arm(
        name, dim=16, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=8, ffn_dim=24, vocab_size=vocab_size, **fields
    )
    return TextModel(cfg, cfg.build().eval(), tokenizer or ByteTokenizer.Config().build(), {"about": "a test"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model."""
    return save_model(tmp_path / "deep" / "model", tiny())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "fields"),
    [("rattn@4", {}), ("rattn@4", {"use_learned_init": True, "use_qk_scale": True, "tie_embeddings": True}), ("la", {}),
     ("full_rope", {})],
)  # fmt: skip
def test_bit_equal_after_reloading(tmp_path: Path, name: str, fields: dict[str, Any], dtype: torch.dtype) -> None:
    saved = tiny(name, **fields)
    saved.model.to(dtype)
    state = torch.random.get_rng_state()
    loaded = load_saved(save_model(tmp_path / "model", saved))
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody's random numbers were used
    tokens = torch.randint(0, 257, (2, 30))
    assert torch.equal(loaded.model(tokens), saved.model(tokens))
    assert (loaded.config, dict(loaded.notes)) == (saved.config, {"about": "a test"})
    assert not loaded.model.training
    assert all(p.requires_grad and p.dtype == dtype for p in loaded.model.parameters())
    assert loaded.complete("def f", 8, 1.0, seed=3) == saved.complete("def f", 8, 1.0, seed=3)


def corpus(folder: Path) -> LocalText.Config:
    """Small documents, enough to split."""
    folder.mkdir()
    for i in range(80):
        (folder / f"{i}.txt").write_text(f"document {i}: " + "the cat sat on the mat, the cat sat again. " * 9)
    return LocalText.Config(path=str(folder))


def test_a_trained_tokenizer_goes_along(tmp_path: Path) -> None:
    source = corpus(tmp_path / "text")
    tokenizer = BPETokenizer.Config(vocab_size=270).build(source=source.build())
    folder = save_model(tmp_path / "model", tiny(vocab_size=270, tokenizer=tokenizer))
    shutil.rmtree(tmp_path / "text")
    loaded = load_saved(folder).tokenizer
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert loaded.encode("the cat on a mat") == tokenizer.encode("the cat on a mat")
    assert (loaded.decode(range(270)), loaded.bos) == (tokenizer.decode(range(270)), 269)


def test_readable_without_the_library(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    assert content["format"] == "orchard language model 1"
    assert content["model"]["layers"][0]["attention"]["window"] == 3
    assert content["tokenizer"] == {"class": "orchard.data.tokenizer:ByteTokenizer.Config"}
    assert load_file(folder / "model.safetensors")["embedding.weight"].shape == (257, 16)


def test_the_model_of_a_run(tmp_path: Path) -> None:
    """A run's folder is plain files: made by hand here, training is tested elsewhere."""
    fields: dict[str, Any] = {"seq_len": 8, "batch_size": 1, "steps": 1}
    cfg = TrainLM.Config(model=tiny().config.set(vocab_size=REQUIRED), source=corpus(tmp_path / "text"), **fields)
    trained = tiny().model
    run = tmp_path / "0123456789abcdef"
    run.mkdir()
    save_file(trained.state_dict(), run / "model.safetensors")
    (run / "result.json").write_text('{"loss": 2.5}')
    (run / "status.json").write_text('{"label": "rattn@4 seed 0"}')
    (run / "config.json").write_text(json.dumps(cfg.to_dict()))
    assert TextModel.of_run(Finished(run)).config == tiny().config  # what `orchard runs save` does
    loaded = load_saved(save_model(tmp_path / "model", TextModel.of_run(Finished(run), cfg)))
    assert dict(loaded.notes) == {"run": run.name, "label": "rattn@4 seed 0", "seq_len": 8, "result": {"loss": 2.5}}
    assert loaded.config == tiny().config
    tokens = torch.randint(0, 257, (1, 20))
    assert torch.equal(loaded.model(tokens), trained(tokens))


def test_the_tokenizer_of_a_run_is_the_one_it_trained_with(tmp_path: Path) -> None:
    """As on a machine that imported the run: the corpus is another one here, or none."""
    layer = Block.Config(attention=Attention.Config(num_heads=2), feed_forward=FeedForward.Config(hidden_dim=16))
    cfg = TrainLM.Config(
        model=Decoder.Config(dim=8, layers=[layer]), source=corpus(tmp_path / "text"), tokenizer=BPETokenizer.Config(vocab_size=270),
        seq_len=8, batch_size=4, steps=1, eval_windows=2,
    )  # fmt: skip
    done = Store(tmp_path / "store").compute(cfg, "cpu")
    text = "the cat on a mat"
    trained = cfg.tokenizer.build(source=cfg.source.build()).encode(text)
    for file in (tmp_path / "text").iterdir():
        file.write_text(f"{file.name}: " + "zebras zip past zigzag zones " * 12)
    assert cfg.tokenizer.build(source=cfg.source.build()).encode(text) != trained
    assert TextModel.of_run(done).tokenizer.encode(text) == trained
    shutil.rmtree(tmp_path / "text")
    assert TextModel.of_run(done).tokenizer.encode(text) == trained
    assert load_model(done, cfg).vocab_size == 270


def test_a_run_without_its_tokenizer_says_that_it_is_trained_anew(tmp_path: Path) -> None:
    cfg = TrainLM.Config(
        model=tiny().config, source=corpus(tmp_path / "text"), tokenizer=BPETokenizer.Config(vocab_size=270), seq_len=8,
        batch_size=1, steps=1,
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"keeps no tokenizer\.json: its tokenizer is trained anew"):
        tokenizer = load_tokenizer(Finished(tmp_path), cfg)
    assert tokenizer.encode("the cat") == cfg.tokenizer.build(source=cfg.source.build()).encode("the cat")
    cfg.set(tokenizer=ByteTokenizer.Config())
    shutil.rmtree(tmp_path / "text")
    assert load_tokenizer(Finished(tmp_path), cfg).vocab_size == 257  # needs no corpus, and no warning


def test_a_run_that_trained_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(Run.Config().to_dict()))
    (tmp_path / "status.json").write_text('{"label": "a sum"}')
    with pytest.raises(SavedModelError, match=r"\(a sum\) is a Run\.Config: it trained no language model"):
        TextModel.of_run(Finished(tmp_path))


def test_completion_ends_with_the_document() -> None:
    saved = tiny()
    with torch.no_grad():
        saved.model.head.weight.zero_()
        saved.model.head.weight[saved.tokenizer.bos] = saved.model.features(saved.encode("ab"))[0, -1]
    assert saved.complete("ab", 50) == ""
    assert saved.encode("ab").tolist() == [[256, 97, 98]]


def test_a_saved_model_is_replaced_and_nothing_else_is_touched(folder: Path, tmp_path: Path) -> None:
    other = tiny("swa@4")
    save_model(folder, other)
    assert load_saved(folder).config == other.config
    for name, content in (("notes", "mine"), ("config.json", "{}")):
        mine = tmp_path / f"with {name}"
        mine.mkdir()
        (mine / name).write_text(content)
        with pytest.raises(SavedModelError, match="holds no saved model: choose another folder"):
            save_model(mine, other)
        assert [(p.name, p.read_text()) for p in mine.iterdir()] == [(name, content)]
    (tmp_path / "file").touch()
    with pytest.raises(SavedModelError, match="choose another folder"):
        save_model(tmp_path / "file", other)
    (tmp_path / "empty").mkdir()
    assert load_saved(save_model(tmp_path / "empty", other)).config == other.config


def test_a_failure_leaves_no_half_written_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchard.train.saved.write", full)
    for target in (folder, folder.with_name("new")):
        with pytest.raises(OSError, match="No space"):
            save_model(target, tiny("swa@4"))
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def edited(folder: Path, change: Any) -> None:
    """Change config.json, in which nothing protects the configs themselves."""
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.safetensors", r"model\.safetensors is missing: copy the whole folder"),
     ("config.json", r"no saved model at .*config\.json is missing")],
)  # fmt: skip
def test_missing_files(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(SavedModelError, match=message):
        load_saved(folder)


def test_damaged_files(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-5], whole[:-1] + b"\0", b""):
        weights.write_bytes(damaged)
        with pytest.raises(SavedModelError, match=r"model\.safetensors is damaged .*copy it again"):
            load_saved(folder)
    (folder / "config.json").write_text((folder / "config.json").read_text()[:200])
    with pytest.raises(SavedModelError, match=r"config\.json cannot be read"):
        load_saved(folder)


def rehashed(folder: Path) -> None:
    """Make config.json agree with the files, as somebody would who edits a model by hand."""
    import hashlib

    data = (folder / "model.safetensors").read_bytes()
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edited(folder, lambda content: content["files"].update({"model.safetensors": entry}))


def test_weights_that_do_not_fit_the_config(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"head.weight": torch.zeros(3, 16)}, path)
    rehashed(folder)
    message = r"model\.safetensors does not fit its config: 1 tensors differ, the first is 'head.weight', \(3, 16\) .* \(257, 16\)"
    with pytest.raises(SavedModelError, match=message):
        load_saved(folder)
    save_file({name: value for name, value in weights.items() if name != "norm.gain"} | {"more": torch.zeros(1)}, path)
    rehashed(folder)
    with pytest.raises(SavedModelError, match=r"2 tensors differ, the first is 'more', \(1,\) instead of absent"):
        load_saved(folder)
    path.write_bytes(b"not safetensors at all")
    rehashed(folder)
    with pytest.raises(SavedModelError, match=r"model\.safetensors cannot be read"):
        load_saved(folder)


class Side(enum.Enum):
    LEFT, RIGHT = 1, 2


class Foreign(Configurable):
    """A part that is not of the library."""

    class Config(FeedForward.Config):
        pass


def planted(**values: Any) -> Any:
    return lambda content: content["model"].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (planted(**{"class": "os:system"}), r"model names 'os:system', .* not read .* of the modules orchard\.\*"),
        (planted(norm={"class": "subprocess:Popen", "args": ["true"]}), r"model\.norm names 'subprocess:Popen'"),
        (planted(norm={"class": "function", "name": "builtins:eval"}), r"names 'builtins:eval', and classes of builtins are not"),
        (planted(norm={"class": "orchard.paths:root"}), r"'orchard\.paths:root', which this version"),
        (planted(norm={"class": "orchard.train.saved:os.system"}), r"'orchard\.train\.saved:os\.system', which this"),
        (planted(norm={"class": "orchard.nn.norm:Nothing"}), r"'orchard\.nn\.norm:Nothing', which this version"),
        (planted(norm={"class": "orchard.nn.norm:RMSNorm.Config", "epsilon": 1}), r"model\.norm does not fit.*epsilon"),
        (planted(dim="wide"), r"model does not fit this version.*dim = 'wide'"),
        (planted(layers=[]), r"cannot be built: .*layers is empty"),
        (planted(vocab_size=300), r"tensors differ, the first is 'embedding\.weight'"),
        (lambda c: c.update(model=c["tokenizer"]), r"describes no decoder"),
        (lambda c: c.update(format="another"), r"not of the format 'orchard language model 1'"),
        (lambda c: c.pop("tokenizer"), r"lacks tokenizer"),
        (lambda c: c["files"].update({"../x": {}}), r"its files are \['\.\./x', 'model\.safetensors'\]"),
    ],
)  # fmt: skip
def test_configs_that_are_refused(folder: Path, change: Any, message: str) -> None:
    edited(folder, change)
    with pytest.raises(SavedModelError, match=message):
        load_saved(folder)


def test_a_model_that_loading_would_refuse_is_not_saved(tmp_path: Path) -> None:
    layer = Block.Config(attention=Attention.Config(num_heads=2), feed_forward=Foreign.Config(hidden_dim=4))
    cfg = Decoder.Config(vocab_size=257, dim=8, layers=[layer])
    with pytest.raises(SavedModelError, match=r"Foreign\.Config', and classes of .* are not read"):
        save_model(tmp_path / "model", TextModel(cfg, tiny().model, ByteTokenizer.Config().build()))
    other = tiny("swa@4")
    with pytest.raises(SavedModelError, match="the model does not fit its config"):
        save_model(tmp_path / "model", TextModel(other.config, tiny().model, other.tokenizer))
    assert not list(tmp_path.iterdir())


class Kinds(Configurable):
    """Has a field of every kind that JSON lacks."""

    class Config(Configurable.Config):
        side: Side = Side.LEFT
        loss: Any = next_token_loss
        most: float = float("inf")
        size: int = REQUIRED


def test_enums_functions_and_infinities_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Kinds.Config(side=Side.RIGHT)
    with pytest.raises(SavedModelError, match=r"Side\.RIGHT', and classes of .* are not read"):
        config_of(cfg.to_dict())
    name = "orchard.kinds_of_a_test"
    for defined in (Kinds.Config, Side):
        monkeypatch.setattr(defined, "__module__", name)
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(Kinds=Kinds, Side=Side))
    back = config_of(json.loads(json.dumps(cfg.to_dict())))
    assert (back.side, back.loss, back.most, back.missing()) == (Side.RIGHT, next_token_loss, math.inf, ["size"])


@pytest.mark.parametrize("name", ["rattn@4", "la", "full_rope"])
def test_config_of_is_the_inverse_of_to_dict(name: str) -> None:
    cfg = tiny(name).config
    back = config_of(json.loads(json.dumps(cfg.to_dict())))
    assert isinstance(back, Config)
    assert back == cfg
    assert back.fingerprint() == cfg.fingerprint()
