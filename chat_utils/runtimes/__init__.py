"""Compute next-token logits: the decoder and scheduler, the prefix cache, and three runtimes."""
