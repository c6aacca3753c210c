"""Looking at topics and groups, and preparing them."""

from __future__ import annotations

from aiokafka.protocol.admin import DescribeConfigsRequest

from . import _kafka_errors as errors
from ._kafka import Cluster

_TOPIC = 2
_DEFAULT_LARGEST = 1_048_588
"""The broker's default of ``message.max.bytes``."""


async def largest_batch(cluster: Cluster, topic: str) -> int:
    """``max.message.bytes`` of the topic; the broker's default where we may not know.
    Raises ConnectionLost, AccessDenied at login."""
    request = DescribeConfigsRequest([(_TOPIC, topic, ["max.message.bytes"])])
    answer = await cluster.call(request)
    code, _, _, _, entries = answer.resources[0][:5]
    for entry in entries if code == errors.OK else ():
        if entry[0] == "max.message.bytes":
            return int(entry[1])
    return _DEFAULT_LARGEST
