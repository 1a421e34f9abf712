"""Configs: each of the eight semantics, on small trees of plain classes and of modules."""

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

from orchard.config import (
    REQUIRED,
    Chain,
    Config,
    Configurable,
    Modifier,
    derive,
    fn_config,
    replace,
    select,
)


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


# -- 5: replace and derive -----------------------------------------------------------------------------------------


def test_replace_returns_paths_and_gives_each_place_its_own_copy() -> None:
    cfg = tree(3)
    new = Experts.Config(num_experts=8)
    assert replace(cfg, Feed, new, where="layers.*") == ["layers.0.feed", "layers.1.feed", "layers.2.feed"]
    nodes = [layer.feed for layer in cfg.layers]
    assert all(isinstance(node, Experts.Config) for node in nodes)
    assert len({id(node) for node in [*nodes, new]}) == 4
    nodes[0].num_experts = 2  # type: ignore[attr-defined]
    nodes[0].norm.eps = 0.5  # type: ignore[attr-defined]
    assert (nodes[1].num_experts, nodes[1].norm.eps, new.num_experts) == (8, 1e-6, 8)  # type: ignore[attr-defined]
    assert isinstance(cfg.heads["main"], Feed.Config)


def replaced(old: Feed.Config, new: Config, **options: Any) -> Any:
    cfg = Block.Config(feed=old)
    replace(cfg, Feed, new, **options)
    return cfg.feed


def test_set_values_win_over_carried_ones_which_win_over_defaults() -> None:
    old = Feed.Config(dim=8, hidden=128)
    assert replaced(old, Experts.Config()).hidden == 128  # carried
    assert replaced(old, Experts.Config(hidden=512)).hidden == 512  # set
    assert replaced(old, Experts.Config(hidden=32)).hidden == 32  # set, although to the default
    assert replaced(Feed.Config(), Experts.Config()).activation == "silu"  # carried, although the old default
    assert replaced(Feed.Config(), Experts.Config()).dim is REQUIRED  # unset is not a value to carry
    assert replaced(Feed.Config(), Experts.Config(dim=4)).dim == 4


def test_an_edit_below_the_new_config_counts_as_set() -> None:
    old = Feed.Config(norm=Norm.Config(eps=0.1))
    assert replaced(old, Experts.Config()).norm.eps == 0.1
    new = Experts.Config()
    new.norm.eps = 1e-6
    assert replaced(old, new).norm.eps == 1e-6


def test_carry_modes() -> None:
    old = Feed.Config(dim=8, hidden=128, activation="relu")
    required = replaced(old, Experts.Config(), carry="required")
    assert (required.dim, required.hidden, required.activation) == (8, 32, "gelu")
    named = replaced(old, Experts.Config(), carry=("hidden",))
    assert (named.dim, named.hidden, named.activation) == (REQUIRED, 128, "gelu") or named.dim is REQUIRED
    assert (named.hidden, named.activation) == (128, "gelu")
    with pytest.raises(ValueError, match="carry names nothing"):
        replaced(old, Experts.Config(), carry=("nothing",))
    with pytest.raises(ValueError, match="carry='all'"):
        replaced(old, Experts.Config(), carry="all")


def test_a_value_that_would_be_lost_is_an_error_unless_dropped() -> None:
    old = Feed.Config(dim=8, dropout=0.1)
    with pytest.raises(ValueError, match=r"no field for dropout=0.1 of Feed.Config.*drop="):
        replaced(old, Experts.Config())
    assert replaced(old, Experts.Config(), drop=("dropout",)).dim == 8
    assert replaced(old.set(hidden=1), Experts.Config(), drop=("dropout", "hidden")).hidden == 32  # not carried either
    with pytest.raises(ValueError, match="drop names dropuot"):
        replaced(old, Experts.Config(), drop=("dropuot",))
    with pytest.raises(TypeError, match="tuple of field names"):
        replaced(old, Experts.Config(), drop="dropout")


def test_no_match_and_unexpected_number_of_matches_are_errors_that_say_where_it_is() -> None:
    cfg = tree()
    with pytest.raises(ValueError, match="nowhere"):
        replace(cfg, Call, Experts.Config())
    with pytest.raises(
        ValueError, match=r"where 'stack.\*': 0 matches, .* at: layers.0.feed, layers.1.feed, heads.main"
    ):
        replace(cfg, Feed, Experts.Config(), where="stack.*")
    before = cfg.golden()
    with pytest.raises(ValueError, match="2 matches, not 3"):
        replace(cfg, Feed, Experts.Config(), where="layers.*", expect=3)
    assert cfg.golden() == before
    assert len(replace(cfg, Feed, Experts.Config(), where="layers.*", expect=2)) == 2


def test_where_is_a_glob_over_the_dotted_path() -> None:
    cfg = tree(12)
    assert replace(cfg, Feed, WideFeed.Config(), where="layers.1[0-9].*") == ["layers.10.feed", "layers.11.feed"]
    assert replace(cfg, Feed, WideFeed.Config(), where="heads.*") == ["heads.main"]
    assert replace(cfg, Norm, Norm.Config(eps=0.1), where="norm") == ["norm"]
    assert cfg.norm is not None
    assert cfg.norm.eps == 0.1


def test_only_the_outermost_of_nested_matches_is_swapped_and_the_others_are_reported() -> None:
    class Nest(Configurable):
        class Config(Feed.Config):
            inner: Feed.Config = Feed.Config()

    cfg = Block.Config(feed=Nest.Config())
    with pytest.warns(UserWarning, match=r"inside one that was swapped: feed.inner"):
        assert replace(cfg, Configurable, Experts.Config(), where="feed*", drop=("inner",)) == ["feed"]


def test_subclasses_match_unless_exact() -> None:
    cfg = Model.Config(dim=1, layers=[Block.Config(feed=WideFeed.Config()), Block.Config()])
    assert replace(cfg.clone(), Feed, Experts.Config()) == ["layers.0.feed", "layers.1.feed"]
    assert replace(cfg.clone(), Feed, Experts.Config(), exact=True) == ["layers.1.feed"]
    assert replace(cfg.clone(), WideFeed, Experts.Config()) == ["layers.0.feed"]


def test_a_replacement_that_does_not_fit_leaves_the_tree_as_it_was() -> None:
    cfg = tree()
    before, nodes = cfg.golden(), [id(node) for _, node, _, _ in cfg.walk()]
    with pytest.raises(TypeError, match=r"Model.Config.heads.*expected"):
        replace(cfg, Feed, Experts.Config())  # fits in the blocks, not in heads
    assert cfg.golden() == before
    assert [id(node) for _, node, _, _ in cfg.walk()] == nodes


def test_the_root_is_not_replaced_in_place() -> None:
    with pytest.raises(ValueError, match="derive"):
        replace(Feed.Config(), Feed, Experts.Config())


def test_derive_takes_shared_fields_and_the_delta_wins() -> None:
    src = Feed.Config(dim=8, hidden=128)
    new = derive(src, Experts, hidden=16, num_experts=2)
    assert (type(new), new.dim, new.hidden, new.num_experts, new.activation) == (Experts.Config, 8, 16, 2, "silu")
    assert derive(src, Experts.Config(hidden=7)).hidden == 7
    assert derive(src, Experts.Config).hidden == 128
    assert new.norm is not src.norm
    with pytest.raises(ValueError, match="dropout"):
        derive(src.set(dropout=0.5), Experts)
    assert derive(src, Experts, drop=("dropout",)).hidden == 128
    with pytest.raises(AttributeError, match="num_experts"):
        derive(src, Experts, num_expert=2)


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
options: {{"a": [1, true], "b": Infinity}}
path: "here"
scale: 1.0
"""


def golden_example() -> Model.Config:
    return tree(0).set(norm=None, options={"b": math.inf, "a": [1, True]}, path="here")


def test_golden_text() -> None:
    assert golden_example().golden() == GOLDEN.format(module=__name__).replace("Infinity", "inf")


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


def test_flat_and_diff() -> None:
    cfg = tree(1)
    flat = cfg.flat()
    assert (flat["layers.0.class"], flat["layers.0.feed.hidden"], flat["betas"]) == (Block.Config, 64, [0.9, 0.95])
    other = cfg.clone().set(norm=None, scale=2.0)
    assert cfg.diff(cfg) == {}
    assert cfg.diff(other) == {
        "norm": (None, "null"),
        "norm.class": (f"{__name__}:Norm.Config", None),
        "norm.dim": ("REQUIRED", None),
        "norm.eps": ("1e-05", None),
        "scale": ("1.0", "2.0"),
    }


def test_a_local_class_has_no_stable_name() -> None:
    class Local(Configurable):
        pass

    with pytest.raises(TypeError, match="cannot be found again"):
        Local.Config().fingerprint()


def test_walk_gives_paths_and_live_containers() -> None:
    cfg = tree(1)
    hits = {path: (node, container, key) for path, node, container, key in cfg.walk()}
    assert list(hits) == ["", "layers.0", "layers.0.feed", "layers.0.feed.norm", "layers.0.norm", "heads.main"] + [
        "heads.main.norm",
        "norm",
    ]
    assert hits["layers.0"][1] is cfg.layers
    assert hits["layers.0"][2] == 0
    assert hits["heads.main"][1] is cfg.heads
    assert hits["norm"][0] is cfg.norm
    assert [path for path, *_ in cfg.walk(Feed)] == ["layers.0.feed", "heads.main"]


def test_one_object_at_two_places_is_reported() -> None:
    cfg = tree(0)
    block = Block.Config()
    cfg.layers += [block, block]
    with pytest.raises(ValueError, match=r"at 'layers.0' and 'layers.1'.*clone"):
        replace(cfg, Feed, Experts.Config())


# -- 7: processes --------------------------------------------------------------------------------------------------


def fingerprint_of(cfg: Config) -> str:
    return cfg.fingerprint()


def test_configs_travel_to_forked_workers() -> None:
    configs = [tree(n).set(dim=n + 1) for n in range(3)]
    # Forked from a fresh interpreter would be slower; nothing here holds a lock while forking.
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(fingerprint_of, configs) == [cfg.fingerprint() for cfg in configs]


# -- 8: display ----------------------------------------------------------------------------------------------------


def test_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(Feed.Config(dim=8, norm=Norm.Config(eps=0.1))) == "Feed.Config(dim=8, norm=Norm.Config(eps=0.1))"


def test_html_is_a_collapsible_escaped_tree() -> None:
    text = tree(2).set(path="<script>")._repr_html_()
    assert text.startswith("<details open><summary>")
    assert text.count("<details") == text.count("</details>") == 11  # root, layers, heads and eight configs
    assert "<script>" not in text
    assert "<b>dim</b> = 8" in text
    assert "<b>scale</b>" not in text


# -- modifiers -----------------------------------------------------------------------------------------------------


class Put(Modifier):
    class Config(Modifier.Config):
        values: dict[str, Any] = {}

    def __call__(self, cfg: Config) -> Config:
        return cfg.set(**self.cfg.values)


class Forget(Modifier):
    def __call__(self, cfg: Config) -> Config:
        return None  # type: ignore[return-value]


class Swap(Modifier):
    def __call__(self, cfg: Config) -> Config:
        replace(cfg, Feed, Experts.Config(), where="layers.*")
        return cfg


def test_chain_applies_in_order_to_a_copy_and_logs_who_wrote_what() -> None:
    cfg = tree(1)
    chain = Chain.Config(
        modifiers=[Put.Config(values={"dim": 16}), Swap.Config(), Put.Config(values={"scale": 2.0})]
    ).build()
    out = chain(cfg)
    assert (out.dim, out.scale, type(out.layers[0].feed)) == (16, 2.0, Experts.Config)
    assert cfg == tree(1)
    assert ("0:Put", "dim", "8", "16") in chain.writes
    assert ("1:Swap", "layers.0.feed.num_experts", None, "4") in chain.writes
    assert ("2:Put", "scale", "1.0", "2.0") in chain.writes


def test_two_modifiers_that_write_one_path_differently_conflict() -> None:
    cfg = tree(1)
    clash = Chain.Config(modifiers=[Put.Config(values={"dim": 16}), Put.Config(values={"dim": 32})])
    with pytest.raises(ValueError, match=r"0:Put and 1:Put both write dim: 16 and 32"):
        clash.build()(cfg)
    back = Chain.Config(modifiers=[Put.Config(values={"dim": 16}), Put.Config(values={"dim": 8})])
    with pytest.raises(ValueError, match="both write dim"):
        back.build()(cfg)
    assert clash.set(allow_override=True).build()(cfg).dim == 32
    agree = Chain.Config(modifiers=[Put.Config(values={"dim": 16}), Put.Config(values={"dim": 16})])
    assert agree.build()(cfg).dim == 16
    assert cfg == tree(1)


def test_modifiers_that_return_nothing_or_do_nothing_are_errors() -> None:
    with pytest.raises(TypeError, match="0:Forget returned None"):
        Chain.Config(modifiers=[Forget.Config()]).build()(tree())
    with pytest.raises(NotImplementedError, match="Modifier"):
        Modifier.Config().build()(tree())


def test_select_takes_the_first_full_match() -> None:
    rules = [("gpu-(h100|h200)", 1), ("gpu-.*", 2), ("cpu", Put.Config())]
    assert [select(rules, key) for key in ("gpu-h100", "gpu-b200")] == [1, 2]
    assert select(rules, "cpu") == rules[2][1]
    assert select(rules, "cpu") is not rules[2][1]
    with pytest.raises(KeyError, match="cpu-2"):
        select(rules, "cpu-2")


# -- code that knows no Config -------------------------------------------------------------------------------------


class Optimizer:
    def __init__(
        self, params: list[int], lr: float = 0.1, betas: tuple[float, float] = (0.9, 0.99), hook: Any = object()
    ):
        self.params, self.lr, self.betas, self.hook = params, lr, betas, hook


def call(*args: int, x: int = 1, **kwargs: Any) -> dict[str, Any]:
    return {"x": x, **kwargs}


def positional(a: int, /) -> int:
    return a


def test_fn_config_makes_fields_of_the_parameters() -> None:
    cfg = fn_config(Optimizer, lr=0.5)
    assert cfg.missing() == ["params"]
    assert cfg.betas == [0.9, 0.99]
    made = cfg.build(params=[1])
    assert (made.params, made.lr, made.betas) == ([1], 0.5, (0.9, 0.99))
    assert type(made.hook) is object  # its own default
    assert cfg.set(params=[2]).build().params == [2]
    with pytest.raises(ValueError, match="params"):
        fn_config(Optimizer).build()
    with pytest.raises(TypeError, match="lr: set in the config already"):
        cfg.build(lr=0.1)
    with pytest.raises(AttributeError, match="did you mean lr"):
        fn_config(Optimizer, lrr=1.0)
    assert "class: " + f"{__name__}:Optimizer" in cfg.golden()


def test_fn_config_passes_extra_arguments_only_where_they_are_taken() -> None:
    cfg = fn_config(call, extra=3)
    assert cfg.build(more=4) == {"x": 1, "extra": 3, "more": 4}
    assert pickle.loads(pickle.dumps(cfg)) == cfg == copy.deepcopy(cfg)
    assert pickle.loads(pickle.dumps(cfg))._explicit == {"extra"}
    with pytest.raises(TypeError, match="no lambda"):
        fn_config(lambda: 0)
    with pytest.raises(TypeError, match="by position only"):
        fn_config(positional)


def test_fn_config_builds_the_configs_inside_and_is_found_by_its_callable() -> None:
    cfg = Anything.Config(value=[fn_config(call, x=2)])
    assert fn_config(call, inner=[fn_config(double, x=2.0)]).build() == {"x": 1, "inner": [4.0]}
    assert replace(cfg, call, fn_config(Optimizer), drop=("x",)) == ["value.0"]
    assert cfg.value[0].owner is Optimizer
    assert fn_config(Optimizer, lr=1.0).fingerprint() != fn_config(Optimizer, lr=2.0).fingerprint()


def test_fn_config_on_torch() -> None:
    layer = nn.Linear(2, 2)
    optimiser = fn_config(torch.optim.AdamW, lr=0.5).build(params=layer.parameters())
    assert optimiser.param_groups[0]["lr"] == 0.5
    assert fn_config(nn.Linear, in_features=2, out_features=3).build().weight.shape == (3, 2)
