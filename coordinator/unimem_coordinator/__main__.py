"""`python -m unimem_coordinator --listen 127.0.0.1:7400 --state DIR/coordinator.sqlite3`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from unimem_coordinator.server import run_coordinator


def main(
    listen: Annotated[str, typer.Option(help="host:port; port 0: any free one")] = "127.0.0.1:7400",
    state: Annotated[
        Path | None, typer.Option(help="SQLite file; without it everything is forgotten at the end")
    ] = None,
    node_ttl: Annotated[float, typer.Option(help="seconds a node's lease lasts", min=0.1)] = 5.0,
    session_ttl: Annotated[float, typer.Option(help="seconds a session lasts", min=0.1)] = 30.0,
    reflection: Annotated[bool, typer.Option(help="list the services to gRPC tools")] = True,
) -> None:
    """Run a coordinator until SIGTERM."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    code = run_coordinator(
        listen, state, node_ttl=node_ttl, session_ttl=session_ttl, enable_reflection=reflection
    )
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
