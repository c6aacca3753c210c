"""The least that publishes one persistent message with aio-pika, confirmed."""

import asyncio
import sys

import aio_pika


async def main() -> None:
    connection = await aio_pika.connect(sys.argv[1])
    channel = await connection.channel()
    message = aio_pika.Message(sys.argv[3].encode(), delivery_mode=2)
    await channel.default_exchange.publish(message, routing_key=sys.argv[2])
    await connection.close()


asyncio.run(main())
