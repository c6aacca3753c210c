"""A bare loop that stores the lines of standard input, 2,000 rows a transaction, in WAL."""

import sqlite3
import sys
import time
from itertools import islice

db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA synchronous=NORMAL")
db.execute(
    "CREATE TABLE IF NOT EXISTS message (topic INTEGER, offset INTEGER, time INTEGER, key BLOB,"
    " value BLOB, headers BLOB, PRIMARY KEY (topic, offset)) WITHOUT ROWID"
)
lines = (line.rstrip(b"\n") for line in sys.stdin.buffer)
offset = 0
while rows := list(islice(lines, 2000)):
    now = time.time_ns() // 1_000_000
    db.execute("BEGIN IMMEDIATE")
    db.executemany(
        "INSERT INTO message VALUES (1, ?, ?, NULL, ?, NULL)",
        [(offset + i, now, row) for i, row in enumerate(rows)],
    )
    db.execute("COMMIT")
    offset += len(rows)
db.close()
