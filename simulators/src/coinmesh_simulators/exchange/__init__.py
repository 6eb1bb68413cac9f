"""A spot exchange that speaks Binance's market-data protocol, with one market behind all answers."""
