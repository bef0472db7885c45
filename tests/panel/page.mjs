// The panel in a browser, as the tests use it: each test has a gateway and a browser profile of its own.
//
// With KEYGATE_PANEL_FILES=1 the browser gets the panel's files from src/admin/panel instead of the binary, so that a change
// shows without a build.

import assert from "node:assert/strict";
import { after, before } from "node:test";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { startBrowser } from "./browser.mjs";
import { keep, startGateway } from "./gateway.mjs";

const FILES = process.env.KEYGATE_PANEL_FILES === "1" && fileURLToPath(new URL("../../src/admin/panel/", import.meta.url));
export const LIMIT = { timeout: 120_000 };
/** What the browser says of its own accord about an answer that is no 2xx. */
export const ANSWERED = /Failed to load resource: the server responded with a status of/;

export let browser;
before(async () => { browser = await startBrowser(); });
after(() => browser?.close());

/**
 * Runs `act` on a fresh gateway, signed in. What the page complains of fails the test, unless `tolerates` it, and so does what it
 * loads from elsewhere, but for the origins in `others`.
 */
export async function onPanel(act, { options = {}, signedIn = true, keys, config, others = [], tolerates = ANSWERED, using = browser } = {}) {
  const gateway = await startGateway({ keys, config });
  const context = await using.newContext({ baseURL: gateway.url, reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(8000);
  const page = await context.newPage();
  const [complaints, requested, spoken] = [[], [], []];
  page.on("console", (message) => {
    spoken.push(message.text());
    if (["error", "warning"].includes(message.type()) && !tolerates.test(message.text())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(error.stack));
  page.on("request", (request) => requested.push(request));
  if (FILES) {
    await context.route(/\/panel\/[a-z-]+\.(js|css)$/, (route) => route.fulfill({ path: path.join(FILES, path.basename(new URL(route.request().url()).pathname)) }));
  }
  try {
    await page.goto("/");
    if (signedIn) await signIn(page, gateway);
    await act({ page, context, gateway, requested, spoken });
    assert.deepEqual(complaints, []);
    for (const request of requested) assert.ok([gateway.url, ...others].includes(new URL(request.url()).origin), `nothing is loaded from elsewhere: ${request.url()}`);
  } finally {
    await context.close();
    await gateway.stop();
  }
}

export async function signIn(page, gateway) {
  await (await tokenField(page)).fill(gateway.token);
  await button(page, "Sign in").click();
  await page.getByRole("heading", { level: 1, name: "API Keys" }).waitFor();
  keep("secrets", await sessionSecret(page));
}

/** Where the admin token is asked for: behind a button, if persons sign in too. */
export async function tokenField(page) {
  const [field, other] = [page.getByLabel("Admin token"), button(page, "I am an operator")];
  await field.or(other).waitFor();
  if (await other.isVisible()) await other.click();
  await field.waitFor();
  return field;
}

/** Calls the admin API as the page does. */
export function api(page, method, path, body) {
  return page.evaluate(async ([method, path, body]) => {
    const response = await fetch(path, { method, headers: { "X-Keygate-Panel": "1", "Content-Type": "application/json",
      "X-Keygate-Session": sessionStorage.getItem("keygate-session") ?? "" },
      body: body === null ? undefined : JSON.stringify(body) });
    const text = await response.text();
    return { status: response.status, body: text === "" ? null : JSON.parse(text) };
  }, [method, path, body ?? null]);
}

export const sessionSecret = (page) => page.evaluate(() => sessionStorage.getItem("keygate-session"));
export const makeKey = async (page, fields) => {
  const { body } = await api(page, "POST", "/api/keys", { model_access: { mode: "all" }, ...fields });
  if (body.token) keep("secrets", body.token);
  return body;
};
export const open = (page, hash) => page.evaluate((hash) => { location.hash = hash; }, hash);
export const row = (page, name) => page.getByRole("row").filter({ has: page.getByRole("button", { name, exact: true }) });
export const pane = (page) => page.getByRole("dialog", { name: /^(Create|Edit) API Key/ });
export const created = (page) => page.getByRole("dialog", { name: "API Key Created Successfully" });
export const toast = (page, text) => page.locator(".toast").getByText(text);
export const choices = (page) => pane(page).getByRole("listbox", { name: "Models" }).getByRole("option");
export const button = (scope, name) => scope.getByRole("button", { name, exact: true });

export async function openMenu(page, name, item) {
  await row(page, name).getByRole("button", { name: /^Actions for/ }).click();
  await page.getByRole("menuitem", { name: item }).click();
}

/** What the gateway answers to a chat request with this token; null where there is no gateway. */
export async function chat(gateway, token, model) {
  if (!gateway.dataUrl) return null;
  const response = await fetch(`${gateway.dataUrl}/chat/completions`, {
    method: "POST", headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ model, messages: [{ role: "user", content: "Hello!" }] }),
  });
  await response.arrayBuffer();
  return response.status;
}

export const assertChat = async (gateway, token, model, status) => {
  if (gateway.dataUrl) assert.equal(await chat(gateway, token, model), status);
};


const hourAgo = () => `${new Date(Date.now() - 3_600_000).toISOString().slice(0, 19)}Z`;
const gateway = (fields) => ({ instance: "0".repeat(32), version: "0.1.0", started_at: "2026-01-02T03:04:05Z", seen_at: hourAgo(), revision: 1_234_567, behind: 0,
  lag_seconds: null, in_flight: 0, state: "in_sync", is_this: false, ...fields });
/** What GET /api/fleet answers where five gateways share a database, one in each state. */
export const FLEET = { object: "list", revision: 1_234_567, database: { up: true, error: null, read_at: hourAgo() }, data: [
  gateway({ name: "eu-1", lag_seconds: 0.012, in_flight: 3, is_this: true }),
  gateway({ name: "eu-2", lag_seconds: 2.5, in_flight: 1000, revision: 1_233_364, behind: 1203, state: "behind" }),
  gateway({ name: "n".repeat(64), revision: null, behind: null, state: "behind" }),
  gateway({ name: "eu-4", revision: 1_234_568, behind: -1, state: "behind" }),
  gateway({ name: "eu-5", version: "0.0.9", state: "not_seen" }),
] };

/** The pager above the list; another is at its foot. */
export const pager = (page, name) => button(page.getByRole("navigation", { name: "Pages", exact: true }), name);
/** What has the focus. */
export const focused = (page) => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? `${document.activeElement.tagName} ${document.activeElement.textContent.slice(0, 60)}`);
