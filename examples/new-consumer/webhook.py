"""A new webhook: python3 webhook.py [URL]. It registers itself once, checks signatures, and recovers the past."""
import base64
import hashlib
import hmac
import http.server
import json
import os
import sys
import threading
import time
import urllib.request

BASE, NAME = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080", "examples/new-consumer/webhook.py"
KEY = os.environ.get("SKALD_KEY")  # one with the scope `admin`, which alone may see secrets, for `skald serve`
HEADERS = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {KEY}"} if KEY else {})

def call(method, path, body=None):
    request = urllib.request.Request(BASE + path, json.dumps(body).encode() if body else None, HEADERS, method=method)
    return json.load(urllib.request.urlopen(request, timeout=90))

class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        id, at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        mac = hmac.digest(SECRET, f"{id}.{at}.".encode() + body, hashlib.sha256)
        signature = "v1," + base64.b64encode(mac).decode()
        genuine = any(hmac.compare_digest(signature, one) for one in self.headers["webhook-signature"].split())
        if genuine and abs(time.time() - int(at)) < 300:
            print(f"received {json.loads(body)['id']}\n", end="", flush=True)
        self.send_response(204 if genuine else 401)
        self.end_headers()

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
wanted = {"url": f"http://127.0.0.1:{server.server_port}/", "types": ["com.acme.order.*"], "description": NAME}
known = [one["id"] for one in call("GET", "/v1/webhooks?limit=500")["items"] if one["description"] == NAME]
id = (call("PATCH", f"/v1/webhooks/{known[0]}", wanted) if known else call("POST", "/v1/webhooks", wanted))["id"]
SECRET = base64.b64decode(call("GET", f"/v1/webhooks/{id}/secret")["secret"].removeprefix("whsec_"))
threading.Thread(target=server.serve_forever).start()
call("POST", f"/v1/webhooks/{id}/enable")  # where it was disabled while nobody listened
call("POST", "/v1/replays", {"webhook": id, "from_seq": 1, "mode": "skip_done"})
