"""What the bus answers when an access fails (AXI4 write and read responses)."""

from __future__ import annotations

from typing import Literal

from unimem.addresses import fmt

Response = Literal["DECERR", "SLVERR"]


class BusError(Exception):
    """An access failed: nobody is there (`DECERR`), or who is there refused (`SLVERR`).

    The caller chose the address, or the software it simulates did.
    """

    def __init__(self, address: int, response: Response, message: str = "") -> None:
        super().__init__(message or f"{response} at {fmt(address)}")
        self.address = address
        self.response: Response = response
