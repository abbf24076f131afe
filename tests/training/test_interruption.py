"""A signal asks a training to stop after its step; signals close together lose nothing."""

import signal

import pytest

from lossline.training.interruption import Interruption


@pytest.fixture(autouse=True)
def _interruptible():
    """Receive Ctrl-C, also where the shell that started the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_sigterm_never_ends_a_training_that_is_asked_to_stop(first):
    with Interruption() as interruption:
        assert not interruption.asked(1)
        for each in (first, signal.SIGTERM, signal.SIGTERM):  # a study sends one after Ctrl-C
            signal.raise_signal(each)
        assert interruption.asked(1)


def test_a_second_interrupt_ends_it_at_once():
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked(1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_one_interrupt_after_sigterm_does_not_end_it():
    with Interruption() as interruption:
        try:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pytest.fail("the first Ctrl-C ended it")
        assert interruption.asked(1)


def test_handlers_stand_again_after_it():
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with Interruption():
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
