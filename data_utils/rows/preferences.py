"""Packs preferences to rows of T tokens: the two replies of a pair lie side by side in one, and none sees another."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from data_utils.caching import cache_key, generate_rows
from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.format import IGNORE_LABEL
from data_utils.dialogue.window import fit_dialogue
from data_utils.readers.files import name_first
from data_utils.rows.packing import IDS, assign_rows
from errors import InputError
from model_utils.text_encoder import encode_text

ENCODED = Features({"prompt": IDS, "chosen": IDS, "rejected": IDS, "chosen_bytes": Value("int32")})
NUMBERS = List(Value("float32"))
# `targets` are labels (T); `replies` tells for each token to which reply of the row it belongs (T). Of the replies of a
# row (S, two for each pair, chosen before rejected) `sizes` are the tokens, 0 where there is none. Of its pairs (S / 2)
# `pair_bytes` are the bytes of the chosen text, `weights` those of the loss.
ROW_FEATURES = Features(
    {
        **dict.fromkeys(("input_ids", "position_ids", "targets", "replies", "sizes", "pair_bytes"), IDS),
        "weights": NUMBERS,
    }
)


def encode_pair(tokenizer: PreTrainedTokenizerBase, pair: dict, row_tokens: int) -> dict | None:
    """Encode a preference so that both sides fit in a row: the prompt's ids are the same, each reply ends in its stop.

    The prompt loses whole oldest turns where it must. Returns None where not one turn fits.
    """
    sides = [text for text in (pair["chosen"], pair["rejected"]) if text]
    lengths = [len(encode_text(tokenizer, text)) for text in sides]
    longest = sides[int(np.argmax(lengths))]
    room = (row_tokens - sum(lengths)) // len(sides) + max(lengths)  # for the prompt and the longest
    encoded = fit_dialogue(tokenizer, [*pair["prompt"], {"role": "assistant", "content": longest}], room)
    if encoded is None:
        return None
    ids, labels = encoded["input_ids"], encoded["labels"]
    end = first = max(i for i, label in enumerate(labels) if label != IGNORE_LABEL)
    while labels[first - 1] != IGNORE_LABEL:
        first -= 1
    stop = ids[first + max(lengths) : end + 1]  # with what the template writes before it
    replies = {
        side: [*encode_text(tokenizer, pair[side]), *stop] if pair[side] else [] for side in ("chosen", "rejected")
    }
    return {"prompt": ids[:first], **replies, "chosen_bytes": len(pair["chosen"].encode())}


def encode_pairs(
    pairs: Dataset, tokenizer: PreTrainedTokenizerBase, tokenizer_key: str, row_tokens: int, say: Callable = print
) -> Dataset:
    """Encode preferences by `encode_pair`; those that are too long for a row are left out and named."""

    def encode() -> Iterator[dict]:
        for pair in pairs:
            try:
                encoded = encode_pair(tokenizer, pair, row_tokens)
            except DialogueError as error:
                raise InputError(f"{tokenizer.name_or_path}: {error}") from error
            yield encoded or {"prompt": [], "chosen": [], "rejected": [], "chosen_bytes": 0}

    key = cache_key("encode_pairs", pairs._fingerprint, tokenizer_key, row_tokens)
    made = generate_rows(encode, ENCODED, key, "encoding preferences")
    is_kept = [bool(prompt) for prompt in made["prompt"]]
    long = [f"{pairs[i]['source']}:{pairs[i]['place']}" for i, kept in enumerate(is_kept) if not kept]
    if long:
        say(f"left out as longer than a row of {row_tokens} tokens: {name_first(long, 5)}")
    return made.select([i for i, kept in enumerate(is_kept) if kept])


def pack_pair_row(pairs: list[dict], row_tokens: int, slots: int, pad_token_id: int) -> dict[str, np.ndarray]:
    """Lay encoded preferences in a row of T tokens that has place for `slots` replies.

    Positions restart at each reply's prompt, by which the model's attention keeps them apart.
    """
    ids, positions, targets, replies = [], [], [], []
    sizes = np.zeros(slots, "i4")
    for number, pair in enumerate(pairs):
        for side, name in enumerate(("chosen", "rejected")):
            reply, slot = pair[name], 2 * number + side
            if reply:
                ids += [*pair["prompt"], *reply]
                positions += range(len(pair["prompt"]) + len(reply))
                targets += [IGNORE_LABEL] * len(pair["prompt"]) + reply
                replies += [slot] * (len(pair["prompt"]) + len(reply))
                sizes[slot] = len(reply)
    filler = row_tokens - len(ids)
    missing = slots // 2 - len(pairs)
    return {
        "input_ids": np.asarray(ids + [pad_token_id] * filler, "i4"),
        "position_ids": np.asarray(positions + list(range(filler)), "i4"),
        "targets": np.asarray(targets + [IGNORE_LABEL] * filler, "i4"),
        "replies": np.asarray(replies + [0] * filler, "i4"),
        "sizes": sizes,
        "pair_bytes": np.asarray([pair["chosen_bytes"] for pair in pairs] + [0] * missing, "i4"),
        "weights": np.asarray([1.0] * len(pairs) + [0.0] * missing, "f4"),
    }


def pack_pairs(encoded: Dataset, row_tokens: int, pad_token_id: int) -> Dataset:
    """Return a cached Dataset of rows of T tokens, each of whole preferences.

    Likes and dislikes weigh the same together, whichever there are more of (Ethayarajh et al. 2024, section 4.2).
    """

    def rows() -> Iterator[dict]:
        pairs = encoded.to_list()
        lengths = [sum(len(pair["prompt"]) + len(pair[side]) for side in sides(pair)) for pair in pairs]
        assigned = assign_rows(lengths, row_tokens)
        slots = 2 * max(map(len, assigned), default=0)
        single = [sides(pair)[0] for pair in pairs if len(sides(pair)) == 1]
        rarer = {side: len(single) / 2 / max(1, single.count(side)) for side in ("chosen", "rejected")}
        for numbers in assigned:
            chosen = [pairs[number] for number in numbers]
            row = pack_pair_row(chosen, row_tokens, slots, pad_token_id)
            for place, pair in enumerate(chosen):
                if len(sides(pair)) == 1 and len(set(single)) == 2:
                    row["weights"][place] = rarer[sides(pair)[0]]
            yield row

    key = cache_key("pack_pairs", encoded._fingerprint, row_tokens, pad_token_id)
    return generate_rows(rows, ROW_FEATURES, key)


def sides(pair: dict) -> list[str]:
    """Return which replies an encoded preference has."""
    return [side for side in ("chosen", "rejected") if pair[side]]


def collate_pairs(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stack B rows: what the model takes (B, T) and, as `labels`, what the loss takes of each pair (B, S / 2, 6).

    The labels are reference log-probability and tokens of chosen and rejected, bytes of the chosen text, and weight.
    `shift_labels` is what Trainer counts to divide by: a number for each pair that is there, else -100 (B, S / 2).
    """
    stacked = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    model = {name: stacked[name].long() for name in ("input_ids", "position_ids", "targets", "replies", "sizes")}
    sizes = stacked["sizes"].view(len(rows), -1, 2)
    references = stacked["references"].view(len(rows), -1, 2) if "references" in stacked else torch.zeros(sizes.shape)
    columns = [references, sizes, stacked["pair_bytes"].unsqueeze(-1), stacked["weights"].unsqueeze(-1)]
    is_there = sizes.sum(-1) > 0
    return {
        **model,
        "labels": torch.cat([column.float() for column in columns], dim=-1),
        "shift_labels": torch.where(is_there, 1, IGNORE_LABEL),
    }
