"""Map a function over a stream on a few threads, yielding the results in the order of the stream."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager


def ordered_map[Item, Result](
    pool: Executor, fn: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in order. `Executor.map` would read all items first, however much memory they take.

    Args:
        pool: where `fn` runs.
        items: read in the caller's thread, as results are taken.
        ahead: how many items to read beyond the one whose result is taken.
    """
    pending: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        pending.append((item, pool.submit(fn, item)))
        while pending and (len(pending) > ahead or pending[0][1].done()):
            first, future = pending.popleft()
            yield first, future.result()
    while pending:
        first, future = pending.popleft()
        yield first, future.result()


@contextmanager
def thread_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `workers` threads; when the block fails, work that has not started is dropped."""
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
