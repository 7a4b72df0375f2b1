"""Ctrl-C as a wish that is granted between two steps, and not in the middle of one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """Whether Ctrl-C was pressed."""

    seen = False

    def handle(self, signum: int, frame: Any) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True


@contextmanager
def catch_interrupt() -> Iterator[Interrupt]:
    """Note the first Ctrl-C; the second raises KeyboardInterrupt. The old handler comes back afterwards.

    Only the main thread can and does; and a program that ignores Ctrl-C, or handles it outside Python, goes on so.
    """
    interrupt = Interrupt()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield interrupt
        return
    signal.signal(signal.SIGINT, interrupt.handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
