"""The `isthmus` command: one file per subcommand; each parses, calls one library function and prints."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from isthmus import __version__
from isthmus.cli import common
from isthmus.errors import IsthmusError

# Order of the help text: the way pairs flow. Modules named with a trailing underscore avoid a keyword.
COMMANDS = {
    "fetch": "isthmus.cli.fetch",
    "demo": "isthmus.cli.demo",
    "embed": "isthmus.cli.embed",
    "import": "isthmus.cli.import_",
    "select": "isthmus.cli.select",
    "curate": "isthmus.cli.curate",
    "train": "isthmus.cli.train",
    "eval": "isthmus.cli.eval",
    "search": "isthmus.cli.search",
    "segment": "isthmus.cli.segment",
    "doctor": "isthmus.cli.doctor",
}
DONE, FAILED, SKIPPED, INTERRUPTED = 0, 1, 3, 130


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. Importing it must stay light: no torch, transformers or pyarrow."""
    parser = argparse.ArgumentParser(
        prog="isthmus",
        description="Join frozen image and text encoders into a CLIP-like model.",
        epilog="exit codes: 0 done; 3 done, but some inputs were skipped and listed; 1 failed; "
        "2 wrong usage; 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"isthmus {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(module_name)
        summary, _, details = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(
            name,
            help=summary.rstrip(".").replace("%", "%%"),
            description=summary,
            epilog=details.strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one message, with --debug a traceback."""
    args = build_parser().parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else tokenizers warn once threads decode images
    # OpenMP threads that wait spin by default: on a machine that is also doing something else, torch is then up to
    # ten times slower. Read when torch is first imported, in a command. benchmarks/busy_machine.py measures it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return args.run(args) or DONE
    except KeyboardInterrupt:
        common.say("isthmus: interrupted; run the same command again to go on from here.", error=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output went away
        return DONE
    except IsthmusError as error:
        if args.debug:
            raise
        common.say(f"isthmus {args.command}: {error}", error=True)
        return error.exit_code
    except OSError as error:  # a full disk, a read-only folder: the message names the file
        if args.debug:
            raise
        common.say(f"isthmus {args.command}: {error}", error=True)
        return FAILED
    except Exception as error:  # of a library, or a fault of ours: one message too
        if args.debug:
            raise
        what = f"{type(error).__module__}.{type(error).__name__}".removeprefix("builtins.")
        common.say(f"isthmus {args.command}: unexpected {what}: {error} (--debug shows where)", error=True)
        return FAILED
