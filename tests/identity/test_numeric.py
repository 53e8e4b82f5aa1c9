"""What deviates from torch's numeric defaults is keyed, the rest of the context recorded."""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import sys
import threading
import warnings

import pytest

from castore.canonical import dumps
from castore.identity import numeric
from castore.identity.numeric import context

#: What torch says of its older switches since 2.9, when they are set.
pytestmark = pytest.mark.filterwarnings("ignore:Please use the new API settings")


@pytest.fixture
def torch():
    """Torch, in which no test before has changed a switch."""
    module = pytest.importorskip("torch")
    assert context()[0] == {}
    yield module
    assert context()[0] == {}


def keyed():
    """What is keyed now, read without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return context()[0]


def printed(*lines: str, **environment: str) -> str:
    """What another process prints that runs `lines`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ASK = "from castore.identity.numeric import context; keyed, recorded = context()"


def test_without_torch_nothing_is_keyed():
    """A process without torch keys nothing, records Python's version and imports nothing."""
    out = printed(
        ASK,
        "import sys, platform; assert 'torch' not in sys.modules",
        "assert recorded['versions']['python'] == platform.python_version()",
        "print(keyed, sorted(recorded))",
    )
    assert out == "{} ['versions']"


def test_torch_as_it_comes_keys_nothing(torch):
    """A process with torch's own defaults agrees with one without torch."""
    assert printed("import torch", ASK, "print(keyed)") == "{}"


@contextlib.contextmanager
def attribute(owner, name, value, back=None):
    """Set an attribute of torch's, whose old value may not be what sets it back."""
    old = getattr(owner, name) if back is None else back
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)


MATMUL = "backends.cuda.matmul"


@pytest.mark.parametrize(
    ("switch", "value", "back", "expected"),
    [
        (f"{MATMUL}.allow_tf32", True, None, {"float32.cuda.matmul": "tf32"}),
        (
            "backends.cudnn.allow_tf32",
            False,
            None,
            {"float32.cuda.conv": "ieee", "float32.cuda.rnn": "ieee"},
        ),
        (f"{MATMUL}.allow_fp16_accumulation", True, None, {"allow_fp16_accumulation": True}),
        *[
            (f"{MATMUL}.{name}", False, None, {name: False})
            for name in (
                "allow_fp16_reduced_precision_reduction",
                "allow_bf16_reduced_precision_reduction",
            )
        ],
        *[
            (f"backends.{place}.fp32_precision", value, back, {f"float32.{key}": effect})
            for place, value, back, key, effect in (
                ("cuda.matmul", "tf32", "none", "cuda.matmul", "tf32"),
                ("cudnn.conv", "ieee", "tf32", "cuda.conv", "ieee"),
                ("cudnn.rnn", "none", "tf32", "cuda.rnn", "ieee"),
                ("mkldnn.matmul", "bf16", "none", "mkldnn.matmul", "bf16"),
                ("mkldnn.matmul", "tf32", "none", "mkldnn.matmul", "tf32"),
                ("mkldnn.conv", "bf16", "none", "mkldnn.conv", "bf16"),
                ("mkldnn.rnn", "bf16", "none", "mkldnn.rnn", "bf16"),
            )
        ],
    ],
)
def test_each_switch_is_keyed(torch, switch, value, back, expected):
    """Each switch changes what is keyed, by the effect it has, and set back changes it back."""
    *place, name = switch.split(".")
    owner = functools.reduce(lambda part, below: getattr(part, below, None), place, torch)
    if not hasattr(owner, name):
        pytest.skip("this torch has no such switch")
    with attribute(owner, name, value, back):
        assert keyed() == expected
    assert keyed() == {}


def test_split_k_is_keyed(torch):
    """Reductions that may be split but not reduced, or not even split, are keyed apart."""
    matmul = torch.backends.cuda.matmul
    name = "allow_fp16_reduced_precision_reduction"
    if not hasattr(matmul, f"{name}_split_k"):
        pytest.skip("this torch has no such switch")
    with attribute(matmul, name, (False, False), True):
        assert keyed() == {name: False, f"{name}_split_k": False}


def test_reductions_of_attention_are_keyed(torch):
    """Attention that may reduce in half precision is keyed."""
    allow = getattr(torch.backends.cuda, "allow_fp16_bf16_reduction_math_sdp", None)
    if allow is None:
        pytest.skip("this torch has no such switch")
    allow(True)
    try:
        assert keyed() == {"fp16_bf16_reduction_math_sdp_allowed": True}
    finally:
        allow(False)


@contextlib.contextmanager
def matmul_precision(torch, precision):
    """Set what float32 matrices are multiplied in."""
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("highest", {}),
        ("high", {"float32.cuda.matmul": "tf32", "float32.mkldnn.matmul": "tf32"}),
        ("medium", {"float32.cuda.matmul": "tf32", "float32.mkldnn.matmul": "bf16"}),
    ],
)
def test_float32_matmul_precision_is_keyed(torch, precision, expected):
    """Each word for float32 matrix products is keyed by what it means for each backend."""
    with matmul_precision(torch, precision):
        assert keyed() == expected


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("cudnn", [True, False])
def test_old_and_new_torch_agree(torch, precision, cudnn):
    """What torch before 2.9 tells by its switches is what later ones tell by theirs."""
    with (
        matmul_precision(torch, precision),
        attribute(torch.backends.cudnn, "allow_tf32", cudnn),
    ):
        older = {**numeric._FLOAT32, **numeric._older_float32(torch)}
        assert older == numeric._float32(torch)


def test_newer_switches_do_not_break_the_reading(torch):
    """Set to what torch's older switches cannot say, and raise on, the newer ones are keyed."""
    if not hasattr(torch._C, "_get_fp32_precision_getter"):
        pytest.skip("this torch has the older switches only")
    with (
        attribute(torch.backends.cuda.matmul, "fp32_precision", "tf32", "none"),
        attribute(torch.backends.cudnn.conv, "fp32_precision", "ieee", "tf32"),
    ):
        with pytest.raises(RuntimeError, match="mix of the legacy and new"):
            torch.backends.cuda.matmul.allow_tf32  # noqa: B018
        with pytest.raises(RuntimeError, match="mix of the legacy and new"):
            torch.backends.cudnn.allow_tf32  # noqa: B018
        assert keyed() == {"float32.cuda.matmul": "tf32", "float32.cuda.conv": "ieee"}


def test_a_switch_above_others_is_keyed_by_its_effect(torch):
    """The precision of all of torch is keyed for the operators that it reaches."""
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch has no such switch")
    out = printed(
        "import torch; torch.backends.fp32_precision = 'tf32'",
        ASK,
        "print(*sorted(keyed), set(keyed.values()))",
    )
    mkldnn = "float32.mkldnn.conv float32.mkldnn.matmul float32.mkldnn.rnn"
    assert out == f"float32.cuda.matmul {mkldnn} {{'tf32'}}"


def test_autocast_is_keyed_with_its_dtype(torch):
    """Autocast is keyed while it is enabled, by device type and dtype."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert keyed() == {"autocast.cpu": "bfloat16"}
        with torch.autocast("cpu", dtype=torch.float16):
            assert keyed() == {"autocast.cpu": "float16"}
        with torch.autocast("cpu", enabled=False):
            assert keyed() == {}


def test_autocast_is_the_threads_own(torch):
    """Another thread, for which autocast is not enabled, keys none."""
    found = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        thread = threading.Thread(target=lambda: found.append(keyed()))
        thread.start()
        thread.join()
    assert found == [{}]


def test_autocast_of_every_device_type_is_keyed(torch):
    """Of all device types that torch names, those that have autocast are asked for it."""
    with pytest.raises(RuntimeError) as refusal:
        torch.device("nonsense")
    known = re.findall(r"\w+", re.search(r"one of (.+) device type", str(refusal.value))[1])
    assert {"cpu", "cuda", "mps", "xpu"} <= set(known)
    for device in set(known) - {"mkldnn"}:  # deprecated: to name it warns
        try:
            torch.is_autocast_enabled(device)
        except RuntimeError:
            continue
        dtype = torch.get_autocast_dtype(device)
        torch.set_autocast_enabled(device, True)
        try:
            assert keyed() == {f"autocast.{device}": str(dtype).removeprefix("torch.")}
        finally:
            torch.set_autocast_enabled(device, False)


def test_the_default_dtype_is_keyed(torch):
    """Another default dtype is keyed."""
    torch.set_default_dtype(torch.float64)
    try:
        assert keyed() == {"default_dtype": "float64"}
    finally:
        torch.set_default_dtype(torch.float32)


def test_nvidias_override_is_keyed(torch, monkeypatch):
    """What turns TF32 off behind torch's back is keyed."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert keyed() == {"NVIDIA_TF32_OVERRIDE": "0"}
    monkeypatch.undo()


def test_torchs_override_is_keyed(torch):
    """TF32 turned on by torch's environment variable is keyed as TF32 is."""
    out = printed("import torch", ASK, "print(keyed)", TORCH_ALLOW_TF32_CUBLAS_OVERRIDE="1")
    assert "'float32.cuda.matmul': 'tf32'" in out


def test_versions_and_switches_are_recorded(torch):
    """Versions, default device, cuDNN's and determinism's switches are recorded, not keyed."""
    before = context()[1]
    assert before["versions"]["torch"] == torch.__version__
    assert before["device"] == "cpu"
    assert before["deterministic_algorithms"] is False
    torch.use_deterministic_algorithms(True)
    torch.set_default_device("meta")
    try:
        with (
            attribute(torch.backends.cudnn, "benchmark", True),
            attribute(torch.backends.cudnn, "deterministic", True),
            attribute(torch.backends.cudnn, "enabled", False),
        ):
            assert context() == (
                {},
                {
                    "versions": before["versions"],
                    "device": "meta",
                    "cudnn": {"enabled": False, "benchmark": True, "deterministic": True},
                    "deterministic_algorithms": True,
                },
            )
    finally:
        torch.set_default_device(None)
        torch.use_deterministic_algorithms(False)
    assert context()[1] == before


def test_it_is_a_document(torch):
    """Both parts have a canonical form, and it is the same at each call."""
    with torch.autocast("cpu"), matmul_precision(torch, "medium"):
        assert dumps(context()) == dumps(context())
