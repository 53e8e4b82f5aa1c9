"""Features of scanned digits, computed once and found again: ``make demo``.

Trains a small network in seconds, asks for the features of all scans in seven ways, checks every
answer, and writes ``demo-output/demo.png``.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import digits
import torch
from numpy.typing import NDArray
from picture import draw
from rich.console import Console
from rich.table import Table
from steps import Step, ask
from torch.utils.data import DataLoader

import castore
from castore.adapters.simet import FeatureCacheService

OUTPUT = Path(__file__).resolve().parents[1] / "demo-output"
STORE = OUTPUT / "store"
MODEL = OUTPUT / "model.pt"
EPOCHS = 3

console = Console(highlight=False)


def main() -> None:
    """Run the demonstration."""
    began = time.perf_counter()
    shutil.rmtree(STORE, ignore_errors=True)
    OUTPUT.mkdir(exist_ok=True)
    data = digits.scans()
    model = trained(data)
    features, steps = ask_in_every_way(data, model)
    check(steps)
    console.print(table(steps))
    console.print(verdict(steps), "\n")
    list_store()
    title = (
        f"Computed once, found by another process {speed_up(steps, 1)} times faster, bit for bit"
    )
    draw(OUTPUT / "demo.png", title, steps, features, data.tensors[1].numpy())
    console.print(f"\nPicture: {OUTPUT / 'demo.png'}")
    console.print(f"Store:   {STORE}\nAll of it took {time.perf_counter() - began:.0f} s.")


def trained(data: Any) -> digits.Network:
    """Train the network; keep its weights for the second process."""
    start = time.perf_counter()
    torch.manual_seed(0)
    model = digits.Network()
    for epoch in range(EPOCHS):
        digits.train_epoch(model, data, epoch)
    torch.save(model.state_dict(), MODEL)
    console.print(
        f"\n[bold]castore[/] {castore.__version__}: a network of "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, trained for "
        f"{time.perf_counter() - start:.0f} s on scikit-learn's scanned digits, reads "
        f"{digits.accuracy(model, data):.1%} of those held out.\n"
    )
    return model


def ask_in_every_way(data: Any, model: digits.Network) -> tuple[NDArray[Any], list[Step]]:
    """Ask for the features of all scans; return them, and how each request went."""
    store = castore.open(STORE)
    service = FeatureCacheService(STORE)
    extractor = digits.Extractor(model, service)
    plain = DataLoader(data, batch_size=64)
    shuffled = DataLoader(data, batch_size=64, shuffle=True)
    smaller = DataLoader(data, batch_size=32)
    first = ask("first run", store, lambda: features_of(store, model, plain))
    again = in_second_process()
    steps = [
        first,
        again,
        ask("shuffled loader", store, lambda: features_of(store, model, shuffled)),
        ask("batches of 32, not 64", store, lambda: features_of(store, model, smaller)),
        ask("simet's service", service.store, lambda: extractor.features(plain)),
        ask("simet's service, again", service.store, lambda: extractor.features(plain)),
    ]
    features = features_of(store, model, plain)
    digits.train_epoch(model, data, EPOCHS)
    steps.append(ask("one more epoch trained", store, lambda: features_of(store, model, plain)))
    return features, steps


def features_of(store: castore.Store, model: digits.Network, loader: Any) -> NDArray[Any]:
    """Return the features of `loader`: the one call this is all about."""
    found: NDArray[Any] = store.get_or_compute(
        loader, functools.partial(digits.extract, model), suffix="digits-cnn"
    )
    return found


def in_second_process() -> Step:
    """Have another process load the weights and ask."""
    command = [sys.executable, __file__, "--second-process"]
    return Step(**json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


def second_process() -> None:
    """Ask once, knowing only where weights and store are; print the answer as JSON."""
    model = digits.Network().eval()
    model.load_state_dict(torch.load(MODEL, weights_only=True))
    loader, store = DataLoader(digits.scans(), batch_size=64), castore.open(STORE)
    step = ask("second process", store, lambda: features_of(store, model, loader))
    print(json.dumps(asdict(step)))


def check(steps: Sequence[Step]) -> None:
    """Stop unless every answer came from where it should, and every reused one is bit-equal."""
    reused = [step.name for step in steps if step.reused]
    if reused != ["second process", "shuffled loader", "simet's service, again"]:
        sys.exit(f"wrong: answered from the store were {', '.join(reused) or 'none'}")
    for step in steps:
        if step.reused and step.sha256 != steps[0].sha256:
            sys.exit(f"wrong: {step.name} got other features than were computed")
    if steps[-1].sha256 == steps[0].sha256:
        sys.exit("wrong: another epoch of training changed no feature")


def table(steps: Sequence[Step]) -> Table:
    """Lay out what was asked, where the answer came from, and what that took."""
    laid = Table(box=None, header_style="dim", padding=(0, 3, 0, 0))
    for heading in ("asked for features", "answer"):
        laid.add_column(heading)
    for heading in ("seconds", "speed-up", "newly stored"):
        laid.add_column(heading, justify="right")
    for row, step in enumerate(steps):
        laid.add_row(
            step.name,
            "[green]reused[/]" if step.reused else "[yellow]computed[/]",
            f"{step.seconds:.3f}",
            f"{speed_up(steps, row)}x" if step.reused else "",
            f"{step.stored / 1e3:,.0f} kB" if step.stored else "nothing",
        )
    return laid


def speed_up(steps: Sequence[Step], row: int) -> str:
    """Compare a request with the first, which had to compute."""
    return f"{steps[0].seconds / steps[row].seconds:,.0f}"


def verdict(steps: Sequence[Step]) -> str:
    """Say what was checked."""
    reused = sum(step.reused for step in steps)
    return (
        f"\n[green]✓[/] {reused} of {len(steps)} answers came from the store, bit for bit as "
        "computed;\n  another batch size and another model were told apart."
    )


def list_store() -> None:
    """Print what ``castore ls`` says about the store."""
    console.print("[dim]$ castore ls --store demo-output/store[/]")
    subprocess.run([sys.executable, "-m", "castore.cli", "ls", "--store", STORE], check=True)


if __name__ == "__main__":
    second_process() if sys.argv[1:] == ["--second-process"] else main()
