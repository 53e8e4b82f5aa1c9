"""What must be told apart, and what must not (I1-I32), in real calls on real objects.

*Must differ*: two calls that give two results under one suffix each get their own, twice over.
*Must agree*: the second call is answered with what the first computed.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import MethodType

import numpy as np
import pytest

import castore
from castore.errors import FingerprintError

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from PIL import Image  # noqa: E402  comes with torchvision
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset  # noqa: E402
from torchvision import transforms  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402

LAYER = 1
ROOT = Path(__file__).parents[2]

_numbers = itertools.count()


@pytest.fixture
def store():
    """A store in memory that nothing else uses."""
    return castore.open(f"memory://identity-cases-{next(_numbers)}")


def same_bits(one, two):
    """Tell whether two arrays agree in dtype, shape and every bit."""
    return (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())


def told_apart(store, first, second, **options):
    """See that two calls, each (loader, function), get each its own result, not the other's."""
    live = [fn(loader) for loader, fn in (first, second)]
    assert not same_bits(*live)
    for _ in range(2):
        for (loader, fn), expected in zip((first, second), live, strict=True):
            found = store.get_or_compute(loader, fn, **{"suffix": "features", **options})
            assert same_bits(found, expected)
    assert (store.stats().hits, store.stats().misses) == (2, {"absent": 2})


def answered_alike(store, first, *others, **options):
    """See that calls, each (loader, function), are answered with what the first computed."""
    loader, fn = first
    expected = store.get_or_compute(loader, fn, "features", **options)
    for loader, fn in others:
        assert same_bits(store.get_or_compute(loader, fn, "features", **options), expected)
    assert (store.stats().hits, store.stats().misses) == (len(others), {"absent": 1})


def numbered(rows=6, columns=4, **options):
    """Return a loader of `rows` samples, each unlike any other."""
    values = torch.arange(rows * columns, dtype=torch.float32).view(rows, columns)
    return DataLoader(TensorDataset(values), batch_size=2, **options)


def pictures(rows=4):
    """Return a loader of random pictures of three channels and 32 by 32 pixels."""
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.rand(rows, 3, 32, 32, generator=generator)), batch_size=2)


def write_images(root, classes=("cat", "dog")):
    """Write three grey images into each of the class folders."""
    for name in classes:
        rng = np.random.default_rng([ord(letter) for letter in name])
        for number in range(3):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
    return root


def extract(loader):
    """Concatenate the first thing of every sample that the loader gives."""
    return torch.cat([batch[0].flatten(1) for batch in loader]).numpy()


def embed(loader, model):
    """Run `model` over the loader."""
    with torch.no_grad():
        return torch.cat([model(batch) for (batch,) in loader]).flatten(1).numpy()


def seeded(make):
    """Make a model whose weights are always the same, in eval mode."""
    torch.manual_seed(0)
    return make().eval()


def models_told_apart(store, loader, one, two):
    """See that two models, passed to the same function, each get their own features."""
    told_apart(store, *((loader, functools.partial(embed, model=model)) for model in (one, two)))


def import_file(path, name):
    """Import a file of Python as the module `name`."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Must differ


def at_layer(loader, layer=1):
    """Return features of a layer."""
    return extract(loader) * layer


def test_i01_an_argument_of_a_partial(store):
    """I1: partial(f, layer=1) and partial(f, layer=2) are two functions."""
    first, second = (functools.partial(at_layer, layer=layer) for layer in (1, 2))
    told_apart(store, (numbered(), first), (numbered(), second))


def test_i02_a_value_in_a_closure(store):
    """I2: a function that closes over k = 1 is not one that closes over k = 2."""

    def times(k):
        return lambda loader: extract(loader) * k

    told_apart(store, (numbered(), times(1)), (numbered(), times(2)))


def test_i03_a_global_constant(store, tmp_path):
    """I3: a function reads a constant of its module, which was edited between two runs."""
    calls = []
    for layer in (1, 2):
        path = tmp_path / str(layer) / "features.py"
        path.parent.mkdir()
        path.write_text(
            "import torch\n\n"
            f"LAYER = {layer}\n\n"
            "def extract(loader):\n"
            "    return torch.cat([batch for (batch,) in loader]).numpy() * LAYER\n"
        )
        calls.append((numbered(), import_file(path, "features").extract))
    told_apart(store, *calls)


def test_i03_a_global_constant_set_anew(store, monkeypatch):
    """I3: the same function, after the constant it reads was set to something else."""
    loader, found = numbered(), []
    for layer in (1, 2):
        monkeypatch.setitem(globals(), "LAYER", layer)
        found.append(store.get_or_compute(loader, by_the_constant, "features"))
        assert same_bits(found[-1], by_the_constant(loader))
    assert not same_bits(*found)


def by_the_constant(loader):
    """Return features of the layer that the module says."""
    return extract(loader) * LAYER


def test_i04_a_default_argument(store):
    """I4: a function whose argument is 1 by default is not one where it is 2."""

    def with_default(k):
        def features(loader, layer=k):
            return extract(loader) * layer

        return features

    told_apart(store, (numbered(), with_default(1)), (numbered(), with_default(2)))


def test_i05_two_functions_without_a_suffix(store):
    """I5: two functions of one name, without a suffix, go by what they say."""

    def pooled(loader):
        return extract(loader).mean(axis=1)

    first = pooled

    def pooled(loader):
        return extract(loader).max(axis=1)

    told_apart(store, (numbered(), first), (numbered(), pooled), suffix="")


def test_i06_a_feature_extractor_at_two_nodes(store):
    """I6: two nodes of one network, below which lie the same layers, are two extractors."""
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    def at(node):
        network = seeded(lambda: resnet18(weights=None))
        return create_feature_extractor(network, {node: "features"}).eval()

    def features(model, loader):
        with torch.no_grad():
            return torch.cat([model(batch)["features"] for (batch,) in loader]).numpy()

    extractors = [at("layer1.0.add"), at("layer1.0.relu_1")]
    states = [{n: t.shape for n, t in model.state_dict().items()} for model in extractors]
    assert states[0] == states[1]
    told_apart(store, *((pictures(), functools.partial(features, e)) for e in extractors))


def test_i07_a_stride(store):
    """I7: a convolution of the same weights with another stride is another model."""
    one, two = (seeded(lambda s=s: nn.Conv2d(3, 4, 3, stride=s, padding=1)) for s in (1, 2))
    models_told_apart(store, pictures(), one, two)


class Attending(nn.Module):
    """Attention of every picture's rows to each other."""

    def __init__(self, heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, heads, batch_first=True)

    def forward(self, batch):
        """Attend."""
        rows = batch.flatten(1, 2)
        return self.attention(rows, rows, rows)[0]


def test_i08_the_number_of_heads(store):
    """I8: attention with the same weights, cut into another number of heads, is another model."""
    one, two = (seeded(functools.partial(Attending, heads)) for heads in (2, 4))
    models_told_apart(store, pictures(), one, two)


class Pooled(nn.Module):
    """A convolution whose output is pooled in a way that an attribute names."""

    def __init__(self, pooling):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.pooling = pooling

    def forward(self, batch):
        """Pool over the pixels."""
        found = self.stem(batch).flatten(2)
        return found.mean(-1) if self.pooling == "mean" else found.amax(-1)


def test_i09_the_pooling(store):
    """I9: another pooling over the same weights is another model, by attribute or by layer."""
    models_told_apart(store, pictures(), *(seeded(lambda p=p: Pooled(p)) for p in ("mean", "max")))
    layers = (nn.AvgPool2d(4), nn.MaxPool2d(4))
    one, two = (seeded(lambda p=p: nn.Sequential(nn.Conv2d(3, 4, 3), p)) for p in layers)
    models_told_apart(castore.open("memory://identity-cases-pooling"), pictures(), one, two)


def test_i10_an_epsilon(store):
    """I10: a normalisation with another epsilon is another model."""
    one, two = (seeded(lambda e=e: nn.LayerNorm(4, eps=e)) for e in (1e-5, 1e-1))
    models_told_apart(store, numbered(), one, two)


def double(_module, _inputs, output):
    """Double what a module puts out."""
    return output * 2


def test_i11_a_hook(store):
    """I11: a model with a hook that changes its output is another model."""
    plain, hooked = (seeded(lambda: nn.Linear(4, 3)) for _ in range(2))
    hooked.register_forward_hook(double)
    models_told_apart(store, numbered(), plain, hooked)


def test_i12_forward_set_on_the_instance(store):
    """I12: a model whose forward was replaced on the instance is another model."""
    plain, patched = (seeded(lambda: nn.Linear(4, 3)) for _ in range(2))
    patched.forward = MethodType(lambda self, batch: batch @ self.weight.T, patched)
    models_told_apart(store, numbered(), plain, patched)


class Adapted(nn.Module):
    """A layer with two low-rank adapters, of which one is active."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 3)
        self.adapters = nn.ModuleDict({name: nn.Linear(4, 3, bias=False) for name in ("a", "b")})
        self.active_adapter = "a"

    def set_adapter(self, name):
        """Choose the adapter that counts."""
        self.active_adapter = name
        return self

    def forward(self, batch):
        """Add what the adapter says."""
        return self.base(batch) + self.adapters[self.active_adapter](batch)


def test_i13_the_active_adapter(store):
    """I13: a model of the same weights, with another adapter active, is another model."""
    one, two = (seeded(Adapted).set_adapter(name) for name in ("a", "b"))
    models_told_apart(store, numbered(), one, two)


def test_i14_one_submodule_in_training(store):
    """I14: a model of which one submodule is in training mode is another model."""
    one, two = (seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(p=1.0))) for _ in range(2))
    two[1].train()
    assert not two.training
    models_told_apart(store, numbered(), one, two)


def upright(path):
    """Load an image as it is."""
    return Image.open(path).convert("L")


def flipped(path):
    """Load an image upside down."""
    return upright(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def test_i15_the_loader_of_images(store, tmp_path):
    """I15: images that another loader= function reads are other samples."""
    root = write_images(tmp_path)
    sets = [ImageFolder(root, transforms.ToTensor(), loader=load) for load in (upright, flipped)]
    told_apart(store, *((DataLoader(data), extract) for data in sets))


def test_i16_the_target_transform(store, tmp_path):
    """I16: labels that another target_transform makes are other labels."""
    root = write_images(tmp_path)

    def labels(loader):
        return torch.cat([target for _, target in loader]).numpy()

    def folder(target_transform):
        return ImageFolder(root, transforms.ToTensor(), target_transform)

    sets = [folder(lambda target: target + 1), folder(lambda target: 10 - target)]
    told_apart(store, *((DataLoader(data, batch_size=2), labels) for data in sets))


class Cropped(ImageFolder):
    """Images of which an attribute says how much is used."""

    def __init__(self, root, size):
        super().__init__(root, transforms.ToTensor())
        self.size = size

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image[:, : self.size], target


def test_i17_an_attribute_that_getitem_reads(store, tmp_path):
    """I17: a subclass that reads its samples in a way of its own is refused, and told the way."""
    root = write_images(tmp_path)
    for size in (2, 4):
        with pytest.raises(FingerprintError, match=r"(?s)Cropped \(.*dataset_id=\"cropped@1\""):
            store.get_or_compute(DataLoader(Cropped(root, size)), extract, "features")


def test_i17_an_attribute_that_getitem_reads_of_rows_that_name_themselves(store, tmp_path):
    """I17: where such a class names its rows, the attribute is part of them."""
    root = write_images(tmp_path)

    class Named(Cropped):
        def __castore_row_ids__(self, indices):
            return [str(Path(self.samples[i][0]).relative_to(self.root)) for i in indices]

    told_apart(store, *((DataLoader(Named(root, size)), extract) for size in (2, 4)))


def test_i18_two_classes_of_one_name(store, tmp_path):
    """I18: a class of the user's that was edited between two runs is another class."""
    networks = []
    for factor in (1, 2):
        path = tmp_path / str(factor) / "network.py"
        path.parent.mkdir()
        path.write_text(
            "import torch\n\n"
            "class Network(torch.nn.Linear):\n"
            "    def forward(self, batch):\n"
            f"        return super().forward(batch) * {factor}\n"
        )
        kind = import_file(path, "network").Network
        networks.append(seeded(functools.partial(kind, 4, 3)))
    assert len({(type(n).__module__, type(n).__qualname__) for n in networks}) == 1
    models_told_apart(store, numbered(), *networks)


def test_i19_the_body_of_a_lambda_transform(store, tmp_path):
    """I19: T.Lambda with another body is another transform."""
    root = write_images(tmp_path)

    def folder(function):
        steps = [transforms.ToTensor(), transforms.Lambda(function)]
        return DataLoader(ImageFolder(root, transforms.Compose(steps)))

    doubled, squared = folder(lambda image: image * 2), folder(lambda image: image**2)
    told_apart(store, (doubled, extract), (squared, extract))


def test_i20_the_transform_of_a_huggingface_dataset(store):
    """I20: a HuggingFace dataset after set_transform with another function is another."""
    datasets = pytest.importorskip("datasets")

    def loader(factor):
        data = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0]]})
        data.set_transform(lambda rows: {"x": torch.tensor(rows["x"]) * factor})
        return DataLoader(data, batch_size=2)

    def features(loader):
        return torch.cat([batch["x"] for batch in loader]).numpy()

    told_apart(store, (loader(1), features), (loader(2), features))


def test_i21_under_autocast(store):
    """I21: what is computed under autocast is not served outside it, nor the reverse."""
    model, loader = seeded(lambda: nn.Linear(4, 3)), numbered()

    def features(loader):
        with torch.no_grad():
            return torch.cat([model(batch) for (batch,) in loader]).float().numpy()

    for _ in range(2):
        plain = store.get_or_compute(loader, features, "features")
        with torch.autocast("cpu", torch.bfloat16):
            rounded = store.get_or_compute(loader, features, "features")
            assert same_bits(rounded, features(loader))
        assert same_bits(plain, features(loader))
        assert not same_bits(plain, rounded)
    assert store.stats().hits == 2


def test_i22_another_default_dtype(store):
    """I22: what is computed under another default dtype is not served."""
    loader = numbered()

    def features(loader):
        return torch.cat([batch[:, :1] * torch.linspace(0, 1, 5) for (batch,) in loader]).numpy()

    before, found = torch.get_default_dtype(), {}
    for dtype in (torch.float32, torch.float64) * 2:
        try:
            torch.set_default_dtype(dtype)
            found[dtype] = store.get_or_compute(loader, features, "features")
            assert same_bits(found[dtype], features(loader))
        finally:
            torch.set_default_dtype(before)
    assert found[torch.float32].dtype != found[torch.float64].dtype
    assert store.stats().hits == 2


def test_i23_a_token_added_to_a_tokenizer(store):
    """I23: a HuggingFace tokenizer to which one token was added is another."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")

    def tokenizer():
        words = {"[UNK]": 0, "a": 1, "cat": 2}
        base = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
        base.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        return transformers.PreTrainedTokenizerFast(tokenizer_object=base, unk_token="[UNK]")

    def features(tokenizer, loader):
        return np.array([tokenizer(text)["input_ids"] for text in loader])

    plain, taught = tokenizer(), tokenizer()
    taught.add_tokens(["dog"])
    texts = ["a cat", "a dog"]
    first, second = (functools.partial(features, used) for used in (plain, taught))
    told_apart(store, (texts, first), (texts, second))


def test_i24_another_bank_of_neighbours(store):
    """I24: distances to another bank of neighbours in a closure are other distances."""
    neighbors = pytest.importorskip("sklearn.neighbors")

    def to_bank(bank):
        return lambda loader: torch.cdist(torch.from_numpy(extract(loader)), bank).numpy()

    def to_fitted(bank):
        fitted = neighbors.NearestNeighbors(n_neighbors=2).fit(bank.numpy())
        return lambda loader: fitted.kneighbors(extract(loader))[0]

    for distances in (to_bank, to_fitted):
        empty = castore.open(f"{store.url}-{distances.__name__}")
        banks = (torch.ones(3, 4), torch.eye(4)[:3])
        told_apart(empty, *((numbered(), distances(bank)) for bank in banks))


class Own(Dataset):
    """A dataset of the user's own, with a transform."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return (self.transform(torch.arange(3.0) + index),)


def test_i25_another_transform_under_one_dataset_id(store):
    """I25: to vouch for a dataset is not to vouch for its transform."""
    sets = [Own(lambda sample: sample + 1), Own(lambda sample: sample * 2)]
    told_apart(store, *((DataLoader(data), extract) for data in sets), dataset_id="own@1")


# Must agree


@pytest.fixture
def process_group(tmp_path):
    """A process group of this process alone."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    meeting = f"file://{tmp_path}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # torch.compile's
def test_i26_a_model_in_wrappers(store, process_group):
    """I26: a model that is compiled, or wrapped for parallel execution, is the model."""

    def model():
        return seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))

    wrap = nn.parallel.DistributedDataParallel
    wrapped = [model(), torch.compile(model()), wrap(model()), torch.compile(wrap(model()))]
    wrapped += [nn.DataParallel(model())]
    calls = ((numbered(), functools.partial(embed, model=m.eval())) for m in wrapped)
    answered_alike(store, *calls)


def test_i27_comments_docstrings_and_moved_lines(tmp_path, store):
    """I27: a function that was commented, documented, moved and laid out anew is the same."""
    before = """
        import torch

        def extract(loader, scale=2.0):
            rows = [batch * scale for (batch,) in loader]
            return torch.cat(rows).numpy()
        """
    after = '''
        """Features."""

        import torch

        OTHER = 1


        def unrelated():
            """Do something else."""


        def extract(loader, scale=2.0):
            """Return features, `scale` times."""
            # Batches are tuples of one.
            rows = [
                batch * scale
                for (batch,) in loader
            ]

            return torch.cat(rows).numpy()  # on the CPU
        '''
    functions = []
    for name, text in (("before", before), ("after", after)):
        path = tmp_path / name / "features.py"
        path.parent.mkdir()
        path.write_text(textwrap.dedent(text))
        functions.append(import_file(path, "features").extract)
    for suffix in ("", "features"):
        for fn in functions:
            store.get_or_compute(numbered(), fn, suffix)
    assert (store.stats().hits, store.stats().misses) == (2, {"absent": 2})


def test_i28_a_device_in_a_closure(store, caplog):
    """I28: what was computed on the CPU is found, without a word, where it is to run on a GPU."""

    def on(device):
        def features(loader):
            return torch.cat([batch.to(device) for (batch,) in loader]).cpu().numpy()

        return features

    devices = [torch.device(name) for name in ("cpu", "cuda:0", "cuda:1")]
    answered_alike(store, *((numbered(), on(device)) for device in devices))
    assert "device" not in caplog.text


PROGRAM = '''
import sys

import torch
from torch.utils.data import DataLoader, TensorDataset

import castore

SCALE = 2.0


class Net(torch.nn.Linear):
    """A network."""

    def forward(self, batch):
        """Scale."""
        return super().forward(batch) * SCALE


def prepared(batch):
    """Prepare."""
    return batch + SCALE


def extract(loader, model):
    """Extract."""
    with torch.no_grad():
        return torch.cat([model(prepared(batch)) for (batch,) in loader]).numpy()


def run(url):
    """Ask the store at `url`, and print what it did."""
    torch.manual_seed(0)
    model = Net(4, 3).eval()
    loader = DataLoader(TensorDataset(torch.arange(24.0).view(6, 4)), batch_size=2)
    store = castore.open(url)
    for suffix in ("", "features"):
        store.get_or_compute(loader, lambda loader: extract(loader, model), suffix)
    print(store.stats().hits)


if __name__ == "__main__":
    run(sys.argv[1])
'''


def test_i29_run_as_a_script_and_imported(tmp_path):
    """I29: a function of a script, of a module run by name and of one imported is the same."""
    package = tmp_path / "project"
    package.mkdir()
    (package / "features.py").write_text(PROGRAM)
    importing = "import sys; from project.features import run; run(sys.argv[1])"
    hits = []
    for how in (["project/features.py"], ["-m", "project.features"], ["-c", importing]):
        done = subprocess.run(
            [sys.executable, *how, tmp_path / "store"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        hits.append(done.stdout.strip())
    assert hits == ["0", "2", "2"]


def test_i30_a_model_left_in_eval_mode(store):
    """I30: a function that puts its model into eval mode finds its result again."""
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout())).train()

    def features(loader):
        model.eval()
        return embed(loader, model)

    answered_alike(store, *[(numbered(), features)] * 3)
    assert model.training


def test_i31_another_number_of_workers(store):
    """I31: how many processes load the samples does not count, nor how far they read ahead."""
    loaders = [
        numbered(),
        numbered(num_workers=1),
        numbered(num_workers=1, prefetch_factor=4, persistent_workers=True, timeout=5),
        numbered(pin_memory=False, generator=torch.Generator()),
    ]
    answered_alike(store, *((loader, extract) for loader in loaders))


def test_i32_a_class_folder_in_front(store, tmp_path):
    """I32: a class folder that moves the class numbers is no matter where targets are ignored."""
    before = ImageFolder(write_images(tmp_path / "before"), transforms.ToTensor())
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    after = ImageFolder(write_images(tmp_path / "after", ["ant"]), transforms.ToTensor())
    assert [target for _, target in after.samples[3:]] != before.targets
    same_files = Subset(after, range(3, len(after)))
    calls = [(DataLoader(data), extract) for data in (before, same_files)]
    answered_alike(store, *calls, ignore=("target",))
    for loader, fn in calls:
        store.get_or_compute(loader, fn, "features")
    assert store.stats().misses == {"absent": 3}
