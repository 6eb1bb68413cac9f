"""Stopping a query between two batches."""

import threading

import pytest

from coinmesh_spark.gate import Gate, GateClosedError


def test_a_stop_waits_for_the_batch_and_none_begins_before_it_is_done():
    gate, ends, order = Gate(), threading.Event(), []

    def batch():
        with gate.open():
            begun.set()
            ends.wait(30)
            order.append("the batch ends")

    begun = threading.Event()
    running = threading.Thread(target=batch)
    running.start()
    begun.wait(30)
    threading.Timer(0.2, ends.set).start()
    with gate.closed(patience=30):
        order.append("it is stopped")
        with pytest.raises(GateClosedError, match="is run again"), gate.open():
            order.append("never")
    running.join()
    assert order == ["the batch ends", "it is stopped"]
    with gate.open():
        order.append("it goes on")
    assert order[-1] == "it goes on"


def test_a_stop_does_not_wait_for_a_batch_that_hangs():
    gate = Gate()
    with gate.open(), gate.closed(patience=0.1):
        stopped = True
    assert stopped
