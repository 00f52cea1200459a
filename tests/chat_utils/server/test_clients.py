"""The server as others' clients see it; each is tried where it is installed (the official one: test_server.py)."""

import json
import os
import shutil
import subprocess

import pytest

from tests.chat_utils.server.calls import HI, call

QUESTION = "Hi"


@pytest.fixture
def expected(server_url):
    """The words that any client must get for QUESTION."""
    body = {"messages": HI, "max_tokens": 6, "temperature": 0}
    return call(server_url, "/v1/chat/completions", body)[1]["choices"][0]["message"]["content"]


def test_langchain(server_url, slow_engine, expected):
    langchain = pytest.importorskip("langchain_openai")
    for address in (f"{server_url}/v1", f"{server_url}/v1/", server_url):
        chat = langchain.ChatOpenAI(
            model=slow_engine.name, base_url=address, api_key="none", temperature=0, max_tokens=6, max_retries=0,
        )  # fmt: skip
        reply = chat.invoke(QUESTION)
        assert reply.content == expected
        assert reply.usage_metadata["output_tokens"] == 6
        assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == expected
    messages = [("system", "Be kind."), ("human", "Hi"), ("ai", "Hello!"), ("human", "你好")]
    assert chat.invoke(messages).response_metadata["finish_reason"] == "length"
    assert [len(reply.content) > 0 for reply in chat.batch([QUESTION, "你好"])] == [True, True]


def test_litellm(server_url, slow_engine, expected):
    litellm = pytest.importorskip("litellm")
    asked = {
        "model": f"openai/{slow_engine.name}", "api_base": f"{server_url}/v1", "api_key": "none", "messages": HI,
        "max_tokens": 6, "temperature": 0, "num_retries": 0,
    }  # fmt: skip
    reply = litellm.completion(**asked)
    assert (reply.choices[0].message.content, reply.usage.completion_tokens) == (expected, 6)
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)]
    assert "".join(pieces) == expected
    with pytest.raises(litellm.BadRequestError, match="'tools' is not supported"):
        litellm.completion(**asked, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])


def test_llama_index(server_url, slow_engine, expected):
    like = pytest.importorskip("llama_index.llms.openai_like")
    from llama_index.core.llms import ChatMessage

    llm = like.OpenAILike(
        model=slow_engine.name, api_base=f"{server_url}/v1", api_key="none", is_chat_model=True, temperature=0,
        max_tokens=6, max_retries=0, context_window=256,
    )  # fmt: skip
    asked = [ChatMessage(role="user", content=QUESTION)]
    assert llm.chat(asked).message.content == expected
    assert "".join(piece.delta or "" for piece in llm.stream_chat(asked)) == expected
    assert llm.complete(QUESTION).text == expected


SCRIPT = """
const OpenAI = require("openai");
const [baseURL, model] = process.argv.slice(1);
(async () => {
  const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
  const asked = { model, messages: [{ role: "user", content: "Hi" }], max_tokens: 6, temperature: 0 };
  const whole = await client.chat.completions.create(asked);
  let streamed = "";
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    streamed += chunk.choices[0]?.delta?.content ?? "";
  }
  const helped = client.chat.completions.stream(asked);
  const final = await helped.finalContent();
  const models = (await client.models.list()).data.map((one) => one.id);
  const refused = await client.chat.completions.create({ ...asked, logprobs: true }).catch((error) => error);
  console.log(JSON.stringify([
    whole.choices[0].message.content, streamed, final, models, [refused.status, refused.param, refused.code],
  ]));
})();
"""


def test_openai_in_javascript(server_url, slow_engine, expected):
    """Where node finds the package `openai`, as by NODE_PATH."""
    node = shutil.which("node")
    if not node or subprocess.run([node, "-e", 'require("openai")'], capture_output=True, check=False).returncode:
        pytest.skip("node has no package openai")
    command = [node, "-e", SCRIPT, f"{server_url}/v1", slow_engine.name]
    environment = {**os.environ, "no_proxy": "*"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    refused = [400, "logprobs", "unsupported_parameter"]
    assert json.loads(done.stdout) == [expected, expected, expected, [slow_engine.name], refused]


def test_open_webuis_way_of_asking(server_url, slow_engine, expected):
    """What open-webui sends to a connection of the kind OpenAI: models first, then a stream, then a title."""
    assert call(server_url, "/v1/models", Authorization="Bearer ")[1]["data"][0]["id"] == slow_engine.name
    body = {
        "stream": True, "model": slow_engine.name, "messages": HI, "stream_options": {"include_usage": True},
        "temperature": 0, "max_tokens": 6, "top_k": None, "stop": None, "frequency_penalty": 0, "min_p": 0,
        "logit_bias": {}, "tools": [], "metadata": {"chat_id": "1"}, "user": {"name": "Ada"}["name"],
    }  # fmt: skip
    status, events, headers = call(server_url, "/v1/chat/completions", body)
    assert (status, headers.get_content_type()) == (200, "text/event-stream")
    chunks = [json.loads(event[6:]) for event in events.split("\n\n")[:-2]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == expected
    title = {"model": slow_engine.name, "messages": HI, "stream": False, "max_completion_tokens": 1000}
    assert call(server_url, "/v1/chat/completions", title)[0] == 200
