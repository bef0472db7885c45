// What the tests run against: the gateway itself, with an upstream that answers in one word; or, with
// KEYGATE_PANEL_MOCK=1, the stand-in of mock.mjs.

import { spawn } from "node:child_process";
import { appendFileSync, mkdirSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { startMock } from "./mock.mjs";

export const isMock = process.env.KEYGATE_PANEL_MOCK === "1";
const BINARY = process.env.KEYGATE_BIN ?? fileURLToPath(new URL("../../target/debug/keygate", import.meta.url));

/** Models of hostile upstreams are listed like any other. */
export const HOSTILE = `<img src=x onerror="window.pwned='model'">\u202egnp`;
export const MODELS = ["tiny-chat", "tiny-code", "tiny-embed", HOSTILE];

/** Starts one, with `config`, or what it answers to {url, folder}, behind its config: {url, dataUrl, token, keyFile, command(), log(), stop()}. `dataUrl` and `keyFile` are null for the mock, which has no commands. */
export async function startGateway({ keys = "", config = "" } = {}) {
  if (isMock) {
    const mock = await startMock({ shape: "empty" });
    mock.state.models = MODELS.map((id) => ({ id, upstream: "stand-in", replicas: 1, healthy: 1 }));
    return { ...mock, keyFile: null, log: () => "" };
  }
  const folder = await mkdtemp(path.join(os.tmpdir(), "keygate-panel-"));
  const upstream = await startUpstream();
  const [data, admin] = [await freePort(), await freePort()];
  const keyFile = path.join(folder, "keys.jsonl");
  await writeFile(keyFile, keys);
  const url = `http://127.0.0.1:${admin}`;
  const more = typeof config === "function" ? await config({ url, folder }) : config;
  await writeFile(path.join(folder, "keygate.toml"), `
listen = "127.0.0.1:${data}"
[admin]
listen = "127.0.0.1:${admin}"
[[upstreams]]
name = "stand-in"
url = "${upstream.url}"
${more}`);
  const gateway = run(["serve", "--config", path.join(folder, "keygate.toml"), "--log-format", "json"], folder);
  await answers(gateway, `${url}/readyz`);
  const token = (await readFile(path.join(folder, "admin.token"), "utf8")).trim();
  keep("secrets", token);
  /** What a command of the binary prints on standard output, run beside the gateway. */
  const command = async (...words) => {
    const ran = run([...words, "--config", path.join(folder, "keygate.toml")], folder);
    await ran.end;
    return ran.output();
  };
  return { url, dataUrl: `http://127.0.0.1:${data}/v1`, token, keyFile, command, log: gateway.log, stop: async () => {
    await gateway.stop();
    keep("said-log", gateway.log());
    await upstream.stop();
    await rm(folder, { recursive: true });
  } };
}

/** `keygate demo`, or the mock: {link, stop()} with the link that it prints. */
export async function startDemo() {
  if (isMock) {
    const mock = await startMock();
    return { link: `${mock.url}/#link=${mock.link}`, stop: mock.stop };
  }
  const demo = run(["demo"], os.tmpdir());
  for (;;) {
    const link = /https?:\/\/\S+#link=\S+/.exec(demo.output())?.[0];
    if (link) return { link, stop: demo.stop };
    if (demo.hasEnded()) throw new Error(`keygate demo ended: ${demo.log()}`);
    await pause(50);
  }
}

/** Kept for the search that follows all tests (tests/sweep): `secrets`, and what was said. */
export function keep(kind, text) {
  const sweep = process.env.KEYGATE_SWEEP;
  if (!sweep) return;
  mkdirSync(sweep, { recursive: true });
  appendFileSync(path.join(sweep, `${kind}-${process.pid}`), `${text}\n`);
}

function run(words, folder) {
  const child = spawn(BINARY, words, { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  const said = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"]) child[stream].on("data", (part) => { said[stream] += part; });
  let ended = false;
  const end = new Promise((resolve) => child.once("close", resolve)).then(() => { ended = true; });
  child.once("error", (error) => { said.stderr += error; ended = true; });
  return {
    end, output: () => said.stdout, log: () => said.stderr, hasEnded: () => ended,
    stop: async () => {
      child.kill("SIGTERM");
      const patience = setTimeout(() => child.kill("SIGKILL"), 5000);
      await end;
      clearTimeout(patience);
    },
  };
}

async function answers(gateway, url) {
  for (const began = Date.now(); Date.now() - began < 20_000; await pause(50)) {
    if (gateway.hasEnded()) break;
    if ((await fetch(url).catch(() => null))?.ok) return;
  }
  throw new Error(`the gateway does not get ready: ${gateway.log()}`);
}

async function startUpstream() {
  const server = http.createServer((request, response) => {
    const body = request.url === "/v1/models" ? { object: "list", data: MODELS.map((id) => ({ id, object: "model" })) }
      : { choices: [{ message: { role: "assistant", content: "Hi." } }], usage: { prompt_tokens: 1000, completion_tokens: 250, prompt_tokens_details: { cached_tokens: 600 } } };
    request.resume().on("end", () => response.setHeader("Content-Type", "application/json").end(JSON.stringify(body)));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, stop: () => new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  }) };
}

/** A port that nobody listens on just now. */
async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}
