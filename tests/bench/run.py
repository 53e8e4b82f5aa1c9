"""Measure castore beside its peers: ``make bench``, or ``python tests/bench/run.py --help``."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import captured
import click
import exact_hits
import fingerprints
import imports
import machine
import model_hash
import plot
import report
import rows
import storing
import streaming
import zarr_reads
from harness import Options
from rich.console import Console

_SECTIONS = {
    section.NAME: section.measure
    for section in (
        exact_hits,
        storing,
        rows,
        model_hash,
        fingerprints,
        captured,
        imports,
        streaming,
        zarr_reads,
    )
}


@click.command()
@click.option("--quick", is_flag=True, help="Smallest sizes, few rounds: see that it works.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(_SECTIONS)), help="Sections; all by default."
)
@click.option("--rounds", type=click.IntRange(1), help="Rounds, in place of each section's own.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-output"),
    show_default=True,
    help="Where bench.json and bench.png go, and, while it runs, the stores: a real disk.",
)
def main(quick: bool, only: tuple[str, ...], rounds: int | None, output: Path) -> None:
    """Measure castore beside its peers, in turn, and write bench.json and bench.png."""
    # Rows are vouched by their index here on purpose.
    logging.getLogger("castore").setLevel(logging.ERROR)
    progress = Console(stderr=True)
    console = Console() if sys.stdout.isatty() else Console(width=110)
    output.mkdir(parents=True, exist_ok=True)
    where = machine.describe(output)
    if where["file_system"] in ("tmpfs", "ramfs"):
        progress.print(f"{output} is in memory, where fsync is free: choose a disk with --output")
    sections = []
    with tempfile.TemporaryDirectory(prefix="stores-", dir=output) as scratch:
        options = Options(Path(scratch).resolve(), quick=quick, rounds=rounds)
        for name in dict.fromkeys(only or _SECTIONS):
            with progress.status(f"measuring {name}"):
                section = _SECTIONS[name](options)
            report.show(section, console)
            sections.append(section)
    versions = machine.versions()
    report.save(output / "bench.json", report.document(sections, where, versions, quick=quick))
    plot.draw(output / "bench.png", sections, _subtitle(where, versions))
    console.print(f"{report.verdict(sections)}; written: {output}/bench.json, {output}/bench.png")


def _subtitle(where: dict[str, str | int], versions: dict[str, str]) -> str:
    packages = " · ".join(f"{name} {version}" for name, version in versions.items())
    return f"{where['processor']}, {where['cores']} cores, {where['file_system']} · {packages}"


if __name__ == "__main__":
    main()
