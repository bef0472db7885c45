// What stands around the tests: see with_gateway.py, which describes it in $KEYGATE_STAGE.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { appendFileSync, mkdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import OpenAI from "openai";
import { Agent, fetch } from "undici";

assert.ok(process.env.KEYGATE_STAGE, "run by tests/clients/with_gateway.py");
export const stage = JSON.parse(process.env.KEYGATE_STAGE);
export const authority = readFileSync(stage.authority);

const run = promisify(execFile);

/** `keygate ARGUMENTS` against a gateway; its standard output. */
async function keygate(gateway, ...words) {
  const env = { ...process.env, KEYGATE_SOCKET: gateway.socket };
  const { stdout } = await run(stage.keygate, words, { env, timeout: 30_000 });
  return stdout;
}

/** Something that must stand in no log, metric, error or admin answer: searched for once all tests have run (tests/sweep). */
function keepSecret(text) {
  const folder = process.env.KEYGATE_SWEEP;
  if (!folder) return;
  mkdirSync(folder, { recursive: true });
  appendFileSync(path.join(folder, `secrets-${process.pid}`), `${text}\n`);
}

/** Makes a key: `keys create` with these options. */
export async function createKey(gateway, ...options) {
  const made = JSON.parse(await keygate(gateway, "keys", "create", "--name", "node", ...options, "--json"));
  keepSecret(made.token);
  return { id: made.key.id, token: made.token };
}

export const deleteKey = (gateway, key) => keygate(gateway, "keys", "delete", key.id, "--yes");

/** The ways to connect. Each has a gateway and a `fetch`; `alpn` collects what TLS agreed on. */
export const connections = [
  connection("plain HTTP/1.1", stage.plain, { allowH2: false }),
  connection("TLS HTTP/1.1", stage.tls, { allowH2: false, connect: { ca: authority } }),
  connection("TLS HTTP/2", stage.tls, { allowH2: true, connect: { ca: authority } }),
];

function connection(name, gateway, options) {
  const dispatcher = new Agent(options);
  return {
    name,
    gateway,
    baseURL: `${gateway.url}/v1`,
    fetch: (url, init) => fetch(url, { ...init, dispatcher }),
    close: () => dispatcher.destroy(),
    openai(key, more = {}) {
      const { baseURL } = this;
      return new OpenAI({ apiKey: key.token ?? key, baseURL, fetch: this.fetch, timeout: 30_000, maxRetries: 0, ...more });
    },
  };
}

/** How many requests an upstream works on, by its own word. */
export async function generating(model) {
  const slots = await (await fetch(`${stage.upstreams[model]}/slots`)).json();
  return slots.filter((slot) => slot.is_processing).length;
}

/** Waits for a condition, and fails when it does not come true within so many milliseconds. */
export async function eventually(condition, what, within = 10_000) {
  const deadline = Date.now() + within;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `not within ${within} ms: ${what}`);
    await pause(10);
  }
}

export const messages = [{ role: "user", content: "Name three colours." }];
export const short = { messages, temperature: 0, max_tokens: 24 };
/** The model would answer for twenty seconds. */
export const endless = { messages, temperature: 0, max_tokens: 1500, ignore_eos: true };
