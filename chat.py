"""Talk to a checkpoint: in the terminal, by one prompt, or with lines from standard input.

python chat.py                                  # ckpt_chat/ if there is one, else ckpt/; /help lists its commands
python chat.py --prompt "你叫什么名字？"          # one answer
printf 'Hello\\nTell me more\\n' | python chat.py  # a message a line, one conversation
python chat.py --model ckpt_chat --system "Answer briefly." --temperature 0.7 --max_new_tokens 500
python chat.py --temperature 0 --stats          # always the likeliest words; how fast they came
python chat.py --web                            # a page to chat in, at http://127.0.0.1:8000
python chat.py --serve                          # OpenAI's protocol at http://127.0.0.1:8000/v1
"""

import argparse
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched unless the user says so

from environment import begin_script
from errors import InputError, run_script

if __name__ == "__main__":  # what follows takes seconds to import
    begin_script()

from chat_utils.engine import DTYPES, KINDS, Engine, freeze_loaded, load_engine
from chat_utils.sampling import Sampling
from chat_utils.server.serve import check_packages, serve
from chat_utils.server.settings import ServerOptions
from chat_utils.terminal.conversation import Conversation
from chat_utils.terminal.loop import Chat, talk
from chat_utils.terminal.prompt import default_history
from chat_utils.terminal.screen import Screen
from data_utils.dialogue.checking import DialogueError
from options import add_options, name_options, read_options, refuse_useless

SAMPLE_PROMPTS = ("Hello! How are you today?", "What is your name?", "你好！", "你叫什么名字？")


def parse_options(argv: list[str] | None) -> tuple[argparse.Namespace, Sampling, ServerOptions]:
    """Return the options of this script, those of sampling and those of the server."""

    def fail(message: str) -> None:
        raise InputError(f"command line: {message}; see --help")

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = fail
    parser.add_argument("--model", metavar="FOLDER", help="checkpoint to talk to (ckpt_chat, else ckpt)")
    parser.add_argument("--system", metavar="TEXT", help="system prompt: how the assistant should behave (none)")
    parser.add_argument("--prompt", metavar="TEXT", help="answer this and leave (none)")
    parser.add_argument("--web", action="store_true", help="serve a page to chat in, and the API beside it (off)")
    parser.add_argument("--serve", action="store_true", help="serve the API alone: OpenAI's protocol over HTTP (off)")
    parser.add_argument("--samples", action="store_true", help="answer four sample prompts and leave (off)")
    parser.add_argument(
        "--stats", action="store_true", help="after each reply: ms to its first token, tokens a second (off)"
    )
    parser.add_argument(
        "--engine", choices=KINDS, default="auto",
        help="what computes the replies: transformers, the reference; batched, the same for several replies in one "
        "step; llama.cpp, which needs requirements/export.txt; auto, the fastest that needs no install (auto)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=DTYPES, default="auto",
        help="precision of the weights: bfloat16 halves their memory, and on a CPU makes large models faster; float16 "
        "is for accelerators; auto: float32 on a CPU, elsewhere as the checkpoint was saved (auto)",
    )  # fmt: skip
    parser.add_argument(
        "--history",
        metavar="FILE",
        default=default_history(),
        help="keeps what you type; '': none (%(default)s)",
    )
    add_options(parser, Sampling, "how replies are drawn")
    add_options(parser, ServerOptions, "the server of --web and --serve")
    argv = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(argv)
    check_effect(options, name_options(argv))
    if options.prompt is not None and not options.prompt.strip():
        raise InputError("command line: --prompt is empty")
    return options, read_options(options, Sampling), read_options(options, ServerOptions)


def check_effect(options: argparse.Namespace, typed: set[str]) -> None:
    """Raise InputError for an option of the command line that another one, or its absence, leaves without effect."""
    is_server = options.web or options.serve
    answers_and_leaves = options.prompt is not None or options.samples
    without_effect = (
        ({"serve"}, options.web, "with --web, which has the API beside its page"),
        ({"prompt", "samples", "stats", "history"}, is_server, "with --web or --serve"),
        ({"samples"}, options.prompt is not None, "with --prompt"),
        ({"history"}, answers_and_leaves, "with --prompt or --samples"),
        ({"no_browser"}, not options.web, "without --web"),
        ({option.name for option in fields(ServerOptions)}, not is_server, "without --web or --serve"),
        ({"top_p", "top_k", "seed"}, options.temperature == 0 and not is_server, "with --temperature 0"),
    )
    for names, applies, why in without_effect:
        if applies:
            refuse_useless(typed, names, f"{why}; leave it out")


def find_model() -> str:
    """Return the checkpoint to talk to where none is named: the fine-tuned one, else the pretrained one with a note."""
    if any(Path("ckpt_chat").glob("*.safetensors")):
        return "ckpt_chat"
    if any(Path("ckpt").glob("*.safetensors")):
        print("note: ckpt/ is not fine-tuned on dialogues: it continues text rather than answers", file=sys.stderr)
        return "ckpt"
    raise InputError(
        "neither ckpt_chat/ nor ckpt/ holds a model here; run train.py and finetune_dialogue.py, or name --model"
    )


def answer_prompt(chat: Chat, prompt: str, option: str) -> None:
    """Answer a prompt that an option gave; raises InputError where it can't be."""
    try:
        chat.answer(prompt)
    except DialogueError as error:
        raise InputError(f"command line: {option}: {error}") from error


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    options, sampling, server_options = parse_options(argv)
    is_server = options.web or options.serve
    if is_server:
        check_packages()

    def load(path: str) -> Engine:
        slots = server_options.slots if is_server else 1  # rows of a step, or windows, that one user would pay for
        return load_engine(path, options.engine, dtype=options.dtype, slots=slots)

    engine = load(options.model or find_model())
    freeze_loaded()
    try:
        # A caller of the server may ask for a longer reply than the default, up to the whole window.
        longest = replace(sampling, max_new_tokens=engine.window) if is_server else sampling
        system = engine.check_system(options.system or "", longest)
    except DialogueError as error:
        raise InputError(f"command line: --system: {error}") from error
    if is_server:
        return serve(engine, sampling, server_options, with_page=options.web, system=system)
    is_dialogue = options.prompt is None and not options.samples and sys.stdin.isatty()

    def begin(engine: Engine) -> Chat:
        conversation = Conversation(engine, sampling, system)
        return Chat(conversation, Screen(is_dialogue), load, wants_stats=options.stats)

    chat = begin(engine)
    if is_dialogue:
        del engine  # /model replaces it
        talk(chat, options.history)
    elif options.prompt is not None:
        answer_prompt(chat, options.prompt, "--prompt")
    elif options.samples:
        for prompt in SAMPLE_PROMPTS:
            print(f"> {prompt}")
            answer_prompt(begin(engine), prompt, "--samples")
    else:
        sys.stdin.reconfigure(errors="replace")
        for line in sys.stdin:
            if line.strip():
                try:
                    chat.answer(line)
                except DialogueError as error:
                    chat.say("refused", reason=error)
    return 0


if __name__ == "__main__":
    run_script(main)
