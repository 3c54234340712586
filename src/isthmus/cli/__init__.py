"""The `isthmus` command: one file per subcommand; each parses, calls one library function and prints."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from isthmus.cache import give_home
from isthmus.cli import common
from isthmus.errors import PANIC, IsthmusError, UsageError
from isthmus.registry import DEMO, Registry
from isthmus.version import __version__

# Order of the help text: the way pairs flow. Modules named with a trailing underscore avoid a keyword. A command is a
# module: its docstring is the help, `add_arguments(parser)` and `run(args)` do the rest.
COMMANDS = Registry(
    "isthmus.commands",
    {
        "embed": "isthmus.cli.embed",
        "import": "isthmus.cli.import_",
        "select": "isthmus.cli.select",
        "curate": "isthmus.cli.curate",
        "train": "isthmus.cli.train",
        "eval": "isthmus.cli.eval",
        "index": "isthmus.cli.index",
        "search": "isthmus.cli.search",
        "classify": "isthmus.cli.classify",
        "ask": "isthmus.cli.ask",
        "caption": "isthmus.cli.caption",
        "transcribe": "isthmus.cli.transcribe",
        "encode": "isthmus.cli.encode",
        "segment": "isthmus.cli.segment",
        "serve": "isthmus.cli.serve",
        "mouths": "isthmus.cli.mouths",
        "encoders": "isthmus.cli.encoders",
        "export": "isthmus.cli.export",
        "doctor": "isthmus.cli.doctor",
    },
    noun="command",
    elsewhere={"fetch": DEMO, "demo": DEMO},
)
HELP = "show this help message and exit"
DONE, FAILED, SKIPPED, INTERRUPTED = 0, 1, 3, 130


def build_parser(argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of the command line, or of the part that `argv` needs. Imports no torch, transformers or pyarrow."""
    parser = argparse.ArgumentParser(
        prog="isthmus",
        description="Join frozen image and text encoders into a CLIP-like model.",
        epilog="exit codes: 0 done; 3 done, but some inputs were skipped and listed; 1 failed; "
        "2 wrong usage; 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"isthmus {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS.names():
        try:
            module = COMMANDS.find(name)
        except UsageError as error:
            _add_unavailable(commands, name, error)
            continue
        summary, _, details = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(
            name,
            help=summary.rstrip(".").replace("%", "%%"),
            description=common.prose(summary),
            epilog=common.prose(details),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
        )
        command.add_argument("-h", "--help", action=getattr(module, "Help", "help"), help=HELP)
        if argv is None or name in argv:
            module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    return parser


def _add_unavailable(commands: argparse._SubParsersAction, name: str, error: UsageError) -> None:
    """Add a command whose package is missing or broken: it accepts any arguments and raises `error`."""

    def run(args: argparse.Namespace) -> int:
        raise error

    command = commands.add_parser(name, help=str(error).replace("%", "%%"), add_help=False, prefix_chars="\0")
    command.add_argument("arguments", nargs="*")
    command.set_defaults(run=run, debug=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one message, with --debug a traceback."""
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where the output is not UTF-8, as on Windows
    args = build_parser(argv).parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else tokenizers warn once threads decode images
    # OpenMP threads that wait spin by default: on a machine that is also doing something else, torch is then up to
    # ten times slower. Read when torch is first imported, in a command. benchmarks/busy_machine.py measures it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        give_home()
        return args.run(args) or DONE
    except KeyboardInterrupt:
        common.say("isthmus: interrupted; run the same command again to go on from here.", error=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the program that read our output has ended
        return DONE
    except IsthmusError as error:
        if args.debug:
            raise
        common.say(f"isthmus {args.command}: {error}", error=True)
        return error.exit_code
    except OSError as error:  # a file that we do not write ourselves: the system's message and the file's name
        if args.debug:
            raise
        common.say(f"isthmus {args.command}: {error}", error=True)
        return FAILED
    except Exception as error:  # an error of a library, or a bug of ours: also one message
        if args.debug:
            raise
        what = f"{type(error).__module__}.{type(error).__name__}".removeprefix("builtins.")
        common.say(f"isthmus {args.command}: unexpected {what}: {error} (--debug shows where)", error=True)
        return FAILED
    except BaseException as error:
        if type(error).__name__ != PANIC or args.debug:
            raise
        common.say(f"isthmus {args.command}: a library failed on this input: {error}", error=True)
        return FAILED
