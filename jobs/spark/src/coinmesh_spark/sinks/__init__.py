"""Where the fold's changes go: Cassandra and Kafka."""
