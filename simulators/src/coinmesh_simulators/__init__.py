"""Simulators of external systems; they depend on none of the platform's services."""
