"""What a user asks of work that is running: cancel it, pause it, stop it early. Needs the standard library alone."""

from __future__ import annotations

import threading

from .errors import Cancelled


class Control:
    """Asked by the work between its steps, set from another thread.

    A cancelled work leaves nothing behind; a stopped one ends after the step it is in and keeps what it has reached;
    a suspended one ends after that step too, and can go on another time.
    """

    def __init__(self) -> None:
        self._cancelled, self._stopped, self._suspended = (threading.Event() for _ in range(3))
        self._going = threading.Event()
        self._going.set()

    def cancel(self) -> None:
        """Ask the work to end without a result."""
        self._cancelled.set()
        self._going.set()

    def stop(self) -> None:
        """Ask the work to end early with the result it has."""
        self._stopped.set()
        self._going.set()

    def suspend(self) -> None:
        """Ask the work to save where it stands, and end."""
        self._suspended.set()
        self._going.set()

    def pause(self) -> None:
        """Ask the work to wait."""
        self._going.clear()
        # Asked after, so that a cancel or stop from another thread at this moment is not waited over.
        if self.cancelled or self.stopping or self.suspended:
            self._going.set()

    def resume(self) -> None:
        """Let the work go on."""
        self._going.set()

    @property
    def cancelled(self) -> bool:
        """Whether the work was cancelled."""
        return self._cancelled.is_set()

    @property
    def stopping(self) -> bool:
        """Whether the work shall end early."""
        return self._stopped.is_set()

    @property
    def suspended(self) -> bool:
        """Whether the work shall save where it stands, and end."""
        return self._suspended.is_set()

    @property
    def paused(self) -> bool:
        """Whether the work waits."""
        return not self._going.is_set()

    def check(self) -> None:
        """Wait while paused; raises Cancelled once cancelled."""
        self._going.wait()
        if self.cancelled:
            raise Cancelled("The work was cancelled.")
