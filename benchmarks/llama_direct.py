"""Compare `--engine llama.cpp` with llama.cpp driven directly: the same file, prompt and number of greedy tokens.

    python -m benchmarks.llama_direct ckpt_chat/ [TOKENS]    # 256

Prints tokens a second of both (medians of 100 rounds, taken in turn) and the share that the engine reaches
(median of the rounds' shares).
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from chat_utils.engine import Engine, load_engine
from chat_utils.runtimes.llama_cpp import find_gguf, load_library
from chat_utils.sampling import Sampling
from data_utils.dialogue.window import encode_prompt
from errors import run_script
from model_utils.checkpoint import load_checkpoint

QUESTION = [{"role": "user", "content": "Tell me a long story about 北京 and the sea."}]
ROUNDS = 100  # one takes 0.1 s, and the machine's speed changes within less


def time_engine(engine: Engine, tokens: int) -> tuple[float, int]:
    """Return the tokens a second of a reply of the engine, after its first, and how many it has."""
    reply = engine.reply(QUESTION, Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=tokens))
    for _ in reply:
        pass
    stats = reply.stats
    return (stats.reply_tokens - 1) / (stats.seconds - stats.first_token_seconds), stats.reply_tokens


class Direct:
    """llama.cpp as its own examples drive it: decode a token, draw by its greedy sampler, again."""

    def __init__(self, file: Path, window: int) -> None:
        self.lib = lib = load_library()
        model = lib.llama_model_load_from_file(str(file).encode(), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_ctx, params.no_perf = window, True
        params.n_threads = params.n_threads_batch = torch.get_num_threads()
        self.context = lib.llama_init_from_model(model, params)
        self.sampler = lib.llama_sampler_init_greedy()

    def time(self, ids: list[int], tokens: int) -> float:
        """Return the tokens a second after the first."""
        lib, context = self.lib, self.context
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        prompt, token = (lib.llama_token * len(ids))(*ids), (lib.llama_token * 1)()
        lib.llama_decode(context, lib.llama_batch_get_one(prompt, len(ids)))
        token[0] = lib.llama_sampler_sample(self.sampler, context, -1)
        step = lib.llama_batch_get_one(token, 1)
        started = time.perf_counter()
        for _ in range(tokens - 1):
            lib.llama_decode(context, step)
            token[0] = lib.llama_sampler_sample(self.sampler, context, -1)
        return (tokens - 1) / (time.perf_counter() - started)


def main(argv: list[str] | None = None) -> int:
    """Print the comparison; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint")
    parser.add_argument("tokens", type=int, nargs="?", default=256, help="of a reply (256)")
    options = parser.parse_args(argv)
    engine = load_engine(options.model, "llama.cpp")
    engine.stop_ids = set()  # so that only a loop ends the reply early
    file = find_gguf(Path(options.model), lambda: load_checkpoint(options.model))
    direct = Direct(file, engine.window)
    _, tokens = time_engine(engine, options.tokens)
    ids, _ = encode_prompt(engine.tokenizer, QUESTION, engine.window - tokens)
    direct.time(ids, tokens)
    found = [(time_engine(engine, tokens)[0], direct.time(ids, tokens)) for _ in range(ROUNDS)]
    own, other = (statistics.median(column) for column in zip(*found, strict=True))
    share = statistics.median(own / other for own, other in found)
    print(
        f"{tokens} tokens, {torch.get_num_threads()} threads, {file.name.split('-')[0]}: engine {own:,.0f} tokens a "
        f"second, llama.cpp directly {other:,.0f}: {share:.0%}"
    )
    return 0


if __name__ == "__main__":
    run_script(main)
