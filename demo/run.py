"""Features of scanned digits, computed once and found again, row by row: ``make demo``.

Trains a small network in seconds, asks for the features of the scans in eleven ways, checks every
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
from steps import Step, ask, deviation
from torch.utils.data import DataLoader, Subset

import castore
from castore import tally
from castore.adapters.simet import FeatureCacheService

OUTPUT = Path(__file__).resolve().parents[1] / "demo-output"
STORE = OUTPUT / "store"
MODEL, LATER = OUTPUT / "model.pt", OUTPUT / "one-more-epoch.pt"
EPOCHS = 3
FIRST = range(1500)  # the scans there are at first
TOLERANCE = 1e-3  # floats of a row differ with the rows computed beside it

console = Console(highlight=False)


def main() -> None:
    """Run the demonstration."""
    began = time.perf_counter()
    shutil.rmtree(STORE, ignore_errors=True)
    OUTPUT.mkdir(exist_ok=True)
    store = castore.open(STORE)
    tally.forget(store.url)  # what earlier demonstrations counted
    data = digits.scans()
    model = trained(data)
    truth = digits.extract(model, DataLoader(data, batch_size=64))
    steps = ask_in_every_way(store, data, model, truth)
    explain_a_miss(store, data, model)
    steps += in_processes(LATER, len(data), "one more epoch trained", "the same, at the same time")
    check(steps)
    console.print(table(steps))
    console.print(verdict(steps))
    show("ls")
    show("stats")
    draw(OUTPUT / "demo.png", title(steps), steps, truth, data.tensors[1].numpy())
    console.print(f"\nPicture: {OUTPUT / 'demo.png'}")
    console.print(f"Store:   {STORE}\nAll of it took {time.perf_counter() - began:.0f} s.")


def trained(data: Any) -> digits.Network:
    """Train the network; keep its weights for other processes."""
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


def ask_in_every_way(
    store: castore.Store, data: Any, model: digits.Network, truth: NDArray[Any]
) -> list[Step]:
    """Ask for features; see that they are right, and return how each request went."""
    service = FeatureCacheService(STORE)
    extractor = digits.Extractor(model, service)
    steps = []

    def request(name: str, rows: Sequence[int], size: int = 64, **order: Any) -> None:
        loader = DataLoader(Subset(data, rows), batch_size=size, **order)
        found(name, rows, store, lambda: features_of(store, model, loader))

    def simet(name: str, rows: Sequence[int]) -> None:
        loader = DataLoader(Subset(data, rows), batch_size=64)
        found(name, rows, service.store, lambda: extractor.features(loader))

    def found(name: str, rows: Sequence[int], store: castore.Store, call: Any) -> None:
        step, features = ask(name, store, call)
        if deviation(features, truth[rows]) > TOLERANCE:
            sys.exit(f"wrong: {name} got other features than the network gives")
        steps.append(step)

    request("the first 1,500 scans", FIRST)
    steps += in_processes(MODEL, len(FIRST), "the same, in another process")
    request("the same, by a shuffled loader", FIRST, shuffle=True)
    request("the same, backwards", FIRST[::-1])
    request("scans 1,000 to 1,700", range(1000, 1700))
    request("all 1,797: the dataset grew", range(len(data)))
    request("all, in batches of 32, not 64", range(len(data)), 32)
    simet("simet's service, 1,500 scans", FIRST)
    simet("simet's service, all 1,797", range(len(data)))
    return steps


def features_of(store: castore.Store, model: digits.Network, loader: Any) -> NDArray[Any]:
    """Return the features of `loader`: the one call this is all about."""
    found: NDArray[Any] = store.get_or_compute(
        loader, functools.partial(digits.extract, model), suffix="digits-cnn"
    )
    return found


def explain_a_miss(store: castore.Store, data: Any, model: digits.Network) -> None:
    """Train for another epoch, and ask why its features are not there; keep the weights."""
    digits.train_epoch(model, data, EPOCHS)
    torch.save(model.state_dict(), LATER)
    loader = DataLoader(data, batch_size=64)
    why = store.explain(loader, functools.partial(digits.extract, model), suffix="digits-cnn")
    console.print("One more epoch is trained. Are its features there?\n")
    console.print("[dim]>>> print(store.explain(loader, extract, suffix='digits-cnn'))[/]")
    console.print(f"{why}\n", markup=False)


def in_processes(weights: Path, rows: int, *names: str) -> list[Step]:
    """Have as many other processes load the weights and then ask, all at the same time."""
    command = [sys.executable, __file__, "--ask", str(weights), str(rows)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    others = [subprocess.Popen([*command, name], **pipes) for name in names]
    for other in others:
        other.stdout.readline()  # it is ready
    for other in others:
        other.stdin.write("go\n")
        other.stdin.flush()
    answers = [other.communicate()[0] for other in others]
    if any(other.returncode for other in others):
        sys.exit("wrong: another process failed")
    steps = [Step(**json.loads(answer)) for answer in answers]
    order = sorted(steps, key=lambda step: -step.computed)
    return [Step(**{**asdict(step), "name": name}) for step, name in zip(order, names, strict=True)]


def ask_when_told(weights: str, rows: str, name: str) -> None:
    """Ask once, knowing only where weights and store are; print the answer as JSON."""
    model = digits.Network().eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    loader = DataLoader(Subset(digits.scans(), range(int(rows))), batch_size=64)
    store = castore.open(STORE)
    print("ready", flush=True)
    sys.stdin.readline()
    step, _ = ask(name, store, lambda: features_of(store, model, loader))
    print(json.dumps(asdict(step)))


def check(steps: Sequence[Step]) -> None:
    """Stop unless each row was computed where it should be, and equal answers are equal bits."""
    computed = [1500, 0, 0, 0, 200, 97, 0, 1500, 297, 1797, 0]
    for step, rows in zip(steps, computed, strict=True):
        if step.computed != rows:
            sys.exit(f"wrong: {step.name} computed {step.computed} rows, not {rows}")
    first, other, shuffled, *_, later, waited = (step.sha256 for step in steps)
    if not first == other == shuffled or later != waited:
        sys.exit("wrong: an answer from the store is not, bit for bit, what was computed")


def table(steps: Sequence[Step]) -> Table:
    """Lay out what was asked, where the answer came from, and what that took."""
    laid = Table(box=None, header_style="dim", padding=(0, 3, 0, 0))
    laid.add_column("asked for features of")
    for heading in ("computed", "reused", "seconds"):
        laid.add_column(heading, justify="right")
    laid.add_column("")
    for step in steps:
        laid.add_row(
            step.name,
            f"[yellow]{step.computed:,}[/]" if step.computed else "",
            f"[green]{step.reused:,}[/]" if step.reused else "",
            f"{step.seconds:.3f}",
            f"[dim]{remark(step)}[/]",
        )
    return laid


def remark(step: Step) -> str:
    """Say what else there is to say about a request."""
    if step.probed:
        return f"{step.probed} tried first"
    return f"waited {step.waited:.2f} s" if step.waited else ""


def totals(steps: Sequence[Step]) -> tuple[int, int]:
    """Return how many rows were reused, and how many asked for."""
    return sum(step.reused for step in steps), sum(step.rows for step in steps)


def verdict(steps: Sequence[Step]) -> str:
    """Say what was checked."""
    reused, asked = totals(steps)
    return (
        f"\n[green]✓[/] {reused:,} of {asked:,} rows came from the store. Whole answers are as "
        "computed,\n  bit for bit; those put together agree with the network."
    )


def title(steps: Sequence[Step]) -> str:
    """Say what was found."""
    reused, asked = totals(steps)
    return f"{reused:,} of the {asked:,} rows asked for did not have to be computed"


def show(command: str) -> None:
    """Print what a castore command says about the store."""
    console.print(f"\n[dim]$ castore {command} --store demo-output/store[/]")
    tally.flush()
    subprocess.run([sys.executable, "-m", "castore.cli", command, "--store", STORE], check=True)


if __name__ == "__main__":
    torch.set_num_threads(1)  # of so small a network, threads would mostly wait for one another
    ask_when_told(*sys.argv[2:]) if sys.argv[1:2] == ["--ask"] else main()
