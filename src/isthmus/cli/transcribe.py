"""Write down what is said in recordings, or in the sound of films: text, JSON with times, or subtitles.

example:
  isthmus transcribe model/ line.wav
  isthmus transcribe model/ talk.flac --srt
  isthmus transcribe model/ recordings/*.wav --json transcripts.json

MODEL is one that reads speech (isthmus train STORE --recipe avsr-small). Files of any length; of a film the sound
is read, which takes pip install 'isthmus[video]'.
"""

from __future__ import annotations

import argparse
from typing import Any

from isthmus.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("files", metavar="FILE", nargs="+", help="recordings or films")
    parser.add_argument(
        "--srt", action="store_true", help="subtitles in FILE.srt, beside each file, with times from CTC"
    )
    parser.add_argument("--beam", type=int, help="prefixes at once; 0: the likeliest symbol of each step (the model's)")
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON ('-': standard output)")
    common.add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    common.check_paths(args.model, *args.files)
    from isthmus.errors import InputError
    from isthmus.inference.transcribe import opened_speech, transcribe

    model, _ = opened_speech(args.model, args.device, args.trust_remote_code)
    found: list[dict[str, Any]] = []
    bad: list[tuple[str, str]] = []
    for file in args.files:
        try:
            one: Any = transcribe(model, file, beam=args.beam)
        except InputError as error:
            if len(args.files) == 1:
                raise
            bad.append((file, str(error).removeprefix(f"{file}: ")))
            continue
        said = one.text or "(nothing that this model can spell)"
        common.say_folded(said if len(args.files) == 1 else f"{file}: {said}")
        if args.srt:
            _write_srt(file, one)
        found.append(one.to_dict())
    common.print_skipped(bad)
    common.write_result(args, found[0] if len(args.files) == 1 else found)
    if bad and not found:
        raise InputError(f"none of the {len(bad)} files could be transcribed.")
    return 3 if bad else 0


def _write_srt(file: str, one: Any) -> None:
    from pathlib import Path

    from isthmus.files import write_atomic

    path = Path(f"{file}.srt")
    write_atomic(path, lambda aside: aside.write_text(one.srt(), encoding="utf-8"))
    common.say(f"subtitles: {path}")
