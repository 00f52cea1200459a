"""Trains a run and records it."""
