// Signing in by the company's identity provider: a real one, with real redirects.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { keep, isMock } from "./gateway.mjs";
import { LIMIT, api, browser, button, onPanel, open, sessionSecret } from "./page.mjs";
import { invite, makeAccount, menu, operator } from "./people.mjs";

const OPTIONS = { ...LIMIT, skip: isMock && "a mock has no identity provider" };
const PROVIDER = fileURLToPath(new URL("../clients/node/oidc-provider/provider.mjs", import.meta.url));
const heading = (page, name) => page.getByRole("heading", { level: 1, name });
const toProvider = (page) => page.getByRole("link", { name: "Sign in with Example Inc." });

/** A provider for the gateway at `url`: {issuer, client_id, client_secret, users, stop()}. */
async function startProvider(url) {
  const child = spawn(process.execPath, [PROVIDER, "--redirect-uri", `${url}/api/sign-in/callback`, "--post-logout-redirect-uri", `${url}/`], { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  child.stderr.on("data", (part) => { said += part; });
  const ended = new Promise((resolve) => child.once("close", resolve));
  const line = await Promise.race([new Promise((resolve) => createInterface(child.stdout).once("line", resolve)), ended.then(() => null)]);
  if (line === null) throw new Error(`the identity provider does not start: ${said}`);
  const about = JSON.parse(line);
  for (const secret of [about.client_secret, ...about.users.map(({ password }) => password)]) keep("secrets", secret);
  return { ...about, user: (name) => about.users.find(({ email }) => email.startsWith(`${name}@`)), stop: async () => {
    child.kill("SIGKILL");
    await ended;
  } };
}

/** Runs `act` on a gateway whose persons sign in by the provider. `more` stands behind the provider's section of the config. */
async function withProvider(act, more = "") {
  const others = [];
  let provider;
  try {
    await onPanel((given) => act({ ...given, provider }), { signedIn: false, others, config: async ({ url, folder }) => {
      provider = await startProvider(url);
      others.push(provider.issuer);
      await writeFile(path.join(folder, "client.secret"), provider.client_secret);
      return `[sign_in.oidc]
issuer = "${provider.issuer}"
client_id = "${provider.client_id}"
client_secret_file = "client.secret"
name = "Example Inc."
scopes = ["openid", "email", "profile", "groups"]
${more}`;
    } });
  } finally {
    await provider?.stop();
  }
}

/** Fills in the provider's own form. */
async function signInThere(page, provider, name) {
  await page.waitForURL(`${provider.issuer}/**`);
  const { email, password } = provider.user(name);
  await page.getByLabel("E-mail").fill(email);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
}

async function arrived(page) {
  await heading(page, "API Keys").waitFor();
  keep("secrets", await sessionSecret(page));
}

test("who is invited signs in at the provider, and comes to the page of keys", OPTIONS, () => withProvider(async ({ page, gateway, provider }) => {
  await makeAccount(gateway, { id: "acme", name: "Acme Inc." });
  const link = await invite(gateway, "acme", "alice@example.com", "owner");
  await page.goto("about:blank");
  await page.goto(link);
  await heading(page, "You are invited to Acme Inc. as an owner").waitFor();
  assert.equal(await page.getByRole("textbox").count(), 0, "no password is asked for");
  await button(page, "Sign in with Example Inc.").click();
  await signInThere(page, provider, "alice");
  await arrived(page);
  assert.match(page.url(), /#\/keys$/);
  await page.getByText("Create a key, and your programs can use the models at once.").waitFor();
  await page.getByRole("button", { name: /alice@example.com/ }).waitFor();
  const { body } = await api(page, "GET", "/api/session");
  assert.deepEqual([body.principal.name, body.accounts], ["Alice", [{ id: "acme", name: "Acme Inc.", role: "owner" }]]);
  await menu(page).getByRole("link", { name: "Members" }).click();
  await page.getByRole("row").filter({ hasText: "alice@example.com" }).getByText("Company's sign-in").waitFor();
  await page.reload();
  await heading(page, "Members").waitFor();

  // Where the session ends by itself, one comes back to where one was; the provider still knows who it is.
  assert.equal((await fetch(`${gateway.url}/api/accounts/acme/invitations`, { method: "POST", headers: { Authorization: `Bearer ${gateway.token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ email: "alice@example.com", role: "member" }) })).status, 201);
  const { body: { sessions: [{ id }] } } = await api(page, "GET", "/api/sessions");
  await api(page, "DELETE", `/api/sessions/${id}`);
  await menu(page).getByRole("link", { name: "Usage" }).click();
  await page.getByText("Your session has ended.").waitFor();
  await toProvider(page).click();
  await heading(page, "Usage").waitFor();

  // Signing out goes to the provider, which asks, and comes back.
  await page.locator("#person-menu").click();
  await page.getByRole("menuitem", { name: "Sign out" }).click();
  await page.waitForURL(`${provider.issuer}/session/end**`);
  await page.getByRole("button", { name: /^Yes/ }).click();
  await page.waitForURL(`${gateway.url}/**`);
  await toProvider(page).click();
  await page.waitForURL(`${provider.issuer}/interaction/**`);
  await page.getByLabel("Password").waitFor();
}));

test("who is not invited is told so, and what to do", OPTIONS, () => withProvider(async ({ page, gateway, provider }) => {
  await makeAccount(gateway, { id: "acme" });
  await toProvider(page).click();
  await signInThere(page, provider, "bob");
  await page.getByText("Nobody has invited you under an e-mail address that your company has verified. Ask an owner of the account for an invitation.").waitFor();
  assert.equal(page.url(), `${gateway.url}/`);
  // A link that is for somebody else helps nobody.
  const link = await invite(gateway, "acme", "alice@example.com", "owner");
  await page.goto("about:blank");
  await page.goto(link);
  await button(page, "Sign in with Example Inc.").click();
  await page.getByText("Nobody has invited you").waitFor();
  assert.deepEqual((await operator(gateway, "GET", "/api/accounts/acme/members")).members, []);
  // Once invited, he comes in without the link.
  await invite(gateway, "acme", "bob@example.com", "viewer");
  await toProvider(page).click();
  await arrived(page);
  await page.getByText("When a member or an owner of the account creates a key, you see it here.").waitFor();
}));

test("who is in a group of the config comes in without an invitation", OPTIONS, () => withProvider(async ({ page, gateway, provider }) => {
  await makeAccount(gateway, { id: "acme", name: "Acme Inc." });
  await toProvider(page).click();
  await signInThere(page, provider, "alice");
  await arrived(page);
  const { body } = await api(page, "GET", "/api/session");
  assert.deepEqual(body.accounts, [{ id: "acme", name: "Acme Inc.", role: "member" }]);
  const other = await browser.newContext({ baseURL: gateway.url });
  other.setDefaultTimeout(8000);
  const bobs = await other.newPage();
  await bobs.goto("/");
  await toProvider(bobs).click();
  await signInThere(bobs, provider, "bob");
  await bobs.getByText("Nobody has invited you").waitFor();
  await other.close();
}, 'auto_invite = [{ claim = "groups", value = "ai-team", account = "acme", role = "member" }]'));

test("an operator of the config sees what operators see, and signs out under the own address", OPTIONS, () => withProvider(async ({ page, provider }) => {
  await toProvider(page).click();
  await signInThere(page, provider, "bob");
  await arrived(page);
  await menu(page).getByRole("link", { name: "Dashboard" }).waitFor();
  await open(page, "#/sessions");
  await page.getByText("1 session", { exact: true }).waitFor();
}, '[sign_in]\noperators = ["bob@example.com"]'));

test("a sign-in ends only in the browser that began it", OPTIONS, () => withProvider(async ({ page, context, gateway, provider }) => {
  await makeAccount(gateway, { id: "acme" });
  await invite(gateway, "acme", "alice@example.com", "owner");
  // The provider's redirects are followed by hand, up to the one that leads back.
  let callback = null;
  await page.route("**/interaction/**", async (route) => {
    if (route.request().method() !== "POST") return route.continue();
    let answer = await route.fetch({ maxRedirects: 0 });
    while (!answer.headers().location.startsWith(gateway.url)) answer = await context.request.get(new URL(answer.headers().location, provider.issuer).href, { maxRedirects: 0 });
    callback = answer.headers().location;
    return route.fulfill({ status: 200, contentType: "text/html", body: "<!doctype html><title>held</title><h1>held</h1>" });
  });
  await toProvider(page).click();
  await signInThere(page, provider, "alice");
  await heading(page, "held").waitFor();
  const other = await browser.newContext({ baseURL: gateway.url });
  other.setDefaultTimeout(8000);
  const victim = await other.newPage();
  await victim.goto(callback);
  await victim.getByText("This sign-in was not begun in this browser, or it took too long. Sign in again here.").waitFor();
  assert.deepEqual((await other.cookies()).filter(({ name }) => name.includes("session")), []);
  // Nor does the link that the panel gets serve another browser.
  let code = null;
  await page.route("**/api/session", (route) => {
    code = route.request().postDataJSON()?.link ?? code;
    return route.fulfill({ status: 503, json: { error: { message: "held" } } });
  });
  await page.goto(callback);
  await page.waitForFunction(() => document.querySelector("dialog.sign-in"));
  assert.match(code, /^[0-9A-Za-z]{43}$/);
  keep("secrets", code);
  await victim.goto("about:blank");
  await victim.goto(`${gateway.url}/#link=${code}`);
  await victim.getByText("This sign-in link was used already, or is too old. Sign in again.").waitFor();
  await other.close();
}));
