"""Opens, builds and saves models and tokenizers, and turns text into ids."""
