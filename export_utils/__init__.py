"""A checkpoint in the forms of other runtimes."""
