"""Holds what the runtimes of exported folders share: the tokenizer that lies in the folder."""

from pathlib import Path

from model_utils.checkpoint import load_tokenizer
from model_utils.text_encoder import encode_text


class ExportedFolder:
    """An exported folder with its tokenizer; see `Runtime` in eval_utils.agreement."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(str(folder))

    def close(self) -> None:
        """Let go of the model."""
        vars(self).clear()

    def tokenize(self, text: str, with_control: bool = False) -> list[int]:
        """Return the ids of a text by the folder's tokenizer; control tokens are letters but `with_control`."""
        if with_control:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return encode_text(self.tokenizer, text)
