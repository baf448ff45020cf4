"""Constraints of service models, by hand; and what S3 asks of ranges, chunks and digests."""

from typing import Any

import pytest
from botocore.model import ShapeResolver

from grpo.server.aws import cbor, checks
from grpo.server.aws.errors import AwsError
from grpo.server.aws.s3_rules import dechunked, folder_of, wanted_range

SHAPES = {
    "In": {
        "type": "structure",
        "required": ["name"],
        "members": {
            "name": {"shape": "Name"},
            "count": {"shape": "Count"},
            "rate": {"shape": "Rate"},
            "on": {"shape": "On"},
            "names": {"shape": "Names"},
            "map": {"shape": "Map"},
            "one": {"shape": "One"},
        },
    },
    "Name": {"type": "string", "min": 2, "max": 5, "pattern": "[a-z](-*[a-z-])*"},
    "Count": {"type": "integer", "min": 1, "max": 9},
    "Rate": {"type": "float"},
    "On": {"type": "boolean"},
    "Names": {"type": "list", "member": {"shape": "Name"}, "max": 2},
    "Map": {"type": "map", "key": {"shape": "Name"}, "value": {"shape": "Count"}},
    "One": {"type": "structure", "union": True, "members": {"a": {"shape": "Name"}, "b": {"shape": "Name"}}},
}


def broken(path: str, value: str, must: str) -> str:
    return f"Value '{value}' at '{path}' failed to satisfy constraint: Member must {must}"


PATTERN = "satisfy regular expression pattern: [a-z](-*[a-z-])*"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": 9, "rate": 1, "on": True, "names": ["ab"], "map": {"ab": 1}, "one": {"a": "ab"}}, []),
        ({"name": None}, ["Value null at 'name' failed to satisfy constraint: Member must not be null"]),
        ({"name": "a"}, [broken("name", "a", "have length greater than or equal to 2")]),
        ({"name": 3}, [broken("name", "3", "be a string")]),
        ({"count": 0}, [broken("count", "0", "have value greater than or equal to 1")]),
        ({"count": 1.5}, [broken("count", "1.5", "be an integer")]),
        ({"rate": "x"}, [broken("rate", "x", "be a number")]),
        ({"on": 1}, [broken("on", "1", "be a boolean")]),
        ({"names": ["ab", "A1"]}, [broken("names.2.member", "A1", PATTERN)]),
        ({"names": ["ab"] * 3}, [broken("names", "['ab', 'ab', 'ab']", "have length less than or equal to 2")]),
        ({"map": {"ab": 10}}, [broken("map.ab", "10", "have value less than or equal to 9")]),
        ({"one": "a"}, [broken("one", "a", "be a structure")]),
        (
            {"one": {"a": "ab", "b": "ab"}},
            ["Value at 'one' failed to satisfy constraint: Member must have exactly one of its members set"],
        ),
    ],
)
def test_constraints(given: dict[str, Any], said: list[str]) -> None:
    shape = ShapeResolver(SHAPES).get_shape_by_name("In")
    assert checks.problems(shape, {"name": "ab"} | given) == said


def test_several_are_counted() -> None:
    assert checks.in_words(["a", "b"]) == "2 validation errors detected: a; b"
    assert checks.in_words(["a"]) == "1 validation error detected: a"


def test_a_pattern_that_takes_for_ever_does_not_match() -> None:
    """Sixty dashes and a sign that cannot follow: two to the sixtieth ways to read them, by a plain matcher."""
    slow = {
        "S": {"type": "string", "pattern": "[a-z](-*[a-z-])*"},
        "In": {"type": "structure", "members": {"s": {"shape": "S"}}},
    }
    shape = ShapeResolver(slow).get_shape_by_name("In")
    assert len(checks.problems(shape, {"s": "a" + "-" * 60 + "!"})) == 1


@pytest.mark.parametrize(
    ("asked", "span"),
    [
        (None, None),
        ("bytes=-", None),
        ("lines=1-2", None),
        ("bytes=0-0", (0, 0)),
        ("bytes=3-", (3, 9)),
        ("bytes=-4", (6, 9)),
        ("bytes=-40", (0, 9)),
        ("bytes=8-99", (8, 9)),
    ],
)
def test_ranges_of_ten_bytes(asked: str | None, span: tuple[int, int] | None) -> None:
    assert wanted_range(asked, 10) == span


def test_a_range_behind_the_end() -> None:
    with pytest.raises(AwsError, match="not satisfiable"):
        wanted_range("bytes=10-", 10)


def test_folders() -> None:
    assert folder_of("a/b/c", "a/", "/") == "a/b/"
    assert folder_of("a/b", "a/", "/") == ""
    assert folder_of("a/b", "", "") == ""


def test_chunks() -> None:
    """By the page on streamed signatures: sizes in hexadecimal, a chunk of size 0 at the end, trailers behind it."""
    body = b"3;chunk-signature=x\r\nabc\r\nB\r\n" + b"defghijklmn" + b"\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n"
    assert dechunked(body) == b"abcdefghijklmn"
    for bad in (b"zz\r\n", b"5\r\nabc", b""):
        with pytest.raises(AwsError):
            dechunked(bad)


def test_cbor_is_bounded() -> None:
    assert cbor.loads(b"") == {}
    for bad in (b"\x01", b"\xff\xff", b"\x81" * 100_000):
        with pytest.raises(ValueError, match=r"CBOR|map"):
            cbor.loads(bad)
