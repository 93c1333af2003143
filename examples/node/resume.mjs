// Follows events and misses none, whatever goes away: the connection, the server, or this program.
//
//     node resume.mjs [URL [PATTERN [FILE]]]     # ws://127.0.0.1:4300/ws  >  data/position.txt
//
// FILE has the id of the last event that was processed, and which log it is an id of. TOKEN in the environment is sent if it is there.

import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { stayConnected } from "./connection.mjs";

const [url = "ws://127.0.0.1:4300/ws", pattern = ">", file = "data/position.txt"] = process.argv.slice(2);

/** Your work. What it has done when it returns is not done again. */
function handle(event) {
  console.log(event.id, event.event_name, JSON.stringify(event.payload));
}

/** The id, and the identity of its log. */
function position() {
  const [id, log] = existsSync(file) ? readFileSync(file, "utf8").split(/\s+/) : [];
  return { after: id ? Number(id) : undefined, log_id: log || undefined };
}

/** A file is replaced as a whole. Better still: keep the id where the work is written, in the same transaction. */
function remember(id) {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.new`, `${id} ${log}\n`);
  renameSync(`${file}.new`, file);
}

let log = position().log_id;

stayConnected(
  url,
  (say) => say({ id: 1, action: "subscribe", event_name: pattern, envelope: "full", ...position() }),
  (frame) => {
    switch (frame.type) {
      case "event":
        handle(frame);
        remember(frame.id);
        break;
      case "subscribed": {
        const { after } = position();
        if (!frame.recovered) console.error(`some events after ${after} are not there`);
        const isAnother = (log !== undefined && log !== frame.log_id) || after > frame.last_id;
        log = frame.log_id;
        if (after === undefined || isAnother) remember(frame.last_id);
        console.error(`subscribed after ${after}`);
        break;
      }
      case "error":
        console.error(frame.error.message);
        process.exit(1);
    }
  },
);
