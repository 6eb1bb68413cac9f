"""Stand-ins for the outside world; they depend on none of the platform's own packages."""
