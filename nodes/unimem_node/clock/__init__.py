"""Virtual time: the event queue, seeded randomness, and the log of what happened when."""

from unimem_node.clock.event_log import EventLog, LogRow
from unimem_node.clock.scheduler import Event, Scheduler
from unimem_node.clock.streams import named_stream

__all__ = ["Event", "EventLog", "LogRow", "Scheduler", "named_stream"]
