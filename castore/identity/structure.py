"""What a torch module is beside the values of its tensors.

Of every submodule by name: its class, training flag, hooks, the names of its parameters,
buffers and submodules in their order, and every attribute that torch.nn.Module does not own.
Library's classes go by name, the user's by what they define, objects by class and attributes,
functions by code; what was written by torch (graphs, scripts) by its code. A module or tensor
that is met in an attribute goes by its name, also if it belongs to no submodule.
"""

from __future__ import annotations

import dataclasses
import sys
import weakref
from collections.abc import Iterator
from typing import Any

from castore import arrays
from castore.canonical import Json
from castore.errors import FingerprintError
from castore.identity.captures import Walk, is_module
from castore.identity.graphs import kind_named, script_function, script_module, spelled
from castore.identity.libraries import is_library, package_of, top
from castore.identity.members import attributes, attributes_of_module, is_special
from castore.identity.protocols import UNSAID, said_by
from castore.identity.values import encode, type_name

__all__ = ["Structure", "unwrap"]

_PLAIN = frozenset([bool, float, int, str, type(None)])
_REFERENCES = (weakref.ref, weakref.ProxyType, weakref.CallableProxyType)
#: What a class defines to make, show, copy, save and load its modules.
_APART_FROM_RUNNING = frozenset(
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
#: Attributes that say where an object came from, how it is loaded, placed or drawn, by package.
_INCIDENTAL = {
    "torch": frozenset(
        [
            # weak references to the tensors of RNN._flat_weights
            "_flat_weight_refs",
            # what a graph module keeps beside its code to edit and print it
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
    ),
    "transformers": frozenset(
        [
            "_auto_class",
            "_commit_hash",
            "_ep_plan",
            "_from_model_config",
            "_fsdp_plan",
            "_is_hf_initialized",
            "_keep_in_fp32_modules",
            "_keep_in_fp32_modules_strict",
            "_keys_to_ignore_on_load_missing",
            "_keys_to_ignore_on_load_unexpected",
            "_keys_to_ignore_on_save",
            "_name_or_path",
            "_no_split_modules",
            "_original_object_hash",
            "_post_init_done",
            "_pp_plan",
            "_skip_keys_device_placement",
            "_tp_plan",
            "_use_kernels",
            "_weight_conversions",
            "all_tied_weights_keys",
            "architectures",
            "hf_device_map",
            "model_type",
            "name_or_path",
            "transformers_version",
        ]
    ),
}
