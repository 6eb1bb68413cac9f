"""The chassis that every Coinmesh service stands on; import its modules by name."""
