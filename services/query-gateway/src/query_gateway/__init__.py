"""Serves market data: live data from Kafka, history from Cassandra."""
