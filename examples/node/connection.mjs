// A connection that comes back by itself, as the table of close codes has it; see resume.mjs and durable.mjs.
//
// Node 22 has WebSocket built in; an older one needs the package `ws`, found by NODE_PATH.

import { createRequire } from "node:module";

const WebSocket = globalThis.WebSocket ?? createRequire(import.meta.url)("ws");

// This program is at fault; so it is with 4000 to 4099.
const HOPELESS = new Set([1002, 1003, 1007, 1009]);

/**
 * Connects, and again whenever the connection ends; ends the program where that is no use.
 * `opened(say)` is called with a function that sends an object, then `received(frame, say)` for each frame.
 */
export function stayConnected(url, opened, received) {
  let attempt = 0;

  function connect() {
    const { TOKEN } = process.env;
    const socket = new WebSocket(url, TOKEN ? ["event-handler.v1", `bearer.${TOKEN}`] : []);
    const say = (request) => socket.send(JSON.stringify(request));
    socket.addEventListener("open", () => opened(say));
    socket.addEventListener("message", ({ data }) => {
      attempt = 0;
      received(JSON.parse(data), say);
    });
    socket.addEventListener("error", () => {}); // `close` follows
    socket.addEventListener("close", ({ code, reason }) => {
      if (HOPELESS.has(code) || (code >= 4000 && code < 4100)) {
        console.error(`closed: ${code} ${reason}`);
        process.exit(1);
      }
      const backoff = (0.5 + Math.random() / 2) * Math.min(30_000, 200 * 2 ** attempt++);
      const wait = code >= 4200 && code < 4300 ? 1000 * Math.random() : backoff;
      console.error(`closed: ${code} ${reason}; back in ${(wait / 1000).toFixed(1)} s`);
      setTimeout(connect, wait);
    });
  }

  connect();
}
