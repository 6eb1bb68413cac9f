"""The audit log: hash chains of records on Kafka, and their signed anchors."""
