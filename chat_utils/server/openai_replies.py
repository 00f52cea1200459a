"""Writes replies in OpenAI's protocol: whole ones and streamed pieces, as JSON."""

import json
import re

from chat_utils.reply import Reply
from chat_utils.runtimes.prefix_cache import ANYBODY
from chat_utils.server.openai_requests import Request

# Where some clients end a line, against the standard of server-sent events; JSON may spell them.
LINE_ENDS = re.compile("[\x85\u2028\u2029]")
NAMES = {"chat": ("chatcmpl", "chat.completion", "chat.completion.chunk"), "text": ("cmpl", *["text_completion"] * 2)}


def write_usage(replies: list[Reply], request: Request) -> dict:
    """Return what the replies took in tokens; a prompt that is answered n times counts once.

    What the prefix cache held is told to a group of callers of its own alone: others would learn what was asked.
    """
    stats = [reply.stats for reply in replies]
    prompts = stats[:: request.n]
    prompt_tokens = sum(one.prompt_tokens for one in prompts)
    completion_tokens = sum(one.reply_tokens for one in stats)
    cached_tokens = 0 if request.cache_group == ANYBODY else sum(one.cached_tokens for one in prompts)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "dropped_messages": sum(one.dropped_messages for one in prompts),
    }


def write_finish(reason: str | None) -> dict:
    """Return how a choice ended, in the protocol's words and in the engine's ("loop": it began to repeat itself)."""
    return {"finish_reason": "length" if reason == "length" else "stop", "stop_reason": reason}


def write_reply(request: Request, model: str, texts: list[str], replies: list[Reply]) -> dict:
    """Return the whole answer to a request that is not streamed."""
    choices = []
    for index, (text, reply) in enumerate(zip(texts, replies, strict=True)):
        content = {"message": {"role": "assistant", "content": text}} if request.kind == "chat" else {"text": text}
        choices.append({"index": index, **content, "logprobs": None, **write_finish(reply.finish_reason)})
    return write_head(request, model, 1) | {"choices": choices, "usage": write_usage(replies, request)}


def write_chunk(request: Request, model: str, choices: list[dict], usage: dict | None = None) -> bytes:
    """Return one event of a stream (SSE)."""
    more = {"usage": usage} if request.include_usage else {}
    return write_event(write_head(request, model, 2) | {"choices": choices} | more)


def write_head(request: Request, model: str, form: int) -> dict:
    """Return what an answer and its chunks begin with; `form`: of NAMES, 1 for a whole one, 2 for a chunk."""
    names = NAMES[request.kind]
    return {"id": f"{names[0]}-{request.id}", "object": names[form], "created": request.created, "model": model}


def write_piece(request: Request, index: int, piece: str | None, reason: str | None = None) -> dict:
    """Return a choice of a chunk: the opening of a chat reply (no piece), a piece of text, or how it ended."""
    end = write_finish(reason) if reason else {"finish_reason": None}
    if request.kind == "text":
        return {"index": index, "text": piece or "", "logprobs": None, **end}
    delta = {} if reason else {"role": "assistant", "content": ""} if piece is None else {"content": piece}
    return {"index": index, "delta": delta, "logprobs": None, **end}


def write_event(data: dict | str) -> bytes:
    """Return data as a server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    text = LINE_ENDS.sub(lambda end: f"\\u{ord(end[0]):04x}", text)
    return f"data: {text}\n\n".encode()
