"""Configs as values: what they hold, copies, required fields, texts and hashes, processes, display."""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
import math
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import nn

from orchard.config import REQUIRED, Config, Configurable


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def double(x: float) -> float:
    return 2 * x


def halve(x: float) -> float:
    return x / 2


class Norm(nn.Module, Configurable):
    class Config(Configurable.Config):
        dim: int = REQUIRED
        eps: float = 1e-6

    def __init__(self, cfg: Norm.Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.gain = nn.Parameter(torch.ones(cfg.dim))


class Feed(Configurable):
    class Config(Configurable.Config):
        dim: int = REQUIRED
        hidden: int = 64
        activation: str = "silu"
        dropout: float = 0.0
        norm: Norm.Config = Norm.Config()


class WideFeed(Feed):
    pass


class Experts(Configurable):
    class Config(Configurable.Config):
        dim: int = REQUIRED
        hidden: int = 32
        activation: str = "gelu"
        num_experts: int = 4
        expert: Feed.Config = Feed.Config()
        norm: Norm.Config = Norm.Config()


class Block(Configurable):
    class Config(Configurable.Config):
        feed: Configurable.Config = Feed.Config()
        norm: Norm.Config = Norm.Config()


class Model(nn.Module, Configurable):
    class Config(Configurable.Config):
        location_fields: ClassVar[tuple[str, ...]] = ("path",)
        dim: int = REQUIRED
        layers: list[Block.Config] = []
        heads: dict[str, Feed.Config] = {}
        norm: Norm.Config | None = Norm.Config(eps=1e-5)
        betas: list[float] = [0.9, 0.95]
        scale: float = 1.0
        colour: Colour = Colour.RED
        function: Callable[[float], float] = double
        mode: Literal["a", "b"] = "a"
        options: dict[str, Any] = {}
        path: str = ""

    def __init__(self, cfg: Model.Config, device: str = "cpu") -> None:
        super().__init__()
        self.cfg, self.device = cfg, device
        self.norm = cfg.norm.set(dim=cfg.dim).build() if cfg.norm else None


class Call(Configurable):
    class Config(Configurable.Config):
        parts: list[int] = [REQUIRED, 2]
        first: int = REQUIRED
        child: Norm.Config = Norm.Config()


def tree(layers: int = 2) -> Model.Config:
    return Model.Config(dim=8, layers=[Block.Config() for _ in range(layers)], heads={"main": Feed.Config()})


# -- classes -------------------------------------------------------------------------------------------------------


def test_nested_config_becomes_a_keyword_only_dataclass_with_an_owner() -> None:
    assert dataclasses.is_dataclass(Feed.Config)
    assert [field.name for field in dataclasses.fields(Feed.Config)][:2] == ["dim", "hidden"]
    assert Feed.Config().owner is Feed
    with pytest.raises(TypeError):
        Feed.Config(8)  # type: ignore[misc]


def test_a_class_without_config_gets_its_own_subclass() -> None:
    assert issubclass(WideFeed.Config, Feed.Config)
    assert WideFeed.Config is not Feed.Config
    assert WideFeed.Config(dim=1).owner is WideFeed
    assert Feed.Config(dim=1).owner is Feed
    assert WideFeed.Config.__qualname__ == "WideFeed.Config"
    assert isinstance(pickle.loads(pickle.dumps(WideFeed.Config(dim=1))), WideFeed.Config)


def test_the_config_of_another_class_is_not_taken_over() -> None:
    class Borrower(Configurable):
        Config = Feed.Config

    assert Feed.Config().owner is Feed
    assert Borrower.Config().owner is Borrower


def test_modules_initialise_in_either_order_of_bases() -> None:
    class Last(Configurable, nn.Module):
        class Config(Configurable.Config):
            dim: int = 3

        def __init__(self, cfg: Any) -> None:
            super().__init__(cfg)
            self.weight = nn.Parameter(torch.zeros(cfg.dim))

    assert len(list(Last.Config().build().parameters())) == 1
    assert len(list(Norm.Config(dim=2).build().parameters())) == 1


def test_mistakes_in_a_config_class_are_found_when_it_is_defined() -> None:
    with pytest.raises(TypeError, match="x has no default"):

        class A(Configurable.Config):
            x: int

    with pytest.raises(TypeError, match="x has no annotation"):

        class B(Configurable.Config):
            x = 3

    with pytest.raises(TypeError, match="hidden has no annotation"):

        class C(Feed.Config):
            hidden = 3

    with pytest.raises(TypeError, match="taken by Config"):

        class D(Configurable.Config):
            build: int = 3

    with pytest.raises(TypeError, match="names nowhere"):

        class E(Configurable.Config):
            location_fields: ClassVar[tuple[str, ...]] = ("nowhere",)

    with pytest.raises(TypeError, match="must inherit"):

        class F(Configurable):
            class Config:
                x: int = 3


def test_a_config_outside_a_configurable_is_a_value_that_cannot_be_built() -> None:
    class Plain(Configurable.Config):
        x: int = 3

    assert Plain(x=4).x == 4
    with pytest.raises(TypeError, match="no owner"):
        Plain().build()


# -- 1: unknown fields ---------------------------------------------------------------------------------------------


def test_unknown_field_is_an_attribute_error_with_close_matches() -> None:
    cfg = Feed.Config()
    with pytest.raises(AttributeError, match=r"no field 'hiden'; did you mean hidden"):
        cfg.set(hiden=3)
    with pytest.raises(AttributeError, match="did you mean hidden"):
        cfg.hiden = 3  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="did you mean hidden"):
        Feed.Config(hiden=3)  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="its fields: dim, hidden"):
        cfg.set(zzz=3)


def test_set_changes_nothing_unless_all_values_are_good() -> None:
    cfg = Feed.Config(hidden=5)
    with pytest.raises(TypeError):
        cfg.set(hidden=6, dropout="x")
    assert cfg.hidden == 5
    assert cfg.set(hidden=6) is cfg


# -- 2: allowed values ---------------------------------------------------------------------------------------------


class Anything(Configurable):
    class Config(Configurable.Config):
        value: Any = None


class Stateful:
    def method(self) -> None: ...


def local_function() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.5,
        "text",
        Colour.RED,
        Feed,
        double,
        Feed.Config(dim=1),
        math.sqrt,
        math.inf,
        {"a": [1, {"b": double}]},
    ],
)
def test_allowed_values(value: Any) -> None:
    cfg = Anything.Config(value=value)
    assert cfg.value == value
    assert json.loads(json.dumps(cfg.to_dict())) == cfg.to_dict()
    assert pickle.loads(pickle.dumps(cfg)) == cfg


BAD = [
    ((1, 2), "use a list"),
    ({1, 2}, "cannot hold"),
    (object(), "cannot hold"),
    (torch.zeros(1), "cannot hold"),
    (torch.zeros(1).numpy()[0], "cannot hold"),
    (Path("x"), "cannot hold"),
    (lambda: 0, "no lambda"),
    (local_function(), "no local"),
    (Stateful().method, "cannot be found again"),
    (math.nan, "NaN"),
    ({1: 2}, "keys are strings"),
    ({"class": 2}, "keys are strings"),
    ({"a.b": 2}, "without a dot"),
]


@pytest.mark.parametrize(("value", "message"), BAD)
def test_other_values_are_refused_at_any_depth_on_every_way_in(value: Any, message: str) -> None:
    cfg = Anything.Config()
    for nested in (value, [value], {"k": [[value]]}):
        with pytest.raises(TypeError, match=message):
            Anything.Config(value=nested)
        with pytest.raises(TypeError, match=message):
            cfg.set(value=nested)
        with pytest.raises(TypeError, match=message):
            cfg.value = nested
    assert cfg.value is None


@pytest.mark.parametrize("use", [Config.build, Config.golden, Config.fingerprint, Config.to_dict, Config.clone])
def test_a_list_edited_in_place_is_checked_again(use: Callable[[Any], Any]) -> None:
    cfg = tree()
    cfg.options = {"a": [1]}
    cfg.options["a"].append((1, 2))
    with pytest.raises(TypeError, match=r"Model.Config.options.a.1 = \(1, 2\) is a tuple.*use a list"):
        use(cfg)
    cfg = tree()
    cfg.betas.append("x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="betas"):
        use(cfg)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("dim", "8", "int"),
        ("dim", True, "int"),
        ("dim", 8.0, "int"),
        ("dim", None, "int"),
        ("scale", "1", "float"),
        ("scale", True, "float"),
        ("betas", [0.1, "x"], "list"),
        ("betas", 0.1, "list"),
        ("norm", Feed.Config(), "Norm.Config"),
        ("layers", [Norm.Config()], "Block.Config"),
        ("heads", {"a": 3}, "Feed.Config"),
        ("colour", "RED", "Colour"),
        ("function", 3, "Callable"),
        ("mode", "c", "Literal"),
        ("path", 3, "str"),
    ],
)
def test_wrong_type_names_config_field_value_and_expected_type(field: str, value: Any, expected: str) -> None:
    with pytest.raises(TypeError) as error:
        tree().set(**{field: value})
    for part in (f"Model.Config.{field}", repr(value), expected, type(value).__qualname__):
        assert part in str(error.value)


def test_an_int_becomes_a_float_only_where_a_float_is_expected() -> None:
    cfg = tree().set(scale=2, betas=[1, 2])
    assert (type(cfg.scale), [type(b) for b in cfg.betas]) == (float, [float, float])
    assert cfg.fingerprint() == tree().set(scale=2.0, betas=[1.0, 2.0]).fingerprint()

    class Both(Configurable.Config):
        either: float | int = 1

    assert type(Both(either=3).either) is int


def test_an_annotation_that_cannot_be_resolved_is_not_checked() -> None:
    class Local: ...

    class Odd(Configurable.Config):
        x: Local = 3  # type: ignore[assignment]

    assert Odd(x="anything").x == "anything"  # type: ignore[arg-type]


# -- 3: copies -----------------------------------------------------------------------------------------------------


def test_what_is_set_is_copied() -> None:
    sizes, child = [1.0, 2.0], Norm.Config(dim=1)
    cfg = Model.Config(dim=1, betas=sizes, norm=child)
    cfg.heads = (heads := {"a": Feed.Config()})
    sizes.append(3.0)
    child.dim = 2
    heads["a"].hidden = 1
    assert (cfg.betas, cfg.norm.dim, cfg.heads["a"].hidden) == ([1.0, 2.0], 1, 64)  # type: ignore[union-attr]


def test_defaults_are_not_shared() -> None:
    one, two = Model.Config(), Model.Config()
    one.betas.append(0.5)
    one.norm.eps = 0.5  # type: ignore[union-attr]
    assert two.betas == [0.9, 0.95]
    assert two.norm is not None
    assert two.norm.eps == 1e-5
    assert Model.Config().norm == two.norm


def test_one_object_set_at_many_places_is_many_objects() -> None:
    block = Block.Config()
    cfg = Model.Config(dim=1, layers=[block] * 3)
    cfg.layers[0].norm.eps = 0.5
    assert [layer.norm.eps for layer in cfg.layers] == [0.5, 1e-6, 1e-6]


def test_build_works_on_a_private_copy() -> None:
    cfg = tree()
    model = cfg.build(device="meta")
    assert model.device == "meta"
    assert model.cfg is not cfg
    assert cfg.norm.dim is REQUIRED  # type: ignore[union-attr]  # the parent pushed into its own copy
    model.cfg.layers[0].feed.hidden = 1
    assert cfg.layers[0].feed.hidden == 64  # type: ignore[attr-defined]


@pytest.mark.parametrize("copied", [Config.clone, copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_are_equal_independent_and_remember_what_was_set(copied: Callable[[Any], Any]) -> None:
    cfg = tree().set(scale=1.0)  # set, to its default
    new = copied(cfg)
    assert new == cfg
    assert new._explicit == cfg._explicit >= {"dim", "scale"}
    new.layers[0].feed.hidden = 3
    new.set(betas=[])
    assert new != cfg
    assert cfg.layers[0].feed.hidden == 64  # type: ignore[attr-defined]
    assert "betas" not in cfg._explicit


def test_equality_is_by_type_and_value() -> None:
    assert Feed.Config(dim=1) == Feed.Config(dim=1)
    assert Feed.Config(dim=1) != WideFeed.Config(dim=1)
    assert Anything.Config(value=1) != Anything.Config(value=True)
    assert Anything.Config(value=1) != Anything.Config(value=1.0)
    assert Feed.Config() == Feed.Config()  # REQUIRED on both sides
    with pytest.raises(TypeError, match="unhashable"):
        hash(Feed.Config())


# -- 4: required fields and build ----------------------------------------------------------------------------------


def test_build_names_all_own_fields_that_are_unset_and_leaves_children_to_the_owner() -> None:
    with pytest.raises(ValueError, match=r"Call.Config.build: required but not set: parts.0, first$"):
        Call.Config().build()
    assert Call.Config().missing() == ["parts.0", "first", "child.dim"]
    assert Call.Config(first=1, parts=[]).build().cfg.child.dim is REQUIRED


def test_missing_lists_the_whole_tree() -> None:
    assert tree(1).missing() == [
        "layers.0.feed.dim",
        "layers.0.feed.norm.dim",
        "layers.0.norm.dim",
        "heads.main.dim",
        "heads.main.norm.dim",
        "norm.dim",
    ]


def test_runtime_arguments_may_not_shadow_fields() -> None:
    with pytest.raises(TypeError, match="scale"):
        tree().build(scale=3.0)


def test_required_refuses_to_be_used() -> None:
    uses: list[Callable[[], Any]] = [
        lambda: bool(REQUIRED),
        lambda: REQUIRED + 1,
        lambda: 2 * REQUIRED,
        lambda: REQUIRED // 2,
        lambda: REQUIRED < 1,
        lambda: REQUIRED == 1,
        lambda: REQUIRED(),
        lambda: REQUIRED[0],
        lambda: list(REQUIRED),
        lambda: int(REQUIRED),
        lambda: range(REQUIRED),
    ]
    for use in uses:
        with pytest.raises(TypeError, match="before it was set"):
            use()
    assert repr(REQUIRED) == "REQUIRED"
    assert copy.deepcopy(REQUIRED) is REQUIRED
    assert pickle.loads(pickle.dumps(REQUIRED)) is REQUIRED


# -- 6: texts and hashes -------------------------------------------------------------------------------------------

GOLDEN = """\
betas: [0.9, 0.95]
class: {module}:Model.Config
colour: {module}:Colour.RED
dim: 8
function: {module}:double
heads.main.activation: "silu"
heads.main.class: {module}:Feed.Config
heads.main.dim: REQUIRED
heads.main.dropout: 0.0
heads.main.hidden: 64
heads.main.norm.class: {module}:Norm.Config
heads.main.norm.dim: REQUIRED
heads.main.norm.eps: 1e-06
layers: []
mode: "a"
norm: null
options: {{"a": [1, true], "b": inf}}
path: "here"
scale: 1.0
"""


def golden_example() -> Model.Config:
    return tree(0).set(norm=None, options={"b": math.inf, "a": [1, True]}, path="here")


def test_golden_text() -> None:
    assert golden_example().golden() == GOLDEN.format(module=__name__)


def test_golden_and_fingerprint_are_the_same_in_another_process() -> None:
    here = golden_example()
    code = "import test_config as t; c = t.golden_example(); print(c.fingerprint()); print(c.golden(), end='')"
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        out = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parent, env=env, capture_output=True, text=True, check=True
        ).stdout
        assert out.replace("test_config:", f"{__name__}:") == f"{here.fingerprint()}\n{here.golden()}"


def test_golden_has_no_addresses_and_natural_order() -> None:
    text = tree(12).golden()
    assert not re.search(r"0x[0-9a-f]+| at ", text)
    assert text.index("layers.2.class") < text.index("layers.10.class")


def test_fingerprint_is_sha256_of_everything_but_locations() -> None:
    cfg = tree()
    assert re.fullmatch(r"[0-9a-f]{64}", cfg.fingerprint())
    assert cfg.clone().set(path="elsewhere").fingerprint() == cfg.fingerprint()
    assert cfg.clone().set(path="elsewhere") != cfg
    assert "elsewhere" in cfg.clone().set(path="elsewhere").golden()
    changes: list[dict[str, Any]] = [
        {"dim": 9},
        {"scale": 1.0000000000000002},
        {"function": halve},
        {"colour": Colour.BLUE},
        {"norm": None},
        {"layers": []},
        {"dim": REQUIRED},
    ]
    prints = {cfg.clone().set(**change).fingerprint() for change in changes}
    assert len(prints | {cfg.fingerprint()}) == len(changes) + 1
    assert Feed.Config().fingerprint() != WideFeed.Config().fingerprint()


def test_fingerprint_does_not_depend_on_how_the_values_came_in() -> None:
    one = Anything.Config(value={"a": 1, "b": 2})
    two = Anything.Config().set(value={"b": 2, "a": 1})
    assert one.fingerprint() == two.fingerprint()
    assert Feed.Config().fingerprint() == Feed.Config(hidden=64).fingerprint()


def test_values_that_print_alike_hash_apart() -> None:
    values = [1, 1.0, True, "1", [1], None, "null", double, f"{__name__}:double", Feed, Feed.Config(), math.inf, "inf"]
    prints = [Anything.Config(value=value).fingerprint() for value in values]
    assert len(set(prints)) == len(values)


def test_location_fields_are_inherited() -> None:
    class More(Model.Config):
        location_fields: ClassVar[tuple[str, ...]] = ("cache",)
        cache: str = ""

    assert set(More.location_fields) == {"path", "cache"}


def test_to_dict_is_json_with_classes() -> None:
    tree_ = tree(1).to_dict()
    assert tree_["class"] == f"{__name__}:Model.Config"
    assert tree_["layers"][0]["feed"]["class"] == f"{__name__}:Feed.Config"
    assert tree_["function"] == {"class": "function", "name": f"{__name__}:double"}
    assert json.loads(json.dumps(tree_, allow_nan=False)) == tree_


def test_a_local_class_has_no_stable_name() -> None:
    class Local(Configurable):
        pass

    with pytest.raises(TypeError, match="cannot be found again"):
        Local.Config().fingerprint()


# -- 7: processes --------------------------------------------------------------------------------------------------


def fingerprint_of(cfg: Config) -> str:
    return cfg.fingerprint()


def test_configs_travel_to_forked_workers() -> None:
    configs = [tree(n).set(dim=n + 1) for n in range(3)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(fingerprint_of, configs) == [cfg.fingerprint() for cfg in configs]


# -- 8: display ----------------------------------------------------------------------------------------------------


def test_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(Feed.Config(dim=8, norm=Norm.Config(eps=0.1))) == "Feed.Config(dim=8, norm=Norm.Config(eps=0.1))"


def test_html_is_a_collapsible_escaped_tree() -> None:
    text = tree(2).set(path="<script>")._repr_html_()
    assert text.startswith("<details open><summary>")
    assert text.count("<details") == text.count("</details>") == 14  # root, layers with 2 × 4, heads with 2, norm
    assert "<script>" not in text
    assert "<b>dim</b> = 8" in text
    assert "<b>scale</b>" not in text
