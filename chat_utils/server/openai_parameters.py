"""Checks the parameters of a request: which exist, which values ask for something that this server cannot do.

Clients of other servers send theirs along with values that ask for nothing: those pass. Whatever asks for something is
done or refused by name.
"""

from difflib import get_close_matches
from typing import TypeVar

from chat_utils.server.api_error import ApiError

MAX_CHOICES = 8
Kind = TypeVar("Kind")

# Numbers of a request: kind, least and greatest value.
NUMBERS = {
    "temperature": (float, 0, 2), "top_p": (float, 0, 1), "top_k": (int, -1, 10**9),
    "repetition_penalty": (float, 0.01, 10), "seed": (int, -(2**63), 2**63 - 1), "n": (int, 1, MAX_CHOICES),
}  # fmt: skip
# What this server cannot do, with the values that ask for nothing; so do null, "", [] and {}, and false of any other.
NEUTRAL = {
    # OpenAI's own
    "presence_penalty": [0], "frequency_penalty": [0], "logit_bias": [], "logprobs": [False], "top_logprobs": [0],
    "tools": [], "tool_choice": ["none", "auto"], "functions": [], "function_call": ["none", "auto"],
    "response_format": [{"type": "text"}], "modalities": [["text"]], "audio": [], "prediction": [], "store": [False],
    "reasoning_effort": ["none"], "web_search_options": [], "best_of": [1], "echo": [False], "suffix": [],
    "verbosity": ["medium"], "moderation": [],
    # how others draw: vLLM, SGLang, llama.cpp, text-generation-webui
    "min_p": [0], "top_a": [0], "typical_p": [1, 0], "typ_p": [1, 0], "tfs_z": [1], "tfs": [1],
    "epsilon_cutoff": [0], "eta_cutoff": [0], "n_keep": [0], "num_return_sequences": [1],
    "mirostat": [0], "mirostat_mode": [0], "xtc_probability": [0], "dry_multiplier": [0], "dynatemp_range": [0],
    "smoothing_factor": [0], "repeat_penalty": [1], "encoder_repetition_penalty": [1], "no_repeat_ngram_size": [0],
    "length_penalty": [1], "num_beams": [1], "use_beam_search": [False], "early_stopping": [False], "do_sample": [True],
    "use_cache": [True],
    "penalty_alpha": [0], "guidance_scale": [1], "min_tokens": [0], "min_new_tokens": [0], "min_length": [0],
    "prompt_lookup_num_tokens": [0],
    # what ends and what shows
    "ignore_eos": [False], "ban_eos_token": [False], "stop_token_ids": [], "include_stop_str_in_output": [False],
    "skip_special_tokens": [True], "spaces_between_special_tokens": [True, False], "detokenize": [True],
    "prompt_logprobs": [False], "return_token_ids": [False], "return_tokens_as_token_ids": [False], "n_probs": [0],
    "continuous_usage_stats": [False],
    # how others render a dialogue
    "add_generation_prompt": [True], "continue_final_message": [False], "add_special_tokens": [True, False],
    "truncate_prompt_tokens": [-1], "enable_thinking": [False], "think": [False],
    "thinking": [False, {"type": "disabled"}], "reasoning": [False, {"enabled": False}, {"effort": "none"}],
    "safe_prompt": [False], "raw_mode": [False],
}  # fmt: skip
# The same in a message; its other keys, such as a name, change nothing.
NEUTRAL_IN_MESSAGES = {"tool_calls": [], "function_call": [], "audio": []}
# What the caller notes for itself, and hints about speed.
NOTES = {"metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
NOTES |= {"parallel_tool_calls", "generation_config", "include_reasoning", "separate_reasoning", "priority"}
NOTES |= {"request_id", "cache_prompt", "keep_alive", "id_slot", "include_obfuscation", "reasoning_format"}
NOTES |= {"timings_per_token", "return_progress", "stream_reasoning"}
# What only shapes another parameter, which is refused where it asks for something.
NOTES |= {"mirostat_tau", "mirostat_eta", "xtc_threshold", "dynatemp_exponent", "dry_base", "dry_allowed_length"}
NOTES |= {"dry_penalty_last_n", "dry_sequence_breakers", "repeat_last_n", "smoothing_curve", "penalty_range"}
TAKEN = {"model", "stop", "stream", "stream_options", "max_tokens", "max_completion_tokens", "user", "cache_salt"}
TAKEN |= NUMBERS.keys()
USED_FOR = {"repeat_penalty": "repetition_penalty", "n_predict": "max_tokens", "max_new_tokens": "max_tokens"}


def check_names(body: dict, taken: set[str]) -> None:
    """Raise ApiError for a parameter that asks for what is not supported, or that does not exist."""
    for tools, choice in (("tools", "tool_choice"), ("functions", "function_call")):
        if body.get(choice) == "none":  # none may be called
            body.pop(tools, None)
    for name, value in body.items():
        if name in taken or name in NOTES or value in (None, "", [], {}):
            continue
        if name in NEUTRAL and name not in USED_FOR:
            check_neutral(name, value, NEUTRAL[name], name)
        elif name == "chat_template_kwargs" and isinstance(value, dict):
            asked = {key: one for key, one in value.items() if one and not is_neutral(one, NEUTRAL.get(key, []))}
            check_neutral(name, asked, [], name)
        elif value is not False and not is_neutral(value, NEUTRAL.get(name, [])):
            near = [USED_FOR[name]] if name in USED_FOR else get_close_matches(name[:64], taken, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ApiError(400, f"unknown parameter {name[:64]!r}{hint}", name[:64], code="unknown_parameter")


def is_neutral(value: object, neutral: list) -> bool:
    """Tell whether a value asks for nothing; 0 isn't False: to some parameters it asks."""
    return value in (None, "", [], {}) or any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral
    )


def check_neutral(name: str, value: object, neutral: list, place: str) -> None:
    """Raise ApiError unless the value is one that asks for nothing."""
    if not is_neutral(value, neutral):
        words = "".join(f" or {one!r}" for one in neutral)
        message = f"'{name}' is not supported by this server; leave it out{words and f', or send{words[3:]}'}"
        raise ApiError(400, message, place, code="unsupported_parameter")


def read_kind(body: dict, name: str, kind: type[Kind]) -> Kind | None:
    """Return body[name], None where it is not given; raises ApiError where it is of another kind."""
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        words: dict[type, str] = {bool: "true or false", dict: "an object", str: "text", list: "a list"}
        raise ApiError(400, f"'{name}' must be {words[kind]}", name, code="invalid_type")
    return value


def read_number(body: dict, name: str, kind: type, low: float, high: float) -> float | None:
    """Return the number body[name], None where it is not given; raises ApiError where it is none or out of range."""
    value = body.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and not whole):
        raise ApiError(400, f"'{name}' must be a {'whole ' if kind is int else ''}number", name, code="invalid_type")
    if not low <= value <= high:
        raise ApiError(400, f"'{name}' must be from {low:g} to {high:g}", name, code="invalid_value")
    return kind(value)


def read_max_tokens(body: dict, name: str, window: int) -> int | None:
    """Return the longest reply that a request asks for, no more than the window; -1 asks for all of it."""
    value = read_number(body, name, int, low=-1, high=2**63)
    if value is None:
        return None
    if value == 0:
        raise ApiError(400, f"'{name}' must be 1 or more; -1: as long as the window allows", name, code="invalid_value")
    return window if value < 0 else min(int(value), window)
