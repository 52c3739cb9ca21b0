"""Take the screenshots that no page takes itself, in a headless Chromium (`pip install playwright`, and Chromium).

python docs/making/pictures.py report RUN            # docs/images/report.png: top of the demo's report
python docs/making/pictures.py site --out shots      # every page of build/site, on a desktop and a phone
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pages import DOCS, screenshot


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    report = kinds.add_parser("report")
    report.add_argument("run", type=Path)
    site = kinds.add_parser("site")
    site.add_argument("--out", type=Path, default=Path("shots"))
    args = parser.parse_args()
    if args.kind == "report":
        screenshot((args.run / "report.html").resolve().as_uri(), DOCS / "images" / "report.png", "1100x700")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    root = DOCS.parent / "build" / "site"
    for page in sorted(root.rglob("*.html")):
        name = "-".join(page.relative_to(root).with_suffix("").parts)
        for width, height in ((1280, 1600), (390, 1600)):
            screenshot(page.as_uri(), args.out / f"{name}-{width}.png", f"{width}x{height}")


if __name__ == "__main__":
    main()
