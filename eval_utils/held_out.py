"""Text and dialogues of the built-in sources that every default run holds out, chosen by the hash of their text."""

from collections import Counter
from collections.abc import Callable, Iterable

from data_utils.caching import cache_folder, cache_key, find_json, keep_json
from data_utils.sources import builtin
from data_utils.text.cleaning import clean_text
from data_utils.text.splitting import hash_share

EVAL_FRACTION = 0.02  # the scripts' default: what a model trained with a smaller one knows is no longer held out
TEXT_BYTES = 64_000  # of each language
REPLY_BYTES = 32_000


def read_held_out() -> dict[str, list[dict]]:
    """Return the held-out `documents` and `dialogues`, in an order by hash that no source has a hand in; made once."""
    path = cache_folder() / f"held-out-{cache_key(*builtin_versions(), EVAL_FRACTION)}.json"
    if (found := find_json(path)) is not None:
        return found
    documents, dialogues = [], []
    for name in builtin.WHOLE_SOURCES:
        documents += ((hash_share(row["text"]), row) for row in builtin.read_documents(name))
        rows = builtin.DIALOGUE_SOURCES[name]() if name in builtin.DIALOGUE_SOURCES else ()
        dialogues += ((hash_share(builtin.dialogue_text(row["messages"])), row) for row in rows)
    held_out = {"documents": keep_held_out(documents), "dialogues": keep_held_out(dialogues)}
    for row in held_out["documents"]:
        row["text"] = clean_text(row["text"])
    keep_json(path, held_out)
    return held_out


def builtin_versions() -> list[str]:
    """Return what changes when the data of a built-in source change."""
    return [builtin.source_version(name) for name in builtin.WHOLE_SOURCES]


def keep_held_out(rows: Iterable[tuple[float, dict]]) -> list[dict]:
    """Return the rows whose share is below EVAL_FRACTION, the lowest first."""
    return [row for share, row in sorted(rows, key=lambda pair: pair[0]) if share < EVAL_FRACTION]


def take_first(rows: Iterable[dict], size: Callable[[dict], int], most: float, share: float = 1.0) -> list[dict]:
    """Return the first rows of each language whose sizes come to `most` together; one at least.

    Of a smaller `share` they are the first of those of all of it, so that models are compared on the same rows.

    >>> rows = [{"language": "en", "n": n} for n in (2, 6, 3, 2)]
    >>> [[row["n"] for row in take_first(rows, lambda row: row["n"], 8, share)] for share in (1, 0.7, 0.1)]
    [[2, 6], [2], [2]]
    """
    found, taken = [], Counter()
    for row in rows:
        if not taken[row["language"]] or taken[row["language"]] + size(row) <= most:
            taken[row["language"]] += size(row)
            found.append(row)
    if share == 1:
        return found
    so_far, first = Counter(), []
    for row in found:
        if not so_far[row["language"]] or so_far[row["language"]] + size(row) <= most * share:
            first.append(row)
        so_far[row["language"]] += size(row)
    return first


def text_bytes(document: dict) -> int:
    """Return how many bytes of UTF-8 a document is."""
    return len(document["text"].encode())


def reply_bytes(dialogue: dict) -> int:
    """Return how many bytes of UTF-8 the assistant's words in a dialogue are."""
    return sum(len(m["content"].encode()) for m in dialogue["messages"] if m["role"] == "assistant")
