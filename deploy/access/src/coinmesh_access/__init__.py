"""Who may do what in the mesh: one table, and what makes every component hold to it."""
