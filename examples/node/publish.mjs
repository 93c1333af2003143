// Publishes events, each stored once, whatever goes away meanwhile: the connection, or the server.
//
//     node publish.mjs [URL [NAME [COUNT]]]     # http://127.0.0.1:4300  example.made  10
//
// What was not answered may or may not be stored: it is asked for again under the same idempotency key. TOKEN in the
// environment is sent if it is there.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const [url = "http://127.0.0.1:4300", name = "example.made", count = "10"] = process.argv.slice(2);
const { TOKEN } = process.env;

/** The id of the event, once it is stored. */
async function publish(event_name, payload) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": randomUUID() };
  if (TOKEN) headers.Authorization = `Bearer ${TOKEN}`;
  const request = { method: "POST", headers, body: JSON.stringify({ event_name, payload }) };
  for (let attempt = 0; ; attempt++) {
    let wait = Math.min(30, 0.2 * 2 ** attempt);
    try {
      const answer = await fetch(`${url}/publish`, { ...request, signal: AbortSignal.timeout(15_000) });
      const told = await answer.text();
      if (answer.ok) return answer.headers.get("Event-Id");
      if (answer.status !== 429 && answer.status !== 503) {
        console.error(`refused: ${answer.status} ${told}`);
        process.exit(1);
      }
      wait = Number(answer.headers.get("Retry-After") ?? 1);
    } catch (error) {
      console.error(error.cause?.message ?? error.message); // no answer: stored or not
    }
    await sleep(1000 * wait * (0.5 + Math.random() / 2));
  }
}

for (let n = 0; n < Number(count); n++) {
  console.log(await publish(name, { n }));
}
