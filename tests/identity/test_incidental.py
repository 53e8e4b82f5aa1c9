"""Attributes that say nothing of what an object computes."""

from __future__ import annotations

import pytest

from castore.identity.incidental import computed, incidental

torch = pytest.importorskip("torch")
nn = torch.nn


def test_a_class_inherits_what_does_not_count():
    """A class derived from one with incidental attributes has them, others have none."""

    class Mine(nn.LSTM):
        pass

    assert incidental(Mine) == incidental(nn.LSTM) == {"_flat_weight_refs"}
    assert incidental(nn.Linear) == frozenset()
    graph = type(torch.fx.symbolic_trace(nn.Sequential(nn.ReLU())))
    assert {"_graph", "_code", "meta"} <= incidental(graph)


def test_every_name_left_out_exists():
    """Names that are left out of graph modules and recurrent networks are those torch has."""
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    assert incidental(type(traced)) <= vars(traced).keys()
    assert incidental(nn.LSTM) <= vars(nn.LSTM(1, 1)).keys()


def test_configs_of_transformers_keep_what_they_configure():
    """Of a config only where it came from is left out."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig()
    left = vars(config).keys() - incidental(type(config))
    assert {"hidden_size", "layer_norm_eps", "_attn_implementation_internal"} <= left
    assert not left & {"_name_or_path", "transformers_version", "architectures"}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_only_weights_that_a_hook_computes_are_left_out():
    """The product of an old norm or a mask is named, whatever it is called."""
    from torch.nn.utils import prune

    layer = nn.utils.weight_norm(nn.Linear(2, 2), "bias", dim=None)
    prune.identity(layer, "weight")
    layer.register_forward_pre_hook(lambda *_: None)
    assert computed(layer._forward_pre_hooks.values()) == {"bias", "weight"}
