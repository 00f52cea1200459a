"""Options made from a dataclass's fields: types, defaults, help, and what is refused."""

import argparse
from dataclasses import dataclass, field

import pytest

from errors import InputError
from options import add_options, check_range, read_options


@dataclass
class Port:
    """Where a server listens."""

    port: int = field(default=8000, metadata={"help": "TCP port, 100% free"})
    key: str | None = field(default=None, metadata={"help": "secret"})
    hosts: list[str] = field(default_factory=list, metadata={"help": "names"})
    is_loud: bool = field(default=False, metadata={"help": "say all"})

    def __post_init__(self) -> None:
        check_range("port", self.port, 1, 65535)


def parse(*argv: str) -> Port:
    parser = argparse.ArgumentParser()
    add_options(parser, Port, "server")
    return read_options(parser.parse_args(argv), Port)


def test_defaults_are_those_of_the_fields():
    assert parse() == Port()


def test_values_have_the_type_of_their_field():
    options = parse("--port", "80", "--key", "7", "--hosts", "a", "b", "--is_loud")
    assert options == Port(80, "7", ["a", "b"], True)


def test_value_that_the_dataclass_refuses_is_the_users_fault():
    with pytest.raises(InputError, match="command line: --port 0 is outside 1 to 65535"):
        parse("--port", "0")


def test_help_shows_each_option_with_its_default():
    parser = argparse.ArgumentParser()
    add_options(parser, Port, "server")
    text = " ".join(parser.format_help().split())
    for shown in (
        "--port INT TCP port, 100% free (8000)", "--key TEXT secret (none)", "--hosts TEXT [TEXT ...] names (none)",
        "--is_loud say all",
    ):  # fmt: skip
        assert shown in text
