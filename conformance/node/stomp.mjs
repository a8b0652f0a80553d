// What people do with @stomp/stompjs, over WebSocket as in a browser and over
// TCP: one line of JSON a case, without anything that differs from one run to
// the next. Two brokers that behave the same give the same lines.
//
//     stomp.mjs STOMP-URL WEBSTOMP-URL AMQP-URL > transcript.jsonl

import { createHash } from 'node:crypto';
import { connect as dial } from 'node:net';
import { Client, Versions } from '@stomp/stompjs';
import { connect as amqpConnect } from 'amqplib';
import WebSocket from 'ws';

const [stompURL, webURL, amqpURL] = process.argv.slice(2);
const cases = [];
const patience = 15_000;

// Nothing here takes long; a broker that does not answer must not hang it.
setTimeout(() => { console.error('not through after two minutes'); process.exit(1); }, 120_000).unref();

// A TCP connection with the few methods of a WebSocket that stompjs needs.
class Tcp {
  constructor(url) {
    const { hostname, port } = new URL(url);
    this.url = url;
    this.readyState = 0;
    this.socket = dial(Number(port), hostname, () => {
      this.readyState = 1;
      this.onopen();
    });
    this.socket.setNoDelay(true);
    this.socket.on('data', (data) => this.onmessage({ data: new Uint8Array(data).buffer }));
    this.socket.on('error', (error) => this.onerror(error));
    this.socket.on('close', () => {
      this.readyState = 3;
      this.onclose({ code: 1000 });
    });
  }

  send(data) { this.socket.write(typeof data === 'string' ? data : new Uint8Array(data)); }
  close() { this.socket.end(); }
  terminate() { this.socket.destroy(); }
}

const transports = {
  websocket: () => {
    const ws = new WebSocket(webURL, Versions.default.protocolVersions());
    ws.binaryType = 'arraybuffer';
    return ws;
  },
  tcp: () => new Tcp(stompURL),
};

// A client that keeps what comes.
class Peer {
  constructor(transport = 'websocket', config = {}) {
    Object.assign(this, { messages: [], errors: [], closes: 0, connects: 0, count: 0, waiting: new Set() });
    const note = (f) => (...args) => { f(...args); for (const check of this.waiting) check(); };
    this.note = note;
    this.client = new Client({
      webSocketFactory: transports[transport],
      connectHeaders: { login: 'guest', passcode: 'guest', host: '/' },
      reconnectDelay: 0,
      heartbeatIncoming: 0,
      heartbeatOutgoing: 0,
      onStompError: note((f) => this.errors.push(f)),
      onWebSocketClose: note(() => this.closes++),
      onWebSocketError: note(() => {}),
      onUnhandledMessage: note((m) => this.messages.push(m)),
      ...config,
    });
    this.client.onConnect = note((f) => { this.connects++; this.connected = f; });
  }

  until(done, limit = patience) {
    return new Promise((resolve) => {
      const check = () => {
        if (!done()) return;
        this.waiting.delete(check);
        clearTimeout(timer);
        resolve(true);
      };
      const timer = setTimeout(() => { this.waiting.delete(check); resolve(false); }, limit);
      this.waiting.add(check);
      check();
    });
  }

  async open() {
    this.client.activate();
    await this.until(() => this.connects > 0 || this.errors.length > 0);
    return this;
  }

  // Does something with a receipt and waits for it.
  async sync(f) {
    const receipt = `js-${++this.count}`;
    let came = false;
    this.client.watchForReceipt(receipt, this.note(() => { came = true; }));
    const result = f(receipt);
    if (!(await this.until(() => came || this.errors.length > 0))) throw new Error(`no receipt ${receipt}`);
    return result;
  }

  send(destination, body, headers = {}) {
    const content = typeof body === 'string' ? { body } : { binaryBody: body };
    return this.sync((receipt) => this.client.publish({ destination, ...content, headers: { receipt, ...headers } }));
  }

  subscribe(destination, headers = {}) {
    return this.sync((receipt) => this.client.subscribe(destination, this.note((m) => this.messages.push(m)), { receipt, ...headers }));
  }

  async take(n = 1) {
    await this.until(() => this.messages.length >= n);
    return this.messages.splice(0, n);
  }

  // How much comes in a while in which nothing should.
  async quiet() {
    await this.until(() => this.messages.length > 0, 300);
    return this.messages.length;
  }

  async close() { await this.client.deactivate(); }
}

async function amqp(f) {
  const connection = await amqpConnect(amqpURL);
  const channel = await connection.createChannel();
  try {
    return await f(channel);
  } finally {
    await connection.close();
  }
}

async function count(queue, expected) {
  return amqp(async (channel) => {
    const end = Date.now() + patience;
    for (;;) {
      const { messageCount } = await channel.checkQueue(queue);
      if (messageCount === expected || Date.now() > end) return messageCount;
    }
  });
}

// What every message has and differs each time, or is the sender's.
const leftOut = ['message-id', 'ack', 'receipt'];

const show = (m) => ({
  headers: Object.fromEntries(Object.entries(m.headers).filter(([k]) => !leftOut.includes(k)).sort(([a], [b]) => (a < b ? -1 : 1))),
  body: m.body,
});
const error = (f) => ({ message: f.headers.message, body: f.body });

const both = (name, f) => {
  for (const transport of Object.keys(transports)) cases.push([`${name}_${transport}`, (say) => f(say, transport)]);
};

both('send_and_receive', async (say, transport) => {
  for (const version of ['1.0', '1.1', '1.2']) {
    const p = await new Peer(transport, { stompVersions: new Versions([version]) }).open();
    await p.subscribe('/queue/js.send');
    await p.send('/queue/js.send', `hello ${version}`, { name: 'value' });
    say(p.connected.headers.version, (await p.take()).map(show));
    await p.close();
  }
});

both('ack_modes', async (say, transport) => {
  for (const [ack, left] of [['auto', 0], ['client', 1], ['client-individual', 2]]) {
    const p = await new Peer(transport).open();
    for (const body of ['0', '1', '2']) await p.send('/queue/js.ack', body);
    await p.subscribe('/queue/js.ack', { ack });
    const got = await p.take(3);
    if (ack !== 'auto') await p.sync((receipt) => got[1].ack({ receipt }));
    await p.close();
    say(ack, got.map((m) => m.body), await count('js.ack', left));
    await amqp((channel) => channel.purgeQueue('js.ack'));
  }
});

both('nack', async (say, transport) => {
  const p = await new Peer(transport).open();
  await p.subscribe('/queue/js.nack', { ack: 'client-individual' });
  await p.send('/queue/js.nack', 'again');
  const [first] = await p.take();
  first.nack();
  const [second] = await p.take();
  say(second.body, second.headers.redelivered);
  await p.sync((receipt) => second.nack({ receipt, requeue: 'false' }));
  say(await p.quiet());
  await p.close();
  say(await count('js.nack', 0));
});

both('transactions', async (say, transport) => {
  const p = await new Peer(transport).open();
  await p.subscribe('/queue/js.tx');
  const kept = p.client.begin();
  p.client.publish({ destination: '/queue/js.tx', body: 'one', headers: { transaction: kept.id } });
  p.client.publish({ destination: '/queue/js.tx', body: 'two', headers: { transaction: kept.id } });
  say(await p.quiet());
  kept.commit();
  say((await p.take(2)).map((m) => m.body));
  const dropped = p.client.begin();
  p.client.publish({ destination: '/queue/js.tx', body: 'three', headers: { transaction: dropped.id } });
  dropped.abort();
  await p.send('/queue/js.tx', 'four');
  say((await p.take()).map((m) => m.body), await p.quiet());
  await p.close();
});

both('heart_beats', async (say, transport) => {
  let beats = 0;
  const p = new Peer(transport, { heartbeatIncoming: 1000, heartbeatOutgoing: 1000 });
  let lost = 0;
  p.client.onHeartbeatReceived = p.note(() => beats++);
  p.client.onHeartbeatLost = p.note(() => lost++);
  await p.open();
  say(p.connected.headers['heart-beat']);
  say(await p.until(() => beats >= 3));
  await p.subscribe('/queue/js.beats');
  await p.send('/queue/js.beats', 'still here');
  say((await p.take()).map((m) => m.body), lost, p.closes);
  await p.close();
});

both('reconnect_after_a_cut', async (say, transport) => {
  const p = new Peer(transport, { reconnectDelay: 50 });
  const subscribed = [];
  const keep = p.client.onConnect;
  p.client.onConnect = (f) => {
    keep(f);
    subscribed.push(p.client.subscribe('/queue/js.cut', p.note((m) => p.messages.push(m)), { ack: 'client-individual' }));
  };
  await p.open();
  await p.send('/queue/js.cut', 'one');
  await p.send('/queue/js.cut', 'two');
  const [one] = await p.take(2);
  await p.sync((receipt) => one.ack({ receipt }));
  p.client.webSocket.terminate();
  await p.until(() => p.connects === 2);
  const [again] = await p.take();
  say(p.connects, again.body, again.headers.redelivered);
  await p.sync((receipt) => again.ack({ receipt }));
  await p.close();
  say(await count('js.cut', 0));
});

both('bodies', async (say, transport) => {
  const p = await new Peer(transport).open();
  await p.subscribe('/queue/js.bodies');
  await p.send('/queue/js.bodies', 'żółw 🐢\nsecond line\r\n', { tïtle: 'ünï: a\\b\nc' });
  const [text] = await p.take();
  say(show(text));
  await p.send('/queue/js.bodies', '');
  say((await p.take()).map(show));
  await p.close();
});

both('bodies_binary', async (say, transport) => {
  const p = await new Peer(transport).open();
  await p.subscribe('/queue/js.binary');
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  for (const body of [bytes, ...[65_536, 1 << 20].map((size) => new Uint8Array(Buffer.alloc(size, createHash('sha256').update(String(size)).digest())))]) {
    p.client.publish({ destination: '/queue/js.binary', binaryBody: body });
    await p.until(() => p.messages.length > 0 || p.closes > 0);
    const [m] = p.messages.splice(0, 1);
    say(body.length, m ? Buffer.from(m.binaryBody).equals(Buffer.from(body)) : 'the connection is closed');
    if (!m) break;
  }
  await p.client.deactivate({ force: true });
});

both('bodies_large', async (say, transport) => {
  const p = await new Peer(transport).open();
  await p.subscribe('/queue/js.large');
  for (const size of [65_536, 1 << 20]) {
    const body = createHash('sha256').update(String(size)).digest('hex').repeat(size / 64);
    await p.send('/queue/js.large', body);
    say(size, (await p.take())[0].body === body);
  }
  await p.close();
});

cases.push(['frames_in_many_pieces', async (say) => {
  const p = await new Peer('websocket', { splitLargeFrames: true, maxWebSocketChunkSize: 100 }).open();
  await p.subscribe('/queue/js.pieces');
  const body = 'x'.repeat(5000);
  await p.send('/queue/js.pieces', body);
  say((await p.take())[0].body === body);
  await p.close();
}]);

cases.push(['frames_of_bytes', async (say) => {
  const p = await new Peer('websocket', { forceBinaryWSFrames: true }).open();
  await p.subscribe('/queue/js.bytes');
  await p.send('/queue/js.bytes', 'hello');
  say((await p.take()).map(show));
  await p.close();
}]);

cases.push(['subprotocols', async (say) => {
  for (const offered of [['v12.stomp', 'v11.stomp', 'v10.stomp'], ['v10.stomp'], ['v11.stomp', 'v12.stomp'], ['other', 'v11.stomp'], []]) {
    const ws = new WebSocket(webURL, offered);
    const outcome = await new Promise((done) => {
      ws.on('open', () => done(ws.protocol));
      ws.on('error', (e) => done(e.message));
    });
    say(offered, outcome);
    ws.terminate();
  }
}]);

both('many_small_messages', async (say, transport) => {
  const p = await new Peer(transport).open();
  const q = await new Peer(transport).open();
  const n = 1000;
  const seen = [];
  await q.sync((receipt) => q.client.subscribe('/queue/js.many', q.note((m) => {
    seen.push(m.body);
    m.ack();
  }), { receipt, ack: 'client', 'prefetch-count': '50' }));
  for (let i = 0; i < n; i++) p.client.publish({ destination: '/queue/js.many', body: String(i), headers: { persistent: 'true' } });
  await p.send('/queue/js.many', 'last');
  await q.until(() => seen.length > n);
  say(seen.length, seen.every((body, i) => body === (i < n ? String(i) : 'last')));
  await q.close();
  await p.close();
  say(await count('js.many', 0));
});

both('topics', async (say, transport) => {
  const p = await new Peer(transport).open();
  const some = await p.subscribe('/topic/js.news.*', { id: 'some' });
  await p.subscribe('/topic/js.#', { id: 'all' });
  await p.send('/topic/js.news.sport', 'goal');
  say((await p.take(2)).map((m) => [m.headers.subscription, m.headers.destination, m.body]).sort());
  await p.sync((receipt) => some.unsubscribe({ receipt }));
  await p.send('/topic/js.news.sport', 'again');
  say((await p.take()).map((m) => [m.headers.subscription, m.body]), await p.quiet());
  await p.close();
});

both('durable_subscription', async (say, transport) => {
  const how = { id: 'sub', durable: 'true', 'auto-delete': 'false', ack: 'client-individual' };
  const p = await new Peer(transport).open();
  await p.subscribe('/topic/js.durable', how);
  await p.close();
  const sender = await new Peer(transport).open();
  await sender.send('/topic/js.durable', 'while away', { persistent: 'true' });
  const q = await new Peer(transport).open();
  const subscription = await q.subscribe('/topic/js.durable', how);
  const got = await q.take();
  say(got.map((m) => m.body));
  await q.sync((receipt) => got[0].ack({ receipt }));
  await q.sync((receipt) => subscription.unsubscribe({ receipt, durable: 'true', 'auto-delete': 'false' }));
  await sender.send('/topic/js.durable', 'too late');
  say(await q.quiet());
  await q.close();
  await sender.close();
});

both('request_and_reply', async (say, transport) => {
  const server = await new Peer(transport).open();
  const client = await new Peer(transport).open();
  await server.subscribe('/queue/js.rpc');
  await client.send('/queue/js.rpc', '2+2', { 'reply-to': '/temp-queue/answers', 'correlation-id': '7' });
  const [question] = await server.take();
  await server.send(question.headers['reply-to'], '4', { 'correlation-id': question.headers['correlation-id'] });
  const [answer] = await client.take(); // no subscription of its own: onUnhandledMessage
  say(answer.headers.subscription, answer.headers['correlation-id'], answer.body);
  await server.close();
  await client.close();
});

both('amqp_on_the_same_queue', async (say, transport) => {
  const p = await new Peer(transport).open();
  await p.send('/queue/js.mixed', 'from STOMP', { persistent: 'true', priority: '3', text: 'a:b', number: '7' });
  await amqp(async (channel) => {
    const m = await channel.get('js.mixed', { noAck: true });
    const { headers, deliveryMode, priority } = m.properties;
    for (const name of ['receipt', 'content-length']) delete headers[name]; // RabbitMQ passes them on
    say(m.content.toString(), Object.fromEntries(Object.entries(headers).sort()), deliveryMode, priority);
    channel.sendToQueue('js.mixed', Buffer.from('from AMQP'), { headers: { text: 'a:b', number: 7, yes: true }, contentType: 'text/plain', persistent: true });
    await p.subscribe('/amq/queue/js.mixed');
    say((await p.take()).map(show));
  });
  await p.close();
});

both('error_login', async (say, transport) => {
  const wrong = new Peer(transport, { connectHeaders: { login: 'guest', passcode: 'wrong', host: '/' } });
  await wrong.open();
  say(wrong.errors.map(error), await wrong.until(() => wrong.closes > 0, 1000));
  await wrong.client.deactivate({ force: true });
});

both('errors', async (say, transport) => {
  for (const f of [
    (c) => c.publish({ destination: '/queue/', body: 'hello' }),
    (c) => c.publish({ destination: '/queue/js.errors', body: 'hello', headers: { transaction: 'none' } }),
    (c) => c.commit('none'),
    (c) => c.unsubscribe('none'),
    (c) => c.ack('none', '0'),
  ]) {
    const p = await new Peer(transport).open();
    f(p.client);
    await p.until(() => p.errors.length > 0);
    say(p.errors.map(error));
    await p.client.deactivate({ force: true });
  }
});

both('error_of_the_broker', async (say, transport) => {
  const p = await new Peer(transport).open();
  p.client.publish({ destination: '/exchange/js.none/key', body: 'hello' });
  await p.until(() => p.errors.length > 0 || p.closes > 0, 2000);
  say(p.errors.map(error));
  await p.until(() => p.closes > 0, 2000);
  say(p.closes > 0);
  await p.client.deactivate({ force: true });
});

const queues = ['send', 'ack', 'nack', 'tx', 'beats', 'cut', 'bodies', 'binary', 'large', 'pieces', 'bytes', 'many', 'rpc', 'mixed', 'errors'];
const clean = () => amqp(async (channel) => {
  for (const q of queues) await channel.deleteQueue(`js.${q}`);
});

await clean();
for (const [name, f] of cases) {
  const replies = [];
  await f((...facts) => replies.push(facts.length === 1 ? facts[0] : facts));
  console.log(`{"case": ${JSON.stringify(name)}, "replies": ${JSON.stringify(replies)}}`);
}
await clean();
process.exit(0);
