"""Turns tokens into rows of equal length: packing, shards, streams, mixtures."""
