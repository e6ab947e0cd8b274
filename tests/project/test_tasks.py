"""Calls in one process and in several: equal results, errors as they were raised, dying workers in a sentence."""

import os
import signal
from functools import partial

import pytest

from inkstone.errors import InkstoneError, InputError
from inkstone.tasks import Workers, run_calls


def add(base: int, one: int, other: int) -> int:
    return base + one * other


def refuse(number: int) -> None:
    raise InputError(f"number {number} is wrong")


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_processes_do_not_change_the_results(processes: int) -> None:
    calls = [(n, n + 1) for n in range(7)]
    found = dict(run_calls(partial(add, 100), calls, Workers(processes)))
    assert found == {n: 100 + n * (n + 1) for n in range(7)}


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_call_comes_out_as_it_is(processes: int) -> None:
    with pytest.raises(InputError, match="is wrong"):
        list(run_calls(refuse, [(1,), (2,)], Workers(processes)))


def test_workers_that_keep_dying_end_in_a_sentence_that_names_the_setting() -> None:
    with pytest.raises(InkstoneError, match=r"killed 3 times.*with fewer \[mixture\] workers"):
        list(run_calls(die, [(n,) for n in range(50)], Workers(2), fewer="fewer [mixture] workers"))


def test_no_call_is_no_result() -> None:
    assert list(run_calls(add, [], Workers(4))) == []
