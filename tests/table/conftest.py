"""What tests of interrupted streams share."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("interrupted.py")


@pytest.fixture(scope="session")
def interrupted():
    """Return the module of streams that end early."""
    spec = importlib.util.spec_from_file_location("castore_interrupted", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def killed():
    """Return what runs a stream in a process that kills itself, and returns its wait status."""
    command = [sys.executable, str(SCRIPT)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:

        def run(**job):
            driver.stdin.write(json.dumps(job) + "\n")
            driver.stdin.flush()
            return int(driver.stdout.readline())

        yield run
        driver.stdin.close()


@pytest.fixture
def held():
    """Return what runs a stream in a process that lives on when all is sealed; yields it."""
    processes = []

    def run(**job):
        command = [sys.executable, str(SCRIPT), json.dumps(job)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "sealed\n"
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()
