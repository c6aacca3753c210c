"""A bare loop that writes stored values as lines, 2,000 rows at a time."""

import sqlite3
import sys

db = sqlite3.connect(sys.argv[1], isolation_level=None)
position = -1
while rows := db.execute(
    "SELECT offset, time, key, value, headers FROM message"
    " WHERE topic = 1 AND offset > ? ORDER BY offset LIMIT 2000",
    (position,),
).fetchall():
    sys.stdout.buffer.write(b"".join([row[3] + b"\n" for row in rows]))
    position = rows[-1][0]
db.close()
