// Opens a page as a browser would, as far as pages of @stomp/stompjs go: its
// scripts, and a WebSocket that says from where it comes. It prints the first
// text that the page shows, and ends.
//
//     page.mjs URL

import vm from 'node:vm';
import WebSocket from 'ws';

const page = new URL(process.argv[2]);

// Nothing here takes long; a broker that does not answer must not hang it.
setTimeout(() => { console.error('the page has shown nothing in 20 s'); process.exit(1); }, 20_000).unref();

class PageSocket extends WebSocket {
  constructor(url, protocols) { super(url, protocols, { origin: page.origin }); }
}

async function get(path) {
  const answer = await fetch(new URL(path, page));
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.text();
}

// A server that was started a moment ago is waited for.
async function first() {
  for (let tries = 100; ; tries--) {
    try {
      return await get('');
    } catch (error) {
      if (tries === 0 || error.cause?.code !== 'ECONNREFUSED') throw error;
      await new Promise((done) => { setTimeout(done, 100); });
    }
  }
}

const html = await first();
const context = vm.createContext({
  console, setTimeout, clearTimeout, setInterval, clearInterval, TextEncoder, TextDecoder,
  WebSocket: PageSocket,
  document: { body: { append(text) { console.log(text); process.exit(0); } } },
});
context.self = context.globalThis = context;
for (const [, source, text] of html.matchAll(/<script(?: src="([^"]*)")?>([\s\S]*?)<\/script>/g)) {
  vm.runInContext(source ? await get(source) : text, context);
}
