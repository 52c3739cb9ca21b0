"""Run the commands and the code on the pages of the site, and write their output into the pages.

    python docs/making/pages.py                          # run every page; print failures
    python docs/making/pages.py docs/tutorials/ship.md   # one page
    python docs/making/pages.py --write PAGE             # also write outputs, images and screenshots into the page

A page's ```sh and ```python blocks run from top to bottom in one folder, in which `regraft demo --only-images 300` has
created `cells/` and `new/`. HTML comments, which readers do not see, are directives:

    <!-- run: images 120 -->            at the top: number of images instead of 300; `images 0` for none
    <!-- run: leaves 270 --tag spotted -->  drawn leaves (leaves.py) instead, in `leaves/` and `new/`
    <!-- before: mv cells photos -->    a command that the page does not show
    <!-- with: 10m -> 40s -->           before a block: a replacement in it that saves time; may be repeated
    <!-- not run: needs a cluster -->   before a block: not run, with the reason
    <!-- beside -->                     before a block of `regraft serve`: they run in the background to the end
    <!-- save: client.py -->            before a block: write it to this file
    <!-- output -->                     before a ```text block: the output of the last block goes there
    <!-- output: 8 from "accuracy" -->  eight lines, from the first with the word, or with one of "a|b"; also `last 5`
    <!-- picture: runs/a/report.html 1100x700 #curves -->
                                        before ![...](...): this file goes there; of an HTML page or a URL a screenshot
                                        (needs Chromium) that starts at the named element. Image files in the
                                        directive are uploaded to the page first

`pip install '.[EXTRA]'` is not run; the extra must exist. A command that ends in ` &` also runs in the background. The
next command waits until the server is ready. The server gets a free port, which replaces the port in the page's
addresses. A Python script (bin/curl) replaces `curl`, because not every machine has it. `--write` is for authors:
figures differ between machines, so the gate only checks that the pages run.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import itertools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from PIL import Image

DOCS = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
IMAGES = 300
_DIRECTIVE = re.compile(r"^<!-- (run|before|with|not run|beside|save|output|picture)(?:: (.*?))? -->$")
#: A command that needs no shell; then the file for its output, or that it fails on purpose.
_PLAIN = re.compile(r"(regraft (?:'[^']*'|[^'|&;<>$`*?~(])+?)(?: *> (\S+)| (2>&1 \|\| true))?")
#: A variable that is set for the rest of the page, as in the reader's shell; and what needs a shell for a whole block.
_EXPORT = re.compile(r'export (\w+)="?\$PWD/([\w-]+)"?')
_COMPOUND = re.compile(r"(?:cd|for|while|if|function) ")
_PICTURE = re.compile(r"^!\[[^\]]*\]\(([^)]+)\)")


class PageError(Exception):
    """A page that does not run; the message has the line and the reason."""


@dataclass(frozen=True)
class Step:
    """One step of a page: code to run, to run in the background or to save, or an output or image to insert.

    `line` counts from 0; `start` and `end` are the lines of an output.
    """

    kind: str
    line: int
    words: str = ""
    language: str = ""
    start: int = 0
    end: int = 0


def pages(docs: Path = DOCS) -> list[Path]:
    """Return the pages with steps, sorted by name."""
    return sorted(p for p in docs.rglob("*.md") if any(step.kind != "run" for step in steps(p.read_text())))


def steps(text: str) -> list[Step]:
    """Return the steps of a page, from top to bottom.

    Raises:
        PageError: A directive has no matching block below it.
    """
    lines, result, pending = text.splitlines(), [], None
    swaps: list[tuple[str, str]] = []
    i = 0
    while i < len(lines):
        line = lines[i]
        if directive := _DIRECTIVE.match(line):
            kind, words = directive[1], directive[2] or ""
            if kind == "run":
                result.append(Step(kind, i, words))
            elif kind == "before":
                result.append(Step("code", i, words, "sh"))
            elif kind == "with":
                old, _, new = words.partition(" -> ")
                swaps.append((old, new))
            elif kind == "not run" and not words:
                raise PageError(f"line {i + 1}: the reason why it is not run is missing")
            else:
                pending = (kind, words, i)
        elif line.startswith("```"):
            end = next((k for k in range(i + 1, len(lines)) if lines[k].rstrip() == "```"), None)
            if end is None:
                raise PageError(f"line {i + 1}: the block does not end")
            language = line[3:].split(" ")[0]
            if pending and pending[0] == "output":
                result.append(Step("output", i, pending[1], language, i + 1, end))
            elif pending and pending[0] == "save":
                result.append(Step("save", i, "\n".join(lines[i + 1 : end]), pending[1]))
            elif language in ("sh", "python") and not (pending and pending[0] == "not run"):
                code = "\n".join(lines[i + 1 : end])
                for old, new in swaps:
                    if old not in code:
                        raise PageError(f"line {i + 1}: {old!r} to replace is not in the block")
                    code = code.replace(old, new)
                result.append(Step("beside" if pending and pending[0] == "beside" else "code", i, code, language))
            pending, swaps, i = None, [], end
        elif pending and pending[0] == "picture" and (picture := _PICTURE.match(line)):
            result.append(Step("picture", i, pending[1], picture[1]))
            pending = None
        elif line.strip() and pending:
            raise PageError(f"line {pending[2] + 1}: no matching block follows '{pending[0]}'")
        i += 1
    return result


@contextlib.contextmanager
def folder(text: str, *, quick: bool = False) -> Iterator[Path]:
    """Create the folder in which a page's commands run, with its images."""
    words = next((step.words for step in steps(text) if step.kind == "run"), f"images {IMAGES}").split()
    count = min(int(words[1]), 60) if quick else int(words[1])
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "solar"
        if count or words[0] == "leaves":
            shutil.copytree(_images(words[0], count, *words[2:]), place)
        else:
            place.mkdir()
        yield place


@functools.cache
def _images(kind: str, count: int, *words: str) -> Path:
    """Create images in a folder, of which pages get copies until this process ends."""
    made = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, made)
    if kind == "leaves":
        draw = [sys.executable, Path(__file__).parent / "leaves.py"]
        _run_process([*draw, made / "solar" / "leaves", "--count", count // 3, "--new", 2, *words], made, 0)
    else:
        _run_process([BIN / "regraft", "demo", "--only-images", count, "--out", made / "solar"], made, 0)
    return made / "solar"


#: Runs `regraft` with these arguments, or ("python", code), in a folder: exit code, stdout, stderr.
Regraft = Callable[[Sequence[str], Path], tuple[int, str, str]]


def run_page(page: Path, *, write: bool = False, quick: bool = False, regraft: Regraft | None = None) -> None:
    """Run a page.

    Args:
        page: The file.
        write: Whether outputs and images are written into it.
        quick: Use at most 60 images of at most 64 pixels, and at most one epoch of fine-tuning on two views of each.
        regraft: Runs commands that need no shell without a process for each, which would take seconds.

    Raises:
        PageError: A command failed, or an output or image is missing.
    """
    text = page.read_text(encoding="utf-8")
    lines, output = text.splitlines(), ""
    replaced: list[tuple[int, int, list[str]]] = []
    with folder(text, quick=quick) as place, contextlib.ExitStack() as stack:
        runner = PageRunner(place, quick, stack, regraft)
        for step in steps(text):
            if step.kind == "code":
                output = runner.run(step)
            elif step.kind == "beside":
                runner.start(step.words, step.line)
            elif step.kind == "save":
                (place / step.language).write_text(step.words + "\n", encoding="utf-8")
            elif step.kind == "output":
                replaced.append((step.start, step.end, _excerpt(output, step)))
            elif step.kind == "picture":
                runner.picture(step, page if write else None)
    if write:
        for start, end, new in reversed(replaced):
            lines[start:end] = new
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass
class PageRunner:
    """Runs the steps of a page in the folder `place`."""

    place: Path
    quick: bool
    stack: contextlib.ExitStack
    regraft: Regraft | None = None
    ports: dict[str, str] = field(default_factory=dict)

    def run(self, step: Step) -> str:
        """Run a block and return its stdout."""
        if step.language == "python" and self.regraft:
            return self._run_in_process(["python", self._replace_ports(step.words)], step.line)
        if step.language == "python":
            return _run_process([sys.executable, "-c", self._replace_ports(step.words)], self.place, step.line)
        typed = []
        for command in _commands(step.words):
            if command.startswith("pip install"):
                _check_extras(command, step.line)
            elif command.endswith(" &"):
                self.start(command[:-2], step.line)
            elif exported := _EXPORT.fullmatch(command):
                values = {exported[1]: str(self.place / exported[2])}
                self.stack.enter_context(mock.patch.dict(os.environ, values))
            else:
                typed.append(_quick(self._replace_ports(command)) if self.quick else self._replace_ports(command))
        in_process = self.regraft is not None and not any(map(_COMPOUND.match, typed))
        output = ""
        for is_plain, commands in itertools.groupby(typed, lambda one: in_process and bool(_PLAIN.fullmatch(one))):
            if is_plain:
                output += "".join(self._run_plain(command, step.line) for command in commands)
            else:
                output += _run_process(["bash", "-ec", "\n".join(commands)], self.place, step.line)
        return output

    def _run_plain(self, command: str, line: int) -> str:
        plain = _PLAIN.fullmatch(command)
        assert plain
        printed = self._run_in_process(shlex.split(plain[1]), line, may_fail=bool(plain[3]))
        if not plain[2]:
            return printed
        (self.place / plain[2]).write_text(printed, encoding="utf-8")
        return ""

    def _run_in_process(self, words: list[str], line: int, *, may_fail: bool = False) -> str:
        assert self.regraft
        code, output, errors = self.regraft(words, self.place)
        if may_fail:
            return output + errors
        if code:
            raise PageError(f"line {line + 1}: {' '.join(words)} exited with {code}\n{errors}")
        return output

    def start(self, words: str, line: int) -> None:
        """Start servers, all at once, and wait until they are ready."""
        started: dict[str, subprocess.Popen[bytes]] = {}
        for command in _commands(words):
            if command.startswith("pip install"):
                _check_extras(command, line)
                continue
            asked = next(iter(re.findall(r"--port (\d+)", command)), "8000")
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.ports[asked] = str(free.getsockname()[1])
            server = [*shlex.split(command), "--port", self.ports[asked]]
            process = subprocess.Popen(
                server,
                cwd=self.place,
                env=_environment(self.place),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self.stack.callback(process.wait, 60)
            self.stack.callback(process.terminate)
            started[self.ports[asked]] = process
        until = time.monotonic() + 120
        for port, process in started.items():
            while not _is_ready(f"http://127.0.0.1:{port}/v2/health/ready"):
                if process.poll() is not None or time.monotonic() > until:
                    raise PageError(f"line {line + 1}: {shlex.join(process.args)} does not answer")
                time.sleep(0.2)

    def picture(self, step: Step, page: Path | None) -> None:
        """Check that an image exists; with `page`, write it for the page."""
        source, *more = step.words.split(" ")
        made = self.place / source
        is_address = source.startswith("http")
        if not is_address and not made.exists():
            raise PageError(f"line {step.line + 1}: {source} does not exist")
        if page is None:
            return
        target = (page.parent / step.language).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_address or made.suffix == ".html":
            size = next((word for word in more if re.fullmatch(r"\d+x\d+", word)), "1100x800")
            anchor = next((word for word in more if word.startswith("#")), "")
            chosen = [str(self.place / word) for word in more if (self.place / word).is_file()]
            screenshot(self._replace_ports(source) if is_address else made.as_uri(), target, size, anchor, chosen)
        else:
            shutil.copy(made, target)

    def _replace_ports(self, words: str) -> str:
        for asked, port in self.ports.items():
            words = words.replace(f"127.0.0.1:{asked}", f"127.0.0.1:{port}")
        return words


def _commands(words: str) -> list[str]:
    lines = (line.partition(" #")[0].strip() for line in words.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _is_ready(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def _quick(command: str) -> str:
    """Make a command take seconds: few images of at most 64 pixels, and at most one epoch on two views of each."""
    if "--resume" in command:
        return command
    for option, most in (("--only-images", 60), ("--count", 20), ("--image-size", 64), ("--epochs", 1)):
        command = re.sub(rf"{option} (\d+)", lambda given, o=option, m=most: f"{o} {min(int(given[1]), m)}", command)
    verb = re.match(r"regraft (train|tune|compare|crossval|learning-curve) ", command)
    if not verb:
        return command
    small = {"--image-size": "model.image_size=64", "--epochs": "training.finetune_epochs=1"}
    if verb[1] == "train":
        small["training.views"] = "training.views=2"
    settings = "".join(f"--set {setting} " for option, setting in small.items() if option not in command)
    return command[: verb.end()] + settings + command[verb.end() :]


def _check_extras(command: str, line: int) -> None:
    known = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in (name for names in re.findall(r"\.\[(.+?)\]", command) for name in names.split(",")):
        if extra not in known:
            raise PageError(f"line {line + 1}: the extra {extra!r} does not exist")


def _environment(place: Path) -> dict[str, str]:
    """Put our commands first on the path, and use an empty cache unless REGRAFT_CACHE is set."""
    path = os.pathsep.join(map(str, (Path(__file__).parent / "bin", BIN, os.environ["PATH"])))
    cache = {"REGRAFT_CACHE": str(place.parent / "cache")}
    return {**cache, **os.environ, "PATH": path, "COLUMNS": "120", "NO_COLOR": "1"}


def _run_process(words: list[object], place: Path, line: int) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=place, env=_environment(place), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PageError(f"line {line + 1}: {' '.join(map(str, words))} exited with {done.returncode}\n{done.stderr}")
    return done.stdout


def _excerpt(output: str, step: Step) -> list[str]:
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    if not lines:
        raise PageError(f"line {step.line + 1}: the command above printed nothing")
    if not step.words:
        return lines
    if match := re.fullmatch(r"(first|last) (\d+)", step.words):
        return lines[: int(match[2])] if match[1] == "first" else lines[-int(match[2]) :]
    if match := re.fullmatch(r'(\d+) from "(.+)"', step.words):
        words = match[2].split("|")
        start = next((i for i, line in enumerate(lines) if any(word in line for word in words)), None)
        if start is None:
            raise PageError(f"line {step.line + 1}: no line of the output contains {match[2]!r}:\n{output}")
        return lines[start : start + int(match[1])]
    raise PageError(f"line {step.line + 1}: unknown form of output: {step.words}")


#: The height of the window without the lines, images and frames that its lower edge would cut.
_UNCUT_HEIGHT = """() => {
  const whole = [...document.querySelectorAll("body *")].filter(element => {
    const style = getComputedStyle(element), framed = parseFloat(style.borderBottomWidth) > 0;
    const line = element.children.length === 0 || element.matches("p, li, dt, dd, img, svg, figure, h1, h2, h3, tr");
    return (line || framed) && element.getBoundingClientRect().height < innerHeight / 2;
  }).map(element => element.getBoundingClientRect());
  let edge = innerHeight;
  for (let cut = whole; cut.length; ) {
    cut = whole.filter(box => box.height && box.top < edge && box.bottom > edge);
    if (cut.length) edge = Math.floor(Math.min(...cut.map(box => box.top)));
  }
  return edge > innerHeight / 2 ? edge : innerHeight;
}"""


def screenshot(address: str, target: Path, size: str, place: str = "", chosen: Sequence[str] = ()) -> None:
    """Write a screenshot of a browser window of `size` ("1100x800") that starts at the element `place` ("#id").

    Elements that the lower edge would cut are left out. The files `chosen` are uploaded to the page first.

    Raises:
        PageError: Playwright is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise PageError("screenshots need: pip install playwright, and Chromium") from None
    width, height = map(int, size.split("x"))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=1.5)
        window.goto(address)
        if chosen:
            window.set_input_files("input[type=file]:not([capture])", list(chosen))
            window.wait_for_timeout(3000)
        if place:
            window.eval_on_selector(place, "element => { element.scrollIntoView(); scrollBy(0, -16) }")
        window.wait_for_timeout(500)
        height = window.evaluate(_UNCUT_HEIGHT)
        window.screenshot(path=target, clip={"x": 0, "y": 0, "width": width, "height": height})
        browser.close()


def shrink(page: Path, limit: int = 250_000) -> None:
    """Reduce the images of a page to at most `limit` bytes if possible: 256 colors, then a smaller width."""
    for step in steps(page.read_text(encoding="utf-8")):
        file = (page.parent / step.language).resolve()
        if step.kind != "picture" or file.suffix != ".png":
            continue
        picture = Image.open(file).convert("RGB")
        for width in (1100, 900, 750, 600):
            if file.stat().st_size <= limit:
                break
            picture.thumbnail((width, 2 * width))
            palette = picture.quantize(256)
            picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(file, optimize=True)


def main() -> int:
    """Run the given pages, or all; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller images, one epoch, as in the gate")
    parser.add_argument("--write", action="store_true", help="write outputs and images into the pages")
    chosen = parser.parse_args()
    code = 0
    for page in chosen.pages or pages():
        started = time.perf_counter()
        try:
            run_page(page, write=chosen.write, quick=chosen.quick)
            if chosen.write:
                shrink(page)
            print(f"{page}: {time.perf_counter() - started:.0f} s", flush=True)
        except PageError as error:
            print(f"{page}: {error}", file=sys.stderr, flush=True)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
