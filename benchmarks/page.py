"""End-to-end test of the server's page in a real browser, with screenshots and an accessibility check by axe.

    pip install playwright axe-playwright-python       # and Debian's chromium
    python benchmarks/page.py RUN --out shots [--image FILE ...]

Starts `regraft serve RUN`, uses the page as a person would (choose, drop, paste, keyboard), and checks its texts, that
there are no requests to other hosts and that the console is empty. Writes a PNG of each state.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from regraft.runs.run import load

_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]  # fmt: skip
SIZES = {"desktop": (1180, 900), "phone": (390, 844)}


@contextmanager
def server(*arguments: object, environment: dict[str, str] | None = None):
    """Run `regraft serve` with these arguments and return its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "regraft.cli", "serve", *map(str, arguments), "--port", "0"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    try:
        assert process.stderr
        address = ""
        for line in process.stderr:
            if found := re.search(r"Listening at (\S+);", line):
                address = found[1]
            if line.startswith("Ready."):
                break
        import threading

        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield address
    finally:
        process.terminate()
        assert process.wait(60) == 0


class Recorder:
    """Takes screenshots and collects errors of the pages: console, foreign requests, accessibility, overflow."""

    def __init__(self, out: Path) -> None:
        """Write screenshots to `out`."""
        self.out, self.faults, self.axe = out, [], Axe()

    def page(self, browser: Browser, address: str, size: str, scheme: str) -> Page:
        """Open the address in a window whose errors are recorded."""
        width, height = SIZES[size]
        origin = "/".join(address.split("/")[:3])
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, permissions=["camera"]
        )
        page = context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and self.faults.append(message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith((origin, "blob:", "data:")) or self.faults.append(request.url),
        )
        page.goto(address)
        return page

    def shot(self, page: Page, name: str) -> None:
        """Take a screenshot and run axe."""
        page.wait_for_timeout(450)  # the bars are animated
        page.screenshot(path=self.out / f"{name}.png", full_page=True)
        found = self.axe.run(page).response["violations"]
        for fault in found:
            self.faults.append(f"axe in {name}: {fault['id']}: {fault['nodes'][0]['html'][:160]}")
        width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if width > 0:
            self.faults.append(f"{name} is {width} px wider than the window")
        print(f"{name}: {len(found)} violations")


def choose(page: Page, *files: Path) -> None:
    page.set_input_files("#files", [str(file) for file in files])


def transfer(page: Page, event: str, file: Path, kind: str = "image/png") -> None:
    """Send the page the event of a dropped or pasted file."""
    page.evaluate(
        """([event, name, kind, text]) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, { type: kind }));
            const options = { bubbles: true, cancelable: true };
            document.getElementById("drop").dispatchEvent(event === "paste"
                ? new ClipboardEvent(event, { ...options, clipboardData: data })
                : new DragEvent(event, { ...options, dataTransfer: data }));
        }""",
        [event, file.name, kind, base64.b64encode(file.read_bytes()).decode()],
    )


def first_result(page: Page, what: str = ".headline"):
    return page.locator(f".results > li:first-child {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("shots"))
    parser.add_argument("--image", type=Path, nargs="*", help="images of the run's kind; default: the demo's")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.image:
        from regraft.runs.demo import demo_images

        args.image = [demo_images() / "images" / f"cell{number:04d}.png" for number in (3, 61, 62, 100)]
    recorder = Recorder(args.out)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright, server(args.run) as address:
        browser = playwright.chromium.launch(
            executable_path=args.chromium,
            args=_FLAGS,
        )
        made = _pictures(Path(place)) | {"unsure": _unsure(args.run, args.image[0].parent)}
        for size, scheme in (("desktop", "light"), ("phone", "light"), ("desktop", "dark"), ("phone", "dark")):
            _visit(recorder, browser, address, size, scheme, args.image, made)
        page = recorder.page(browser, f"{address}/docs", "desktop", "light")
        expect(page.locator("#operations section").first).to_be_visible()
        recorder.shot(page, "docs")
        page = recorder.page(browser, f"{address}/docs", "phone", "dark")
        expect(page.locator("#operations section").first).to_be_visible()
        recorder.shot(page, "docs-phone-dark")
        browser.close()
    with (
        sync_playwright() as playwright,
        server(args.run, environment={"REGRAFT_TOKEN": "a-secret-for-the-page"}) as address,
    ):
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox", "--disable-gpu"])
        page = recorder.page(browser, address, "phone", "light")
        expect(page.locator("#token-form")).to_be_visible()
        recorder.shot(page, "token")
        page.fill("#token", "a-secret-for-the-page")
        page.keyboard.press("Enter")
        expect(page.locator("#model-line")).to_contain_text("classifies")
        expect(page.locator("#token-form")).to_be_hidden()
        browser.close()
    recorder.faults = [
        fault for fault in recorder.faults if "422" not in fault and "401" not in fault
    ]  # provoked above
    print("\n".join(recorder.faults) or "no faults")
    sys.exit(bool(recorder.faults))


def _visit(
    recorder: Recorder,
    browser: Browser,
    address: str,
    size: str,
    scheme: str,
    images: list[Path],
    made: dict[str, Path],
) -> None:
    name = f"{size}-{scheme}"
    page = recorder.page(browser, address, size, scheme)
    expect(page.locator("#model-line")).to_contain_text("classifies")
    recorder.shot(page, f"{name}-empty")
    choose(page, images[0])
    expect(first_result(page)).not_to_have_text("Classifying…")
    slider = first_result(page, "input[type=range]")
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")  # by keyboard only
    expect(first_result(page, "img.heat")).to_have_attribute("src", re.compile("^data:image/png"))
    recorder.shot(page, f"{name}-heat")
    choose(page, made["unrelated"])
    expect(first_result(page)).to_have_text("Out of distribution")
    recorder.shot(page, f"{name}-abstains")
    choose(page, made["unsure"])
    expect(first_result(page)).to_have_text("Not sure")
    recorder.shot(page, f"{name}-not-sure")
    transfer(page, "drop", made["broken"])
    expect(first_result(page)).to_have_text("Unreadable image")
    recorder.shot(page, f"{name}-error")
    transfer(page, "paste", made["tiff"], "image/tiff")
    expect(first_result(page)).not_to_have_text("Classifying…")
    expect(first_result(page, "img.original")).to_have_attribute("src", re.compile("^data:image/jpeg"))
    choose(page, *images)
    expect(page.locator(".results > li")).to_have_count(5 + len(images))
    expect(page.locator(".headline", has_text="Classifying…")).to_have_count(0)
    page.locator("#about > summary").click()
    page.locator("#card > summary").click()
    expect(page.locator("#card-text")).not_to_be_empty()
    recorder.shot(page, f"{name}-many")
    page.click("#take")
    expect(page.locator("#camera")).to_be_visible()
    while not page.evaluate("document.getElementById('video').videoWidth"):
        page.wait_for_timeout(100)
    recorder.shot(page, f"{name}-camera")
    page.click("#capture-photo")
    expect(page.locator(".results > li")).to_have_count(6 + len(images))
    page.click("#clear")
    expect(page.locator(".results > li")).to_have_count(0)
    assert urllib.request.urlopen(f"{address}/v2/health/ready").status == 200


def _pictures(place: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((40, 40, 1))).astype(np.uint8)
    made = {
        name: place / file
        for name, file in (
            ("unrelated", "a holiday with a very long name indeed.png"),
            ("broken", "broken.jpg"),
            ("tiff", "scan.tif"),
        )
    }
    Image.fromarray(smooth).save(made["unrelated"])
    Image.fromarray(smooth).save(made["tiff"])
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG")
    made["broken"].write_bytes(file.getvalue()[: len(file.getvalue()) // 3])
    return made


def _unsure(run: Path, folder: Path) -> Path:
    """Return the image in this folder with the lowest confidence."""
    predictions = load(run).predictions
    for i in np.argsort(predictions.confidence):
        if (file := folder / Path(predictions.ids[i]).name).is_file():
            return file
    raise SystemExit(f"{folder} has no image of the run")


if __name__ == "__main__":
    main()
