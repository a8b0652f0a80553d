"""The STOMP side of a test that has AMQP on the other: stomp.py does what it is
told on standard input, a line of JSON a command, and answers each with one.

    stomp_side.py STOMP-URL
"""

import json
import logging
import sys
import threading
import urllib.parse

import stomp

URL = urllib.parse.urlparse(sys.argv[1])
PATIENCE = 15

logging.getLogger("stomp.py").setLevel(logging.CRITICAL)


class Side(stomp.ConnectionListener):
    def __init__(self):
        self.changed = threading.Condition()
        self.messages, self.errors, self.receipts, self.held = [], [], set(), {}
        self.count = 0
        self.conn = stomp.Connection12([(URL.hostname, URL.port)], vhost="/")
        self.conn.set_listener("", self)
        self.conn.connect(URL.username, URL.password, wait=True)

    def _note(self, f, x):
        with self.changed:
            f(x)
            self.changed.notify_all()

    def on_message(self, frame):
        self._note(self.messages.append, frame)

    def on_error(self, frame):
        self._note(self.errors.append, frame)

    def on_receipt(self, frame):
        self._note(self.receipts.add, frame.headers["receipt-id"])

    def sync(self, command, headers, body=""):
        """A frame and its receipt."""
        self.count += 1
        receipt = f"side-{self.count}"
        self.conn.send_frame(command, {**headers, "receipt": receipt}, body)
        with self.changed:
            self.changed.wait_for(lambda: receipt in self.receipts or self.errors, PATIENCE)
            if receipt not in self.receipts:
                return {"error": [e.headers.get("message") for e in self.errors] or "no receipt"}
        return {}

    def frame(self, command, headers, body=""):
        return self.sync(command, headers, body)

    def cast(self, command, headers, body=""):
        """A frame whose receipt is not waited for: there is none before a commit."""
        self.conn.send_frame(command, headers, body)
        return {}

    def receive(self, patience=PATIENCE):
        """The next message. Its number is its name for settle."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.messages, patience):
                return {"error": "nothing came"}
            m = self.messages.pop(0)
        number = len(self.held)
        self.held[number] = m.headers.get("ack")
        headers = {k: v for k, v in m.headers.items() if k not in ("message-id", "ack")}
        return {"number": number, "headers": headers, "body": m.body}

    def settle(self, command, number, headers):
        return self.sync(command, {"id": self.held[number], **headers})

    def close(self):
        self.conn.disconnect(receipt="closed")
        return {}


side = Side()
for line in sys.stdin:
    command = json.loads(line)
    print(json.dumps(getattr(side, command.pop("do"))(**command)), flush=True)
