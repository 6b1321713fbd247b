"""A new consumer in a program of its own: python3 lease.py [URL]

It registers itself, catches up from the first event, and goes on with what comes.
"""

import json
import os
import sys
import urllib.request

BASE = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
CONSUMER = f"{BASE}/v1/consumers/weigh-order"
HEADERS = {"Content-Type": "application/json"}
if os.environ.get("SKALD_KEY"):  # a key with the scope `operate`, for `skald serve`
    HEADERS["Authorization"] = "Bearer " + os.environ["SKALD_KEY"]


def call(method, url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), HEADERS, method=method)
    with urllib.request.urlopen(request, timeout=90) as answer:
        return json.load(answer)


def weigh(order):
    print("weighed", order["order_id"], sum(item["quantity"] for item in order.get("items", [])), flush=True)


call("PUT", CONSUMER, {"kind": "pull", "types": ["com.acme.order.placed"], "from": "first"})
while True:
    leased = call("POST", f"{CONSUMER}/lease", {"max": 50, "lease": "30s", "wait": "20s"})["leases"]
    for lease in leased:
        proof, verb = {"id": lease["id"], "token": lease["token"]}, "ack"
        try:
            weigh(lease["event"]["data"])
        except (KeyError, TypeError) as error:  # no order: trying again would not help
            proof, verb = proof | {"error": repr(error), "permanent": True}, "nak"
        call("POST", f"{CONSUMER}/{verb}", {"leases": [proof]})
