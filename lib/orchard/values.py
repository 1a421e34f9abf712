"""The values a config may hold: which are allowed, which fit an annotation, how they are walked, printed and compared.

Allowed are None, bool, int, float, str, Enum members, classes, functions, configs, and lists and dicts of these: what
prints, compares and hashes alike in every process. This is the ground under ``orchard.config``; import that.
"""

from __future__ import annotations

import enum
import json
import math
import re
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, ClassVar, Literal


class _Required:
    """The value of a field that must be set. Computing with it is an error, never a wrong number."""

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("a REQUIRED config field was used before it was set; cfg.missing() lists the unset fields")

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __call__ = __getitem__ = __iter__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __neg__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __int__ = __float__ = __index__ = _refuse
    __len__ = _refuse
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return "REQUIRED"

    __reduce__ = __repr__  # pickles and copies as the one object of this module


REQUIRED: Any = _Required()
MAIN = ("__main__", "__mp_main__")
_PLAIN = frozenset({types.NoneType, bool, int, float, str})
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


class Node:
    """What is known here of a config: its fields, and how to copy it. ``config.Config`` is the one subclass."""

    location_fields: ClassVar[tuple[str, ...]] = ()
    owner: ClassVar[Any] = None

    def clone(self) -> Any:
        raise NotImplementedError

    def _items(self) -> list[tuple[str, Any]]:
        raise NotImplementedError

    def _kind(self) -> Any:
        raise NotImplementedError


def is_code(value: Any) -> bool:
    """Whether a value is a class or a function."""
    return isinstance(value, _CODE)


def name_of(value: Any) -> str:
    """``module:qualname`` of a class or function. Raises TypeError unless that name leads back to this very object.

    The script that is running is ``__main__``, also in a worker process, where it has another name.
    """
    module, qualname = getattr(value, "__module__", None) or "", getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if "<" in qualname or found is None or found != value:
        raise TypeError(
            f"{value!r} cannot be found again as {module}:{qualname}; "
            "use a function or class defined at the top level of a module (no lambda, no local, no wrapper)"
        )
    return f"{MAIN[0] if module in MAIN else module}:{qualname}"


def copied(value: Any, place: str) -> Any:
    """A deep copy of an allowed value. TypeError that names ``place`` for any other, however deeply nested."""
    if isinstance(value, Node):
        return value.clone()
    if type(value) is list:
        return [copied(item, f"{place}.{i}") for i, item in enumerate(value)]
    if type(value) is dict:
        wrong = [key for key in value if type(key) is not str or not re.fullmatch(r"[^.\n]+", key) or key == "class"]
        if wrong:
            raise TypeError(f"{place} has the key {wrong[0]!r}; keys are strings without a dot, other than 'class'")
        return {key: copied(item, f"{place}.{key}") for key, item in value.items()}
    if type(value) is float and math.isnan(value):
        raise TypeError(f"{place} is NaN, which does not equal itself; use None")
    if value is None or value is REQUIRED or isinstance(value, enum.Enum) or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, _CODE):
        try:
            name_of(value)
        except TypeError as error:
            raise TypeError(f"{place}: {error}") from None
        return value
    advice = "use a list" if isinstance(value, tuple) else "convert it (.item(), list(), str(), a Config)"
    raise TypeError(
        f"{place} = {value!r} is a {type(value).__name__}, which a config cannot hold: {advice}. Allowed: None, bool, "
        "int, float, str, Enum, class, function, Config, and lists and dicts of these"
    )


def plain_types(hint: Any) -> frozenset[type]:
    """The types of immutable values that fit an annotation as they are: nothing to copy, to convert or to look into."""
    arms = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return frozenset({types.NoneType if arm is None else arm for arm in arms} & _PLAIN)


def fitted(value: Any, hint: Any) -> Any:
    """``value`` if it fits the annotation (an int becomes a float where only that is expected); else TypeError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if value is REQUIRED or hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for arm in sorted(args, key=lambda arm: arm is float):  # float last: an int stays one where both are allowed
            try:
                return fitted(value, arm)
            except TypeError:
                continue
        raise TypeError
    if origin is list and isinstance(value, list):
        return [fitted(item, args[0]) for item in value]
    if origin is dict and isinstance(value, dict):
        return {key: fitted(item, args[1]) for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if origin is Literal:
        good = any(same(value, option) for option in args)
    elif hint is None or hint is int:
        good = value is None if hint is None else isinstance(value, int) and not isinstance(value, bool)
    else:
        try:
            good = isinstance(value, origin or hint)
        except TypeError:  # an annotation that isinstance does not know is documentation only
            good = True
    if not good:
        raise TypeError
    return value


def children(value: Any) -> list[tuple[str, Any, Any]]:
    """(part of a path, key, child) of what a config, list or dict holds."""
    if isinstance(value, Node):
        return [(name, name, child) for name, child in value._items()]
    if isinstance(value, list):
        return [(str(i), i, child) for i, child in enumerate(value)]
    return [(key, key, child) for key, child in value.items()] if isinstance(value, dict) else []


def nodes(value: Any, path: str = "", container: Any = None, key: Any = None, own: bool = False) -> Iterator[tuple]:
    """(path, value, container, key) of a value and all it holds, parents first; ``own``: nothing inside a config."""
    yield path, value, container, key
    if not (own and isinstance(value, Node)):
        for part, index, child in children(value):
            yield from nodes(child, f"{path}.{part}".lstrip("."), value, index, own)


def configs_in(value: Any) -> list[Any]:
    return [node for _, node, *_ in nodes(value) if isinstance(node, Node)]


def code_in(value: Any) -> list[Any]:
    """Classes and functions in a value: those that its configs and enum members are made of, and those that are values themselves."""
    found: list[Any] = []
    for _, item, *_ in nodes(value):
        if isinstance(item, Node):
            found += [item._kind(), item.owner] if item.owner is not None else [item._kind()]
        elif isinstance(item, enum.Enum):
            found.append(type(item))
        elif is_code(item):
            found.append(item)
    return found


def natural(path: str) -> list[tuple[bool, int | str]]:
    return [(not part.isdecimal(), int(part) if part.isdecimal() else part) for part in path.split(".")]


def text_of(value: Any) -> str:
    """A leaf as one line, the same in every process: JSON, but classes, functions and enum members as bare names."""
    if isinstance(value, list):
        return f"[{', '.join(map(text_of, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)}: {text_of(value[key])}' for key in sorted(value))}}}"
    plain = canonical(value, location=True)
    return plain["name"] if isinstance(plain, dict) else json.dumps(plain)


def canonical(value: Any, location: bool) -> Any:
    """JSON values. What JSON lacks becomes {"class": ..., "name": ...}, which no dict in a config can look like."""
    if isinstance(value, Node):
        items = [item for item in sorted(value._items()) if location or item[0] not in value.location_fields]
        return {"class": name_of(value._kind()), **{name: canonical(child, location) for name, child in items}}
    if isinstance(value, list):
        return [canonical(item, location) for item in value]
    if isinstance(value, dict):
        return {key: canonical(value[key], location) for key in sorted(value)}
    if isinstance(value, enum.Enum):
        return {"class": "enum", "name": f"{name_of(type(value))}.{value.name}"}
    if isinstance(value, _CODE):
        return {"class": "type" if isinstance(value, type) else "function", "name": name_of(value)}
    if value is REQUIRED:
        return {"class": "required", "name": "REQUIRED"}
    return {"class": "float", "name": repr(value)} if isinstance(value, float) and math.isinf(value) else value


def same(a: Any, b: Any) -> bool:
    """Equal in type and value all the way down (1, 1.0 and True differ)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (Node, list, dict)):
        ours, theirs = ({key: child for _, key, child in children(value)} for value in (a, b))
        return ours.keys() == theirs.keys() and all(same(child, theirs[key]) for key, child in ours.items())
    return a is b or bool(a == b)
