"""Text at addresses: a store that fails is asked again and that is counted; no credentials in an address."""

import gzip
import json

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_utils.readers import remote
from data_utils.readers.files import find_files
from data_utils.readers.opening import open_file
from data_utils.sources.source import open_source
from errors import InputError, RunError


class Flaky(MemoryFileSystem):
    """A store whose reads fail at the given numbers, counted from the first."""

    protocol = "flaky"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    fails: set[int] = set()  # noqa: RUF012
    reads = 0

    def _open(self, path, mode="rb", **kwargs):
        file = super()._open(path, mode, **kwargs)
        if mode == "rb":
            read = file.read

            def read_or_fail(*size):
                Flaky.reads += 1
                if Flaky.reads in Flaky.fails:
                    raise TimeoutError("slow down")
                return read(*size)

            file.read = read_or_fail
        return file


@pytest.fixture
def flaky(monkeypatch):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(remote, "PAUSE_SECONDS", (0.0,) * 6)
    monkeypatch.setattr(Flaky, "store", {})
    monkeypatch.setattr(Flaky, "fails", set())
    monkeypatch.setattr(Flaky, "reads", 0)
    remote.repeated.clear()
    return Flaky


def write(address: str, data: bytes) -> str:
    with fsspec.open(address, "wb") as file:
        file.write(data)
    return address


def test_what_fails_is_read_on_from_where_it_stopped_and_counted(flaky, capsys):
    lines = [json.dumps({"text": f"第 {number} 行, line {number}"}, ensure_ascii=False) for number in range(60_000)]
    address = write("flaky://bucket/a.jsonl", "\n".join(lines).encode())
    flaky.fails = {2, 3, 5}
    with open_file(address) as stream:
        assert stream.read().decode().splitlines() == lines
    assert remote.repeated[address] == 3
    assert f"{address}: asked 3 times again" in capsys.readouterr().err


def test_sources_of_a_store_are_documents(flaky):
    write("flaky://bucket/corpus/a.jsonl", json.dumps({"text": "The first document of a bucket."}).encode())
    write("flaky://bucket/corpus/b.jsonl.gz", gzip.compress(json.dumps({"text": "存储桶里的第二篇文档。"}).encode()))
    flaky.fails = {1, 4}
    source = open_source("flaky://bucket/corpus")
    texts = [row["text"] for part in source.parts() for row in source.read(part)]
    assert texts == ["The first document of a bucket.", "存储桶里的第二篇文档。"]
    assert sum(remote.repeated.values()) == 2
    before = source.versions()
    write("flaky://bucket/corpus/a.jsonl", json.dumps({"text": "Another one."}).encode())
    assert open_source("flaky://bucket/corpus").versions() != before


def test_a_store_that_fails_to_the_end_is_told(flaky):
    address = write("flaky://bucket/a.txt", b"text")
    flaky.fails = set(range(100))
    with open_file(address) as stream, pytest.raises(RunError, match="failed in 7 tries, slow down"):
        stream.read()


def test_what_is_not_there_is_not_asked_for_again(flaky):
    with pytest.raises(InputError, match="no such file"):
        find_files("flaky://bucket/none.txt")
    assert not remote.repeated


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIAXX:HUSH@bucket/a.jsonl",
        "https://store.example/a.jsonl?X-Amz-Signature=HUSH&x=1",
        "https://store.example/a.jsonl?access_token=HUSH",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(address):
    with pytest.raises(InputError, match="the address holds a password or a key") as told:
        find_files(address)
    assert "HUSH" not in str(told.value)
    assert "AKIA" not in str(told.value)
