"""Attributes that say how an object is made, loaded, placed or shown, not what it computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from castore.identity.libraries import top, type_name

__all__ = ["APART_FROM_RUNNING", "computed", "incidental"]

#: What a class of modules defines to make, show, copy, save and load them.
APART_FROM_RUNNING = frozenset(
    [
        "__copy__",
        "__deepcopy__",
        "__del__",
        "__getstate__",
        "__init__",
        "__reduce__",
        "__reduce_ex__",
        "__repr__",
        "__setstate__",
        "__str__",
        "_get_name",
        "_load_from_state_dict",
        "_save_to_state_dict",
        "extra_repr",
        "get_extra_state",
        "load_state_dict",
        "set_extra_state",
        "state_dict",
    ]
)

_OF_TRANSFORMERS = frozenset(
    [
        "_auto_class",
        "_commit_hash",
        "_ep_plan",
        "_from_model_config",
        "_fsdp_plan",
        "_keep_in_fp32_modules",
        "_keep_in_fp32_modules_strict",
        "_keys_to_ignore_on_load_missing",
        "_keys_to_ignore_on_load_unexpected",
        "_keys_to_ignore_on_save",
        "_name_or_path",
        "_no_split_modules",
        "_original_object_hash",  # Python's hash of a text: another in every process
        "_post_init_done",
        "_pp_plan",
        "_skip_keys_device_placement",
        "_tp_plan",
        "_use_kernels",
        "_weight_conversions",
        "all_tied_weights_keys",
        "architectures",
        "hf_device_map",
        "init_inputs",
        "init_kwargs",
        "model_type",
        "name_or_path",
        "transformers_version",
        "vocab_file",
    ]
)
#: Weak references to tensors that ``_flat_weights`` holds.
_OF_RNNS = frozenset(["_flat_weight_refs"])
#: What a graph module keeps beside its code, to edit and to print it.
_OF_GRAPHS = frozenset(
    [
        "_code",
        "_create_node_hooks",
        "_deepcopy_hooks",
        "_erase_node_hooks",
        "_graph",
        "_lineno_map",
        "_prologue_start",
        "_replace_hooks",
        "_tracer_cls",
        "_tracer_extras",
        "meta",
        "shape_env",
    ]
)
#: By package or class, of objects of the package's classes and of classes derived from them.
_INCIDENTAL = {
    "torch.fx.graph_module.GraphModule": _OF_GRAPHS,
    "torch.nn.modules.rnn.RNNBase": _OF_RNNS,
    "transformers": _OF_TRANSFORMERS,
}

#: Hooks of torch.nn.utils that compute a weight before each call, and where they keep its name.
_COMPUTING = {
    "torch.nn.utils.prune.BasePruningMethod": "_tensor_name",
    "torch.nn.utils.spectral_norm.SpectralNorm": "name",
    "torch.nn.utils.weight_norm.WeightNorm": "name",
}


def incidental(kind: type) -> frozenset[str]:
    """Return names of attributes that say nothing of what objects of `kind` compute."""
    found: frozenset[str] = frozenset()
    for base in kind.__mro__:
        for home in (top(base.__module__), type_name(base)):
            found |= _INCIDENTAL.get(home or "", found)
    return found


def computed(hooks: Iterable[Any]) -> frozenset[str]:
    """Return the names of the weights that `hooks` compute anew from parameters before each call.

    The module keeps the last in an attribute, which says nothing that the parameters do not.
    """
    found = set()
    for hook in hooks:
        for base in type(hook).__mro__:
            name = _COMPUTING.get(type_name(base))
            if name is not None:
                found.add(getattr(hook, name))
    return frozenset(found)
