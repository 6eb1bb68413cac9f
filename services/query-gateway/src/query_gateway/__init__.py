"""Serves market data: what it is now from Kafka, what it was from Cassandra."""
