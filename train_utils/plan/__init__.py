"""Plans a run from minutes, text and machine."""
