"""The typer application: global options, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from anychip import __version__
from anychip.core import AnychipError, CompileError, UnsupportedError
from anychip.core.config import check_environment

VERBS = {
    "doctor": "doctor",
    "knobs": "doctor",
    "chips": "chips",
    "pull": "pull",
    "compare": "compare",
    "compile": "compile",
    "run": "run",
    "bench": "bench",
    "bench-llm": "bench_llm",
    "trace": "trace",
    "show": "show",
    "diff": "diff",
    "bisect": "bisect",
    "demo": "demo",
    "cache": "cache",
    "validate": "validate",
    "simulate": "simulate",
    "zoo": "zoo",
}
"""Verb → its module in this folder, in the order that --help shows."""


def application(words: Sequence[str] = ()) -> typer.Typer:
    """The application; with the verb alone that the first of `words` names, which is imported in a
    tenth of the time that all of them take."""
    app = typer.Typer(
        name="anychip",
        help="The open software layer between every model and every chip.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback(invoke_without_command=True)(options)
    first = next((word for word in words if not word.startswith("-")), "")
    modules = {VERBS[first]: None} if first in VERBS else dict.fromkeys(VERBS.values())
    for module in modules:
        import_module(f"anychip.cli.{module}").register(app)
    return app


def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options before the verb."""
    if version:
        print(f"anychip {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.BadParameter("name a verb; `anychip --help` lists them")
    check_environment()


def main() -> None:
    """Run the command line. Exit codes: 0 yes, 1 the verdict is no, 2 usage or environment."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # or JAX loads, and waits for, absent devices
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # XLA's chatter; warnings stay
    debug = "--debug" in sys.argv[1:]
    sys.argv[1:] = [*(["--debug"] if debug else []), *(a for a in sys.argv[1:] if a != "--debug")]
    try:
        application(sys.argv[1:])()
    except AnychipError as error:
        if debug:
            raise
        print(f"anychip: {error}", file=sys.stderr)
        if isinstance(error, CompileError) and error.log:
            print(
                "\n".join(f"  | {line}" for line in error.log.splitlines()[-20:]), file=sys.stderr
            )
        if isinstance(error, UnsupportedError) and error.report:
            from anychip.cli import unsupported

            folder = unsupported.write(error, " ".join(sys.argv[1:3]))
            print(f"anychip: all of it: {folder}/unsupported.md", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)  # the reader of our output has seen enough
    except OSError as error:
        if debug:
            raise
        from anychip.cli.output import said_by_the_system

        print(f"anychip: {said_by_the_system(error)}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        print(
            f"anychip: internal error: {type(error).__name__}: {error}\n"
            "This is a bug in anychip. Run again with --debug for the traceback.",
            file=sys.stderr,
        )
        sys.exit(2)
