"""Log-likelihoods of texts under a model: many in one step, and what several of them begin with is computed once.

Under an encoder and a decoder what is given is read, and what counts is written.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import signature

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model_utils.reply_steps import compute_targets
from model_utils.shapes import find_embedding
from model_utils.text_encoder import encode_list
from model_utils.tokenizer import first_token

ROW_TOKENS = 128  # of several texts that share a row; each attends to its own beginning alone
MORE_TOKENS = 1024  # that a row may have beyond those of a long text, whose beginning would be computed again
STEP_TOKENS = 1024  # of the rows that a step computes; with more, a CPU's caches hold less of them
STEP_LOGITS = 2**26  # that a step computes at most: 256 MB
SAME_NATS = 1e-3  # largest difference, relative, at which a shared row counts as the model's own likelihood
PROBES = ([5, 6, 7, 8, 9], [5, 6, 7, 3, 2, 4], [5, 9, 8])


@dataclass(frozen=True)
class Scored:
    """A text to score: its ids, of which those at `places` count (from 1 on) and the others are given."""

    ids: tuple[int, ...]
    places: Sequence[int]


@dataclass
class Likelihoods:
    """Nats (minus log-likelihood) of texts, and whether the model's likeliest tokens were the text's."""

    nats: np.ndarray
    is_greedy: np.ndarray


@dataclass
class _Row:
    """A tree of texts laid flat: each node is a token, which attends to the nodes before it in its texts."""

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    targets: list[tuple[int, int, int]] = field(default_factory=list)  # (text, node, id that follows it)

    def add(self, number: int, text: Scored, path: list[int], shared: int) -> list[int]:
        """Add a text, of which `shared` tokens are on the path of the one before; return its own path."""
        path = path[:shared]
        for depth, token in enumerate(text.ids[shared:-1], shared):
            self.parents.append(path[-1] if path else -1)
            path.append(len(self.tokens))
            self.tokens.append(token)
            self.depths.append(depth)
        self.targets += [(number, path[i - 1], text.ids[i]) for i in text.places]
        return path


def encode_scored(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], window: int) -> list[Scored]:
    """Encode texts, each after a context, as lm-evaluation-harness does; words of control tokens stay letters.

    An empty context is the token that begins a text (BOS, or what ends the one before). Spaces at a context's end
    belong to the text. What is longer than the window loses its beginning. Of a text that becomes one token with the
    end of its context (Chinese has no spaces) that token counts, or the text would cost nothing.

    >>> from model_utils.tokenizer import train_tokenizer
    >>> tokenizer = train_tokenizer(["the cat", "the mat"] * 9, 270)
    >>> (scored,) = encode_scored(tokenizer, [("the ", "cat")], 64)
    >>> tokenizer.decode([scored.ids[place] for place in scored.places])
    ' cat'
    """
    parts = [(kept := context.rstrip(), context[len(kept) :] + text) for context, text in pairs]
    first = first_token(tokenizer)
    alone = iter(encode_list(tokenizer, [text for context, text in parts if not context]))
    joined = list(dict.fromkeys(part for context, text in parts if context for part in (context, context + text)))
    found = dict(zip(joined, encode_list(tokenizer, joined, add_special_tokens=True), strict=True))
    scored = []
    for context, text in parts:
        ids, start = ([first, *next(alone)], 1) if not context else (found[context + text], len(found[context]))
        if context and len(ids) < 2:
            ids = [first, *ids]
        start = max(1, min(start, len(ids) - 1))
        excess = max(0, len(ids) - window - 1)  # the last id is predicted, and takes no place
        scored.append(Scored(tuple(ids[excess:]), range(max(1, start - excess), len(ids) - excess)))
    return scored


def split_windows(ids: list[int], first: int, window: int) -> list[Scored]:
    """Cut a long text into windows, each token scored once; a window after the first begins with the token before it.

    >>> [(scored.ids, scored.places) for scored in split_windows([1, 2, 3, 4, 5], 0, 3)]
    [((0, 1, 2, 3), range(1, 4)), ((3, 4, 5), range(1, 3))]
    """
    ids = [first, *ids]
    windows = [tuple(ids[i : i + window + 1]) for i in range(0, len(ids) - 1, window)]
    return [Scored(part, range(1, len(part))) for part in windows]


def window_of(model: PreTrainedModel) -> int:
    """Return how many tokens a model sees at once."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or 2048


class Scorer:
    """Scores texts under one model; finds out by a trial whether texts may share rows in it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        # A mask that is given takes the place of the model's own: texts longer than a sliding window are scored alone.
        self._limit = getattr(model.config.get_text_config(decoder=True), "sliding_window", None) or 2**31
        size = find_embedding(model).num_embeddings
        self._step_tokens = min(STEP_TOKENS, STEP_LOGITS // size)
        self._keeps = "logits_to_keep" in signature(model.forward).parameters
        self._shares = self._can_share(size)

    def score(
        self, texts: list[Scored], tell: Callable[[int], object] = lambda _: None, *, finds_greedy: bool = True
    ) -> Likelihoods:
        """Return the likelihoods of texts, in their order.

        Args:
            tell: hears how many more are done.
            finds_greedy: whether a text is what the model would say is found out, which takes a tenth of the time.
        """
        found = Likelihoods(np.zeros(len(texts)), np.ones(len(texts), dtype=bool))
        if not self._shares:
            self._score_alone(texts, found)
            tell(len(texts))
            return found
        for rows in batch_rows(pack_rows(texts, self._limit), self._step_tokens):
            self._score_rows(rows, found, finds_greedy=finds_greedy)
            tell(sum(len({number for number, _, _ in row.targets}) for row in rows))
        return found

    def _can_share(self, size: int) -> bool:
        """Tell whether texts in shared rows get the likelihoods that they get alone; ids are below `size`."""
        texts = [Scored(tuple(token % size for token in ids), range(1, len(ids))) for ids in PROBES]
        alone, shared = (Likelihoods(np.zeros(len(texts)), np.ones(len(texts), dtype=bool)) for _ in range(2))
        try:
            for rows in batch_rows(pack_rows(texts, self._limit), self._step_tokens):
                self._score_rows(rows, shared)
        except (RuntimeError, TypeError, ValueError, IndexError):  # without positions or such masks, or of pairs
            return False
        self._score_alone(texts, alone)
        return bool(np.allclose(alone.nats, shared.nats, rtol=SAME_NATS))

    @torch.inference_mode()
    def _score_alone(self, texts: list[Scored], found: Likelihoods) -> None:
        """Add the nats of texts to those found: of each run of places, given all that stands before it."""
        parts = [part for number, text in enumerate(texts) for part in split_text(number, text)]
        parts.sort(key=lambda part: len(part[1]) + len(part[2]), reverse=True)  # memory fails early
        while parts:
            count = max(1, self._step_tokens // (len(parts[0][1]) + len(parts[0][2])))
            numbers, sources, targets = zip(*parts[:count], strict=True)
            logits = compute_targets(self.model, sources, targets)
            for number, target, row in zip(numbers, targets, logits, strict=True):
                logs, labels = row.float().log_softmax(-1), torch.tensor(target, device=row.device)
                found.nats[number] -= logs.gather(1, labels[:, None]).double().sum().item()
                found.is_greedy[number] &= bool((row.argmax(-1) == labels).all())
            parts = parts[count:]

    @torch.inference_mode()
    def _score_rows(self, rows: list[_Row], found: Likelihoods, *, finds_greedy: bool = False) -> None:
        """Add the nats of the rows' texts to those found."""
        device, length = self.model.device, max(len(row.tokens) for row in rows)
        ids, positions = (
            pad_sequence([torch.tensor(part) for part in parts], batch_first=True)
            for parts in zip(*((row.tokens, row.depths) for row in rows), strict=True)
        )
        inputs = {"use_cache": False, "attention_mask": torch.ones_like(ids, device=device)}
        if not is_chain(rows[0]):
            inputs |= {"position_ids": positions.to(device), "attention_mask": self._make_mask(rows, length)}
        targets = np.array([(place, *target) for place, row in enumerate(rows) for target in row.targets])
        if self._keeps:  # the head takes half of a small model's time: it is asked where its answer counts
            kept, targets[:, 2] = np.unique(targets[:, 2], return_inverse=True)
            inputs["logits_to_keep"] = torch.from_numpy(kept).to(device)
        # Padding is at the end, where no token before it looks.
        logits = self.model(input_ids=ids.to(device), **inputs).logits.float()
        places, nodes, tokens = (torch.from_numpy(targets[:, column]).to(device) for column in (0, 2, 3))
        nats = logits.logsumexp(-1)[places, nodes] - logits[places, nodes, tokens]
        np.add.at(found.nats, targets[:, 1], nats.double().cpu().numpy())
        if finds_greedy:
            wrong = (logits.argmax(-1)[places, nodes] != tokens).cpu().numpy()
            found.is_greedy[targets[wrong, 1]] = False

    def _make_mask(self, rows: list[_Row], length: int) -> torch.Tensor:
        """Return what is added to the scores (B, 1, T, T): 0 for a node and those before it in its texts."""
        seen = np.zeros((len(rows), length, length), dtype=bool)
        for place, row in enumerate(rows):
            for node, parent in enumerate(row.parents):
                if parent >= 0:
                    seen[place, node] = seen[place, parent]
                seen[place, node, node] = True
            seen[place, len(row.tokens) :, 0] = True  # padding looks somewhere, or its softmax has nothing
        dtype = self.model.dtype
        mask = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype)
        return mask.masked_fill_(torch.from_numpy(seen), 0)[:, None].to(self.model.device)


def is_chain(row: _Row) -> bool:
    """Tell whether a row is one text, each token following the one before."""
    return row.parents == list(range(-1, len(row.parents) - 1))


def pack_rows(texts: list[Scored], limit: int) -> Iterator[_Row]:
    """Yield rows in which texts of at most `limit` tokens share beginnings; longer ones alone.

    They have about ROW_TOKENS, or twice as many as long texts that have half of themselves in common: questions with
    their answers.
    """
    row, path, last = _Row(), [], ()
    for number in sorted(range(len(texts)), key=lambda number: texts[number].ids):
        text = texts[number]
        shared, longest = 0, min(len(path), len(text.ids) - 1)
        while shared < longest and last[shared] == text.ids[shared]:
            shared += 1
        most = ROW_TOKENS
        if 2 * shared >= len(text.ids):
            most = max(ROW_TOKENS, len(text.ids) + min(len(text.ids), MORE_TOKENS))
        is_full = len(row.tokens) + len(text.ids) - 1 - shared > most
        if row.tokens and (is_full or max(len(text.ids), len(last)) > limit):
            yield row
            row, path, shared = _Row(), [], 0
        path, last = row.add(number, text, path, shared), text.ids
    if row.tokens:
        yield row


def batch_rows(rows: Iterator[_Row], most: int) -> Iterator[list[_Row]]:
    """Yield rows of like length together, at most so many tokens in a step, the longest first: memory fails early.

    Those of one text need no mask of ours, which would take the place of a sliding window.
    """
    found = list(rows)
    for kind in (True, False):
        ordered = sorted((row for row in found if is_chain(row) == kind), key=lambda row: len(row.tokens), reverse=True)
        while ordered:
            count = max(1, most // len(ordered[0].tokens))
            yield ordered[:count]
            ordered = ordered[count:]


Part = tuple[int, tuple[int, ...], tuple[int, ...]]  # number of the text, source, target


def split_text(number: int, text: Scored) -> Iterator[Part]:
    """Yield each run of places that count with all that stands before it: a reply with its dialogue so far.

    >>> list(split_text(0, Scored((1, 2, 3, 4, 5), [1, 3, 4])))
    [(0, (1,), (2,)), (0, (1, 2, 3), (4, 5))]
    """
    places = np.asarray(text.places)
    for run in np.split(places, np.flatnonzero(np.diff(places) != 1) + 1):
        if len(run):
            yield number, text.ids[: run[0]], text.ids[run[0] : run[-1] + 1]
