"""`--engine llama.cpp`: the reference's greedy tokens in full precision, many replies at once, one verified file."""

import shutil
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub.constants import HF_HOME
from transformers import AutoModelForCausalLM

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from chat_utils.engine import Engine, load_engine
from chat_utils.runtimes import llama_cpp as cache
from chat_utils.runtimes.llama_cpp import LlamaModel, find_gguf
from chat_utils.runtimes.slots import SlotDecoder
from chat_utils.sampling import Sampling
from data_utils.dialogue.checking import DialogueError
from errors import InputError
from model_utils.checkpoint import load_checkpoint

GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "max_new_tokens": 24}
QUESTIONS = [f"Question {i}: what is {i} + {i}? 第{i}个问题" for i in range(12)]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, tmp_path_factory) -> Path:
    """A copy, in which the engine keeps its file."""
    return shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("llama") / "ckpt")


@pytest.fixture(scope="module")
def exact_file(checkpoint) -> Path:
    return find_gguf(checkpoint, lambda: load_checkpoint(str(checkpoint)), "f32")


@pytest.fixture
def engine(checkpoint, exact_file) -> Engine:
    """The engine with its weights, keys and values in full precision."""
    engine = load_engine(str(checkpoint), "llama.cpp")
    engine.decoder = SlotDecoder(LlamaModel(exact_file, exact=True, max_slots=8))
    return engine


@pytest.fixture(scope="module")
def reference(checkpoint) -> Engine:
    return load_engine(str(checkpoint), "transformers")


def ask(engine: Engine, *contents: str, **sampling):
    """Return a reply read to its end, with its text."""
    dialogue = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    reply = engine.reply(dialogue, Sampling(**{**GREEDY, **sampling}))
    reply.text = "".join(reply)
    return reply


@pytest.mark.parametrize("sampling", [{}, {"repetition_penalty": 1.3}, {"temperature": 0.8, "seed": 1, "top_p": 0.9}])
@pytest.mark.parametrize("question", ["Hello! How are you today?", "你好！今天天气怎么样？😀"])
def test_replies_equal_the_references(engine, reference, question, sampling):
    found, expected = ask(engine, question, **sampling), ask(reference, question, **sampling)
    assert found.text == expected.text
    assert (found.finish_reason, found.stats.reply_tokens) == (expected.finish_reason, expected.stats.reply_tokens)


def test_a_dialogue_computes_only_what_is_new(engine, reference):
    turns = ["Hello there"]
    for question in ("and who are you?", "你呢？"):
        reply = ask(engine, *turns)
        turns += [reply.text, question]
    reply = ask(engine, *turns)
    assert reply.stats.cached_tokens > reply.stats.prompt_tokens // 3
    assert reply.text == ask(reference, *turns).text


def test_a_long_prompt_comes_in_parts_and_old_turns_drop(engine, reference):
    turns = [f"turn {i} " + "我们今天去公园散步 " * 3 for i in range(9)]
    found, expected = ask(engine, *turns), ask(reference, *turns)
    assert found.stats.dropped_messages == expected.stats.dropped_messages > 0
    assert found.text == expected.text
    with pytest.raises(DialogueError, match="longer than the model's window"):
        engine.reply([{"role": "user", "content": "long " * 1000}])


def test_many_replies_open_at_once_do_not_mix(engine, reference):
    expected = [ask(reference, question).text for question in QUESTIONS]
    assert engine.decoder.step_limit == 8 < len(QUESTIONS)  # some must be set aside
    replies = [engine.reply([{"role": "user", "content": question}], Sampling(**GREEDY)) for question in QUESTIONS]
    texts = [""] * len(replies)
    while any(reply.finish_reason is None for reply in replies):
        for i, reply in enumerate(replies):
            texts[i] += next(reply, "")
    assert texts == expected
    results = [""] * len(QUESTIONS)

    def answer(i: int) -> None:
        results[i] = ask(engine, QUESTIONS[i]).text

    threads = [threading.Thread(target=answer, args=(i,)) for i in range(len(QUESTIONS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


def test_a_shared_beginning_is_copied_not_taken(engine, reference):
    long = "Tell me all about the parks in Beijing and the weather there, please. " * 2
    short = "Tell me all about the parks in Beijing"
    first, other = ask(engine, long), ask(engine, short)
    assert 16 <= other.stats.cached_tokens < first.stats.prompt_tokens // 2
    again = ask(engine, long, first.text, "go on")
    assert again.stats.cached_tokens > first.stats.prompt_tokens
    assert other.text == ask(reference, short).text
    assert again.text == ask(reference, long, first.text, "go on").text


def test_stop_texts_and_closing(engine):
    whole = ask(engine, "Hello! How are you today?").text
    stop = whole[4:7]
    reply = ask(engine, "Hello! How are you today?", stop=[stop])
    assert (reply.text, reply.finish_reason) == (whole[: whole.index(stop)], "stop")
    reply = engine.reply([{"role": "user", "content": "Hello"}], Sampling(**GREEDY))
    next(reply)
    reply.close()
    assert (next(reply, None), reply.finish_reason) == (None, "cancelled")
    assert ask(engine, "Hello! How are you today?").text == whole


def test_an_interrupted_step_leaves_the_state_as_before(engine, monkeypatch):
    expected = ask(engine, "Hello! How are you today?").text
    reply = engine.reply([{"role": "user", "content": "Hello! How are you today?"}], Sampling(**GREEDY))
    text = next(reply)
    decode = engine.decoder.model.decode

    def interrupt(parts):
        decode(parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.decoder.model, "decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(reply)
    monkeypatch.undo()
    assert text + "".join(reply) == expected


# The file


def cached(folder: Path) -> list[Path]:
    """Return the files that are kept for a checkpoint."""
    return [file for file in Path(HF_HOME).glob("gguf/*/*") if file.parent.name.startswith(f"{folder.name}-")]


def test_a_file_in_the_folder_of_a_checkpoint_is_not_taken(tiny_checkpoint, tmp_path):
    """It is whoever's who made the folder, and its parser is written in C++."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "stranger")
    file = find_gguf(folder, lambda: load_checkpoint(str(folder)))
    assert tmp_path not in file.parents
    file.unlink()
    (folder / "gguf").mkdir()
    (folder / "gguf" / file.name).write_text("GGUF")
    assert find_gguf(folder, lambda: load_checkpoint(str(folder))).stat().st_size > 1000


def test_the_file_is_made_once_for_each_version_of_the_weights(tiny_checkpoint, tmp_path, capsys):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "once")
    load_engine(str(folder), "llama.cpp")
    (file,) = cached(folder)
    assert file.name.startswith("q8_0-")
    assert "is made and verified: 2" in capsys.readouterr().err
    time = file.stat().st_mtime_ns
    load_engine(str(folder), "llama.cpp")
    assert file.stat().st_mtime_ns == time
    assert capsys.readouterr().err == ""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    model.save_pretrained(folder)
    load_engine(str(folder), "llama.cpp")
    (other,) = cached(folder)
    assert other.name != file.name


def test_an_unverified_file_is_not_kept(tiny_checkpoint, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "unverified")

    def write_another(model, *rest):
        torch.nn.init.normal_(model.model.norm.weight)
        write_gguf(model, *rest)
        torch.nn.init.normal_(model.model.norm.weight)

    write_gguf = cache.write_gguf
    monkeypatch.setattr(cache, "write_gguf", write_another)
    with pytest.raises(InputError, match="verification failed"):
        load_engine(str(folder), "llama.cpp")
    assert cached(folder) == []


def test_a_damaged_file_is_made_anew(checkpoint, capsys):
    def find():
        return find_gguf(checkpoint, lambda: load_checkpoint(str(checkpoint)))

    file = find()
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1  # of a weight
    file.write_bytes(whole)
    assert find() == file
    assert f"note: {file} is damaged, and is made anew" in capsys.readouterr().err
    assert find() == file
    assert capsys.readouterr().err == ""
