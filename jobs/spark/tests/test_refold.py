"""Transactions, changed rules, and a fold from the first record again."""

import harness as h
import pytest
from confluent_kafka import Producer
from markets import check_bars, market

pytestmark = [pytest.mark.component, pytest.mark.timeout(1800)]


def send_in_transaction(harness, rows, commit):
    """Produce trades in one transaction that is committed or aborted; [(partition, offset)]."""
    where = []
    producer = Producer(
        {
            **harness.kafka,
            "transactional.id": f"{harness.venue}-trades",
            "partitioner": "murmur2_random",
            "on_delivery": lambda _, message: where.append((message.partition(), message.offset())),
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for row in rows:
        key, value = h.trade(harness.header, *row)
        producer.produce(h.TRADES, value, key)
        producer.flush(30)
    (producer.commit_transaction if commit else producer.abort_transaction)(30)
    return where


def test_refold_by_new_rules_gives_the_same_bars_without_aborted_trades(harness):
    first, aborted, second = (market(harness, seed, 0, count=300) for seed in (1, 2, 3))
    where = harness.send([h.trade(harness.header, *row) for row in first])
    send_in_transaction(harness, aborted, commit=False)
    where += send_in_transaction(harness, second, commit=True)
    with harness.running("--only", "bars") as process:
        harness.until(harness.caught_up, process)
    check_bars(harness, first + second, where)
    runs = checkpoints(harness)
    assert len(runs) == 1

    refused = harness.start("--only", "bars", SPARK_IDLE_SECONDS=11)
    assert refused.wait(300) == 1
    assert "COINMESH_SPARK_IDLE_SECONDS=10 (now 11)" in harness.tail()

    harness.reset()
    with harness.running("--only", "bars", SPARK_IDLE_SECONDS=11) as process:
        harness.until(harness.caught_up, process)
    check_bars(harness, first + second, where)
    assert len(checkpoints(harness) | runs) == 2


def checkpoints(harness):
    """Ids of the checkpoints whose batches have written the topic's bars."""
    return {run.split(":")[1] for run in harness.runs()}
