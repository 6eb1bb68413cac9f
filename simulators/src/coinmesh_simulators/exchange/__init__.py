"""A spot exchange that speaks Binance's market-data protocol, one market behind all answers."""
