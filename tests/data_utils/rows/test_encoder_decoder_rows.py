"""Dialogues become pairs, and pairs rows: what chat asks is the source, every reply a target, both sides full."""

import numpy as np
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.dialogue.format import IGNORE_LABEL, stop_token_id
from data_utils.dialogue.window import encode_prompt
from data_utils.rows.encoder_decoder import (
    assign_pairs,
    choose_sides,
    collate_halves,
    encode_replies,
    join_sides,
    pack_halves,
)

DIALOGUE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "你好 <|im_end|>"},
    {"role": "assistant", "content": "您好"},
    {"role": "user", "content": "And who are you?"},
    {"role": "assistant", "content": "Momo"},
]


def test_each_reply_is_a_target_and_its_source_is_what_chat_asks(tokenizer):
    pairs = list(encode_replies(tokenizer, DIALOGUE, 200))
    assert [pair["input_ids"] for pair in pairs] == [encode_prompt(tokenizer, DIALOGUE[:end], 200)[0] for end in (2, 4)]
    assert [tokenizer.decode(pair["labels"]) for pair in pairs] == ["您好<|im_end|>", "Momo<|im_end|>"]
    assert pairs[0]["labels"][-1] == stop_token_id(tokenizer)
    assert pairs[0]["input_ids"].count(stop_token_id(tokenizer)) == 2  # the typed one is letters


def test_a_reply_that_is_not_learned_is_read_alone(tokenizer):
    unlearned = [*DIALOGUE[:2], DIALOGUE[2] | {"weight": 0}, *DIALOGUE[3:]]
    (pair,) = encode_replies(tokenizer, unlearned, 200)
    assert tokenizer.decode(pair["labels"]) == "Momo<|im_end|>"
    assert "您好" in tokenizer.decode(pair["input_ids"])


def test_whole_turns_drop_from_the_front_of_a_source(tokenizer):
    long = list(encode_replies(tokenizer, DIALOGUE, 200))[1]
    room = len(long["input_ids"]) + len(long["labels"]) - 1
    short = list(encode_replies(tokenizer, DIALOGUE, room))[-1]
    assert short["input_ids"] == encode_prompt(tokenizer, [DIALOGUE[0], DIALOGUE[3]], 200)[0]
    assert list(encode_replies(tokenizer, DIALOGUE, 5)) == []


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 30)), min_size=1, max_size=80))
def test_every_pair_is_in_one_row_and_no_row_is_too_long(lengths):
    lengths = np.array(lengths)
    sides = choose_sides(lengths, 128)
    rows = assign_pairs(lengths, sides)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all((lengths[row].sum(0) <= sides).all() for row in rows)


def test_both_sides_of_rows_are_full():
    rng = np.random.default_rng(0)
    lengths = np.stack([rng.integers(5, 60, 2000), rng.integers(2, 40, 2000)], 1)
    sides = choose_sides(lengths, 512)
    assert lengths.sum() / (len(assign_pairs(lengths, sides)) * sum(sides)) > 0.95


def test_rows_are_packed_and_stacked():
    pairs = Dataset.from_list([{"input_ids": [5] * n, "labels": [9, 8, 7][: n % 3 + 1]} for n in range(1, 9)])
    rows = pack_halves(pairs, 2, 32)
    batch = collate_halves(list(rows.with_format("numpy")))
    assert batch["labels"].shape[1] == batch["decoder_input_ids"].shape[1] + 1
    assert (batch["labels"][:, 0] == IGNORE_LABEL).all()
    assert int((batch["labels"] != IGNORE_LABEL).sum()) == sum(n % 3 + 1 for n in range(1, 9))
    assert int((batch["source_parts"] > 0).sum()) == sum(range(1, 9))
    alone = pack_halves(pairs, 2, 32, together=False)
    assert [len(ids) for ids in alone["input_ids"]] == list(range(1, 9))
    padded = collate_halves([alone[0], alone[7]])
    assert padded["source_parts"].tolist()[0] == [1] + [0] * 7


def test_a_long_reply_widens_its_own_rows_alone():
    lengths = [(13, 3)] * 2000 + [(13, 60)]
    rows = pack_halves(Dataset.from_list([{"input_ids": [5] * s, "labels": [9] * t} for s, t in lengths]), 2, 128)
    sides = [(len(row["input_ids"]), len(row["decoder_input_ids"])) for row in rows]
    assert set(sides[:-1]) == {(104, 24)}
    assert sides[-1] == (104, 60)
    assert sum(map(sum, lengths)) / sum(map(sum, sides)) > 0.95
    assert sum(sum(label == 9 for label in row["labels"]) for row in rows) == 2000 * 3 + 60


def test_a_label_is_of_the_token_before():
    row = join_sides([(np.array([5, 6]), np.array([7, 8])), (np.array([9]), np.array([4]))], 1)
    assert row["labels"].tolist() == [IGNORE_LABEL, 7, 8, 4]
    assert row["decoder_input_ids"].tolist() == [1, 7, 1]
    assert row["source_parts"].tolist() == [1, 1, 2]
    assert row["target_parts"].tolist() == [1, 1, 2]
