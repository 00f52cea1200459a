"""The short form of score.py for the end of a training run: as much as a small share of the run's time allows."""

import time
from collections.abc import Callable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval_utils.asking import ask_model
from eval_utils.figures import Figure
from eval_utils.likelihood import Scorer
from eval_utils.likelihood_figures import Reader, measure_pairs
from eval_utils.minimal_pairs import make_both
from eval_utils.score_report import explain, show_figure
from eval_utils.scorecard import measure_scorecard
from model_utils.shapes import evaluating

SHARE = 0.02  # of a run's time so far
ENOUGH_SECONDS, LONG_SHARE = 6.0, 0.005  # a run by the clock keeps so many for its end; a long one a smaller share
LEAST_SECONDS = 1.0  # below it nothing could be measured
PAIRS = 16  # of each phenomenon, at most
FIRST_PAIRS = 8  # of which the time of all others is guessed
QUESTIONS = 2  # of a kind and language
REPLIES_SHARE = 0.5  # of the time, where a chat is measured


def assess_briefly(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    elapsed: Callable[[], float],
    assistant_name: str | None = None,
) -> list[str]:
    """Return lines of Markdown with figures of a model at the end of its run; none where there is no time for any.

    Args:
        elapsed: seconds that the run has taken. assistant_name: that of a chat; None for a model that only reads.
    """
    budget = min(SHARE * elapsed(), max(ENOUGH_SECONDS, LONG_SHARE * elapsed()))
    if budget < LEAST_SECONDS:
        return []
    with evaluating(model):
        figures = measure_briefly(model, tokenizer, budget, assistant_name)
    if not figures:
        return []
    lines = [f"- {figure.name}: {show_figure(figure)} ({explain(figure)})" for figure in figures]
    return ["## Score", "", *lines, "", "In brackets: 95% intervals. All figures, more exactly: python score.py", ""]


def measure_briefly(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, budget: float, assistant_name: str | None
) -> list[Figure]:
    """Return the figures that `budget` seconds allow: as many pairs of each phenomenon, then a chat's replies."""
    started = time.perf_counter()

    def spent() -> float:
        return time.perf_counter() - started

    reader = Reader(Scorer(model), tokenizer)
    for_pairs = budget * (1 - REPLIES_SHARE) if assistant_name else budget
    one_of_each, begun = make_both(1), spent()
    measure_pairs(reader, one_of_each[:FIRST_PAIRS])
    seconds = (spent() - begun) / FIRST_PAIRS * len(one_of_each)
    count = int((for_pairs - spent()) / max(seconds, 1e-9))
    if count < 1:
        return []
    figures = measure_pairs(reader, make_both(min(count, PAIRS)))
    if assistant_name:
        begun = spent()
        ask_model(model, tokenizer, [([{"role": "user", "content": "hi"}], 0)])
        if spent() + 4 * (spent() - begun) < budget:  # 32 side by side take a small model about twice as long as one
            figures += measure_scorecard(
                lambda asked: ask_model(model, tokenizer, asked), assistant_name, QUESTIONS, (1,)
            )
    return figures
