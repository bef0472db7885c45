// A stand-in for the gateway's admin listener, with an hour of traffic that a fresh gateway does not have: for the
// screenshots, and for work on the panel without building the gateway. `node mock.mjs [PORT]` serves it by itself.
//
// It speaks the shapes of the admin API and judges only as much as the panel's views depend on.

import { randomBytes, randomInt } from "node:crypto";
import { readFile } from "node:fs/promises";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";

const PANEL = fileURLToPath(new URL("../../src/admin/panel/", import.meta.url));
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml" };
const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";
const DAY = 86_400_000;
const BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

const drawn = (length) => Array.from({ length }, () => BASE62[randomInt(62)]).join("");
const instant = (time) => `${new Date(time).toISOString().slice(0, 19)}Z`;

/** Starts it: {url, dataUrl, token, stop()}. `shape` fills it: "demo", "empty" or "many". */
export async function startMock({ port = 0, shape = "demo" } = {}) {
  const state = { keys: filled(shape), accounts: shape === "empty" ? [] : ACCOUNTS, generation: 41, sessions: new Set(), links: new Set(["one-time-code"]), token: `kg_${drawn(49)}`, models: shape === "empty" ? [] : MODELS };
  state.lastReload = { at: instant(Date.now() - 42 * 60_000), result: "ok", message: `${state.keys.length} keys` };
  const server = http.createServer((request, response) => answer(state, request, response).catch((error) => {
    response.writeHead(500).end(String(error));
  }));
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`, token: state.token, link: "one-time-code", dataUrl: null, state,
    stop: () => new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    }),
  };
}

async function answer(state, request, response) {
  const url = new URL(request.url, "http://panel");
  const send = (status, body, headers = {}) => {
    response.writeHead(status, { "Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", ...headers });
    response.end(body === undefined ? undefined : JSON.stringify(body));
  };
  const refuse = (status, message, field = null, more = {}) => send(status, { error: { message, field }, ...more });
  if (!/^(localhost|127\.0\.0\.1)(:\d+)?$/.test(request.headers.host ?? "")) return refuse(421, "This Host is not one of this listener's.");
  if (request.headers.origin && request.headers.origin !== `http://${request.headers.host}`) return refuse(403, "The Origin is another one.");
  if (!url.pathname.startsWith("/api/")) return file(url.pathname, response, refuse);

  const body = await read(request);
  const session = /(?:^|; )keygate_session=([0-9a-f]+)/.exec(request.headers.cookie ?? "")?.[1];
  const about = { client_address: "192.0.2.7", url: "https://ai.example.com/v1", version: "0.1.0", principal: { kind: "operator" }, accounts: [] };
  const call = `${request.method} ${url.pathname}`;
  if (call === "GET /api/sign-in") return send(200, { password: false, token: true, oidc: null });
  if (request.method !== "GET" && (request.headers["x-keygate-panel"] !== "1" || request.headers["content-type"] !== "application/json")) {
    return refuse(403, "Changes need the panel's header.");
  }
  if (call === "POST /api/session") {
    const isRight = body.link !== undefined ? state.links.delete(body.link) : body.token === state.token;
    if (!isRight) return refuse(401, body.link !== undefined ? "This sign-in link was used already, or is too old. Sign in again." : "This token is not the admin token.");
    const id = randomBytes(16).toString("hex");
    state.sessions.add(id);
    return send(200, { ...about, secret: `secret-${id}` }, { "Set-Cookie": `keygate_session=${id}; Path=/; HttpOnly; SameSite=Strict` });
  }
  if (!state.sessions.has(session) || request.headers["x-keygate-session"] !== `secret-${session}`) return refuse(401, "Sign in.");
  const [, id, action] = /^\/api\/keys\/([^/]+)(\/.+)?$/.exec(url.pathname) ?? [];
  const key = id && state.keys.find((key) => key.id === decodeURIComponent(id));
  if (id && !key) return refuse(404, "No key has this id.");
  const of = /^\/api\/accounts\/([^/]+)$/.exec(url.pathname)?.[1];
  if (of) {
    const account = state.accounts.find(({ id }) => id === decodeURIComponent(of));
    return account ? send(200, accountView(state, account)) : refuse(404, "No account has this id.");
  }
  switch (id ? `${request.method} key${action ?? ""}` : call) {
    case "GET /api/session": return send(200, about);
    case "DELETE /api/session": state.sessions.delete(session); return send(204);
    case "GET /api/keys": return send(200, page(state, url.searchParams));
    case "POST /api/keys": {
      const fault = faultOf(body, true);
      if (fault) return refuse(422, `${fault[0]}: ${fault[1]}`, fault[0]);
      const token = `kg_${drawn(49)}`;
      const made = record({ id: `key_${drawn(22)}`, created_at: instant(Date.now()), hint: token.slice(-4), ...body });
      state.keys.unshift(made);
      state.generation += 1;
      const warnings = (body.model_access.models ?? []).filter((model) => !state.models.some(({ id }) => id === model))
        .map((model) => `no upstream serves ${JSON.stringify(model)}: ${body.model_access.mode === "exclusive" ? "it excludes nothing today" : "the key cannot use it today"}`);
      return send(201, { key: view(made), token, url: about.url, warnings });
    }
    case "GET key": return send(200, view(key));
    case "PATCH key": {
      const fault = faultOf(body, false);
      if (fault) return refuse(422, `${fault[0]}: ${fault[1]}`, fault[0]);
      Object.assign(key, record({ ...key, ...body }));
      state.generation += 1;
      return send(200, view(key));
    }
    case "POST key/rotate": {
      const token = `kg_${drawn(49)}`;
      const grace = body.grace_seconds ?? 86_400;
      Object.assign(key, { hint: token.slice(-4), previous: grace === 0 ? null : { hint: key.hint, not_after: instant(Date.now() + grace * 1000), last_used_at: null } });
      return send(201, { key: view(key), token, url: about.url, warnings: [] });
    }
    case "POST key/expire-previous": key.previous = null; return send(200, view(key));
    case "DELETE key": state.keys.splice(state.keys.indexOf(key), 1); state.generation += 1; return send(204);
    case "GET /api/accounts": return send(200, { accounts: state.accounts.map((account) => accountView(state, account)), next: null });
    case "GET /api/models": return send(200, { models: state.models.map((model) => ({ ...model, keys: state.keys.filter((key) => view(key).state === "active" && allows(key.model_access, model.id)).length })) });
    case "GET /api/status": return send(200, { version: "0.1.0", generation: state.generation, keys: state.keys.length, last_reload: state.lastReload, upstreams: [], in_flight: 7, draining: false });
    case "GET /api/fleet": return send(200, { object: "list", revision: null, database: null, data: [] });
    case "GET /api/refusals": return send(200, { refusals: [
      { key: state.keys[0]?.id ?? null, name: state.keys[0]?.name ?? null, client_address: "192.0.2.7", reason: "model_not_found", count: 3, last_at: instant(Date.now() - 60_000) },
      { key: null, name: null, client_address: "2001:db8::7", reason: "invalid_api_key", count: 1200, last_at: instant(Date.now() - 120_000) },
    ].filter(({ key }) => !url.searchParams.has("key") || key === url.searchParams.get("key")), left_out: 0 });
    case "GET /api/usage": return send(200, usage(state, url.searchParams));
    case "GET /api/usage/records": return send(200, usageRecords(state, url.searchParams));
    case "GET /api/overview": return send(200, overview(state));
    case "POST /api/explain": {
      const asked = state.keys.find(({ id }) => id === body.key);
      const isAllowed = asked && view(asked).state === "active" && allows(asked.model_access, body.model);
      return send(200, { allowed: isAllowed, denial: isAllowed ? null : "model_not_found", reason: isAllowed ? "Every rule allows it." : "The key may not use this model." });
    }
    case "POST /api/reload": {
      if (!body.dry_run) {
        state.generation += 1;
        state.lastReload = { at: instant(Date.now()), result: "ok", message: `${state.keys.length + 1} keys` };
      }
      return send(200, { generation: state.generation, keys: state.keys.length + 1, added: 2, removed: 1, changed: 3, restart_needed: [],
        added_ids: ["key_partner2", "key_partner3"], removed_ids: ["key_old"], changed_ids: ["key_a", "key_b", "key_c"],
        names: { key_partner2: "partner two", key_partner3: "partner three", key_old: "old site", key_a: "a", key_b: "b", key_c: "c" },
        changes: { key_a: ["name"], key_b: ["expires_at", "allow_from"], key_c: ["disabled"] } });
    }
    default: return refuse(404, "There is nothing here.");
  }
}

async function file(pathname, response, refuse) {
  const name = pathname === "/" ? "index.html" : /^\/panel\/([a-z-]+\.[a-z]+)$/.exec(pathname)?.[1];
  const text = name && await readFile(path.join(PANEL, name)).catch(() => null);
  if (!text) return refuse(404, "There is nothing here.");
  response.writeHead(200, { "Content-Type": TYPES[path.extname(name)], "Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache", "Referrer-Policy": "no-referrer" });
  response.end(text);
}

async function read(request) {
  let text = "";
  for await (const part of request) text += part;
  return text === "" ? {} : JSON.parse(text);
}

function page(state, wanted) {
  const query = (wanted.get("query") ?? "").toLowerCase();
  const limit = Number(wanted.get("limit") ?? 50);
  const from = Number(wanted.get("after") ?? 0);
  const is = (name, test) => { const value = wanted.get(name); return value === null || test(value); };
  const found = state.keys.map(view).filter((key) => [key.name, key.id, key.account, key.hint].some((text) => text?.toLowerCase().includes(query))
    && is("state", (value) => key.state === value) && is("account", (value) => key.account === value) && is("model", (value) => allows(key.model_access, value))
    && is("expires_before", (value) => key.expires_at && Date.parse(key.expires_at) <= Date.parse(value)));
  const by = (wanted.get("sort") ?? "-created_at").replace("-", "");
  const sign = (wanted.get("sort") ?? "-created_at").startsWith("-") ? -1 : 1;
  if (wanted.has("sort")) {
    found.sort((one, other) => ((one[by] === null) - (other[by] === null)) || sign * (one[by] > other[by] ? 1 : one[by] < other[by] ? -1 : 0));
  }
  return { keys: found.slice(from, from + limit), next: from + limit < found.length ? String(from + limit) : null };
}

function faultOf(body, isNew) {
  if ((isNew || "name" in body) && !(body.name?.length > 0 && [...body.name].length <= 100)) return ["name", "must be 1 to 100 characters; shorten it"];
  if (isNew && !body.model_access) return ["model_access", "is missing; add it"];
  const wrong = (body.allow_from ?? []).find((network) => !/^[0-9.]+(\/\d+)?$/.test(network));
  if (wrong) return ["allow_from", `${JSON.stringify(wrong)} is not an IPv4 network or address; write it like 192.0.2.0/24 or 192.0.2.7`];
  if (body.expires_at && endOf(body.expires_at) <= Date.now()) return ["expires_at", `${body.expires_at} has passed already; name a time to come`];
  return null;
}

const endOf = (text) => (text.length === 10 ? Date.parse(text) + DAY : Date.parse(text));
const allows = ({ mode, models }, id) => mode === "all" || models.includes(id) === (mode === "inclusive");

function record(fields) {
  return { account: null, hint: null, allow_from: [], disabled: false, last_used_at: null, requests: 0, previous: null, ...fields,
    expires_at: fields.expires_at ? instant(endOf(fields.expires_at)) : null };
}

function view(key) {
  const state = key.disabled ? "disabled" : key.expires_at && Date.parse(key.expires_at) <= Date.now() ? "expired" : "active";
  const isClosed = key.account === "office" && !key.disabled;
  return { ...key, state: isClosed ? "disabled" : state, ends_at: key.expires_at, refused_by_account: isClosed ? "disabled" : null };
}

const accountView = (state, account) => ({ name: null, model_access: { mode: "all" }, allow_from: [], max_keys: null, max_key_days: null, limits: null, budgets: [], disabled: false,
  created_at: "2026-03-02T09:00:00Z", revision: "0000000000000000", ...account, keys: state.keys.filter((key) => key.account === account.id).length });

const ACCOUNTS = [
  { id: "acme", name: "Acme Inc.", model_access: { mode: "inclusive", models: ["llama-3.3-70b-instruct", "bge-m3"] }, max_keys: 20, max_key_days: 90,
    limits: { requests_per_minute: 600, tokens_per_minute: null, concurrent_requests: 40 }, budgets: [{ unit: "cost", amount: "250", per: "month", mode: "enforce" }] },
  { id: "engineering", allow_from: ["10.20.0.0/16", "192.0.2.0/25"], max_keys: 100 },
  { id: "office", name: "Office and reception", disabled: true, max_key_days: 365 },
  { id: "university", name: "University", model_access: { mode: "exclusive", models: ["gpt-oss-120b"] }, budgets: [{ unit: "tokens", amount: 50_000_000, per: "month", mode: "observe" }] },
];

const MODELS = [
  ["llama-3.3-70b-instruct", "gpu-pool", 4, 4], ["qwen3-coder-30b", "gpu-pool", 4, 4], ["mistral-small-3.2", "gpu-pool", 4, 4],
  ["gpt-oss-120b", "big-iron", 2, 1], ["deepseek-r1-distill-32b", "big-iron", 2, 1], ["bge-m3", "embeddings", 1, 1],
  ["jina-reranker-v2", "embeddings", 1, 1], ["whisper-large-v3", "speech", 1, 0],
].map(([id, upstream, replicas, healthy]) => ({ id, upstream, replicas, healthy }));

function filled(shape) {
  if (shape === "empty") return [];
  const now = Date.now();
  const midnight = now - (now % DAY);
  const days = (count) => instant(midnight + count * DAY);
  const keys = [
    { name: "web site", account: "acme", model_access: { mode: "inclusive", models: ["llama-3.3-70b-instruct", "bge-m3"] }, allow_from: ["203.0.113.0/24"], expires_at: days(61), last_used_at: instant(now - 40_000), requests: 184_220, hint: "x9Qz" },
    { name: "support chat", account: "acme", model_access: { mode: "all" }, expires_at: days(4), last_used_at: instant(now - 190_000), requests: 12_408, hint: "7bKe" },
    { name: "research notebook", account: "university", model_access: { mode: "exclusive", models: ["gpt-oss-120b"] }, allow_from: ["192.0.2.0/25", "198.51.100.17/32"], last_used_at: instant(now - 5 * 3_600_000), requests: 932, hint: "Lm0a" },
    { name: "code assistant", account: "engineering", model_access: { mode: "inclusive", models: ["qwen3-coder-30b"] }, expires_at: days(212), last_used_at: instant(now - 9_000), requests: 48_112, hint: "qT4w" },
    { name: "night batch", account: "engineering", model_access: { mode: "all" }, allow_from: ["10.20.0.0/16"], last_used_at: instant(now - 14 * 3_600_000), requests: 220_017, hint: "Zr81" },
    { name: "meeting transcripts", account: "office", model_access: { mode: "inclusive", models: ["whisper-large-v3", "mistral-small-3.2"] }, expires_at: days(2), last_used_at: instant(now - 2 * DAY), requests: 310, hint: "0dVn" },
    { name: "intern, summer", account: "engineering", model_access: { mode: "inclusive", models: ["mistral-small-3.2"] }, expires_at: days(-12), hint: "Pw5c" },
    { name: "old mobile app", account: "acme", model_access: { mode: "all" }, disabled: true, hint: "c2Jf" },
    { name: "open webui", account: "office", model_access: { mode: "all" }, allow_from: ["10.0.8.4/32"], expires_at: days(340), last_used_at: instant(now - 61_000), requests: 9_871, hint: "H6ux" },
    { name: "évaluation – モデル比較", account: "university", model_access: { mode: "exclusive", models: ["whisper-large-v3", "bge-m3"] }, expires_at: instant(now + 20.5 * 3_600_000), hint: "k3Ys" },
  ].map((key, at) => record({ id: `key_${String(at).padStart(22, "0")}`, created_at: instant(now - (at + 1) * 3.3 * DAY), ...key }));
  if (shape !== "many") return keys;
  return keys.concat(Array.from({ length: 100_000 }, (_, at) => record({ id: `key_many${at}`, name: `device ${at}`, account: `customer ${at % 900}`,
    model_access: { mode: "all" }, created_at: instant(now - 40 * DAY), hint: String(at).padStart(4, "0").slice(-4) })));
}

/** An hour in which somebody's key ran out, and an upstream was away for some minutes. */
function overview(state) {
  const now = Date.now();
  const thisMinute = now - (now % 60_000);
  const minutes = Array.from({ length: 60 }, (_, at) => {
    const time = thisMinute - (59 - at) * 60_000;
    const wave = Math.sin(at / 8) * 90 + Math.sin(at / 2.3) * 34 + ((at * 7919) % 41);
    const share = at === 59 ? (now % 60_000) / 60_000 : 1;
    const outcomes = { allowed: Math.round((310 + wave) * share), invalid_api_key: at % 9 === 0 ? 2 : (at * 31) % 7 === 0 ? 4 : 0,
      missing_api_key: (at * 13) % 11 === 0 ? 1 : 0, expired_api_key: at > 24 && at < 44 ? 3 + ((at * 5) % 4) : 0,
      ip_not_authorized: (at * 17) % 13 === 0 ? 2 : 0, model_not_found: (at * 3) % 14 === 0 ? 2 : 0, upstream_unavailable: at > 47 && at < 52 ? 6 - Math.abs(at - 49) : 0 };
    return { at: instant(time), outcomes: state.keys.length === 0 ? {} : Object.fromEntries(Object.entries(outcomes).filter(([, value]) => value > 0)) };
  });
  const keys = { active: 0, disabled: 0, expired: 0 };
  for (const key of state.keys) keys[view(key).state] += 1;
  const expiring = state.keys.filter((key) => view(key).state === "active" && key.expires_at && Date.parse(key.expires_at) - now < 7 * DAY)
    .sort((one, other) => Date.parse(one.expires_at) - Date.parse(other.expires_at));
  const isEmpty = state.keys.length === 0;
  return { now: instant(now), in_flight: isEmpty ? 0 : 7, connections: isEmpty ? 0 : 31, minutes, overhead_seconds: isEmpty ? { p50: null, p99: null } : { p50: 0.000041, p99: 0.00019 }, keys,
    expiring_count: expiring.length, expiring: expiring.slice(0, 100).map(({ id, name, account, expires_at }) => ({ id, name, account, expires_at })),
    last_reload: state.lastReload, generation: state.generation };
}

const PRICES = { "llama-3.3-70b-instruct": [0.2, 0.6], "qwen3-coder-30b": [0.1, 0.3], "mistral-small-3.2": [0.1, 0.3], "gpt-oss-120b": [0.4, 1.2], "deepseek-r1-distill-32b": [0.3, 0.9], "bge-m3": [0.02, 0] };

/** A month in which nobody works on Sundays. */
function usage(state, wanted) {
  const by = (wanted.get("group_by") ?? "").split(",");
  const width = { "1h": 3600, "1d": 86_400 }[wanted.get("bucket_width")];
  const [start, now] = [Number(wanted.get("start_time")), Date.now() / 1000];
  const buckets = width ? Array.from({ length: Math.ceil((now - start) / width) }, (_, at) => [start + at * width, start + (at + 1) * width]) : [[start, now]];
  const groups = by.includes("key") ? state.keys.filter(({ last_used_at: used }) => used).map(({ id }) => ({ key: id, model: null }))
    : by.includes("account") ? [...new Set(state.keys.map(({ account }) => account))].map((account) => ({ account, model: null }))
    : by.includes("upstream") ? [...new Set(state.models.map(({ upstream }) => upstream))].map((upstream) => ({ upstream, model: null }))
    : state.models.map(({ id }) => ({ model: id })).filter(({ model }) => !wanted.has("model") || wanted.get("model") === model);
  const result = (group, at, days) => {
    const weight = 1 / (1 + groups.indexOf(group)) * (wanted.has("key") ? 0.04 : 1) * (new Date(at * 1000).getUTCDay() === 0 ? 0.1 : 1) * (0.8 + ((at / 3600) % 7) / 10);
    const requests = Math.round(5200 * days * weight);
    const [input, output] = [requests * 941, requests * 212];
    const [priceIn, priceOut] = PRICES[group.model] ?? (by.includes("model") ? [null, null] : [0.2, 0.6]);
    return { object: "organization.usage.completions.result", ...group, num_model_requests: requests, num_errors: Math.round(requests / 700), num_at_least: Math.round(requests / 400), num_unknown: Math.round(requests / 2600),
      input_tokens: input, input_cached_tokens: Math.round(input * 0.37), output_tokens: output, output_reasoning_tokens: null, audio_seconds: null, images: null,
      cost: priceIn === null ? null : ((input * priceIn + output * priceOut) / 1e6).toFixed(6) };
  };
  const isEmpty = state.keys.length === 0;
  const data = buckets.map(([from, to]) => ({ object: "bucket", start_time: from, end_time: to, results: isEmpty ? [] : groups.map((group) => result(group, from, (Math.min(to, now) - from) / 86_400)) }));
  return { object: "page", data, has_more: false, next_page: null, currency: "EUR", ...(by.includes("key") ? { names: Object.fromEntries(state.keys.map(({ id, name }) => [id, name])) } : {}) };
}

function usageRecords(state, wanted) {
  const key = state.keys.find(({ id }) => id === wanted.get("key"));
  const records = (key ? Array.from({ length: 20 }, (_, at) => at) : []).map((at) => {
    const ended = Date.now() - at * 47_000 - 9000;
    return { request_id: `req_${String(at).padStart(32, "0")}`, gateway: "gateway-1", started_at: instant(ended - 2000), ended_at: instant(ended), key_id: key.id, account: key.account, model: state.models[at % 3].id, upstream: "gpu-pool",
      route: "/v1/chat/completions", status: at === 7 ? 400 : 200, end: at === 3 ? "client_left" : "complete", client_address: "203.0.113.9", first_byte_ms: 180, duration_ms: 900 + ((at * 631) % 2400), bytes_in: 900, bytes_out: 5000,
      input_tokens: at === 7 ? null : 700 + at * 13, input_cached_tokens: 256, output_tokens: at === 7 ? null : 120 + at * 17, output_reasoning_tokens: null, audio_seconds: null, images: null,
      certainty: at === 3 ? "at_least" : at === 7 ? "unknown" : "exact", cost: at === 7 ? null : (0.0002 + at * 0.00001).toFixed(6) };
  });
  return { records, next: records.length === 0 ? null : "1", currency: "EUR", names: {} };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url, token } = await startMock({ port: Number(process.argv[2] ?? 0) });
  console.log(`${url}\nadmin token: ${token}`);
}
