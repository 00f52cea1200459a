"""Log-likelihoods of texts under an encoder and a decoder: what is given is read, what counts is written."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from transformers import PreTrainedModel

from eval_utils.likelihood import STEP_TOKENS, Likelihoods, Scored, Scorer
from model_utils.families import family_of, start_token_id

Part = tuple[int, tuple[int, ...], tuple[int, ...]]  # number of the text, source, target


def open_scorer(model: PreTrainedModel) -> "Scorer | PairScorer":
    """Return what scores texts under a model of any kind."""
    return PairScorer(model) if family_of(model.config).has_encoder else Scorer(model)


def split_text(number: int, text: Scored) -> Iterator[Part]:
    """Yield each run of places that count with all that stands before it: a reply with its dialogue so far.

    >>> list(split_text(0, Scored((1, 2, 3, 4, 5), [1, 3, 4])))
    [(0, (1,), (2,)), (0, (1, 2, 3), (4, 5))]
    """
    places = np.asarray(text.places)
    for run in np.split(places, np.flatnonzero(np.diff(places) != 1) + 1):
        if len(run):
            yield number, text.ids[: run[0]], text.ids[run[0] : run[-1] + 1]


class PairScorer:
    """Scores texts under one model, as `Scorer` does, those of like length together."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self._start = model, start_token_id(model.config)

    def score(
        self, texts: list[Scored], tell: Callable[[int], object] = lambda _: None, *, finds_greedy: bool = True
    ) -> Likelihoods:
        """Return the likelihoods of texts, in their order; `tell` hears how many more are done."""
        found = Likelihoods(np.zeros(len(texts)), np.ones(len(texts), dtype=bool))
        parts = [part for number, text in enumerate(texts) for part in split_text(number, text)]
        parts.sort(key=lambda part: len(part[1]) + len(part[2]), reverse=True)  # memory fails early
        while parts:
            count = max(1, STEP_TOKENS // (len(parts[0][1]) + len(parts[0][2])))
            self._score_parts(parts[:count], found)
            parts = parts[count:]
        tell(len(texts))
        return found

    @torch.inference_mode()
    def _score_parts(self, parts: list[Part], found: Likelihoods) -> None:
        """Add the nats of targets to those of their texts."""
        numbers, sources, targets = zip(*parts, strict=True)
        given = [(self._start, *target[:-1]) for target in targets]
        inputs = {}
        for name, rows in (("", sources), ("decoder_", given)):
            ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for place, row in enumerate(rows):
                ids[place, : len(row)], mask[place, : len(row)] = torch.tensor(row), 1
            inputs |= {f"{name}input_ids": ids.to(self.model.device)}
            inputs |= {f"{name}attention_mask": mask.to(self.model.device)}
        logits = self.model(**inputs, use_cache=False).logits.float().log_softmax(-1)
        for number, target, logs in zip(numbers, targets, logits, strict=True):
            labels, row = torch.tensor(target, device=logs.device), logs[: len(target)]
            found.nats[number] -= row.gather(1, labels[:, None]).double().sum().item()
            found.is_greedy[number] &= bool((row.argmax(-1) == labels).all())
