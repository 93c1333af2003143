// The same by ioredis, without any class of the services: plain commands.

const { randomUUID } = require('node:crypto');
const Redis = require('ioredis');

class EventBus {
  constructor(url, source) {
    this.source = source;
    this.publisher = new Redis(url);
    this.subscriber = new Redis(url);
    this.handlers = new Map();
    this.subscriber.on('message', (channel, text) => this.handlers.get(channel)(JSON.parse(text)));
  }

  async connect() {
    await Promise.all([this.publisher.ping(), this.subscriber.ping()]);
  }

  async publish(type, data) {
    const event = { id: randomUUID(), timestamp: Date.now(), type, source: this.source, version: '1.0.0', data };
    const text = JSON.stringify(event);
    await this.publisher.pipeline().publish(`events:${type}`, text).publish('events:all', text).exec();
  }

  async subscribe(type, handler) {
    this.handlers.set(`events:${type}`, handler);
    await this.subscriber.subscribe(`events:${type}`);
  }

  async history(type) {
    return (await this.publisher.lrange(`events:history:${type}`, 0, -1)).map((text) => JSON.parse(text));
  }

  async deadLetters() {
    return (await this.publisher.lrange('events:deadletter', 0, -1)).map((text) => JSON.parse(text));
  }

  async close() {
    await Promise.all([this.publisher.quit(), this.subscriber.quit()]);
  }
}

module.exports = { EventBus };
