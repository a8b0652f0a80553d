"""A bare AMQP 0-9-1 peer: it sends what it is told, also what is wrong, and
shows every frame that comes back. pika's codec makes and reads the frames;
pika's connection, which would refuse to send wrong ones and hide some of the
answers, is not used."""

import socket
import struct
import urllib.parse

from pika import frame, spec

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"

# Capabilities that the client announces: with them a server sends
# basic.cancel, connection.blocked, and a close after a failed login.
CAPABILITIES = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


class Closed(Exception):
    """The server ended the TCP connection."""


class Peer:
    """One TCP connection to a server, and no state beyond it."""

    def __init__(self, url, timeout=10):
        u = urllib.parse.urlparse(url)
        self.user = urllib.parse.unquote(u.username or "guest")
        self.password = urllib.parse.unquote(u.password or "guest")
        self.sock = socket.create_connection((u.hostname, u.port or 5672), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def close(self):
        self.sock.close()

    def write(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what the server had to say is read next

    def send(self, channel, method, properties=None, body=b"", frame_max=131072):
        """Sends a method; with properties also a header and the body."""
        out = frame.Method(channel, method).marshal()
        if properties is not None:
            out += frame.Header(channel, len(body), properties).marshal()
            step = frame_max - 8
            for at in range(0, len(body), step):
                out += frame.Body(channel, body[at:at + step]).marshal()
        self.write(out)

    def raw(self, kind, channel, payload, end=b"\xce"):
        """Sends a frame that pika would not make."""
        self.write(struct.pack(">BHI", kind, channel, len(payload)) + payload + end)

    def fill(self, timeout=None):
        if timeout is not None:
            self.sock.settimeout(timeout)
        try:
            more = self.sock.recv(65536)
        except ConnectionResetError:
            more = b""
        if not more:
            raise Closed
        self.buffer += more

    def receive(self, timeout=10):
        """The next frame. Heartbeats are left out."""
        while True:
            used, f = frame.decode_frame(self.buffer)
            if f is None:
                self.fill(timeout)
                continue
            self.buffer = self.buffer[used:]
            if not isinstance(f, frame.Heartbeat):
                return f

    def expect(self, *kinds):
        """The next frame's method, which must be one of kinds."""
        f = self.receive()
        if not isinstance(f, frame.Method) or not isinstance(f.method, kinds):
            raise AssertionError(f"expected {[k.NAME for k in kinds]}, got {show(f)}")
        return f.method

    def call(self, channel, method, *kinds):
        self.send(channel, method)
        return self.expect(*kinds)

    def start(self):
        self.write(PROTOCOL_HEADER)
        return self.expect(spec.Connection.Start)

    def start_ok(self, password=None, mechanism="PLAIN", response=None, capabilities=None):
        if response is None:
            response = f"\0{self.user}\0{self.password if password is None else password}"
        self.send(0, spec.Connection.StartOk(
            client_properties={"capabilities": CAPABILITIES if capabilities is None else capabilities},
            mechanism=mechanism, response=response))

    def login(self, vhost="/", frame_max=None, channel_max=None):
        """Everything up to connection.open-ok."""
        self.start()
        self.start_ok()
        tune = self.expect(spec.Connection.Tune)
        self.send(0, spec.Connection.TuneOk(
            channel_max=tune.channel_max if channel_max is None else channel_max,
            frame_max=tune.frame_max if frame_max is None else frame_max, heartbeat=0))
        self.call(0, spec.Connection.Open(virtual_host=vhost), spec.Connection.OpenOk)
        return self

    def open(self, channel=1):
        self.call(channel, spec.Channel.Open(), spec.Channel.OpenOk)
        return self


def plain(v):
    """A value of a field table as JSON can say it."""
    if isinstance(v, dict):
        return {k: plain(x) for k, x in sorted(v.items())}
    if isinstance(v, (list, tuple)):
        return [plain(x) for x in v]
    if isinstance(v, bytes):
        return v.decode("utf-8", "backslashreplace")
    if v is None or isinstance(v, (bool, int, float, str)):
        return v
    return str(v)


def show(f):
    """A frame as an object for the transcript."""
    if isinstance(f, frame.Method):
        out = {"method": f.method.NAME.lower()}
        out.update({k: plain(v) for k, v in vars(f.method).items() if k != "ticket"})
    elif isinstance(f, frame.Header):
        out = {"header": {k: plain(v) for k, v in vars(f.properties).items() if v is not None},
               "size": f.body_size}
    elif isinstance(f, frame.Body):
        out = {"body": f.fragment.decode("utf-8", "backslashreplace")}
    elif isinstance(f, frame.ProtocolHeader):
        out = {"protocol": [f.major, f.minor, f.revision]}
    else:
        out = {"frame": str(f)}
    if getattr(f, "channel_number", 0):
        out["channel"] = f.channel_number
    return out
