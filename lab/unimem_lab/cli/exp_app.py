"""The commands of `unimem exp` and their options; what they do is in `unimem_lab.cli.exp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from unimem_lab.cli import output

Json = Annotated[
    bool, typer.Option("--json", help="Answer with one JSON object on stdout.", callback=output.use_json)
]


exp = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Experiments: run, show, compare, replay; their schema."
)
Run = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/latest.")]


@exp.command("run")
def exp_run(
    file: Annotated[Path, typer.Argument(help="A .yaml file, or a .py file with build().")],
    seed: Annotated[Optional[int], typer.Option(min=0, help="By default the file's.")] = None,  # noqa: UP045
    seeds: Annotated[Optional[str], typer.Option(help="Many: 0..999, or 1,5,8.")] = None,  # noqa: UP045
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Seeds at a time.")] = 1,
    settings: Annotated[
        list[str], typer.Option("--set", help="key=value, such as workload.bytes=4K; may be repeated.")
    ] = [],  # noqa: B006 - typer copies it
    on: Annotated[
        str,
        typer.Option(
            help="sim: one virtual clock; processes: of this machine; or a coordinator's HOST:PORT."
        ),
    ] = "sim",
    json: Json = False,
) -> int:
    """Run an experiment, or a suite: 0 all as it must be, 1 not, 2 not measured, 3 could not run."""
    from unimem_lab.cli.exp import run_file  # noqa: PLC0415

    return run_file(file, seed=seed, seeds=seeds, jobs=jobs, settings=tuple(settings), on=on)


@exp.command("schema")
def exp_schema(json: Json = False) -> int:
    """Print the JSON Schema of experiment files."""
    from unimem_lab.cli.exp import show_schema  # noqa: PLC0415

    return show_schema()


@exp.command("show")
def exp_show(
    what: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="A run's folder (by default runs/latest), or a file: what it would run."),
    ] = None,
    json: Json = False,
) -> int:
    """Show what a run found, or what a file would run."""
    from unimem_lab.cli.exp import show_thing  # noqa: PLC0415

    return show_thing(what)


@exp.command("replay")
def exp_replay(run: Run, json: Json = False) -> int:
    """Run it again: 0 when results.json comes out the same, byte for byte; 1 when not."""
    from unimem_lab.cli.exp import replay  # noqa: PLC0415

    return replay(run)


@exp.command("compare")
def exp_compare(
    a: Run,
    b: Run,
    tolerance: Annotated[float, typer.Option(min=0, help="Figures that differ by less are equal.")] = 0.0,
    json: Json = False,
) -> int:
    """Compare the figures of two runs: 0 when all are equal, 1 when not."""
    from unimem_lab.cli.exp import compare  # noqa: PLC0415

    return compare(a, b, tolerance)
