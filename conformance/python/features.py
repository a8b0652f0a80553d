"""What RabbitMQ's users rely on beyond AMQP itself: expiry, dead letters, limits,
priorities, single active consumers, alternate exchanges, hashing, policies,
permissions. One line of JSON a case. The same program against two brokers that
behave the same prints the same.

    features.py AMQP_URL MANAGEMENT_URL > transcript.jsonl
"""

import base64
import hashlib
import json
import re
import sys
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pika

AMQP, MANAGEMENT = sys.argv[1], sys.argv[2].rstrip("/")
PATIENCE = 10  # seconds that anything may take
CASES = []


def case(f):
    CASES.append(f)
    return f


def plain(v):
    """A header's value without what differs from run to run."""
    if isinstance(v, dict):
        return {k: "(time)" if k == "time" else plain(x) for k, x in sorted(v.items())}
    if isinstance(v, list):
        return [plain(x) for x in v]
    if isinstance(v, bytes):
        return v.decode("latin-1")
    return v if isinstance(v, (int, str, bool, type(None))) else str(v)


class Case:
    """A virtual host with nothing in it, and a connection to it."""

    def __init__(self, name):
        self.name = name
        self.vhost = "conf." + name
        self.connections = []
        self.users = []
        self.confirms = None
        self.http("DELETE", "/api/vhosts/" + self.vhost)
        self.must("PUT", "/api/vhosts/" + self.vhost)
        self.must("PUT", f"/api/permissions/{self.vhost}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        self.ch = self.connect()

    def end(self):
        for c in self.connections:
            try:
                c.close()
            except Exception:
                pass
        for u in self.users:
            self.http("DELETE", "/api/users/" + u)
        self.http("DELETE", "/api/vhosts/" + self.vhost)

    # The management API.

    def http(self, method, path, body=None, user=None):
        url = urllib.parse.urlsplit(MANAGEMENT)
        data = None if body is None else json.dumps(body).encode()
        r = urllib.request.Request(f"{url.scheme}://{url.hostname}:{url.port}{path}", data, method=method)
        login = user or (url.username, url.password)
        r.add_header("Authorization", "Basic " + base64.b64encode(":".join(login).encode()).decode())
        r.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(r, timeout=PATIENCE) as answer:
                text, status = answer.read(), answer.status
        except urllib.error.HTTPError as e:
            text, status = e.read(), e.code
        try:
            return status, json.loads(text) if text else None
        except ValueError:
            return status, text.decode("latin-1")

    def must(self, method, path, body=None):
        status, answer = self.http(method, path, body)
        if status >= 300:
            raise AssertionError(f"{method} {path}: {status} {answer}")
        return answer

    def policy(self, name, pattern, definition, priority=0, apply_to="all", kind="policies"):
        return self.http("PUT", f"/api/{kind}/{self.vhost}/{name}", {
            "pattern": pattern, "definition": definition, "priority": priority, "apply-to": apply_to})

    def user(self, name, tags="", **permissions):
        self.users.append(name)
        self.must("PUT", "/api/users/" + name, {"password": "secret", "tags": tags})
        if permissions:
            p = {"configure": "", "write": "", "read": "", **permissions}
            self.must("PUT", f"/api/permissions/{self.vhost}/{name}", p)

    # Connections.

    def connect(self, user=None):
        p = pika.URLParameters(AMQP)
        p.virtual_host = self.vhost
        p.socket_timeout = p.blocked_connection_timeout = PATIENCE
        if user:
            p.credentials = pika.PlainCredentials(user, "secret")
        c = pika.BlockingConnection(p)
        self.connections.append(c)
        return c.channel()

    def words(self, text):
        """What a broker says, without what differs from run to run."""
        return re.sub(r"amq\.gen-[\w-]+", "amq.gen-NAME", text.replace(self.vhost, "VHOST"))

    def refused(self, user=None):
        """How opening a connection fails."""
        try:
            self.connect(user)
        except pika.exceptions.ConnectionClosedByBroker as e:
            return [e.reply_code, self.words(e.reply_text)]
        except pika.exceptions.AMQPConnectionError as e:
            return self.words(str(e))
        return "open"

    def attempt(self, f, ch=None):
        """What a call answers, or with what the broker closed the channel."""
        try:
            r = f(ch or self.ch)
        except pika.exceptions.ChannelClosedByBroker as e:
            if ch is None:
                self.ch = self.ch.connection.channel() if self.ch.connection.is_open else self.connect()
            return [e.reply_code, self.words(e.reply_text)]
        except pika.exceptions.ConnectionClosedByBroker as e:
            if ch is None:
                self.ch = self.connect()
            return [e.reply_code, self.words(e.reply_text)]
        return "ok" if r is None or hasattr(r, "method") else r

    # Queues and messages.

    def queue(self, name="q", durable=True, **arguments):
        arguments = {"x-" + k.replace("_", "-"): v for k, v in arguments.items()}
        self.ch.queue_declare(name, durable=durable, arguments=arguments)

    def send(self, ch, body, key="q", exchange="", **properties):
        """Publishes on a channel as it is."""
        ch.basic_publish(exchange, key, body.encode(), pika.BasicProperties(**properties))

    def publish(self, *args, **kw):
        """Publishes, and waits until it is there."""
        if (got := self.confirmed(*args, **kw)) != "ack":
            raise AssertionError(got)

    def confirmed(self, body, key="q", exchange="", mandatory=False, **properties):
        """How a publish ends."""
        if not self.confirms or not self.confirms.is_open:
            self.confirms = self.connect()
            self.confirms.confirm_delivery()
        try:
            self.confirms.basic_publish(exchange, key, body.encode(), pika.BasicProperties(**properties), mandatory)
        except pika.exceptions.NackError:
            return "nack"
        except pika.exceptions.UnroutableError:
            return "returned"
        return "ack"

    def count(self, queue="q"):
        return self.ch.queue_declare(queue, passive=True).method.message_count

    def until(self, n, queue="q"):
        """The number of messages in a queue, when it is n or time is up."""
        end = time.monotonic() + PATIENCE
        while (got := self.count(queue)) != n and time.monotonic() < end:
            time.sleep(0.02)
        return got

    def get(self, queue="q", auto_ack=True):
        return self.ch.basic_get(queue, auto_ack=auto_ack)

    def take(self, queue="q"):
        """The next message of a queue when there is one: all that is seen of it."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            m, p, body = self.get(queue)
            if m:
                return show(m, p, body)
            time.sleep(0.02)
        return None

    def bodies(self, queue="q"):
        out = []
        while (got := self.get(queue))[0]:
            out.append(got[2].decode())
        return out

    def drop(self, queue="q", requeue=False):
        """Takes a message and refuses it."""
        end = time.monotonic() + PATIENCE
        while not (m := self.get(queue, auto_ack=False)[0]):
            if time.monotonic() > end:
                raise AssertionError("no message")
            time.sleep(0.02)
        self.ch.basic_nack(m.delivery_tag, requeue=requeue)
        return m


def show(m, p, body):
    out = {"exchange": m.exchange, "key": m.routing_key, "body": body.decode(), "redelivered": m.redelivered}
    for name in ("content_type", "delivery_mode", "priority", "correlation_id", "expiration", "message_id", "type"):
        if getattr(p, name) is not None:
            out[name] = getattr(p, name)
    if p.headers is not None:
        # RabbitMQ 3.10 does not know the last death yet.
        out["headers"] = {k: v for k, v in plain(p.headers).items() if not k.startswith("x-last-death-")}
    return out


# Time to live.

@case
def ttl_of_a_queue(c):
    c.queue(message_ttl=100)
    c.publish("short-lived")
    yield c.until(0), c.bodies()


@case
def ttl_zero_without_a_consumer(c):
    c.queue(message_ttl=0)
    c.publish("gone at once")
    yield c.until(0), c.bodies()


@case
def ttl_zero_with_a_consumer(c):
    c.queue(message_ttl=0)
    got = []
    c.ch.basic_consume("q", lambda ch, m, p, b: got.append(b.decode()), auto_ack=True)
    c.publish("in time")
    end = time.monotonic() + PATIENCE
    while not got and time.monotonic() < end:
        c.ch.connection.process_data_events(0.05)
    yield got


@case
def expiration_of_a_message(c):
    c.queue()
    c.publish("short-lived", expiration="100")
    c.publish("lasting", expiration="60000")
    yield c.until(1), c.take()


@case
def expiration_and_ttl_the_shorter_counts(c):
    c.queue("a", message_ttl=60000)
    c.queue("b", message_ttl=100)
    c.publish("x", "a", expiration="100")
    c.publish("x", "b", expiration="60000")
    yield c.until(0, "a"), c.until(0, "b")


@case
def expiration_behind_a_lasting_message(c):
    c.queue()
    c.publish("lasting")
    c.publish("short-lived", expiration="100")
    time.sleep(0.6)
    yield c.count(), c.bodies()


@case
def expired_is_not_delivered(c):
    c.queue()
    c.publish("short-lived", expiration="50")
    c.publish("lasting")
    time.sleep(0.2)
    yield c.bodies()


@case
def unsettled_does_not_expire(c):
    c.queue(message_ttl=300)
    c.publish("held")
    m, _, _ = c.get(auto_ack=False)
    time.sleep(0.6)
    yield m is not None, c.count()
    c.ch.basic_nack(m.delivery_tag, requeue=True)
    yield c.until(0), c.bodies()


@case
def queue_expires_unused(c):
    c.queue(expires=200)
    time.sleep(0.8)
    yield c.attempt(lambda ch: ch.queue_declare("q", passive=True))


@case
def queue_with_a_consumer_does_not_expire(c):
    c.queue(expires=200)
    tag = c.ch.basic_consume("q", lambda *_: None)
    time.sleep(0.6)
    yield c.attempt(lambda ch: ch.queue_declare("q", passive=True))
    c.ch.basic_cancel(tag)
    time.sleep(0.8)
    yield c.attempt(lambda ch: ch.queue_declare("q", passive=True))


# Dead letters.

def dead(c, key=None, **arguments):
    c.ch.exchange_declare("dlx", "topic")
    c.queue("dead")
    c.ch.queue_bind("dead", "dlx", "#")
    more = {} if key is None else {"dead_letter_routing_key": key}
    c.queue(dead_letter_exchange="dlx", **more, **arguments)


@case
def dead_rejected(c):
    dead(c)
    c.publish("m", content_type="text/plain", delivery_mode=2, headers={"mine": 1}, message_id="id", correlation_id="c")
    c.drop()
    yield c.take("dead")


@case
def dead_rejected_without_headers(c):
    dead(c)
    c.publish("m")
    c.drop()
    yield c.take("dead")


@case
def dead_from_an_exchange(c):
    dead(c)
    c.ch.queue_bind("q", "amq.topic", "a.#")
    c.publish("m", "a.b", "amq.topic")
    c.drop()
    yield c.take("dead")


@case
def dead_expired_by_queue(c):
    dead(c, message_ttl=50)
    c.publish("m", expiration="60000")
    yield c.take("dead")


@case
def dead_expired_by_message(c):
    dead(c)
    c.publish("m", expiration="50")
    yield c.take("dead")


@case
def dead_for_length(c):
    dead(c, max_length=1)
    c.publish("one")
    c.publish("two")
    yield c.take("dead"), c.bodies()


@case
def dead_with_a_key(c):
    dead(c, key="other")
    c.publish("m", headers={"CC": ["copy"]})
    c.drop()
    yield c.take("dead")


@case
def dead_with_copies(c):
    dead(c)
    c.queue("copy")
    c.publish("m", headers={"CC": ["copy"], "BCC": ["blind"]})
    c.drop()
    yield c.take("dead"), c.take("copy")


@case
def dead_by_default_exchange(c):
    c.queue("dead")
    c.queue(dead_letter_exchange="", dead_letter_routing_key="dead")
    c.publish("m")
    c.drop()
    yield c.take("dead")


@case
def dead_twice_counts(c):
    dead(c)
    c.publish("m")
    c.drop()
    c.until(1, "dead")
    first = c.get("dead")
    c.confirms.basic_publish("", "q", first[2], first[1])
    c.drop()
    yield c.take("dead")


@case
def dead_through_two_queues(c):
    c.queue("third")
    c.queue("second", dead_letter_exchange="", dead_letter_routing_key="third")
    c.queue("q", dead_letter_exchange="", dead_letter_routing_key="second")
    c.publish("m", expiration="50")
    c.drop("second")
    yield c.take("third")


@case
def dead_cycle_of_expired_ends(c):
    c.queue("a", message_ttl=50, dead_letter_exchange="", dead_letter_routing_key="b")
    c.queue("b", message_ttl=50, dead_letter_exchange="", dead_letter_routing_key="a")
    c.publish("m", "a")
    time.sleep(1)
    yield c.count("a"), c.count("b")


@case
def dead_cycle_of_rejected_goes_on(c):
    c.queue(dead_letter_exchange="", dead_letter_routing_key="q")
    c.publish("m")
    for _ in range(3):
        c.drop()
    yield c.take()


@case
def dead_retry_loop_counts(c):
    c.queue("wait", message_ttl=50, dead_letter_exchange="", dead_letter_routing_key="q")
    c.queue("q", dead_letter_exchange="", dead_letter_routing_key="wait")
    c.publish("m")
    for _ in range(3):
        c.drop()
    yield c.take()


@case
def dead_to_a_missing_exchange(c):
    c.queue(dead_letter_exchange="nowhere")
    c.publish("m")
    c.drop()
    yield c.until(0)


@case
def dead_to_two_queues(c):
    dead(c)
    c.queue("also")
    c.ch.queue_bind("also", "dlx", "q")
    c.publish("m")
    c.drop()
    yield c.take("dead"), c.take("also")


@case
def purge_and_delete_are_no_deaths(c):
    dead(c)
    c.publish("m")
    c.ch.queue_purge("q")
    c.publish("m")
    c.ch.queue_delete("q")
    time.sleep(0.2)
    yield c.count("dead")


@case
def dead_in_a_transaction(c):
    dead(c)
    c.publish("m")
    m, _, _ = c.get(auto_ack=False)
    c.ch.tx_select()
    c.ch.basic_nack(m.delivery_tag, requeue=False)
    before = c.count("dead")
    c.ch.tx_commit()
    yield before, c.until(1, "dead")


# Limits.

@case
def max_length_drops_the_head(c):
    c.queue(max_length=2)
    for i in range(5):
        c.publish(str(i))
    yield c.until(2), c.bodies()


@case
def max_length_zero(c):
    c.queue(max_length=0)
    c.publish("m")
    yield c.until(0)


@case
def max_length_bytes(c):
    c.queue(max_length_bytes=10)
    for i in range(5):
        c.publish(str(i) * 4, headers={"large": "x" * 100})
    yield c.until(2), c.bodies()


@case
def max_length_leaves_out_the_unsettled(c):
    c.queue(max_length=1)
    c.publish("held")
    m, _, _ = c.get(auto_ack=False)
    c.publish("one")
    c.publish("two")
    yield c.until(1)
    c.ch.basic_ack(m.delivery_tag)
    yield c.bodies()


@case
def max_length_and_a_requeue(c):
    c.queue(max_length=1)
    c.publish("held")
    m, _, _ = c.get(auto_ack=False)
    c.publish("one")
    c.ch.basic_nack(m.delivery_tag, requeue=True)
    yield c.until(1), c.bodies()


@case
def overflow_reject_publish(c):
    c.queue(max_length=1, overflow="reject-publish")
    yield [c.confirmed(str(i)) for i in range(3)], c.bodies(), c.confirmed("again")


@case
def overflow_reject_publish_to_two_queues(c):
    c.queue(max_length=1, overflow="reject-publish")
    c.queue("roomy")
    for q in ("q", "roomy"):
        c.ch.queue_bind(q, "amq.fanout")
    yield [c.confirmed(str(i), "", "amq.fanout") for i in range(3)], c.bodies(), c.bodies("roomy")


@case
def overflow_reject_publish_dlx(c):
    dead(c, max_length=1, overflow="reject-publish-dlx")
    yield [c.confirmed(str(i)) for i in range(2)], c.bodies(), c.take("dead")


@case
def overflow_reject_publish_mandatory(c):
    c.queue(max_length=0, overflow="reject-publish")
    yield c.confirmed("m", mandatory=True)


@case
def overflow_reject_publish_in_a_transaction(c):
    c.queue(max_length=1, overflow="reject-publish")
    c.ch.tx_select()
    for i in range(3):
        c.send(c.ch, str(i))
    yield c.attempt(lambda ch: ch.tx_commit())
    c.ch = c.connect()
    yield c.bodies()


# Priorities.

@case
def priorities_order(c):
    c.queue(max_priority=5)
    for i, p in enumerate([1, 5, None, 3, 9, 5, 0]):
        c.publish(f"{i} of {p}", priority=p)
    yield c.until(7), c.bodies()


@case
def priorities_of_requeued(c):
    c.queue(max_priority=5)
    for i, p in enumerate([1, 5, 5]):
        c.publish(f"{i} of {p}", priority=p)
    c.until(3)
    m, _, _ = c.get(auto_ack=False)
    c.ch.basic_nack(m.delivery_tag, requeue=True)
    c.until(3)
    yield c.bodies()


@case
def priority_without_max_priority(c):
    c.queue()
    for i, p in enumerate([1, 5, 3]):
        c.publish(f"{i} of {p}", priority=p)
    c.until(3)
    yield c.take(), c.bodies()


@case
def priorities_and_expiration(c):
    c.queue(max_priority=5)
    c.publish("low", priority=1, expiration="100")
    c.publish("high", priority=5)
    yield c.until(1), c.bodies()


# Single active consumer.

def consume(c, who, got, queue="q", **kw):
    ch = c.connect()
    ch.basic_qos(prefetch_count=1)

    def take(ch, m, p, body):
        got.append([who, body.decode()])
        ch.basic_ack(m.delivery_tag)

    tag = ch.basic_consume(queue, take, **kw)
    return ch, tag


def pump(channels, done):
    end = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < end:
        for ch in channels:
            ch.connection.process_data_events(0.02)


@case
def single_active_consumer(c):
    c.queue(single_active_consumer=True)
    got = []
    first, tag = consume(c, "first", got)
    second, _ = consume(c, "second", got)
    for i in range(4):
        c.publish(str(i))
    pump([first, second], lambda: len(got) == 4)
    yield got[:]
    first.basic_cancel(tag)
    c.publish("next")
    pump([first, second], lambda: len(got) == 5)
    yield got[4:]
    second.connection.close()
    third, _ = consume(c, "third", got)
    c.publish("last")
    pump([first, third], lambda: len(got) == 6)
    yield got[5:]


@case
def single_active_consumer_exclusive(c):
    c.queue(single_active_consumer=True)
    yield c.attempt(lambda ch: ch.basic_consume("q", lambda *_: None, exclusive=True))


@case
def single_active_consumer_and_get(c):
    c.queue(single_active_consumer=True)
    c.publish("m")
    c.until(1)
    yield c.bodies()


# Exchanges.

def declare(c, name="x", type="direct", **arguments):
    c.ch.exchange_declare(name, type, durable=True, arguments={k.replace("_", "-"): v for k, v in arguments.items()})


@case
def alternate_exchange(c):
    c.queue("rest")
    c.queue()
    declare(c, "others", "fanout")
    c.ch.queue_bind("rest", "others")
    declare(c, "x", "direct", alternate_exchange="others")
    c.ch.queue_bind("q", "x", "known")
    yield [c.confirmed(k, k, "x", mandatory=True) for k in ("known", "unknown")]
    yield c.bodies(), c.take("rest")


@case
def alternate_exchange_that_is_missing(c):
    declare(c, "x", "direct", alternate_exchange="missing")
    yield c.confirmed("m", "k", "x"), c.confirmed("m", "k", "x", mandatory=True)


@case
def alternate_exchanges_in_a_circle(c):
    declare(c, "x", "direct", alternate_exchange="y")
    declare(c, "y", "direct", alternate_exchange="x")
    yield c.confirmed("m", "k", "x"), c.confirmed("m", "k", "y", mandatory=True)


@case
def alternate_exchange_of_a_bound_exchange(c):
    c.queue("rest")
    declare(c, "others", "fanout")
    c.ch.queue_bind("rest", "others")
    declare(c, "inner", "direct", alternate_exchange="others")
    declare(c, "x", "fanout")
    c.ch.exchange_bind("inner", "x")
    yield c.confirmed("m", "k", "x", mandatory=True), c.bodies("rest")


@case
def consistent_hash(c):
    declare(c, "x", "x-consistent-hash")
    for q in ("a", "b"):
        c.queue(q)
        c.ch.queue_bind(q, "x", "1")
    for _ in range(2):
        for i in range(200):
            c.publish(str(i), f"key {i}", "x")
    yield c.confirmed("end", "end", "x")
    a, b = c.bodies("a"), c.bodies("b")
    yield len(a) + len(b), len(a) > 50, len(b) > 50, not set(a) & set(b)


@case
def consistent_hash_weight_is_no_number(c):
    declare(c, "x", "x-consistent-hash")
    c.queue()
    yield c.attempt(lambda ch: ch.queue_bind("q", "x", "heavy"))


@case
def consistent_hash_weight_is_negative(c):
    declare(c, "x", "x-consistent-hash")
    c.queue()
    yield c.attempt(lambda ch: ch.queue_bind("q", "x", "-1"))


@case
def consistent_hash_by_header(c):
    declare(c, "x", "x-consistent-hash", hash_header="who")
    for q in ("a", "b"):
        c.queue(q)
        c.ch.queue_bind(q, "x", "1")
    for i in range(100):
        c.publish(f"{i % 10}", f"key {i}", "x", headers={"who": f"one {i % 10}"})
    yield c.confirmed("end", "end", "x")
    a, b = c.bodies("a"), c.bodies("b")
    yield len(a) + len(b), not set(a) & set(b) - {"end"}


@case
def consistent_hash_by_two_things(c):
    yield c.attempt(lambda ch: declare(c, "x", "x-consistent-hash", hash_header="a", hash_property="message_id"))


@case
def consistent_hash_by_an_unknown_property(c):
    yield c.attempt(lambda ch: declare(c, "x", "x-consistent-hash", hash_property="colour"))


@case
def modulus_hash(c):
    declare(c, "x", "x-modulus-hash")
    for q in ("a", "b"):
        c.queue(q)
        c.ch.queue_bind(q, "x", "")
    for _ in range(2):
        for i in range(100):
            c.publish(str(i), f"key {i}", "x")
    yield c.confirmed("end", "end", "x")
    a, b = c.bodies("a"), c.bodies("b")
    yield len(a) + len(b), len(a) > 10, len(b) > 10, not set(a) & set(b)


@case
def random_exchange(c):
    declare(c, "x", "x-random")
    for q in ("a", "b"):
        c.queue(q)
        c.ch.queue_bind(q, "x", "anything")
    for i in range(200):
        c.send(c.ch, str(i), "k", "x")
    c.ch.queue_declare("a", passive=True)
    yield c.confirmed("end", "k", "x")
    a, b = len(c.bodies("a")), len(c.bodies("b"))
    yield a + b, a > 30, b > 30


@case
def copies_by_cc_and_bcc(c):
    for q in ("q", "copy", "blind"):
        c.queue(q)
    c.publish("m", headers={"CC": ["copy"], "BCC": ["blind"], "mine": "x"})
    yield c.take(), c.take("copy"), c.take("blind")


@case
def copies_of_an_exchange_come_once(c):
    c.queue()
    for k in ("a", "b"):
        c.ch.queue_bind("q", "amq.direct", k)
    c.publish("m", "a", "amq.direct", headers={"CC": ["b"]})
    yield c.until(1), c.take()


# Quorum queues.

@case
def quorum_queue_counts_deliveries(c):
    dead(c, queue_type="quorum", delivery_limit=2)
    c.publish("m", delivery_mode=2)
    seen = []
    for _ in range(3):
        end = time.monotonic() + PATIENCE
        while not (got := c.get(auto_ack=False))[0] and time.monotonic() < end:
            time.sleep(0.02)
        seen.append(plain((got[1].headers or {}).get("x-delivery-count")))
        c.ch.basic_reject(got[0].delivery_tag, requeue=True)
    yield seen
    d = c.take("dead")
    yield d["body"], [[x["reason"], x["queue"], x["count"]] for x in d["headers"]["x-death"]]


@case
def quorum_queue_not_durable(c):
    yield c.attempt(lambda ch: ch.queue_declare("q", durable=False, arguments={"x-queue-type": "quorum"}))


@case
def quorum_queue_exclusive(c):
    yield c.attempt(lambda ch: ch.queue_declare("q", durable=True, exclusive=True, arguments={"x-queue-type": "quorum"}))


@case
def quorum_queue_auto_delete(c):
    yield c.attempt(lambda ch: ch.queue_declare("q", durable=True, auto_delete=True, arguments={"x-queue-type": "quorum"}))


# Policies.

def settled(f, want):
    """What f returns, when it is what is wanted or time is up: policies take effect in the background."""
    end = time.monotonic() + PATIENCE
    while (got := f()) != want and time.monotonic() < end:
        time.sleep(0.02)
    return got


def shown(c, *fields, queue="q"):
    _, q = c.http("GET", f"/api/queues/{c.vhost}/{queue}")
    return [q.get(f) for f in fields]


@case
def policy_of_a_living_queue(c):
    c.queue()
    for i in range(5):
        c.publish(str(i))
    c.until(5)
    yield c.policy("short", "^q$", {"max-length": 2}, apply_to="queues")[0]
    yield c.until(2), settled(lambda: shown(c, "policy", "effective_policy_definition"), ["short", {"max-length": 2}]), c.bodies()
    yield c.http("DELETE", f"/api/policies/{c.vhost}/short")[0]
    yield settled(lambda: shown(c, "policy")[0], None)
    for i in range(5):
        c.publish(str(i))
    yield c.until(5)


@case
def policy_of_a_queue_to_come(c):
    c.policy("ttl", "^q", {"message-ttl": 100})
    c.queue()
    c.publish("m")
    yield c.until(0), settled(lambda: shown(c, "policy"), ["ttl"])


@case
def policy_with_the_highest_priority(c):
    c.queue()
    c.policy("low", ".*", {"max-length": 1}, 1)
    c.policy("high", "q", {"max-length": 3}, 7)
    yield settled(lambda: shown(c, "policy")[0], "high")
    for i in range(5):
        c.publish(str(i))
    yield c.until(3)


@case
def policy_and_argument_the_smaller_counts(c):
    c.queue(max_length=2)
    c.policy("p", "q", {"max-length": 4})
    settled(lambda: shown(c, "policy")[0], "p")
    for i in range(6):
        c.publish(str(i))
    yield c.until(2)


@case
def policy_of_other_kinds_does_not_apply(c):
    c.queue()
    c.policy("p", ".*", {"alternate-exchange": "others"}, apply_to="exchanges")
    c.policy("other", "q", {"max-length": 5}, -1, apply_to="queues")
    yield settled(lambda: shown(c, "policy"), ["other"])


@case
def policy_for_dead_letters(c):
    c.queue("dead")
    c.queue()
    c.policy("p", "^q$", {"dead-letter-exchange": "", "dead-letter-routing-key": "dead"})
    settled(lambda: shown(c, "policy")[0], "p")
    c.publish("m")
    c.drop()
    yield c.take("dead")


@case
def policy_for_an_alternate_exchange(c):
    c.queue("rest")
    declare(c, "others", "fanout")
    c.ch.queue_bind("rest", "others")
    declare(c, "x", "direct")
    c.policy("p", "^x$", {"alternate-exchange": "others"}, apply_to="exchanges")
    settled(lambda: c.http("GET", f"/api/exchanges/{c.vhost}/x")[1].get("policy"), "p")
    yield c.confirmed("m", "k", "x", mandatory=True), c.bodies("rest")


@case
def operator_policy_bounds(c):
    c.queue()
    c.policy("p", "q", {"max-length": 5})
    yield c.policy("o", "q", {"max-length": 2}, kind="operator-policies", apply_to="queues")[0]
    settled(lambda: shown(c, "policy", "operator_policy"), ["p", "o"])
    for i in range(6):
        c.publish(str(i))
    yield c.until(2), shown(c, "policy", "operator_policy", "effective_policy_definition")


@case
def policy_that_is_wrong(c):
    for definition in ({"max-length": -1}, {"max-length": "ten"}, {"colour": "red"}, {"message-ttl": -5},
                       {"dead-letter-exchange": 1}, {"overflow": "burst"}, {"expires": 0}, {}):
        status, answer = c.policy("p", "q", definition)
        yield status, answer and answer.get("reason")
    status, answer = c.policy("p", "(", {"max-length": 1})
    yield status
    status, answer = c.policy("p", "q", {"max-length": 1}, apply_to="everything")
    yield status, answer and answer.get("reason")
    status, answer = c.policy("o", "q", {"alternate-exchange": "x"}, kind="operator-policies")
    yield status, answer and answer.get("reason")


@case
def policy_for_mirrors(c):
    c.queue()
    yield c.policy("ha", ".*", {"ha-mode": "all", "ha-sync-mode": "automatic"})[0]
    yield settled(lambda: shown(c, "policy")[0], "ha")


# Who may do what.

@case
def user_without_permissions(c):
    c.user("conf-nobody")
    yield c.refused("conf-nobody")


@case
def user_with_a_wrong_password(c):
    c.user("conf-wrong", configure=".*")
    c.must("PUT", "/api/users/conf-wrong", {"password": "other", "tags": ""})
    yield c.refused("conf-wrong")


@case
def virtual_host_that_is_missing(c):
    c.vhost += ".missing"
    yield c.refused()
    c.vhost = c.vhost.removesuffix(".missing")


OPERATIONS = {
    "declare": lambda ch: ch.queue_declare("q"),
    "declare_other": lambda ch: ch.queue_declare("other"),
    "declare_passive": lambda ch: ch.queue_declare("q", passive=True),
    "declare_exchange": lambda ch: ch.exchange_declare("x"),
    "declare_exchange_passive": lambda ch: ch.exchange_declare("x", passive=True),
    "delete": lambda ch: ch.queue_delete("q"),
    "delete_exchange": lambda ch: ch.exchange_delete("x"),
    "bind": lambda ch: ch.queue_bind("q", "x", "k"),
    "unbind": lambda ch: ch.queue_unbind("q", "x", "k"),
    "bind_exchange": lambda ch: ch.exchange_bind("y", "x", "k"),
    "purge": lambda ch: ch.queue_purge("q"),
    "get": lambda ch: ch.basic_get("q") and None,
    "consume": lambda ch: ch.basic_consume("q", lambda *_: None) and None,
    "publish": lambda ch: (ch.confirm_delivery(), ch.basic_publish("x", "k", b"m"))[1],
    "publish_default": lambda ch: (ch.confirm_delivery(), ch.basic_publish("", "q", b"m"))[1],
    "declare_dead_letter": lambda ch: ch.queue_declare("q2", arguments={"x-dead-letter-exchange": "dlx"}),
    "declare_alternate": lambda ch: ch.exchange_declare("x2", arguments={"alternate-exchange": "ae"}),
    "server_named": lambda ch: ch.queue_declare("", exclusive=True) and None,
}


def permissions(name, **given):
    def f(c):
        c.ch.queue_declare("q")
        c.ch.exchange_declare("x")
        c.ch.exchange_declare("y")
        who = "conf-" + name
        c.user(who, **given)
        ch = c.connect(who)
        for op, call in OPERATIONS.items():
            got = c.attempt(call, ch)
            if ch.is_closed:
                ch = ch.connection.channel() if ch.connection.is_open else c.connect(who)
            else:
                ch.close()
                ch = ch.connection.channel()
            yield op, got
            if op in ("delete", "delete_exchange"):
                c.ch.queue_declare("q")
                c.ch.exchange_declare("x")

    f.__name__ = "permissions_" + name
    case(f)


permissions("none", configure="^$")
permissions("all", configure=".*", write=".*", read=".*")
permissions("configure", configure=".*")
permissions("write", write=".*")
permissions("read", read=".*")
permissions("by_name", configure="^q", write="^(q|amq\\.default)$", read="^x$")


@case
def permissions_of_topics(c):
    c.ch.exchange_declare("x", "topic")
    c.user("conf-topics", configure=".*", write=".*", read=".*")
    yield c.http("PUT", f"/api/topic-permissions/{c.vhost}/conf-topics",
                 {"exchange": "x", "write": "^a\\.", "read": "^b\\."})[0]
    ch = c.connect("conf-topics")
    ch.queue_declare("q")
    ch.confirm_delivery()
    yield c.attempt(lambda ch: ch.basic_publish("x", "a.1", b"m"), ch)
    yield c.attempt(lambda ch: ch.queue_bind("q", "x", "b.1"), ch)
    yield c.attempt(lambda ch: ch.queue_bind("q", "x", "a.1"), ch)
    ch = ch.connection.channel()
    ch.confirm_delivery()
    yield c.attempt(lambda ch: ch.basic_publish("x", "b.1", b"m"), ch)


@case
def permissions_taken_away(c):
    c.ch.queue_declare("q")
    c.user("conf-taken", configure=".*", write=".*", read=".*")
    ch = c.connect("conf-taken")
    yield c.attempt(lambda ch: ch.queue_purge("q") and None, ch)
    c.must("PUT", f"/api/permissions/{c.vhost}/conf-taken", {"configure": "", "write": "", "read": ""})
    ch = c.connect("conf-taken")
    yield c.attempt(lambda ch: ch.queue_purge("q") and None, ch)


@case
def password_hashes(c):
    salt = b"\x01\x02\x03\x04"
    for name, algorithm, h in (("conf-sha256", "rabbit_password_hashing_sha256", hashlib.sha256),
                               ("conf-sha512", "rabbit_password_hashing_sha512", hashlib.sha512)):
        c.users.append(name)
        digest = base64.b64encode(salt + h(salt + b"secret").digest()).decode()
        yield c.http("PUT", "/api/users/" + name,
                     {"password_hash": digest, "hashing_algorithm": algorithm, "tags": ""})[0]
        c.must("PUT", f"/api/permissions/{c.vhost}/{name}", {"configure": ".*", "write": ".*", "read": ".*"})
        yield c.refused(name)


# Limits of virtual hosts.

@case
def limit_of_queues(c):
    yield c.http("PUT", f"/api/vhost-limits/{c.vhost}/max-queues", {"value": 1})[0]
    yield c.attempt(lambda ch: ch.queue_declare("a"))
    yield c.attempt(lambda ch: ch.queue_declare("a"))
    yield c.attempt(lambda ch: ch.queue_declare("b"))


@case
def limit_of_connections(c):
    yield c.http("PUT", f"/api/vhost-limits/{c.vhost}/max-connections", {"value": 0})[0]
    yield c.refused()


@case
def limit_of_a_users_connections(c):
    c.user("conf-few", configure=".*")
    yield c.http("PUT", "/api/user-limits/conf-few/max-connections", {"value": 1})[0]
    yield c.refused("conf-few"), c.refused("conf-few")


# What the management API says of messages.

@case
def publish_and_get_by_http(c):
    c.queue()
    yield c.http("POST", f"/api/exchanges/{c.vhost}/amq.default/publish", {
        "properties": {"delivery_mode": 2, "headers": {"n": 1, "t": "x"}}, "routing_key": "q",
        "payload": "hello", "payload_encoding": "string"})
    yield c.http("POST", f"/api/exchanges/{c.vhost}/amq.default/publish", {
        "properties": {}, "routing_key": "nobody", "payload": "aGVsbG8=", "payload_encoding": "base64"})
    yield c.http("POST", f"/api/queues/{c.vhost}/q/get", {"count": 5, "ackmode": "ack_requeue_true", "encoding": "auto"})
    yield c.http("POST", f"/api/queues/{c.vhost}/q/get", {"count": 5, "ackmode": "ack_requeue_false", "encoding": "base64"})
    yield c.http("POST", f"/api/queues/{c.vhost}/q/get", {"count": 5, "ackmode": "ack_requeue_false", "encoding": "auto"})


@case
def declare_and_delete_by_http(c):
    v = c.vhost
    yield c.http("PUT", f"/api/queues/{v}/h", {"durable": True, "arguments": {"x-max-length": 5}})[0]
    yield c.http("PUT", f"/api/queues/{v}/h", {"durable": True, "arguments": {"x-max-length": 5}})[0]
    status, answer = c.http("PUT", f"/api/queues/{v}/h", {"durable": True, "arguments": {"x-max-length": 6}})
    yield status, answer["error"], answer["reason"].replace(v, "VHOST")
    yield c.http("PUT", f"/api/exchanges/{v}/hx", {"type": "topic"})[0]
    yield c.http("POST", f"/api/bindings/{v}/e/hx/q/h", {"routing_key": "a.*", "arguments": {}})[0]
    _, bindings = c.http("GET", f"/api/bindings/{v}/e/hx/q/h")
    yield [{k: x for k, x in b.items() if k != "vhost"} for b in bindings]
    yield c.http("DELETE", f"/api/bindings/{v}/e/hx/q/h/a.%2A")[0]
    yield c.http("DELETE", f"/api/queues/{v}/h/contents")[0]
    yield c.http("DELETE", f"/api/queues/{v}/h")[0], c.http("DELETE", f"/api/queues/{v}/h")[0]
    yield c.http("DELETE", f"/api/exchanges/{v}/hx")[0], c.http("DELETE", f"/api/exchanges/{v}/amq.direct")[0]


def run(f):
    c = Case(f.__name__)
    replies = []
    try:
        for r in f(c):
            replies.append(r)
    except Exception:
        traceback.print_exc()
        replies.append({"failed": traceback.format_exc(limit=-1).splitlines()[-1]})
    finally:
        c.end()
    return json.dumps({"case": f.__name__, "replies": replies}, sort_keys=True)


def main():
    only = sys.argv[3:]
    chosen = [f for f in CASES if not only or f.__name__ in only]
    with ThreadPoolExecutor(8) as pool:
        for line in pool.map(run, chosen):
            print(line, flush=True)


if __name__ == "__main__":
    main()
