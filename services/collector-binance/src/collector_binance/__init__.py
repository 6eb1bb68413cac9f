"""Collector for Binance spot market data: a pure core, and the service around it."""
