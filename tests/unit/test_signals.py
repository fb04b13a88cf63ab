"""Waiting for the signal that asks for the end."""

import os
import signal
import threading

import pytest

from xenpv.signals import ending_on


def test_nothing_comes() -> None:
    with ending_on(signal.SIGTERM) as ending:
        assert not ending.wait(0) and not ending.wait(0.01) and not ending.asked


def test_one_that_came_before_the_wait() -> None:
    with ending_on(signal.SIGTERM, signal.SIGINT) as ending:
        os.kill(os.getpid(), signal.SIGINT)
        assert ending.wait() and ending.asked and ending.wait(0)


def test_one_that_comes_to_another_thread_ends_the_wait() -> None:
    """It interrupts no call of the main thread's, in which alone Python calls a handler."""
    with ending_on(signal.SIGTERM) as ending:
        stay = threading.Event()

        def signals_itself() -> None:
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            stay.wait()

        other = threading.Timer(0.02, signals_itself)
        other.start()
        try:
            assert ending.wait(20)
        finally:
            stay.set()
            other.join()


def test_another_signal_is_not_the_end() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with ending_on(signal.SIGTERM) as ending:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not ending.wait(0.01)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_handlers_that_were_there_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(KeyError), ending_on(signal.SIGTERM, signal.SIGINT):
        raise KeyError
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
