"""What the log says of a query that failed."""

import pytest

from coinmesh_spark.causes import cause, fold_cause

BROKERS = "127.0.0.1:9092"
LOSS = """[KAFKA_DATA_LOSS.START_OFFSET_RESET] Some data may have been lost because they are not \
available in Kafka any more;
either the data was aged out by Kafka or the topic may have been deleted before all the data in the
topic was processed.
If you don't want your streaming query to fail on such cases, set the source option failOnDataLoss \
to false.
Reason:
Starting offset for market.trades.v1-0 was 5 but consumer reset to 9. SQLSTATE: 22000"""
OLDER = """java.lang.IllegalStateException: Cannot fetch offset 5.
Some data may have been lost because they are not available in Kafka any more; either the
 data was aged out"""


@pytest.mark.parametrize(
    "text",
    [
        f"org.apache.spark.sql.kafka010.KafkaIllegalStateException: {LOSS}",
        f"[STREAM_FAILED] Query bars terminated with exception: {LOSS}\n=== Streaming Query ===\n",
        f"Job aborted due to stage failure: Task 0 in stage 4.0 failed 1 times: {LOSS}",
        OLDER,
    ],
)
def test_deleted_records_name_the_remedy(text):
    message = fold_cause(text, BROKERS)
    assert message.startswith(f"Kafka at {BROKERS} has deleted records before they were read")
    assert "`coinmesh-spark reset`" in message
    assert "refused after a change of the partition count" in message
    assert "failOnDataLoss" not in message
    assert ("consumer reset to 9" in message) is ("Reason:" in text)
    # The archive's remedy is another one.
    assert "reset`" not in cause(text, BROKERS)


@pytest.mark.parametrize(
    "name", ["ADDED_PARTITION_DOES_NOT_START_FROM_OFFSET_ZERO", "PARTITIONS_DELETED"]
)
def test_changed_partition_count_does_not_name_reset(name):
    assert "reset`" not in fold_cause(LOSS.replace("START_OFFSET_RESET", name), BROKERS)


def test_other_failures_name_their_cause():
    text = "py4j: \nmeshkit.errors.Unavailable: Cassandra doesn't answer\n"
    assert fold_cause(text, BROKERS) == "meshkit.errors.Unavailable: Cassandra doesn't answer"
