"""Processes as threads that take turns under a schedule: one step is one call of the backend.

The code under test is the real one. What stands in is time, who a process is, and who is gone;
`castore.once.owner` has tests with real processes.
"""

from __future__ import annotations

import random
import threading
import uuid
from types import SimpleNamespace

from castore.backend import memory
from castore.once import heartbeat, observer
from castore.once.owner import Owner

_MOST_STEPS = 20_000
_LATE = heartbeat.TTL / 2
_STALL = heartbeat.TTL + heartbeat.RENEW + 1


class Over(BaseException):
    """Raised in a process that is killed, wherever it is."""


class Process:
    """One process: runs `act` in steps."""

    def __init__(self, world, number, act):
        self.owner = Owner("host", "boot", "pid:[1]", 1000 + number, 7)
        self.number = number
        self.wake = self.stalled = 0.0
        self.late = -1.0
        self.killed = self.finished = False
        self.error = None
        self.go = threading.Semaphore(0)
        self._world = world
        self._act = act
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        self._world.here.process = self
        self.go.acquire()
        try:
            if not self._world.over:
                self._act(self)
        except Over:
            pass
        except BaseException as error:  # shown by the world
            self.error = error
        self.finished = True
        self._world.turn.release()


class World:
    """Time, a backend, and processes; stands in for the clock of `heartbeat`."""

    def __init__(self, patch):
        self.time = 0.0
        self.over = False
        self.here = threading.local()
        self.turn = threading.Semaphore(0)
        self.processes = []
        self.backend = Stepping(self)
        self._timers = []
        patch.setattr(heartbeat, "clock", self)
        patch.setattr(memory, "time", SimpleNamespace(time=lambda: self.time))
        patch.setattr(observer, "_jitter", random.Random(0))
        patch.setattr(observer, "_FIRST_PAUSE", 5.0)  # fewer steps until something happens
        patch.setattr(observer, "_LONGEST_NEAR", 15.0)
        patch.setattr(Owner, "here", classmethod(lambda _: self._me().owner))
        patch.setattr(Owner, "is_gone", lambda owner: self.processes[owner.pid - 1000].killed)

    def start(self, act):
        """Add a process that is going to call ``act(process)``."""
        self.processes.append(Process(self, len(self.processes), act))

    def run(self, schedule, events):
        """Let the processes run to their end.

        Parameters
        ----------
        schedule : list of int
            Which of those that can go on is next, for as many steps as it is long.
        events : list of (int, str, int)
            At which step to "kill" or "stall" which process, or to make it "late": for less
            time than a file lives all others go on before it.
        """
        try:
            for step in range(_MOST_STEPS):
                for when, what, number in events:
                    if when == step:
                        self._happen(what, number)
                if not self._step(schedule[step] if step < len(schedule) else step):
                    break
            else:
                raise AssertionError("nobody gets on")
        finally:
            self._end()
        for process in self.processes:
            if process.error is not None:
                raise process.error

    def step(self):
        """Wait for the next turn; never returns in a process that was killed."""
        process = getattr(self.here, "process", None)
        if process is None:
            return
        if not self.over:
            self.turn.release()
            process.go.acquire()
        if self.over:
            raise Over

    def monotonic(self):
        """Return the time."""
        return self.time

    def pause(self, seconds):
        """Let time pass for this process."""
        self._me().wake = self.time + seconds
        self.step()

    def every(self, seconds, act):
        """Call `act` in the name of this process again and again."""
        timer = [self.time + seconds, seconds, act, self._me()]
        self._timers.append(timer)
        return lambda: self._timers.remove(timer) if timer in self._timers else None

    def _me(self):
        return getattr(self.here, "process", None) or self.here.acting

    def _happen(self, what, number):
        process = self.processes[number % len(self.processes)]
        if process.finished or process.killed:
            return
        if what == "kill":
            process.killed = True
        elif what == "late":
            if process.late < 0:  # once: twice would be a stall
                process.late = self.time + _LATE
        else:
            process.stalled = process.wake = max(process.wake, self.time + _STALL)

    def _step(self, choice):
        going = [p for p in self.processes if not p.finished and not p.killed]
        if not going:
            return False
        prompt = [p for p in going if p.late <= self.time] or going
        ready = [p for p in prompt if p.wake <= self.time]
        if not ready:
            self._advance(min(max(p.wake, p.late) for p in going) - self.time)
            return True
        process = ready[choice % len(ready)]
        process.go.release()
        self.turn.acquire()
        return True

    def _advance(self, seconds):
        end = self.time + seconds
        while due := [timer for timer in self._timers if timer[0] <= end]:
            timer = min(due, key=lambda timer: timer[0])
            moment, every, act, process = timer
            self.time = max(self.time, moment)
            timer[0] += every
            self.here.acting = process
            over = process.killed or process.finished
            if over or (process.stalled <= self.time and not act()):
                self._timers.remove(timer)
        self.time = max(self.time, end)

    def _end(self):
        self.over = True
        for process in self.processes:
            process.go.release()
        for process in self.processes:
            process.thread.join()


class Stepping:
    """A backend in memory each of whose calls is one step of the process that makes it."""

    near = True

    def __init__(self, world):
        self._world = world
        self.real = memory.MemoryBackend(uuid.uuid4().hex)

    def __getattr__(self, name):
        act = getattr(self.real, name)

        def call(*arguments, **options):
            self._world.step()
            found = act(*arguments, **options)
            return iter(list(found)) if name == "list" else found

        return call
