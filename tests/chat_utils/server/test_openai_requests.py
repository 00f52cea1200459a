"""Requests in OpenAI's protocol: what is understood, what is refused, and that nothing else happens."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat_utils import messages
from chat_utils.runtimes.prefix_cache import ANYBODY
from chat_utils.sampling import Sampling
from chat_utils.server.api_error import ApiError
from chat_utils.server.openai_parameters import NEUTRAL, NUMBERS, USED_FOR
from chat_utils.server.openai_requests import Request, parse_request

HI = [{"role": "user", "content": "Hi"}]


def parse(body: object, kind: str = "chat") -> Request:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_request(kind, data, "ckpt", 256, Sampling())


def refusal(body: object, kind: str = "chat") -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(body, kind)
    assert caught.value.body["error"].keys() == {"message", "type", "param", "code"}
    return caught.value


def test_what_is_set_reaches_the_sampling():
    request = parse(
        {
            "model": "ckpt", "messages": HI, "temperature": 0.5, "top_p": 0.8, "top_k": 5, "repetition_penalty": 1.2,
            "max_tokens": 7, "seed": 3, "n": 2, "stop": "\n", "stream": True, "stream_options": {"include_usage": True},
        }
    )  # fmt: skip
    assert request.sampling == Sampling(0.5, 0.8, 5, 1.2, 7, 3, ["\n"])
    assert (request.inputs, request.n, request.stream, request.include_usage) == ([HI], 2, True, True)
    assert [sampling.seed for _, sampling in request.choices()] == [3, 4]


def test_system_prompt_of_the_server_is_for_dialogues_that_bring_none():
    def messages(body: dict, kind: str = "chat"):
        return parse_request(kind, json.dumps(body).encode(), "ckpt", 256, Sampling(), "Be kind.").inputs[0]

    ours, theirs = ({"role": "system", "content": content} for content in ("Be kind.", "要简短。"))
    assert messages({"messages": HI}) == [ours, *HI]
    assert messages({"messages": [{"role": "system", "content": " "}, *HI]}) == [ours, *HI]
    assert messages({"messages": [theirs, *HI]}) == [theirs, *HI]
    assert messages({"prompt": "Hi"}, "text") == "Hi"


def test_message_hopelessly_longer_than_the_window_is_refused_before_it_is_cleaned(monkeypatch):
    cleaned = []
    monkeypatch.setattr(messages, "clean_text", lambda text: cleaned.append(len(text.encode())) or text)
    content = "Ã©" * (64 * 256 // 4)
    too_long = (400, "context_length_exceeded", "messages[1]")
    parse({"messages": [{"role": "user", "content": content}]})
    assert cleaned == [64 * 256]
    kind = {"role": "system", "content": "Be kind."}
    error = refusal({"messages": [kind, {"role": "user", "content": content + "a"}]})
    assert (error.status, error.body["error"]["code"], error.body["error"]["param"]) == too_long
    assert "the message is longer than the model's window of 256 tokens" in str(error)
    error = refusal({"messages": [kind, {"role": "developer", "content": content + "a"}, *HI]})
    assert (error.status, error.body["error"]["code"], error.body["error"]["param"]) == too_long
    assert "the system prompt is longer than the model's window of 256 tokens" in str(error)
    assert max(cleaned) == 64 * 256


def test_old_turns_that_no_window_holds_are_left_out_unread(monkeypatch):
    cleaned = []
    monkeypatch.setattr(messages, "clean_text", lambda text: cleaned.append(text) or text)
    kind = {"role": "system", "content": "Be kind."}

    def read(size: int, count: int):
        old = [{"role": ("user", "assistant")[i % 2], "content": "a" * size} for i in range(2 * count)]
        request = parse({"messages": [kind, *old, *HI]})
        return request.inputs[0], request.dropped_messages

    assert read(10**6, 1) == ([kind, *HI], 2)
    assert cleaned == ["Be kind.", "Hi"]
    dialogue, dropped = read(1, 10_000)  # a message has at least a token
    assert dialogue[0] == kind
    assert dialogue[1]["role"] == "user"
    assert len(dialogue) - 1 + dropped == 20_001
    assert len(dialogue) <= 257
    dialogue, dropped = read(64 * 100, 5)
    assert [len(message["content"]) for message in dialogue] == [8, 6400, 6400, 2]
    assert dropped == 8


def test_what_is_not_set_is_the_servers():
    assert parse({"messages": HI}).sampling == Sampling()
    assert parse({"messages": HI, "temperature": None, "stop": None, "tools": None}).sampling == Sampling()


def test_max_completion_tokens_is_the_newer_name():
    assert parse({"messages": HI, "max_completion_tokens": 9}).sampling.max_new_tokens == 9
    assert refusal({"messages": HI, "max_completion_tokens": 0}).body["error"]["param"] == "max_completion_tokens"


def test_seed_below_zero_and_top_p_zero_are_taken():
    request = parse({"messages": HI, "seed": -1, "top_p": 0})
    assert request.choices()[0][1].seed == 2**63 - 1
    assert 0 < request.sampling.top_p < 1e-6


def test_settings_of_transformers_chat():
    config = {"do_sample": False, "max_new_tokens": 5, "transformers_version": "5"}
    sampling = parse({"messages": HI, "generation_config": json.dumps(config)}).sampling
    assert (sampling.temperature, sampling.max_new_tokens) == (0, 5)


@pytest.mark.parametrize("name", sorted(NEUTRAL.keys() - USED_FOR.keys()))
def test_unsupported_is_refused_by_name(name):
    error = refusal({"messages": HI, name: "something"})
    assert (error.status, error.body["error"]["param"]) == (400, name)
    assert error.body["error"]["code"] == "unsupported_parameter"
    for neutral in (*NEUTRAL[name], None, "", [], {}):
        assert parse({"messages": HI, name: neutral}).sampling == Sampling()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"tools": [{"type": "function"}], "tool_choice": "none"}, {}),
        ({"chat_template_kwargs": {"enable_thinking": False, "add_generation_prompt": True, "x": ""}}, {}),
        ({"stop": ""}, {}),
        ({"stop": ["", "a", "a"]}, {"stop": ["a"]}),
        ({"model": ""}, {}),
        ({"top_k": -1}, {}),
        ({"max_tokens": -1}, {"max_new_tokens": 256}),
        ({"max_tokens": 10**6}, {"max_new_tokens": 256}),
        ({"max_completion_tokens": 300, "max_tokens": 5}, {"max_new_tokens": 256}),
        ({"repeat_penalty": 1.0, "length_penalty": 1.0, "min_p": 0.0}, {}),
        ({"stream_options": {"include_obfuscation": False, "continuous_usage_stats": False}}, {}),
        ({"unheard_of": None, "unheard_too": [], "watermark": False}, {}),
        # llama.cpp's page and its like: what only shapes samplers that are off
        ({"xtc_probability": 0, "xtc_threshold": 0.1, "dry_multiplier": 0, "dry_base": 1.75, "repeat_last_n": 64}, {}),
        ({"typ_p": 1, "dynatemp_exponent": 1, "timings_per_token": True, "reasoning_format": "auto"}, {}),
        ({"top_p": 1e-320}, {"top_p": 1e-9}),
    ],
)
def test_a_value_that_asks_for_nothing_passes(body, expected):
    assert parse({"messages": HI, **body}).sampling == Sampling(**expected)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"tools": [{"type": "function"}]}, "'tools' is not supported by this server; leave it out"),
        ({"min_p": 0.05}, "'min_p' is not supported by this server; leave it out, or send 0"),
        ({"min_p": False}, "'min_p' is not supported"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "'chat_template_kwargs' is not supported"),
        ({"chat_template_kwargs": "x"}, "unknown parameter 'chat_template_kwargs'"),
        ({"repeat_penalty": 1.1}, "did you mean 'repetition_penalty'?"),
        ({"n_predict": 5}, "did you mean 'max_tokens'?"),
        ({"top_k": -2}, "'top_k' must be from -1"),
        ({"max_tokens": 0}, "'max_tokens' must be 1 or more; -1: as long as the window allows"),
        ({"max_tokens": -2}, "'max_tokens' must be from -1"),
        ({"stream_options": {"continuous_usage_stats": True}}, "'continuous_usage_stats' is not supported"),
        ({"user": 5}, "'user' must be text"),
        ({"watermark": True}, "unknown parameter 'watermark'"),
        ({"do_sample": False}, "'do_sample' is not supported by this server; leave it out, or send True"),
    ],
)
def test_a_value_that_asks_for_something_else_is_refused_with_what_is_right(body, words):
    assert words in str(refusal({"messages": HI, **body}))


def test_byte_order_mark_before_the_body_is_no_part_of_it():
    assert parse(b"\xef\xbb\xbf" + json.dumps({"messages": HI}).encode()).inputs == [HI]


def test_callers_are_told_apart_by_salt_or_user():
    groups = [parse({"messages": HI, **more}).cache_group for more in (
        {}, {"user": "a"}, {"cache_salt": "a"}, {"cache_salt": "a", "user": "b"}, {"cache_salt": "", "user": "a"}
    )]  # fmt: skip
    assert groups[0] == ANYBODY
    assert groups[2] == groups[3]
    assert groups[1] == groups[4]
    assert len(set(groups)) == 3


def test_a_prompt_longer_than_any_window_is_cut_before_it_waits():
    assert len(parse({"prompt": "a" * 10**6}, "text").inputs[0]) == 64 * 256


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["1", True, [1], {}, 1e400, float("nan"), -1e30])
def test_numbers_are_numbers_in_their_range(name, value):
    assert refusal({"messages": HI, name: value}).body["error"]["param"] == name


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xff\xfe{}", "not UTF-8: byte 0"),
        (b'{"messages": [', "not valid JSON"),
        (b"[" * 200_000, "JSON"),
        (b"[]", "must be a JSON object"),
        (b"", "not valid JSON"),
        ({"messages": HI, "temprature": 1}, "did you mean 'temperature'"),
        ({}, "'messages' must be a list"),
        ({"messages": []}, "at least one message"),
        ({"messages": ["Hi"]}, "messages[0]: a role is expected"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]: a role is expected"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0]: a role is expected"),
        ({"messages": [{"role": "user", "content": " \n\u0000"}]}, "messages[0]: the message has no words"),
        ({"messages": [{"role": "user", "content": 5}]}, "must be text or a list of text parts"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text alone"),
        ({"messages": [*HI, {"role": "assistant", "content": "x"}]}, "the last message must be the user's"),
        ({"messages": [*HI, {"role": "system", "content": "x"}, *HI]}, "messages[1]: a system message stands before"),
        ({"messages": [{"role": "assistant", "content": "x"}, *HI]}, "the first message after the system's"),
        ({"messages": [{"role": "system", "content": "x"}]}, "the last message must be the user's"),
        ({"messages": HI, "stop": ["a", 5]}, "a text or a list of texts"),
        ({"messages": HI, "stop": list("abcde")}, "more than 4"),
        ({"messages": HI, "stream": "yes"}, "'stream' must be true or false"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(body, words):
    error = refusal(body)
    assert error.status == 400
    assert words in str(error)


def test_another_model_is_not_here():
    error = refusal({"messages": HI, "model": "gpt-4"})
    assert (error.status, error.body["error"]["code"]) == (404, "model_not_found")


def test_dialogue_is_what_the_model_learned():
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "system", "content": [{"type": "text", "text": "Be "}, {"type": "input_text", "text": "brief."}]},
        {"role": "user", "name": "Ada", "content": "cafe\u0301"},
        {"role": "user", "content": "你好\r\n"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "half \ud83d of a face"},
    ]
    assert parse({"messages": messages}).inputs == [
        [
            {"role": "system", "content": "Be kind.\nBe brief."},
            {"role": "user", "content": "café\n你好"},
            {"role": "assistant", "content": "…"},
            {"role": "user", "content": "half \ufffd of a face"},
        ]
    ]


def test_tools_that_a_message_called_are_refused_and_harmless_keys_pass():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for key, value in (("tool_calls", [call]), ("function_call", call["function"]), ("audio", {"id": "1"})):
        error = refusal({"messages": [*HI, {"role": "assistant", "content": None, key: value}, *HI]})
        assert (error.status, error.body["error"]["param"]) == (400, f"messages[1].{key}")
        assert error.body["error"]["code"] == "unsupported_parameter"
    harmless = {"name": "Ada", "refusal": None, "annotations": [], "tool_calls": [], "audio": None}
    answered = {"role": "assistant", "content": "x"}
    assert parse({"messages": [*HI, answered | harmless, *HI]}).inputs == [[*HI, answered, *HI]]


def test_zero_logprobs_ask_for_one_and_are_refused():
    for value in (0, 5, True):
        assert refusal({"prompt": "Once", "logprobs": value}, "text").body["error"]["param"] == "logprobs"
    for value in (None, False):
        parse({"prompt": "Once", "logprobs": value}, "text")


def test_halves_of_characters_are_replaced_wherever_they_stand():
    error = refusal(b'{"messages": [], "\\ud800x": 1}').body["error"]
    assert (error["param"], error["message"]) == ("\ufffdx", "unknown parameter '\ufffdx'")
    request = parse(b'{"prompt": ["a\\ud800"], "stop": ["\\udfff"]}', "text")
    assert (request.inputs, request.sampling.stop) == (["a\ufffd"], ["\ufffd"])


def test_prompts_to_continue():
    assert parse({"prompt": "Once"}, "text").inputs == ["Once"]
    request = parse({"prompt": ["a", "b"], "n": 2, "seed": 5}, "text")
    assert [(text, sampling.seed) for text, sampling in request.choices()] == [("a", 5), ("a", 6), ("b", 5), ("b", 6)]
    for prompt in ("", [], [1, 2], None, ["a", ""]):
        assert "'prompt' must be" in str(refusal({"prompt": prompt}, "text"))
    assert "more than 8 replies" in str(refusal({"prompt": ["a"] * 5, "n": 2}, "text"))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes_are_understood_or_refused(data):
    with pytest.raises(ApiError):
        parse(data)
