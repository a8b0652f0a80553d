"""Wrong uses of AMQP 0-9-1, one connection each, and what the server says to
them: one line of JSON a case, with every frame that came back. The same
program against two brokers that behave the same prints the same.

    errors.py URL > transcript.jsonl
"""

import json
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from pika import frame
from pika.spec import Access, Basic, BasicProperties, Channel, Confirm, Connection, Exchange, Queue, Tx

from pika.compat import long
from wire import Closed, Peer, show

CASES = []
HEADERS = BasicProperties(headers={})


def case(f):
    CASES.append(f)
    return f


class Case:
    """A connection with one open channel. Methods that set a case up fail the
    program when they fail; what attempt and publish get back is recorded."""

    def __init__(self, url, name):
        self.url = url
        self.name = "conf." + name
        self.replies = []
        self.peers = []
        self.clean()
        self.main = self.another()

    def another(self):
        p = Peer(self.url)
        self.peers.append(p)
        return p.login().open()

    def bare(self):
        p = Peer(self.url)
        self.peers.append(p)
        return p

    def clean(self):
        for p in self.peers:
            p.close()
        p = Peer(self.url).login()
        for suffix in ("", ".2"):
            # An exclusive queue goes some time after the connection that owned it.
            for _ in range(100):
                p.open()
                p.send(1, Queue.Delete(queue=self.name + suffix))
                if isinstance(p.expect(Queue.DeleteOk, Channel.Close), Queue.DeleteOk):
                    break
                p.send(1, Channel.CloseOk())
                time.sleep(0.05)
            p.call(1, Exchange.Delete(exchange=self.name + suffix), Exchange.DeleteOk)
            p.call(1, Channel.Close(200, "", 0, 0), Channel.CloseOk)
        p.call(0, Connection.Close(200, "", 0, 0), Connection.CloseOk)
        p.close()

    # Setting up.

    def queue(self, peer=None, **kw):
        peer = peer or self.main
        return peer.call(1, Queue.Declare(queue=self.name, **kw), Queue.DeclareOk)

    def exchange(self, **kw):
        self.main.call(1, Exchange.Declare(exchange=self.name, **kw), Exchange.DeclareOk)

    def fill(self, n=1):
        self.main.call(1, Confirm.Select(), Confirm.SelectOk)
        for i in range(n):
            self.main.send(1, Basic.Publish(exchange="", routing_key=self.name), BasicProperties(), b"m%d" % i)
        seen = 0
        while seen < n:
            ack = self.main.expect(Basic.Ack)
            seen = ack.delivery_tag

    def consume(self, peer=None, **kw):
        peer = peer or self.main
        return peer.call(1, Basic.Consume(queue=self.name, **kw), Basic.ConsumeOk)

    # What is recorded.

    def collect(self, peer=None, until=()):
        """Records frames until one of the given methods, a close, or the end
        of the connection has come."""
        peer = peer or self.main
        until = tuple(until) + (Channel.Close, Connection.Close)
        try:
            while True:
                f = peer.receive(timeout=5)
                self.replies.append(show(f))
                if isinstance(f, frame.Method) and isinstance(f.method, until):
                    return f.method
                if isinstance(f, frame.ProtocolHeader):
                    return None
        except Closed:
            self.replies.append({"end": "connection closed"})
        except TimeoutError:
            self.replies.append({"end": "nothing more"})
        return None

    def attempt(self, method, *until, channel=1, peer=None):
        """A method that is answered."""
        peer = peer or self.main
        peer.send(channel, method)
        return self.collect(peer, until)

    def cast(self, *methods, channel=1, peer=None):
        """Methods without an answer of their own: a basic.qos behind them
        shows when the server is through with them."""
        peer = peer or self.main
        for m in methods:
            peer.send(channel, m)
        return self.attempt(Basic.Qos(), Basic.QosOk, channel=channel, peer=peer)

    def publish(self, exchange="", key="", properties=None, body=b"x", channel=1, **kw):
        self.main.send(channel, Basic.Publish(exchange=exchange, routing_key=key, **kw),
                       properties or BasicProperties(), body)
        return self.attempt(Basic.Qos(), Basic.QosOk, channel=channel)


# Queues: declare.

@case
def queue_passive_missing(c):
    c.attempt(Queue.Declare(queue=c.name, passive=True), Queue.DeclareOk)


@case
def queue_passive_other_properties(c):
    c.queue(durable=True)
    c.attempt(Queue.Declare(queue=c.name, passive=True, auto_delete=True, arguments={"x-max-length": 1}), Queue.DeclareOk)


@case
def queue_passive_exclusive_elsewhere(c):
    c.queue(c.another(), exclusive=True)
    c.attempt(Queue.Declare(queue=c.name, passive=True), Queue.DeclareOk)


@case
def queue_redeclare_equal(c):
    c.queue(durable=True, arguments={"x-max-length": 10})
    c.attempt(Queue.Declare(queue=c.name, durable=True, arguments={"x-max-length": 10}), Queue.DeclareOk)


@case
def queue_redeclare_durable(c):
    c.queue(durable=True)
    c.attempt(Queue.Declare(queue=c.name), Queue.DeclareOk)


@case
def queue_redeclare_not_durable(c):
    c.queue()
    c.attempt(Queue.Declare(queue=c.name, durable=True), Queue.DeclareOk)


@case
def queue_redeclare_auto_delete(c):
    c.queue()
    c.attempt(Queue.Declare(queue=c.name, auto_delete=True), Queue.DeclareOk)


@case
def queue_redeclare_exclusive(c):
    c.queue()
    c.attempt(Queue.Declare(queue=c.name, exclusive=True), Queue.DeclareOk)


@case
def queue_redeclare_exclusive_as_shared(c):
    c.queue(exclusive=True)
    c.attempt(Queue.Declare(queue=c.name), Queue.DeclareOk)


@case
def queue_redeclare_several(c):
    c.queue(durable=True, arguments={"x-max-length": 1})
    c.attempt(Queue.Declare(queue=c.name, auto_delete=True, exclusive=True), Queue.DeclareOk)


REDECLARED = [
    ("x-message-ttl", 1000, 2000), ("x-expires", 60000, 90000), ("x-max-length", 1, 2),
    ("x-max-length-bytes", 100, 200), ("x-max-priority", 5, 6), ("x-overflow", "drop-head", "reject-publish"),
    ("x-dead-letter-exchange", "a", "b"), ("x-dead-letter-routing-key", "a", "b"),
    ("x-single-active-consumer", True, False), ("x-queue-mode", "default", "lazy"),
    ("x-queue-type", "classic", "quorum"),
]


def redeclare_argument(name, was, now):
    def other(c):
        extra = {"x-dead-letter-exchange": ""} if name == "x-dead-letter-routing-key" else {}
        c.queue(durable=True, arguments={name: was, **extra})
        c.attempt(Queue.Declare(queue=c.name, durable=True, arguments={name: now, **extra}), Queue.DeclareOk)

    def more(c):
        extra = {"x-dead-letter-exchange": ""} if name == "x-dead-letter-routing-key" else {}
        c.queue(durable=True, arguments=extra)
        c.attempt(Queue.Declare(queue=c.name, durable=True, arguments={name: now, **extra}), Queue.DeclareOk)

    def fewer(c):
        extra = {"x-dead-letter-exchange": ""} if name == "x-dead-letter-routing-key" else {}
        c.queue(durable=True, arguments={name: was, **extra})
        c.attempt(Queue.Declare(queue=c.name, durable=True, arguments=extra), Queue.DeclareOk)

    stem = "queue_redeclare_" + name.removeprefix("x-").replace("-", "_")
    for f, end in ((other, "_other"), (more, "_added"), (fewer, "_left_out")):
        f.__name__ = stem + end
        case(f)


for row in REDECLARED:
    redeclare_argument(*row)


@case
def queue_redeclare_number_of_other_width(c):
    c.queue(arguments={"x-max-length": 10})
    c.attempt(Queue.Declare(queue=c.name, arguments={"x-max-length": long(10)}), Queue.DeclareOk)


@case
def queue_redeclare_unknown_argument(c):
    c.queue(arguments={"unknown": 1})
    c.attempt(Queue.Declare(queue=c.name, arguments={"unknown": 2}), Queue.DeclareOk)


@case
def queue_reserved_name(c):
    c.attempt(Queue.Declare(queue="amq.mine"), Queue.DeclareOk)


@case
def queue_reserved_name_passive(c):
    c.attempt(Queue.Declare(queue="amq.mine", passive=True), Queue.DeclareOk)


@case
def queue_reply_to_declare(c):
    c.attempt(Queue.Declare(queue="amq.rabbitmq.reply-to"), Queue.DeclareOk)


@case
def queue_reply_to_declare_passive(c):
    c.attempt(Queue.Declare(queue="amq.rabbitmq.reply-to", passive=True), Queue.DeclareOk)


@case
def queue_exclusive_elsewhere(c):
    c.queue(c.another(), exclusive=True)
    c.attempt(Queue.Declare(queue=c.name, exclusive=True), Queue.DeclareOk)


@case
def queue_shared_where_exclusive_elsewhere(c):
    c.queue(c.another(), exclusive=True)
    c.attempt(Queue.Declare(queue=c.name), Queue.DeclareOk)


WRONG_ARGUMENTS = [
    ("message_ttl_text", {"x-message-ttl": "soon"}),
    ("message_ttl_negative", {"x-message-ttl": -1}),
    ("message_ttl_huge", {"x-message-ttl": 1 << 40}),
    ("expires_zero", {"x-expires": 0}),
    ("expires_negative", {"x-expires": -1}),
    ("expires_text", {"x-expires": "soon"}),
    ("max_length_negative", {"x-max-length": -1}),
    ("max_length_text", {"x-max-length": "ten"}),
    ("max_length_bytes_negative", {"x-max-length-bytes": -1}),
    ("max_priority_negative", {"x-max-priority": -1}),
    ("max_priority_256", {"x-max-priority": 256}),
    ("max_priority_text", {"x-max-priority": "high"}),
    ("overflow_unknown", {"x-overflow": "burst"}),
    ("overflow_number", {"x-overflow": 1}),
    ("overflow_reject_publish_dlx", {"x-overflow": "reject-publish-dlx"}),
    ("dead_letter_exchange_number", {"x-dead-letter-exchange": 1}),
    ("dead_letter_routing_key_alone", {"x-dead-letter-routing-key": "k"}),
    ("dead_letter_routing_key_number", {"x-dead-letter-exchange": "e", "x-dead-letter-routing-key": 1}),
    ("single_active_consumer_text", {"x-single-active-consumer": "yes"}),
    ("queue_type_unknown", {"x-queue-type": "cubic"}),
    ("queue_type_number", {"x-queue-type": 1}),
    ("queue_mode_unknown", {"x-queue-mode": "busy"}),
    ("unknown_argument", {"x-unheard-of": 1}),
]


def wrong_argument(name, arguments):
    def f(c):
        c.attempt(Queue.Declare(queue=c.name, durable=True, arguments=arguments), Queue.DeclareOk)

    f.__name__ = "queue_argument_" + name
    case(f)


for row in WRONG_ARGUMENTS:
    wrong_argument(*row)


# Queues: the rest.

@case
def queue_last_declared_without_any(c):
    c.attempt(Queue.Bind(queue="", exchange="amq.direct", routing_key="k"), Queue.BindOk)


@case
def queue_purge_last_declared_without_any(c):
    c.attempt(Queue.Purge(queue=""), Queue.PurgeOk)


@case
def consume_last_declared_without_any(c):
    c.attempt(Basic.Consume(queue=""), Basic.ConsumeOk)


@case
def get_last_declared_without_any(c):
    c.attempt(Basic.Get(queue=""), Basic.GetOk, Basic.GetEmpty)


@case
def bind_missing_queue(c):
    c.attempt(Queue.Bind(queue=c.name, exchange="amq.direct", routing_key="k"), Queue.BindOk)


@case
def bind_missing_exchange(c):
    c.queue()
    c.attempt(Queue.Bind(queue=c.name, exchange=c.name, routing_key="k"), Queue.BindOk)


@case
def bind_both_missing(c):
    c.attempt(Queue.Bind(queue=c.name, exchange=c.name, routing_key="k"), Queue.BindOk)


@case
def bind_default_exchange(c):
    c.queue()
    c.attempt(Queue.Bind(queue=c.name, exchange="", routing_key="k"), Queue.BindOk)


@case
def bind_exclusive_elsewhere(c):
    c.queue(c.another(), exclusive=True)
    c.attempt(Queue.Bind(queue=c.name, exchange="amq.direct", routing_key="k"), Queue.BindOk)


@case
def bind_headers_x_match_unknown(c):
    c.queue()
    c.attempt(Queue.Bind(queue=c.name, exchange="amq.headers", arguments={"x-match": "some"}), Queue.BindOk)


@case
def bind_headers_x_match_number(c):
    c.queue()
    c.attempt(Queue.Bind(queue=c.name, exchange="amq.headers", arguments={"x-match": 1}), Queue.BindOk)


@case
def unbind_missing_queue(c):
    c.attempt(Queue.Unbind(queue=c.name, exchange="amq.direct", routing_key="k"), Queue.UnbindOk)


@case
def unbind_missing_exchange(c):
    c.queue()
    c.attempt(Queue.Unbind(queue=c.name, exchange=c.name, routing_key="k"), Queue.UnbindOk)


@case
def unbind_missing_binding(c):
    c.queue()
    c.attempt(Queue.Unbind(queue=c.name, exchange="amq.direct", routing_key="k"), Queue.UnbindOk)


@case
def unbind_default_exchange(c):
    c.queue()
    c.attempt(Queue.Unbind(queue=c.name, exchange="", routing_key=c.name), Queue.UnbindOk)


@case
def purge_missing(c):
    c.attempt(Queue.Purge(queue=c.name), Queue.PurgeOk)


@case
def purge_exclusive_elsewhere(c):
    c.queue(c.another(), exclusive=True)
    c.attempt(Queue.Purge(queue=c.name), Queue.PurgeOk)


@case
def queue_delete_missing(c):
    c.attempt(Queue.Delete(queue=c.name), Queue.DeleteOk)


@case
def queue_delete_in_use(c):
    c.queue()
    c.consume(c.another())
    c.attempt(Queue.Delete(queue=c.name, if_unused=True), Queue.DeleteOk)


@case
def queue_delete_not_empty(c):
    c.queue()
    c.fill()
    c.attempt(Queue.Delete(queue=c.name, if_empty=True), Queue.DeleteOk)


@case
def queue_delete_in_use_and_not_empty(c):
    c.queue()
    c.fill(2)
    p = c.another()
    p.call(1, Basic.Qos(prefetch_count=1), Basic.QosOk)
    c.consume(p)
    c.attempt(Queue.Delete(queue=c.name, if_empty=True, if_unused=True), Queue.DeleteOk)


@case
def queue_delete_exclusive_elsewhere(c):
    c.queue(c.another(), exclusive=True)
    c.attempt(Queue.Delete(queue=c.name), Queue.DeleteOk)


@case
def queue_name_of_255_bytes(c):
    name = (c.name + "." + "x" * 255)[:255]
    c.attempt(Queue.Declare(queue=name, exclusive=True), Queue.DeclareOk)


@case
def queue_name_not_utf8(c):
    name = b"conf.\xff\xfe"
    payload = struct.pack(">HHH", 50, 10, 0) + bytes([len(name)]) + name + b"\x04" + struct.pack(">I", 0)
    c.main.raw(1, 1, payload)
    c.collect(until=(Queue.DeclareOk,))


# Exchanges.

@case
def exchange_passive_missing(c):
    c.attempt(Exchange.Declare(exchange=c.name, passive=True), Exchange.DeclareOk)


@case
def exchange_passive_other_type(c):
    c.exchange()
    c.attempt(Exchange.Declare(exchange=c.name, type="fanout", passive=True), Exchange.DeclareOk)


@case
def exchange_unknown_type(c):
    c.attempt(Exchange.Declare(exchange=c.name, type="round"), Exchange.DeclareOk)


@case
def exchange_unknown_x_type(c):
    c.attempt(Exchange.Declare(exchange=c.name, type="x-round"), Exchange.DeclareOk)


@case
def exchange_reserved_name(c):
    c.attempt(Exchange.Declare(exchange="amq.mine"), Exchange.DeclareOk)


@case
def exchange_reserved_name_passive(c):
    c.attempt(Exchange.Declare(exchange="amq.mine", passive=True), Exchange.DeclareOk)


@case
def exchange_redeclare_built_in_equal(c):
    c.attempt(Exchange.Declare(exchange="amq.topic", type="topic", durable=True), Exchange.DeclareOk)


@case
def exchange_redeclare_built_in_other(c):
    c.attempt(Exchange.Declare(exchange="amq.topic", type="fanout", durable=True), Exchange.DeclareOk)


@case
def exchange_declare_default(c):
    c.attempt(Exchange.Declare(exchange="", type="direct", durable=True), Exchange.DeclareOk)


@case
def exchange_declare_default_passive(c):
    c.attempt(Exchange.Declare(exchange="", passive=True), Exchange.DeclareOk)


@case
def exchange_redeclare_equal(c):
    c.exchange(type="topic", durable=True)
    c.attempt(Exchange.Declare(exchange=c.name, type="topic", durable=True), Exchange.DeclareOk)


@case
def exchange_redeclare_type(c):
    c.exchange(type="direct")
    c.attempt(Exchange.Declare(exchange=c.name, type="fanout"), Exchange.DeclareOk)


@case
def exchange_redeclare_durable(c):
    c.exchange(durable=True)
    c.attempt(Exchange.Declare(exchange=c.name), Exchange.DeclareOk)


@case
def exchange_redeclare_auto_delete(c):
    c.exchange()
    c.attempt(Exchange.Declare(exchange=c.name, auto_delete=True), Exchange.DeclareOk)


@case
def exchange_redeclare_internal(c):
    c.exchange()
    c.attempt(Exchange.Declare(exchange=c.name, internal=True), Exchange.DeclareOk)


@case
def exchange_redeclare_alternate(c):
    c.exchange(arguments={"alternate-exchange": "a"})
    c.attempt(Exchange.Declare(exchange=c.name, arguments={"alternate-exchange": "b"}), Exchange.DeclareOk)


@case
def exchange_redeclare_alternate_added(c):
    c.exchange()
    c.attempt(Exchange.Declare(exchange=c.name, arguments={"alternate-exchange": "b"}), Exchange.DeclareOk)


@case
def exchange_alternate_number(c):
    c.attempt(Exchange.Declare(exchange=c.name, arguments={"alternate-exchange": 1}), Exchange.DeclareOk)


@case
def exchange_redeclare_unknown_argument(c):
    c.exchange()
    c.attempt(Exchange.Declare(exchange=c.name, arguments={"unknown": 1}), Exchange.DeclareOk)


@case
def exchange_delete_missing(c):
    c.attempt(Exchange.Delete(exchange=c.name), Exchange.DeleteOk)


@case
def exchange_delete_default(c):
    c.attempt(Exchange.Delete(exchange=""), Exchange.DeleteOk)


@case
def exchange_delete_built_in(c):
    c.attempt(Exchange.Delete(exchange="amq.direct"), Exchange.DeleteOk)


@case
def exchange_delete_reserved_missing(c):
    c.attempt(Exchange.Delete(exchange="amq.mine"), Exchange.DeleteOk)


@case
def exchange_delete_in_use_by_queue(c):
    c.exchange()
    c.queue()
    c.main.call(1, Queue.Bind(queue=c.name, exchange=c.name, routing_key="k"), Queue.BindOk)
    c.attempt(Exchange.Delete(exchange=c.name, if_unused=True), Exchange.DeleteOk)


@case
def exchange_delete_in_use_by_exchange(c):
    c.exchange()
    c.main.call(1, Exchange.Bind(destination="amq.fanout", source=c.name, routing_key="k"), Exchange.BindOk)
    c.attempt(Exchange.Delete(exchange=c.name, if_unused=True), Exchange.DeleteOk)


@case
def exchange_bind_missing_source(c):
    c.attempt(Exchange.Bind(destination="amq.fanout", source=c.name), Exchange.BindOk)


@case
def exchange_bind_missing_destination(c):
    c.attempt(Exchange.Bind(destination=c.name, source="amq.fanout"), Exchange.BindOk)


@case
def exchange_bind_both_missing(c):
    c.attempt(Exchange.Bind(destination=c.name, source=c.name + ".2"), Exchange.BindOk)


@case
def exchange_bind_default_source(c):
    c.attempt(Exchange.Bind(destination="amq.fanout", source=""), Exchange.BindOk)


@case
def exchange_bind_default_destination(c):
    c.attempt(Exchange.Bind(destination="", source="amq.fanout"), Exchange.BindOk)


@case
def exchange_unbind_missing_source(c):
    c.attempt(Exchange.Unbind(destination="amq.fanout", source=c.name), Exchange.UnbindOk)


@case
def exchange_unbind_missing_binding(c):
    c.attempt(Exchange.Unbind(destination="amq.fanout", source="amq.direct", routing_key="nothing"), Exchange.UnbindOk)


@case
def exchange_unbind_default(c):
    c.attempt(Exchange.Unbind(destination="amq.fanout", source=""), Exchange.UnbindOk)


@case
def exchange_name_with_newline(c):
    c.attempt(Exchange.Declare(exchange="conf.a\r\nb", auto_delete=True), Exchange.DeclareOk)


@case
def queue_name_with_newline(c):
    c.attempt(Queue.Declare(queue="conf.a\r\nb", exclusive=True), Queue.DeclareOk)


# Publishing.

@case
def publish_missing_exchange(c):
    c.publish(exchange=c.name, key="k")


@case
def publish_missing_exchange_empty_body(c):
    c.publish(exchange=c.name, key="k", body=b"")


@case
def publish_missing_exchange_confirm(c):
    c.main.call(1, Confirm.Select(), Confirm.SelectOk)
    c.publish(exchange=c.name, key="k")


@case
def publish_internal_exchange(c):
    c.exchange(internal=True)
    c.publish(exchange=c.name, key="k")


@case
def publish_immediate(c):
    c.publish(key="nowhere", immediate=True)


@case
def publish_mandatory_unroutable(c):
    c.publish(key="nowhere", mandatory=True, properties=BasicProperties(message_id="7", headers={"a": 1}), body=b"back")


@case
def publish_mandatory_unroutable_confirm(c):
    c.main.call(1, Confirm.Select(), Confirm.SelectOk)
    c.main.send(1, Basic.Publish(exchange="amq.direct", routing_key="nowhere", mandatory=True), BasicProperties(), b"back")
    c.collect(until=(Basic.Ack, Basic.Nack))


@case
def publish_mandatory_unroutable_empty_body(c):
    c.publish(exchange="amq.topic", key="no.where", mandatory=True, body=b"")


@case
def publish_unroutable_confirm(c):
    c.main.call(1, Confirm.Select(), Confirm.SelectOk)
    c.main.send(1, Basic.Publish(exchange="amq.direct", routing_key="nowhere"), BasicProperties(), b"x")
    c.collect(until=(Basic.Ack, Basic.Nack))


@case
def publish_wrong_user_id(c):
    c.publish(key="nowhere", properties=BasicProperties(user_id="somebody"))


@case
def publish_right_user_id(c):
    c.publish(key="nowhere", properties=BasicProperties(user_id="guest"))


@case
def publish_expiration_text(c):
    c.queue()
    c.publish(key=c.name, properties=BasicProperties(expiration="soon"))


@case
def publish_expiration_negative(c):
    c.queue()
    c.publish(key=c.name, properties=BasicProperties(expiration="-1"))


@case
def publish_expiration_huge(c):
    c.queue()
    c.publish(key=c.name, properties=BasicProperties(expiration="99999999999999"))


@case
def publish_expiration_to_nowhere(c):
    c.publish(key="nowhere", properties=BasicProperties(expiration="soon"))


@case
def publish_cc_number(c):
    c.publish(key="nowhere", properties=BasicProperties(headers={"CC": 1}))


@case
def publish_cc_numbers(c):
    c.publish(key="nowhere", properties=BasicProperties(headers={"CC": [1]}))


@case
def publish_bcc_text(c):
    c.publish(key="nowhere", properties=BasicProperties(headers={"BCC": "x"}))


@case
def publish_reply_to_without_consumer(c):
    c.publish(key="nowhere", properties=BasicProperties(reply_to="amq.rabbitmq.reply-to"))


@case
def publish_to_unknown_reply_to(c):
    c.publish(key="amq.rabbitmq.reply-to.abc", mandatory=True)


@case
def publish_closes_tell_the_first_only(c):
    for _ in range(3):
        c.main.send(1, Basic.Publish(exchange=c.name, routing_key="k"), BasicProperties(), b"x")
    c.collect()
    c.main.send(1, Channel.CloseOk())
    c.attempt(Channel.Open(), Channel.OpenOk)


# Consuming.

@case
def consume_missing_queue(c):
    c.attempt(Basic.Consume(queue=c.name), Basic.ConsumeOk)


@case
def consume_exclusive_elsewhere(c):
    c.queue(c.another(), exclusive=True)
    c.attempt(Basic.Consume(queue=c.name), Basic.ConsumeOk)


@case
def consume_where_exclusive_consumer(c):
    c.queue()
    c.consume(c.another(), exclusive=True)
    c.attempt(Basic.Consume(queue=c.name), Basic.ConsumeOk)


@case
def consume_exclusive_where_consumer(c):
    c.queue()
    c.consume(c.another())
    c.attempt(Basic.Consume(queue=c.name, exclusive=True), Basic.ConsumeOk)


@case
def consume_same_tag(c):
    c.queue()
    c.consume(consumer_tag="tag")
    c.attempt(Basic.Consume(queue=c.name, consumer_tag="tag"), Basic.ConsumeOk)


@case
def consume_same_tag_other_channel(c):
    c.queue()
    c.consume(consumer_tag="tag")
    c.main.open(2)
    c.attempt(Basic.Consume(queue=c.name, consumer_tag="tag"), Basic.ConsumeOk, channel=2)


@case
def consume_priority_text(c):
    c.queue()
    c.attempt(Basic.Consume(queue=c.name, consumer_tag="t", arguments={"x-priority": "high"}), Basic.ConsumeOk)


@case
def consume_reply_to_with_acks(c):
    c.attempt(Basic.Consume(queue="amq.rabbitmq.reply-to", consumer_tag="t"), Basic.ConsumeOk)


@case
def consume_reply_to_twice(c):
    c.main.call(1, Basic.Consume(queue="amq.rabbitmq.reply-to", consumer_tag="t", no_ack=True), Basic.ConsumeOk)
    c.attempt(Basic.Consume(queue="amq.rabbitmq.reply-to", consumer_tag="u", no_ack=True), Basic.ConsumeOk)


@case
def cancel_unknown_tag(c):
    c.attempt(Basic.Cancel(consumer_tag="nobody"), Basic.CancelOk)


@case
def consumer_cancelled_by_queue_delete(c):
    c.queue()
    c.consume(consumer_tag="t")
    c.another().call(1, Queue.Delete(queue=c.name), Queue.DeleteOk)
    c.collect(until=(Basic.Cancel,))


@case
def get_missing_queue(c):
    c.attempt(Basic.Get(queue=c.name), Basic.GetOk, Basic.GetEmpty)


@case
def get_empty_queue(c):
    c.queue()
    c.attempt(Basic.Get(queue=c.name), Basic.GetOk, Basic.GetEmpty)


@case
def get_exclusive_elsewhere(c):
    c.queue(c.another(), exclusive=True)
    c.attempt(Basic.Get(queue=c.name), Basic.GetOk, Basic.GetEmpty)


@case
def get_where_exclusive_consumer(c):
    c.queue()
    c.consume(c.another(), exclusive=True)
    c.attempt(Basic.Get(queue=c.name), Basic.GetOk, Basic.GetEmpty)


@case
def qos_prefetch_size(c):
    c.attempt(Basic.Qos(prefetch_size=1), Basic.QosOk)


@case
def qos_prefetch_size_global(c):
    c.attempt(Basic.Qos(prefetch_size=1, global_qos=True), Basic.QosOk)


# Settling.

@case
def ack_unknown_tag(c):
    c.cast(Basic.Ack(delivery_tag=7))


@case
def ack_unknown_tag_multiple(c):
    c.cast(Basic.Ack(delivery_tag=7, multiple=True))


@case
def ack_zero(c):
    c.cast(Basic.Ack(delivery_tag=0))


@case
def ack_zero_multiple_with_nothing(c):
    c.cast(Basic.Ack(delivery_tag=0, multiple=True))


@case
def nack_unknown_tag(c):
    c.cast(Basic.Nack(delivery_tag=7))


@case
def nack_zero_multiple_with_nothing(c):
    c.cast(Basic.Nack(delivery_tag=0, multiple=True))


@case
def reject_unknown_tag(c):
    c.cast(Basic.Reject(delivery_tag=7))


def got(c, n=1):
    c.queue()
    c.fill(n)
    for _ in range(n):
        c.main.call(1, Basic.Get(queue=c.name), Basic.GetOk)
        c.main.receive()
        c.main.receive()


@case
def ack_twice(c):
    got(c)
    c.cast(Basic.Ack(delivery_tag=1), Basic.Ack(delivery_tag=1))


@case
def ack_after_nack(c):
    got(c)
    c.cast(Basic.Nack(delivery_tag=1, requeue=False), Basic.Ack(delivery_tag=1))


@case
def reject_after_ack(c):
    got(c)
    c.cast(Basic.Ack(delivery_tag=1), Basic.Reject(delivery_tag=1))


@case
def ack_below_a_multiple(c):
    got(c, 3)
    c.cast(Basic.Ack(delivery_tag=2, multiple=True), Basic.Ack(delivery_tag=1))


@case
def ack_multiple_twice(c):
    got(c, 2)
    c.cast(Basic.Ack(delivery_tag=2, multiple=True), Basic.Ack(delivery_tag=2, multiple=True))


@case
def ack_multiple_of_a_settled_tag(c):
    got(c, 3)
    c.cast(Basic.Ack(delivery_tag=2), Basic.Ack(delivery_tag=2, multiple=True))


@case
def ack_multiple_above_the_last(c):
    got(c, 2)
    c.cast(Basic.Ack(delivery_tag=9, multiple=True))


@case
def ack_on_other_channel(c):
    got(c)
    c.main.open(2)
    c.cast(Basic.Ack(delivery_tag=1), channel=2)


@case
def ack_of_no_ack_delivery(c):
    c.queue()
    c.fill()
    c.main.call(1, Basic.Get(queue=c.name, no_ack=True), Basic.GetOk)
    c.main.receive()
    c.main.receive()
    c.cast(Basic.Ack(delivery_tag=1))


@case
def recover_without_requeue(c):
    c.attempt(Basic.Recover(requeue=False), Basic.RecoverOk)


@case
def recover_with_nothing(c):
    c.attempt(Basic.Recover(requeue=True), Basic.RecoverOk)


@case
def recover_async_with_nothing(c):
    c.cast(Basic.RecoverAsync(requeue=True))


@case
def recover_async_without_requeue(c):
    c.cast(Basic.RecoverAsync(requeue=False))


# Transactions and confirms.

@case
def confirm_on_tx(c):
    c.main.call(1, Tx.Select(), Tx.SelectOk)
    c.attempt(Confirm.Select(), Confirm.SelectOk)


@case
def tx_on_confirm(c):
    c.main.call(1, Confirm.Select(), Confirm.SelectOk)
    c.attempt(Tx.Select(), Tx.SelectOk)


@case
def commit_without_select(c):
    c.attempt(Tx.Commit(), Tx.CommitOk)


@case
def rollback_without_select(c):
    c.attempt(Tx.Rollback(), Tx.RollbackOk)


@case
def select_twice(c):
    c.main.call(1, Tx.Select(), Tx.SelectOk)
    c.attempt(Tx.Select(), Tx.SelectOk)


@case
def confirm_select_twice(c):
    c.main.call(1, Confirm.Select(), Confirm.SelectOk)
    c.attempt(Confirm.Select(), Confirm.SelectOk)


@case
def tx_publish_missing_exchange(c):
    c.main.call(1, Tx.Select(), Tx.SelectOk)
    c.publish(exchange=c.name, key="k")


@case
def tx_ack_unknown_tag(c):
    c.main.call(1, Tx.Select(), Tx.SelectOk)
    c.cast(Basic.Ack(delivery_tag=7))


@case
def tx_mandatory_unroutable(c):
    c.main.call(1, Tx.Select(), Tx.SelectOk)
    c.main.send(1, Basic.Publish(routing_key="nowhere", mandatory=True), BasicProperties(), b"back")
    c.attempt(Tx.Commit(), Tx.CommitOk)
    c.attempt(Basic.Qos(), Basic.QosOk)


# Channels.

@case
def channel_open_twice(c):
    c.attempt(Channel.Open(), Channel.OpenOk)


@case
def channel_not_open(c):
    c.attempt(Queue.Declare(queue=c.name), Queue.DeclareOk, channel=5)


@case
def channel_close_not_open(c):
    c.attempt(Channel.Close(200, "", 0, 0), Channel.CloseOk, channel=5)


@case
def channel_close(c):
    c.attempt(Channel.Close(200, "bye", 0, 0), Channel.CloseOk)


@case
def channel_used_after_close(c):
    c.main.call(1, Channel.Close(200, "", 0, 0), Channel.CloseOk)
    c.attempt(Queue.Declare(queue=c.name), Queue.DeclareOk)


@case
def channel_reopened_after_error(c):
    c.attempt(Queue.Declare(queue=c.name, passive=True), Queue.DeclareOk)
    c.main.send(1, Channel.CloseOk())
    c.attempt(Channel.Open(), Channel.OpenOk)


@case
def channel_used_between_close_and_close_ok(c):
    c.attempt(Queue.Declare(queue=c.name, passive=True), Queue.DeclareOk)
    c.main.send(1, Queue.Declare(queue=c.name))
    c.main.send(1, Channel.CloseOk())
    c.attempt(Channel.Open(), Channel.OpenOk)


@case
def channel_close_ok_alone(c):
    c.attempt(Channel.CloseOk())


@case
def channel_above_maximum(c):
    p = c.bare()
    p.login(channel_max=4)
    c.attempt(Channel.Open(), Channel.OpenOk, channel=5, peer=p)


@case
def channel_flow_off(c):
    c.attempt(Channel.Flow(active=False), Channel.FlowOk)


@case
def channel_flow_on(c):
    c.attempt(Channel.Flow(active=True), Channel.FlowOk)


@case
def channel_zero_queue_declare(c):
    c.attempt(Queue.Declare(queue=c.name), Queue.DeclareOk, channel=0)


@case
def channel_connection_method(c):
    c.attempt(Connection.Close(200, "", 0, 0), Connection.CloseOk, channel=1)


@case
def method_for_clients_only(c):
    c.attempt(Queue.DeclareOk(queue="q", message_count=0, consumer_count=0))


@case
def access_request(c):
    payload = struct.pack(">HH", 30, 10) + b"\x05/data" + b"\x1f"
    c.main.raw(1, 1, payload)
    c.collect(until=(Access.RequestOk,))


# Frames.

@case
def frame_too_large(c):
    c.main.send(1, Basic.Publish(exchange="", routing_key="nowhere"))
    c.main.write(frame.Header(1, 200000, BasicProperties()).marshal())
    c.main.raw(3, 1, b"x" * 200000)
    c.collect()


@case
def frame_as_large_as_agreed(c):
    c.main.send(1, Basic.Publish(exchange="", routing_key="nowhere"), BasicProperties(), b"x" * (131072 - 8))
    c.attempt(Basic.Qos(), Basic.QosOk)


@case
def frame_one_byte_too_large(c):
    c.main.send(1, Basic.Publish(exchange="", routing_key="nowhere"))
    c.main.write(frame.Header(1, 131072 - 7, BasicProperties()).marshal())
    c.main.raw(3, 1, b"x" * (131072 - 7))
    c.attempt(Basic.Qos(), Basic.QosOk)


@case
def frame_end_wrong(c):
    c.main.raw(1, 1, struct.pack(">HH", 10, 50), end=b"\x00")
    c.collect()


@case
def frame_kind_unknown(c):
    c.main.raw(5, 1, b"")
    c.collect()


@case
def frame_empty_method(c):
    c.main.raw(1, 1, b"")
    c.collect()


@case
def frame_method_cut(c):
    c.main.raw(1, 1, struct.pack(">HH", 50, 10) + b"\x00\x00\x20abc")
    c.collect()


@case
def frame_method_too_long(c):
    c.main.raw(1, 1, struct.pack(">HH", 20, 10) + b"\x00" + b"rest")
    c.collect()


@case
def frame_class_unknown(c):
    c.main.raw(1, 1, struct.pack(">HH", 99, 10))
    c.collect()


@case
def frame_method_unknown(c):
    c.main.raw(1, 1, struct.pack(">HH", 50, 99))
    c.collect()


@case
def frame_table_cut(c):
    table = b"\x01aS" + struct.pack(">I", 1000) + b"short"
    c.main.raw(1, 1, struct.pack(">HHH", 50, 10, 0) + b"\x01q\x00" + struct.pack(">I", len(table)) + table)
    c.collect()


@case
def frame_table_kind_unknown(c):
    table = b"\x01a?\x00"
    c.main.raw(1, 1, struct.pack(">HHH", 50, 10, 0) + b"\x01q\x00" + struct.pack(">I", len(table)) + table)
    c.collect()


@case
def frame_heartbeat_on_channel(c):
    c.main.raw(8, 1, b"")
    c.attempt(Basic.Qos(), Basic.QosOk)


@case
def frame_heartbeat_with_content(c):
    c.main.raw(8, 0, b"xx")
    c.attempt(Basic.Qos(), Basic.QosOk)


@case
def content_header_without_method(c):
    c.main.write(frame.Header(1, 1, BasicProperties()).marshal())
    c.collect()


@case
def content_body_without_method(c):
    c.main.write(frame.Body(1, b"x").marshal())
    c.collect()


@case
def content_body_without_header(c):
    c.main.send(1, Basic.Publish(exchange="", routing_key="nowhere"))
    c.main.write(frame.Body(1, b"x").marshal())
    c.collect()


@case
def content_method_instead_of_header(c):
    c.main.send(1, Basic.Publish(exchange="", routing_key="nowhere"))
    c.main.send(1, Basic.Qos())
    c.collect()


@case
def content_method_instead_of_body(c):
    c.main.send(1, Basic.Publish(exchange="", routing_key="nowhere"))
    c.main.write(frame.Header(1, 10, BasicProperties()).marshal())
    c.main.send(1, Basic.Qos())
    c.collect()


@case
def content_body_longer_than_announced(c):
    c.main.send(1, Basic.Publish(exchange="", routing_key="nowhere"))
    c.main.write(frame.Header(1, 1, BasicProperties()).marshal())
    c.main.write(frame.Body(1, b"xx").marshal())
    c.collect()


@case
def content_header_of_other_class(c):
    c.main.send(1, Basic.Publish(exchange="", routing_key="nowhere"))
    c.main.raw(2, 1, struct.pack(">HHQH", 50, 0, 1, 0))
    c.collect()


@case
def content_larger_than_allowed(c):
    c.main.send(1, Basic.Publish(exchange="", routing_key="nowhere"))
    c.main.write(frame.Header(1, 1 << 40, BasicProperties()).marshal())
    c.collect()


# Connections.

@case
def connection_protocol_other(c):
    p = c.bare()
    p.write(b"AMQP\x01\x01\x00\x0a")
    c.collect(p)
    c.collect(p)


@case
def connection_protocol_nonsense(c):
    p = c.bare()
    p.write(b"HELO\r\n\r\n")
    c.collect(p)
    c.collect(p)


@case
def connection_mechanism_unknown(c):
    p = c.bare()
    p.start()
    p.start_ok(mechanism="MAGIC")
    c.collect(p)


@case
def connection_password_wrong(c):
    p = c.bare()
    p.start()
    p.start_ok(password="wrong")
    c.collect(p)


@case
def connection_user_unknown(c):
    p = c.bare()
    p.start()
    p.start_ok(response="\0nobody\0secret")
    c.collect(p)


@case
def connection_plain_malformed(c):
    p = c.bare()
    p.start()
    p.start_ok(response="guest")
    c.collect(p)


@case
def connection_password_wrong_without_capability(c):
    p = c.bare()
    p.start()
    p.start_ok(password="wrong", capabilities={})
    c.collect(p)


@case
def connection_vhost_unknown(c):
    p = c.bare()
    p.start()
    p.start_ok()
    p.expect(Connection.Tune)
    p.send(0, Connection.TuneOk(channel_max=2047, frame_max=131072, heartbeat=0))
    c.attempt(Connection.Open(virtual_host="/unknown"), Connection.OpenOk, channel=0, peer=p)


@case
def connection_tune(c):
    p = c.bare()
    p.start()
    p.start_ok()
    c.collect(p, (Connection.Tune,))


def tune(name, **kw):
    def f(c):
        p = c.bare()
        p.start()
        p.start_ok()
        p.expect(Connection.Tune)
        p.send(0, Connection.TuneOk(**{"channel_max": 2047, "frame_max": 131072, "heartbeat": 0, **kw}))
        c.attempt(Connection.Open(virtual_host="/"), Connection.OpenOk, channel=0, peer=p)

    f.__name__ = "connection_tune_" + name
    case(f)


tune("channel_max_above", channel_max=4000)
tune("channel_max_zero", channel_max=0)
tune("frame_max_above", frame_max=1 << 20)
tune("frame_max_below_minimum", frame_max=1024)
tune("frame_max_zero", frame_max=0)


@case
def connection_open_before_tune_ok(c):
    p = c.bare()
    p.start()
    p.start_ok()
    p.expect(Connection.Tune)
    c.attempt(Connection.Open(virtual_host="/"), Connection.OpenOk, channel=0, peer=p)


@case
def connection_channel_before_open(c):
    p = c.bare()
    p.start()
    p.start_ok()
    p.expect(Connection.Tune)
    p.send(0, Connection.TuneOk(channel_max=2047, frame_max=131072, heartbeat=0))
    c.attempt(Channel.Open(), Channel.OpenOk, peer=p)


@case
def connection_open_twice(c):
    c.attempt(Connection.Open(virtual_host="/"), Connection.OpenOk, channel=0)


@case
def connection_start_ok_twice(c):
    c.main.start_ok()
    c.collect()


@case
def connection_close(c):
    c.attempt(Connection.Close(200, "bye", 0, 0), Connection.CloseOk, channel=0)


@case
def connection_update_secret(c):
    c.attempt(Connection.UpdateSecret(new_secret="new", reason="because"), Connection.UpdateSecretOk, channel=0)


def run(url, f):
    c = Case(url, f.__name__)
    try:
        f(c)
    finally:
        c.clean()
    return {"case": f.__name__, "replies": c.replies}


def main():
    url, wanted = sys.argv[1], sys.argv[2:]
    cases = [f for f in CASES if not wanted or f.__name__ in wanted]
    # Some refusals are silent for seconds; each case has names of its own, so
    # several run at a time.
    with ThreadPoolExecutor(max_workers=12) as pool:
        for answer in pool.map(lambda f: run(url, f), cases):
            print(json.dumps(answer, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
