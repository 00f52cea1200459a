"""Give readers and scripts bad inputs by kind: each is read, or named in one line; none ends in a traceback or never.

python -m benchmarks.faults_inputs                             # 1,000 inputs: some minutes
python -m benchmarks.faults_inputs --inputs 200 --kind reader  # of one kind
python -m benchmarks.faults_inputs --kind script --number 17   # one of them again, and what it says

An input is known by its kind and number. A worker process takes one after the other and is ended where one takes longer
than the limit. What is counted: inputs that were read, in part at least; those that were named; tracebacks; more than
the limit of seconds; neither text nor a fault; a file that was there before and isn't what it was; memory at most.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from benchmarks.bad_inputs import ROW_KINDS, make_file, spoil_folder

SHARES = {"reader": 0.6, "dialogues": 0.15, "preferences": 0.1, "checkpoint": 0.07, "script": 0.04, "options": 0.04}
TINY = [
    "--max_steps", "1", "--eval_strategy", "no", "--save_strategy", "no", "--report_to", "none", "--bf16", "false",
    "--torch_compile", "false", "--use_cpu", "true", "--warmup_steps", "0", "--per_device_train_batch_size", "2",
]  # fmt: skip
Result = tuple[str, str]  # "read", "named" or what went wrong, and words


def read_file(path: Path, rng: random.Random, base: Path) -> Result:
    """Read a file as a corpus is read."""
    from data_utils.readers.arguments import ReadArguments
    from data_utils.sources.inputs import read_documents_of

    faults, texts = [], 0
    options = ReadArguments(rng.choice(["document", "paragraph", "line"]))
    for document in read_documents_of(str(path), options, faults.append):
        document["text"].encode()
        texts += 1
    words = "; ".join(fault.reason for fault in faults[:3])
    is_odd = any("\n" in fault.reason or fault.file != str(path) or len(fault.reason) > 1000 for fault in faults)
    return ("odd words" if is_odd else "read" if texts else "named" if faults else "silent"), words


def read_rows(path: Path, rng: random.Random, base: Path, pairs: bool = False) -> Result:
    """Read a file as dialogues, or preferences, are read."""
    from data_utils.dialogue.pairs import read_pairs
    from data_utils.dialogue.reading import read_checked
    from data_utils.sources.source import open_source
    from errors import InputError

    try:
        rows = (read_pairs if pairs else read_checked)([open_source(str(path))], True)
    except InputError as error:
        return ("named" if path.name in str(error) else "odd words"), str(error)
    return ("read" if len(rows.dialogues) else "silent"), ""


def run_main(main: Callable, options: list[str]) -> Result:
    """Run a script's `main` in this process."""
    from errors import escape_unprintable, run_guarded
    from files import release_all

    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            code = run_guarded(lambda: main(options))
        except SystemExit as error:  # argparse's
            code = error.code
    release_all()
    lines = [line for line in said.getvalue().splitlines() if "error: " in line]
    if code == 0:
        return "read", ""
    is_named = code == 2 and len(lines) == 1 and lines[0] == escape_unprintable(lines[0])
    return ("named" if is_named else "odd words"), f"exit {code}: {' | '.join(lines) or said.getvalue()[-200:]}"


def run_script(path: Path, rng: random.Random, base: Path) -> Result:
    """Give the file to a script."""
    import finetune_dialogue
    import prepare_corpus
    import score
    import train
    import tune_preferences

    folder = path.parent / "out"
    small = [*TINY, "--output_dir", str(folder)]
    tune = ["--base", str(base), "--row_tokens", "64", *small]
    shape = ["--model_shape", str(base / "config.json"), "--vocab_size", "400", "--block_tokens", "16"]
    clean = ["--workers", "1", "--clean", "unicode", "--max_broken_fraction", "1", "--output_dir", str(folder)]
    scripts = [
        (train.main, ["--corpus", str(path), *shape, "--head_start", "false", *small]),
        (finetune_dialogue.main, ["--dialogues", str(path), "--skip_bad_dialogues", "true", *tune]),
        (tune_preferences.main, ["--preferences", str(path), "--skip_bad_dialogues", "true", *tune]),
        (prepare_corpus.main, ["--sources", str(path), *clean]),
        (score.main, [str(base), "--parts", "text", "--text", str(path), "--output_dir", str(folder)]),
    ]
    return run_main(*rng.choice(scripts))


def run_checkpoint(path: Path, rng: random.Random, base: Path) -> Result:
    """Spoil a checkpoint, and talk to it."""
    import chat

    folder = shutil.copytree(base, path.parent / "model")
    spoil_folder(folder, rng)
    return run_main(chat.main, ["--model", str(folder), "--prompt", "Hello", "--max_new_tokens", "4"])


def run_options(path: Path, rng: random.Random, base: Path) -> Result:
    """Give a script options as nobody should type them, or a file of settings that is none."""
    import chat
    import finetune_dialogue
    import train

    names = ["--max_steps", "--output_dir", "--seed", "--lora", "--temperature", "--corpus", "--minutes", "--x"]
    values = ["-1", "", "nan", "1e999", "é", "a\nb", "{", "true", "none", "\x1b[2J"]
    words = [word for _ in range(3) for word in (rng.choice(names), rng.choice(values))]
    if rng.random() < 0.5:
        settings = path.parent / "a.yaml"
        shutil.copy(path, settings)
        words = [str(settings)]
    main = rng.choice([train.main, finetune_dialogue.main, chat.main])
    asked = ["--prompt", "Hello"] if main is chat.main else [*TINY, "--output_dir", str(path.parent / "out")]
    return run_main(main, [*words, *asked])


KINDS: dict[str, Callable[[Path, random.Random, Path], Result]] = {
    "reader": read_file,
    "dialogues": read_rows,
    "preferences": lambda path, rng, base: read_rows(path, rng, base, pairs=True),
    "checkpoint": run_checkpoint,
    "script": run_script,
    "options": run_options,
}


def try_input(kind: str, number: int, base: Path) -> Result:
    """Make an input beside the base, give it to what it is for, and see that nothing that was there has changed."""
    rng = random.Random(f"{kind} {number}")
    folder = Path(tempfile.mkdtemp(dir=base.parent))
    try:
        path = make_file(folder, rng, **({"kinds": ROW_KINDS} if kind in ("dialogues", "preferences") else {}))
        kept = folder / "out" / "mine.txt"
        kept.parent.mkdir()
        kept.write_text("mine")
        before = {file: file.read_bytes() for file in (path, kept)}
        os.chdir(folder)
        try:
            outcome, words = KINDS[kind](path, rng, base)
        except BaseException:
            outcome, words = "traceback", traceback.format_exc(limit=-3)
        if any(not file.exists() or file.read_bytes() != data for file, data in before.items()):
            outcome = "overwritten"
        return outcome, f"{path.name!r}: {words}"
    finally:
        os.chdir(base.parent)
        shutil.rmtree(folder, ignore_errors=True)


def work(connection: Connection, kind: str, first: int, end: int, base: Path) -> None:
    """Take inputs one by one; send (outcome, words, peak memory in bytes) of each."""
    import resource

    sys.path.insert(0, str(Path(__file__).parents[1]))
    for number in range(first, end):
        result = try_input(kind, number, base)
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        connection.send((*result, 1024 * peak))
    connection.close()


def answers(connection: Connection, pid: int, seconds: float) -> bool:
    """Tell whether a process answers within so many seconds of its work and its children's, on a busy machine too."""

    def work_seconds() -> float:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            return sum(sum(part.cpu_times()[:2]) for part in (process, *process.children(recursive=True)))
        return 0

    begun, end = work_seconds(), time.monotonic() + 20 * seconds
    while not connection.poll(0.5):
        if work_seconds() - begun > seconds or time.monotonic() > end:
            return False
    return True


def run_kind(kind: str, count: int, seconds: float, base: Path) -> tuple[Counter, int]:
    """Return how the inputs of a kind ended, and the largest memory of a process; print what is no good end."""
    ends, peak, number = Counter(), 0, 0
    while number < count:
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=work, args=(theirs, kind, number, count, base))
        process.start()
        theirs.close()
        while number < count:
            try:
                found = ours.recv() if answers(ours, process.pid, seconds) else ("too long", "", 0)
            except EOFError:
                found = ("died", f"exit code {process.exitcode}", 0)
            outcome, words, memory = found
            ends[outcome] += 1
            peak = max(peak, memory)
            if outcome not in ("read", "named"):
                print(f"{kind} {number}: {outcome}: {words}", flush=True)
            number += 1
            if outcome in ("too long", "died"):
                break
        process.kill()
        process.join()
    return ends, peak


def make_base(folder: Path) -> Path:
    """Make a tiny checkpoint of random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from data_utils.dialogue.format import stop_token_id
    from data_utils.sources.builtin import own_files
    from model_utils.checkpoint import save_model
    from model_utils.tokenizer import train_tokenizer

    shape = {"model_type": "qwen3", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    torch.manual_seed(0)
    tokenizer = train_tokenizer([file.read_text(encoding="utf-8")[:20_000] for file in own_files("own")], 400)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    config = AutoConfig.for_model(**shape, **special, vocab_size=len(tokenizer))
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, folder, [stop_token_id(tokenizer)])
    return folder


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--number", type=int)
    parser.add_argument("--seconds", type=float, default=60, help="Of work: a document's limit is 20, imports take 5")
    args = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="faults-inputs-")
    os.environ.update(HF_HOME=f"{scratch}/hf", HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    try:
        base = make_base(Path(scratch) / "base")
        if args.number is not None:
            print(*try_input(args.kind, args.number, base))
            return
        rows = []
        for kind in [args.kind] if args.kind else KINDS:
            count = args.inputs if args.kind else round(args.inputs * SHARES[kind])
            ends, peak = run_kind(kind, count, args.seconds, base)
            wrong = [f"{ends[name]} {name}" for name in sorted(ends) if name not in ("read", "named")]
            rows.append((kind, count, ends["read"], ends["named"], ", ".join(wrong) or "0", f"{peak / 1e6:,.0f} MB"))
        print(
            "| inputs of | tried | read, at least in part | named | anything else | memory |\n| --- |" + " ---: |" * 5
        )
        for row in rows:
            print(f"| {' | '.join(map(str, row))} |")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
