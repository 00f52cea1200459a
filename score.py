"""Measure checkpoints side by side: held-out text and replies, grammar, what a reader sees, speed.

python score.py ckpt_chat                          # figures, 95% intervals, score/score.md, score.json and score.png
python score.py ckpt_chat other_chat               # beside each other; marks say where one differs by more than chance
python score.py --compare ckpt_chat other_chat     # which is better and by what, in one sentence
python score.py ckpt --parts text pairs --text my.txt              # some parts, your own text
python score.py ckpt --pairs blimp/ --choices arc.jsonl            # published sets, in their own form
"""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from data_utils.readers.arguments import LimitOptions, use_limits
from environment import begin_script
from errors import InputError, escape_unprintable, run_script
from files import make_folder
from options import option, parse_arguments, refuse_useless

if TYPE_CHECKING:  # these take seconds to import
    from eval_utils.parts import Subject

ROOT = Path(__file__).parent
RECIPE = ROOT / "configs" / "score.yaml"
OWN = ("text", "dialogues", "pairs", "choices", "continuations")  # parts of which the user may give items
PARTS = (*OWN, "replies", "speed")


@dataclass
class ScoreOptions(LimitOptions):
    """What is measured on what."""

    models: list[str] = option(["ckpt_chat"], "Checkpoints; may stand first, without --models", replaced_by="--compare")
    parts: list[str] = option([], "What is measured; choices and continuations are of files only", choices=PARTS)
    text: list[str] | None = option(None, "Held-out text of your own instead, as --corpus")
    dialogues: list[str] | None = option(None, "Held-out dialogues of your own instead")
    pairs: list[str] | None = option(None, "Minimal pairs, JSONL: sentence_good, sentence_bad, UID (BLiMP)")
    choices: list[str] | None = option(None, "Questions, JSONL: query, choices, gold (CORE)")
    continuations: list[str] | None = option(None, "Texts to go on with, JSONL: context, continuation (LAMBADA)")
    limit: int | None = option(None, "Items at most: of each language, phenomenon, kind, file", within=(1, 2**31))
    compare: list[str] | None = option(None, "Two checkpoints: say which is better")
    brief: bool = option(False, "Show ten lines of the first checkpoint and what they mean", replaced_by="--compare")
    overwrite: bool = option(False, "Measure again what was measured before")
    output_dir: str = option("score", "Folder of score.md, score.json and score.png")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compare:
            if len(self.compare) != 2:
                raise ValueError(f"--compare takes two checkpoints, not {len(self.compare)}")
            self.models = self.compare
        files = {"choices": self.choices, "continuations": self.continuations}
        self.parts = list(dict.fromkeys([*self.parts, *(part for part, paths in files.items() if paths)]))
        if self.compare and set(self.parts) == {"speed"}:
            raise ValueError("--compare leaves speed out; name other --parts")
        for part in self.parts:
            if part in files and not files[part]:
                raise ValueError(f"--parts {part} needs --{part} FILES")

    def check_typed(self, typed: set[str]) -> None:
        """Raise InputError for items of a part that is not measured."""
        for part in ("text", "dialogues", "pairs"):
            if part not in self.parts:
                refuse_useless(typed, {part}, f"without {part} among --parts")


def parse_score(argv: list[str] | None) -> ScoreOptions:
    """Return the options of this script; checkpoints may stand without `--models`."""
    return parse_arguments((ScoreOptions,), argv, RECIPE, __doc__, positional="models")[0]


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    options = parse_score(argv)
    use_limits(options.reader_limits)
    check_scoring(options)

    from eval_utils.items import read_own_items
    from eval_utils.score_cache import measure_checkpoint
    from eval_utils.score_report import name_folders, show_scores, write_scores

    # 1. Items: those of files are read first, since a mistake in them should not wait for a model.
    items = read_own_items({name: getattr(options, name) for name in OWN})
    # 2. Figures: part by part, so that what one took is kept when the next is interrupted.
    how: dict = {"items": items, "limit": options.limit, "overwrite": options.overwrite}
    folders = name_folders(options.models)
    scores = {name: measure_checkpoint(path, load_subject, options.parts, **how) for name, path in folders.items()}
    # 3. Report.
    write_scores(Path(options.output_dir), scores, {name: {"model": path} for name, path in folders.items()})
    shown = show_scores(scores, compare=bool(options.compare), brief=options.brief)
    print(escape_unprintable(shown))  # names of groups stand in files
    print(f"more in {options.output_dir}/score.md, score.json and score.png")
    return 0


def check_scoring(options: ScoreOptions) -> None:
    """Raise InputError for what the options name and isn't there, before anything slow is imported."""
    from data_utils.readers.files import find_files
    from data_utils.sources.source import open_sources
    from model_utils.finding import check_checkpoint

    if options.compare and len({Path(path).resolve() for path in options.compare}) < 2:
        raise InputError(
            f"command line: --compare {options.compare[0]}: is the same checkpoint twice; name another one"
        )
    for path in options.models:
        check_checkpoint(path)
    make_folder(Path(options.output_dir))
    for source in open_sources([*(options.text or []), *(options.dialogues or [])]):
        source.parts()
    for path in (*(options.pairs or []), *(options.choices or []), *(options.continuations or [])):
        find_files(path)


def load_subject(path: str) -> "Subject":
    """Load a checkpoint to be measured."""
    import torch

    from chat_utils.engine import answer_alone, load_engine
    from eval_utils.likelihood import Scorer
    from eval_utils.likelihood_figures import Reader
    from eval_utils.parts import Subject
    from model_utils.checkpoint import load_checkpoint
    from model_utils.shapes import check_finite
    from train_utils.places import read_record

    device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    model, tokenizer = load_checkpoint(path, str(device))
    check_finite(model, path)
    engine = cache(partial(load_engine, path))  # loaded where its speed is measured
    name = (read_record(Path(path)) or {}).get("settings", {}).get("assistant_name")
    name = name if isinstance(name, str) else None
    return Subject(Reader(Scorer(model), tokenizer), lambda asked: answer_alone(engine(), asked), name)


if __name__ == "__main__":
    begin_script()
    run_script(main)
