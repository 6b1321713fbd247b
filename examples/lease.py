"""Leases paid orders and acknowledges them: python3 examples/lease.py [URL]"""

import json
import os
import sys
import urllib.request

BASE = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
CONSUMER = f"{BASE}/v1/consumers/pack-order"
HEADERS = {"Content-Type": "application/json"}
if "SKALD_KEY" in os.environ:  # a key with the scope `operate`, for `skald serve`
    HEADERS["Authorization"] = "Bearer " + os.environ["SKALD_KEY"]


def call(method, url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), HEADERS, method=method)
    with urllib.request.urlopen(request, timeout=90) as answer:
        return json.load(answer)


def pack(order):
    if order["total_cents"] <= 0:
        raise ValueError("nothing was paid")
    print("packing", order["order_id"], flush=True)


call("PUT", CONSUMER, {"kind": "pull", "types": ["com.acme.order.paid"], "from": "first"})
while True:
    done, failed = [], []
    leased = call("POST", f"{CONSUMER}/lease", {"max": 10, "lease": "30s", "wait": "20s"})
    for lease in leased["leases"]:
        answer = {name: lease[name] for name in ("id", "token")}
        try:
            pack(lease["event"]["data"])
            done.append(answer)
        except Exception as error:  # a wrong value never heals; all else is tried again
            failed.append(answer | {"error": repr(error), "permanent": type(error) is ValueError})
    for verb, answers in ("ack", done), ("nak", failed):
        if answers:
            call("POST", f"{CONSUMER}/{verb}", {"leases": answers})
