"""Configs: typed, nested values that know which class they build (design after AXLearn §3.1, arXiv 2507.05411).

A component is a class with a nested ``Config``; ``cfg.build()`` makes the component from a private copy of the config:

    class Linear(nn.Module, Configurable):
        class Config(Configurable.Config):        # becomes a keyword-only dataclass by itself
            dim: int = REQUIRED                   # must be set before build(); a parent pushes it down
            norm: RMSNorm.Config = RMSNorm.Config()   # mutable defaults are copied for each instance

        def __init__(self, cfg: Linear.Config):
            super().__init__()
            self.norm = cfg.norm.set(dim=cfg.dim).build()

    layer = Linear.Config(dim=8).build()

Configs are values: whatever is set on one is checked and copied, so that editing one never changes another. They hold
None, bool, int, float, str, Enum members, classes, functions, configs, and lists and dicts of these: what can be
printed, compared and hashed the same way in every process. ``golden()`` is the sorted text, ``fingerprint()`` the
SHA-256. ``replace`` swaps a part of any tree, ``Chain`` applies modifiers and refuses conflicting writes.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import enum
import fnmatch
import functools
import hashlib
import html
import inspect
import json
import math
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Self, dataclass_transform

__all__ = ["REQUIRED", "Chain", "Config", "Configurable", "Modifier", "derive", "fn_config", "replace", "select"]


class _Required:
    """The value of a field that must be set. Using it in any computation is an error, never a wrong number."""

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("a REQUIRED config field was used before it was set; cfg.missing() lists the unset fields")

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __call__ = __getitem__ = __iter__ = __len__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __neg__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __int__ = __float__ = __index__ = _refuse
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return "REQUIRED"

    def __reduce__(self) -> str:
        return "REQUIRED"  # pickles and copies as the one object of this module


REQUIRED: Any = _Required()


def _name(value: Any) -> str:
    """``module:qualname`` of a class or function. Raises TypeError unless importing that name gives this very object."""
    module, qualname = getattr(value, "__module__", None) or "", getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if "<" in qualname or found is None or found != value:
        raise TypeError(
            f"{value!r} cannot be found again as {module}:{qualname}; "
            "use a function or class defined at the top level of a module (no lambda, no local, no wrapper)"
        )
    return f"{module}:{qualname}"


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def _copied(value: Any, place: str) -> Any:
    """A deep copy of an allowed value; TypeError naming ``place`` for any other, however deeply nested."""
    if value is None or value is REQUIRED or type(value) in (bool, int, str) or isinstance(value, enum.Enum):
        return value
    if type(value) is float:
        if math.isnan(value):
            raise TypeError(f"{place} is NaN, which is not equal to itself; use None")
        return value
    if isinstance(value, Config):
        return value.clone()
    if type(value) is list:
        return [_copied(item, f"{place}.{i}") for i, item in enumerate(value)]
    if type(value) is dict:
        for key in value:
            if type(key) is not str or key == "class":
                raise TypeError(f"{place} has the key {key!r}; keys are strings other than 'class'")
        return {key: _copied(item, f"{place}.{_segment(key)}") for key, item in value.items()}
    if isinstance(value, (type, *_FUNCTIONS)):
        try:
            _name(value)
        except TypeError as error:
            raise TypeError(f"{place}: {error}") from None
        return value
    hint = {tuple: "use a list", set: "use a sorted list"}.get(type(value), "convert it (.item(), str(), a Config)")
    raise TypeError(
        f"{place} = {value!r} is a {type(value).__name__}, which a config cannot hold: {hint}. Allowed: None, bool, "
        "int, float, str, Enum, class, function, Config, and lists and dicts of these"
    )


def _segment(key: str) -> str:
    """A dict key as a part of a dotted path."""
    return key if re.fullmatch(r"[^.\s\[\]\"]+", key) else f"[{json.dumps(key)}]"


class _Mismatch(Exception):
    pass


def _fitted(value: Any, hint: Any) -> Any:
    """``value`` if it has the annotated type (an int becomes a float where one is expected), else raises _Mismatch."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if value is REQUIRED or hint is Any or isinstance(hint, (str, typing.TypeVar)):
        return value
    if origin in (typing.Union, types.UnionType):
        for arm in sorted(args, key=lambda arm: arm is float):  # float last: an int stays one where both are allowed
            try:
                return _fitted(value, arm)
            except _Mismatch:
                continue
        raise _Mismatch
    if origin is Literal:
        good = any(value == option and type(value) is type(option) for option in args)
    elif origin is list and isinstance(value, list):
        return [_fitted(item, args[0]) for item in value]
    elif origin is dict and isinstance(value, dict):
        return {key: _fitted(item, args[1]) for key, item in value.items()}
    elif hint is None:
        good = value is None
    elif hint is float:
        if type(value) is int:
            return float(value)
        good = isinstance(value, float)
    elif hint is int:
        good = isinstance(value, int) and not isinstance(value, bool)
    else:
        try:
            good = isinstance(value, origin or hint)
        except TypeError:  # an annotation that isinstance does not know is documentation only
            good = True
    if not good:
        raise _Mismatch
    return value


@dataclass_transform(kw_only_default=True)
@dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=True)
class Config:
    """Base of every config; subclasses become keyword-only dataclasses by themselves (see the module's text)."""

    owner: ClassVar[Any] = None  # the class (or callable) that build() calls
    location_fields: ClassVar[tuple[str, ...]] = ()  # say where something lies, not what it is: not in fingerprint()
    __no_type_check__ = True  # run-time checkers leave the constructor alone: REQUIRED is no int, and we check ourselves
    _explicit: ClassVar[set[str]]  # held by each instance: the names the caller set, as opposed to defaults
    _fields: ClassVar[dict[str, dataclasses.Field[Any]]] = {}
    _hints: ClassVar[dict[str, Any]] = {}  # annotations as objects, filled when first needed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        annotations = inspect.get_annotations(cls)
        for name, value in vars(cls).items():
            ignored = name in cls._fields or not (callable(value) or hasattr(value, "__get__"))
            if ignored and name not in annotations and name != "location_fields" and not name.startswith("_"):
                raise TypeError(f"{cls.__qualname__}.{name} has no annotation and would be ignored; write {name}: <type>")
        for name in [name for name, hint in annotations.items() if "ClassVar" not in str(hint)]:
            if name.startswith("_") or hasattr(Config, name):
                raise TypeError(f"{cls.__qualname__}.{name}: the name is taken by Config itself; choose another")
            if name not in vars(cls) and name not in cls._fields:
                raise TypeError(f"{cls.__qualname__}.{name} has no default; write {name}: {annotations[name]} = REQUIRED")
            default = vars(cls).get(name, cls._fields.get(name))
            if isinstance(default, dataclasses.Field):  # written out, or inherited under a narrower annotation
                made = dataclasses.field(default=default.default, default_factory=default.default_factory)  # type: ignore
                setattr(cls, name, made)
            elif isinstance(default, (list, dict, Config)):
                setattr(cls, name, dataclasses.field(default_factory=functools.partial(copy.deepcopy, default)))
        dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=True)(cls)
        cls._fields, cls._hints = {field.name: field for field in dataclasses.fields(cls)}, {}
        cls.location_fields = tuple(dict.fromkeys(f for base in cls.__mro__ for f in vars(base).get("location_fields", ())))
        if unknown := set(cls.location_fields) - set(cls._fields):
            raise TypeError(f"{cls.__qualname__}.location_fields names {sorted(unknown)}, which are not fields")

    def __init__(self, **values: Any) -> None:
        for name in values:
            self._known(name)
        self.__dict__["_explicit"] = set(values)
        for name in self._fields:
            value = values[name] if name in values else self._default(name)
            self.__dict__[name] = self._checked(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        self.set(**{name: value})

    @classmethod
    def _known(cls, name: str) -> None:
        if name not in cls._fields:
            close = difflib.get_close_matches(name, cls._fields, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else f"its fields: {', '.join(cls._fields)}"
            raise AttributeError(f"{cls.__qualname__} has no field {name!r}; {hint}", name=name)

    @classmethod
    def _default(cls, name: str) -> Any:
        field = cls._fields[name]
        if field.default_factory is dataclasses.MISSING:
            return field.default
        value = field.default_factory()
        for node in _configs(value):
            node._explicit.clear()  # nobody set what comes with a default
        return value

    @classmethod
    def _hint(cls, name: str) -> Any:
        """A field's annotation as an object; Any, so not checked, while a name in it cannot be found in its module."""
        if name not in cls._hints:
            declaring = next(base for base in cls.__mro__ if name in inspect.get_annotations(base))
            hint = inspect.get_annotations(declaring)[name]
            try:
                cls._hints[name] = eval(hint, vars(sys.modules[declaring.__module__])) if isinstance(hint, str) else hint
            except (NameError, AttributeError):  # defined further down the file, or inside a function
                return Any
        return cls._hints[name]

    def _checked(self, name: str, value: Any) -> Any:
        """A copy of ``value`` that may be stored in field ``name``; TypeError if it may not."""
        place = f"{type(self).__qualname__}.{name}"
        value, hint = _copied(value, place), self._hint(name)
        try:
            return _fitted(value, hint)
        except _Mismatch:
            expected = self._fields[name].type
            expected = expected if isinstance(expected, str) else getattr(expected, "__qualname__", str(expected))
            raise TypeError(f"{place} = {value!r}: expected {expected}, got {type(value).__qualname__}") from None

    def set(self, **values: Any) -> Self:
        """Set fields to copies of the values and return this config. All values are checked before any is set.

        Raises AttributeError for an unknown field (with close matches), TypeError for a value of the wrong type.
        """
        for name in values:
            self._known(name)
        self.__dict__.update({name: self._checked(name, value) for name, value in values.items()})
        self._explicit.update(values)
        return self

    def clone(self) -> Self:
        """An independent copy, checked anew (a list may have been changed in place), that remembers what was set."""
        new = object.__new__(type(self))
        new.__dict__["_explicit"] = set(self._explicit)
        for name in self._fields:
            new.__dict__[name] = self._checked(name, self.__dict__[name])
        return new

    __copy__ = clone

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.clone()

    def build(self, **runtime: Any) -> Any:
        """``owner(private copy, **runtime)``. ValueError names every own field still REQUIRED; children are the
        owner's business, which sets their interface dimensions. TypeError if a runtime argument shadows a field."""
        if self.owner is None:
            raise TypeError(f"{type(self).__qualname__} has no owner: declare it inside a Configurable to build it")
        if shadowed := sorted(set(runtime) & set(self._fields)):
            raise TypeError(f"{type(self).__qualname__}.build: {', '.join(shadowed)} are config fields; set them there")
        self._require()
        return self.owner(self.clone(), **runtime)

    def _require(self, given: Iterable[str] = ()) -> None:
        unset = [path for path, value, _, key in _nodes(self, own=True) if value is REQUIRED and key not in given]
        if unset:
            raise ValueError(f"{type(self).__qualname__}.build: required but not set: {', '.join(unset)}")

    def _items(self) -> list[tuple[str, Any]]:
        return [(name, self.__dict__[name]) for name in self._fields]

    def missing(self) -> list[str]:
        """Dotted paths of all fields of the whole tree that are still REQUIRED."""
        return [path for path, value, _, _ in _nodes(self) if value is REQUIRED]

    def walk(self, owner: Any = None) -> Iterator[tuple[str, Config, Any, Any]]:
        """(dotted path, config, container, key) of this config and all below, parents first, containers live.

        With ``owner``, only configs that build it or a subclass. ValueError if one object sits at two places.
        """
        seen: dict[int, str] = {}
        for path, node, container, key in _nodes(self):
            if not isinstance(node, Config):
                continue
            if (first := seen.setdefault(id(node), path)) != path:
                raise ValueError(f"one config object is at {first!r} and at {path!r}; put a .clone() at one of them")
            if owner is None or _owned(node, owner):
                yield path, node, container, key

    def flat(self) -> dict[str, Any]:
        """Dotted path -> value, in natural order. ``<path>.class`` is a config's class; a list or dict without configs
        is one value."""
        return dict(sorted(_flat(self.clone(), ""), key=lambda pair: _natural(pair[0])))

    def golden(self) -> str:
        """The whole tree as sorted lines ``path: value``: the same text in every process, made to be diffed."""
        return "".join(f"{path}: {_text(value)}\n" for path, value in self.flat().items())

    def diff(self, other: Config) -> dict[str, tuple[str | None, str | None]]:
        """Path -> (text here, text in ``other``) wherever the golden texts differ; None where there is no such path."""
        mine, theirs = ({k: _text(v) for k, v in cfg.flat().items()} for cfg in (self, other))
        return {k: (mine.get(k), theirs.get(k)) for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)}

    def to_dict(self) -> dict[str, Any]:
        """The whole tree as JSON values; ``"class"`` holds each config's class."""
        return _canonical(self.clone(), True)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the canonical JSON of classes and fields, ``location_fields`` left out."""
        return hashlib.sha256(_json(_canonical(self.clone(), False)).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return _same(self, other) if isinstance(other, Config) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # mutable

    def _changed(self) -> list[str]:
        """Names of the fields whose value is not the default."""
        return [name for name, value in self._items() if not _same(value, self._default(name))]

    def _set_by_caller(self) -> set[str]:
        """Names of the fields that were set, or edited below (``cfg.child.x = 1``, ``cfg.sizes.append(1)``)."""
        below = {name for name, value in self._items() if any(node._explicit for node in _configs(value))}
        return self._explicit | below | set(self._changed())

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={self.__dict__[name]!r}' for name in self._changed())})"

    def _repr_html_(self) -> str:
        """A collapsible tree for notebooks; what differs from its default is bold."""
        return _html(self, "", opened=True)


_Config = Config  # the nested classes below have the same name


class Configurable:
    """A class that is built from its nested ``Config``. Without one it gets a subclass of its parent's, owned by itself.

    ``__init__(self, cfg, **runtime)`` receives a private copy. A class that is also an ``nn.Module`` writes
    ``class Foo(nn.Module, Configurable)`` and calls ``super().__init__()``; others may leave ``__init__`` out.
    """

    class Config(_Config):
        """The base that every nested Config inherits from."""

    cfg: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls).get("Config")
        if own is None or "owner" in vars(own):  # none declared, or another class's Config under this name
            names = {"__module__": cls.__module__, "__qualname__": f"{cls.__qualname__}.Config"}
            own = type("Config", (cls.Config,), names)
            cls.Config = own  # type: ignore[misc]
        if not issubclass(own, _Config):
            raise TypeError(f"{cls.__qualname__}.Config must inherit from a Config, e.g. Configurable.Config")
        own.owner = cls

    def __init__(self, cfg: _Config | None = None) -> None:
        super().__init__()
        if cfg is not None:
            self.cfg = cfg


# -- walking and printing ------------------------------------------------------------------------------------------


def _children(value: Any) -> list[tuple[str, Any, Any]]:
    """(part of a path, key, child) of a config, list or dict."""
    if isinstance(value, Config):
        return [(name, name, child) for name, child in value._items()]
    if isinstance(value, list):
        return [(str(i), i, child) for i, child in enumerate(value)]
    return [(_segment(key), key, child) for key, child in value.items()] if isinstance(value, dict) else []


def _nodes(
    value: Any, path: str = "", container: Any = None, key: Any = None, own: bool = False
) -> Iterator[tuple[str, Any, Any, Any]]:
    """(path, value, container, key) of a value and all it holds, parents first; ``own``: not into child configs."""
    yield path, value, container, key
    if not (own and isinstance(value, Config) and container is not None):
        for part, index, child in _children(value):
            yield from _nodes(child, _join(path, part), value, index, own)


def _configs(value: Any) -> list[Config]:
    return [node for _, node, _, _ in _nodes(value) if isinstance(node, Config)]


def _join(path: str, part: str) -> str:
    return f"{path}.{part}" if path else part


def _natural(path: str) -> list[tuple[bool, int | str]]:
    """Sort key that puts layers.2 before layers.10."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else part) for part in path.split(".")]


def _kind(cfg: Config) -> Any:
    """What stands for a config's class in text: the class, or the callable of a fn_config."""
    return cfg.owner if isinstance(cfg, _Call) else type(cfg)


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Config):
        yield _join(path, "class"), _kind(value)
    if _configs(value):
        for part, _, child in _children(value):
            yield from _flat(child, _join(path, part))
    else:
        yield path, value


def _text(value: Any) -> str:
    """A leaf as one line that is the same in every process and version."""
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)}: {_text(value[key])}' for key in sorted(value))}}}"
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, (type, *_FUNCTIONS)) or callable(value) and value is not REQUIRED:
        return _name(value)
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _canonical(value: Any, location: bool) -> Any:
    """JSON values. What JSON lacks becomes {"class": ..., "name": ...}, which no dict of the user can look like."""
    if isinstance(value, Config):
        names = [name for name in value._fields if location or name not in value.location_fields]
        fields = {name: _canonical(value.__dict__[name], location) for name in sorted(names)}
        return {"class": _name(_kind(value)), **fields}
    if isinstance(value, list):
        return [_canonical(item, location) for item in value]
    if isinstance(value, dict):
        return {key: _canonical(value[key], location) for key in sorted(value)}
    if isinstance(value, enum.Enum):
        return {"class": _name(type(value)), "name": value.name}
    if value is REQUIRED:
        return {"class": "required"}
    if isinstance(value, float) and math.isinf(value):
        return {"class": "float", "name": repr(value)}
    if isinstance(value, (type, *_FUNCTIONS)):
        return {"class": "type" if isinstance(value, type) else "function", "name": _name(value)}
    return value


def _same(a: Any, b: Any) -> bool:
    """Equal in type and value, all the way down (1, 1.0 and True differ)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (Config, list, dict)):
        ours, theirs = ({key: child for _, key, child in _children(value)} for value in (a, b))
        return ours.keys() == theirs.keys() and all(_same(child, theirs[key]) for key, child in ours.items())
    return a is b or bool(a == b)


def _html(value: Any, label: str, opened: bool = False, bold: bool = False) -> str:
    label = html.escape(label)
    name = f"<b>{label}</b>" if bold else label
    if not _configs(value):
        text = html.escape(getattr(value, "__qualname__", None) or repr(value))
        return f"<div><code>{name} = {text}</code></div>"
    changed = value._changed() if isinstance(value, Config) else []
    rows = "".join(_html(child, part, bold=key in changed) for part, key, child in _children(value))
    kind = getattr(_kind(value), "__qualname__", "") if isinstance(value, Config) else f"{len(value)} items"
    title = f"{name}: {html.escape(kind)}" if label else html.escape(kind)
    return (
        f"<details{' open' if opened else ''}><summary><code>{title}</code></summary>"
        f'<div style="margin-left: 1.5em">{rows}</div></details>'
    )


# -- swapping parts ------------------------------------------------------------------------------------------------


def _owned(cfg: Config, owner: Any, exact: bool = False) -> bool:
    if cfg.owner is owner or exact:
        return cfg.owner is owner
    return isinstance(cfg.owner, type) and isinstance(owner, type) and issubclass(cfg.owner, owner)


def _carried(old: Config, new: Config, carry: str | Sequence[str], drop: Sequence[str]) -> Config:
    """A fresh copy of ``new`` that took over fields of ``old``: set by the caller > carried > default."""
    fresh, fixed, before = new.clone(), new._set_by_caller(), dict(old._items())
    lost = [n for n in old._changed() if n not in fresh.__dict__ and n not in drop and before[n] is not REQUIRED]
    if lost:
        raise ValueError(
            f"{type(new).__qualname__} has no field for {', '.join(f'{n}={before[n]!r}' for n in lost)} "
            f"of {type(old).__qualname__}; name them in drop=(...) if that is meant"
        )
    for name, value in before.items():
        if name not in fresh._fields or name in fixed or name in drop or value is REQUIRED:
            continue
        wanted = {"shared": True, "required": fresh.__dict__[name] is REQUIRED}.get(carry) if isinstance(carry, str) else name in carry
        if wanted:
            fresh.set(**{name: value})
    return fresh


def derive(src: Config, new: Any, *, drop: Sequence[str] = (), **delta: Any) -> Any:
    """A config of ``new`` (a Configurable, a Config class, or a config) with ``delta`` set and the rest taken from ``src``.

    Set values win over those of ``src``, which win over defaults. ValueError if a non-default value of ``src`` has no
    field in ``new`` and is not named in ``drop``.
    """
    if isinstance(new, type):
        new = (new.Config if issubclass(new, Configurable) else new)()
    _check_names("drop", drop, [src])
    return _carried(src, new.clone().set(**delta), "shared", drop)


def _check_names(what: str, names: Sequence[str], olds: Sequence[Config]) -> None:
    if isinstance(names, str):
        raise TypeError(f"{what}={names!r}: give a tuple of field names")
    if unknown := [n for n in names if not any(n in old._fields for old in olds)]:
        kinds = ", ".join(sorted({type(old).__qualname__ for old in olds}))
        raise ValueError(f"{what} names {', '.join(unknown)}, which {kinds} does not have")


def replace(
    cfg: Config,
    target: Any,
    new: Config,
    where: str = "*",
    carry: Literal["shared", "required"] | Sequence[str] = "shared",
    drop: Sequence[str] = (),
    expect: int | None = None,
    exact: bool = False,
) -> list[str]:
    """Swap, in place, every config below ``cfg`` that builds ``target`` (or a subclass, unless ``exact``) for ``new``.

    ``where`` is a glob over dotted paths (``*`` also matches dots: ``layers.1[0-9].*``). Each place gets its own copy of
    ``new``; values set on ``new`` win, then those of the old config: all shared fields, only those still REQUIRED, or the
    names given in ``carry``; then defaults. Of nested matches only the outermost is swapped, with a warning.
    Returns the paths. On any error ``cfg`` is as before. ValueError: no match, not ``expect`` matches, a non-default
    old value that ``new`` has no field for and ``drop`` does not name. TypeError: ``new`` does not fit there.
    """
    found = [hit for hit in cfg.walk() if _owned(hit[1], target, exact)]
    matching = [hit for hit in found if fnmatch.fnmatchcase(hit[0], where)]
    name = getattr(target, "__qualname__", repr(target))
    if any(container is None for _, _, container, _ in matching):
        raise ValueError(f"the config itself is a {name} and cannot be replaced in place; use derive(cfg, new)")
    hits = [hit for hit in matching if not any(hit[0].startswith(f"{other[0]}.") for other in matching)]
    paths = [path for path, _, _, _ in hits]
    if not hits or expect not in (None, len(hits)):
        elsewhere = ", ".join(path or "(root)" for path, *_ in found) or "nowhere"
        wanted = "at least 1" if expect is None else expect
        raise ValueError(f"replace {name} where {where!r}: {len(hits)} matches, wanted {wanted}; {name} is at: {elsewhere}")
    if inner := [path for path, *_ in matching if path not in paths]:
        warnings.warn(f"replace {name}: not swapped, inside one that was: {', '.join(inner)}", stacklevel=2)
    olds = [old for _, old, _, _ in hits]
    _check_names("drop", drop, olds)
    if not isinstance(carry, str):
        _check_names("carry", carry, olds)
        _check_names("carry", carry, [new])
    elif carry not in ("shared", "required"):
        raise ValueError(f'carry={carry!r}: use "shared", "required" or a tuple of field names')
    fresh = [_carried(old, new, carry, drop) for old in olds]
    for (_, _, container, key), value in zip(hits, fresh, strict=True):
        (container.__dict__ if isinstance(container, Config) else container)[key] = value
    try:
        cfg.clone()
    except TypeError:
        for _, old, container, key in hits:
            (container.__dict__ if isinstance(container, Config) else container)[key] = old
        raise
    for _, _, container, key in hits:
        if isinstance(container, Config):
            container._explicit.add(key)
    return paths


class Modifier(Configurable):
    """A change to configs that is itself a config: ``__call__`` edits the config it is given and returns it."""

    def __call__(self, cfg: _Config) -> _Config:
        raise NotImplementedError(f"{type(self).__qualname__}.__call__")


class Chain(Modifier):
    """Modifiers applied in order to a copy. Two that write different values to one path raise, unless allowed to.

    ``writes`` lists (modifier, path, text before, text after) of the last call: which modifier set what.
    """

    class Config(Modifier.Config):
        modifiers: list[Modifier.Config] = []
        allow_override: bool = False

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.modifiers: list[Modifier] = [modifier.build() for modifier in cfg.modifiers]
        self.writes: list[tuple[str, str, str | None, str | None]] = []

    def __call__(self, cfg: _Config) -> _Config:
        cfg, self.writes, last = cfg.clone(), [], {}
        for i, modifier in enumerate(self.modifiers):
            before, name = cfg.clone(), f"{i}:{type(modifier).__qualname__}"
            result = modifier(cfg)
            if not isinstance(result, _Config):
                raise TypeError(f"modifier {name} returned {result!r}; return the config")
            cfg = result.clone()
            for path, (old, new) in before.diff(cfg).items():
                if path in last and not self.cfg.allow_override:
                    raise ValueError(
                        f"modifiers {last[path]} and {name} both write {path}: {old} and {new}; "
                        "remove one, or set allow_override=True to let the last win"
                    )
                last[path] = name
                self.writes.append((name, path, old, new))
        return cfg


def select(rules: Sequence[tuple[str, Any]], key: str) -> Any:
    """The value of the first rule whose regular expression matches all of ``key``; end with ``(".*", default)``.

    Raises KeyError when no rule matches. A config comes back as a copy.
    """
    for pattern, value in rules:
        if re.fullmatch(pattern, key):
            return value.clone() if isinstance(value, Config) else value
    raise KeyError(f"no rule matches {key!r}; the rules are {[pattern for pattern, _ in rules]}")


# -- code that has no Config ---------------------------------------------------------------------------------------


class _Call(Config):
    """Base of what fn_config makes: the fields are the callable's parameters."""

    _tuples: ClassVar[frozenset[str]] = frozenset()  # parameters whose default is a tuple: lists here, tuples in the call
    _extra: ClassVar[tuple[str, ...]] = ()

    def build(self, **runtime: Any) -> Any:
        """Call with the fields and ``runtime``, which may give parameters that are still REQUIRED. Configs among the
        fields are built first, since a callable that knows no configs wants what they make."""
        if fixed := [n for n in runtime if n in self.__dict__ and self.__dict__[n] is not REQUIRED]:
            raise TypeError(f"{type(self).__qualname__}.build: {', '.join(fixed)} are set in the config already")
        self._require(given=runtime)
        values = {name: _built(value) for name, value in self.clone()._items() if name not in runtime}
        return self.owner(**{n: tuple(v) if n in self._tuples and type(v) is list else v for n, v in values.items()}, **runtime)

    def __reduce__(self) -> Any:
        return _restore, (self.owner, self._extra, self.__dict__)


def _built(value: Any) -> Any:
    if isinstance(value, Config):
        return value.build()
    if isinstance(value, list):
        return [_built(item) for item in value]
    return {key: _built(item) for key, item in value.items()} if isinstance(value, dict) else value


def _restore(function: Callable[..., Any], extra: tuple[str, ...], state: dict[str, Any]) -> Config:
    cfg = object.__new__(_call_class(function, extra))
    cfg.__dict__.update(state)
    return cfg


@functools.cache
def _call_class(function: Callable[..., Any], extra: tuple[str, ...]) -> type[_Call]:
    fields: dict[str, Any] = dict.fromkeys(extra, REQUIRED)
    tuples = []
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        if parameter.kind is parameter.POSITIONAL_ONLY and default is parameter.empty:
            raise TypeError(f"{_name(function)} takes {name!r} by position only; fn_config passes arguments by name")
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        if default is parameter.empty:
            fields[name] = REQUIRED
            continue
        if isinstance(default, tuple):
            tuples.append(name)
            default = list(default)
        try:
            fields[name] = _copied(default, name)
        except TypeError:  # no config value: the callable keeps its own default
            continue
    fields = {n: v for n, v in fields.items() if v is REQUIRED or not (n.startswith("_") or hasattr(Config, n))}
    names = {"__module__": function.__module__, "__qualname__": f"fn_config({function.__qualname__})"}
    shared = {"owner": staticmethod(function), "_tuples": frozenset(tuples), "_extra": extra}
    return type("Config", (_Call,), {**names, **shared, **fields, "__annotations__": dict.fromkeys(fields, Any)})


def fn_config(function: Callable[..., Any], **values: Any) -> Any:
    """A config for any class or function, with its parameters as fields: ``fn_config(torch.optim.AdamW, lr=1e-3)``.

    Parameters without default are REQUIRED, and may also be given to ``build(params=...)``. Tuple defaults become lists
    here and tuples again in the call; a parameter whose default no config can hold is left to the callable.
    """
    _name(function)
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    extra = tuple(sorted(set(values) - set(parameters))) if takes_any else ()
    return _call_class(function, extra)(**values)


def _json(tree: Any) -> str:
    """Canonical JSON: sorted keys, no spaces."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"))
