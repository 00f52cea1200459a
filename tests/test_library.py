"""A checkpoint works with transformers alone: pipeline, `transformers serve` and `transformers chat`."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from chat_utils.engine import Engine, load_engine
from chat_utils.sampling import Sampling
from data_utils.dialogue.window import encode_prompt
from eval_utils.agreement import reply_greedily
from model_utils.checkpoint import save_model

QUESTIONS = ("Hello! How are you today?", "你好！今天天气怎么样？")
STOP_ID = 2
TOKENS = 24


@pytest.fixture(scope="module")
def stopping(tiny_checkpoint, tmp_path_factory) -> Path:
    """The tiny checkpoint, made to end its reply to the first question with the stop token."""
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    ids, _ = encode_prompt(tokenizer, [{"role": "user", "content": QUESTIONS[0]}], 200)
    reply, _ = reply_greedily(model, ids, TOKENS)
    late = next(i for i in range(6, TOKENS) if reply[i] not in reply[:i])
    assert STOP_ID not in reply
    with torch.no_grad():  # what was to come there and the stop token change places in the head alone
        rows = torch.tensor([reply[late], STOP_ID])
        model.lm_head.weight[rows] = model.lm_head.weight[rows.flip(0)]
    folder = tmp_path_factory.mktemp("stopping")
    save_model(model, tokenizer, folder, [STOP_ID])
    return folder


@pytest.fixture(scope="module")
def engine(stopping) -> Engine:
    return load_engine(str(stopping), "transformers")


def answer(engine: Engine, question: str) -> tuple[str, str]:
    """Return our greedy reply and why it ended."""
    sampling = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=TOKENS)
    reply = engine.reply([{"role": "user", "content": question}], sampling)
    return "".join(reply), reply.finish_reason


def test_the_engine_stops_once_and_not_always(engine):
    assert [answer(engine, question)[1] for question in QUESTIONS] == ["stop", "length"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_pipeline_says_what_the_engine_says(stopping, engine, question):
    pipe = pipeline("text-generation", model=str(stopping), device="cpu", dtype=torch.float32)
    output = pipe([{"role": "user", "content": question}], do_sample=False, max_new_tokens=TOKENS)
    message = output[0]["generated_text"][-1]
    assert message["role"] == "assistant"
    assert message["content"].rstrip("\ufffd") == answer(engine, question)[0]


@pytest.fixture(scope="module")
def served(stopping):
    """The port of a real `transformers serve` of the checkpoint; opt-in, since it takes 20 seconds to start."""
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package)
    if not os.environ.get("SLOW_TESTS"):
        pytest.skip("takes long: SLOW_TESTS=1 runs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(stopping)]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"])
    try:
        for _ in range(240):
            assert process.poll() is None
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("transformers serve didn't come up in two minutes")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.parametrize("question", QUESTIONS)
def test_transformers_serve_says_what_the_engine_says(served, stopping, engine, question):
    body = {
        "model": str(stopping), "messages": [{"role": "user", "content": question}], "max_tokens": TOKENS,
        "generation_config": json.dumps({"do_sample": False, "max_new_tokens": TOKENS, "eos_token_id": [STOP_ID]}),
    }  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", served, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    assert response.status == 200, text
    choice = json.loads(text)["choices"][0]
    expected, reason = answer(engine, question)
    assert choice["message"]["content"].rstrip("\ufffd") == expected
    assert choice["finish_reason"] == reason


def test_transformers_chat_shows_what_the_engine_says(served, stopping, engine):
    command = [sys.executable, "-m", "transformers.cli.transformers", "chat", str(stopping)]
    command += [f"http://127.0.0.1:{served}/v1", "do_sample=False", f"max_new_tokens={TOKENS}"]
    online = os.environ | {"HF_HUB_OFFLINE": "0", "COLUMNS": "200"}  # its client takes this server for the hub
    typed = f"{QUESTIONS[0]}\n!exit\n"
    done = subprocess.run(command, input=typed, env=online, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    said = done.stdout.split(f"<{stopping}>:")[1].split("<")[0]
    expected, _ = answer(engine, QUESTIONS[0])
    letters = [word for word in re.findall(r"\w+", expected) if len(word) > 2]
    assert letters
    assert all(word in said for word in letters)
