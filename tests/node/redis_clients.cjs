// What services of the auction system do by Redis, with an Event Handler on the other side.
//
// Usage: redis_clients.cjs CLIENT REDIS_URL HOST:PORT
//
// CLIENT is a file with a class EventBus. The Event Handler is to send and hear, to call itself EVENT_HANDLER, and to
// have a service that rejects `payment:failed`.

const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');

const PATIENCE = 20_000; // milliseconds

const [client, redisUrl, address] = process.argv.slice(2);
const { EventBus } = require(`./${client}`);

async function post(event) {
  const response = await fetch(`http://${address}/publish`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(event),
  });
  assert.equal(response.status, 200, await response.clone().text());
}

async function stored(name) {
  const response = await fetch(`http://${address}/events?event_name=${encodeURIComponent(name)}&limit=1000`);
  return (await response.json()).data;
}

async function until(what, condition) {
  for (const deadline = Date.now() + PATIENCE; Date.now() < deadline; await sleep(10)) {
    const found = await condition();
    if (found) return found;
  }
  throw new Error(`never: ${what}`);
}

async function main() {
  const bus = new EventBus(redisUrl, 'AUCTION_ENGINE');
  await bus.connect();
  const [won, all] = [[], []];
  await bus.subscribe('lot:won', (event) => won.push(event));
  await bus.subscribe('all', (event) => all.push(event));

  // From the Event Handler.
  const payload = { price: 1.5, name: 'ä "b"', lots: [1, 2], none: null };
  await post({ event_name: 'lot:won', payload });
  await until('the event comes on both channels', () => won.length === 1 && all.length === 1);
  const keys = ['id', 'timestamp', 'type', 'source', 'version', 'data'];
  assert.deepEqual(Object.keys(won[0]), keys);
  assert.deepEqual(won, all);
  const { type, source, version, data } = won[0];
  assert.deepEqual({ type, source, version, data }, { type: 'lot:won', source: 'EVENT_HANDLER', version: '1.0.0', data: payload });
  assert.ok(Math.abs(Date.now() - won[0].timestamp) < 3_600_000, 'milliseconds');

  // To the Event Handler, which does not send it again.
  for (let n = 0; n < 20; n += 1) await bus.publish('bid:placed', { n, amount: 12.5 });
  const events = await until('they are stored', async () => {
    const events = await stored('bid:placed');
    return events.length >= 20 && events;
  });
  assert.deepEqual(events.map((event) => event.payload.n), [...Array(20).keys()]);
  assert.ok(events.every((event) => event.source === 'AUCTION_ENGINE' && event.payload.amount === 12.5));
  await post({ event_name: 'lot:won', payload: {} });
  await until('the last word comes', () => won.length === 2 && all.at(-1).type === 'lot:won');
  assert.equal(all.filter((event) => event.type === 'bid:placed').length, 20);
  assert.equal((await stored('bid:placed')).length, 20);

  // The lists, the newest first.
  assert.deepEqual(await bus.history('lot:won'), [...won].reverse());
  const ours = (await bus.history('all')).filter((event) => event.source === 'EVENT_HANDLER');
  assert.deepEqual(ours, [...won].reverse());

  await post({ event_name: 'payment:failed', payload: { order: 7 } });
  await until('it goes out', () => all.at(-1).type === 'payment:failed');
  const [letter] = await until('the dead letter is there', async () => {
    const letters = await bus.deadLetters();
    return letters.length > 0 && letters;
  });
  assert.deepEqual(Object.keys(letter), ['event', 'error']);
  assert.deepEqual(letter.event, all.at(-1));
  assert.deepEqual(letter.event.data, { order: 7 });
  assert.deepEqual(Object.keys(letter.error), ['message', 'stack', 'timestamp']);
  assert.match(letter.error.message, /billing/);
  assert.equal(new Date(letter.error.timestamp).toISOString(), letter.error.timestamp);
  await bus.close();
  console.log('all clients served');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
