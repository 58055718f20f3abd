"""Ctrl-C: blocks that it does not cut in two."""

import signal
import threading

import pytest

from skvae._support.interrupts import postponed


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


# --- Blocks that are not cut ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_blocks", [1, 2])
def test_an_interrupt_waits_for_the_end_of_the_outermost_block(n_blocks):
    done = []

    def work(depth):
        with postponed():
            if depth:
                work(depth - 1)
            else:
                ctrl_c()
            done.append(depth)

    with pytest.raises(KeyboardInterrupt):
        work(n_blocks - 1)
    assert done == list(range(n_blocks))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_comes_before_an_error_of_the_block():
    def work():
        with postponed():
            ctrl_c()
            raise ValueError("stop")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_a_handler_of_the_users_is_called_once_and_stays():
    seen = []

    def handler(number, frame):
        seen.append(number)

    signal.signal(signal.SIGINT, handler)
    try:
        with postponed():
            ctrl_c()
            ctrl_c()
            assert seen == []
        assert seen == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_ignored_interrupt_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with postponed():
            ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_have_nothing_to_postpone():
    """Python allows them no handler."""
    done = []

    def work():
        with postponed():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert done == [True]
