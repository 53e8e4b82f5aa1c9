"""The benchmark runs; what it measures is for people to judge."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")


@pytest.mark.slow
def test_quick_run_leaves_figures_and_a_picture(tmp_path: Path) -> None:
    """A hurried run measures every section, writes JSON and a plot, and leaves no store behind."""
    script = Path(__file__).with_name("run.py")
    command = [sys.executable, str(script), "--quick", "--rounds", "1", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "goals met" in done.stdout

    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "bench.png"}
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    found = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert [section["name"] for section in found["sections"]] == [
        "hits",
        "storing",
        "rows",
        "models",
        "fingerprints",
        "captures",
        "imports",
        "streaming",
        "zarr",
    ]
    for section in found["sections"]:
        rows = [row for group in section["groups"] for row in group["rows"]]
        assert any(row["goal"] for row in rows), section["name"]
        assert all(math.isfinite(row["median"]) and row["samples"] for row in rows)
