// Reads AsyncAPI documents as the official parser does, and fails if it finds an error or a warning.
const { readFileSync } = require("node:fs");
const { Parser } = require("@asyncapi/parser");

const WARNING = 1;

async function check(file) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
  const found = diagnostics.filter(({ severity }) => severity <= WARNING);
  found.forEach(({ code, path, message }) => console.log(`${file}: ${code} at ${path.join("/")}: ${message}`));
  if (!document || found.length) process.exitCode = 1;
  console.log(`${file}: ${document ? document.messages().length : "no"} messages`);
}

process.argv.slice(2).reduce((before, file) => before.then(() => check(file)), Promise.resolve());
