"""Reads, checks, encodes and windows dialogues."""
