"""Measures models: figures on held-out text, and agreement of two runtimes."""
