from __future__ import annotations

import pytest

from regraft.data.sources.urls import is_url, origin_of, parent_of, redact, suffix_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a b.png", "s3://bucket/a b.png"),
        ("https://me:pa55@host:8080/a.png", "https://host:8080/a.png"),
        ("s3://key@bucket/x@y.png", "s3://bucket/x@y.png"),
        ("https://h/a?id=1&X-Amz-Signature=ab%2F&x=2", "https://h/a?id=1&x=2"),
        ("https://h/a?sig=ab&id=1#top", "https://h/a?id=1#top"),
        ("https://h/a?token=ab", "https://h/a"),
        ("simplecache::s3://k:s@b/x", "simplecache::s3://b/x"),
        (
            "no access to 's3://k:s@b/x' today, nor https://u:p@h/y?token=1",
            "no access to 's3://b/x' today, nor https://h/y",
        ),
        ("a/b.png", "a/b.png"),
        ("me@host", "me@host"),
    ],
)
def test_what_is_shown_has_no_credentials(text, expected):
    assert redact(text) == expected
    assert redact(redact(text)) == redact(text)


def test_what_a_url_is():
    assert all(map(is_url, ["s3://b", " https://h/x", "simplecache::s3://b/x"]))
    assert not any(map(is_url, ["a/b", "C:\\x", "C:/x", "s3:/b", "", "://x"]))


@pytest.mark.parametrize(
    ("url", "suffix", "parent", "origin"),
    [
        ("https://u:p@Host/d/m.CSV?x=a.png", ".csv", "https://u:p@Host/d", ("https", "host")),
        ("s3://bucket/d/m.parquet", ".parquet", "s3://bucket/d", ("s3", "bucket")),
        ("memory://m.csv", ".csv", "memory://", ("memory", "m.csv")),
    ],
)
def test_parts_of_a_url(url, suffix, parent, origin):
    assert (suffix_of(url), parent_of(url), origin_of(url)) == (suffix, parent, origin)
