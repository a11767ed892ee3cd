"""Pipeline stages that run concurrently: an iterator in its own thread, with a bounded queue."""

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")

_POLL_S = 0.1


class _End:
    """Last item of a queue, with the error that ended the stage."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


def run_ahead(items: Iterable[Item], num_ahead: int) -> Iterator[Item]:
    """Yield the items, which a thread produces while the caller works on earlier ones.

    Args:
        items: iterated in the thread; useful where it releases the GIL (torch, NumPy, decoders, file access).
        num_ahead: maximum number of items waiting, which bounds the memory.
    Raises:
        Whatever the iterable raises, after the items before the error.
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
