"""How fast a checkpoint answers: against transformers' generate, from the first piece, and several replies at once.

python -m benchmarks.decode                      # random weights in the shapes qwen3-5m, qwen3-91m and qwen3-120m
python -m benchmarks.decode qwen3-5m ckpt_chat   # a shape, and a checkpoint of yours
python -m benchmarks.decode --engines auto llama.cpp
python -m benchmarks.decode qwen3-5m --engines transformers batched
python -m benchmarks.decode qwen3-91m --dtype bfloat16  # generate's weights, too

Medians over rounds in which all take turns, in one process. Leave the machine alone meanwhile.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from chat_utils.engine import Engine, load_engine
from chat_utils.reply import LOOP_TOKENS
from chat_utils.sampling import ENGINES, PRECISIONS, Sampling
from data_utils.dialogue.format import stop_token_id
from data_utils.dialogue.window import encode_prompt
from errors import run_script
from model_utils.checkpoint import load_checkpoint, save_model
from model_utils.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[1]
SHAPES = {"qwen3-5m": 128, "qwen3-91m": 48, "qwen3-120m": 48}  # tokens of a reply
# The size that other runtimes were measured at; nobody trains it, so it is no shape of configs/models.
CHANGES = {
    "qwen3-91m": {
        "hidden_size": 640, "intermediate_size": 2640, "num_hidden_layers": 12, "num_attention_heads": 10,
        "num_key_value_heads": 10,
    },
}  # fmt: skip
QUESTION = [{"role": "user", "content": "Tell me a story about a dog and a cat. 再给我讲一个关于公园的故事。"}]
GREEDY = Sampling(temperature=0, repetition_penalty=1.0)
CHAT = Sampling()  # as chat.py draws


def make_checkpoint(shape: str, folder: Path) -> Path:
    """Write random weights, wide enough that replies vary, in the one checkpoint form."""
    files = sorted((ROOT / "data_utils" / "chat_data").rglob("*.jsonl"))
    dialogues = [json.loads(line)["messages"] for file in files for line in file.open(encoding="utf-8")]
    tokenizer = train_tokenizer([message["content"] for messages in dialogues for message in messages], 8192)
    file = "qwen3-120m" if shape in CHANGES else shape
    settings = json.loads((ROOT / "configs" / "models" / f"{file}.json").read_text(encoding="utf-8"))
    settings.update(CHANGES.get(shape, {}))
    special = {"vocab_size": 8192, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**settings, **special}))
    save_model(model, tokenizer, folder / shape, [stop_token_id(tokenizer)])
    return folder / shape


def decode(engine: Engine, ids: list[int], sampling: Sampling, tokens: int) -> list[int]:
    """Return `tokens` ids after a prompt; the end token ends nothing here."""
    session = engine.decoder.open(ids, sampling)
    while len(session.ids) < len(ids) + tokens:
        session.step(min(LOOP_TOKENS, len(ids) + tokens - len(session.ids)))  # as replies do
    return session.ids[len(ids) :]


def generate(model, ids: list[int], sampling: Sampling, tokens: int) -> list[int]:
    """Return as many ids by transformers' generate with the same settings."""
    model.generation_config.eos_token_id = None
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    settings = {"do_sample": True, **drawn} if sampling.temperature else {"do_sample": False}
    output = model.generate(
        torch.tensor([ids], device=model.device),
        max_new_tokens=tokens,
        repetition_penalty=sampling.repetition_penalty,
        **settings,
    )
    return output[0, len(ids) :].tolist()


def load_llama_cpp(path: Path, window: int) -> Callable[[list[int], int], list[int]]:
    """Return llama-cpp-python's own loop, greedy, on the file that the engine uses: (prompt ids, tokens) -> ids."""
    import llama_cpp

    from chat_utils.runtimes.llama_cpp import find_gguf

    file = find_gguf(path, lambda: load_checkpoint(str(path)))
    runtime = llama_cpp.Llama(str(file), n_ctx=window, verbose=False)

    def run(ids: list[int], tokens: int) -> list[int]:
        stream = runtime.generate(ids, temp=0.0, repeat_penalty=1.0, reset=True)
        return [next(stream) for _ in range(tokens)]

    return run


def time_rounds(works: dict[str, Callable[[], list[int]]], rounds: int) -> dict[str, float]:
    """Return the median tokens a second of each, all in turn in each round; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            time.sleep(0.3)  # the threads of the one before wait awake for a while
            started = time.perf_counter()
            count = len(work())
            seconds[name].append((time.perf_counter() - started) / count)
    return {name: 1 / statistics.median(values[1:]) for name, values in seconds.items()}


def measure_first_pieces(engine: Engine, rounds: int) -> tuple[float, float]:
    """Return the median milliseconds to the first piece of a reply in the 1st and the 10th turn of a dialogue."""
    first, tenth = [], []
    for number in range(rounds):
        dialogue: list[dict] = []
        for turn in range(10):
            dialogue.append({"role": "user", "content": f"{number}-{turn}: {QUESTION[0]['content']}"})
            started = time.perf_counter()
            reply = engine.reply(dialogue, Sampling(max_new_tokens=16))
            text = next(reply, "")
            milliseconds = (time.perf_counter() - started) * 1000
            if turn in (0, 9):
                (tenth if turn else first).append(milliseconds)
            dialogue.append({"role": "assistant", "content": (text + "".join(reply)).strip() or "…"})
    return statistics.median(first), statistics.median(tenth)


def measure_at_once(engine: Engine, ids: list[int], replies: int, tokens: int, seed: int | None) -> float:
    """Return tokens a second of so many replies together; with a seed "auto" gives each a step of its own, in turn."""
    started = time.perf_counter()
    with ThreadPoolExecutor(replies) as threads:
        list(threads.map(lambda _: decode(engine, ids, Sampling(seed=seed), tokens), range(replies)))
    return replies * tokens / (time.perf_counter() - started)


def measure(path: Path, kinds: list[str], dtype: str, tokens: int, rounds: int) -> None:
    """Print the table of one checkpoint."""
    reference = load_engine(str(path), "transformers", dtype=dtype)
    model = reference.decoder.model
    ids, _ = encode_prompt(reference.tokenizer, QUESTION, reference.window)
    size = f"{model.num_parameters() / 1e6:.1f} M parameters in {str(model.dtype).removeprefix('torch.')}"
    print(f"\n## {path.name}: {size}, {tokens} tokens after {len(ids)}\n")
    engines = {kind: load_engine(str(path), kind, dtype=dtype) for kind in kinds}
    works = {}
    for way, sampling in (("greedy", GREEDY), ("sampled", CHAT)):
        works["generate", way] = lambda s=sampling: generate(model, ids, s, tokens)
        for kind, engine in engines.items():
            works[kind, way] = lambda e=engine, s=sampling: decode(e, ids, s, tokens)
    if "llama.cpp" in engines:
        direct = load_llama_cpp(path, reference.window)
        works["llama.cpp, direct", "greedy"] = lambda: direct(ids, tokens)
    speeds = time_rounds(works, rounds)
    expected = works["generate", "greedy"]()
    print("| engine | greedy tokens/s | ratio | as chat.py samples | ratio | greedy tokens equal generate's |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in dict.fromkeys(name for name, _ in works):
        cells = []
        for way in ("greedy", "sampled"):
            speed = speeds.get((name, way))
            cells += [f"{speed:.0f}", f"{speed / speeds['generate', way]:.2f}"] if speed else ["", ""]
        same = sum(a == b for a, b in zip(works[name, "greedy"](), expected, strict=True))
        print(f"| {name} | {' | '.join(cells)} | {same} of {tokens} |")
    print("\n| engine | first piece, 1st turn | 10th turn | 1 reply | 4 at once | 8 at once | 8 with seeds |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for kind in kinds:  # in a process of its own, since OpenMP's team of this one's main thread would be in the way
        arguments = (path, kind, dtype, ids, tokens, rounds)
        process = multiprocessing.get_context("spawn").Process(target=measure_service, args=arguments)
        process.start()
        process.join()


def measure_service(path: Path, kind: str, dtype: str, ids: list[int], tokens: int, rounds: int) -> None:
    """Print a line of the second table: what a server's users see of one engine, which runs on threads alone."""
    logging.disable_progress_bar()
    engine = load_engine(str(path), kind, dtype=dtype)
    with ThreadPoolExecutor(1) as thread:
        first, tenth = thread.submit(measure_first_pieces, engine, rounds).result()
    totals = [measure_at_once(engine, ids, replies, tokens, None) for replies in (1, 4, 8)]
    totals.append(measure_at_once(engine, ids, 8, tokens, 1))
    cells = [f"{first:.0f} ms", f"{tenth:.0f} ms", *(f"{total:.0f}" for total in totals)]
    print(f"| {kind} | {' | '.join(cells)} |", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", help=f"folders or shapes ({' '.join(SHAPES)})")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["auto"], help="what to measure (auto)")
    parser.add_argument("--dtype", choices=PRECISIONS, default="auto", help="precision of the weights (auto: float32)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that the medians are of (5)")
    parser.add_argument("--tokens", type=int, help="tokens of a reply (128, 48 for qwen3-91m and 120m)")
    options = parser.parse_args(argv)
    logging.disable_progress_bar()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, numpy {numpy.__version__}"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}; load {load:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in options.checkpoints or SHAPES:
            path = make_checkpoint(name, Path(folder)) if name in SHAPES else Path(name)
            tokens = options.tokens or SHAPES.get(path.name, 128)
            measure(path, options.engines, options.dtype, tokens, options.rounds)
    return 0


if __name__ == "__main__":
    run_script(main)
