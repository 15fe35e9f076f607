"""The `unimem` command: exit 0 ok, 1 the check failed, 2 unknown, 3 and above could not run."""

from __future__ import annotations

import sys

from unimem_lab.cli.app import app
from unimem_lab.cli.output import fail

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; every expected failure is one message and an exit code, never a traceback."""
    import typer  # noqa: PLC0415

    from unimem import UnimemError  # noqa: PLC0415

    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = 130
    except typer.TyperException as error:  # the command line itself: no such option, a bad value
        code = fail(error.format_message(), reason="USAGE")
    except KeyboardInterrupt:
        code = 130
    except UnimemError as error:
        code = fail(str(error), reason=error.reason)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = fail(f"{where}{error.strerror or error}", reason="OS_ERROR")
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
