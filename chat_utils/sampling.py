"""Draws the next token from a model's logits: the settings, and one sampler for every runtime."""

from dataclasses import dataclass

import numpy as np

from errors import RunError
from options import Options, option

ENGINES = ("auto", "transformers", "batched", "llama.cpp")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
SLOTS = 8  # replies that a step computes at most, where each needs room from the start


@dataclass
class Sampling(Options):
    """How a reply is drawn from the model's probabilities, and what ends it."""

    temperature: float = option(0.4, "0: always the most likely token; higher: more varied", within=(0, 100))
    top_p: float = option(0.9, "Draw from the most likely tokens that hold this probability", within=(1e-9, 1))
    top_k: int = option(0, "Draw from this many most likely tokens; 0: no limit", within=(0, 1e9))
    repetition_penalty: float = option(1.1, "Above 1: tokens of the dialogue come up less; 1: off", within=(1e-9, 100))
    max_new_tokens: int = option(256, "Longest reply in tokens, if the window has room", within=(1, 1e9))
    seed: int | None = option(None, "Same seed and dialogue: same reply", within=(0, 2**63 - 1))
    stop: list[str] = option([], "Texts that end a reply, left out of it")


class Sampler:
    """Draws the tokens of one reply; its random numbers are its own, so that no other reply changes them.

    The scores are those of transformers' `generate`, in its order: repetition penalty, temperature, top_k, top_p.
    """

    def __init__(self, sampling: Sampling, prompt_ids: list[int]) -> None:
        self.sampling = sampling
        self._penalty = float(np.float32(sampling.repetition_penalty))
        self._temperature = float(np.float32(sampling.temperature))  # 0 too where it is too small for the logits' type
        self._random = np.random.default_rng(sampling.seed)
        self._seen = set(prompt_ids)
        self._seen_ids = np.fromiter(self._seen, dtype=np.int64)

    def draw(self, logits: np.ndarray) -> int:
        """Choose the next id from logits (V, float32), which are left alone, and remember it as seen.

        Raises RunError where they are no numbers.
        """
        if not np.isfinite(logits.max()):
            raise RunError("the model computes no numbers: its weights or config.json are damaged; take another copy")
        scores = logits if self._penalty == 1 else self._penalize(logits)
        token = int(scores.argmax()) if self._temperature == 0 else self._choose(scores)
        if self._penalty != 1 and token not in self._seen:
            self._seen.add(token)
            self._seen_ids = np.append(self._seen_ids, token)
        return token

    def _penalize(self, logits: np.ndarray) -> np.ndarray:
        """Lower the scores of tokens that the dialogue holds. Source: Keskar et al. 2019 (CTRL), section 4.1."""
        scores = logits.copy()
        seen = scores[self._seen_ids]
        scores[self._seen_ids] = np.where(seen < 0, seen * self._penalty, seen / self._penalty)
        return scores

    def _choose(self, scores: np.ndarray) -> int:
        """Draw from the scores (V) by temperature, top_k and top_p."""
        settings = self.sampling
        weights = np.exp((scores - scores.max()) / self._temperature)
        if settings.top_k == 0 and settings.top_p >= 1:
            return self._pick(np.arange(len(weights)), weights)
        total = weights.sum()
        if 0 < settings.top_k < len(weights):
            best = np.argpartition(weights, -settings.top_k)[-settings.top_k :]
            total = weights[best].sum()
        else:
            # Sorting all is what costs. Those below this, all together, hold less than what top_p leaves out.
            best = np.flatnonzero(weights >= (1 - settings.top_p) * total / len(weights))
        best = best[np.argsort(-weights[best], kind="stable")]
        kept = weights[best].astype(np.float64)
        before = np.cumsum(kept) - kept
        inside = int((before < settings.top_p * total).sum())
        return self._pick(best[:inside], kept[:inside])

    def _pick(self, ids: np.ndarray, weights: np.ndarray) -> int:
        """Return one of the ids, each with a chance by its weight; one random number a token."""
        edges = np.cumsum(weights, dtype=np.float64)
        return int(ids[min(np.searchsorted(edges, self._random.random() * edges[-1], side="right"), len(ids) - 1)])
