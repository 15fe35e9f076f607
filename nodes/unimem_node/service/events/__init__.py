"""What a node tells the world, off the path of every transfer: a small event-bus interface and its kinds."""

from unimem_node.service.events.bus import EventBus, NullBus, make_bus

__all__ = ["EventBus", "NullBus", "make_bus"]
