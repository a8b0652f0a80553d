"""The six tutorials that RabbitMQ teaches with, and publisher confirms, walked
through with pika: one line of JSON a step, without anything that differs from
one run to the next. Two brokers that behave the same give the same lines.

    tutorials.py URL > transcript.jsonl
"""

import functools
import json
import sys
import time

import pika
import pika.exceptions

URL = sys.argv[1]
QUEUES = ("hello", "task_queue", "rpc_queue", "confirmed")
EXCHANGES = ("logs", "direct_logs", "topic_logs")


def say(tutorial, step, **facts):
    print(json.dumps({"tutorial": tutorial, "step": step, **facts}), flush=True)


def connect():
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    return connection, connection.channel()


def normal(name):
    """A name that the broker made up, without what is different each time."""
    for prefix in ("amq.gen-", "amq.ctag-", "amq.rabbitmq.reply-to.", "ctag1."):
        if name and name.startswith(prefix):
            return prefix + "*"
    return name


def show_properties(p):
    return {k: normal(v) if k == "reply_to" else v for k, v in vars(p).items() if v is not None}


def show(method, properties, body):
    return {"exchange": method.exchange, "routing_key": normal(method.routing_key),
            "redelivered": method.redelivered, "properties": show_properties(properties), "body": body.decode()}


def pump(connection, done, seconds=5):
    """Lets the connection work until done() or the time is over."""
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        connection.process_data_events(time_limit=0.02)
    return done()


class Receiver:
    """A consumer on a connection of its own that keeps what comes."""

    def __init__(self, queue, prefetch=0, auto_ack=False):
        self.connection, self.channel = connect()
        if prefetch:
            self.channel.basic_qos(prefetch_count=prefetch)
        self.got = []
        self.tag = self.channel.basic_consume(queue, lambda ch, m, p, b: self.got.append((m, p, b)), auto_ack=auto_ack)

    def wait(self, n):
        pump(self.connection, lambda: len(self.got) >= n)
        return [b.decode() for _, _, b in self.got]

    def quiet(self):
        """What is there when nothing more has come for a while."""
        before = -1
        while before != len(self.got):
            before = len(self.got)
            pump(self.connection, lambda: False, 0.2)
        return [b.decode() for _, _, b in self.got]

    def ack(self, i):
        self.channel.basic_ack(self.got[i][0].delivery_tag)

    def close(self):
        self.connection.close()


def hello_world():
    connection, channel = connect()
    ok = channel.queue_declare("hello").method
    say(1, "declare", queue=ok.queue, messages=ok.message_count, consumers=ok.consumer_count)
    channel.basic_publish("", "hello", b"Hello World!")
    r = Receiver("hello", auto_ack=True)
    r.wait(1)
    say(1, "receive", tag=normal(r.tag), delivery_tag=r.got[0][0].delivery_tag, message=show(*r.got[0]))
    ok = channel.queue_declare("hello", passive=True).method
    say(1, "look", messages=ok.message_count, consumers=ok.consumer_count)
    r.close()
    connection.close()


def work_queues():
    connection, channel = connect()
    channel.queue_declare("task_queue", durable=True)
    persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    a, b = Receiver("task_queue", prefetch=1), Receiver("task_queue", prefetch=1)
    for i in range(1, 5):
        channel.basic_publish("", "task_queue", b"task %d" % i, properties=persistent)
    say(2, "one task each", a=a.wait(1), b=b.wait(1))
    b.ack(0)
    b.wait(2)
    b.ack(1)
    say(2, "the free worker takes the rest", a=a.quiet(), b=b.wait(3))
    a.close()
    say(2, "a busy worker gets nothing more", b=b.quiet())
    b.ack(2)
    b.wait(4)
    say(2, "what a dead worker held comes back", message=show(*b.got[3]))
    b.channel.basic_nack(b.got[3][0].delivery_tag, requeue=True)
    b.wait(5)
    say(2, "what was refused comes back", message=show(*b.got[4]), delivery_tag=b.got[4][0].delivery_tag)
    b.channel.basic_reject(b.got[4][0].delivery_tag, requeue=False)
    say(2, "what was rejected does not", b=b.quiet())
    b.close()
    ok = channel.queue_declare("task_queue", durable=True, passive=True).method
    say(2, "empty", messages=ok.message_count, consumers=ok.consumer_count)

    # Round robin, without prefetch.
    a, b = Receiver("task_queue"), Receiver("task_queue")
    for i in range(6):
        channel.basic_publish("", "task_queue", b"turn %d" % i)
    say(2, "in turn", a=a.wait(3), b=b.wait(3))
    a.channel.basic_ack(a.got[2][0].delivery_tag, multiple=True)
    a.close()
    b.close()
    ready = lambda: channel.queue_declare("task_queue", passive=True).method.message_count == 3
    say(2, "back in the queue", all=pump(connection, ready))
    say(2, "back in order", bodies=[channel.basic_get("task_queue")[2].decode() for _ in range(3)])
    say(2, "nothing left", got=channel.basic_get("task_queue")[0])
    connection.close()


def publish_subscribe():
    connection, channel = connect()
    channel.exchange_declare("logs", exchange_type="fanout")
    receivers = []
    for _ in range(2):
        c, ch = connect()
        ok = ch.queue_declare("", exclusive=True).method
        ch.queue_bind(ok.queue, "logs")
        say(3, "subscribe", queue=normal(ok.queue))
        got = []
        ch.basic_consume(ok.queue, lambda ch, m, p, b, got=got: got.append(show(m, p, b)), auto_ack=True)
        receivers.append((c, ok.queue, got))
    for i in range(3):
        channel.basic_publish("logs", "", b"log %d" % i)
    for c, _, got in receivers:
        pump(c, lambda: len(got) >= 3)
        say(3, "receive", messages=got)
    try:
        channel.queue_declare(receivers[0][1], passive=True)
    except pika.exceptions.ChannelClosedByBroker as e:
        say(3, "another's queue", code=e.reply_code)
    for c, _, _ in receivers:
        c.close()
    connection.close()


def route(tutorial, exchange, kind, bindings, messages):
    connection, channel = connect()
    channel.confirm_delivery()
    channel.exchange_declare(exchange, exchange_type=kind)
    queues = []
    for keys in bindings:
        queue = channel.queue_declare("", exclusive=True).method.queue
        for key in keys:
            channel.queue_bind(queue, exchange, key)
        queues.append(queue)
    for key in messages:
        channel.basic_publish(exchange, key, key.encode())
    for keys, queue in zip(bindings, queues):
        count = channel.queue_declare(queue, passive=True).method.message_count
        got = [channel.basic_get(queue, auto_ack=True)[2].decode() for _ in range(count)]
        say(tutorial, "route", bindings=keys, got=got)
    channel.queue_unbind(queues[0], exchange, bindings[0][0])
    channel.basic_publish(exchange, messages[0], b"after unbind")
    say(tutorial, "unbind", messages=channel.queue_declare(queues[0], passive=True).method.message_count)
    connection.close()


def routing():
    route(4, "direct_logs", "direct", [["error"], ["info", "warning", "error"], ["debug"]],
          ["info", "error", "warning", "debug", "fatal", ""])


def topics():
    route(5, "topic_logs", "topic",
          [["kern.*"], ["#"], ["*.critical"], ["kern.*", "*.critical"], ["*.orange.*"], ["*.*.rabbit", "lazy.#"],
           ["#.#"], ["*.#"], ["#.rabbit.#"], ["*"], ["a.#.b"], [""], ["kern"], ["*.*"]],
          ["kern.info", "kern.critical", "cron.critical", "quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox",
           "lazy.brown.fox", "lazy.pink.rabbit", "quick.brown.fox", "orange", "quick.orange.new.rabbit",
           "lazy.orange.new.rabbit", "lazy", "", ".", "a.b", "a.x.b", "a.x.y.b", "a..b", "kern", "#", "*"])


def fibonacci(n):
    return functools.reduce(lambda ab, _: (ab[1], ab[0] + ab[1]), range(n), (0, 1))[0]


def serve(channel, ask, say_request):
    def on_request(ch, method, properties, body):
        say_request(show(method, properties, body))
        ch.basic_publish("", properties.reply_to, str(fibonacci(int(body))).encode(),
                         properties=pika.BasicProperties(correlation_id=properties.correlation_id))
        ch.basic_ack(method.delivery_tag)

    return channel.basic_consume(ask, on_request)


def rpc(direct):
    server, serving = connect()
    serving.queue_declare("rpc_queue")
    serving.basic_qos(prefetch_count=1)
    client, asking = connect()
    callback = "amq.rabbitmq.reply-to" if direct else asking.queue_declare("", exclusive=True).method.queue
    answers = []
    tag = asking.basic_consume(callback, lambda ch, m, p, b: answers.append((m, p, b)), auto_ack=True)
    name = "direct reply-to: " if direct else ""
    say(6, name + "callback", queue=normal(callback), tag=normal(tag))
    serve(serving, "rpc_queue", lambda request: say(6, name + "request", message=request))
    for n in (0, 10, 30):
        asking.basic_publish("", "rpc_queue", str(n).encode(),
                             properties=pika.BasicProperties(reply_to=callback, correlation_id="call-%d" % n))
        wanted = len(answers) + 1
        end = time.monotonic() + 5
        while len(answers) < wanted and time.monotonic() < end:
            server.process_data_events(time_limit=0.02)
            client.process_data_events(time_limit=0.02)
        m, p, b = answers[-1]
        say(6, name + "answer", to=n, correlation_id=p.correlation_id, exchange=m.exchange,
            routing_key=normal(m.routing_key), redelivered=m.redelivered, body=b.decode())
    client.close()
    server.close()


def confirms():
    connection, channel = connect()
    channel.queue_declare("confirmed", durable=True)
    channel.confirm_delivery()
    persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent, content_type="text/plain", priority=4,
                                      headers={"text": "v", "number": 7, "big": 1 << 40, "yes": True, "nothing": None,
                                               "list": [1, "two", False], "table": {"inner": "x"}},
                                      message_id="id", timestamp=1700000000, type="t", app_id="a", expiration="60000")
    channel.basic_publish("", "confirmed", b"kept", properties=persistent, mandatory=True)
    say(7, "confirmed")
    for i in range(100):
        channel.basic_publish("", "confirmed", b"%d" % i, mandatory=True)
    say(7, "confirmed each", messages=channel.queue_declare("confirmed", durable=True, passive=True).method.message_count)
    try:
        channel.basic_publish("", "nowhere", b"lost", mandatory=True)
    except pika.exceptions.UnroutableError as e:
        say(7, "returned", messages=[[m.method.reply_code, m.method.reply_text, m.method.routing_key, m.body.decode()]
                                     for m in e.messages])
    channel.basic_publish("", "nowhere", b"lost")
    say(7, "unroutable is confirmed")
    m, p, b = channel.basic_get("confirmed")
    say(7, "get", left=m.message_count, message=show(m, p, b))
    channel.basic_nack(m.delivery_tag, requeue=True)
    m, p, b = channel.basic_get("confirmed", auto_ack=True)
    say(7, "get again", left=m.message_count, redelivered=m.redelivered, body=b.decode())
    say(7, "purge", messages=channel.queue_purge("confirmed").method.message_count)
    for size in (0, 1, 131064, 131065, 1 << 20):
        channel.basic_publish("", "confirmed", b"x" * size)
        _, _, b = channel.basic_get("confirmed", auto_ack=True)
        say(7, "size", sent=size, got=len(b))
    connection.close()


def clean():
    connection, channel = connect()
    for name in QUEUES:
        channel.queue_delete(name)
    for name in EXCHANGES:
        channel.exchange_delete(name)
    connection.close()


def main():
    clean()
    hello_world()
    work_queues()
    publish_subscribe()
    routing()
    topics()
    rpc(direct=False)
    rpc(direct=True)
    confirms()
    clean()


if __name__ == "__main__":
    main()
