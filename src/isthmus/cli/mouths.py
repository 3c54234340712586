"""Crop the mouths of speakers out of films: small grey films for visual encoders, and a contact sheet to check them.

example:
  isthmus mouths interview.mp4 --out mouths/
  isthmus mouths clips/ --out mouths/ --side 112
  isthmus mouths crops/ --out mouths/ --ready

Each film gives OUT/NAME.mkv at 25 frames a second, whatever the film has. OUT/mouths.csv lists them with the share
of frames in which a face was found, OUT/mouths.json what was left out; look at OUT/mouths.png. The 68 landmarks are
dlib's (pip install 'isthmus[faces]'); their model is in Debian's libdlib-data.
"""

from __future__ import annotations

import argparse

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", metavar="VIDEO", nargs="+", help="a film, or a folder of them")
    parser.add_argument("--out", metavar="DIR", required=True)
    parser.add_argument("--fps", metavar="N", type=int, default=25, help="frames a second of the crops (25)")
    parser.add_argument("--side", metavar="N", type=int, default=96, help="pixels of a crop's side (96)")
    parser.add_argument("--landmarks", metavar="NAME", default="dlib", help="what finds the landmarks (dlib)")
    parser.add_argument("--landmarks-model", metavar="FILE", help="its model, where it is not found by itself")
    parser.add_argument("--ready", action="store_true", help="the films are crops already: only resample and resize")
    parser.add_argument(
        "--least-share", metavar="X", type=float, default=0.5, help="of frames with a face, else skip a film (0.5)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write what was done as JSON ('-': standard output)")


def run(args: argparse.Namespace) -> int:
    common.check_paths(*args.videos)
    from isthmus.faces.run import crop_mouths

    found = crop_mouths(
        args.videos,
        args.out,
        fps=args.fps,
        side=args.side,
        landmarks=args.landmarks,
        landmarks_model=args.landmarks_model,
        ready=args.ready,
        least_share=args.least_share,
        progress=common.progress_wanted(),
    )
    for one in found.done:
        faces = "" if one.share is None else f", a face in {100 * one.share:.0f} % of them"
        common.say_folded(f"{args.out}/{one.video}: {one.frames:,} frames{faces}")
    common.say_folded(f"table: {args.out}/mouths.csv\ncontact sheet: {args.out}/mouths.png")
    common.print_skipped(found.skipped, f"{args.out}/mouths.json")
    common.write_result(args, found.record())
    return 3 if found.skipped else 0
