"""Configs as trees: swapping parts, modifiers and their conflicts, rules, configs of code that knows none."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from test_config import Anything, Block, Call, Experts, Feed, Model, Norm, WideFeed, double, tree
from torch import nn

from orchard.config import REQUIRED, Chain, Config, Modifier, derive, fn_config, replace, select


def test_walk_gives_paths_and_live_containers() -> None:
    cfg = tree(1)
    hits = {path: (node, container, key) for path, node, container, key in cfg.walk()}
    blocks = ["layers.0", "layers.0.feed", "layers.0.feed.norm", "layers.0.norm"]
    assert list(hits) == ["", *blocks, "heads.main", "heads.main.norm", "norm"]
    assert hits["layers.0"][1] is cfg.layers
    assert hits["layers.0"][2] == 0
    assert hits["heads.main"][1] is cfg.heads
    assert hits["norm"][0] is cfg.norm
    assert [path for path, *_ in cfg.walk(Feed)] == ["layers.0.feed", "heads.main"]


def test_one_object_at_two_places_is_reported() -> None:
    cfg = tree(0)
    block = Block.Config()
    cfg.layers.extend([block, block])
    with pytest.raises(ValueError, match=r"at 'layers.0' and 'layers.1'.*clone"):
        list(cfg.walk())


def test_flat_and_diff() -> None:
    cfg = tree(1)
    flat = cfg.flat()
    assert (flat["layers.0.class"], flat["layers.0.feed.hidden"], flat["betas"]) == (Block.Config, 64, [0.9, 0.95])
    other = cfg.clone().set(norm=None, scale=2.0)
    assert cfg.diff(cfg) == {}
    assert cfg.diff(other) == {
        "norm": (None, "null"),
        "norm.class": (f"{Norm.__module__}:Norm.Config", None),
        "norm.dim": ("REQUIRED", None),
        "norm.eps": ("1e-05", None),
        "scale": ("1.0", "2.0"),
    }


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
    assert (named.hidden, named.activation) == (128, "gelu")
    assert named.dim is REQUIRED
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
    class Nest(Feed):
        class Config(Feed.Config):
            inner: Feed.Config = Feed.Config()

    cfg = Block.Config(feed=Nest.Config())
    with pytest.warns(UserWarning, match=r"inside one that was swapped: feed.inner$"):
        assert replace(cfg, Feed, Experts.Config()) == ["feed"]


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


HOOK = object()


class Optimizer:
    def __init__(self, params: list[int], lr: float = 0.1, betas: tuple[float, float] = (0.9, 0.99), hook: Any = HOOK):
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
    assert made.hook is HOOK  # its own default
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
