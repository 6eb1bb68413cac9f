"""Access control of the mesh: one table, and its application to every component."""
