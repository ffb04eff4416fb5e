"""A process of its own for a method, so that a crash costs one pair and not the run."""

import contextlib
import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import psutil

from avsm.errors import UserError

# No pool of the standard library: it loses what a failed start raises, and exceptions of a class
# that the parent does not know; and its process outlives a killed parent, with the run's lock.
# Forked, not spawned: a spawned child would import the script that Snakemake runs once more.
# The parent runs no image filter, so it has no threads that a fork could leave behind.
FORK = multiprocessing.get_context("fork")


class WorkerDiedError(RuntimeError):
    """The process gave no answer: a crash, the system out of memory, or the time was over."""


class Worker:
    """Keeps one state in a child process and calls functions on it there.

    `start` makes the state, once, in the child; what it raises is raised here. A call may take
    `limit` seconds; None: any.
    """

    def __init__(self, start: Callable[[], Any], limit: float | None = None) -> None:
        self._limit = limit
        self._connection, child = FORK.Pipe()
        self._process = FORK.Process(target=_serve, args=(child, self._connection, start))
        self._process.start()
        child.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(state, *arguments)`` from the child.

        A `WorkerDiedError` says by which signal the child ended before it answered, or that it took
        longer than the limit and was killed. Make a new worker then.
        """
        self._connection.send((function, arguments))
        if not self._connection.poll(self._limit):
            self._kill()
            raise WorkerDiedError(f"took more than {self._limit / 60:g} min and was stopped")
        return self._answer()

    def _kill(self) -> None:
        """Kill the child and the programs that it started."""
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for program in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                program.kill()
        self.close()

    def _answer(self) -> Any:
        try:
            good, value = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
            raise WorkerDiedError(f"the method's process ended by {how}") from None
        if not good:
            raise _unpacked(*value)
        return value

    def close(self) -> None:
        """End the child."""
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, parents_end: Connection, start: Callable[[], Any]) -> None:
    """Answer calls until the parent closes its end or is gone."""
    parents_end.close()
    try:
        state = _reply(connection, start, answer=False)
        while True:
            function, arguments = connection.recv()
            _reply(connection, lambda: function(state, *arguments))  # noqa: B023
    except EOFError:
        connection.close()


def _reply(connection: Connection, function: Callable[[], Any], answer: bool = True) -> Any:
    """Call a function; send its value (or only that it was good), or what it raised."""
    try:
        value = function()
    except Exception as error:
        connection.send((False, _packed(error)))
        return None
    connection.send((True, value if answer else None))
    return value


def _packed(error: Exception) -> tuple[bytes | None, str]:
    """Return an error pickled, and as text with the lines of the method that it came from."""
    text = "".join(traceback.format_exception(error))
    if not isinstance(error, UserError):  # those say all there is to say
        error.add_note(f"In the method's process:\n{text}")
    try:
        return pickle.dumps(error), text
    except Exception:
        return None, text


def _unpacked(pickled: bytes | None, text: str) -> Exception:
    """Return the error, or its text where it is of a class that only the child knows."""
    try:
        return pickle.loads(pickled)
    except Exception:
        return UserError(f"In the method's process:\n{text}")
