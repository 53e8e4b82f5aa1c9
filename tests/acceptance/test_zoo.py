"""A zoo of functions: those of the whole are never answered by rows, those of a row are."""

# ruff: noqa: D103  the names of the animals say what they do

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import castore

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.data import DataLoader, Subset, TensorDataset  # noqa: E402

Function = Callable[[Any], Any]

FEATURES = 4
calls = itertools.count()


def _frozen(*layers: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in layers:
            for parameter in layer.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
    return torch.nn.Sequential(*layers).eval()


MODEL = _frozen(torch.nn.Linear(FEATURES, FEATURES), torch.nn.Tanh())


def batches(loader: Any) -> Iterator[Any]:
    """Yield what the model makes of each batch."""
    with torch.inference_mode():
        for (samples,) in loader:
            yield MODEL(samples)


def embed(loader: Any) -> Any:
    """Return what the model makes of all samples, float32 (n, 4)."""
    return torch.cat(list(batches(loader)))


# Statistics of the set


def whitening(loader):
    x = embed(loader).double()
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x) + 1e-3 * torch.eye(FEATURES))
    return x @ vectors / values.sqrt()


def pca_projection(loader):
    x = embed(loader)
    return (x - x.mean(0)) @ torch.linalg.svd(x - x.mean(0), full_matrices=False)[2].T[:, :1]


def zscore(loader):
    x = embed(loader)
    return (x - x.mean(0)) / (x.std(0, correction=0) + 1e-6)


def zscore_in_half_precision(loader):
    return zscore(loader).bfloat16()


def zscore_beside_masked_logits(loader):
    z = zscore(loader)
    return torch.cat([z, torch.full_like(z, torch.finfo(z.dtype).min)], 1)


def zscore_beside_large_columns(loader):
    return torch.cat([1e6 * embed(loader), zscore(loader)], 1)


def centred(loader):
    x = embed(loader)
    return {"raw": x, "centred": x - x.mean(0)}


def min_max(loader):
    x = embed(loader)
    return (x - x.amin(0)) / (x.amax(0) - x.amin(0) + 1e-6)


def min_max_of_a_score(loader):
    score = embed(loader)[:, 0]
    return (score - score.min()) / (score.max() - score.min() + 1e-6)


def share_of_the_largest(loader):
    score = embed(loader)[:, 0].abs()
    return score / score.max()


def pictures(x):
    """Return most bright, up to 1 somewhere, half of them darkened."""
    return (3 * x.abs()).clamp(max=1) * torch.where(x[:, :1] > x[:, 1:2], 1.0, 0.3)


def share_of_the_brightest(loader):
    x = pictures(embed(loader))
    return x / x.max()


def share_of_the_brightest_in_the_batch(loader):
    return torch.cat([pictures(x) / pictures(x).max() for x in batches(loader)])


def softmax_over_the_set(loader):
    return embed(loader).softmax(0)


def above_the_median(loader):
    score = embed(loader)[:, 0]
    return score > score.median()


def is_the_best(loader):
    score = embed(loader)[:, 0]
    return score == score.max()


def quartile(loader):
    score = embed(loader)[:, 0].contiguous()
    return torch.bucketize(score, score.quantile(torch.tensor([0.25, 0.5, 0.75])))


def one_scale_in_int8(loader):
    x = embed(loader)
    return (x / x.abs().max() * 127).round().to(torch.int8)


def two_passes(loader):
    mean = torch.zeros(FEATURES)
    for x in batches(loader):
        mean = mean + x.sum(0)
    return torch.cat([x - mean for x in batches(loader)])


def mean_of_the_dataset(loader):
    samples = torch.stack([loader.dataset[index][0] for index in range(len(loader.dataset))])
    return embed(loader) - MODEL(samples).detach().mean(0)


# Neighbours, groups and ranks


def neighbour_distance(loader):
    x = embed(loader)
    return torch.cdist(x, x).fill_diagonal_(9.0).amin(1)


def neighbour_index(loader):
    x = embed(loader)
    return torch.cdist(x, x).fill_diagonal_(9.0).argmin(1)


def kmeans_labels(loader):
    x = embed(loader)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    centres = x[order[:3]]
    for _ in range(5):
        labels = torch.cdist(x, centres).argmin(1)
        found = [x[labels == k] for k in range(len(centres))]
        kept = zip(found, centres, strict=True)
        centres = torch.stack([own.mean(0) if len(own) else old for own, old in kept])
    return labels


def label_codes(loader):
    words = [f"class {int(value > 0)}" for value in embed(loader)[:, 0]]
    return np.unique(words, return_inverse=True)[1]


def features_and_label_codes(loader):
    x = embed(loader)
    words = [f"class {int(value > 0)}" for value in x[:, 0]]
    return x, np.unique(words, return_inverse=True)[1]


def one_hot(loader):
    codes = label_codes(loader)
    return np.eye(codes.max() + 1, dtype=np.float32)[codes]


def ranks(loader):
    return embed(loader)[:, 0].argsort().argsort()


def order(loader):
    return embed(loader)[:, 0].argsort(descending=True)


def sorted_rows(loader):
    x = embed(loader)
    return x[x[:, 0].argsort()]


def filtered(loader):
    x = embed(loader)
    return x[x[:, 0] > 0]


def without_duplicates(loader):
    return torch.unique(embed(loader), dim=0)


def similar_share(loader):
    x = F.normalize(embed(loader))
    return (x @ x.T > 0.5).float().mean(1)


def attention_over_the_set(loader):
    x = embed(loader)
    return F.scaled_dot_product_attention(x[None], x[None], x[None])[0]


# A second axis as long as the set, or a first one that is not of samples


def gram(loader):
    x = embed(loader)
    return x @ x.T


def gram_of_two(loader):
    x = embed(loader)
    return {"features": x, "kernels": torch.stack([x @ x.T, torch.cdist(x, x)], 2)}


def covariance(loader):
    x = embed(loader)
    return (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)


def mean_and_deviation(loader):
    x = embed(loader)
    return torch.stack([x.mean(0), x.std(0, correction=0)], 1)


# Positions


def row_number(loader):
    return torch.arange(len(embed(loader)))


def progress(loader):
    return torch.cat(
        [torch.full((len(x),), i / len(loader)) for i, x in enumerate(batches(loader))]
    )


def position_in_the_batch(loader):
    return torch.cat([torch.arange(len(x)) for x in batches(loader)])


def cumulative_sum(loader):
    return embed(loader).cumsum(0)


def running_mean(loader):
    x = embed(loader)
    return x.cumsum(0) / torch.arange(1, len(x) + 1)[:, None]


def moving_average(loader):
    found, state = [], torch.zeros(FEATURES)
    for row in embed(loader):
        state = 0.7 * state + 0.3 * row
        found.append(state)
    return torch.stack(found)


def difference_to_the_row_before(loader):
    x = embed(loader)
    return x - torch.cat([x[:1], x[:-1]])


def mixed_with_another_row(loader):
    x = embed(loader)
    return 0.9 * x + 0.1 * x.roll(1, 0)


# Batches


def batch_norm_in_training(loader):
    return torch.cat(
        [F.batch_norm(torch.cat([x, -2 * x + 1]), None, None, training=True)[: len(x)]
         for x in batches(loader)]
    )  # fmt: skip


def batch_centred(loader):
    return torch.cat([x - x.mean(0) for x in batches(loader)])


def batch_max(loader):
    return torch.cat([x / x.abs().max() for x in batches(loader)])


def batch_int8(loader):
    return torch.cat([(x / x.abs().max() * 127).round().to(torch.int8) for x in batches(loader)])


def batch_softmax(loader):
    return torch.cat([x.softmax(0) for x in batches(loader)])


def batch_attention(loader):
    return torch.cat(
        [F.scaled_dot_product_attention(x[None], x[None], x[None])[0] for x in batches(loader)]
    )


def contrastive_loss(loader):
    return torch.cat(
        [F.cross_entropy(x @ x.T, torch.arange(len(x)), reduction="none") for x in batches(loader)]
    )


def batch_centred_generator(loader):
    for x in batches(loader):
        yield x - x.mean(0)


# State and chance


def seeded_dropout(loader):
    torch.manual_seed(0)
    return F.dropout(embed(loader), 0.5, training=True)


def dropout(loader):
    return F.dropout(embed(loader), 0.5, training=True)


def number_of_the_call(loader):
    return torch.full((len(embed(loader)),), next(calls))


ZOO: tuple[Function, ...] = (
    whitening, pca_projection, zscore, zscore_in_half_precision, zscore_beside_masked_logits,
    zscore_beside_large_columns, centred, min_max, min_max_of_a_score, share_of_the_largest,
    share_of_the_brightest, share_of_the_brightest_in_the_batch, softmax_over_the_set,
    above_the_median, is_the_best, quartile, one_scale_in_int8, two_passes,
    mean_of_the_dataset, neighbour_distance, neighbour_index, kmeans_labels, label_codes,
    features_and_label_codes, one_hot, ranks, order, sorted_rows, filtered, without_duplicates,
    similar_share, attention_over_the_set, gram, gram_of_two, covariance, mean_and_deviation,
    row_number, progress, position_in_the_batch, cumulative_sum, running_mean, moving_average,
    difference_to_the_row_before, mixed_with_another_row, batch_norm_in_training,
    batch_centred, batch_max, batch_int8, batch_softmax, batch_attention, contrastive_loss,
    batch_centred_generator, seeded_dropout, dropout, number_of_the_call,
)  # fmt: skip

#: What the same call gives another time is another thing.
UNREPEATABLE = (dropout, number_of_the_call)

SIZES = (2, 3, 5, 32, 33, 64, 150)

Rows = tuple[int, ...]


def pool(size: int, seed: int) -> Any:
    """Return float32 (size, 4), every fourth row nearly the row before it."""
    samples = torch.randn(size, FEATURES, generator=torch.Generator().manual_seed(seed))
    samples[3::4] = samples[2::4][: len(samples[3::4])] + 1e-5
    return samples


def load(samples: Any, rows: Rows, batch_size: int) -> Any:
    return DataLoader(Subset(TensorDataset(samples), rows), batch_size=batch_size)


def leaves(value: Any) -> list[Any]:
    """Return the arrays in a result."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in leaves(part)]
    if torch.is_tensor(value):
        value = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
    return [np.asarray(value).astype(np.float64)]


def direct(function: Function, loader: Any) -> list[Any]:
    found = function(loader)
    return leaves(torch.cat(list(found)) if isinstance(found, Iterator) else found)


def sequences(count: int, seed: int) -> Iterator[list[tuple[Rows, int]]]:
    """Yield requests for parts of `2 * count` rows, one list a store: rows, batch size."""
    chance = random.Random(f"{count} {seed}")
    whole = tuple(range(count))
    shuffled = tuple(chance.sample(whole, count))
    part = tuple(chance.sample(whole, max(1, count // 2)))
    kinds = {
        "permutation": shuffled,
        "backwards": whole[::-1],
        "part": part,
        "front": whole[: max(1, count // 2)],
        "back": whole[count // 2 :],
        "first": (0,),
        "last": (count - 1,),
        "ends": (0, count - 1),
        "overlap": tuple(range(count // 2, count + count // 2)),
        "superset": tuple(range(2 * count)),
        "other": tuple(range(count, 2 * count)),
        "repeats": (*part, *part[::-1]),
    }
    for begun in (whole, kinds["overlap"], kinds["superset"]):
        names = chance.sample(sorted(kinds), 4)
        sizes = [chance.choice((1, 3, 8, count)) for _ in names]
        yield [
            (begun, chance.choice((1, 3, 8, count))),
            *((kinds[name], size) for name, size in zip(names, sizes, strict=True)),
        ]


def answers(
    store: castore.Store, function: Function, samples: Any, requests: list[tuple[Rows, int]],
    **options: Any,
) -> Iterator[tuple[list[Any], list[Any]]]:  # fmt: skip
    """Yield of each request what the store answers, and what a direct call gives."""
    for rows, batch_size in requests:
        loader = load(samples, rows, batch_size)
        try:
            answer = store.get_or_compute(loader, function, function.__name__, **options)
        except castore.errors.ResultError as error:  # a row count that looks like an accident
            answer = error.result
        yield leaves(answer), direct(function, loader)


def tell(requests: list[tuple[Rows, int]]) -> str:
    return "\n".join(f"batch_size {size}: rows {list(rows)[:70]}" for rows, size in requests)


@pytest.mark.parametrize("function", ZOO, ids=lambda function: function.__name__)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_functions_of_the_whole_are_never_answered_by_rows(function):
    """Whatever is asked for in whatever order, a function of the whole is computed over it."""
    number = itertools.count()
    for count in SIZES:
        samples = pool(2 * count, seed=count)
        for requests in sequences(count, seed=0):
            store = castore.open(f"memory://zoo/{function.__name__}/{next(number)}")
            for answer, expected in answers(store, function, samples, requests):
                if function not in UNREPEATABLE:
                    for got, wanted in zip(answer, expected, strict=True):
                        np.testing.assert_allclose(
                            got, wanted, rtol=1e-5, atol=1e-5, err_msg=tell(requests)
                        )
            stats = store.stats()
            assert (stats.partial_hits, stats.rows_reused) == (0, 0), tell(requests)
            assert stats.computations >= len(set(requests)), tell(requests)


@pytest.mark.parametrize("function", ZOO, ids=lambda function: function.__name__)
def test_functions_of_the_whole_differ_between_part_and_whole(function):
    """Rows of the whole are not what a function in the zoo gives for a part of it."""
    samples = pool(64, seed=0)
    whole = direct(function, load(samples, tuple(range(64)), 8))
    parts = [tuple(range(9, 64, 5)), *((row,) for row in range(8, 16))]
    assert any(
        differ(whole, list(part), direct(function, load(samples, part, 8))) for part in parts
    )


def differ(whole: list[Any], rows: list[int], part: list[Any]) -> bool:
    """Tell whether `part` is not what the whole has in `rows`."""
    return any(
        len(one) != 64
        or one[rows].shape != other.shape
        or not np.allclose(one[rows], other, rtol=1e-3, atol=1e-3)
        for one, other in zip(whole, part, strict=True)
    )


# Of a row

_chance = torch.Generator().manual_seed(1)
_brightness = 255 * torch.rand(96, 3, 1, 1, generator=_chance)
IMAGES = (_brightness * torch.rand(96, 3, 12, 12, generator=_chance)).byte()
TOKENS = torch.randint(0, 20, (96, 6), generator=_chance)

CNN = _frozen(
    torch.nn.Conv2d(3, 8, 3, 2), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
    torch.nn.Conv2d(8, 16, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
)  # fmt: skip
READER = _frozen(
    torch.nn.Embedding(20, 16),
    torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True),
    torch.nn.Flatten(),
)


def features(loader):
    """Return float32 (n, 16), from uint8 pictures."""
    with torch.inference_mode():
        return torch.cat([CNN(images.float() / 255) for (images,) in loader])


def perceptron(loader):
    with torch.inference_mode():
        return torch.cat([MODEL(images[:, 0, 0, :4] / 255) for (images,) in loader])


def token_states(loader):
    with torch.inference_mode():
        return torch.cat([READER(tokens) for (tokens,) in loader])


def normalised(loader):
    return F.normalize(features(loader))


def probabilities(loader):
    return features(loader).softmax(1)


def labels(loader):
    return (10 * features(loader)).sin().argmax(1)


def top_labels(loader):
    return features(loader).topk(3).indices.int()


def in_bfloat16(loader):
    return features(loader).bfloat16()


def in_float16(loader):
    return features(loader).half().numpy()


def scores_and_labels(loader):
    x = features(loader)
    return x.amax(1), x.argmax(1)


def in_a_dict(loader):
    images = torch.cat([images for (images,) in loader])
    x = CNN(images / 255).detach()
    return {"features": x, "of images": {"dark": images.amax((1, 2, 3)) < 200, "images": images}}


def two_views(loader):
    views = [(CNN(x / 255), CNN(x.flip(3) / 255)) for (x,) in loader]
    return [torch.cat(view).detach() for view in zip(*views, strict=True)]


def masked_logits(loader):
    x = features(loader)
    return torch.where(torch.arange(16) < 3, x, torch.finfo(x.dtype).min)


def into_an_array_made_before(loader):
    found, end = np.empty((len(loader.dataset), 16), np.float32), 0
    with torch.inference_mode():
        for (images,) in loader:
            found[end : end + len(images)] = CNN(images / 255)
            end += len(images)
    return found


def batch_by_batch(loader):
    with torch.inference_mode():
        for (images,) in loader:
            yield CNN(images / 255)


ROWWISE: tuple[tuple[Function, Any], ...] = (
    *((function, IMAGES) for function in (
        features, perceptron, normalised, probabilities, labels, top_labels, in_bfloat16,
        in_float16, scores_and_labels, in_a_dict, two_views, masked_logits,
        into_an_array_made_before, batch_by_batch,
    )),
    (token_states, TOKENS),
)  # fmt: skip


@pytest.mark.parametrize(
    ("function", "samples"), ROWWISE, ids=[function.__name__ for function, _ in ROWWISE]
)
def test_functions_of_a_row_are_answered_by_rows_after_one_probe(function, samples):
    """In other batches and another order, a function of a row is computed over new rows alone."""
    store = castore.open(f"memory://rows/{function.__name__}")
    backwards = tuple(range(63, -1, -1))
    grown = (*range(80, 96), *backwards, *range(64, 80))
    requests = [(tuple(range(64)), 16), (backwards, 5), (grown, 7), ((3, 90, 3), 1)]
    for answer, expected in answers(store, function, samples, requests):
        for got, wanted in zip(answer, expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
    stats = store.stats()
    assert (stats.computations, stats.rows_computed) == (2, 96)
    assert (stats.hits, stats.partial_hits) == (2, 1)
    assert 32 <= stats.rows_probed <= 40
