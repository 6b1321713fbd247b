"""The people and the seats of a conference, with the barrier of examples/orders/participant.py.

    python3 examples/conference/participant.py 9001 conference.db 100

`GET /` tells how many are registered and how many seats are free.
"""

import http.server
import json
import pathlib
import sqlite3
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "orders"))
from participant import SCHEMA, Refused, action, compensation  # noqa: E402

TABLES = """
create table if not exists person (name text primary key);
create table if not exists seats (one integer primary key, free integer check (free >= 0));
"""


def change(db, path):
    """What a path does: the same whether it is an action or an undo."""
    match path.strip("/").split("/"):
        case ["people", name]:
            if db.execute("insert into person values (?) on conflict do nothing", (name,)).rowcount == 0:
                raise Refused("already registered")
        case ["people", name, "remove"]:
            if db.execute("delete from person where name = ?", (name,)).rowcount == 0:
                raise Refused("not registered")
        case ["seats", "take"]:
            if db.execute("update seats set free = free - 1 where free > 0").rowcount == 0:
                raise Refused("no seats left")
        case ["seats", "give-back"]:
            db.execute("update seats set free = free + 1")
    return {"left": db.execute("select free from seats").fetchone()[0]}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        saga, step, operation, round_ = self.headers["Idempotency-Key"].split("/")
        db = sqlite3.connect(BOOKS, isolation_level=None, timeout=60)
        try:
            db.execute("begin immediate")
            if operation == "action":
                status, answer = action(db, saga, step, int(round_), lambda db: change(db, self.path))
            else:
                status, answer = compensation(
                    db, saga, step, int(round_), lambda db, _receipt: change(db, self.path))
            db.execute("commit")
        finally:
            db.close()
        self.answer(status, answer)

    def do_GET(self):
        db = sqlite3.connect(BOOKS, timeout=60)
        people = db.execute("select count(*) from person").fetchone()[0]
        free = db.execute("select free from seats").fetchone()[0]
        db.close()
        self.answer(200, {"registered": people, "free": free})

    def answer(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    PORT, BOOKS, SEATS = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with sqlite3.connect(BOOKS) as books:
        books.execute("pragma journal_mode = wal")
        books.executescript(SCHEMA + TABLES)
        books.execute("insert into seats values (1, ?) on conflict do nothing", (SEATS,))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    server.request_queue_size = 256
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
