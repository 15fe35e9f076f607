"""``python -m unimem_node.service``: one node as a process; ``--help`` lists the flags."""

from __future__ import annotations

import sys

from unimem_node.service.config import SettingsError, parse_flags
from unimem_node.service.process import EXIT_CANNOT_LISTEN, run_node


def main() -> int:
    """Flags to exit code. The first line on stdout says where the node listens."""
    try:
        settings = parse_flags(sys.argv[1:])
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CANNOT_LISTEN
    form = '{{"listening": "{}"}}' if settings.announce == "json" else "listening on {}"
    return run_node(settings, lambda address: print(form.format(address), flush=True))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
