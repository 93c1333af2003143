// A participant of sagas: reserves money, and gives it back. Whatever comes twice, late or in the wrong order does no harm.
//
//     node participant.mjs [ADDRESS [FILE]]     # 127.0.0.1:8080  participant.ndjson
//
// It needs nothing but Node. See docs/sagas.md for what a participant promises; `Barrier` keeps the promise, and the
// rest is the service's own work. Its store is a file of lines, each a transaction. If your data are in a database, so
// is the barrier, as participant.py shows: what matters is that both are changed by one transaction.

import { closeSync, existsSync, fsyncSync, openSync, readFileSync, truncateSync, writeSync } from "node:fs";
import { createServer } from "node:http";
import { dirname } from "node:path";

/** Keys and values, in a file. A transaction is one line: it is there as a whole, or it is not. */
class Store {
  #values = new Map();
  #changes = null;

  constructor(path) {
    const text = existsSync(path) ? readFileSync(path, "utf8") : "";
    // What follows the last line's end was being written when the process died, and was not answered.
    const whole = text.slice(0, text.lastIndexOf("\n") + 1);
    if (whole !== text) truncateSync(path, Buffer.byteLength(whole));
    for (const line of whole.split("\n").filter(Boolean)) this.#apply(JSON.parse(line));
    this.file = openSync(path, "a");
    const folder = openSync(dirname(path), "r");
    fsyncSync(folder); // the name of a new file, too, outlives a power failure
    closeSync(folder);
  }

  get = (key) => this.#changes?.[key] ?? this.#values.get(key);
  set = (key, value) => (this.#changes[key] = value);

  /** Everything that `work` sets, or nothing if it throws. No other transaction runs meanwhile, for there is no await. */
  transaction(work) {
    this.#changes = Object.create(null);
    try {
      const result = work();
      if (Object.keys(this.#changes).length > 0) this.#write(JSON.stringify(this.#changes) + "\n");
      this.#apply(this.#changes);
      return result;
    } finally {
      this.#changes = null;
    }
  }

  #write(line) {
    try {
      const bytes = Buffer.from(line);
      for (let at = 0; at < bytes.length; ) at += writeSync(this.file, bytes, at);
      fsyncSync(this.file);
    } catch (error) {
      console.error(error); // nobody knows what is on disk now, until it is read again
      process.exit(1);
    }
  }

  #apply(changes) {
    for (const [key, value] of Object.entries(changes)) this.#values.set(key, value);
  }
}

/** Nothing was done, for a reason that the saga is told. It is forgotten: the same call may succeed later. */
class Refused extends Error {}

/** One row for each operation of each step of each saga, with the answer that it was given. */
class Barrier {
  constructor(store) {
    this.store = store;
  }

  /** Does `work` at most once; returns the answer. `work` gets the answer of the action that it undoes, if it undoes one. */
  call(saga, step, operation, work) {
    const row = (of) => `barrier ${JSON.stringify([saga, step, of])}`;
    return this.store.transaction(() => {
      const action = this.store.get(row("action"));
      const before = this.store.get(row(operation));
      if (before) {
        if (before.barred) throw new Refused("its compensation came first");
        return before.answer;
      }
      // If the action has not come, this row keeps it away: it does nothing when it comes after all.
      const isEmpty = operation === "compensation" && !action;
      if (isEmpty) this.store.set(row("action"), { barred: true });
      const answer = isEmpty ? {} : work(action?.answer);
      this.store.set(row(operation), { answer });
      return answer;
    });
  }

  /** The answer of an action that is done, and not undone. Otherwise no call of it is under way: each is done at once. */
  done(saga, step) {
    const [action, undone] = ["action", "compensation"].map((of) => `barrier ${JSON.stringify([saga, step, of])}`);
    return this.store.get(undone) ? undefined : this.store.get(action)?.answer;
  }
}

// The service's own work.

function reserve({ owner, amount }) {
  const { free, reserved } = store.get(`funds ${owner}`) ?? { free: 0, reserved: 0 };
  if (!Number.isSafeInteger(amount) || amount < 0) throw new SyntaxError("amount must be a whole number");
  if (amount > free) throw new Refused("there is not enough money");
  store.set(`funds ${owner}`, { free: free - amount, reserved: reserved + amount });
  return { owner, reserved: amount };
}

function giveBack({ owner, reserved: amount }) {
  const { free, reserved } = store.get(`funds ${owner}`);
  store.set(`funds ${owner}`, { free: free + amount, reserved: reserved - amount });
  return { owner, given_back: amount };
}

/** Somebody has so much money now. */
function fund(owner, free) {
  const { reserved } = store.get(`funds ${owner}`) ?? { reserved: 0 };
  store.transaction(() => store.set(`funds ${owner}`, { free, reserved }));
  return {};
}

function take({ headers }, operation, work) {
  const { "saga-id": saga, "saga-step": step } = headers;
  if (!saga || !step || headers["saga-operation"] !== operation) {
    throw new SyntaxError(`this is the ${operation} of a step of a saga`);
  }
  return barrier.call(saga, step, operation, work);
}

function handle(request, body) {
  const [first, ...rest] = request.url.split("/").slice(1).map(decodeURIComponent);
  switch (`${request.method} ${first} ${rest.length}`) {
    case "POST reservations 0":
      return take(request, "action", () => reserve(JSON.parse(body) ?? {}));
    case "POST reservations 1":
      return rest[0] === "cancel" ? take(request, "compensation", giveBack) : undefined;
    case "GET reservations 2":
      return barrier.done(...rest);
    case "GET funds 1":
      return store.get(`funds ${rest[0]}`);
    case "PUT funds 1":
      return fund(rest[0], JSON.parse(body));
  }
}

function answer(request, body) {
  try {
    const data = handle(request, body);
    return data === undefined ? [404, {}] : [200, data];
  } catch (error) {
    const reason = error.message;
    if (error instanceof Refused) return [409, { reason }];
    // A refusal too: nothing was done.
    if (error instanceof SyntaxError || error instanceof URIError) return [400, { reason }];
    console.error(error);
    return [500, { reason }];
  }
}

const [address = "127.0.0.1:8080", file = "participant.ndjson"] = process.argv.slice(2);
const store = new Store(file);
const barrier = new Barrier(store);
const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const [status, data] = answer(request, Buffer.concat(chunks).toString());
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(data));
  });
});
const { hostname, port } = new URL(`http://${address}`);
server.listen(Number(port || 80), hostname, () => console.error(`listening on ${hostname}:${server.address().port}`));
