"""A function over a stream on threads."""

import threading
from concurrent.futures import Executor, Future
from itertools import count, islice

import pytest

from megatron_srp.ordered_map import ordered_map, thread_pool


def test_results_keep_the_order_of_the_items_whichever_is_ready_first():
    second_is_ready = threading.Event()

    def fn(item):
        if item == 0:
            assert second_is_ready.wait(60)
        elif item == 1:
            second_is_ready.set()
        return item * item

    with thread_pool(2) as pool:
        assert list(ordered_map(pool, fn, range(5), 2)) == [(i, i * i) for i in range(5)]


def test_an_endless_stream_is_read_only_so_far_ahead():
    read = []
    items = (read.append(i) or i for i in count())
    with thread_pool(1) as pool:
        taken = list(islice(ordered_map(pool, str, items, 3), 4))
    assert taken == [(i, str(i)) for i in range(4)]
    assert read == list(range(len(read))) and len(read) <= 4 + 3


def test_a_result_that_is_there_is_not_held_back():
    class AtOnce(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.set_result(fn(*args, **kwargs))
            return future

    read = []
    items = (read.append(i) or i for i in count())
    assert next(ordered_map(AtOnce(), str, items, 3)) == (0, "0") and read == [0]


def test_what_comes_before_an_error_is_given_first():
    def fn(item):
        if item == 2:
            raise ValueError(f"item {item}")
        return item

    taken = []
    with pytest.raises(ValueError, match="item 2"), thread_pool(2) as pool:
        for pair in ordered_map(pool, fn, range(9), 3):
            taken.append(pair)
    assert taken == [(0, 0), (1, 1)]


def test_a_failing_block_drops_what_has_not_begun():
    may_end, ran = threading.Event(), []

    def fn(item):
        ran.append(item)
        assert may_end.wait(60)

    with pytest.raises(KeyboardInterrupt), thread_pool(1) as pool:
        futures = [pool.submit(fn, i) for i in range(4)]
        futures[-1].add_done_callback(lambda _: may_end.set())
        raise KeyboardInterrupt
    assert ran in ([0], [])  # the thread may not even have started
    assert all(future.cancelled() for future in futures[1:])
