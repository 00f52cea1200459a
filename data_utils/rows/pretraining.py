"""Leads sources to rows of tokens in one of two ways: held by `datasets`, or tokenized to shards.

Each has the same four functions: `describe`, `sample`, `pack` and `held_out`, called in this order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from data_utils.caching import cache_folder, cache_key
from data_utils.rows.mixture import Mixture
from data_utils.rows.packing import pack_documents, tokenize_documents
from data_utils.rows.sampling import sample_texts
from data_utils.rows.shards import is_whole, shards_folder, tokenize_source
from data_utils.rows.streams import TokenStream
from data_utils.sources.corpus import (
    DOCUMENT_FEATURES,
    count_text_bytes,
    read_corpus,
    split_languages,
    split_train_eval,
)
from data_utils.sources.source import Source, data_version
from data_utils.text.splitting import SHARE
from errors import InputError, say_note
from files import find_damage, mark_complete, remove, whole
from model_utils.checkpoint import load_tokenizer
from model_utils.tokenizer import tokenizer_fingerprint, train_tokenizer
from model_utils.vocabulary import extend_tokenizer

SAMPLE_BYTES = 1000  # of each language that a tokenizer is trained on, for each token of its vocabulary
MIN_SAMPLE_TOKENS = 6000
MAX_SAMPLE_BYTES = 10_000_000  # of all languages: BPE takes 70 bytes of memory for one of Chinese text, 15 of English
TRAINING_WORTH = 3  # a tokenizer is trained on a text in the time in which it is tokenized three times
LARGE_BYTES = 128_000_000  # files of more are tokenized to shards instead of being held by `datasets`: 1.3 GB at most


def open_corpus(sources: list[Source], eval_fraction: float) -> "SmallCorpus | ShardedCorpus":
    """Return the sources as a corpus: tokenized to shards where they are weighted, large or prepared, else held.

    Raises InputError where more is held out than a corpus folder was checked for.
    """
    for source in sources:
        source.check_held_out(eval_fraction)
    is_large = sum(source.held_bytes() for source in sources) > LARGE_BYTES
    is_sharded = is_large or any(source.weight is not None for source in sources)
    return (ShardedCorpus if is_sharded else SmallCorpus)(sources, eval_fraction)


class SmallCorpus:
    """Documents held by `datasets`, cleaned and split."""

    sampling = "random"  # Trainer shuffles the rows

    def __init__(self, sources: list[Source], eval_fraction: float) -> None:
        self.sources = sources
        documents, self.counts = read_corpus(sources)
        self.train, self.evaluation = split_train_eval(documents, eval_fraction)

    def describe(self) -> str:
        """Return in words what was read."""
        words = "{documents:,} documents read, {empty:,} empty dropped, {kept:,} kept".format(**self.counts)
        repeated = self.counts["repeated"]
        return words + (f", {repeated:,} of them copies of others (prepare_corpus.py drops such)" if repeated else "")

    def version(self) -> str:
        """Return what changes when the training documents change."""
        return self.train._fingerprint

    def text_bytes(self) -> int:
        """Return about how many bytes of text there are to train on."""
        return count_text_bytes(self.train)

    def unprepared_bytes(self, key: str | None) -> int:
        """Return how many bytes of text are still to be tokenized; of a text of this kind all, which takes seconds."""
        return self.text_bytes()

    def sample(self, max_bytes: int, total_bytes: int | None = None) -> Iterator[str]:
        """Yield training texts of at most `max_bytes` of each language, and `total_bytes` in all."""
        batches = self.train.select_columns(["text", "language"]).iter(1000)
        rows = (row for batch in batches for row in zip(batch["text"], batch["language"], strict=True))
        return sample_texts(rows, max_bytes, total_bytes=total_bytes)

    def pack(
        self, tokenizer: PreTrainedTokenizerBase, key: str, block_tokens: int, seed: int, step_rows: int
    ) -> Dataset | Mixture:
        """Return rows of T tokens to train on."""
        blocks = pack_documents(tokenize_documents(self.train, tokenizer, key), block_tokens)
        if not len(blocks):
            raise too_short(self.sources, block_tokens)
        return blocks

    def held_out(self, max_bytes: int) -> Dataset:
        """Return the held-out documents."""
        return self.evaluation

    def describe_rows(self, blocks: Dataset, rows: float) -> dict[str, str]:
        """Return in words how much there is to train on, and how often a run of so many rows reads it."""
        tokens = len(blocks) * len(blocks[0]["input_ids"])
        return {"corpus": f"{tokens / 1e6:.2f} M tokens", "epochs": f"{rows / len(blocks):.2f}"}


@dataclass
class ShardedCorpus:
    """Sources tokenized to shards, each once, and mixed."""

    sampling = "sequential"  # a Mixture is shuffled already, and not by a list of all rows

    sources: list[Source]
    eval_fraction: float
    streams: tuple[TokenStream, ...] = ()

    def describe(self) -> str:
        """Return in words what is read."""
        return f"{', '.join(source.path for source in self.sources)}: tokenized once to shards"

    def __post_init__(self) -> None:
        for source in self.sources:
            if not source.can_be_sharded:
                raise InputError(
                    f"{source.path}: cannot be mixed by weight or with large files; prepare_corpus makes files"
                )

    def version(self) -> str:
        """Return what changes when the training documents change."""
        readings = [source.reading for source in self.sources]
        return f"{data_version(self.sources)} {readings} {self.eval_fraction}"

    def text_bytes(self) -> int:
        """Return about how many bytes of text there are to train on."""
        return int(sum(source.text_bytes() * source.times for source in self.sources) * (1 - self.eval_fraction))

    def unprepared_bytes(self, key: str | None) -> int:
        """Return how many bytes of text are still to be tokenized with the tokenizer of this key, None: a new one."""
        missing = (s for s in self.sources if not (key and is_whole(shards_folder(s, key, self.eval_fraction))))
        return sum(source.text_bytes() for source in missing)

    def sample(self, max_bytes: int, total_bytes: int | None = None) -> Iterator[str]:
        """Yield training texts of at most `max_bytes` of each language and `total_bytes` in all, from everywhere."""
        source = self.sources[0]

        def documents() -> Iterator[tuple[str, str]]:
            nonlocal source
            for source in self.sources:
                for part in source.parts():
                    rows = source.documents(part)
                    yield from ((row["text"], row["language"]) for row in rows if row[SHARE] >= self.eval_fraction)

        def clean(text: str) -> str:
            return source.clean(text)  # of the source that is read then

        return sample_texts(documents(), max_bytes, clean, total_bytes)

    def pack(
        self, tokenizer: PreTrainedTokenizerBase, key: str, block_tokens: int, seed: int, step_rows: int
    ) -> Mixture:
        """Return rows of T tokens to train on: the sources mixed, each shuffled over all of its blocks."""
        folders = [tokenize_source(source, tokenizer, key, self.eval_fraction) for source in self.sources]
        self.streams = tuple(TokenStream(folder) for folder in folders)
        for source, stream in zip(self.sources, self.streams, strict=True):
            if len(stream) < block_tokens:
                raise too_short([source], block_tokens)
        weights = [source.weight for source in self.sources if source.weight is not None]
        times = [source.times for source in self.sources]
        return Mixture(list(self.streams), block_tokens, seed, times, weights, step_rows)

    def held_out(self, max_bytes: int) -> Dataset:
        """Return held-out documents of about `max_bytes` of each language, from everywhere in all sources."""
        rows = [
            {**row, "source": source.path, SHARE: 0.0}
            for source, stream in zip(self.sources, self.streams, strict=True)
            for row in stream.read_held_out(max_bytes)
        ]
        if not rows:
            raise InputError(f"no document of {self.sources[0].path} is held out; choose a larger --eval_fraction")
        return Dataset.from_list(rows, DOCUMENT_FEATURES).shuffle(seed=0)

    def describe_rows(self, blocks: Mixture, rows: float) -> dict[str, str]:
        """Return in words how much there is of each source, and how often a run of so many rows reads it."""
        sizes, epochs = [], []
        for source, stream, count in zip(self.sources, self.streams, blocks.count_epochs(rows), strict=True):
            counts = sorted(stream.count_languages().items(), key=lambda item: -item[1]["tokens"])
            shares = " ".join(f"{language} {count['tokens'] / len(stream):.0%}" for language, count in counts[:5])
            sizes.append(f"{source.path} {len(stream) / 1e6:.2f} M tokens ({shares})")
            epochs.append(f"{source.path} {count:.2f}")
        return {"corpus": ", ".join(sizes), "epochs": ", ".join(epochs)}


def too_short(sources: list[Source], block_tokens: int) -> InputError:
    """Return the error for sources that don't fill a row."""
    names = " ".join(source.path for source in sources)
    what = f"the text is shorter than a row of {block_tokens} tokens"
    return InputError(f"{names}: {what}; give more text, or a smaller --block_tokens")


def prepare_tokenizer(
    corpus: SmallCorpus | ShardedCorpus, path: str | None, vocab_size: int, sentinels: int = 0
) -> tuple[PreTrainedTokenizerBase, str]:
    """Return the tokenizer of `path`, else one trained on the corpus and kept in the cache, and its fingerprint.

    It is trained on SAMPLE_BYTES of each language for a token of the vocabulary, MAX_SAMPLE_BYTES in all at most:
    less than 1.5 GB of memory for any vocabulary and corpus.
    """
    folder = Path(path) if path else trained_folder(corpus, vocab_size, sentinels)
    if path is None and not folder.exists():
        share = SAMPLE_BYTES * max(vocab_size, MIN_SAMPLE_TOKENS)
        limits = f"{share / 1e6:.0f} MB of each language, {MAX_SAMPLE_BYTES / 1e6:.0f} MB in all"
        print(f"tokenizer: trained on up to {limits}, which takes less than 1.5 GB of memory")
        with whole(folder) as aside:
            texts = corpus.sample(share, MAX_SAMPLE_BYTES)
            train_tokenizer(texts, vocab_size, sentinels).save_pretrained(aside)
            mark_complete(aside)
    tokenizer = load_tokenizer(path or str(folder))
    return tokenizer, tokenizer_fingerprint(tokenizer)


def extend_base(corpus: SmallCorpus | ShardedCorpus, base: str, count: int) -> str:
    """Return the folder of a base's tokenizer with `count` tokens more, learned from the corpus, in the cache."""
    tokenizer = load_tokenizer(base)
    folder = tokenizer_folder("extend_base", corpus.version(), tokenizer_fingerprint(tokenizer), count)
    if not folder.exists():
        with whole(folder) as aside:
            texts = corpus.sample(SAMPLE_BYTES * max(count, MIN_SAMPLE_TOKENS), MAX_SAMPLE_BYTES)
            extend_tokenizer(tokenizer, texts, count, aside)
            mark_complete(aside)
    return str(folder)


def trained_folder(corpus: SmallCorpus | ShardedCorpus, vocab_size: int, sentinels: int) -> Path:
    """Return where the tokenizer of so many tokens that is trained on a corpus is kept."""
    return tokenizer_folder("train_tokenizer", corpus.version(), vocab_size, *filter(None, [sentinels]))


def tokenizer_folder(*parts: object) -> Path:
    """Return the cache's folder of a tokenizer that these parts determine; one that isn't as it was written goes."""
    folder = cache_folder() / f"tokenizer-{cache_key(*parts)}"
    if folder.exists() and (damage := find_damage(folder)):
        say_note(f"{folder}: {damage}; it is made anew")
        remove(folder)
    return folder


def count_unprepared(corpus: SmallCorpus | ShardedCorpus, path: str | None, vocab_size: int, sentinels: int = 0) -> int:
    """Return how many bytes of text are to be tokenized before a run can begin, with `prepare_tokenizer`'s tokenizer.

    Its training, where it isn't in the cache, counts as TRAINING_WORTH times its sample.
    """
    folder = trained_folder(corpus, vocab_size, sentinels)
    if path is None and not folder.exists():
        return corpus.unprepared_bytes(None) + TRAINING_WORTH * min(corpus.text_bytes(), MAX_SAMPLE_BYTES)
    return corpus.unprepared_bytes(tokenizer_fingerprint(load_tokenizer(path or str(folder))))


def pack_held_out(
    documents: Dataset, tokenizer: PreTrainedTokenizerBase, tokenizer_key: str, block_tokens: int
) -> dict[str, Dataset]:
    """Return held-out blocks of each language."""
    blocks = {}
    for language, rows in split_languages(documents):
        tokenized = tokenize_documents(rows, tokenizer, tokenizer_key)
        blocks[language] = pack_documents(tokenized, min(block_tokens, sum(len(ids) for ids in tokenized["input_ids"])))
    return blocks
