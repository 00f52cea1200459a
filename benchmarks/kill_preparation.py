"""Kill a preparation at random moments, go on, and compare its corpus with that of an undisturbed run.

python benchmarks/kill_preparation.py --kills 10            # on generated text in both languages
python benchmarks/kill_preparation.py --sources DUMP.xml.bz2 --kills 10
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import prepare_corpus as prepare


def start(arguments: list[str]) -> int:
    """Start a preparation in a process group of its own; return the process's number."""
    process = os.fork()
    if process == 0:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        try:
            os._exit(prepare.main(arguments))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    return process


def digest_corpus(folder: Path) -> dict[str, str]:
    """Return a digest of each file of a corpus; of the report without its seconds, which are never the same."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.name == "report.json":
            data = json.dumps(json.loads(data) | {"seconds": 0}).encode()
        elif path.name == "report.md":
            data = data.partition(b"## Time")[0]
        digests[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return digests


def write_texts(folder: Path, files: int = 6, documents: int = 60) -> None:
    """Write files of generated text in both languages, with duplicates inside and across files, and a broken file."""
    folder.mkdir()
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(2000)]
    texts: list[str] = []
    for number in range(files):
        for _ in range(documents):
            if texts and chance.random() < 0.15:
                texts.append(chance.choice(texts).replace("a", "a", 1) + chance.choice(["", " end", "。"]))
            elif chance.random() < 0.5:
                sentences = [" ".join(chance.choices(words, k=12)).capitalize() + "." for _ in range(30)]
                texts.append(" ".join(sentences))
            else:
                texts.append(
                    "。".join("".join(chr(chance.randint(0x4E00, 0x62FF)) for _ in range(15)) for _ in range(30))
                )
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts[-documents:]]
        (folder / f"{number}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "broken.jsonl").write_text('{"text": ')


def main() -> int:
    """Run the script; return 0 where every corpus is the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="*")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--seed", type=int, default=0)
    args, others = parser.parse_known_args()
    scratch = Path(tempfile.mkdtemp(prefix="kills-"))
    if not args.sources:
        write_texts(scratch / "texts")
    options = ["--sources", *(args.sources or [str(scratch / "texts")]), "--workers", args.workers, *others]
    options += [] if args.sources else ["--task_megabytes", "0.1", "--max_broken_fraction", "0.5"]

    began = time.monotonic()
    _, status = os.waitpid(start([*options, "--output_dir", str(scratch / "whole" / "corpus")]), 0)
    seconds = time.monotonic() - began
    if status:
        return 1
    expected = digest_corpus(scratch / "whole" / "corpus")
    print(f"undisturbed: {len(expected)} files in {seconds:.1f} s")

    chance = random.Random(args.seed)
    killed, round_, moments = 0, 0, []
    while killed < args.kills:
        output = scratch / f"killed-{round_}" / "corpus"
        while True:
            process = start([*options, "--output_dir", str(output)])
            moment = chance.uniform(0, 0.7 * seconds) if killed < args.kills else 10**6
            ends = time.monotonic() + moment
            while (done := os.waitpid(process, os.WNOHANG)) == (0, 0) and time.monotonic() < ends:
                time.sleep(0.005)
            if done != (0, 0):
                break
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            killed += 1
            moments.append(f"{moment:.2f}")
        if done[1] or digest_corpus(output) != expected:
            print(f"after kills at {' '.join(moments)} s the corpus is another, in {output}")
            return 1
        round_ += 1
    print(f"{killed} kills at {' '.join(moments)} s in {round_} preparations: every file is the same, byte for byte")
    shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
