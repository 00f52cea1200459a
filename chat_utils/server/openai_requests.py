"""Reads a request in OpenAI's protocol: JSON in, what the engine is asked out."""

import hashlib
import json
import time
import uuid
from dataclasses import dataclass, field, replace

from chat_utils.messages import longest_bytes, replace_surrogates
from chat_utils.runtimes.prefix_cache import ANYBODY
from chat_utils.sampling import Sampling
from chat_utils.server.api_error import ApiError
from chat_utils.server.openai_messages import parse_messages
from chat_utils.server.openai_parameters import (
    MAX_CHOICES,
    NUMBERS,
    TAKEN,
    check_names,
    read_kind,
    read_max_tokens,
    read_number,
)

MAX_STOPS = 4  # as OpenAI's


@dataclass
class Request:
    """A checked request; each of `inputs` (a dialogue or a text) is answered `n` times."""

    kind: str  # "chat" or "text"
    inputs: list
    sampling: Sampling
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    dropped_messages: int = 0  # the oldest of a dialogue, left out unread
    cache_group: str = ANYBODY  # whose KV states the replies may go on with
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def choices(self) -> list[tuple[list | str, Sampling]]:
        """Return what to answer and how, one for each choice; a given seed goes up by one from choice to choice."""
        pairs = []
        for number in range(len(self.inputs) * self.n):
            seed = None if self.sampling.seed is None else (self.sampling.seed + number % self.n) % 2**63
            pairs.append((self.inputs[number // self.n], replace(self.sampling, seed=seed)))
        return pairs


# Requests


def parse_request(
    kind: str, data: bytes, model: str, window: int, defaults: Sampling, system: str | None = None
) -> Request:
    """Return the request in a body of JSON; raises ApiError for what is wrong or not supported.

    `kind` is "chat" or "text", `window` the model's in tokens, `defaults` hold where the request says nothing, and so
    does `system` where a dialogue has no system message.
    """
    body = parse_json(data)
    check_names(body, TAKEN | {"messages" if kind == "chat" else "prompt"})
    if body.get("model") not in (None, "", model):
        name = f"{body['model']!r}"[:100]
        raise ApiError(404, f"the model {name} is not here; this server has '{model}'", "model", code="model_not_found")
    n = int(read_number(body, "n", *NUMBERS["n"]) or 1)
    sampling = read_sampling(body, window, defaults)
    dropped = 0
    if kind == "chat":
        dialogue, dropped = parse_messages(body.get("messages"), window)
        if system and dialogue[0]["role"] != "system":
            dialogue.insert(0, {"role": "system", "content": system})
        inputs = [dialogue]
    else:
        inputs = read_prompts(body.get("prompt"), window)
    if len(inputs) * n > MAX_CHOICES:
        raise ApiError(400, f"{len(inputs)} prompts times n={n} are more than {MAX_CHOICES} replies", "n")
    stream_options = read_kind(body, "stream_options", dict) or {}
    check_names(stream_options, {"include_usage"})
    return Request(
        kind, inputs, sampling, n, stream=bool(read_kind(body, "stream", bool)),
        include_usage=bool(read_kind(stream_options, "include_usage", bool)),
        dropped_messages=dropped, cache_group=read_cache_group(body),
    )  # fmt: skip


def read_sampling(body: dict, window: int, defaults: Sampling) -> Sampling:
    """Return how the replies are drawn: by the request, else by what `transformers chat` sends, else by `defaults`."""
    given = {name: read_number(body, name, *bounds) for name, bounds in NUMBERS.items() if name != "n"}
    lengths = [read_max_tokens(body, name, window) for name in ("max_completion_tokens", "max_tokens")]
    given["max_new_tokens"] = lengths[0] or lengths[1]
    given |= {name: value for name, value in read_generation_config(body).items() if given.get(name) is None}
    if given["top_p"] is not None:
        given["top_p"] = max(given["top_p"], 1e-9)  # 0: the most likely token alone
    if given["top_k"] == -1:
        given["top_k"] = 0  # as vLLM says it
    if given["seed"] is not None:
        given["seed"] %= 2**63  # one below zero is a seed too
    sampling = replace(defaults, **{name: value for name, value in given.items() if value is not None})
    if body.get("stop") is not None:
        sampling.stop = read_stop(body["stop"])
    return sampling


def read_cache_group(body: dict) -> str:
    """Return whose KV states the request may go on with: those of its `cache_salt`, else of its `user`, else nobody's.

    Callers that share the server's key don't share a group: what one asked would show in how fast another is answered.
    """
    for name in ("cache_salt", "user"):
        if value := read_kind(body, name, str):
            return hashlib.sha256(f"{name}:{value}".encode()).hexdigest()
    return ANYBODY


def parse_json(data: bytes) -> dict:
    """Return the object that the body holds, halves of characters in it replaced, which no answer could repeat."""
    try:
        body = replace_surrogates(json.loads(data.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        what = "compressed by gzip; send it as it is" if data.startswith(b"\x1f\x8b") else "not UTF-8"
        raise ApiError(400, f"the body is {what}: byte {error.start} is wrong") from error
    except RecursionError as error:
        raise ApiError(400, "the body's JSON is nested too deeply") from error
    except ValueError as error:
        why = error if isinstance(error, json.JSONDecodeError) else "a number has too many digits"
        raise ApiError(400, f"the body is not valid JSON: {why}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    return body


def read_generation_config(body: dict) -> dict:
    """Return what `transformers chat` sends of its settings: a GenerationConfig as JSON in a string."""
    text = read_kind(body, "generation_config", str)
    if text is None:
        return {}
    config = parse_json(text.encode("utf-8", "replace"))
    names = {name: bounds for name, bounds in NUMBERS.items() if name not in ("seed", "n")}
    values = {name: read_number(config, name, *bounds) for name, bounds in names.items()}
    values["max_new_tokens"] = read_number(config, "max_new_tokens", int, low=1, high=10**9)
    return values | ({"temperature": 0.0} if config.get("do_sample") is False else {})


def read_stop(stop: object) -> list[str]:
    """Return the texts that end a reply."""
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise ApiError(400, "'stop' must be a text or a list of texts", "stop")
    stops = list(dict.fromkeys(filter(None, stops)))  # an empty one ends nothing
    if len(stops) > MAX_STOPS:
        raise ApiError(400, f"'stop' has more than {MAX_STOPS} texts", "stop")
    return stops


def read_prompts(prompt: object, window: int) -> list[str]:
    """Return the texts to continue, of each no more than the window could hold."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) and text for text in prompts):
        raise ApiError(400, "'prompt' must be a text or a list of texts, none of them empty", "prompt")
    return [text[-longest_bytes(window) :] for text in prompts]
