"""Floor 7: how a node is reached. gRPC, MQTT, and the life of the process.

The model below does no I/O: `NodeHost` calls it on the event loop's thread and carries what comes out.
`run_node` is a whole process; `NodeServer` one node inside a running event loop::

    from unimem_node.service import NodeSettings, run_node

    raise SystemExit(run_node(NodeSettings(name="n0", coordinator="127.0.0.1:7400")))
"""

from unimem_node.service.config import NodeSettings, SettingsError, load_settings
from unimem_node.service.host import NodeHost
from unimem_node.service.membership import JoinError
from unimem_node.service.process import run_node
from unimem_node.service.server import NodeServer, StartError

__all__ = [
    "JoinError",
    "NodeHost",
    "NodeServer",
    "NodeSettings",
    "SettingsError",
    "StartError",
    "load_settings",
    "run_node",
]
