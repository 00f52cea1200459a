"""Cleans texts: pure functions."""
