"""Reports what a tuning changed: score.py's questions and held-out prompts before and after, and how far it went."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.dialogue.format import stop_token_id
from data_utils.text.languages import detect_language
from eval_utils.asking import ask_model
from eval_utils.figures import Figure
from eval_utils.likelihood import Scored, Scorer
from eval_utils.parts import choose_share
from eval_utils.score_report import BETTER, WORSE, make_table
from eval_utils.scorecard import Answer, judge_prompts, measure_scorecard
from model_utils.shapes import evaluating
from train_utils.own_replies import Asked, sample_replies

REPLIES = 2  # to each held-out prompt
QUESTIONS = 20  # of the scorecard, of a kind and language; fewer for a large model
SIDE_BY_SIDE = 10


def measure_nats(model: PreTrainedModel, prompts: list[Asked], replies: list[Answer], stop_id: int) -> list[float]:
    """Return minus the log-probability in nats of a reply to each prompt, its stop token included where it came."""
    texts = []
    for asked, answer in zip(prompts, replies, strict=True):
        ids = (*asked.ids, *answer.ids, *[stop_id] * answer.has_stopped)
        texts.append(Scored(ids, range(len(asked.ids), len(ids))))
    return Scorer(model).score(texts, finds_greedy=False).nats.tolist()


@dataclass(frozen=True)
class Replies:
    """What a model answers at one time: replies to each held-out prompt, their figures, and the scorecard's."""

    answers: list[list[Answer]]
    figures: list[Figure]
    scorecard: list[Figure]


class ReplyReport:
    """Asks a model before and after a tuning, as chat.py would, and writes the two side by side."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: list[Asked],
        *,
        seed: int,
        reward: Callable[[str, str], float] | None = None,
    ) -> None:
        """Ask the model as it is before."""
        self.share = choose_share(model)
        self.prompts = prompts[: max(SIDE_BY_SIDE, round(len(prompts) * self.share))]
        self.seed, self.reward = seed, reward
        self.before = self.ask(model, tokenizer)
        # Drawn as the model has them (temperature 1), so that their mean is what the definition asks for.
        drawn = sample_replies(model, tokenizer, [p.ids for p in self.prompts], count=1, seed=seed, temperature=1.0)
        self.own = [answers[0] for answers in drawn]
        self.own_nats = self.measure_own(model, tokenizer)

    @property
    def questions(self) -> list[tuple[str, list[int]]]:
        """Return some prompts, as texts and as ids, for samples on the way."""
        return [(one.question, one.ids) for one in self.prompts[:: max(1, len(self.prompts) // 4)]]

    def measure_own(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[float]:
        """Return the nats of the replies that the model drew before, as it is now."""
        with evaluating(model):
            return measure_nats(model, self.prompts, self.own, stop_token_id(tokenizer))

    def measure_kl(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
        """Return the KL of the base to the model as it is, in nats a reply."""
        changes = zip(self.own_nats, self.measure_own(model, tokenizer), strict=True)
        return sum(now - then for then, now in changes) / max(1, len(self.own))

    def ask(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Replies:
        """Return what the model answers now."""
        questions = [(asked.messages, self.seed + number) for asked in self.prompts for number in range(REPLIES)]
        with evaluating(model):
            found = ask_model(model, tokenizer, questions)
        answers = [found[start : start + REPLIES] for start in range(0, len(found), REPLIES)]
        pairs = list(zip(self.prompts, answers, strict=True))
        figures = judge_prompts([(detect_language(asked.truth), asked.question, found) for asked, found in pairs])
        if self.reward:
            values = [sum(self.reward(asked.question, a.text) for a in found) / REPLIES for asked, found in pairs]
            figures.append(Figure("mean reward", values, part="replies", unit=""))
        name = self.prompts[0].name if self.prompts else None
        limit = max(1, round(QUESTIONS * self.share))
        with evaluating(model):
            card = measure_scorecard(lambda asked: ask_model(model, tokenizer, asked), name, limit, (self.seed,))
        return Replies(answers, figures, card)

    def assess(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return the lines of Markdown for the report of the finished model."""
        after = self.ask(model, tokenizer)
        kl = self.measure_kl(model, tokenizer)
        lines = ["## Replies to held-out prompts", ""]
        lines += write_table(self.before.figures, after.figures)
        lines += [
            "",
            f"KL of the base to this model: {kl:.2f} nats a reply, by {len(self.own)} replies of the base.",
            "",
        ]
        lines += ["## Questions of score.py", "", *write_table(self.before.scorecard, after.scorecard), ""]
        lines += [f"In brackets: 95% intervals. {BETTER} better, {WORSE} worse than before by more than chance.", ""]
        lines += ["## Replies side by side", "", "| prompt | before | after |", "| --- | --- | --- |"]
        step = max(1, len(self.prompts) // SIDE_BY_SIDE)
        for number in range(0, len(self.prompts), step)[:SIDE_BY_SIDE]:
            texts = (self.prompts[number].question, self.before.answers[number][0].text, after.answers[number][0].text)
            lines.append("| " + " | ".join(" ".join(text.split()).replace("|", "\\|") for text in texts) + " |")
        return [*lines, ""]


def write_table(before: list[Figure], after: list[Figure]) -> list[str]:
    """Return figures before and after as a table of Markdown."""
    head, *rows = ([row[0], *row[2:]] for row in make_table({"before": before, "after": after}))
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
