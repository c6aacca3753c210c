"""The least that publishes one persistent message with aiormq, the driver under aio-pika."""

import asyncio
import sys

import aiormq
from pamqp.commands import Basic


async def main() -> None:
    connection = await aiormq.connect(sys.argv[1])
    channel = await connection.channel()
    await channel.basic_publish(
        sys.argv[3].encode(),
        routing_key=sys.argv[2],
        properties=Basic.Properties(delivery_mode=2),
        mandatory=True,
    )
    await connection.close()


asyncio.run(main())
