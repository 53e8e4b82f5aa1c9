"""Real networks of torchvision and transformers keep their digest, whatever is done around them.

Run as a script, it builds every network anew and prints the digests: so the tests see another
process.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import pickle
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")
if __name__ == "__main__":  # a torchvision that can be imported
    _kept = runpy.run_path(str(Path(__file__).parents[2] / "conftest.py"))
torchvision = pytest.importorskip("torchvision")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own, while it is imported
    transformers = pytest.importorskip("transformers")

from castore.identity.models.snapshot import ModelState, hash_model, snapshot  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

models = torchvision.models
detection = models.detection
_SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
}
_TEXT = {**_SMALL, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 50}
_PICTURE = {**_SMALL, "image_size": 32, "patch_size": 16}


class Family(NamedTuple):
    """How to make a network, and what to run it on; None where that needs torchvision's binary."""

    make: Callable[[], Any]
    given: Callable[[], Any] | None


def images(size: int = 64) -> Any:
    """Make a picture of noise."""
    return torch.rand(1, 3, size, size)


def tokens() -> Any:
    """Make a sentence of numbers."""
    return torch.arange(3, 11)[None]


def of_transformers(model: str, config: str, **values: Any) -> Callable[[], Any]:
    """Return how to make a network of transformers with random weights."""
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**values))


def _detr() -> Any:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_features=["stage4"]
    )
    config = transformers.DetrConfig(
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        decoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        encoder_layers=1,
        use_pretrained_backbone=False,
        use_timm_backbone=False,
    )
    return transformers.DetrModel(config)


_UNTRAINED = {"weights": None, "weights_backbone": None}
_WHISPER = {
    "d_model": 16,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_start_token_id": 0,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "encoder_layers": 1,
    "max_source_positions": 16,
    "max_target_positions": 16,
    "num_mel_bins": 8,
    **{
        name: _TEXT[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    },
}
_GPT2 = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 32}
_T5 = {"d_ff": 32, "d_kv": 8, "d_model": 16, "num_heads": 2, "num_layers": 2, "vocab_size": 50}

FAMILIES = {
    "ResNet": Family(lambda: models.resnet18(num_classes=4), images),
    "VisionTransformer": Family(
        lambda: models.VisionTransformer(32, 16, 2, 2, 32, 64), lambda: images(32)
    ),
    "MobileNetV3": Family(lambda: models.mobilenet_v3_small(width_mult=0.5), images),
    "EfficientNet": Family(lambda: models.efficientnet_b0(num_classes=4), images),
    "DenseNet": Family(lambda: models.DenseNet(8, (2, 2), 8), images),
    "SwinTransformer": Family(
        lambda: models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4]), images
    ),
    "SqueezeNet": Family(lambda: models.squeezenet1_1(num_classes=4), images),
    "ShuffleNetV2": Family(lambda: models.shufflenet_v2_x0_5(num_classes=4), images),
    "RegNet": Family(lambda: models.regnet_y_400mf(num_classes=4), images),
    "LRASPP": Family(lambda: models.segmentation.lraspp_mobilenet_v3_large(**_UNTRAINED), images),
    "LSTM": Family(lambda: torch.nn.LSTM(4, 4, 2), lambda: torch.rand(3, 1, 4)),
    "Bert": Family(of_transformers("BertModel", "BertConfig", **_TEXT), tokens),
    "GPT2": Family(
        of_transformers(
            "GPT2LMHeadModel", "GPT2Config", **_GPT2, vocab_size=50, bos_token_id=1, eos_token_id=2
        ),
        tokens,
    ),
    "ViT": Family(of_transformers("ViTModel", "ViTConfig", **_PICTURE), lambda: images(32)),
    "CLIP": Family(
        of_transformers(
            "CLIPModel", "CLIPConfig", text_config=_TEXT, vision_config=_PICTURE, projection_dim=8
        ),
        lambda: {"input_ids": tokens(), "pixel_values": images(32)},
    ),
    "T5": Family(
        of_transformers("T5Model", "T5Config", **_T5),
        lambda: {"input_ids": tokens(), "decoder_input_ids": tokens()},
    ),
    "Llama": Family(
        of_transformers("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=1, **_TEXT), tokens
    ),
    "Mixtral": Family(
        of_transformers(
            "MixtralForCausalLM",
            "MixtralConfig",
            num_key_value_heads=1,
            num_local_experts=2,
            **_TEXT,
        ),
        tokens,
    ),
    "Whisper": Family(
        of_transformers("WhisperModel", "WhisperConfig", **_WHISPER),
        lambda: {"input_features": torch.rand(1, 8, 32), "decoder_input_ids": tokens()},
    ),
    "Swin": Family(
        of_transformers(
            "SwinModel",
            "SwinConfig",
            depths=[1, 1],
            embed_dim=8,
            image_size=32,
            num_heads=[1, 2],
            patch_size=4,
            window_size=4,
        ),
        lambda: images(32),
    ),
    "Dinov2": Family(
        of_transformers("Dinov2Model", "Dinov2Config", **{**_PICTURE, "patch_size": 8}),
        lambda: images(32),
    ),
    "Segformer": Family(
        of_transformers(
            "SegformerModel",
            "SegformerConfig",
            depths=[1] * 4,
            hidden_sizes=[8] * 4,
            num_attention_heads=[1] * 4,
        ),
        images,
    ),
    "DETR": Family(_detr, images),
}
LARGE = {
    "ConvNeXt": Family(lambda: models.convnext_tiny(num_classes=2), images),
    "InceptionV3": Family(lambda: models.inception_v3(init_weights=False), lambda: images(299)),
    "GoogLeNet": Family(lambda: models.googlenet(init_weights=False), images),
    "DeepLabV3": Family(
        lambda: models.segmentation.deeplabv3_mobilenet_v3_large(**_UNTRAINED), images
    ),
    "FasterRCNN": Family(
        lambda: detection.fasterrcnn_mobilenet_v3_large_320_fpn(**_UNTRAINED), None
    ),
    "SSDLite": Family(
        lambda: detection.ssdlite320_mobilenet_v3_large(**_UNTRAINED, num_classes=2), None
    ),
    "RetinaNet": Family(lambda: detection.retinanet_resnet50_fpn(**_UNTRAINED), None),
}
ALL = {**FAMILIES, **LARGE}
NAMES = [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


def build(name: str, seed: int = 0) -> Any:
    """Build a network with the same weights every time, in eval mode."""
    torch.manual_seed(seed)
    return ALL[name].make().eval()


@functools.cache
def original(name: str) -> Any:
    """Return a network that no test changes."""
    return build(name)


def copied(name: str) -> Any:
    """Return a network that a test may change."""
    return copy.deepcopy(original(name)) if name in FAMILIES else build(name)


@functools.cache
def kept(name: str) -> ModelState:
    """Describe a network as it is built; the tests compare with it."""
    return snapshot(original(name) if name in FAMILIES else build(name))


def differences(name: str, model: Any) -> list[str]:
    """Tell what of `model` differs from the network as it is built."""
    return kept(name).differences(snapshot(model))


@pytest.mark.parametrize("name", NAMES)
def test_everything_in_a_network_has_a_rule(name):
    """No attribute of any family is left unkeyed, and one built anew has the same digest."""
    assert kept(name).not_keyed == {}
    assert hash_model(build(name)) == kept(name).digest


@pytest.mark.parametrize(
    "name", [name for name in NAMES if ALL[getattr(name, "values", [name])[0]].given]
)
def test_a_forward_pass_leaves_the_digest(name):
    """Running a network in eval mode changes nothing of it."""
    model = copied(name)
    given = ALL[name].given()
    with torch.inference_mode():
        model(**given) if isinstance(given, dict) else model(given)
    assert differences(name, model) == []


@pytest.mark.parametrize("name", NAMES)
def test_copies_have_the_digest(name):
    """A deep copy, a pickle's copy and a fresh network with the state loaded are the network."""
    model = copied(name)
    assert differences(name, copy.deepcopy(model)) == []
    assert differences(name, pickle.loads(pickle.dumps(model))) == []
    fresh = build(name, seed=1)
    assert differences(name, fresh) != []
    fresh.load_state_dict(model.state_dict())
    assert differences(name, fresh) == []


@pytest.mark.parametrize("name", NAMES)
def test_wrapped_networks_have_the_digest(name):
    """Compiled or parallel, a network is itself; so it is after `.to("cpu")`."""
    model = copied(name)
    assert differences(name, torch.compile(model)) == []
    assert differences(name, torch.nn.DataParallel(model)) == []
    assert differences(name, model.to("cpu")) == []
    model.compile()
    assert differences(name, model) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_move_to_another_dtype_is_a_change_until_nothing_is_lost(name):
    """As float64 a network differs, and back it is what it was; by float16 values are lost."""
    model = copied(name).double()
    assert differences(name, model) != []
    assert differences(name, model.float()) == []
    model = model.half()
    assert differences(name, model) != []
    lost = differences(name, model.float())
    assert lost != []
    tensors = snapshot(model).tensors
    assert set(lost) <= tensors.keys()
    assert {kept(name).tensors[tensor][0] for tensor in lost} == {"float32"}


@pytest.mark.parametrize("name", NAMES)
def test_one_bit_and_one_flag_change_the_digest(name):
    """The last bit of the last parameter, and one module's training flag, are seen and named."""
    model = copied(name)
    *_, (tensor_name, tensor) = model.named_parameters()
    with torch.no_grad():
        tensor.view(-1)[-1:].view(torch.int32).bitwise_xor_(1)
    assert differences(name, model) == [tensor_name]
    *_, (module_name, module) = model.named_modules()
    module.train()
    expected = {tensor_name, f"{module_name}.training".lstrip(".")}
    assert set(differences(name, model)) == expected


@functools.cache
def printed(seed: str, names: tuple[str, ...]) -> dict[str, str]:
    """Build networks in another process, under another seed of Python's hash; return digests."""
    ran = subprocess.run(
        [sys.executable, __file__, *names],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        text=True,
    )
    found: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    return found


def test_other_processes_agree():
    """Networks that another process builds have the digests they have here."""
    assert printed("1", tuple(FAMILIES)) == {name: kept(name).digest for name in FAMILIES}


def test_generating_text_leaves_the_digest():
    """What a language model notes while it generates is no part of it."""
    model = copied("GPT2")
    model.generate(tokens(), max_new_tokens=2, do_sample=False)
    assert differences("GPT2", model) == []


def test_a_saved_network_agrees_with_the_one_that_is_loaded_again(tmp_path):
    """Of a checkpoint only the dtype that it notes in the config is new."""
    model = copied("Bert")
    model.save_pretrained(tmp_path)
    loaded = transformers.BertModel.from_pretrained(tmp_path).eval()
    assert differences("Bert", loaded) == ["config.dtype"]
    again = transformers.BertModel.from_pretrained(tmp_path).eval()
    assert hash_model(again) == hash_model(loaded)


def test_what_a_config_says_counts():
    """Another attention kernel or another epsilon makes another network."""
    model = copied("Bert")
    model.config._attn_implementation_internal = "eager"
    assert differences("Bert", model) == ["config._attn_implementation_internal"]
    model = copied("Bert")
    model.config.layer_norm_eps = 1e-3
    assert differences("Bert", model) == ["config.layer_norm_eps"]
    model.config._name_or_path = "elsewhere"
    assert differences("Bert", model) == ["config.layer_norm_eps"]


if __name__ == "__main__":
    print(json.dumps({name: hash_model(build(name)) for name in sys.argv[1:]}))  # noqa: T201
