"""Knows what a source of text is: built-in, hub dataset, corpus folder or files."""
