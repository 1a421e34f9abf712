"""Values of configs: what code they name, and trees that become configs again."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any

import pytest

from orchard.config import REQUIRED, Config, Configurable, fn_config
from orchard.values import code_in


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


def double(x: float) -> float:
    return 2 * x


class Part(Configurable):
    class Config(Configurable.Config):
        size: float = 1.0


class Whole(Configurable):
    class Config(Configurable.Config):
        colour: Colour = Colour.RED
        call: Callable[[float], float] = double
        kind: type = Part
        limit: float = math.inf
        parts: list[Part.Config] = []
        table: dict[str, Any] = {}
        needed: int = REQUIRED


FULL = Whole.Config(
    colour=Colour.BLUE,
    call=math.sqrt,
    limit=-math.inf,
    parts=[Part.Config(size=2.5)],
    table={"a": [1, None, {"b": Part.Config()}]},
)


def everywhere(module: str) -> bool:
    return True


def test_the_code_in_a_value() -> None:
    found = code_in(FULL)
    assert {Whole, Whole.Config, Part, Part.Config, Colour, math.sqrt} == set(found)
    assert code_in([Colour.RED, {"a": double}]) == [Colour, double]
    assert double in code_in(fn_config(double))
    assert code_in([1, "x", None]) == []


def test_a_tree_becomes_the_config_it_was_made_from() -> None:
    for cfg in (FULL, Whole.Config(), Whole.Config(needed=3)):
        assert Config.from_dict(cfg.to_dict(), everywhere) == cfg
    assert Config.from_dict([{"a": 1}, None], everywhere) == [{"a": 1}, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"class": "os:system"}, "config names 'os:system', and classes of os are not read from a file"),
     ({"call": {"class": "function", "name": "os:system"}}, r"config\.call names 'os:system', and classes of os"),
     ({"colour": {"class": "enum", "name": f"{__name__}:Colour.GREEN"}}, r"config\.colour names .*GREEN', which"),
     ({"colour": {"class": "enum", "name": f"{__name__}:double"}}, "which this version does not have"),
     ({"kind": {"class": "type", "name": f"{__name__}:double"}}, "which this version does not have"),
     ({"kind": {"class": "type", "name": f"{__name__}.absent:X"}}, "which this version does not have"),
     ({"class": f"{__name__}:Part"}, "which is no config"), ({"class": 3}, "classes of 3 are not read"),
     ({"parts": [{"class": f"{__name__}:Part.Config", "width": 1}]}, r"config\.parts\.0 does not fit .*has no field 'width'"),
     ({"limit": "much"}, "does not fit this version of .*expected")],
)  # fmt: skip
def test_a_tree_that_is_no_config_names_the_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.from_dict(FULL.to_dict() | change, lambda module: module.startswith((__name__, "math")))
