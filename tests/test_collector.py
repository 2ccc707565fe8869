"""The paused cycle collector: off inside, on again after it, and nothing is lost to it."""

from __future__ import annotations

import gc
import weakref

import pytest

from envecho.collector import paused_collector


class Node:
    """An object that can be in a cycle with itself."""

    def __init__(self) -> None:
        self.itself = self


def test_the_collector_is_off_inside_and_as_it_was_after():
    """Catches a collector that stays off after an error, and one that is turned on although the user turned it off."""

    @paused_collector()
    def load() -> None:
        assert not gc.isenabled()
        raise KeyError

    with pytest.raises(KeyError):
        load()
    assert gc.isenabled()
    gc.disable()
    try:
        with paused_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_cycles_of_before_and_inside_are_found_by_the_next_full_search():
    """Catches objects that are frozen for good: memory that a notebook never gets back."""
    before = Node()
    with paused_collector():
        inside = Node()
    refs = [weakref.ref(before), weakref.ref(inside)]
    del before, inside
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    assert gc.get_freeze_count() == 0


def test_what_the_user_froze_stays_frozen():
    """Catches a program that froze its objects before it forks, and gets them all back into every search."""
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        assert frozen
        with paused_collector():
            pass
        assert gc.get_freeze_count() > 0.9 * frozen
    finally:
        gc.unfreeze()
