// Works on events whose position the server keeps; start it several times, and the work is shared.
//
//     node durable.mjs [URL [PATTERN [NAME]]]     # ws://127.0.0.1:4300/ws  >  worker
//
// An event that is not acknowledged, because this program died or failed, comes again: to this or another one.
// TOKEN in the environment is sent if it is there.

import { stayConnected } from "./connection.mjs";

const [url = "ws://127.0.0.1:4300/ws", pattern = ">", name = "worker"] = process.argv.slice(2);

/** Your work. It may be asked for the same event again: then `delivery` is above 1, or a crash forgot to count. */
function work(event) {
  console.log(event.id, event.event_name, JSON.stringify(event.payload));
}

stayConnected(
  url,
  (say) => {
    const limits = { ack_wait: "30s", max_in_flight: 100 };
    say({ id: "join", action: "subscribe", event_name: pattern, durable: name, ...limits });
  },
  (frame, say) => {
    switch (frame.type) {
      case "event":
        try {
          work(frame);
          say({ action: "ack", id: frame.id });
        } catch (error) {
          console.error(`event ${frame.id}: ${error}`);
          say({ action: "nack", id: frame.id, delay_ms: 1000 });
        }
        break;
      case "subscribed":
        console.error(`everything up to ${frame.after} is settled`);
        break;
      case "error": // what was not acknowledged comes again
        console.error(frame.error.message);
        if (frame.id === "join") process.exit(1);
    }
  },
);
