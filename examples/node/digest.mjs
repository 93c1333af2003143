// The digest of what a service holds of a type, as the server computes its own: see "Digests" in docs/protocol.md.
//
//     node digest.mjs [BUCKETS]     # 256; lines such as {"key":"a1","version":57} on standard input

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const first8Bytes = (text) => createHash("sha256").update(text).digest().readBigUInt64BE(0);

/** In which bucket a key is. */
export const bucket = (key, buckets = 256) => Number(first8Bytes(key) % BigInt(buckets));

/** Over entities: a Map of their versions by key. */
export function digest(versions, buckets = 256) {
  const sums = new Array(buckets).fill(0n);
  for (const [key, version] of versions) sums[bucket(key, buckets)] ^= first8Bytes(`${key}\0${version}`);
  return { count: versions.size, buckets: sums.map((sum) => sum.toString(16).padStart(16, "0")) };
}

if (process.argv[1]?.endsWith("digest.mjs")) {
  const lines = readFileSync(0, "utf8").split("\n").filter(Boolean).map(JSON.parse);
  const held = new Map(lines.map(({ key, version }) => [key, version]));
  console.log(JSON.stringify(digest(held, Number(process.argv[2] ?? 256))));
}
