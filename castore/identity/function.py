"""What is computed, identified: the half of a request that names its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from castore.canonical import Json, identify
from castore.errors import ConfigError, FingerprintError
from castore.identity import numeric
from castore.identity.captures import capture
from castore.identity.code import name_of
from castore.identity.files.contents import File
from castore.identity.findings import Captures
from castore.identity.members import is_module
from castore.identity.models.snapshot import ModelState, snapshot, unwrap
from castore.identity.values import encode

__all__ = ["Function", "describe_function", "encode_argument"]

_FORMAT = 1
_INSTEAD = (
    "  by value:    numbers, text, arrays, and containers and data classes of them\n"
    "  a file:      castore.file(path)  # by its content\n"
    "  for good:    castore.register_fingerprint(TheType, lambda value: ...)  # what it is"
)


@dataclass(frozen=True)
class Function:
    """What is computed.

    Attributes
    ----------
    name : str
        How messages call it.
    suffix : str
        The name the user gave it.
    table : str
        Table id: digest of `derivation`.
    derivation : dict
        Suffix, version, parameters, captured values, model digest, numeric context; the code
        where there is no suffix.
    recorded : dict
        What is kept beside for people, and keyed by nobody.
    models : dict
        The modules found or named, unwrapped, by path.
    states : dict
        What each of them was when it was identified.
    is_modelless : bool
        Whether a model was looked for and none found.
    not_keyed : dict
        Captured things castore has no rule for, with their types.
    ignored : frozenset of str
        What the user wants ignored that the function does not capture.
    """

    name: str
    suffix: str
    table: str
    derivation: dict[str, Json]
    recorded: dict[str, Json] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    states: dict[str, ModelState] = field(default_factory=dict)
    is_modelless: bool = False
    not_keyed: dict[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()

    def refuse_ignored(self, names: frozenset[str], others: Sequence[str] = ()) -> None:
        """See that nothing is to be ignored that is not there.

        Raises
        ------
        ConfigError
            If `names` is not empty, naming what could be ignored instead.
        """
        if names:
            known = ", ".join([*sorted(self.derivation["captured"]), *sorted(others)]) or "nothing"
            msg = f"ignore={min(names)!r} is no part of this key: {known} can be ignored"
            raise ConfigError(msg)


def describe_function(
    fn: Any,
    suffix: Any,
    *,
    model: Any = "auto",
    params: Any = None,
    version: str | int | None = None,
    ignore: Sequence[str] = (),
    loader: object = None,
) -> Function:
    """Identify what `fn` computes.

    Raises
    ------
    ConfigError
        If an argument is not what it should be.
    FingerprintError
        If a parameter or the model cannot be encoded.
    """
    _check(fn, suffix, params, ignore)
    found = capture(fn, loader) if fn is not None else Captures()
    left_out = {path: found.values.pop(path) for path in ignore if path in found.values}
    models = {path: unwrap(module) for path, module in sorted(_models(found, model).items())}
    states = {path: snapshot(module) for path, module in models.items()}
    keyed, recorded = numeric.context()
    derivation: dict[str, Json] = {
        "captured": found.values,
        "format": _FORMAT,
        "model": _model_document(states, model),
        "numeric": keyed,
        "params": encode_argument(_by_name(params), "params"),
        "suffix": suffix,
        "version": encode_argument(version, "version"),
    }
    if not suffix:
        if fn is None:
            msg = "without a function there must be a suffix: name what was computed"
            raise ConfigError(msg)
        derivation["functions"] = found.functions
    not_keyed = dict(found.not_keyed)
    for path, state in states.items():
        not_keyed.update({f"{path}.{name}": kind for name, kind in state.not_keyed.items()})
    return Function(
        name=name_of(fn) if fn is not None else suffix,
        suffix=suffix,
        table=identify("table", derivation),
        derivation=derivation,
        recorded={
            "functions": found.functions,
            "ignored": left_out,
            "models": list(models),
            **recorded,
        },
        models=models,
        states=states,
        is_modelless=isinstance(model, str) and model == "auto" and fn is not None and not models,
        not_keyed=not_keyed,
        ignored=frozenset(ignore) - left_out.keys(),
    )


def _by_name(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return parameters in the order of their names: nobody goes through them."""
    return dict(sorted((params or {}).items(), key=lambda item: str(item[0])))


def encode_argument(value: Any, what: str) -> Json:
    """Return the document of a value that the caller names.

    Raises
    ------
    FingerprintError
        If it, or something in it, has no rule; with what to write instead.
    """
    try:
        return encode(value, what)
    except FingerprintError as error:
        raise FingerprintError(f"{error}.\n{_INSTEAD}") from error


def _check(fn: Any, suffix: Any, params: Any, ignore: Any) -> None:
    if not isinstance(suffix, str):
        msg = f"suffix is {suffix!r}: give a string that names what is computed"
        raise ConfigError(msg)
    if fn is not None and not callable(fn):
        msg = f"fn is {fn!r:.80}: give a function of the loader"
        raise ConfigError(msg)
    if params is not None and not isinstance(params, Mapping):
        msg = f"params is {params!r:.80}: give a dict of values by name"
        raise ConfigError(msg)
    if isinstance(ignore, str) or not all(isinstance(name, str) for name in ignore):
        msg = f"ignore={ignore!r}: give a tuple of names, such as ('batch_size',)"
        raise ConfigError(msg)


def _models(found: Captures, model: Any) -> dict[str, Any]:
    if isinstance(model, str) and model == "auto":
        return found.models
    if model is None or isinstance(model, (str, File)):
        return {}
    listed = list(model) if isinstance(model, (list, tuple)) else [model]
    for item in listed:
        if not is_module(item):
            msg = (
                f"model={item!r:.80}: pass a torch module, a list of them, a digest, "
                "castore.file(path) or None"
            )
            raise ConfigError(msg)
    return {f"model[{index}]": item for index, item in enumerate(listed)}


def _model_document(states: dict[str, ModelState], model: Any) -> Json:
    """Return the digest of one model; of several, by path where found, in order where named."""
    if isinstance(model, File):
        return encode(model, "model")
    if isinstance(model, str) and model != "auto":
        return model
    digests = {path: state.digest for path, state in states.items()}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return digests or None
