"""Run what the pages of the site tell people to type, and put what came of it into them.

    python docs/making/pages.py                          # run every page; say what failed
    python docs/making/pages.py docs/tutorials/ship.md   # one page
    python docs/making/pages.py --write PAGE             # and write outputs, pictures and screenshots into the page

A page's ```sh and ```python blocks run from top to bottom in one folder, in which `regraft demo --only-images 300`
has laid `cells/` and `new/`. Comments, which readers do not see, say what is to be done:

    <!-- run: images 120 -->            at the top: so many images instead of 300; `images 0` for none
    <!-- run: leaves 270 --tag spotted -->  drawn leaves (leaves.py) instead of cells, in `leaves/` and `new/`
    <!-- before: mv cells photos -->    a command that the page's reader is taken to have typed
    <!-- with: 10m -> 40s -->           before a block: replaced in it, so that it takes less time; may be repeated
    <!-- not run: needs a cluster -->   before a block: not run, and why
    <!-- beside -->                     before a block of `regraft serve`: these run beside the rest until the page ends
    <!-- save: client.py -->            before a block: a file that the commands below it read
    <!-- output -->                     before a ```text block: what the last block printed goes there
    <!-- output: 8 from "accuracy" -->  eight lines from the first that contains the word; also `last 5`, `first 5`
    <!-- picture: runs/a/report.html 1100x700 #curves -->
                                        before ![...](...): that file goes there; of a page, or of an address, a
                                        screenshot (needs Chromium) from the element that is named; images that are
                                        named as well are chosen on the page before

`pip install '.[EXTRA]'` is not run but looked up. A command that ends in ` &` runs beside the rest as well. What comes
next waits until the server is ready; it gets a port that is free, and addresses on the page are read so. `curl` is
played by Python (bin/curl), since a machine may not have it. `--write` is for authors: another machine's figures
differ, so the gate runs the pages and asks only that everything they show can be made.
"""

from __future__ import annotations

import argparse
import contextlib
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

from PIL import Image

DOCS = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
IMAGES = 300
_DIRECTIVE = re.compile(r"^<!-- (run|before|with|not run|beside|save|output|picture)(?:: (.*?))? -->$")
#: A command that needs no shell.
_PLAIN = re.compile(r"regraft [^|&;<>$`*?~(]+")
_PICTURE = re.compile(r"^!\[[^\]]*\]\(([^)]+)\)")


class PageError(Exception):
    """A page that cannot be made; says the line and why."""


@dataclass(frozen=True)
class Step:
    """One thing that a page asks for: code to run, to run beside the rest or to save, an output or a picture to place.

    `line` counts from 0; `start` and `end` are the lines that an output takes.
    """

    kind: str
    line: int
    words: str = ""
    language: str = ""
    start: int = 0
    end: int = 0


def pages(docs: Path = DOCS) -> list[Path]:
    """The pages with code or pictures to make, in order of their names."""
    return sorted(p for p in docs.rglob("*.md") if any(step.kind != "run" for step in steps(p.read_text())))


def steps(text: str) -> list[Step]:
    """What a page asks for, from top to bottom.

    Raises:
        PageError: A directive has nothing below it that it could stand for.
    """
    lines, found, pending = text.splitlines(), [], None
    swaps: list[tuple[str, str]] = []
    i = 0
    while i < len(lines):
        line = lines[i]
        if directive := _DIRECTIVE.match(line):
            kind, words = directive[1], directive[2] or ""
            if kind == "run":
                found.append(Step(kind, i, words))
            elif kind == "before":
                found.append(Step("code", i, words, "sh"))
            elif kind == "with":
                old, _, new = words.partition(" -> ")
                swaps.append((old, new))
            elif kind == "not run" and not words:
                raise PageError(f"line {i + 1}: it says not why it is not run")
            else:
                pending = (kind, words, i)
        elif line.startswith("```"):
            end = next((k for k in range(i + 1, len(lines)) if lines[k].rstrip() == "```"), None)
            if end is None:
                raise PageError(f"line {i + 1}: a block that does not end")
            language = line[3:].split(" ")[0]
            if pending and pending[0] == "output":
                found.append(Step("output", i, pending[1], language, i + 1, end))
            elif pending and pending[0] == "save":
                found.append(Step("save", i, "\n".join(lines[i + 1 : end]), pending[1]))
            elif language in ("sh", "python") and not (pending and pending[0] == "not run"):
                code = "\n".join(lines[i + 1 : end])
                for old, new in swaps:
                    if old not in code:
                        raise PageError(f"line {i + 1}: there is no {old!r} to replace")
                    code = code.replace(old, new)
                found.append(Step("beside" if pending and pending[0] == "beside" else "code", i, code, language))
            pending, swaps, i = None, [], end
        elif pending and pending[0] == "picture" and (picture := _PICTURE.match(line)):
            found.append(Step("picture", i, pending[1], picture[1]))
            pending = None
        elif line.strip() and pending:
            raise PageError(f"line {pending[2] + 1}: '{pending[0]}' is followed by something else")
        i += 1
    return found


@contextlib.contextmanager
def folder(text: str, *, quick: bool = False) -> Iterator[Path]:
    """The folder that a page's commands run in, with the images that it asks for."""
    words = next((step.words for step in steps(text) if step.kind == "run"), f"images {IMAGES}").split()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "solar"
        count = int(words[1])
        if quick:
            count = min(count, 90)
        if words[0] == "leaves":
            draw = [sys.executable, Path(__file__).parent / "leaves.py"]
            _done([*draw, place / "leaves", "--count", count // 3, "--new", 2, *words[2:]], Path(name), 0)
        elif count:
            _done([BIN / "regraft", "demo", "--only-images", count, "--out", place], Path(name), 0)
        else:
            place.mkdir()
        yield place


#: Runs `regraft` with these words in a folder; gives exit code, output and errors.
Regraft = Callable[[Sequence[str], Path], tuple[int, str, str]]


def run_page(page: Path, *, write: bool = False, quick: bool = False, regraft: Regraft | None = None) -> None:
    """Run a page.

    Args:
        page: The file.
        write: Whether outputs and pictures are written into it.
        quick: With at most 90 small images, and one epoch where nothing else is asked for.
        regraft: Runs its commands, where they need no shell; to start a process for each takes seconds.

    Raises:
        PageError: A command failed, or what was to be shown is not there.
    """
    text = page.read_text(encoding="utf-8")
    lines, output = text.splitlines(), ""
    replaced: list[tuple[int, int, list[str]]] = []
    with folder(text, quick=quick) as place, contextlib.ExitStack() as ends:
        reader = Reader(place, quick, ends, regraft)
        for step in steps(text):
            if step.kind == "code":
                output = reader.run(step)
            elif step.kind == "beside":
                reader.start(step.words, step.line)
            elif step.kind == "save":
                (place / step.language).write_text(step.words + "\n", encoding="utf-8")
            elif step.kind == "output":
                replaced.append((step.start, step.end, _excerpt(output, step)))
            elif step.kind == "picture":
                reader.picture(step, page if write else None)
    if write:
        for start, end, new in reversed(replaced):
            lines[start:end] = new
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass
class Reader:
    """One who types what a page says, in the folder `place`."""

    place: Path
    quick: bool
    ends: contextlib.ExitStack
    regraft: Regraft | None = None
    ports: dict[str, str] = field(default_factory=dict)

    def run(self, step: Step) -> str:
        """Type a block; give what it printed."""
        if step.language == "python":
            return _done([sys.executable, "-c", self._here(step.words)], self.place, step.line)
        typed = []
        for command in _commands(step.words):
            if command.startswith("pip install"):
                _known_extras(command, step.line)
            elif command.endswith(" &"):
                self.start(command[:-2], step.line)
            else:
                typed.append(self._here(command) + (_small(command) if self.quick else ""))
        output = ""
        while self.regraft and typed and _PLAIN.fullmatch(typed[0]):
            output += self._typed(typed.pop(0), step.line)
        return output + (_done(["bash", "-ec", "\n".join(typed)], self.place, step.line) if typed else "")

    def _typed(self, command: str, line: int) -> str:
        assert self.regraft
        code, output, errors = self.regraft(shlex.split(command)[1:], self.place)
        if code:
            raise PageError(f"line {line + 1}: {command} left with {code}\n{errors}")
        return output

    def start(self, words: str, line: int) -> None:
        """Start servers, and wait until they are ready."""
        for command in _commands(words):
            if command.startswith("pip install"):
                _known_extras(command, line)
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
            self.ends.callback(process.wait, 60)
            self.ends.callback(process.terminate)
            until = time.monotonic() + 120
            while not _answers(f"http://127.0.0.1:{self.ports[asked]}/v2/health/ready"):
                if process.poll() is not None or time.monotonic() > until:
                    raise PageError(f"line {line + 1}: {command} does not answer")
                time.sleep(0.2)

    def picture(self, step: Step, page: Path | None) -> None:
        """See that a picture can be made; for a page that is written, make it."""
        source, *more = step.words.split(" ")
        made = self.place / source
        is_address = source.startswith("http")
        if not is_address and not made.exists():
            raise PageError(f"line {step.line + 1}: {source} was not made")
        if page is None:
            return
        target = (page.parent / step.language).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_address or made.suffix == ".html":
            size = next((word for word in more if re.fullmatch(r"\d+x\d+", word)), "1100x800")
            anchor = next((word for word in more if word.startswith("#")), "")
            chosen = [str(self.place / word) for word in more if (self.place / word).is_file()]
            screenshot(self._here(source) if is_address else made.as_uri(), target, size, anchor, chosen)
        else:
            shutil.copy(made, target)

    def _here(self, words: str) -> str:
        for asked, port in self.ports.items():
            words = words.replace(f"127.0.0.1:{asked}", f"127.0.0.1:{port}")
        return words


def _commands(words: str) -> list[str]:
    lines = (line.partition(" #")[0].strip() for line in words.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def _small(command: str) -> str:
    """Options that make a command that trains a matter of seconds; those that it has itself hold."""
    if not re.match(r"regraft (train|tune|compare|crossval|learning-curve) ", command) or "--resume" in command:
        return ""
    small = {"--image-size": " --set model.image_size=64", "--finetune-epochs": " --set training.finetune_epochs=1"}
    return "".join(setting for option, setting in small.items() if option not in command)


def _known_extras(command: str, line: int) -> None:
    known = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in (name for names in re.findall(r"\.\[(.+?)\]", command) for name in names.split(",")):
        if extra not in known:
            raise PageError(f"line {line + 1}: there is no extra {extra!r}")


def _environment(place: Path) -> dict[str, str]:
    """That of this program, with our commands first; a page begins with an empty cache, unless one is named."""
    path = os.pathsep.join(map(str, (Path(__file__).parent / "bin", BIN, os.environ["PATH"])))
    cache = {"REGRAFT_CACHE": str(place.parent / "cache")}
    return {**cache, **os.environ, "PATH": path, "COLUMNS": "120", "NO_COLOR": "1"}


def _done(words: list[object], place: Path, line: int) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=place, env=_environment(place), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PageError(f"line {line + 1}: {' '.join(map(str, words))} left with {done.returncode}\n{done.stderr}")
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
        start = next((i for i, line in enumerate(lines) if match[2] in line), None)
        if start is None:
            raise PageError(f"line {step.line + 1}: no line of the output contains {match[2]!r}:\n{output}")
        return lines[start : start + int(match[1])]
    raise PageError(f"line {step.line + 1}: output: {step.words}?")


#: The height of the window, less what would be cut at its lower edge: lines, pictures and frames.
_UNCUT = """() => {
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
    """Write what a browser window of `size` ("1100x800") shows of a page, from the element `place` ("#id") downwards.

    The picture ends above what would be cut at the lower edge. `chosen` are files that are given to the page before, as
    by someone who chooses them.

    Raises:
        PageError: Playwright or Chromium is not there.
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
        height = window.evaluate(_UNCUT)
        window.screenshot(path=target, clip={"x": 0, "y": 0, "width": width, "height": height})
        browser.close()


def shrink(page: Path, limit: int = 250_000) -> None:
    """Make the pictures of a page that are larger than `limit` bytes smaller: 256 colours, as wide as then fits."""
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
    """Run the pages that are named, or all; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller images, one epoch: what the gate does")
    parser.add_argument("--write", action="store_true", help="write outputs and pictures into the pages")
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
