"""What people do with stomp.py, and with stomp.py on one side and pika on the
other: one line of JSON a case, without anything that differs from one run to the
next. Two brokers that behave the same give the same lines.

    stomp_clients.py STOMP-URL WEBSTOMP-URL AMQP-URL > transcript.jsonl
"""

import datetime
import hashlib
import json
import logging
import socket
import sys
import threading
import time
import urllib.parse

import pika
import stomp
from stomp.adapter.ws import WSStompConnection

STOMP, WEB, AMQP = (urllib.parse.urlparse(u) for u in sys.argv[1:4])
AMQP_URL = sys.argv[3]
PATIENCE = 15
KINDS = {"1.0": stomp.Connection10, "1.1": stomp.Connection11, "1.2": stomp.Connection12}
CASES = []

logging.getLogger("stomp.py").setLevel(logging.CRITICAL)


def case(f):
    CASES.append(f)
    return f


class Client(stomp.ConnectionListener):
    """A connection that keeps what comes."""

    def __init__(self, version="1.2", web=False, **kw):
        self.version = version
        self.changed = threading.Condition()
        self.messages, self.errors, self.receipts = [], [], set()
        self.disconnects = self.timeouts = self.beats = 0
        if web:
            self.conn = WSStompConnection([(WEB.hostname, WEB.port)], ws_path=WEB.path, vhost="/", **kw)
        elif version == "1.0":
            self.conn = stomp.Connection10([(STOMP.hostname, STOMP.port)], **kw)
        else:
            self.conn = KINDS[version]([(STOMP.hostname, STOMP.port)], vhost="/", **kw)
        self.conn.set_listener("", self)
        self.count = 0

    def open(self, user="guest", password="guest", **kw):
        self.conn.connect(user, password, wait=True, **kw)
        return self

    # What stomp.py calls.

    def _note(self, f):
        with self.changed:
            f()
            self.changed.notify_all()

    def on_message(self, frame):
        self._note(lambda: self.messages.append(frame))

    def on_error(self, frame):
        self._note(lambda: self.errors.append(frame))

    def on_receipt(self, frame):
        self._note(lambda: self.receipts.add(frame.headers["receipt-id"]))

    def on_disconnected(self):
        self._note(lambda: setattr(self, "disconnects", self.disconnects + 1))

    def on_heartbeat_timeout(self):
        self._note(lambda: setattr(self, "timeouts", self.timeouts + 1))

    def on_heartbeat(self):
        self._note(lambda: setattr(self, "beats", self.beats + 1))

    # What the cases call.

    def until(self, done, patience=PATIENCE):
        with self.changed:
            return self.changed.wait_for(done, patience)

    def take(self, n=1):
        """The next n messages, or as many as came in time."""
        self.until(lambda: len(self.messages) >= n)
        with self.changed:
            got, self.messages = self.messages[:n], self.messages[n:]
        return got

    def quiet(self):
        """What comes in a while in which nothing should."""
        self.until(lambda: self.messages, 0.3)
        return len(self.messages)

    def receipt(self):
        self.count += 1
        return f"py-{self.count}"

    def sync(self, call, *args, **kw):
        """Calls with a receipt, and waits for it."""
        id = self.receipt()
        call(*args, receipt=id, **kw)
        if not self.until(lambda: id in self.receipts or self.errors):
            raise AssertionError(f"no receipt for {call.__name__}")

    def send(self, destination, body, **kw):
        self.conn.send(destination, body, **kw)

    def send_sync(self, destination, body, headers=None, **kw):
        self.sync(self.conn.send, destination, body, headers=headers, **kw)

    def subscribe(self, destination, id="0", ack="auto", headers=None, **kw):
        id_receipt = self.receipt()
        self.conn.subscribe(destination, id=id, ack=ack, headers={"receipt": id_receipt, **(headers or {})}, **kw)
        self.until(lambda: id_receipt in self.receipts or self.errors)

    def unsubscribe(self, id, **headers):
        receipt = self.receipt()
        self.conn.send_frame("UNSUBSCRIBE", {"id": id, "receipt": receipt, **headers})
        self.until(lambda: receipt in self.receipts or self.errors)

    def ack(self, frame, **kw):
        if self.version == "1.2":
            self.conn.ack(frame.headers["ack"], **kw)
        elif self.version == "1.1":
            self.conn.ack(frame.headers["message-id"], frame.headers["subscription"], **kw)
        else:
            self.conn.ack(frame.headers["message-id"], **kw)

    def nack(self, frame, **kw):
        if self.version == "1.2":
            self.conn.nack(frame.headers["ack"], **kw)
        else:
            self.conn.nack(frame.headers["message-id"], frame.headers["subscription"], **kw)

    def close(self):
        if self.conn.is_connected():
            self.conn.disconnect(receipt=self.receipt())
            self.until(lambda: self.disconnects)

    def cut(self):
        """Ends the TCP connection as a broken network does."""
        self.conn.transport.socket.shutdown(socket.SHUT_RDWR)
        self.until(lambda: self.disconnects)


class Amqp:
    """pika, on the same queues."""

    def __enter__(self):
        self.connection = pika.BlockingConnection(pika.URLParameters(AMQP_URL))
        self.channel = self.connection.channel()
        return self

    def __exit__(self, *_):
        self.connection.close()

    def purge(self, *queues):
        for q in queues:
            self.channel.queue_delete(q)

    def get(self, queue):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            method, properties, body = self.channel.basic_get(queue, auto_ack=True)
            if method:
                return {"key": method.routing_key, "redelivered": method.redelivered, "body": body.decode(),
                        "properties": {k: plain(v) for k, v in sorted(vars(properties).items()) if v is not None}}
        return None

    def count(self, queue, expected):
        """How many messages the queue holds, -1 if it is not there, when that
        is what is expected or time is up."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                n = self.channel.queue_declare(queue, passive=True).method.message_count
            except pika.exceptions.ChannelClosedByBroker as e:
                if e.reply_code != 404:
                    raise
                n, self.channel = -1, self.connection.channel()
            if n == expected or time.monotonic() > end:
                return n


# What RabbitMQ takes from the frame into the message's headers.
PASSED_ON = {"receipt", "content-length"}


def plain(v):
    if isinstance(v, dict):
        return {k: [type(x).__name__, str(x)] for k, x in sorted(v.items()) if k not in PASSED_ON}
    return v


# Headers that every message has and that differ each time, or that a broker may
# or may not hand on from the sender.
LEFT_OUT = {"message-id", "ack", "receipt"}


def show(frame):
    headers = {k: v for k, v in sorted(frame.headers.items()) if k not in LEFT_OUT}
    return {"headers": headers, "body": frame.body}


def error(frame):
    return {"message": frame.headers.get("message"), "body": frame.body}


# Sending and receiving.

@case
def send_and_receive():
    for version in KINDS:
        c = Client(version).open()
        c.subscribe("/queue/py.send")
        c.send_sync("/queue/py.send", "hello " + version, headers={"name": "value"}, content_type="text/plain")
        yield version, [show(f) for f in c.take()]
        c.close()


@case
def send_and_receive_over_websocket():
    c = Client(web=True).open()
    c.subscribe("/queue/py.web")
    c.send_sync("/queue/py.web", "hello")
    yield [show(f) for f in c.take()]
    c.close()
    yield c.errors


@case
def ack_auto():
    c = Client().open()
    for i in range(3):
        c.send_sync("/queue/py.auto", str(i))
    c.subscribe("/queue/py.auto")
    yield [f.body for f in c.take(3)]
    c.close()
    with Amqp() as a:
        yield a.count("py.auto", 0)


@case
def ack_client_is_cumulative():
    for version in KINDS:
        c = Client(version).open()
        for i in range(4):
            c.send_sync("/queue/py.client", str(i))
        c.subscribe("/queue/py.client", ack="client")
        got = c.take(4)
        c.sync(c.ack, got[2])
        c.close()
        with Amqp() as a:
            yield version, a.count("py.client", 1), a.get("py.client")["body"]


@case
def ack_client_individual():
    for version in ("1.1", "1.2"):
        c = Client(version).open()
        for i in range(3):
            c.send_sync("/queue/py.individual", str(i))
        c.subscribe("/queue/py.individual", ack="client-individual")
        got = c.take(3)
        c.sync(c.ack, got[1])
        c.close()
        with Amqp() as a:
            yield version, a.count("py.individual", 2), a.get("py.individual")["body"], a.get("py.individual")["body"]


@case
def nack_returns_a_message():
    for version in ("1.1", "1.2"):
        c = Client(version).open()
        c.subscribe("/queue/py.nack", ack="client-individual")
        c.send_sync("/queue/py.nack", "again")
        first = c.take()[0]
        c.nack(first)
        second = c.take()[0]
        yield version, first.headers["redelivered"], second.headers["redelivered"], second.body
        c.sync(c.ack, second)
        c.close()


@case
def nack_without_requeue_drops():
    c = Client().open()
    c.subscribe("/queue/py.drop", ack="client-individual")
    c.send_sync("/queue/py.drop", "bad")
    c.nack(c.take()[0], requeue="false")
    yield c.quiet()
    c.close()
    with Amqp() as a:
        yield a.count("py.drop", 0)


@case
def prefetch_count():
    c = Client().open()
    for i in range(5):
        c.send_sync("/queue/py.prefetch", str(i))
    c.subscribe("/queue/py.prefetch", ack="client-individual", headers={"prefetch-count": "2"})
    got = c.take(2)
    yield [f.body for f in got], c.quiet()
    c.ack(got[0])
    yield [f.body for f in c.take(1)], c.quiet()
    c.close()


# Transactions.

@case
def transaction_commit():
    c = Client().open()
    c.subscribe("/queue/py.tx")
    t = c.conn.begin()
    c.send("/queue/py.tx", "one", transaction=t)
    c.send("/queue/py.tx", "two", transaction=t)
    yield c.quiet()
    c.conn.commit(t)
    yield [f.body for f in c.take(2)]
    c.close()


@case
def transaction_abort():
    c = Client().open()
    c.subscribe("/queue/py.tx2")
    t = c.conn.begin()
    c.send("/queue/py.tx2", "one", transaction=t)
    c.conn.abort(t)
    c.send_sync("/queue/py.tx2", "after")
    yield [f.body for f in c.take(1)], c.quiet()
    c.close()


@case
def transaction_with_ack():
    c = Client().open()
    c.send_sync("/queue/py.tx3", "task")
    c.subscribe("/queue/py.tx3", ack="client-individual")
    task = c.take()[0]
    t = c.conn.begin()
    c.ack(task, transaction=t)
    c.send("/queue/py.tx3.done", "result", transaction=t)
    c.sync(c.conn.commit, t)
    c.close()
    with Amqp() as a:
        yield a.count("py.tx3", 0), a.count("py.tx3.done", 1)


# Heart-beats, and the network.

@case
def heart_beats_keep_the_connection():
    c = Client(heartbeats=(1000, 1000)).open()
    c.until(lambda: c.beats >= 3)
    c.subscribe("/queue/py.beats")
    c.send_sync("/queue/py.beats", "still here")
    yield c.beats >= 3, c.timeouts, c.disconnects, [f.body for f in c.take()]
    c.close()


@case
def reconnect_after_a_cut():
    c = Client().open()
    c.subscribe("/queue/py.cut", ack="client-individual")
    for i in range(3):
        c.send_sync("/queue/py.cut", str(i))
    got = c.take(3)
    c.sync(c.ack, got[0])
    c.cut()
    yield c.disconnects, c.conn.is_connected()
    d = Client().open()
    d.subscribe("/queue/py.cut", ack="client-individual")
    again = d.take(2)
    yield [(f.body, f.headers["redelivered"]) for f in again]
    for f in again:
        d.sync(d.ack, f)
    d.close()
    # The same connection object, as stomp.py's users do it in on_disconnected.
    c.messages.clear()
    c.open()
    c.subscribe("/queue/py.cut", ack="client-individual")
    c.send_sync("/queue/py.cut", "new")
    new = c.take()
    yield [(f.body, f.headers["redelivered"]) for f in new]
    c.sync(c.ack, new[0])
    c.close()


# Bodies.

@case
def bodies_unicode():
    for version in KINDS:
        c = Client(version).open()
        c.subscribe("/queue/py.unicode")
        c.send_sync("/queue/py.unicode", "żółw 🐢 naïve\nsecond line", headers={"tïtle": "ünï"})
        f = c.take()[0]
        yield version, f.body, f.headers["content-length"], f.headers.get("tïtle")
        c.close()


@case
def bodies_binary():
    for version in KINDS:
        c = Client(version, auto_decode=False).open()
        c.subscribe("/queue/py.binary")
        body = bytes(range(256)) + b"\x00\x00\n\r\n"
        c.send_sync("/queue/py.binary", body)
        f = c.take()[0]
        yield version, f.body == body, f.headers["content-length"]
        c.close()


@case
def bodies_empty():
    c = Client().open()
    c.subscribe("/queue/py.empty")
    c.send_sync("/queue/py.empty", "")
    yield [show(f) for f in c.take()]
    c.close()


@case
def bodies_large():
    c = Client(auto_decode=False).open()
    c.subscribe("/queue/py.large", ack="client-individual")
    for size in (65536, 1 << 20, (1 << 20) + 1):
        body = (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]
        c.send_sync("/queue/py.large", body)
        f = c.take()[0]
        yield size, f.body == body
        c.sync(c.ack, f)
    c.close()


@case
def many_small_messages():
    c, d = Client().open(), Client().open()
    d.subscribe("/queue/py.many", ack="client", headers={"prefetch-count": "100"})
    n = 2000
    for i in range(n):
        c.send("/queue/py.many", str(i), persistent="true")
    c.send_sync("/queue/py.many", "last")
    seen = []
    while len(seen) < n + 1:
        got = d.take(1)
        if not got:
            break
        seen += got
        with d.changed:
            seen += d.messages
            d.messages = []
        d.ack(seen[-1])
    yield len(seen), [f.body for f in seen] == [str(i) for i in range(n)] + ["last"]
    d.close()
    c.close()
    with Amqp() as a:
        yield a.count("py.many", 0)


# Topics.

@case
def topics():
    c = Client().open()
    c.subscribe("/topic/py.news.*", id="some")
    c.subscribe("/topic/py.#", id="all")
    c.send_sync("/topic/py.news.sport", "goal")
    yield sorted((f.headers["subscription"], f.headers["destination"], f.body) for f in c.take(2))
    c.send_sync("/topic/py.other", "else")
    yield [(f.headers["subscription"], f.body) for f in c.take()], c.quiet()
    c.unsubscribe("all")
    c.send_sync("/topic/py.other", "nobody")
    yield c.quiet()
    c.close()


@case
def durable_subscription():
    how = {"durable": "true", "auto-delete": "false"}
    c = Client().open()
    c.subscribe("/topic/py.durable", id="sub", ack="client-individual", headers=how)
    c.close()
    d = Client().open()
    d.send_sync("/topic/py.durable", "while away", persistent="true")
    e = Client().open()
    e.subscribe("/topic/py.durable", id="sub", ack="client-individual", headers=how)
    got = e.take()
    yield [f.body for f in got]
    e.sync(e.ack, got[0])
    e.unsubscribe("sub", **how)
    d.send_sync("/topic/py.durable", "too late")
    e.subscribe("/topic/py.durable", id="sub", headers=how)
    yield e.quiet()
    e.unsubscribe("sub", **how)
    e.close()
    d.close()


@case
def request_and_reply():
    server, client = Client().open(), Client().open()
    server.subscribe("/queue/py.rpc")
    client.send_sync("/queue/py.rpc", "2+2", headers={"reply-to": "/temp-queue/answers", "correlation-id": "7"})
    question = server.take()[0]
    yield question.headers["reply-to"].startswith("/reply-queue/"), question.headers["correlation-id"]
    server.send_sync(question.headers["reply-to"], "4", headers={"correlation-id": question.headers["correlation-id"]})
    answer = client.take()[0]
    yield answer.headers["subscription"], answer.headers["correlation-id"], answer.body
    server.close()
    client.close()


# Errors.

@case
def error_login():
    c = Client()
    try:
        c.open(password="wrong")
        yield "connected"
    except stomp.exception.ConnectFailedException:
        c.until(lambda: c.errors)
        yield [error(f) for f in c.errors]


@case
def error_virtual_host():
    c = Client()
    try:
        c.conn.transport.vhost = "nowhere"
        c.open()
        yield "connected"
    except stomp.exception.ConnectFailedException:
        c.until(lambda: c.errors)
        yield [error(f) for f in c.errors]


def failing(f):
    c = Client().open()
    f(c)
    c.until(lambda: c.errors)
    return [error(e) for e in c.errors]


@case
def errors():
    yield failing(lambda c: c.conn.send_frame("SEND", {}, "hello"))
    yield failing(lambda c: c.send("/queue/", "hello"))
    yield failing(lambda c: c.send("/exchange/py.none/key", "hello"))
    yield failing(lambda c: c.send("/queue/py.error", "hello", headers={"message-id": "1"}))
    yield failing(lambda c: c.send("/queue/py.error", "hello", transaction="none"))
    yield failing(lambda c: c.conn.commit("none"))
    yield failing(lambda c: c.conn.unsubscribe(id="none"))
    yield failing(lambda c: c.conn.subscribe("/amq/queue/py.none", id="0"))
    yield failing(lambda c: c.conn.send_frame("SHOUT", {}))


@case
def queue_deleted_under_a_subscription():
    c = Client().open()
    c.subscribe("/queue/py.deleted")
    with Amqp() as a:
        a.purge("py.deleted")
    c.until(lambda: c.errors)
    yield [(error(f), f.headers.get("subscription")) for f in c.errors]


# STOMP on one side, AMQP on the other.

@case
def from_amqp():
    with Amqp() as a:
        a.channel.queue_declare("py.from", durable=True)
        a.channel.basic_publish("", "py.from", b"hello", pika.BasicProperties(
            content_type="text/plain", content_encoding="utf-8", delivery_mode=2, priority=3, correlation_id="c", reply_to="answers",
            expiration="600000", message_id="m", timestamp=1700000000, type="t", user_id="guest", app_id="app",
            headers={"text": "a:b\nc", "int": 7, "negative": -7, "big": 1 << 40, "bool": True, "none": None,
                     "time": datetime.datetime(2023, 11, 14, 22, 13, 20), "list": [1], "table": {"k": "v"}}))
        c = Client().open()
        c.subscribe("/amq/queue/py.from", ack="client-individual")
        got = c.take()
        yield [show(f) for f in got]
        c.sync(c.ack, got[0])
        c.close()
        yield a.count("py.from", 0)


@case
def to_amqp():
    c = Client().open()
    c.send_sync("/queue/py.to", "hello", headers={
        "persistent": "true", "priority": "3", "correlation-id": "c", "reply-to": "/queue/answers", "expiration": "600000",
        "amqp-message-id": "m", "timestamp": "1700000000", "type": "t", "user-id": "guest", "app-id": "app", "content-encoding": "utf-8",
        "text": "a:b\nc", "number": "7"}, content_type="text/plain")
    with Amqp() as a:
        yield a.get("py.to")
    c.close()


@case
def amqp_returns_what_stomp_sent():
    c = Client().open()
    c.send_sync("/queue/py.reject", "task")
    with Amqp() as a:
        method, _, _ = a.channel.basic_get("py.reject")
        a.channel.basic_reject(method.delivery_tag, requeue=True)
        c.subscribe("/queue/py.reject")
        yield [(f.body, f.headers["redelivered"]) for f in c.take()]
        c.close()


@case
def stomp_returns_what_amqp_sent():
    with Amqp() as a:
        a.channel.queue_declare("py.return", durable=True)
        a.channel.basic_publish("", "py.return", b"task")
        c = Client().open()
        c.subscribe("/queue/py.return", ack="client-individual")
        c.take()
        c.close()
        yield a.get("py.return")


def main():
    queues = ["send", "web", "auto", "client", "individual", "nack", "drop", "prefetch", "tx", "tx2", "tx3", "tx3.done", "beats", "cut",
              "unicode", "binary", "empty", "large", "many", "rpc", "error", "deleted", "from", "to", "reject", "return"]
    with Amqp() as a:
        a.purge(*("py." + q for q in queues))
    for f in CASES:
        replies = list(f())
        print(f'{{"case": "{f.__name__}", "replies": {json.dumps(replies, ensure_ascii=False)}}}', flush=True)
    with Amqp() as a:
        a.purge(*("py." + q for q in queues))


main()
