import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markdown_it import MarkdownIt
from markupsafe import Markup
from page_parser import Page

from regraft.report.html import bidi, code, escape_markdown, file_name, render, render_fragment, sentence
from regraft.report.sentences import Name
from regraft.text import one_line

MARKDOWN = MarkdownIt("gfm-like", {"linkify": False})


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=30))
@example("- - ! %YAML @user www.example.com https://example.com \ufffe\uffff\x7f\x85")
@example("\\|\\`&#124;&amp;<!-- --> ~~x~~ $x$ *a* _b_ [^1] :smile:")
def test_any_text_is_text_in_markdown(text: str) -> None:
    line = one_line(text).strip()
    source = f"| a {escape_markdown(text)} | b |\n|---|---|\n| c {escape_markdown(text)} | d |\n"
    tokens = [t for t in MARKDOWN.parse(source) if t.children is not None]
    shown = ["".join(child.content for child in token.children) for token in tokens]
    if line.isprintable():
        assert [text.strip() for text in shown] == [f"a {line}".strip(), "b", f"c {line}".strip(), "d"]
    assert {child.type for token in tokens for child in token.children} <= {"text", "text_special"}


def test_a_value_is_escaped_and_reduced_to_one_line() -> None:
    html = render_fragment("progress.html.jinja", bars={}, earlier=[], last=["<b>\u202e\n\x00x"], epochs=[])
    assert '<p class="muted">&lt;b&gt;  x</p>' in html


def test_names_are_isolated_and_paths_break_after_slashes() -> None:
    assert bidi("<b>" + "x" * 200, 20) == "<bdi>&lt;b&gt;xxxxxxxxxx…xxxxxx</bdi>"
    assert file_name("a/مرحبا/<c>") == '<bdi dir="ltr">a/<wbr><bdi>مرحبا</bdi>/<wbr>&lt;c&gt;</bdi>'


def test_backquotes_become_code_except_in_names() -> None:
    assert code("run `regraft <x>` now") == "run <code>regraft &lt;x&gt;</code> now"
    assert sentence(("of “", Name("`a`"), "”")) == "of “<bdi>`a`</bdi>”"


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("comparison.md.jinja", models=[], columns={}, conclusion=[])


def test_the_style_of_a_fragment_is_not_escaped() -> None:
    html = render_fragment("cards.html.jinja", groups=[], count=0)
    (style,) = re.findall("<style>(.*?)</style>", html, re.DOTALL)
    assert ".regraft > * + *" in style
    assert Page(html).one("div", "regraft")
    assert isinstance(bidi("x"), Markup)
