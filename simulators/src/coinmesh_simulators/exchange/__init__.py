"""A spot exchange with Binance's market-data protocol; one market is behind all responses."""
