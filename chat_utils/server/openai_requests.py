"""OpenAI's protocol, the way in: the JSON of a request, checked and understood.

What is not supported is refused by name, never ignored, unless the value given changes nothing.
"""

import json
import time
import uuid
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from chat_utils.messages import clean_dialogue, replace_surrogates
from chat_utils.sampling import Sampling
from data_utils.dialogue.checking import DialogueError

MAX_CHOICES = 8
MAX_STOPS = 4  # as OpenAI's

# Numbers of a request: kind, least and greatest value.
NUMBERS = {
    "temperature": (float, 0, 2), "top_p": (float, 0, 1), "top_k": (int, 0, 10**9),
    "repetition_penalty": (float, 0.01, 10), "seed": (int, -(2**63), 2**63 - 1), "n": (int, 1, MAX_CHOICES),
}  # fmt: skip
# What this server cannot do, with the values that ask for nothing.
UNSUPPORTED = {
    "presence_penalty": [0], "frequency_penalty": [0], "logit_bias": [{}], "logprobs": [False], "top_logprobs": [0],
    "tools": [[]], "tool_choice": ["none", "auto"], "functions": [[]], "function_call": ["none", "auto"],
    "response_format": [{"type": "text"}], "modalities": [["text"]], "audio": [], "prediction": [], "store": [False],
    "reasoning_effort": ["none"], "web_search_options": [], "best_of": [1], "echo": [False], "suffix": [""],
    "verbosity": ["medium"], "moderation": [],
}  # fmt: skip
# The same in a message; its other keys, such as a name, change nothing.
UNSUPPORTED_IN_MESSAGES = {"tool_calls": [[]], "function_call": [], "audio": []}
# What the caller notes for itself.
NOTES = {"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
NOTES |= {"parallel_tool_calls", "generation_config"}
TAKEN = {"model", "stop", "stream", "stream_options", "max_tokens", "max_completion_tokens", *NUMBERS}


class ApiError(Exception):
    """A request that is not answered: HTTP status, and what OpenAI's error form says about it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = {429: "rate_limit_error", 500: "server_error"}.get(status, "invalid_request_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


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
    body = read_json(data)
    check_names(body, TAKEN | {"messages" if kind == "chat" else "prompt"})
    if body.get("model") not in (None, model):
        raise ApiError(404, f"the model {body['model']!r} is not here; this server has '{model}'", "model",
                       "model_not_found")  # fmt: skip
    given = {name: read_number(body, name, *NUMBERS[name]) for name in NUMBERS}
    for name in ("max_completion_tokens", "max_tokens"):
        given["max_new_tokens"] = read_number(body, name, int, 1, window) or given.get("max_new_tokens")
    given |= {name: value for name, value in read_generation_config(body).items() if given.get(name) is None}
    n = given.pop("n") or 1
    if given["top_p"] == 0:
        given["top_p"] = 1e-9  # the most likely token alone
    if given["seed"] is not None:
        given["seed"] %= 2**63  # one below zero is a seed too
    sampling = replace(defaults, **{name: value for name, value in given.items() if value is not None})
    if body.get("stop") is not None:
        sampling.stop = read_stop(body["stop"])
    dropped = 0
    if kind == "chat":
        dialogue, dropped = read_messages(body.get("messages"), window)
        inputs = [dialogue]
    else:
        inputs = read_prompts(body.get("prompt"))
    if system and kind == "chat" and inputs[0][0]["role"] != "system":
        inputs[0].insert(0, {"role": "system", "content": system})
    if len(inputs) * n > MAX_CHOICES:
        raise ApiError(400, f"{len(inputs)} prompts times n={n} are more than {MAX_CHOICES} replies", "n")
    stream_options = read_kind(body, "stream_options", dict) or {}
    return Request(
        kind,
        inputs,
        sampling,
        n,
        bool(read_kind(body, "stream", bool)),
        bool(stream_options.get("include_usage")),
        dropped,
    )


def read_json(data: bytes) -> dict:
    """Return the object that the body holds, halves of characters in it replaced, which no answer could repeat."""
    try:
        body = replace_surrogates(json.loads(data.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start} is wrong") from error
    except RecursionError as error:
        raise ApiError(400, "the body's JSON is nested too deeply") from error
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    return body


def check_names(body: dict, taken: set[str]) -> None:
    """Raise ApiError for a parameter that asks for what is not supported, or that does not exist."""
    for name, value in body.items():
        if name in taken or name in NOTES or value is None:
            continue
        if name in UNSUPPORTED:
            check_neutral(name, value, UNSUPPORTED[name], name)
            continue
        near = get_close_matches(name, taken, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ApiError(400, f"unknown parameter {name[:64]!r}{hint}", name[:64], "unknown_parameter")


def check_neutral(name: str, value: object, neutral: list, place: str) -> None:
    """Raise ApiError unless the value is one that asks for nothing; 0 isn't False: to some parameters it asks."""
    if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral):
        raise ApiError(400, f"'{name}' is not supported by this server", place, "unsupported_parameter")


def read_kind(body: dict, name: str, kind: type) -> object:
    """Return body[name], None where it is not given; raises ApiError where it is of another kind."""
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        words = {bool: "true or false", dict: "an object", str: "text", list: "a list"}
        raise ApiError(400, f"'{name}' must be {words[kind]}", name, "invalid_type")
    return value


def read_number(body: dict, name: str, kind: type, low: float, high: float) -> float | None:
    """Return the number body[name], None where it is not given; raises ApiError where it is none or out of range."""
    value = body.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and not whole):
        raise ApiError(400, f"'{name}' must be a {'whole ' if kind is int else ''}number", name, "invalid_type")
    if not low <= value <= high:
        raise ApiError(400, f"'{name}' must be from {low:g} to {high:g}", name, "invalid_value")
    return kind(value)


def read_generation_config(body: dict) -> dict:
    """Return what `transformers chat` sends of its settings: a GenerationConfig as JSON in a string."""
    text = read_kind(body, "generation_config", str)
    if text is None:
        return {}
    config = read_json(text.encode("utf-8", "replace"))
    names = {name: bounds for name, bounds in NUMBERS.items() if name not in ("seed", "n")}
    values = {name: read_number(config, name, *bounds) for name, bounds in names.items()}
    values["max_new_tokens"] = read_number(config, "max_new_tokens", int, 1, 10**9)
    return values | ({"temperature": 0.0} if config.get("do_sample") is False else {})


def read_stop(stop: object) -> list[str]:
    """Return the texts that end a reply."""
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise ApiError(400, "'stop' must be a text or a list of texts, none of them empty", "stop")
    if len(stops) > MAX_STOPS:
        raise ApiError(400, f"'stop' has more than {MAX_STOPS} texts", "stop")
    return stops


def read_prompts(prompt: object) -> list[str]:
    """Return the texts to continue."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) and text for text in prompts):
        raise ApiError(400, "'prompt' must be a text or a list of texts, none of them empty", "prompt")
    return prompts


def read_messages(messages: object, window: int) -> tuple[list[dict], int]:
    """Return the dialogue in `messages`, cleaned as the dialogues are that the model learned from.

    The model knows an optional system turn and then user and assistant in turn: system and developer messages at the
    start become one, and what one side says in several messages one turn. The oldest turns that can't be in the window
    are left out unread; how many, is returned too.
    """
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "'messages' must be a list with at least one message", "messages")
    turns: list[dict] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        role = message.get("role") if isinstance(message, dict) else None
        role = "system" if role == "developer" else role
        if role not in ("system", "user", "assistant"):
            raise ApiError(400, f"{place}: a role is expected: system, developer, user or assistant", place)
        if role == "system" and turns and turns[-1]["role"] != "system":
            raise ApiError(400, f"{place}: a system message stands before all others", place)
        for name, neutral in UNSUPPORTED_IN_MESSAGES.items():
            if message.get(name) is not None:
                check_neutral(name, message[name], neutral, f"{place}.{name}")
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "texts": []})
        turns[-1]["texts"].append(read_content(message.get("content"), place))
        turns[-1]["place"] = place
    if turns[-1]["role"] != "user":
        raise ApiError(400, "the last message must be the user's", "messages")
    if next(turn["role"] for turn in turns if turn["role"] != "system") != "user":
        raise ApiError(400, "the first message after the system's must be the user's", "messages")
    dialogue = [{"role": turn["role"], "content": "\n".join(filter(None, turn["texts"]))} for turn in turns]
    try:
        return clean_dialogue(dialogue, window)
    except DialogueError as error:
        place = turns[error.number - 1]["place"] if error.number else "messages"
        raise ApiError(400, f"{place}: {error}", place, error.code) from error


def read_content(content: object, place: str) -> str:
    """Return the text of a message: a text, or a list of text parts."""
    if content is None:
        return ""
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise ApiError(400, f"{place}: 'content' must be text or a list of text parts", place)
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        if not isinstance(text, str):
            raise ApiError(400, f"{place}: this server reads text alone, no images, sound or files", place)
        texts.append(text)
    return "".join(texts)
