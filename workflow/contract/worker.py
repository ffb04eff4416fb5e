"""A process of its own for a method, so that a crash costs one pair and not the run."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

# Forked, not spawned: a spawned child would import the script that Snakemake runs once more.
# The parent runs no image filter, so it has no threads that a fork could leave behind.
FORK = multiprocessing.get_context("fork")


class WorkerDiedError(RuntimeError):
    """The process ended without an answer: a crash, or the system was out of memory."""


class Worker:
    """Keeps one state in a child process and calls functions on it there.

    Parameters
    ----------
    start : makes the state; called once, in the child. What it raises is raised here.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
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

        Raises
        ------
        WorkerDiedError
            If the child ended before it answered; says by which signal. Make a new worker then.
        """
        self._connection.send((function, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            good, value = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
            raise WorkerDiedError(f"the method's process ended by {how}") from None
        if not good:
            raise value
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
        connection.send((False, error))
        return None
    connection.send((True, value if answer else None))
    return value
