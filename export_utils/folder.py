"""What the runtimes of exported folders share: the tokenizer that lies in the folder."""

from pathlib import Path

from transformers import AutoTokenizer


class ExportedFolder:
    """An exported folder with its tokenizer; see `Runtime` in chat_utils.verify."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokenize(self, text: str, with_control: bool = False) -> list[int]:
        """Return the ids of a text by the folder's tokenizer; control tokens are letters but `with_control`."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=not with_control)["input_ids"]
