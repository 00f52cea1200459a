"""The Modelfile by which Ollama runs a GGUF file: its template, where a reply stops, how it is sampled."""

from transformers import PreTrainedTokenizerBase

from model_utils.chat_template import cut_template

DIALOGUES = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)


def split_template(tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[str, str]] | None:
    """Return for each role what stands before and after its content; None where that depends on more than the role.

    The opening of the assistant's turn counts as the end of the user's, since a reply always follows.
    """
    before_user, after_user = cut_template(tokenizer, ("user",), True)
    before_system, between, _ = cut_template(tokenizer, ("system", "user"), True)
    _, _, after_reply, _ = cut_template(tokenizer, ("user", "assistant", "user"), True)
    if not between.endswith(before_user) or not after_reply.endswith(before_user):
        return None
    cut = -len(before_user) or None
    parts = {
        "system": (before_system, between[:cut]),
        "user": (before_user, after_user),
        "assistant": ("", after_reply[:cut]),
    }
    if any(mark in text for pair in parts.values() for text in pair for mark in ("{{", '"""')):
        return None
    for roles in DIALOGUES:
        rendered = "x".join(cut_template(tokenizer, roles, True))
        if rendered != "".join(f"{parts[role][0]}x{parts[role][1]}" for role in roles):
            return None
    return parts


def make_modelfile(
    tokenizer: PreTrainedTokenizerBase, stop_ids: set[int], window: int, sampling: dict[str, float], file_name: str
) -> str:
    """Return the text of a Modelfile for a GGUF file beside it; `window` in tokens, `sampling` as the chat draws.

    A chat template that Go's cannot follow is left out: Ollama then goes by the one inside of the file.
    """
    lines = [f"FROM ./{file_name}"]
    try:
        parts = split_template(tokenizer)
    except ValueError:  # a template that leaves out a message
        parts = None
    if parts:
        (system, system_end), (user, user_end), (_, reply_end) = parts["system"], parts["user"], parts["assistant"]
        lines.append(
            'TEMPLATE """{{ range .Messages }}'
            f'{{{{ if eq .Role "system" }}}}{system}{{{{ .Content }}}}{system_end}'
            f'{{{{ else if eq .Role "user" }}}}{user}{{{{ .Content }}}}{user_end}'
            f"{{{{ else }}}}{{{{ .Content }}}}{reply_end}"
            '{{ end }}{{ end }}"""'
        )
    lines += [f'PARAMETER stop "{token}"' for token in tokenizer.convert_ids_to_tokens(sorted(stop_ids))]
    lines += [
        f"PARAMETER num_ctx {window}",
        f"PARAMETER num_predict {sampling['max_new_tokens']}",
        f"PARAMETER temperature {sampling['temperature']}",
        f"PARAMETER top_p {sampling['top_p']}",
        f"PARAMETER top_k {sampling['top_k']}",
        f"PARAMETER repeat_penalty {sampling['repetition_penalty']}",
        f"PARAMETER repeat_last_n {window}",
    ]
    return "\n".join(lines) + "\n"
