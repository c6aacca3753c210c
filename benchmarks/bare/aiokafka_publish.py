"""The least that publishes one message with aiokafka, acknowledged by all replicas."""

import asyncio
import sys

from aiokafka import AIOKafkaProducer


async def main() -> None:
    producer = AIOKafkaProducer(bootstrap_servers=sys.argv[1], acks="all")
    await producer.start()
    await producer.send_and_wait(sys.argv[2], sys.argv[3].encode())
    await producer.stop()


asyncio.run(main())
