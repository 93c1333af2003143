// POST /publish and /ws over Redis: each event is appended to a stream and published on a channel;
// what comes back on the channel goes to the WebSockets that subscribed to its name.
import { createServer } from "node:http";
import express from "express";
import { createClient } from "redis";
import { WebSocketServer } from "ws";

const CHANNEL = "events";
const STREAM = "event-log";

const commands = await createClient({ url: process.env.REDIS_URL }).connect();
const listener = await commands.duplicate().connect();

/** @type {Map<string, Set<import("ws").WebSocket>>} */
const subscribers = new Map();

await listener.subscribe(CHANNEL, (message) => {
  const audience = subscribers.get(JSON.parse(message).event_name);
  if (!audience) return;
  const frame = Buffer.from(message);
  for (const socket of audience) socket.send(frame, { binary: false });
});

const app = express();
app.disable("x-powered-by");
app.disable("etag");
app.use(express.json({ limit: "1mb" }));

app.get("/health", (_request, response) => response.json({ status: "ok" }));

app.post("/publish", async (request, response) => {
  const { event_name, payload = {} } = request.body ?? {};
  if (typeof event_name !== "string" || event_name === "") {
    return response.status(422).json({ status: "error", message: "event_name is missing", data: null });
  }
  const message = JSON.stringify({ event_name, payload });
  await Promise.all([commands.xAdd(STREAM, "*", { message }), commands.publish(CHANNEL, message)]);
  response.json({ status: "ok", message: `Event '${event_name}' published.`, data: null });
});

const server = createServer(app);
const sockets = new WebSocketServer({ server, path: "/ws", perMessageDeflate: false });

sockets.on("connection", (socket) => {
  const names = new Set();
  socket.on("error", () => socket.terminate());
  socket.on("message", (text) => {
    const { action, event_name, id } = JSON.parse(text);
    if (action === "subscribe") {
      names.add(event_name);
      if (!subscribers.has(event_name)) subscribers.set(event_name, new Set());
      subscribers.get(event_name).add(socket);
    } else if (action === "unsubscribe") {
      names.delete(event_name);
      subscribers.get(event_name)?.delete(socket);
    }
    if (id !== undefined) socket.send(JSON.stringify({ id, type: `${action}d`, event_name }));
  });
  socket.on("close", () => {
    for (const name of names) subscribers.get(name)?.delete(socket);
  });
});

server.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 4096 });
process.on("SIGTERM", () => process.exit(0));
