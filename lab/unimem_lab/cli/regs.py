"""regs and stream: a node's registers by field, and whose a stream ID is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from unimem.addresses import fmt
from unimem.errors import TransportError, UsageError
from unimem.v1 import node_pb2
from unimem_lab.admin import Admin, Link
from unimem_lab.cli import output
from unimem_lab.registers import Block, Query, RegisterValue, as_json, field_words, groups_of


def show_blocks(on: str, name: str) -> int:
    """List the devices of a node; UNKNOWN when it cannot be reached."""
    with Admin(on) as admin:
        node = admin.node(name)
        try:
            with admin.reach(node) as link:
                listed = link.bus("ListDevices", node_pb2.ListDevicesRequest())
                return _show_blocks(link, listed)
        except TransportError as error:
            return output.fail(str(error), reason=error.reason, code=output.UNKNOWN)


def _show_blocks(link: Link, listed: node_pb2.ListDevicesResponse) -> int:
    pending = set(link.status.pending_interrupts)
    blocks = [_block(device, listed.streams, pending) for device in listed.devices]
    if output.as_json():
        output.answer(
            {
                "node": link.node.name,
                "platform": listed.platform,
                "reached": link.how,
                "blocks": blocks,
                "pending_interrupts": sorted(pending),
            }
        )
        return 0
    output.table(
        ["block", "base", "size", "what", "SPI", "streams", "groups"],
        [
            (
                block["name"],
                fmt(block["base"]),
                output.human(block["size"]),
                block["what"] or "-",
                " ".join(f"{spi}{' asserted' if spi in pending else ''}" for spi in block["spis"]) or "-",
                ", ".join(_span(s["first"], s["count"]) for s in block["streams"]) or "-",
                groups_of(block["what"]),
            )
            for block in blocks
        ],
        title=f"{link.node.name}, {listed.platform}, {link.how}",
    )
    output.say(f"unimem regs {link.node.name} BLOCK shows registers: smmu/cb0, smmu:CB_FSR, ...")
    return 0


def _block(device: node_pb2.BusDevice, streams: Any, pending: set[int]) -> dict[str, Any]:
    own = [s for s in streams if s.name == device.name]
    return {
        "name": device.name,
        "base": device.base,
        "size": device.size,
        "what": device.what,
        "spis": list(device.spis),
        "asserted": [spi for spi in device.spis if spi in pending],
        "streams": [{"first": s.first, "count": s.count} for s in own],
    }


def _span(first: int, count: int) -> str:
    return f"{first:#06x}" if count == 1 else f"{first:#06x} to {first + count - 1:#06x}"


def show_registers(on: str, name: str, text: str, *, everything: bool) -> int:
    """Show registers that differ from reset, `everything`: all; UNKNOWN when the node cannot be reached."""
    query = Query.parse(text)
    with Admin(on) as admin:
        node = admin.node(name)
        try:
            with admin.reach(node) as link:
                block = Block(link, query)
                values = block.values()
                how = link.how
        except TransportError as error:
            return output.fail(str(error), reason=error.reason, code=output.UNKNOWN)
    # Who names registers wants to see them, whatever they hold.
    shown = values if everything or query.pattern else [v for v in values if v.value != v.reset]
    if output.as_json():
        device = block.device
        output.answer(
            {
                "node": name,
                "reached": how,
                "block": {"name": device.name, "base": device.base, "size": device.size, "what": device.what},
                "registers": [as_json(value) for value in shown],
                "as_reset": len(values) - len(shown),
            }
        )
        return 0
    _print(f"{name} {text}, {how}", shown)
    if len(shown) < len(values):
        output.say(f"{len(values) - len(shown)} registers are as out of reset; --all shows them")
    return 0


def _print(title: str, values: list[RegisterValue]) -> None:
    output.table(
        ["register", "address", "value", "reset", "access", "fields"],
        [
            (
                value.name,
                fmt(value.address),
                f"{value.value:#_x}",
                "=" if value.value == value.reset else f"{value.reset:#_x}",
                value.access,
                field_words(value) or value.doc or "-",
            )
            for value in values
        ],
        title=title,
    )


def show_stream(platform: str, number: str, port: str, axi_id: int) -> int:
    """Say whose a stream is, or which stream a master on a port presents; FAILED when nobody presents it."""
    from unimem_node.mpsoc import names  # noqa: PLC0415 - the model is loaded for it
    from unimem_node.mpsoc import platform as platforms  # noqa: PLC0415

    try:
        chip = platforms.load(platform)
    except platforms.PlatformError as error:
        return output.fail(str(error), reason="BAD_PLATFORM")
    parts = names.parts_of(chip, chip.pl_specs(chip.pl.masters))
    streams = names.streams_of(chip, parts)
    if number and port:
        raise UsageError("either a stream ID or --port and --axi-id, not both", op="stream")
    if port:
        if port not in chip.pl.ports:
            raise UsageError(
                f"platform {chip.name} has no port {port!r}; it has {', '.join(chip.pl.ports)}", op="stream"
            )
        part = chip.pl.ports[port]
        if axi_id >= part.axi_ids:
            raise UsageError(f"port {port} tells {part.axi_ids} AXI IDs apart, not {axi_id}", op="stream")
        if part.first_stream is None:
            if output.as_json():
                output.answer({"platform": chip.name, "port": port, "stream": None})
            else:
                output.say(f"port {port} of {chip.name} does not pass the SMMU")
            return output.FAILED
        return _answer_stream(chip.name, part.first_stream + axi_id, streams)
    if number:
        return _answer_stream(chip.name, _stream_id(number), streams)
    rows = [
        (s.name, _span(s.first, s.count), s.count, names.tbu_of(s.first), s.member or "-") for s in streams
    ]
    if output.as_json():
        output.answer({"platform": chip.name, "streams": [asdict(s) for s in streams]})
    else:
        output.table(["whose", "stream IDs", "how many", "TBU", "one for each"], rows, title=chip.title)
    return 0


def _answer_stream(chip: str, stream: int, streams: Any) -> int:
    from unimem_node.mpsoc import names  # noqa: PLC0415
    from unimem_node.mpsoc.parts import TBU_SHIFT  # noqa: PLC0415

    whose = names.stream_name(streams, stream)
    tbu, master = names.tbu_of(stream), stream & (1 << TBU_SHIFT) - 1
    if output.as_json():
        output.answer(
            {"platform": chip, "stream": stream, "tbu": tbu, "master_id": master, "whose": whose or None}
        )
    else:
        output.say(
            f"{stream:#06x}: {whose or 'nobody presents it'}; TBU {tbu}, master ID {master:#05x} ({chip})"
        )
    return 0 if whose else output.FAILED


def _stream_id(text: str) -> int:
    try:
        stream = int(text, 0)
    except ValueError:
        stream = -1
    if not 0 <= stream < 1 << 15:
        raise UsageError(f"{text!r} is no stream ID: 0 to 0x7fff", op="stream")
    return stream
