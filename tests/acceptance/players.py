"""Processes that ask a store: each does what it is told, and tells what happens to it.

A test makes a `Stage`, has it start players and tells them what to ask for. Run as a script,
this module forks the players: they are real processes, and only one of them imports numpy.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import connection as connections
from multiprocessing.connection import Client, Listener

import numpy as np

#: Seconds after which a player that says nothing hangs.
PATIENCE = 60


# The side of the test


class Player:
    """A process, as the test sees it.

    Attributes
    ----------
    pid : int
        Its id.
    told : list of (str, object)
        What it has told, in order: ``"waiting"`` with the log line; ``"computing"`` with the
        samples, or ``"holding"`` if it waits for an order to go on; ``"returned"`` with the value
        and the counters; ``"raised"`` with the error.
    """

    def __init__(self, connection):
        self.connection = connection
        self.pid = connection.recv()
        self.told = []

    def ask(self, *, threads=1, **question):
        """Have it ask, `threads` times at once; the rest is what `Question` has."""
        self.connection.send((threads, question))

    def order(self, what=None):
        """Let a function that holds go on, or have it raise `what`."""
        self.connection.send(what)

    def hear(self, *names):
        """Return the next thing it tells, which must be one of `names`."""
        assert self.connection.poll(PATIENCE), f"no {names}: it hangs after {self.told[-3:]}"
        self.told.append(self.connection.recv())
        assert self.told[-1][0] in names, self.told[-1]
        return self.told[-1]

    def hold(self):
        """Wait until it holds, whatever it waits for before."""
        while self.hear("waiting", "holding")[0] != "holding":
            pass

    def value(self):
        """Return what it comes to, whatever it tells before."""
        return answers([self])[0]

    def computed(self):
        """Return the samples it began to compute, one array a run."""
        return [what for name, what in self.told if name in ("computing", "holding")]

    @property
    def stats(self):
        """Its counters when it last returned."""
        return next(what[1] for name, what in reversed(self.told) if name == "returned")

    def signal(self, number):
        """Send it a signal, while there is a process to send it to."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self):
        """Kill it, and wait until it is dead; what it had told by then is kept."""
        self.signal(signal.SIGKILL)
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self.told.append(self.connection.recv())


def first(asking):
    """Return the player that tells something first."""
    by = {player.connection: player for player in asking}
    ready = connections.wait(list(by), PATIENCE)
    assert ready, f"none of {len(by)} tells anything: they hang"
    return by[ready[0]]


def answers(asking):
    """Let players go on whenever they hold; return what each comes to next."""
    found = {}
    end = time.monotonic() + 2 * PATIENCE
    while len(found) < len(asking):
        assert time.monotonic() < end, f"no answer after {[one.told[-3:] for one in asking]}"
        player = first(one for one in asking if one.pid not in found)
        name, what = player.hear("waiting", "computing", "holding", "returned")
        if name == "holding":
            player.order()
        elif name == "returned":
            found[player.pid] = what[0]
    return [found[player.pid] for player in asking]


class Stage:
    """Starts players; a context manager that ends them."""

    def __init__(self, *imports):
        self._listener = Listener(family="AF_UNIX")
        self._parent = subprocess.Popen(
            [sys.executable, __file__, self._listener.address, *imports],
            stdin=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._players = []

    def player(self):
        """Start a player."""
        self._parent.stdin.write("one more\n")
        self._parent.stdin.flush()
        self._players.append(Player(self._listener.accept()))
        return self._players[-1]

    def players(self, count):
        """Start several."""
        return [self.player() for _ in range(count)]

    def clear(self):
        """End all players."""
        for player in self._players:
            player.kill()
        self._players.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.clear()
        self._parent.communicate()
        self._listener.close()


# The side of the process


def values(samples):
    """Return what the functions here compute, int64 (n, 2)."""
    return np.stack([samples * 3 + 1, samples**2], axis=1)


class Question:
    """One call of `get_or_compute`.

    Attributes
    ----------
    root : Path
        Where the store is.
    samples : ndarray
        What to compute over.
    suffix : str
        The function's name.
    holds : int
        How many runs of the function wait for an order.
    stamp : bool
        Whether the value tells the process that computed it.
    inner : list of dict
        What the function asks for itself.
    place : {"here", "thread", "fork", "spawn"}
        Where it does: in a thread, or in a worker that loads samples.
    opens : bool
        Whether a worker opens the store itself.
    torch : bool
        Whether the function has a model.
    store, call : dict
        Further arguments.
    """

    castore_infrastructure = True  # no part of what is computed

    def __init__(
        self, root, samples, *, suffix="s", holds=0, stamp=False, inner=(), place="here",
        opens=False, torch=False, store=None, **call,
    ):  # fmt: skip
        self.root = root
        self.samples = samples
        self.suffix = suffix
        self.holds = holds
        self.stamp = stamp
        self.inner = inner
        self.place = place
        self.opens = opens
        self.torch = torch
        self.store = store or {}
        self.call = call if torch else {"model": None, **call}

    def open(self):
        """Open the store."""
        import castore

        return castore.open(self.root, **self.store)

    def value(self, stage, store):
        """Return what it comes to."""
        work = (Modelled if self.torch else Work)(self, stage, store)
        return store.get_or_compute(self.samples, work, self.suffix, **self.call)

    def ask(self, stage):
        """Ask, and tell what it comes to."""
        store = self.open()
        try:
            value = self.value(stage, store)
        except BaseException as error:
            stage.tell("raised", repr(error))
        else:
            stage.tell("returned", (np.array(value), store.stats()))


class Work:
    """The function: tells what it computes, waits for orders, asks for other things."""

    def __init__(self, question, stage, store):
        self._question = question
        self._stage = stage
        self._store = store

    def __call__(self, samples):
        """Return the values of samples."""
        question = self._question
        holds = question.holds > 0
        self._stage.tell("holding" if holds else "computing", np.array(samples))
        if holds:
            question.holds -= 1
            self._stage.obey()
        for inner in question.inner:
            self._elsewhere(Question(**inner))
        if question.stamp:
            return np.full((len(samples), 2), os.getpid())
        return self._values(samples)

    def _values(self, samples):
        return values(samples)

    def _elsewhere(self, inner):
        if self._question.place == "here":
            inner.ask(self._stage)
        elif self._question.place == "thread":
            thread = threading.Thread(target=inner.ask, args=(self._stage,))
            thread.start()
            thread.join()
        else:
            store = None if self._question.opens else self._store
            found = _loaded(inner, store, self._question.place)
            self._stage.tell("returned", (found, None))


class Modelled(Work):
    """The same with a model, exact in double precision."""

    def __init__(self, question, stage, store):
        import torch

        super().__init__(question, stage, store)
        self.model = torch.nn.Linear(2, 2, dtype=torch.float64).eval()
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
            self.model.bias.copy_(torch.tensor([1.0, 0.0]))

    def _values(self, samples):
        import torch

        powers = np.stack([samples, samples**2], axis=1)
        with torch.inference_mode():
            return self.model(torch.from_numpy(powers).double())


class Dataset:
    """Samples that a worker gets from the store."""

    def __init__(self, question, store):
        self._question = question
        self._store = store

    def __len__(self):
        return 1

    def __getitem__(self, index):
        """Return what the store has."""
        if self._store is None:
            self._store = self._question.open()
        return self._question.value(Nobody(), self._store)


class Nobody:
    """A stage that nobody hears."""

    castore_infrastructure = True

    def tell(self, name, what=None):
        """Tell nothing."""


def _loaded(inner, store, method):
    import torch

    loader = torch.utils.data.DataLoader(
        Dataset(inner, store), batch_size=None, num_workers=1, multiprocessing_context=method
    )
    return torch.cat(list(loader)).numpy()


class _Stage:
    """What a player tells and is told, from any thread."""

    castore_infrastructure = True

    def __init__(self, connection):
        self._connection = connection
        self._telling, self._obeying = threading.Lock(), threading.Lock()

    def tell(self, name, what=None):
        """Tell the test what happens."""
        with self._telling:
            self._connection.send((name, what))

    def obey(self):
        """Wait for an order."""
        with self._obeying:
            order = self._connection.recv()
        if order is not None:
            raise order

    def questions(self):
        """Yield how often to ask, and what."""
        with contextlib.suppress(EOFError):
            while True:
                yield self._connection.recv()


class _Tells(logging.Handler):
    def __init__(self, stage):
        super().__init__(logging.INFO)
        self._stage = stage

    def emit(self, record):
        if record.getMessage().startswith("waiting for "):
            self._stage.tell("waiting", record.getMessage())


def _play(address):
    connection = Client(address)
    connection.send(os.getpid())
    stage = _Stage(connection)
    logging.getLogger("castore").setLevel(logging.INFO)
    logging.getLogger("castore").addHandler(_Tells(stage))
    for count, question in stage.questions():
        _prepare(question)
        if count == 1:  # in the main thread, which gets the signals
            Question(**question).ask(stage)
            continue
        asking = [
            threading.Thread(target=Question(**question).ask, args=(stage,)) for _ in range(count)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()


def _prepare(question):
    """Take out of a question what concerns the whole process."""
    from castore.once import heartbeat, observer

    if state := question.pop("state", None):
        os.environ["XDG_STATE_HOME"] = str(state)
    if ttl := question.pop("ttl", None):
        heartbeat.TTL = observer.TTL = ttl
    if question.pop("nobody", False) and os.geteuid() == 0:  # root may write everywhere
        os.seteuid(65534)


def _main(address, *imports):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for name in ("castore.store", "castore.once.claims", "platformdirs", "tomllib", *imports):
        __import__(name)
    for _ in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a job may inherit none
            sys.stdin.close()
            _play(address)
            os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
