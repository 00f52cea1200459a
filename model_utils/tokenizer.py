"""A byte-level BPE vocabulary for English and Chinese alike, with the chat's control tokens reserved."""

import json
import re
from collections.abc import Iterable
from itertools import count, takewhile
from pathlib import Path

import xxhash
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from errors import InputError
from files import write_whole

# ChatML, the form that most runtimes know. Each token has one purpose.
END_OF_TEXT = "<|endoftext|>"  # ends a document; fills rows that are not full
TURN_START = "<|im_start|>"  # begins a turn; the role follows
TURN_END = "<|im_end|>"  # ends a turn; where the assistant's reply stops
CONTROL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
SENTINEL = "<extra_id_{}>"  # stands for a span that an encoder-decoder is to write; T5's name

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# The splitting pattern of Qwen2, known to llama.cpp and others by that name ("qwen2"), so that exports tokenize alike.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The pattern takes a whole Chinese clause for one word. Millions of different words exhaust the BPE trainer's memory,
# so the text given to it (not the pattern) has its Han runs cut.
HAN_RUN = re.compile(r"([\u3400-\u9fff]{6})(?=[\u3400-\u9fff])")
SPACE_MARK, BYTE_TOKEN = "▁", re.compile("<0x[0-9A-F]{2}>")  # of SentencePiece's vocabularies
MAX_WORD_CHARACTERS = 64
LONG_WORD = re.compile(rf"(\S{{{MAX_WORD_CHARACTERS}}})(?=\S)")


def cut_long_runs(text: str) -> str:
    """Break runs of Han characters, and any overlong word, with newlines, for the BPE trainer only.

    >>> cut_long_runs("我们今天去公园散步吧")
    '我们今天去公\\n园散步吧'
    """
    return LONG_WORD.sub("\\1\n", HAN_RUN.sub("\\1\n", text))


def train_tokenizer(texts: Iterable[str], vocab_size: int, sentinels: int = 0) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of `vocab_size` tokens, control tokens and chat template included.

    Any text round-trips exactly: all 256 bytes are in the vocabulary and nothing is normalised. Source: Sennrich et al.
    2016 (BPE); Radford et al. 2019, section 2.2 (on bytes).

    Args:
        sentinels: how many are kept for an encoder-decoder, behind the control tokens.

    Raises InputError where `vocab_size` cannot hold the bytes and the control tokens.
    """
    special = [*CONTROL_TOKENS, *map(SENTINEL.format, range(sentinels))]
    smallest = 256 + len(special)
    if vocab_size < smallest:
        raise InputError(f"--vocab_size {vocab_size} is too small: 256 bytes and the control tokens need {smallest}")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator((cut_long_runs(text) for text in texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[token for token in special if token != END_OF_TEXT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer with its class named as every version of transformers knows it; version 5 has its own name."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_whole(path, json.dumps(config, indent=2, ensure_ascii=False))


def add_chat_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give a tokenizer without a chat template ours and its control tokens; return how many tokens were added."""
    if tokenizer.chat_template is not None:
        return 0
    tokenizer.chat_template = CHAT_TEMPLATE
    missing = [token for token in (TURN_START, TURN_END) if token not in tokenizer.get_vocab()]
    return tokenizer.add_special_tokens({"additional_special_tokens": [TURN_START, TURN_END]}) if missing else 0


def decode_text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Return the text of ids, without that of special tokens."""
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def turn_start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token that begins a turn, or a text where the tokenizer has none of ours."""
    return tokenizer.get_vocab().get(TURN_START, first_token(tokenizer))


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that a text begins after: BOS, or the token that ends the text before."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id


def find_sentinels(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a tokenizer's sentinels, from the first; none where it has none."""
    vocabulary = tokenizer.get_vocab()
    names = takewhile(vocabulary.__contains__, map(SENTINEL.format, count()))
    return [vocabulary[name] for name in names]


def bytes_per_token(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """Return how many bytes of UTF-8 a token stands for on average in `texts`: the compression."""
    tokens = sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    return sum(len(text.encode()) for text in texts) / max(tokens, 1)


def is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether each character of a token stands for one byte."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return isinstance(backend, Tokenizer) and "ByteLevel" in str(backend.decoder)


def token_byte_counts(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return for each id (V entries) how many bytes of text it stands for; 0 for special tokens.

    Exact for byte-level vocabularies, where each character of a token is one byte, and for those of SentencePiece,
    where "▁" is a space and "<0xE4>" a byte of a character that is cut: decoded alone, the one is lost and the other a
    mark of three bytes. For others by the decoded text.
    """
    special = set(tokenizer.all_special_ids)
    size = len(tokenizer)
    tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(list(range(size)))]
    if is_byte_level(tokenizer):
        counts = [len(token) for token in tokens]
    elif any(token.startswith(SPACE_MARK) for token in tokens):
        texts = ["x" if BYTE_TOKEN.fullmatch(token) else token.replace(SPACE_MARK, " ") for token in tokens]
        counts = [len(text.encode()) for text in texts]
    else:
        counts = [len(text.encode()) for text in tokenizer.batch_decode([[i] for i in range(size)])]
    return [0 if i in special else count for i, count in enumerate(counts)]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a short hash of a tokenizer and its chat template, by which caches and run records name it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # padding and truncation are what the last call asked for
        content = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    else:
        content = sorted(tokenizer.get_vocab().items())
    return xxhash.xxh64(f"{content}{tokenizer.chat_template}".encode()).hexdigest()
