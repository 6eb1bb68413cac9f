"""Common foundation of all Coinmesh services; import its modules by name."""
