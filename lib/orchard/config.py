"""Configs: typed, nested values that know which class they build (semantics of AXLearn's configs, arXiv 2507.05411 §3).

    class Layer(nn.Module, Configurable):
        class Config(Configurable.Config):            # becomes a keyword-only dataclass by itself
            dim: int = REQUIRED                       # must be set before build(); a parent pushes it down
            norm: RMSNorm.Config = RMSNorm.Config()   # mutable defaults are copied for each instance

        def __init__(self, cfg: Layer.Config) -> None:   # cfg is a private copy
            super().__init__()
            self.norm = cfg.norm.set(dim=cfg.dim).build()

    layer = Layer.Config(dim=8).build()

Configs are values: what is set on one is checked and copied, so editing one never changes another. ``orchard.values``
says what they may hold. ``golden()`` is the text of a tree, ``fingerprint()`` its hash, ``replace`` swaps a part of it.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import fnmatch
import functools
import hashlib
import html
import importlib
import inspect
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar, dataclass_transform

from orchard.values import (
    REQUIRED,
    Node,
    canonical,
    children,
    configs_in,
    copied,
    fitted,
    name_of,
    natural,
    nodes,
    plain_types,
    same,
    text_of,
)

__all__ = ["REQUIRED", "Chain", "Config", "Configurable", "Modifier", "derive", "fn_config", "replace", "select"]

C = TypeVar("C", bound="Config")


@dataclass_transform(kw_only_default=True)
@dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=True)
class Config(Node):
    """Base of every config. Subclasses become keyword-only dataclasses by themselves; each field has a default."""

    owner: ClassVar[Any] = None  # the class (or callable) that build() calls
    location_fields: ClassVar[tuple[str, ...]] = ()  # they say where something is, not what: left out of fingerprint()
    __no_type_check__ = True  # run-time checkers leave the constructor alone: REQUIRED is no int, and we check
    _fields: ClassVar[dict[str, dataclasses.Field[Any]]] = {}
    _hints: ClassVar[dict[str, tuple[Any, frozenset[type]]]] = {}  # annotations as objects, filled when first needed
    _explicit: ClassVar[frozenset[str]]  # held by each instance: names that were set, as opposed to defaults

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        annotations = inspect.get_annotations(cls)
        for name, value in vars(cls).items():
            ignored = name in cls._fields or not (callable(value) or hasattr(value, "__get__"))
            if ignored and not (name in annotations or name == "location_fields" or name.startswith("_")):
                raise TypeError(f"{cls.__qualname__}.{name} has no annotation and would be ignored; add one")
        for name in [name for name, hint in annotations.items() if "ClassVar" not in str(hint)]:
            if name.startswith("_") or hasattr(Config, name):
                raise TypeError(f"{cls.__qualname__}.{name}: the name is taken by Config itself; choose another")
            if name not in vars(cls):
                raise TypeError(f"{cls.__qualname__}.{name} has no default; REQUIRED is one")
            if isinstance(vars(cls)[name], (list, dict, Config)):
                factory: Any = functools.partial(copy.deepcopy, vars(cls)[name])
                setattr(cls, name, dataclasses.field(default_factory=factory))
        dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=True)(cls)
        cls._fields, cls._hints = {field.name: field for field in dataclasses.fields(cls)}, {}
        places = [place for base in cls.__mro__ for place in vars(base).get("location_fields", ())]
        cls.location_fields = tuple(dict.fromkeys(places))
        if unknown := [place for place in places if place not in cls._fields]:
            raise TypeError(f"{cls.__qualname__}.location_fields names {', '.join(unknown)}: no such field")

    def __init__(self, **values: Any) -> None:
        self._known(values)
        self.__dict__["_explicit"] = frozenset(values)
        for name in self._fields:
            self.__dict__[name] = self._checked(name, values[name] if name in values else self._default(name))

    @classmethod
    def _known(cls, names: Iterable[str]) -> None:
        for name in names:
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
        for node in configs_in(value):
            node.__dict__["_explicit"] = frozenset()  # nobody set what comes with a default
        return value

    @classmethod
    def _hint(cls, name: str) -> tuple[Any, frozenset[type]]:
        """A field's annotation as an object, and the plain types that fit it; Any, so not checked, while a name in it cannot be found in
        its module."""
        if name not in cls._hints:
            declaring = next(base for base in cls.__mro__ if name in inspect.get_annotations(base))
            hint = inspect.get_annotations(declaring)[name]
            try:
                names = vars(sys.modules[declaring.__module__])
                found = eval(hint, names) if isinstance(hint, str) else hint
            except (NameError, AttributeError):  # defined further down the file, or inside a function
                return Any, frozenset()
            cls._hints[name] = found, plain_types(found)
        return cls._hints[name]

    def _checked(self, name: str, value: Any) -> Any:
        """A copy of ``value`` that may be stored in field ``name``; TypeError if it may not be."""
        hint, plain = self._hint(name)
        if type(value) in plain and value == value:  # most values; a NaN is refused below
            return value
        place = f"{type(self).__qualname__}.{name}"
        value = copied(value, place)
        try:
            return fitted(value, hint)
        except TypeError:
            expected = getattr(hint, "__qualname__", None) if isinstance(hint, type) else None
            got = type(value).__qualname__
            raise TypeError(f"{place} = {value!r}: expected {expected or hint}, got {got}") from None

    def set(self: C, **values: Any) -> C:
        """Set fields to copies of the values and return this config; nothing is set unless all of them are good.

        Raises AttributeError for an unknown field, with close matches, and TypeError for a value of the wrong type.
        """
        self._known(values)
        checked = {name: self._checked(name, value) for name, value in values.items()}
        self.__dict__.update(checked, _explicit=self._explicit.union(checked))
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        self.set(**{name: value})

    def clone(self: C) -> C:
        """An independent copy that remembers what was set; checked anew, since a list may have been edited in place."""
        new = object.__new__(type(self))
        new.__dict__["_explicit"] = self._explicit
        for name in self._fields:
            new.__dict__[name] = self._checked(name, self.__dict__[name])
        return new

    __copy__ = clone

    def __deepcopy__(self: C, memo: dict[int, Any]) -> C:
        return self.clone()

    def build(self, **runtime: Any) -> Any:
        """``owner(private copy, **runtime)``. ValueError names each own field that is still REQUIRED; those of child
        configs are for the owner to set before it builds them. TypeError if a runtime argument shadows a field."""
        if self.owner is None:
            raise TypeError(f"{type(self).__qualname__} has no owner: declare it inside a Configurable to build it")
        if shadowed := [name for name in runtime if name in self._fields]:
            raise TypeError(f"{type(self).__qualname__}.build: {', '.join(shadowed)}: set config fields on the config")
        self._require()
        return self.owner(self.clone(), **runtime)

    def _require(self, given: Iterable[str] = ()) -> None:
        own = [(name, value) for name, value in self._items() if name not in given]
        unset = [path for n, v in own for path, value, *_ in nodes(v, n, own=True) if value is REQUIRED]
        if unset:
            raise ValueError(f"{type(self).__qualname__}.build: required but not set: {', '.join(unset)}")

    def missing(self) -> list[str]:
        """Dotted paths of all fields of the whole tree that are still REQUIRED."""
        return [path for path, value, *_ in nodes(self) if value is REQUIRED]

    def walk(self, owner: Any = None) -> Iterator[tuple[str, Config, Any, Any]]:
        """(dotted path, config, container, key) of this config and all below it, parents first; not copies.

        With ``owner``, only configs that build it or a subclass of it. ValueError if one object is at two places.
        """
        seen: dict[int, str] = {}
        for path, node, container, key in nodes(self):
            if isinstance(node, Config):
                if (first := seen.setdefault(id(node), path)) != path:
                    raise ValueError(f"one object is at {first!r} and {path!r}; put its .clone() at one of them")
                if owner is None or _owned(node, owner):
                    yield path, node, container, key

    def flat(self) -> dict[str, Any]:
        """Dotted path -> value, sorted (layers.2 before layers.10). ``<path>.class`` is the class of a config.

        A list or dict without configs is one value.
        """
        leaves: dict[str, Any] = {}
        for path, value, container, _ in nodes(self.clone()):
            if isinstance(value, Config):
                leaves[f"{path}.class".lstrip(".")] = value._kind()
            elif not configs_in(value) and (isinstance(container, Config) or configs_in(container)):
                leaves[path] = value
        return {path: leaves[path] for path in sorted(leaves, key=natural)}

    def golden(self) -> str:
        """The whole tree as sorted lines ``path: value``, the same in every process, made to be kept and diffed."""
        return "".join(f"{path}: {text_of(value)}\n" for path, value in self.flat().items())

    def diff(self, other: Config) -> dict[str, tuple[str | None, str | None]]:
        """Path -> (text here, text in ``other``) where they differ; None where a path does not exist."""
        ours, theirs = ({path: text_of(value) for path, value in cfg.flat().items()} for cfg in (self, other))
        return {p: (ours.get(p), theirs.get(p)) for p in {**ours, **theirs} if ours.get(p) != theirs.get(p)}

    def to_dict(self) -> dict[str, Any]:
        """The whole tree as JSON values; ``"class"`` holds the class of each config."""
        return canonical(self.clone(), location=True)

    @staticmethod
    def from_dict(tree: Any, allowed: Callable[[str], bool], place: str = "config") -> Any:
        """The inverse of ``to_dict()``: a config, or the list, dict or value that a part of such a tree stands for.

        ``allowed`` says of a module whether its classes and functions may be used; nothing of another is imported or called, whatever
        the tree names. ``place`` is what messages begin with.

        ValueError: a module that is not allowed, a name that does not exist or is no config, a field that does not fit.
        """
        return _read(tree, allowed, place)

    def fingerprint(self) -> str:
        """SHA-256, in hex, of the canonical JSON of all classes and fields but the ``location_fields``."""
        tree = canonical(self.clone(), location=False)
        text = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Config) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can change

    def _items(self) -> list[tuple[str, Any]]:
        return [(name, self.__dict__[name]) for name in self._fields]

    def _kind(self) -> Any:
        """What names the class in texts."""
        return type(self)

    def _changed(self) -> list[str]:
        """Names of the fields whose value is not the default."""
        return [name for name, value in self._items() if not same(value, self._default(name))]

    def _chosen(self) -> frozenset[str]:
        """Names of the fields that were set, or edited below (``cfg.child.x = 1``, ``cfg.sizes.append(1)``)."""
        below = [name for name, value in self._items() if any(node._explicit for node in configs_in(value))]
        return self._explicit.union(below, self._changed())

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={self.__dict__[name]!r}' for name in self._changed())})"

    def _repr_html_(self) -> str:
        """A collapsible tree for notebooks; what differs from its default is bold."""
        return _html(self, "", opened=True)


_Config = Config  # nested classes below have the same name


class Configurable:
    """A class that is built from its nested ``Config``. One without gets a subclass of its parent's, owned by itself.

    ``__init__(self, cfg, **runtime)`` receives a private copy. A class that is also an ``nn.Module`` is written
    ``class Foo(nn.Module, Configurable)`` and calls ``super().__init__()``; others may leave ``__init__`` out.
    """

    class Config(_Config):
        """The base that nested Configs inherit from."""

    cfg: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own: Any = vars(cls).get("Config")
        if own is None or "owner" in vars(own):  # none declared, or that of another class under this name
            place = {"__module__": cls.__module__, "__qualname__": f"{cls.__qualname__}.Config"}
            own = type("Config", (cls.Config,), place)
            cls.Config = own  # type: ignore[misc]
        if not issubclass(own, _Config):
            raise TypeError(f"{cls.__qualname__}.Config must inherit from Configurable.Config or the parent's Config")
        own.owner = cls

    def __init__(self, cfg: _Config | None = None) -> None:
        super().__init__()
        if cfg is not None:
            self.cfg = cfg


def _html(value: Any, label: str, opened: bool = False, bold: bool = False) -> str:
    name = f"<b>{html.escape(label)}</b>" if bold else html.escape(label)
    if not configs_in(value):
        return f"<div><code>{name} = {html.escape(getattr(value, '__qualname__', None) or repr(value))}</code></div>"
    changed = value._changed() if isinstance(value, Config) else []
    kind = getattr(value._kind(), "__qualname__", "") if isinstance(value, Config) else f"{len(value)} items"
    rows = "".join(_html(child, part, bold=key in changed) for part, key, child in children(value))
    return (
        f"<details{' open' if opened else ''}><summary><code>{name}{': ' if name else ''}{html.escape(kind)}</code>"
        f'</summary><div style="margin-left: 1.5em">{rows}</div></details>'
    )


def _owned(cfg: Config, owner: Any, exact: bool = False) -> bool:
    classes = isinstance(cfg.owner, type) and isinstance(owner, type) and not exact
    return issubclass(cfg.owner, owner) if classes else cfg.owner is owner


def _as_config(new: Any) -> Config:
    """A fresh config from a config, a Config class or a Configurable."""
    if isinstance(new, Config):
        return new.clone()
    return (new.Config if issubclass(new, Configurable) else new)()


def _check_names(what: str, names: Sequence[str], cfgs: Sequence[Config]) -> None:
    """``names`` is a sequence of names, each of them a field of one of the configs."""
    if isinstance(names, str):
        raise TypeError(f"{what}={names!r}: give a tuple of field names")
    if unknown := [name for name in names if not any(name in cfg._fields for cfg in cfgs)]:
        kinds = ", ".join(sorted({type(cfg).__qualname__ for cfg in cfgs}))
        raise ValueError(f"{what} names {', '.join(unknown)}: no such field in {kinds}")


def _carried(old: Config, new: Config, carry: str | Sequence[str], drop: Sequence[str]) -> Config:
    """A fresh copy of ``new`` that takes over fields of ``old``. Set on new > carried > default."""
    fresh, chosen = new.clone(), new._chosen()
    before = {name: value for name, value in old._items() if value is not REQUIRED and name not in drop}
    if lost := [f"{n}={before[n]!r}" for n in old._changed() if n in before and n not in fresh._fields]:
        raise ValueError(
            f"{type(new).__qualname__} has no field for {', '.join(lost)} of {type(old).__qualname__}; "
            "if they are to be lost, name them in drop=(...)"
        )
    for name in [name for name in fresh._fields if name in before and name not in chosen]:
        by_mode = carry == "shared" or (carry == "required" and fresh.__dict__[name] is REQUIRED)
        if by_mode if isinstance(carry, str) else name in carry:
            fresh.set(**{name: before[name]})
    return fresh


def derive(src: Config, new: Any, *, drop: Sequence[str] = (), **delta: Any) -> Any:
    """A config for ``new`` (a Configurable, Config class or config): ``delta`` is set, the rest taken from ``src``.

    What is set wins over ``src``, which wins over defaults. ValueError if a value of ``src`` that is not its default
    has no field in ``new`` and is not named in ``drop``.
    """
    _check_names("drop", drop, [src])
    return _carried(src, _as_config(new).set(**delta), "shared", drop)


def replace(
    cfg: Config,
    target: Any,
    new: Any,
    where: str = "*",
    carry: str | Sequence[str] = "shared",
    drop: Sequence[str] = (),
    expect: int | None = None,
    exact: bool = False,
) -> list[str]:
    """Swap, in place, every config below ``cfg`` that builds ``target`` (or a subclass, unless ``exact``) for ``new``.

    ``where`` is a glob over dotted paths, in which ``*`` also matches dots: ``layers.1[0-9].*``. Each place gets its
    own copy of ``new``. What is set on ``new`` wins, then values of the old config, then defaults. ``carry`` says which
    old values: of all "shared" fields, of those still "required" in ``new``, or of the fields it names. Of nested
    matches only the outermost is swapped, with a warning that names the others. Returns the paths that were swapped.

    ValueError: no match, a number other than ``expect``, an old value that is not its default, has no field in ``new``
    and is not named in ``drop``. TypeError: ``new`` does not fit there. After an error ``cfg`` is as it was.
    """
    name = getattr(target, "__qualname__", repr(target))
    found = [hit for hit in cfg.walk() if _owned(hit[1], target, exact)]
    matching = [hit for hit in found if fnmatch.fnmatchcase(hit[0], where)]
    if matching and matching[0][1] is cfg:
        raise ValueError(f"the config itself is a {name} and cannot be swapped in place; use derive(cfg, new)")
    hits = [hit for hit in matching if not any(hit[0].startswith(f"{outer[0]}.") for outer in matching)]
    paths = [path for path, *_ in hits]
    if not hits or expect not in (None, len(hits)):
        wanted, places = expect or "at least one", ", ".join(path or "the root" for path, *_ in found) or "nowhere"
        raise ValueError(f"replace {name} where {where!r}: {len(hits)} matches, not {wanted}; it is at: {places}")
    if inner := [path for path, *_ in matching if path not in paths]:
        warnings.warn(f"replace {name}: left alone, inside one that was swapped: {', '.join(inner)}", stacklevel=2)

    olds, new = [old for _, old, *_ in hits], _as_config(new)
    _check_names("drop", drop, olds)
    if not isinstance(carry, str):
        _check_names("carry", carry, olds)
        _check_names("carry", carry, [new])
    elif carry not in ("shared", "required"):
        raise ValueError(f'carry={carry!r}: use "shared", "required" or a tuple of field names')

    def put(values: Sequence[Config]) -> None:
        for (_, _, container, key), value in zip(hits, values, strict=True):
            (container.__dict__ if isinstance(container, Config) else container)[key] = value

    put([_carried(old, new, carry, drop) for old in olds])
    try:
        cfg.clone()  # checks every type
    except TypeError:
        put(olds)
        raise
    for _, _, container, key in hits:
        if isinstance(container, Config):
            container.__dict__["_explicit"] = container._explicit.union([key])
    return paths


def _read(tree: Any, allowed: Callable[[str], bool], place: str) -> Any:
    if isinstance(tree, list):
        return [_read(item, allowed, f"{place}.{i}") for i, item in enumerate(tree)]
    if not isinstance(tree, dict):
        return tree
    parts = {key: value for key, value in tree.items() if key != "class"}
    kind, name = tree.get("class"), str(tree.get("name"))
    if kind == "float":
        return float(name)
    if kind == "required":
        return REQUIRED
    if kind in ("type", "function", "enum"):
        return _named(name, kind, allowed, place)
    values = {key: _read(value, allowed, f"{place}.{key}") for key, value in parts.items()}
    if kind is None:
        return values
    made = _named(str(kind), "type", allowed, place)
    if not issubclass(made, Config):
        raise ValueError(f"{place} names {kind!r}, which is no config")
    try:
        return made(**values)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{place} does not fit this version of {kind}: {error}") from None


def _named(name: str, kind: str, allowed: Callable[[str], bool], place: str) -> Any:
    """The class, function or enum member ``module:qualname``."""
    module, _, qualname = name.partition(":")
    if not allowed(module):
        raise ValueError(f"{place} names {name!r}, and classes of {module or 'no module'} are not read from a file")
    try:
        found: Any = functools.reduce(getattr, qualname.split("."), importlib.import_module(module))
        plain = canonical(found, location=True)
    except (ImportError, AttributeError, TypeError, ValueError):
        plain = None
    if plain != {"class": kind, "name": name}:
        raise ValueError(f"{place} names {name!r}, which this version does not have")
    return found


class Modifier(Configurable):
    """A change to configs that is itself built from a config: edits the config it is given, and returns it."""

    def __call__(self, cfg: _Config) -> _Config:
        raise NotImplementedError(f"{type(self).__qualname__} does not say what it changes; define __call__")


class Chain(Modifier):
    """Modifiers in order, applied to a copy. Two that write different values to one path are an error, unless allowed.

    After a call ``writes`` lists (modifier, path, text before, text after): who set what.
    """

    class Config(Modifier.Config):
        modifiers: list[Modifier.Config] = []
        allow_override: bool = False

    def __call__(self, cfg: _Config) -> _Config:
        self.writes: list[tuple[str, str, str | None, str | None]] = []
        last: dict[str, str] = {}
        for i, modifier in enumerate(self.cfg.modifiers):
            name = f"{i}:{modifier.owner.__qualname__}"
            result = modifier.build()(cfg.clone())
            if not isinstance(result, _Config):
                raise TypeError(f"modifier {name} returned {result!r}; it must return the config")
            for path, (before, after) in cfg.diff(result).items():
                if path in last and not self.cfg.allow_override:
                    raise ValueError(
                        f"modifiers {last[path]} and {name} both write {path}: {before} and {after}; "
                        "take one out, or let the last one win with allow_override=True"
                    )
                last[path] = name
                self.writes.append((name, path, before, after))
            cfg = result
        return cfg.clone()


def select(rules: Sequence[tuple[str, Any]], key: str) -> Any:
    """The value of the first rule whose regular expression matches all of ``key``; end with ``(".*", default)``.

    A config comes back as a copy. KeyError when no rule matches.
    """
    for pattern, value in rules:
        if re.fullmatch(pattern, key):
            return copy.deepcopy(value) if isinstance(value, (Config, list, dict)) else value
    raise KeyError(f"no rule matches {key!r}; the rules are {[pattern for pattern, _ in rules]}")


class _Call(Config):
    """Base of what fn_config makes: the fields are the parameters of a callable."""

    _extra: ClassVar[tuple[str, ...]] = ()  # fields that go into its **kwargs
    _tuples: ClassVar[frozenset[str]] = frozenset()  # parameters whose default is a tuple: a list here

    def build(self, **runtime: Any) -> Any:
        """Call with the fields and ``runtime``, which may give parameters that are still REQUIRED. Configs among the
        values are built first: a callable that knows no configs wants what they make."""
        if taken := [name for name in runtime if self.__dict__.get(name, REQUIRED) is not REQUIRED]:
            raise TypeError(f"{type(self).__qualname__}.build: {', '.join(taken)}: set in the config already")
        self._require(given=runtime)
        values = {name: _built(value) for name, value in self.clone()._items() if name not in runtime}
        values |= {name: tuple(value) for name, value in values.items() if name in self._tuples and type(value) is list}
        return self.owner(**values, **runtime)

    def _kind(self) -> Any:
        return self.owner

    def __reduce__(self) -> Any:
        return functools.partial(fn_config, self.owner, **dict.fromkeys(self._extra)), (), self.__dict__


def _built(value: Any) -> Any:
    if isinstance(value, Config):
        return value.build()
    if isinstance(value, list):
        return [_built(item) for item in value]
    return {key: _built(item) for key, item in value.items()} if isinstance(value, dict) else value


@functools.cache
def _call_class(function: Callable[..., Any], extra: tuple[str, ...]) -> type[_Call]:
    fields: dict[str, Any] = dict.fromkeys(extra, REQUIRED)
    tuples = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise TypeError(f"{name_of(function)} takes {name!r} by position only; fn_config passes arguments by name")
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        if parameter.default is parameter.empty:
            fields[name] = REQUIRED
        elif not (name.startswith("_") or hasattr(Config, name)):
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            try:
                fields[name] = copied(default, name)
            except TypeError:  # not a config value: the callable keeps its own default
                continue
            tuples += [name] * isinstance(parameter.default, tuple)
    place = {"__module__": function.__module__, "__qualname__": f"fn_config({function.__qualname__})"}
    about = {"owner": staticmethod(function), "_extra": extra, "_tuples": frozenset(tuples)}
    return type("Config", (_Call,), {**place, **fields, **about, "__annotations__": dict.fromkeys(fields, Any)})


def fn_config(function: Callable[..., Any], **values: Any) -> Any:
    """A config for any class or function, whose parameters become fields: ``fn_config(torch.optim.AdamW, lr=1e-3)``.

    A parameter without default is REQUIRED, and may be given at last to ``build(params=...)``. A tuple is written as a
    list, and is a tuple again in the call. A parameter whose default no config can hold is left to the callable.
    """
    name_of(function)
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    extra = tuple(sorted(values.keys() - parameters.keys())) if takes_any else ()
    return _call_class(function, extra)(**values)
