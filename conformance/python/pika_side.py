"""The pika side of a test that has other clients on the same queue: it does what it
is told on standard input, a line of JSON a command, and answers each with one.

    pika_side.py AMQP-URL QUEUE
"""

import json
import sys
import time

import pika

PATIENCE = 15

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
channel.confirm_delivery()
queue = sys.argv[2]


def send(body):
    channel.basic_publish("", queue, body.encode(), pika.BasicProperties(delivery_mode=2), mandatory=True)
    return {}


def take():
    """The message at the head, acknowledged."""
    end = time.monotonic() + PATIENCE
    while True:
        method, _, body = channel.basic_get(queue)
        if method:
            channel.basic_ack(method.delivery_tag)
            return {"body": body.decode()}
        if time.monotonic() > end:
            return {"error": "nothing came"}


for line in sys.stdin:
    command = json.loads(line)
    print(json.dumps(globals()[command.pop("do")](**command)), flush=True)
connection.close()
