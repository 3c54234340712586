"""Make the reports of docs/gallery.md on some of the demo's pictures, and photograph them and the page of `isthmus
serve` with a headless Chromium.

python docs/gallery.py --out out/gallery          # goes on where it stopped; the pictures go to docs/gallery/
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

import isthmus as ist
import isthmus_demo

EVERY = 16  # of the demo's pictures
IMAGE = "wheel:efficientnet-lite0?layer=*&pool=mean"
TEXT = "wheel:minilm-l6"
CONCEPTS = ("bird", "flower", "sign", "musical instrument", "house", "fruit", "unicorn")
QUERY = "q=a+musical+instrument"  # of the page
PICTURES = Path(__file__).with_name("gallery")
COLOURS, WIDTH = 64, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/gallery"))
    parser.add_argument("--browser", default="chromium")
    parser.add_argument("--served", type=Path, default=Path("out/demo"), help="folder of the demo, for the page")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    make(options.out)
    PICTURES.mkdir(exist_ok=True)
    for name, height in (("selection", 1500), ("curation", 1700), ("diagnosis", 1700)):
        address = (options.out / f"{name}.html").resolve().as_uri()
        photograph(options.browser, address, (options.out / f"{name}.png").resolve(), height)
    with served(options.served) as address:
        photograph(options.browser, f"{address}#{QUERY}", (options.out / "page.png").resolve(), 700)


def make(out: Path) -> None:
    """The pages of select, curate and diagnose, below `out`."""
    pairs = ist.read_pairs(isthmus_demo.PAIRS)
    some = pairs.subset(pairs.images["id"].to_pylist()[::EVERY])
    store = ist.embed(some, IMAGE, TEXT, out=out / "store", progress=True)
    chosen = ist.select(store, out=out / "choice", seeds=0, bootstrap=200)
    view = str(chosen.best["image"])
    (out / "selection.html").write_bytes((out / "choice" / "report.html").read_bytes())
    ist.curate(store, CONCEPTS, encoder=[view, TEXT], sides="both", per_concept=8, images=some, out=out / "curated")
    (out / "curation.html").write_bytes((out / "curated" / "report.html").read_bytes())
    model = ist.train(store, recipe="cca", image=view, out=out / "model")
    page = str(out / "diagnosis.html")
    ist.evaluate(model, "diagnose", store, split="test", against=store, report=page, bootstrap=200)


@contextmanager
def served(results: Path) -> Iterator[str]:
    """The address of `isthmus serve` on the demo's folder."""
    command = [sys.executable, "-m", "isthmus", "serve", str(results), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield next(line.split()[-1] for line in server.stdout if "serving at" in line)
        server.terminate()


def photograph(browser: str, address: str, target: Path, height: int) -> None:
    """The upper part of a page, `height` pixels of it, in docs/gallery/; what is asked for in it has 20 s to come."""
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{height}"]
    command = [browser, *options, "--virtual-time-budget=20000", f"--screenshot={target}", address]
    subprocess.run(command, check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL, timeout=120)
    shrink(Image.open(target), target.stem)


def shrink(picture: Image.Image, name: str) -> None:
    """A picture of few colours, which a page of text and drawings has anyway."""
    few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
