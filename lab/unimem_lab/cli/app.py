"""The commands of `unimem` and their options. What they do lives in modules that are imported on use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from unimem_lab.cli import output
from unimem_lab.cli.exp_app import exp

app = typer.Typer(
    name="unimem",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="A global virtual address space over simulated ARMv8 MPSoCs: remote DMA through the target's SMMU.",
)
app.add_typer(exp, name="exp")


Json = Annotated[
    bool, typer.Option("--json", help="Answer with one JSON object on stdout.", callback=output.use_json)
]
On = Annotated[str, typer.Option("--on", envvar="UNIMEM_ADDRESS", help="The coordinator's HOST:PORT.")]
Domain = Annotated[
    str, typer.Option(help="Protection domain: commands that name the same one share its regions.")
]
Platform = Annotated[str, typer.Option(help="Platform of the nodes (a file of unimem_node.mpsoc.platforms).")]
Topology = Annotated[
    str, typer.Option(help="How nodes are wired: full, ring, mesh2d, torus3d, pair; sets the hops.")
]
Policy = Annotated[
    str,
    typer.Option(help="Page faults of remote DMA: abort, touch_a_page, touch_ahead:N, prefault, pin, stall."),
]
Transport = Annotated[
    str,
    typer.Option(
        envvar="UNIMEM_TRANSPORT",
        help="Best way between nodes that may be used: auto (= shm), unix, tcp, grpc.",
    ),
]
Impairment = Annotated[
    str,
    typer.Option(
        "--impair",
        envvar="UNIMEM_IMPAIR",
        help="A bad network: loss=0.05,duplicate=0.02,reorder=0.02,corrupt=0.01,seed=7",
    ),
]
Mqtt = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(envvar="UNIMEM_MQTT", help="HOST:PORT of a broker for status, counters and faults."),
]
LOCAL = "localhost:7400"


@app.command()
def demo(
    file: Annotated[
        Path | None, typer.Option(help="The file to move; by default one made from the seed.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=2, max=256, help="How many MPSoCs.")] = 4,
    seed: Annotated[int, typer.Option(help="Same seed, same events.jsonl.")] = 1,
    platform: Platform = "zynqmp",
    topology: Topology = "ring",
    json: Json = False,
) -> int:
    """The thesis' scenarios, a file moved node to node by global address, refused accesses, a report."""
    from unimem_lab.demo import run_demo, show_demo  # noqa: PLC0415

    result = run_demo(file=file, nodes=nodes, seed=seed, platform=platform, topology=topology)
    if json:
        output.answer(result.as_dict())
    else:
        show_demo(result)
    return 0 if result.ok else output.FAILED


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, max=64, help="How many node processes.")] = 4,
    platform: Platform = "zynqmp",
    topology: Topology = "full",
    policy: Policy = "abort",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The coordinator's port; 0: any.")] = 7400,
    state: Annotated[
        Path | None, typer.Option(help="The coordinator's database; by default a temporary one.")
    ] = None,
    mqtt: Mqtt = None,
    transport: Transport = "auto",
    impair: Impairment = "",
    json: Json = False,
) -> int:
    """Run a cluster of processes on this machine until Ctrl-C."""
    from unimem_lab.cli.cluster import run_up  # noqa: PLC0415

    return run_up(
        nodes=nodes,
        platform=platform,
        topology=topology,
        policy=policy,
        port=port,
        state=state,
        mqtt=mqtt,
        transport=transport,
        impair=impair,
    )


@app.command()
def node(
    coordinator: Annotated[
        str, typer.Option(envvar="UNIMEM_COORDINATOR", help="HOST:PORT of the coordinator.")
    ] = LOCAL,
    listen: Annotated[str, typer.Option(help="HOST:PORT to serve on; port 0: any.")] = "127.0.0.1:0",
    advertise: Annotated[
        str, typer.Option(help="HOST:PORT others dial; `auto:PORT` takes this host's name.")
    ] = "",
    name: Annotated[
        str, typer.Option(envvar="UNIMEM_NODE_NAME", help="Keeps its window; by default the host's name.")
    ] = "",
    platform: Platform = "zynqmp",
    topology: Topology = "full",
    policy: Policy = "abort",
    memory: Annotated[str, typer.Option(help="DRAM: 4G by default; costs only the pages touched.")] = "4G",
    mqtt: Mqtt = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the coordinator at start.")] = 60.0,
    reflection: Annotated[bool, typer.Option(help="Serve gRPC reflection.")] = False,
    fast: Annotated[bool, typer.Option(help="Use the compiled fast paths.")] = True,
    transport: Transport = "auto",
    impair: Impairment = "",
    json: Json = False,
) -> int:
    """Run one node: its memory, SMMU and DMA engines as gRPC services."""
    from unimem_lab.cli.cluster import run_one_node  # noqa: PLC0415

    return run_one_node(
        coordinator=coordinator,
        listen=listen,
        advertise=advertise,
        name=name,
        platform=platform,
        topology=topology,
        policy=policy,
        memory_bytes=output.size(memory),
        mqtt=mqtt,
        wait=wait,
        reflection=reflection,
        fast=fast,
        transport=transport,
        impair=impair,
    )


@app.command()
def coordinator(
    listen: Annotated[str, typer.Option(help="HOST:PORT to serve on.")] = "127.0.0.1:7400",
    state: Annotated[Path, typer.Option(help="SQLite database; made when it is not there.")] = Path(
        "coordinator.sqlite3"
    ),
    lease_ttl: Annotated[float, typer.Option(help="Seconds after which a silent node is lost.")] = 5.0,
    reflection: Annotated[bool, typer.Option(help="Serve gRPC reflection.")] = False,
    json: Json = False,
) -> int:
    """Run the authority over the address space."""
    from unimem_lab.cli.cluster import run_the_coordinator  # noqa: PLC0415

    return run_the_coordinator(listen=listen, state=state, lease_ttl=lease_ttl, reflection=reflection)


@app.command()
def status(on: On = LOCAL, json: Json = False) -> int:
    """The nodes: state, window, how they are reached, and what their counters say. 1 when one is not up."""
    from unimem_lab.cli.data import show_status  # noqa: PLC0415

    return show_status(on)


@app.command()
def regs(
    node: Annotated[str, typer.Argument(help="Whose.")],
    block: Annotated[
        str,
        typer.Argument(
            help="smmu, smmu/cb0, smmu/smr, fpd0, smmu:CB_FSR, smmu:'TLB*'; by default what there is."
        ),
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Also registers that are as out of reset.")
    ] = False,
    on: On = LOCAL,
    json: Json = False,
) -> int:
    """Look at a node's live registers, field by field; nothing is changed by it."""
    from unimem_lab.cli.regs import show_blocks, show_registers  # noqa: PLC0415

    return show_registers(on, node, block, everything=everything) if block else show_blocks(on, node)


@app.command()
def stream(
    number: Annotated[str, typer.Argument(help="A stream ID: 0x0203, 515. By default all are listed.")] = "",
    port: Annotated[str, typer.Option(help="Instead: the stream of a master on this PL port ...")] = "",
    axi_id: Annotated[int, typer.Option(min=0, help="... that drives this AXI ID.")] = 0,
    platform: Platform = "zynqmp",
    json: Json = False,
) -> int:
    """Whose stream is that, and which stream is this master's? 1 when nobody presents it."""
    from unimem_lab.cli.regs import show_stream  # noqa: PLC0415

    return show_stream(platform, number, port, axi_id)


@app.command()
def alloc(
    length: Annotated[str, typer.Argument(help="Bytes: 4096, 0x1000, 64K, 1M, 2G.")],
    node: Annotated[str, typer.Option(help="Where; by default the home node.")] = "",
    name: Annotated[str, typer.Option(help="A name, unique in the domain.")] = "",
    domain: Domain = "default",
    on: On = LOCAL,
    json: Json = False,
) -> int:
    """Allocate a region and print its global virtual address."""
    from unimem_lab.cli.data import allocate  # noqa: PLC0415

    return allocate(on, domain, output.size(length), node, name)


@app.command()
def free(
    gva: Annotated[str, typer.Argument(help="The region's base.")],
    domain: Domain = "default",
    on: On = LOCAL,
    json: Json = False,
) -> int:
    """Free a region."""
    from unimem_lab.cli.data import free_region  # noqa: PLC0415

    return free_region(on, domain, gva)


@app.command()
def regions(on: On = LOCAL, json: Json = False) -> int:
    """List the regions of all domains."""
    from unimem_lab.cli.data import show_regions  # noqa: PLC0415

    return show_regions(on)


@app.command()
def put(
    file: Annotated[Path, typer.Argument(help="The file whose bytes go there; - for standard input.")],
    gva: Annotated[str, typer.Argument(help="Global virtual address.")],
    domain: Domain = "default",
    on: On = LOCAL,
    json: Json = False,
) -> int:
    """Write a file to a global virtual address."""
    from unimem_lab.cli.data import put_file  # noqa: PLC0415

    return put_file(on, domain, file, gva)


@app.command()
def get(
    gva: Annotated[str, typer.Argument(help="Global virtual address.")],
    length: Annotated[str, typer.Argument(help="Bytes.")],
    file: Annotated[Path, typer.Argument(help="Where they go; - for standard output.")],
    domain: Domain = "default",
    on: On = LOCAL,
    json: Json = False,
) -> int:
    """Read bytes at a global virtual address into a file."""
    from unimem_lab.cli.data import get_file  # noqa: PLC0415

    return get_file(on, domain, gva, output.size(length), file)


@app.command()
def doctor(on: On = LOCAL, json: Json = False) -> int:
    """Look at this machine and at the cluster: what is missing, and the way out."""
    from unimem_lab.cli.doctor import run_doctor  # noqa: PLC0415

    return run_doctor(on)


@app.command()
def healthcheck(
    address: Annotated[str, typer.Argument(help="HOST:PORT of a node or coordinator.")] = LOCAL,
    timeout: Annotated[float, typer.Option(help="Seconds.")] = 3.0,
    json: Json = False,
) -> int:
    """Ask one service whether it serves: 0 yes, 1 no, 2 no answer."""
    from unimem_lab.cli.doctor import check_health  # noqa: PLC0415

    return check_health(address, timeout)


@app.command()
def bench(
    what: Annotated[
        str,
        typer.Argument(help="translation, dma, transfer, latency, rate, tcp, shm, sim, footprint or all."),
    ] = "all",
    output_dir: Annotated[
        Path | None, typer.Option("--output", help="Also write the JSON into this folder.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Shorter runs, rougher figures.")] = False,
    transport: Annotated[
        str, typer.Option(help="Between the nodes of transfer, latency and rate: grpc, tcp, unix, shm.")
    ] = "grpc",
    json: Json = False,
) -> int:
    """Measure, each figure beside its yardstick in the same run. 1 when a wanted ratio is not reached."""
    from unimem_lab.bench import run_bench  # noqa: PLC0415

    return run_bench(what, output_dir=output_dir, quick=quick, transport=transport)


@app.command()
def warmup(json: Json = False) -> int:
    """Compile the fast paths now, so that nobody waits for it later."""
    from unimem_lab.warmup import compile_everything  # noqa: PLC0415

    where = compile_everything()
    if json:
        output.answer({"compiled": str(where)})
    else:
        output.say(f"compiled into {where}")
    return 0
