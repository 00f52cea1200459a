"""Text in, cleaner text or a reason to drop it."""
