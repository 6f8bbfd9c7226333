"""Signals that something handles while it goes on. Needs no jax."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def handled(handlers: Mapping[signal.Signals, Callable]) -> Iterator[dict[signal.Signals, Any]]:
    """Let signals call these; gives what they called before and will again.

    Only the main thread may: in another nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
