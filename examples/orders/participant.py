"""A participant of sagas in Python, with the barrier: the rules that make it safe to be asked twice,
in the wrong order, and in the middle of a crash. Its books are in SQLite; on Postgres the statements
are the same, with %s for ? and without `begin immediate`.

    python3 examples/orders/participant.py 9000 books.db

`POST /SERVICE/VERB` does something for a step. It refuses what has `"sold_out"` in its items.
"""

import http.server
import json
import os
import sqlite3
import sys

SCHEMA = """
create table if not exists saga_barrier (
    saga text not null, step text not null, operation text not null, round integer not null,
    state text not null check (state in ('done', 'refused', 'blocked')),
    answer text,
    primary key (saga, step, operation, round)
);
create table if not exists ledger (saga text, step text, amount integer);
"""


class Refused(Exception):
    """No, for good; nothing of what was done before it stays."""


def insert(db, key, state):
    """Whether the row was not there yet: the primary key decides, not a look before."""
    return db.execute(
        "insert into saga_barrier (saga, step, operation, round, state) values (?, ?, ?, ?, ?)"
        " on conflict do nothing", (*key, state)).rowcount == 1


def look(db, key):
    return db.execute(
        "select state, answer from saga_barrier"
        " where saga = ? and step = ? and operation = ? and round = ?", key).fetchone()


def answered(db, key, state, answer):
    db.execute(
        "update saga_barrier set state = ?, answer = ?"
        " where saga = ? and step = ? and operation = ? and round = ?",
        (state, json.dumps(answer), *key))


def action(db, saga, step, round_, work):
    """Runs `work` once; a repeated call is answered with the stored answer, refusals too."""
    key = (saga, step, "action", round_)
    if not insert(db, key, "done"):
        state, answer = look(db, key)
        if state == "blocked":
            return 422, {"error": "its undo came first"}
        return (200 if state == "done" else 422), json.loads(answer)
    db.execute("savepoint work")
    try:
        answer = work(db)
    except Refused as why:
        db.execute("rollback to work")
        answered(db, key, "refused", {"error": str(why)})
        return 422, {"error": str(why)}
    answered(db, key, "done", answer)
    return 200, answer


def compensation(db, saga, step, round_, undo):
    """Undoes what was done, once. What never ran is blocked, so that it cannot run later."""
    key = (saga, step, "compensation", round_)
    if not insert(db, key, "done"):
        return 200, json.loads(look(db, key)[1])
    insert(db, (saga, step, "action", 1), "blocked")
    done = db.execute(
        "select answer from saga_barrier where saga = ? and step = ? and operation = 'action'"
        " and state = 'done'", (saga, step)).fetchone()
    answer = undo(db, json.loads(done[0])) if done and done[0] else {"undone": "nothing"}
    answered(db, key, "done", answer)
    return 200, answer


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or "null")
        saga, step = self.headers["Skald-Saga-Id"], self.headers["Skald-Step"]
        round_ = int(self.headers["Idempotency-Key"].rsplit("/", 1)[1])

        def work(db):
            if "sold_out" in json.dumps(body):
                raise Refused("sold out")
            db.execute("insert into ledger values (?, ?, 1)", (saga, step))
            return {"id": f"{saga}-{step}"}

        def undo(db, _receipt):
            db.execute("insert into ledger values (?, ?, -1)", (saga, step))
            return {"undone": f"{saga}-{step}"}

        db = sqlite3.connect(BOOKS, isolation_level=None, timeout=30)
        try:
            db.execute("begin immediate")
            run, what = (
                (action, work) if self.headers["Skald-Operation"] == "action"
                else (compensation, undo))
            status, answer = run(db, saga, step, round_, what)
            db.execute("commit")
        finally:
            db.close()
        if os.environ.get("DIE_NOW") and os.urandom(1)[0] < 6:
            os._exit(9)  # After the commit, before the answer: the worst moment.
        self.answer(status, answer)

    def do_GET(self):
        """The books: what is in effect by saga and step."""
        db = sqlite3.connect(BOOKS, timeout=30)
        rows = db.execute("select saga, step, sum(amount) from ledger group by saga, step")
        self.answer(200, [[saga, step, total] for saga, step, total in rows])
        db.close()

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
    PORT, BOOKS = int(sys.argv[1]), sys.argv[2]
    with sqlite3.connect(BOOKS) as books:
        books.execute("pragma journal_mode = wal")
        books.executescript(SCHEMA)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
