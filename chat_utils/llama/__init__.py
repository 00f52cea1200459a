"""A checkpoint in llama.cpp: written as GGUF, kept, and run."""
