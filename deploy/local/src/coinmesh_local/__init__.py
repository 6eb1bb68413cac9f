"""The mesh as native processes on one machine."""
