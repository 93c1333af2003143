// The client that the services of the auction system share, over node-redis 4: publish, subscribe, history, dead letters.

const { randomUUID } = require('node:crypto');
const { createClient } = require('redis');

const HISTORY = 1000;
const SOURCES = new Set(['AUCTION_ENGINE', 'STREAM_MANAGER', 'EVENT_HANDLER']);

function validated(text) {
  const event = JSON.parse(text);
  const is = {
    id: typeof event.id === 'string' && event.id.length === 36,
    timestamp: Number.isInteger(event.timestamp) && event.timestamp > 0,
    type: typeof event.type === 'string' && event.type !== '',
    source: SOURCES.has(event.source),
    version: event.version === '1.0.0',
    data: typeof event.data === 'object' && event.data !== null && !Array.isArray(event.data),
  };
  const wrong = Object.keys(is).filter((key) => !is[key]);
  if (wrong.length > 0) throw new Error(`wrong ${wrong.join(', ')} in ${text}`);
  return event;
}

class EventBus {
  constructor(url, source) {
    this.source = source;
    this.publisher = createClient({ url });
    this.subscriber = this.publisher.duplicate();
    for (const client of [this.publisher, this.subscriber]) client.on('error', () => {});
  }

  async connect() {
    await Promise.all([this.publisher.connect(), this.subscriber.connect()]);
  }

  async publish(type, data) {
    const event = { id: randomUUID(), timestamp: Date.now(), type, source: this.source, version: '1.0.0', data };
    const text = JSON.stringify(event);
    const commands = this.publisher.multi();
    for (const name of [type, 'all']) {
      commands.publish(`events:${name}`, text);
      commands.lPush(`events:history:${name}`, text);
      commands.lTrim(`events:history:${name}`, 0, HISTORY - 1);
    }
    await commands.exec();
  }

  async subscribe(type, handler) {
    await this.subscriber.subscribe(`events:${type}`, (text) => handler(validated(text)));
  }

  async history(type, count = HISTORY) {
    const texts = await this.publisher.lRange(`events:history:${type}`, 0, count - 1);
    return texts.map(validated);
  }

  async deadLetters(count = HISTORY) {
    const texts = await this.publisher.lRange('events:deadletter', 0, count - 1);
    return texts.map((text) => JSON.parse(text));
  }

  async close() {
    await Promise.all([this.publisher.quit(), this.subscriber.quit()]);
  }
}

module.exports = { EventBus };
