"""Scrapes, alert rules, service level objectives and dashboards of the mesh, as code."""
