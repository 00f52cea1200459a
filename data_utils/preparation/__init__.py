"""A corpus prepared in stages on many processes: read, cleaned, without duplicates and leaks, written, reported."""
