"""Settings: an argument beats the environment, which beats the nearest file."""

from __future__ import annotations

import pytest

import castore
from castore.config import MODES, Settings, load
from castore.errors import ConfigError


@pytest.fixture(autouse=True)
def _bare(monkeypatch, tmp_path):
    """Start without settings, in a folder of the test's own."""
    for name in ("CASTORE_URL", "CASTORE_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_without_settings_there_are_none(tmp_path):
    """Where nothing is set, nothing is set."""
    assert load() == load(tmp_path) == Settings(None, None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("castore.toml", 'url = "memory://é"\nmode = "ro"\n'),
        ("pyproject.toml", '[tool.castore]\nurl = "memory://é"\nmode = "ro"\n'),
    ],
)
def test_a_file_sets(tmp_path, name, text):
    """`castore.toml` and `[tool.castore]` in `pyproject.toml` hold the settings, in UTF-8."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert load() == Settings("memory://é", "ro")


def test_the_environment_beats_the_file(tmp_path, monkeypatch):
    """A variable beats the file's setting, each for itself, and an empty one sets nothing."""
    (tmp_path / "castore.toml").write_text('url = "memory://file"\nmode = "ro"\n')
    monkeypatch.setenv("CASTORE_URL", "memory://variable")
    monkeypatch.setenv("CASTORE_MODE", "")
    assert load() == Settings("memory://variable", "ro")


def test_the_argument_beats_the_environment(tmp_path, monkeypatch):
    """What is passed to `castore.open` beats variable and file; what is not comes from them."""
    (tmp_path / "castore.toml").write_text('url = "memory://file"\nmode = "off"\n')
    assert (castore.open().url, castore.open().mode) == ("memory://file", "off")
    monkeypatch.setenv("CASTORE_URL", "memory://variable")
    monkeypatch.setenv("CASTORE_MODE", "ro")
    store = castore.open()
    assert (store.url, store.mode) == ("memory://variable", "ro")
    store = castore.open("memory://argument", mode="rw")
    assert (store.url, store.mode) == ("memory://argument", "rw")


def test_the_nearest_file_holds(tmp_path):
    """A file in a folder above holds, until one nearer by does; files are not merged."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "castore.toml").write_text('url = "memory://far"\nmode = "ro"\n')
    assert load(inner) == Settings("memory://far", "ro")
    (tmp_path / "a" / "pyproject.toml").write_text('[tool.castore]\nurl = "memory://near"\n')
    assert load(inner) == Settings("memory://near", None)


def test_a_project_without_settings_is_passed_over(tmp_path):
    """A `pyproject.toml` that says nothing of castore does not hide a file above it."""
    inner = tmp_path / "a"
    inner.mkdir()
    (inner / "pyproject.toml").write_text('[project]\nname = "x"\n')
    (tmp_path / "castore.toml").write_text('mode = "ro"\n')
    assert load(inner).mode == "ro"


def test_castores_own_file_beats_the_projects(tmp_path):
    """In one folder `castore.toml` holds, and `pyproject.toml` is not read."""
    (tmp_path / "castore.toml").write_text('mode = "ro"\n')
    (tmp_path / "pyproject.toml").write_text("no TOML at all")
    assert load().mode == "ro"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("castore.toml", "url = ", "castore.toml cannot be read as TOML"),
        ("pyproject.toml", "[tool", "pyproject.toml cannot be read as TOML"),
        ("castore.toml", 'flash = "x"', "no setting flash = 'x'; it knows url, mode"),
        ("castore.toml", "mode = 3", "mode = 3"),
        ("pyproject.toml", '[tool.castore]\nURL = "x"', "no setting URL"),
        ("pyproject.toml", '[tool]\ncastore = "memory://x"', "castore"),
        ("pyproject.toml", 'tool = "castore"', "tool"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, name, text, message):
    """A file that is no TOML, or has an unknown setting, is a ConfigError that names it."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load()
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path):
    """A settings file of arbitrary bytes is a ConfigError."""
    (tmp_path / "castore.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load()


def test_a_relative_folder_is_searched_upwards_too(tmp_path, monkeypatch):
    """A folder given relative to the working folder has the same folders above it."""
    (tmp_path / "castore.toml").write_text('mode = "ro"\n')
    inner = tmp_path / "a"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert load(type(tmp_path)(".")).mode == "ro"


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_opens(mode, monkeypatch):
    """Each documented mode can be set, in the environment as by argument."""
    monkeypatch.setenv("CASTORE_MODE", mode)
    assert castore.open("memory://x").mode == mode


def test_unknown_modes_are_refused(monkeypatch):
    """A mode castore does not know is a ConfigError that lists those it does."""
    monkeypatch.setenv("CASTORE_MODE", "rx")
    with pytest.raises(ConfigError, match="mode='rx': choose one of rw, ro, off, refresh"):
        castore.open("memory://x")
