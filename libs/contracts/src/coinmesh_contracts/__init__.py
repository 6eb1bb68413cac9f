"""Coinmesh's contracts: stubs generated from proto/, Kafka framing and the table of topics."""
