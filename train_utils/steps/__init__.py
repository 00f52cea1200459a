"""Makes a training step fast: attention, compilation, optimizer, first fit."""
