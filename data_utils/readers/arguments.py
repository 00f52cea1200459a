"""The options of reading; light to import."""

from dataclasses import dataclass

from options import option

SAMPLE_BY = ("line", "paragraph", "document")


@dataclass
class ReadArguments:
    """How files become documents."""

    sample_by: str = option("document", "A document of a .txt file; paragraph: between blank lines", choices=SAMPLE_BY)
    text_column: str = option("text", "Column of .jsonl, .csv, .parquet that holds the text")
    chinese_variant: str = option("zh-hans", "What is read where a Wikipedia gives a choice: zh-hans, zh-hant, zh-tw")
    max_seconds: float = option(20, "Processor seconds for a document before it is left out; 0: no limit")

    def __post_init__(self) -> None:
        if self.sample_by not in SAMPLE_BY:  # train.py's come here without a command line
            raise ValueError(f"--sample_by {self.sample_by}: use one of {', '.join(SAMPLE_BY)}")
