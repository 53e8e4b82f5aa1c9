"""What every backend owes: uploads, advice, clocks and places.

A suite for pytest: subclass, give the fixture `fresh`, and every test runs over your backend.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from castore.backend.base import Backend
from castore.backend.memory import MemoryBackend
from castore.testing.suite import NAME, BackendSuite, listed, stat

__all__ = ["UploadTests"]


class UploadTests(BackendSuite):
    """Objects that come in pieces, and what else a store asks of its place."""

    def test_list_takes_whole_folders(self, backend: Backend) -> None:
        """A prefix is a folder: names that only begin alike lie elsewhere."""
        for name in ("ab/1", "ab/c/2", "abc/3", "ab.json"):
            backend.put(name, [b""])
        assert listed(backend, "ab/") == ["ab/1", "ab/c/2"]
        assert listed(backend, "ab/c/") == ["ab/c/2"]
        assert listed(backend, "a/") == []
        assert listed(backend, "ab.json/") == []

    def test_uploads_get_their_name_at_the_end(self, backend: Backend) -> None:
        """An upload is an object from `finish` on, and not before."""
        with backend.upload() as upload:
            upload.write(b"one")
            upload.write(np.arange(3, dtype="<i2"))
            assert listed(backend) == []
            upload.finish(NAME)
            assert backend.get(NAME) == b"one\x00\x00\x01\x00\x02\x00"
        assert listed(backend) == [NAME]

    def test_uploads_replace(self, backend: Backend) -> None:
        """A finished upload takes the place of what has its name, as a put does."""
        backend.put(NAME, [b"a longer old value"])
        with backend.upload() as upload:
            upload.write(b"new")
            upload.finish(NAME)
        assert backend.get(NAME) == b"new"

    def test_uploads_can_yield(self, backend: Backend) -> None:
        """An upload finished as new gets its name where nobody has it, and can still replace."""
        with backend.upload() as upload:
            upload.write(b"first")
            upload.sync()
            assert upload.finish_new(NAME) is True
        with backend.upload() as upload:
            upload.write(b"second")
            assert upload.finish_new(NAME) is False
            assert backend.get(NAME) == b"first"
            upload.finish(NAME)
        assert backend.get(NAME) == b"second"

    def test_unfinished_uploads_leave_no_trace(self, backend: Backend) -> None:
        """An upload whose block ends without `finish` leaves nothing that a listing shows."""
        with backend.upload() as upload:
            upload.write(b"lost")
        assert listed(backend) == []

    def test_failed_uploads_leave_no_trace(self, backend: Backend) -> None:
        """An upload whose block raises is gone, and the error comes out as it was."""

        def fail() -> None:
            with backend.upload() as upload:
                upload.write(b"lost")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert listed(backend) == []

    def test_uploads_show_their_contents(self, backend: Backend) -> None:
        """What was written can be read back as a private array before and after it has a name."""
        with backend.upload() as upload:
            assert upload.contents(0).shape == (0,)
            upload.write(b"0123456789" * 1000)
            before = upload.contents(9990)
            before[:] = 0
            upload.finish(NAME)
            after = upload.contents(10_000)
            assert after.flags.writeable
            after[:5] = 0
        assert backend.get(NAME) == b"0123456789" * 1000
        assert after.tobytes() == bytes(5) + b"56789" + b"0123456789" * 999

    def test_two_uploads_do_not_meet(self, backend: Backend) -> None:
        """Uploads under way at once keep apart."""
        with backend.upload() as one, backend.upload() as two:
            one.write(b"1")
            two.write(b"2")
            one.write(b"1")
            one.finish("one")
            two.finish("two")
        assert (backend.get("one"), backend.get("two")) == (b"11", b"2")

    def test_advice_is_an_object_like_any_other(self, backend: Backend) -> None:
        """What need not outlive a power cut is written, refused, listed and deleted alike."""
        assert backend.create("advice/1", [b"on", b"e"], durable=False) is True
        assert backend.create("advice/1", [b"two"], durable=False) is False
        assert backend.get("advice/1") == b"one"
        backend.put("advice/1", [b"three"], durable=False)
        backend.put("advice/2", [b""], durable=False)
        assert backend.get("advice/1") == b"three"
        assert listed(backend) == ["advice/1", "advice/2"]
        there = backend.delete(["advice/1", "advice/none", "advice/2"], durable=False)
        assert there == (2 if backend.near else 3)
        assert listed(backend) == []
        assert backend.create("advice/1", [b"again"])
        assert backend.get("advice/1") == b"again"

    def test_the_clock_is_the_one_that_dates_objects(self, backend: Backend) -> None:
        """What is written before, at and after asking for the time is dated in that order."""
        backend.put("before", [b""])
        now = backend.now()
        backend.put("after", [b""])
        before, after = (stat(backend, name).modified for name in ("before", "after"))
        slack = 0 if backend.near else 1  # servers tell whole seconds
        assert before - slack <= now <= after + slack
        assert listed(backend) == ["after", "before"]

    @pytest.mark.usefixtures("restless")
    def test_advice_comes_and_goes_in_many_threads(self, backend: Backend) -> None:
        """Threads that make and remove the only names of a folder never get in others' way."""
        start = threading.Barrier(8)
        errors: list[BaseException] = []

        def come_and_go(number: int) -> None:
            start.wait()
            try:
                for turn in range(40 if backend.near else 6):
                    assert backend.create(f"advice/{number}", [b"x"], durable=False)
                    if turn % 2:
                        backend.put(f"advice/{number}", [b"y"], durable=False)
                    assert backend.delete([f"advice/{number}"], durable=False) == 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=come_and_go, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert listed(backend) == []

    def test_settling_what_is_there_changes_nothing(self, backend: Backend) -> None:
        """An object may be settled by whoever sees it, any number of times."""
        backend.put(NAME, [b"value"])
        for _ in range(2):
            backend.settle(NAME)
        assert backend.get(NAME) == b"value"

    def test_checking_leaves_no_trace(self, backend: Backend) -> None:
        """Seeing whether a store can be written puts no object there."""
        for _ in range(2):
            backend.check_writable()
        assert listed(backend) == []

    def test_room_is_memory_of_ones_own(self, backend: Backend) -> None:
        """Room is as long as asked for, can be written, and is no object."""
        room = backend.room(1000)
        room[:] = 7
        assert (str(room.dtype), len(room), int(room.sum())) == ("uint8", 1000, 7000)
        assert listed(backend) == []

    def test_what_is_taken_is_an_object(self, backend: Backend, tmp_path: Path) -> None:
        """A file that is taken is the object, and keeps its own name; else nothing is done."""
        path = tmp_path / "file"
        path.write_bytes(b"x" * 300_000)
        for _ in range(2):  # again, as it may be after trouble
            taken = backend.take(path, NAME)
            assert taken is (not isinstance(backend, MemoryBackend))
            assert backend.get(NAME) == (b"x" * 300_000 if taken else None)
            assert listed(backend) == ([NAME] if taken else [])
            assert path.read_bytes() == b"x" * 300_000

    def test_what_is_taken_replaces(self, backend: Backend, tmp_path: Path) -> None:
        """A file that is taken under a name that there is stands in the place of what was there."""
        path = tmp_path / "file"
        path.write_bytes(b"new")
        backend.put(NAME, [b"old"])
        taken = backend.take(path, NAME)
        assert backend.get(NAME) == (b"new" if taken else b"old")

    def test_a_taken_file_may_be_replaced(self, backend: Backend, tmp_path: Path) -> None:
        """Another file in its place, or none, leaves the object as it was."""
        path = tmp_path / "file"
        path.write_bytes(b"first")
        if not backend.take(path, NAME):
            backend.put(NAME, [b"first"])
        (tmp_path / "other").write_bytes(b"second")
        (tmp_path / "other").rename(path)
        assert backend.get(NAME) == b"first"
        path.unlink()
        assert backend.get(NAME) == b"first"

    def test_a_workplace_is_a_new_place_of_ones_own(
        self, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each call gives another path, where nothing is, and what is made there is no object."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        places = [backend.workplace() for _ in range(3)]
        assert len(set(places)) == 3
        for place in places:
            assert not place.exists()
            place.mkdir(parents=True)
            (place / "file").write_bytes(b"data")
            assert listed(backend) == []
            assert backend.take(place / "file", NAME) is (not isinstance(backend, MemoryBackend))
            backend.delete([NAME])
