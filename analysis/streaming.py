"""Stages that run side by side: an iterator in a thread of its own, with a bounded queue between."""

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")

_POLL_S = 0.1


class _End:
    """The last thing in a queue: how the stage ended."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


def run_ahead(items: Iterable[Item], num_ahead: int) -> Iterator[Item]:
    """The items, made by a thread while the caller works on earlier ones.

    Args:
        items: iterated in the thread, which torch's and NumPy's operations, decoders and file access run beside.
        num_ahead: how many items may wait; what bounds the memory.
    Raises:
        Whatever the iterable raises, in its place among the items.
    """
    waiting: queue.Queue = queue.Queue(maxsize=num_ahead)
    is_stopped = threading.Event()

    def put(item: object) -> bool:
        while not is_stopped.is_set():
            with suppress(queue.Full):
                waiting.put(item, timeout=_POLL_S)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_End())
        except BaseException as error:
            put(_End(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        is_stopped.set()
        thread.join()
