"""The least that pushes one value with redis.asyncio: what our start-up is compared with."""

import asyncio
import sys

import redis.asyncio


async def main() -> None:
    client = redis.asyncio.from_url(sys.argv[1])
    await client.rpush(sys.argv[2], sys.argv[3])
    await client.aclose()


asyncio.run(main())
