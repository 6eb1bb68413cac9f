"""Stores trades in Cassandra within seconds of their append to Kafka."""
