"""Redis: the keys of tasks, and the server that holds them. The only room that imports the driver.

`keys.py` sweeps, `sweep.py` keeps the state of one sweep, `server.py` talks to one Redis (`scan.py`: all its keys,
`nodes.py`: connections, `topology.py`: which node has which key), `connection.py` opens, `faults.py` names errors.
`catalog.py` is the index of tasks, in keys that hold their state (`state_search.py` finds them, `state_scripts.py`
reads and removes them, `state_records.py` deletes them last of all, `state_probe.py` tries everything).
"""

from taskdeletion.backends.redis.catalog import RedisCatalog
from taskdeletion.backends.redis.connection import RedisConnection
from taskdeletion.backends.redis.keys import MAX_PASSES, RedisKeys
from taskdeletion.backends.redis.scan import PAGE_SIZE
from taskdeletion.backends.redis.server import RedisServer
from taskdeletion.domain.states import StateKeys

__all__ = ["MAX_PASSES", "PAGE_SIZE", "RedisCatalog", "RedisConnection", "RedisKeys", "RedisServer", "StateKeys"]
