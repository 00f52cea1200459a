"""Talk to a checkpoint: in the terminal, by one prompt, or with lines from standard input.

python chat.py                                  # ckpt_chat/ if there is one, else ckpt/; /help lists its commands
python chat.py --prompt "你叫什么名字？"          # one answer
printf 'Hello\\nTell me more\\n' | python chat.py  # a message or a /command a line
python chat.py --model ckpt_chat --system "Answer briefly." --temperature 0.7 --max_new_tokens 500
python chat.py --temperature 0 --stats          # always the likeliest words; how fast they came
python chat.py --web                            # a page to chat in, at http://127.0.0.1:8000
python chat.py --serve                          # OpenAI's protocol at http://127.0.0.1:8000/v1
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from chat_utils.sampling import ENGINES, PRECISIONS, Sampling
from chat_utils.server.settings import ServerOptions, check_packages, open_socket
from environment import begin_script
from errors import InputError, run_script
from model_utils.finding import check_checkpoint
from options import Options, option, parse_arguments, refuse_useless

SAMPLE_PROMPTS = ("Hello! How are you today?", "What is your name?", "你好！", "你叫什么名字？")


@dataclass
class ChatOptions(Options):
    """Who answers, and where."""

    model: str | None = option(None, "Checkpoint to talk to; unset: ckpt_chat, else ckpt")
    system: str | None = option(None, "System prompt: how the assistant should behave")
    prompt: str | None = option(None, "Answer this and leave", replaced_by="--web or --serve")
    web: bool = option(False, "Serve a page to chat in, and the API beside it")
    serve: bool = option(False, "Serve the API alone: OpenAI's protocol over HTTP", replaced_by="--web")
    samples: bool = option(False, "Answer four sample prompts and leave", replaced_by="--web or --serve or --prompt")
    stats: bool = option(False, "After a reply: ms to its first token, tokens/s", replaced_by="--web or --serve")
    engine: str = option("auto", "What computes the replies; auto: the fastest that needs no install", choices=ENGINES)
    dtype: str = option("auto", "Of the weights; auto: float32 on a CPU, elsewhere as saved", choices=PRECISIONS)
    history: str | None = option(
        None,
        "File that keeps what you type; '': none; unset: in your home",
        replaced_by="--web or --serve or --prompt or --samples",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("--prompt is empty")


def parse_chat(argv: list[str] | None) -> tuple[ChatOptions, Sampling, ServerOptions]:
    """Return the options of this script, those of sampling and those of the server."""
    options, sampling, server_options = parse_arguments((ChatOptions, Sampling, ServerOptions), argv, None, __doc__)
    if sampling.temperature == 0 and not (options.web or options.serve):  # whose callers have their own
        refuse_useless(options.typed, {"top_p", "top_k", "seed"}, "with --temperature 0; leave it out")
    return options, sampling, server_options


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


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    options, sampling, server_options = parse_chat(argv)
    is_server = options.web or options.serve
    model = options.model or find_model()
    check_checkpoint(model)
    if is_server:
        check_packages()
        open_socket(server_options.host, server_options.port).close()
    from chat_utils.engine import Engine, freeze_loaded, load_engine
    from chat_utils.server.serve import serve
    from chat_utils.terminal.conversation import Conversation
    from chat_utils.terminal.loop import Chat, answer_lines, answer_option, talk
    from chat_utils.terminal.prompt import default_history
    from chat_utils.terminal.screen import Screen
    from data_utils.dialogue.checking import DialogueError

    # 1. Engine: the checkpoint and what computes its replies.
    def load(path: str) -> Engine:
        slots = server_options.slots if is_server else 1  # rows of a step, or windows, that one user would pay for
        return load_engine(path, options.engine, dtype=options.dtype, slots=slots)

    engine = load(model)
    freeze_loaded()
    try:
        # A caller of the server may ask for a longer reply than the default, up to the whole window.
        longest = replace(sampling, max_new_tokens=engine.window) if is_server else sampling
        system = engine.check_system(options.system or "", longest)
    except DialogueError as error:
        raise InputError(f"command line: --system: {error}") from error

    # 2. Server: the page, or the API alone.
    if is_server:
        return serve(engine, sampling, server_options, with_page=options.web, system=system)

    # 3. Terminal: a dialogue, one answer, samples, or the lines of standard input.
    is_dialogue = options.prompt is None and not options.samples and sys.stdin.isatty()

    def begin(engine: Engine) -> Chat:
        conversation = Conversation(engine, sampling, system)
        return Chat(conversation, Screen(is_dialogue), load, wants_stats=options.stats)

    chat = begin(engine)
    if is_dialogue:
        del engine  # /model replaces it
        talk(chat, default_history() if options.history is None else options.history)
    elif options.prompt is not None:
        answer_option(chat, options.prompt, "--prompt")
    elif options.samples:
        for prompt in SAMPLE_PROMPTS:
            print(f"> {prompt}")
            answer_option(begin(engine), prompt, "--samples")
    else:
        answer_lines(chat)
    return 0


if __name__ == "__main__":
    begin_script()
    run_script(main)
