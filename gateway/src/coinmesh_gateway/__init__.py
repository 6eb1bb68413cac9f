"""Envoy's configuration, generated from the contracts and the service catalogue."""
