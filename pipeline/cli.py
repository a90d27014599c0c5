"""`kuleshov`: one click command per stage. Errors that a user can cause become one line here, and only here."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path

import click

from cache.errors import CacheError
from stages.errors import KuleshovError

COMMANDS = (
    *("init", "demo", "index", "plan", "detect", "align", "extract", "finetune", "train"),
    *("fuse", "evaluate", "report", "predict", "reproduce"),
    *("weights", "cache", "doctor"),
)
_STAGES = {"index", "detect", "align", "extract", "finetune", "train", "fuse", "evaluate", "report"}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for: `kuleshov --help` loads no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which data passes."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pipeline.commands.{'stages' if cmd_name in _STAGES else cmd_name}")
        return getattr(module, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with a suggestion for a mistyped command."""
        import difflib

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, 1)
            if close:
                ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-C",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Work on the project in DIR instead of the current folder.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="How much the libraries underneath may say on standard error.",
)
@click.version_option(package_name="kuleshov")
@click.pass_context
def main_group(ctx: click.Context, folder: Path, log_level: str) -> None:
    """Read photos of people once, cache what networks see in them, and train emotion heads in seconds.

    \b
    A first project on your own photos:
      kuleshov init my-project --adapter folder --root photos/
      cd my-project
      dvc repro

    Each stage reads params.yaml of the project and writes under artifacts/; features go to one store per user
    (KULESHOV_STORE). Nothing leaves this machine but what kuleshov cache push is told to send.
    """
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    ctx.obj = folder


def main() -> None:
    """Run the command line; what a user can cause ends as one line and a non-zero status."""
    try:
        status = main_group.main(prog_name="kuleshov", standalone_mode=False)
        if isinstance(status, int) and status:  # ctx.exit(n) comes back as n
            sys.exit(status)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort as error:
        _fail(_stopped(error.__cause__), 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt as error:
        _fail(_stopped(error), 130)
    except (KuleshovError, CacheError) as error:
        _fail(str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}", 1)


def _stopped(cause: BaseException | None) -> str:
    """What a Ctrl-C leaves: what the interrupted command says of itself, else that recorded rows are kept."""
    return str(cause or "") or "stopped; what was recorded is kept, and the same command goes on from there"


def _fail(message: str, status: int) -> None:
    click.echo(f"kuleshov: error: {' '.join(message.split())}", err=True)
    sys.exit(status)
