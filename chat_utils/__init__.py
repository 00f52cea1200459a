"""Answers by a checkpoint: in the terminal, on a page, over HTTP."""
