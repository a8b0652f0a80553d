// The six tutorials that RabbitMQ teaches with, and publisher confirms, walked
// through with amqplib: one line of JSON a step, without anything that differs
// from one run to the next. Two brokers that behave the same give the same
// lines.
//
//     tutorials.mjs URL > transcript.jsonl

import { connect } from 'amqplib';

const url = process.argv[2];
const queues = ['node.hello', 'node.task_queue', 'node.rpc_queue', 'node.confirmed'];
const exchanges = ['node.logs', 'node.direct_logs', 'node.topic_logs', 'node.headers', 'node.source'];

const say = (tutorial, step, facts = {}) => console.log(JSON.stringify({ tutorial, step, ...facts }));

// A name that the broker made up, without what is different each time.
const normal = (name) => name?.replace(/^(amq\.gen-|amq\.ctag-|amq\.rabbitmq\.reply-to\.).*$/, '$1*');

function show(m) {
  const properties = Object.fromEntries(
    Object.entries(m.properties).filter(([, v]) => v !== undefined).map(([k, v]) => [k, k === 'replyTo' ? normal(v) : v]));
  const { exchange, routingKey, redelivered } = m.fields;
  return { exchange, routing_key: normal(routingKey), redelivered, properties, body: m.content.toString() };
}

// Nothing here takes long; a broker that does not answer must not hang it.
setTimeout(() => { console.error('not through after a minute'); process.exit(1); }, 60_000).unref();

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(done) {
  for (let i = 0; i < 500 && !(await done()); i++) await pause(10);
  return done();
}

async function open() {
  const connection = await connect(url);
  // A channel that the broker closes also says so on its connection's behalf;
  // what matters is seen where it is expected.
  connection.on('error', () => {});
  return connection;
}

async function withChannel(f, confirm = false) {
  const connection = await open();
  const channel = confirm ? await connection.createConfirmChannel() : await connection.createChannel();
  channel.on('error', () => {});
  try {
    await f(channel);
  } finally {
    await connection.close();
  }
}

// A consumer on a connection of its own that keeps what comes.
async function receive(queue, { prefetch = 0, noAck = false } = {}) {
  const connection = await open();
  const channel = await connection.createChannel();
  if (prefetch) await channel.prefetch(prefetch);
  const got = [];
  const { consumerTag } = await channel.consume(queue, (m) => got.push(m), { noAck });
  const bodies = () => got.map((m) => m?.content.toString() ?? null);
  return {
    connection, channel, got, tag: consumerTag,
    async wait(n) { await until(() => got.length >= n); return bodies(); },
    async quiet() {
      for (let before = -1; before !== got.length;) { before = got.length; await pause(200); }
      return bodies();
    },
    ack(i) { channel.ack(got[i]); },
    close() { return connection.close(); },
  };
}

const helloWorld = () => withChannel(async (channel) => {
  say(1, 'declare', await channel.assertQueue('node.hello', { durable: false }));
  channel.sendToQueue('node.hello', Buffer.from('Hello World!'));
  const r = await receive('node.hello', { noAck: true });
  await r.wait(1);
  say(1, 'receive', { tag: normal(r.tag), delivery_tag: r.got[0].fields.deliveryTag, message: show(r.got[0]) });
  say(1, 'look', await channel.checkQueue('node.hello'));
  await r.close();
});

const workQueues = () => withChannel(async (channel) => {
  const queue = 'node.task_queue';
  await channel.assertQueue(queue, { durable: true });
  let a = await receive(queue, { prefetch: 1 });
  let b = await receive(queue, { prefetch: 1 });
  for (let i = 1; i <= 4; i++) channel.sendToQueue(queue, Buffer.from(`task ${i}`), { persistent: true });
  say(2, 'one task each', { a: await a.wait(1), b: await b.wait(1) });
  b.ack(0);
  await b.wait(2);
  b.ack(1);
  say(2, 'the free worker takes the rest', { b: await b.wait(3), a: await a.quiet() });
  await a.close();
  say(2, 'a busy worker gets nothing more', { b: await b.quiet() });
  b.ack(2);
  await b.wait(4);
  say(2, 'what a dead worker held comes back', { message: show(b.got[3]) });
  b.channel.nack(b.got[3]);
  await b.wait(5);
  say(2, 'what was refused comes back', { message: show(b.got[4]), delivery_tag: b.got[4].fields.deliveryTag });
  b.channel.reject(b.got[4], false);
  say(2, 'what was rejected does not', { b: await b.quiet() });
  await b.close();
  say(2, 'empty', await channel.checkQueue(queue));

  a = await receive(queue);
  b = await receive(queue);
  for (let i = 0; i < 6; i++) channel.sendToQueue(queue, Buffer.from(`turn ${i}`));
  say(2, 'in turn', { a: await a.wait(3), b: await b.wait(3) });
  a.channel.ackAll();
  await a.close();
  await b.close();
  await until(async () => (await channel.checkQueue(queue)).messageCount === 3);
  const back = [];
  for (let m; (m = await channel.get(queue, { noAck: true }));) back.push(m.content.toString());
  say(2, 'back in order', { back });

  // nackAll and recover.
  for (let i = 0; i < 3; i++) channel.sendToQueue(queue, Buffer.from(`again ${i}`));
  await until(async () => (await channel.checkQueue(queue)).messageCount === 3);
  for (let i = 0; i < 3; i++) await channel.get(queue);
  channel.nackAll(true);
  const again = [];
  await until(async () => (await channel.checkQueue(queue)).messageCount === 3);
  for (let i = 0; i < 3; i++) again.push(show(await channel.get(queue)));
  say(2, 'refused together, back in order', { again });
  await channel.recover();
  say(2, 'recovered', { all: await until(async () => (await channel.checkQueue(queue)).messageCount === 3) });
  const c = await receive(queue, { noAck: true });
  say(2, 'after recover', { c: await c.wait(3) });
  await c.channel.cancel(c.tag);
  channel.sendToQueue(queue, Buffer.from('nobody'));
  say(2, 'a cancelled consumer gets nothing', { c: await c.quiet() });
  say(2, 'purge', await channel.purgeQueue(queue));

  // A consumer is told when its queue goes.
  await c.channel.consume(queue, (m) => c.got.push(m));
  say(2, 'delete', await channel.deleteQueue(queue));
  const gone = await c.wait(4);
  say(2, 'cancelled by the broker', { last: gone.at(-1) });
  await c.close();
});

const publishSubscribe = () => withChannel(async (channel) => {
  await channel.assertExchange('node.logs', 'fanout', { durable: false });
  const receivers = [];
  for (let i = 0; i < 2; i++) {
    const connection = await open();
    const ch = await connection.createChannel();
    const { queue } = await ch.assertQueue('', { exclusive: true });
    await ch.bindQueue(queue, 'node.logs', '');
    const got = [];
    await ch.consume(queue, (m) => got.push(show(m)), { noAck: true });
    say(3, 'subscribe', { queue: normal(queue) });
    receivers.push({ connection, queue, got });
  }
  for (let i = 0; i < 3; i++) channel.publish('node.logs', '', Buffer.from(`log ${i}`));
  for (const { got } of receivers) {
    await until(() => got.length >= 3);
    say(3, 'receive', { messages: got });
  }
  for (const { connection } of receivers) await connection.close();
  const gone = await until(() => withChannel(async (ch) => { await ch.checkQueue(receivers[0].queue); })
    .then(() => false, (e) => e.code === 404));
  say(3, 'exclusive queues go with their connection', { gone });
});

async function route(tutorial, exchange, type, bindings, keys) {
  await withChannel(async (channel) => {
    await channel.assertExchange(exchange, type, { durable: false });
    const bound = [];
    for (const patterns of bindings) {
      const { queue } = await channel.assertQueue('', { exclusive: true });
      for (const p of patterns) await channel.bindQueue(queue, exchange, p);
      bound.push({ patterns, queue });
    }
    for (const key of keys) channel.publish(exchange, key, Buffer.from(key));
    await channel.waitForConfirms();
    for (const { patterns, queue } of bound) {
      const { messageCount } = await channel.checkQueue(queue);
      const got = [];
      for (let m; (m = await channel.get(queue, { noAck: true }));) got.push(m.content.toString());
      say(tutorial, 'route', { patterns, messageCount, got });
    }
  }, true);
}

const routing = () => route(4, 'node.direct_logs', 'direct', [['error'], ['info', 'warning', 'error'], ['debug']],
  ['info', 'error', 'warning', 'debug', 'fatal']);

const topics = () => route(5, 'node.topic_logs', 'topic',
  [['kern.*'], ['#'], ['*.critical', '#.critical'], ['*.orange.*'], ['*.*.rabbit', 'lazy.#'], ['#.orange.#'], ['*']],
  ['kern.info', 'kern.critical', 'critical', 'quick.orange.rabbit', 'lazy.orange.elephant', 'quick.brown.fox',
    'orange', 'quick.orange.new.rabbit', 'lazy.orange.new.rabbit', '']);

// What the tutorials leave out: headers, and exchanges bound to exchanges.
const headers = () => withChannel(async (channel) => {
  await channel.assertExchange('node.headers', 'headers', { durable: false });
  await channel.assertExchange('node.source', 'topic', { durable: false });
  await channel.bindExchange('node.headers', 'node.source', 'to.#');
  const tables = [
    { 'x-match': 'all', a: 1, b: 'two' }, { 'x-match': 'any', a: 1, b: 'two' }, { a: 1 }, {}, { 'x-match': 'any' },
    { 'x-match': 'any', 'x-tag': 'v' }, { 'x-match': 'any-with-x', 'x-tag': 'v' }, { a: null }, { a: true }, { b: 1 },
  ];
  const bound = [];
  for (const table of tables) {
    const { queue } = await channel.assertQueue('', { exclusive: true });
    await channel.bindQueue(queue, 'node.headers', 'ignored', table);
    bound.push({ table, queue });
  }
  const sent = [
    {}, { a: 1 }, { a: 1, b: 'two' }, { a: 1, b: 'two', c: 3 }, { a: 2, b: 'two' }, { 'x-tag': 'v' }, { a: null }, { a: true }, { a: '1' },
  ];
  for (const h of sent) channel.publish('node.source', 'to.headers', Buffer.from(JSON.stringify(h)), { headers: h });
  channel.publish('node.source', 'elsewhere', Buffer.from('lost'), { headers: { a: 1, b: 'two' } });
  await channel.waitForConfirms();
  for (const { table, queue } of bound) {
    const got = [];
    for (let m; (m = await channel.get(queue, { noAck: true }));) got.push(m.content.toString());
    say('headers', 'match', { table, got });
  }
  await channel.unbindExchange('node.headers', 'node.source', 'to.#');
  channel.publish('node.source', 'to.headers', Buffer.from('lost'), { headers: { a: 1, b: 'two' } });
  await channel.waitForConfirms();
  say('headers', 'unbound', { messages: (await channel.checkQueue(bound[0].queue)).messageCount });
}, true);

const fibonacci = (n) => { let [a, b] = [0, 1]; for (let i = 0; i < n; i++) [a, b] = [b, a + b]; return a; };

const rpc = (direct) => withChannel(async (serving) => {
  const name = direct ? 'direct reply-to: ' : '';
  await serving.assertQueue('node.rpc_queue', { durable: false });
  await serving.prefetch(1);
  await serving.consume('node.rpc_queue', (m) => {
    say(6, `${name}request`, { message: show(m) });
    serving.sendToQueue(m.properties.replyTo, Buffer.from(String(fibonacci(Number(m.content)))),
      { correlationId: m.properties.correlationId });
    serving.ack(m);
  });
  await withChannel(async (asking) => {
    const replyTo = direct ? 'amq.rabbitmq.reply-to' : (await asking.assertQueue('', { exclusive: true })).queue;
    const answers = [];
    const { consumerTag } = await asking.consume(replyTo, (m) => answers.push(m), { noAck: true });
    say(6, `${name}callback`, { queue: normal(replyTo), tag: normal(consumerTag) });
    for (const n of [0, 10, 30]) {
      const wanted = answers.length + 1;
      asking.sendToQueue('node.rpc_queue', Buffer.from(String(n)), { correlationId: `call-${n}`, replyTo });
      await until(() => answers.length >= wanted);
      say(6, `${name}answer`, { to: n, message: show(answers.at(-1)) });
    }
  });
});

const confirms = () => withChannel(async (channel) => {
  await channel.assertQueue('node.confirmed', { durable: true });
  const returned = [];
  channel.on('return', (m) => returned.push(m));
  const publish = (key, body, options) => new Promise((done) => {
    channel.publish('', key, Buffer.from(body), options, (err) => done(err === null ? 'ack' : 'nack'));
  });
  say(7, 'confirmed', {
    was: await publish('node.confirmed', 'kept', {
      persistent: true, contentType: 'text/plain', contentEncoding: 'utf-8', priority: 4, messageId: 'id', type: 't',
      timestamp: 1700000000, appId: 'a', expiration: 60000, userId: 'guest', CC: ['nowhere'],
      headers: { text: 'v', number: 7, big: 2 ** 40, double: 1.5, yes: true, nothing: null, list: [1, 'two', false], table: { inner: 'x' } },
    }),
  });
  for (let i = 0; i < 100; i++) channel.sendToQueue('node.confirmed', Buffer.from(String(i)));
  await channel.waitForConfirms();
  say(7, 'confirmed together', await channel.checkQueue('node.confirmed'));
  const order = await publish('nowhere', 'lost', { mandatory: true }).then((was) => ({ was, returned: returned.length }));
  say(7, 'returned before it is confirmed', { ...order, fields: { ...returned[0].fields }, body: returned[0].content.toString() });
  say(7, 'unroutable is confirmed', { was: await publish('nowhere', 'lost', {}) });
  const first = await channel.get('node.confirmed');
  say(7, 'get', { left: first.fields.messageCount, message: show(first) });
  channel.nack(first);
  const again = await channel.get('node.confirmed', { noAck: true });
  say(7, 'get again', { left: again.fields.messageCount, redelivered: again.fields.redelivered });
  say(7, 'purge', await channel.purgeQueue('node.confirmed'));
  for (const size of [0, 1, 131064, 131065, 1 << 20]) {
    channel.sendToQueue('node.confirmed', Buffer.alloc(size, 'x'));
    await channel.waitForConfirms();
    const m = await channel.get('node.confirmed', { noAck: true });
    say(7, 'size', { sent: size, got: m.content.length });
  }
}, true);

const errors = async () => {
  const tries = {
    'no such queue': (ch) => ch.checkQueue('node.missing'),
    'no such exchange': (ch) => ch.checkExchange('node.missing'),
    'other properties': async (ch) => { await ch.assertQueue('node.hello', { durable: true }); },
    'other type': (ch) => ch.assertExchange('node.logs', 'direct', { durable: false }),
    'reserved name': (ch) => ch.assertQueue('amq.mine'),
  };
  for (const [step, f] of Object.entries(tries)) {
    await withChannel(async (ch) => {
      await f(ch).then(() => say('errors', step, { error: null }), (e) => say('errors', step, { code: e.code, message: e.message }));
    });
  }
};

const clean = () => withChannel(async (channel) => {
  for (const q of queues) await channel.deleteQueue(q);
  for (const e of exchanges) await channel.deleteExchange(e);
});

await clean();
await helloWorld();
await workQueues();
await publishSubscribe();
await routing();
await topics();
await headers();
await rpc(false);
await rpc(true);
await confirms();
await errors();
await clean();
