"""Names the engines and precisions that a user can choose; light to import."""

ENGINES = ("auto", "transformers", "batched", "llama.cpp")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
SLOTS = 8  # replies that a step computes at most, where each needs room from the start
