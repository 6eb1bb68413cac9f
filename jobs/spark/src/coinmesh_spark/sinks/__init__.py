"""Sinks for the fold's changes: Cassandra and Kafka."""
