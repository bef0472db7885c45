// The panel, used as people use it.

import assert from "node:assert/strict";
import { appendFile, readFile, writeFile } from "node:fs/promises";
import http from "node:http";
import { test } from "node:test";
import { createRequire } from "node:module";
import { keep, HOSTILE, MODELS, isMock, startDemo, startGateway } from "./gateway.mjs";
import { browser, FLEET, LIMIT, pager, onPanel, tokenField, signIn, api, sessionSecret, makeKey, open, row, pane, created, toast, choices, button, openMenu, chat, assertChat } from "./page.mjs";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

test("signing in takes the right token, and says so when it is a wrong one", LIMIT, () => onPanel(async ({ page, context, gateway }) => {
  const field = await tokenField(page);
  await button(page, "Sign in").click();
  await page.getByText("Enter the admin token.").waitFor();
  await field.fill("kg_wrong");
  await button(page, "Sign in").click();
  await page.getByText("This is not the admin token.").waitFor();
  assert.equal(await field.getAttribute("aria-invalid"), "true");
  await page.keyboard.press("Escape");
  await page.keyboard.press("Escape");
  assert.ok(await field.isVisible(), "Escape does not open the panel");
  await signIn(page, gateway);
  const [cookie, ...others] = await context.cookies();
  assert.deepEqual(others, []);
  assert.equal(cookie.httpOnly, true);
  assert.equal(cookie.sameSite, "Strict");
  assert.ok(!(await traces(page)).includes(gateway.token), "the admin token stays nowhere");
  await page.reload();
  await page.getByRole("heading", { level: 1, name: "API Keys" }).waitFor();
}, { signedIn: false }));

test("a sign-in link signs in once, and leaves the address bar", LIMIT, async () => {
  const demo = await startDemo();
  const context = await browser.newContext();
  try {
    const page = await context.newPage();
    await page.goto(demo.link);
    await page.getByRole("heading", { level: 1, name: "API Keys" }).waitFor();
    assert.ok(!page.url().includes("link"));
    assert.equal(await page.evaluate(() => history.length), 2, "no second entry in the history");
    await context.clearCookies();
    await page.goto("about:blank");
    await page.goto(demo.link);
    await page.getByText("This sign-in link was used already").waitFor();
    assert.ok(!page.url().includes("link"));
  } finally {
    await context.close();
    await demo.stop();
  }
});

test("keygate panel-link signs in to the panel of a running gateway, once", { ...LIMIT, skip: isMock && "a mock has no commands" }, () => onPanel(async ({ page, context, gateway }) => {
  const link = (await gateway.command("panel-link")).trim();
  await page.goto(link);
  await page.getByRole("heading", { level: 1, name: "API Keys" }).waitFor();
  assert.ok(!page.url().includes("link"));
  await makeKey(page, { name: "made over a link" });
  await page.reload();
  await row(page, "made over a link").waitFor();
  await page.goto("about:blank");
  await context.clearCookies();
  const other = await context.newPage();
  await other.goto(link);
  await other.getByText("This sign-in link was used already").waitFor();
}, { signedIn: false }));

test("a first key is created, shown once, used, and leaves no trace of its token", LIMIT, () => onPanel(async ({ page, context, gateway, spoken, requested }) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.getByText("No API keys yet").waitFor();
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("web site");
  await pane(page).getByLabel("Model Access Selection").selectOption({ label: "Inclusive" });
  await choices(page).nth(3).waitFor();
  await pane(page).getByRole("combobox", { name: "Search models" }).fill("CHAT");
  await page.keyboard.press("Enter");
  assert.deepEqual(await pane(page).getByRole("list", { name: "Chosen models" }).getByRole("listitem").allTextContents(), ["tiny-chat"]);
  await pane(page).getByRole("button", { name: /^Use my address/ }).click();
  await pane(page).getByText("30 days").click();
  await pane(page).getByText(/^Valid through .* to the end of that day, UTC/).waitFor();
  await pane(page).getByLabel("Account").fill("acme");
  await button(pane(page), "Create").click();

  await created(page).waitFor();
  const [url, token] = await created(page).locator(".secret-text").allTextContents();
  keep("secrets", token);
  assert.match(url, /^https?:\/\/.+\/v1$/);
  assert.match(token, /^kg_[0-9A-Za-z]{49}$/);
  await created(page).getByText("it is not shown again").waitFor();
  await button(created(page), "Copy OpenAI Compatible URL").click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), url);
  await created(page).getByText("Copy the token now").waitFor();
  await button(created(page), "Copy Bearer Token").click();
  await created(page).getByRole("button", { name: "Copied Bearer Token" }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), token);
  assert.equal(await created(page).getByText("Copy the token now").count(), 0);
  for (const [tab, words] of Object.entries({
    curl: ["curl", `${url}/chat/completions`, "tiny-chat"], Python: ["OpenAI(", `base_url="${url}"`, 'model="tiny-chat"'],
    "Open WebUI": [`URL: ${url}`], Environment: [`export OPENAI_BASE_URL='${url}'`],
  })) {
    await created(page).getByRole("tab", { name: tab }).click();
    const text = await created(page).getByRole("tabpanel").textContent();
    for (const word of [token, ...words]) assert.ok(text.includes(word), `${tab}: ${word}`);
  }

  await assertChat(gateway, token, "tiny-chat", 200);
  await assertChat(gateway, token, "tiny-code", 404);

  // The second half of a double click must not close it; a click beside it does.
  await page.waitForTimeout(500);
  await page.mouse.click(5, 300);
  await created(page).waitFor({ state: "detached" });
  await row(page, "web site").waitFor();
  assert.match(await row(page, "web site").textContent(), /Inclusive: tiny-chat.*\/32.*Active/s);
  assert.ok((await row(page, "web site").textContent()).includes(token.slice(-4)));

  const left = await traces(page);
  assert.ok(!left.includes(token), "the token is in no DOM, no storage, no history");
  assert.ok(!spoken.join("\n").includes(token), "nor in the console");
  assert.ok(!requested.some((request) => request.url().includes(token) || request.postData()?.includes(token)), "nor sent anywhere");
  assert.ok(!gateway.log().includes(token), "nor in the gateway's log");
  await page.goBack().catch(() => {});
  await page.goForward().catch(() => {});
  assert.ok(!(await traces(page)).includes(token), "nor does going back bring it back");
}));

/** Everything of the page that outlives the moment, as one text. */
async function traces(page) {
  return page.evaluate(async () => {
    const parts = [document.documentElement.outerHTML, location.href, JSON.stringify(history.state), document.cookie, document.title, window.name,
      JSON.stringify({ ...localStorage }), JSON.stringify({ ...sessionStorage })];
    parts.push(...[...document.querySelectorAll("input, textarea, select")].map(({ value }) => value));
    for (const { name } of await indexedDB.databases()) parts.push(`database ${name}`);
    for (const name of await caches?.keys() ?? []) parts.push(`cache ${name}`);
    parts.push(...performance.getEntries().map(({ name }) => name));
    return parts.join("\n");
  });
}

test("the window with an uncopied token warns, and Escape closes it", LIMIT, () => onPanel(async ({ page }) => {
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("quick");
  await page.keyboard.press("Enter");
  await created(page).getByText("Copy the token now: it is not shown again.").waitFor();
  const token = await created(page).locator(".secret-text").nth(1).textContent();
  await page.keyboard.press("Escape");
  await created(page).waitFor({ state: "detached" });
  assert.ok(!(await traces(page)).includes(token));
  await row(page, "quick").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "create-key", "the focus is back where it came from");
}));

test("a token that was never copied can be made anew, with the same fields", LIMIT, () => onPanel(async ({ page, context, gateway }) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("forgotten");
  await pane(page).getByLabel("Allow access from").fill("127.0.0.0/8");
  await pane(page).getByLabel("Account").fill("acme");
  await button(pane(page), "Create").click();
  const shown = created(page).locator(".secret-text").nth(1);
  const first = await shown.textContent();
  const [before] = (await api(page, "GET", "/api/keys")).body.keys;
  await page.keyboard.press("Escape");
  await toast(page, "its token was not copied").waitFor();
  await page.getByRole("button", { name: "Make a new token" }).click();
  const second = await shown.textContent();
  assert.notEqual(second, first);
  await button(created(page), "Copy Bearer Token").click();
  await created(page).getByText("You can close this window now.").waitFor();
  await page.keyboard.press("Escape");
  await created(page).waitFor({ state: "detached" });
  assert.equal(await page.locator(".toast").filter({ hasText: "not copied" }).count(), 0);
  const { keys } = (await api(page, "GET", "/api/keys")).body;
  assert.equal(keys.length, 1, "in place of the first");
  for (const field of ["name", "model_access", "allow_from", "expires_at", "account"]) assert.deepEqual(keys[0][field], before[field], field);
  await assertChat(gateway, second, "tiny-chat", 200);
  await assertChat(gateway, first, "tiny-chat", 401);
  const left = await traces(page);
  assert.ok(!left.includes(first) && !left.includes(second));
}));

test("a token is copied where the browser gives no clipboard, as over plain HTTP", LIMIT, () => onPanel(async ({ page }) => {
  await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("plain");
  await page.keyboard.press("Enter");
  const token = await created(page).locator(".secret-text").nth(1).textContent();
  await button(created(page), "Copy Bearer Token").click();
  await created(page).getByText("You can close this window now.").waitFor();
  await page.keyboard.press("Escape");
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Account").focus();
  await page.keyboard.press("Control+V");
  assert.equal(await pane(page).getByLabel("Account").inputValue(), token);
}));

test("going back does not throw away what was typed", LIMIT, () => onPanel(async ({ page }) => {
  await page.getByRole("link", { name: "On-Demand Models" }).click();
  await page.getByRole("link", { name: "API Keys", exact: true }).click();
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("typed before");
  await page.evaluate(() => history.back());
  await pane(page).getByText("Discard what you typed?").waitFor();
  assert.equal(await pane(page).getByLabel("Name").inputValue(), "typed before");
  await button(pane(page), "Discard").click();
  await page.getByRole("heading", { level: 1, name: "API Keys" }).waitFor();
  assert.match(page.url(), /#\/keys$/);
}));

test("wrong inputs are said at their field, and nothing typed is lost", LIMIT, () => onPanel(async ({ page }) => {
  await page.locator("#create-key").click();
  const [name, network] = [pane(page).getByLabel("Name"), pane(page).getByLabel("Allow access from")];
  const create = button(pane(page), "Create");
  await create.click();
  await pane(page).getByText("Give the key a name.").waitFor();
  assert.equal(await name.evaluate((field) => field === document.activeElement), true);
  await name.fill("n".repeat(101));
  await pane(page).getByText("The name has 101 characters; 100 are the most.").waitFor();
  await name.fill("web site");

  for (const [text, complaint] of [
    ["2001:db8::/32", "Restricting a key to IPv6 networks is not possible"], ["::ffff:192.0.2.7", "Restricting a key to IPv6"],
    ["10.0.0.0/33", "0 to 32"], ["10.0.0.256", "no IPv4 network"], ["010.0.0.1", "leading zeros"], ["example.com", "no IPv4 network"],
    ["10.0.0.1:80", "Leave out port"], ["0/0", "no IPv4 network"],
  ]) {
    await network.fill(text);
    await pane(page).getByText(complaint).waitFor();
    await button(pane(page), "Add").click();
    assert.equal(await network.inputValue(), text, "what is wrong stays, to be mended");
  }
  for (const unfinished of ["1", "10.", "10.0.0", "192.0.2.0/", "192.0.2.0/2"]) {
    await network.fill(unfinished);
    assert.equal(await network.getAttribute("aria-invalid"), null, `${unfinished} may still become a network`);
  }
  await network.fill("192.0.2.7/24");
  await page.keyboard.press("Enter");
  await pane(page).getByText("192.0.2.7/24 was added as 192.0.2.0/24, the network it lies in.").waitFor();
  await network.fill("10.1.2.3, 10.0.0.0/8 nonsense");
  await button(pane(page), "Add").click();
  assert.equal(await network.inputValue(), "nonsense");
  assert.deepEqual(await pane(page).getByRole("list", { name: "Allowed networks" }).getByRole("listitem").allTextContents(),
    ["192.0.2.0/24", "10.1.2.3/32", "10.0.0.0/8"]);
  await network.fill("");
  await button(pane(page), "Remove 10.1.2.3/32").click();

  await pane(page).getByLabel("Model Access Selection").selectOption("exclusive");
  await create.click();
  await pane(page).getByText("Choose at least one model.").waitFor();
  await choices(page).filter({ hasText: "tiny-code" }).click();
  await pane(page).getByText("On a date").click();
  await create.click();
  await pane(page).getByText("Choose the last day.").waitFor();
  await pane(page).getByLabel("Last day, UTC").fill("2020-01-01");
  await create.click();
  await pane(page).getByText("This day has passed; choose today or a later one.").waitFor();
  await pane(page).getByText("365 days").click();

  // What only the gateway knows is said at the field too; what has no field, above the buttons.
  for (const [answer, complaint] of [
    [{ status: 422, json: { error: { message: "account: is not welcome; name another", field: "account" } } }, "Is not welcome; name another."],
    [{ status: 422, json: { error: { message: "keys.jsonl:3: name: is missing; add it", field: "name", faults: [{ file: "keys.jsonl", line: 3, field: "name", message: "is missing; add it" }] } } }, "No key was created. keys.jsonl:3: name: is missing; add it"],
    [{ status: 507, json: { error: { message: "keys.jsonl: no space left", field: null }, in_force: false } }, "No key was created. keys.jsonl: no space left"],
    [{ status: 500, body: "<html>oops" }, "No key was created. The gateway answered 500."],
    ["aborted", "The gateway could not be reached."],
  ]) {
    await page.route("**/api/keys", (route) => (route.request().method() !== "POST" ? route.fallback()
      : answer === "aborted" ? route.abort("connectionrefused") : route.fulfill(answer)));
    await create.click();
    await pane(page).getByText(complaint).waitFor();
    await page.unroute("**/api/keys");
    assert.equal(await name.inputValue(), "web site");
  }
  await page.mouse.click(20, 400);
  await pane(page).getByText("Discard what you typed?").waitFor();
  await button(pane(page), "Keep editing").click();
  await create.click();
  await created(page).waitFor();
  await page.keyboard.press("Escape");
  const shown = await row(page, "web site").textContent();
  for (const part of ["Exclusive: tiny-code", "192.0.2.0/24", "10.0.0.0/8", "Active"]) assert.ok(shown.includes(part), part);
}, { tolerates: /Failed to load resource/ }));

test("keys are searched and paged", LIMIT, () => onPanel(async ({ page, requested }) => {
  for (let at = 0; at < 60; at += 1) await makeKey(page, { name: `device ${at}`, account: at % 2 ? "odd" : "even" });
  await page.reload();
  await page.getByText("Keys 1–50 of 60").waitFor();
  assert.equal(await page.getByRole("rowheader").count(), 50);
  assert.ok(await pager(page, "Newer").isDisabled());
  await pager(page, "Older").click();
  await page.getByText("Keys 51–60 of 60").waitFor();
  await row(page, "device 0").waitFor();
  await pager(page, "Newer").click();
  await page.getByText("Keys 1–50 of 60").waitFor();
  await page.getByLabel("Search keys").fill("DEVICE 1");
  await page.getByText("11 keys found").waitFor();
  await page.getByLabel("Search keys").fill("nobody");
  await page.getByText("No name, account, ID, token ending, model or network contains “nobody”.").waitFor();
  await button(page, "Show all keys").click();
  await page.getByText("Keys 1–50 of 60").waitFor();

  const { token } = await makeKey(page, { name: "lost and found" });
  await page.getByLabel("Search keys").fill(token);
  await row(page, "lost and found").waitFor();
  assert.equal(await page.getByLabel("Search keys").inputValue(), token.slice(-4));
  assert.ok(!requested.some((request) => request.url().includes(token)), "a token that is searched for is not sent");
}));

test("a key is edited, disabled, enabled and deleted from its menu", LIMIT, () => onPanel(async ({ page, gateway }) => {
  const { token } = await makeKey(page, { name: "old name", allow_from: ["127.0.0.0/8"] });
  await makeKey(page, { name: "bystander" });
  await page.reload();
  await openMenu(page, "old name", "Edit");
  await pane(page).getByLabel("Name").fill("new name");
  await pane(page).getByText("90 days").click();
  await button(pane(page), "Save").click();
  await toast(page, "“new name” was saved.").waitFor();
  assert.match(await row(page, "new name").textContent(), /127\.0\.0\.0\/8/);
  await assertChat(gateway, token, "tiny-chat", 200);

  await openMenu(page, "new name", "Disable");
  await toast(page, "“new name” is disabled").waitFor();
  await row(page, "new name").getByText("Disabled", { exact: true }).waitFor();
  await assertChat(gateway, token, "tiny-chat", 401);
  await openMenu(page, "new name", "Enable");
  await row(page, "new name").getByText("Active", { exact: true }).waitFor();
  await assertChat(gateway, token, "tiny-chat", 200);

  const question = page.getByRole("alertdialog", { name: "Delete this API key?" });
  await openMenu(page, "new name", "Delete");
  assert.ok((await question.boundingBox()).y < 60, "it asks at the top of the page");
  await button(question, "Cancel").click();
  await row(page, "new name").waitFor();

  await page.route("**/api/keys/*", (route) => (route.request().method() === "DELETE"
    ? route.fulfill({ status: 500, json: { error: { message: "Something failed that should not.", field: null } } }) : route.fallback()));
  await openMenu(page, "new name", "Delete");
  await question.getByRole("button", { name: /^OK/ }).click();
  await question.getByText("Nothing was deleted. Something failed that should not.").waitFor();
  await page.unroute("**/api/keys/*");
  await page.keyboard.press("Escape");
  await row(page, "new name").waitFor();
  await assertChat(gateway, token, "tiny-chat", 200);

  await openMenu(page, "new name", "Delete");
  await question.getByRole("button", { name: /^OK/ }).click();
  await toast(page, "“new name” was deleted.").waitFor();
  await row(page, "new name").waitFor({ state: "detached" });
  assert.equal(await page.getByRole("rowheader").count(), 1, "the list is one shorter");
  await row(page, "bystander").waitFor();
  await assertChat(gateway, token, "tiny-chat", 401);
}));

test("of two tabs that edit one key, the later one is told, and loads the present values", LIMIT, () => onPanel(async ({ page }) => {
  const { key } = await makeKey(page, { name: "shared" });
  await page.reload();
  await openMenu(page, "shared", "Edit");
  await pane(page).getByLabel("Name").fill("mine");
  assert.equal((await api(page, "PATCH", `/api/keys/${key.id}`, { name: "theirs", account: "acme" })).status, 200);
  await button(pane(page), "Save").click();
  await pane(page).getByText("This key was changed meanwhile").waitFor();
  assert.equal(await pane(page).getByLabel("Name").inputValue(), "mine", "what was typed stays");
  assert.equal((await api(page, "GET", `/api/keys/${key.id}`)).body.name, "theirs", "the other change stands");
  await button(pane(page), "Load the present values").click();
  await pane(page).getByText("This key was changed meanwhile").waitFor({ state: "detached" });
  await pane(page).getByLabel("Account").waitFor();
  assert.equal(await pane(page).getByLabel("Name").inputValue(), "theirs");
  assert.equal(await pane(page).getByLabel("Account").inputValue(), "acme");
  await pane(page).getByLabel("Name").fill("ours");
  await button(pane(page), "Save").click();
  await row(page, "ours").waitFor();
  assert.equal((await api(page, "GET", `/api/keys/${key.id}`)).body.account, "acme");
}));

test("a deletion that could not be written yet is told as in force", LIMIT, () => onPanel(async ({ page }) => {
  await makeKey(page, { name: "half gone" });
  await page.reload();
  await page.route("**/api/keys/*", (route) => (route.request().method() === "DELETE"
    ? route.fulfill({ status: 507, json: { error: { message: "keys.jsonl: no space left", field: null }, in_force: true } }) : route.fallback()));
  await openMenu(page, "half gone", "Delete");
  await page.getByRole("button", { name: /^OK/ }).click();
  await toast(page, "“half gone” is deleted, but the key file does not say so yet: keys.jsonl: no space left").waitFor();
  await page.getByRole("alert").getByText("“half gone” is deleted").waitFor();
}));

test("hostile names stay text wherever they are shown", LIMIT, () => onPanel(async ({ page, gateway }) => {
  const name = `<img src=x onerror="window.pwned='name'">.exe`;
  const account = `"><script>window.pwned='account'</script>`;
  // What turns the writing direction is refused in names, but upstreams name their models as they like.
  const tomorrow = `${new Date(Date.now() + 30 * 3_600_000).toISOString().slice(0, 19)}Z`;
  await makeKey(page, { name, account, expires_at: tomorrow, model_access: { mode: "inclusive", models: [HOSTILE] } });
  await page.reload();
  const shown = row(page, name);
  await shown.waitFor();
  assert.equal(await shown.locator("img, script").count(), 0);
  assert.equal(await shown.locator("bdi", { hasText: "onerror" }).count() >= 2, true, "names are isolated, with their direction");
  await page.getByLabel("Search keys").fill("<img");
  await shown.waitFor();
  await button(shown, name).click();
  await choices(page).first().waitFor();
  await page.keyboard.press("Escape");
  await openMenu(page, name, "Delete");
  await page.getByRole("alertdialog").getByText("onerror").waitFor();
  await button(page, "Cancel").click();
  await openMenu(page, name, "Disable");
  await toast(page, "is disabled").waitFor();
  await openMenu(page, name, "Enable");
  await open(page, "#/models");
  await page.getByRole("rowheader").filter({ hasText: "onerror" }).waitFor();
  await open(page, "#/dashboard");
  await page.getByRole("listitem").getByText("onerror").waitFor();
  await open(page, "#/keys");
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("for the hostile model");
  await pane(page).getByLabel("Model Access Selection").selectOption("inclusive");
  await choices(page).filter({ hasText: "onerror" }).click();
  await button(pane(page), "Create").click();
  for (const tab of ["curl", "Python"]) {
    await created(page).getByRole("tab", { name: tab }).click();
    const text = await created(page).getByRole("tabpanel").textContent();
    assert.ok(!text.includes("\u202e") && text.includes("\\u202e"), "what turns the writing direction is spelled out");
  }
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  assert.equal(await page.locator("main img, dialog img:not([src='/panel/icon.svg'])").count(), 0);
  assert.ok(gateway.url);
}));

test("when the session ends, what was typed waits behind the sign-in", LIMIT, () => onPanel(async ({ page, gateway }) => {
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("typed before");
  await pane(page).getByLabel("Allow access from").fill("192.0.2.0/24");
  assert.equal((await api(page, "DELETE", "/api/session")).status, 204);
  await button(pane(page), "Create").click();
  await page.getByText("Your session has ended.").waitFor();
  await page.getByLabel("Admin token").fill(gateway.token);
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Sign in" }).waitFor({ state: "detached" });
  assert.equal(await pane(page).getByLabel("Name").inputValue(), "typed before");
  await button(pane(page), "Create").click();
  await created(page).waitFor();
  await page.keyboard.press("Escape");
  assert.match(await row(page, "typed before").textContent(), /192\.0\.2\.0\/24/);
}));

test("signing out leaves nothing to see", LIMIT, () => onPanel(async ({ page, context }) => {
  await makeKey(page, { name: "private matter" });
  await page.reload();
  await row(page, "private matter").waitFor();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByText("You are signed out.").waitFor();
  assert.ok(!(await traces(page)).includes("private matter"));
  assert.equal((await api(page, "GET", "/api/keys")).status, 401);
  await page.goBack().catch(() => {});
  await page.goto("/");
  await tokenField(page);
  assert.ok(!(await traces(page)).includes("private matter"));
  assert.ok((await context.cookies()).every(({ value }) => value === "" || value.length > 0));
}));

test("a page on another port of this host, which gets the cookie too, gets nothing with it", LIMIT, () => onPanel(async ({ page, context, gateway }) => {
  await makeKey(page, { name: "private matter" });
  const cookies = [];
  const site = http.createServer((request, response) => {
    cookies.push(request.headers.cookie ?? "");
    response.setHeader("Content-Type", "text/html").end("<!doctype html><title>next door</title>");
  });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  const door = await context.newPage();
  await door.goto(`http://127.0.0.1:${site.address().port}/`);
  const [cookie] = await context.cookies();
  assert.ok(cookies[0].includes(cookie.value), "browsers send cookies to every port");
  assert.equal(await sessionSecret(door), null);
  // As a server, it can use what it got, with any header it likes.
  for (const method of ["GET", "POST"]) {
    const response = await fetch(`${gateway.url}/api/keys`, { method, headers: { Cookie: cookies[0], "X-Keygate-Panel": "1", "Content-Type": "application/json", "X-Keygate-Session": cookie.value },
      body: method === "GET" ? undefined : JSON.stringify({ name: "forged", model_access: { mode: "all" } }) });
    assert.equal(response.status, 401);
  }
  site.close();
  site.closeAllConnections();
  await door.close();
  assert.equal((await api(page, "GET", "/api/keys")).body.keys.length, 1);
}));

test("further tabs get the session from an open one, and all go on when one signs in anew", LIMIT, () => onPanel(async ({ page, context, gateway }) => {
  const second = await context.newPage();
  await second.goto("/");
  await second.getByRole("heading", { level: 1, name: "API Keys" }).waitFor();
  const secret = await sessionSecret(page);
  assert.equal(await sessionSecret(second), secret);
  await second.reload();
  await second.getByRole("heading", { level: 1, name: "API Keys" }).waitFor();
  assert.equal((await api(second, "DELETE", "/api/session")).status, 204);
  await second.reload();
  await signIn(second, gateway);
  assert.notEqual(await sessionSecret(second), secret);
  await open(page, "#/models");
  await page.getByRole("heading", { level: 1, name: "On-Demand Models" }).waitFor();
  assert.equal((await api(page, "GET", "/api/keys")).status, 200);
  await page.close();
  await second.close();
  const last = await context.newPage();
  await last.goto("/");
  await tokenField(last);
}));

test("the models are listed with their health and keys", LIMIT, () => onPanel(async ({ page }) => {
  await makeKey(page, { name: "some", model_access: { mode: "inclusive", models: ["tiny-chat"] } });
  await makeKey(page, { name: "all" });
  await page.getByRole("link", { name: "On-Demand Models" }).click();
  const model = (name) => page.getByRole("row").filter({ has: page.getByRole("rowheader", { name }) });
  assert.match(await model("tiny-chat").textContent(), /stand-in.*Healthy.*2$/s);
  assert.match(await model("tiny-code").textContent(), /1$/);
  assert.equal(await page.getByRole("rowheader").count(), MODELS.length);
  await page.getByLabel("Search models").fill("embed");
  await page.getByText("1 model found").waitFor();
}));

test("a replica that was never tried is said to be so, and not to be down", LIMIT, () => onPanel(async ({ page }) => {
  await page.route("**/api/models", async (route) => {
    const response = await route.fetch();
    const { models } = await response.json();
    await route.fulfill({ response, json: { models: models.map((model, at) => ({ ...model, upstream: at === 0 ? "new" : "half", replicas: at === 0 ? 1 : 2, healthy: at === 0 ? 0 : 1 })) } });
  });
  await page.route("**/api/status", async (route) => {
    const response = await route.fetch();
    const replica = (tried, up) => ({ url: "http://192.0.2.1:1", up, tried });
    await route.fulfill({ response, json: { ...await response.json(), upstreams: [
      { name: "new", models: [], replicas: [replica(false, false)] }, { name: "half", models: [], replicas: [replica(true, true), replica(false, false)] }] } });
  });
  await open(page, "#/models");
  await page.getByText("Not tried yet", { exact: true }).waitFor();
  await page.getByText("1 of 2 healthy, 1 not tried yet").first().waitFor();
  assert.equal(await page.getByText("Down", { exact: true }).count(), 0);
}));

test("the dashboard draws what was decided", { ...LIMIT, skip: isMock && "a mock decides nothing" }, () => onPanel(async ({ page, gateway }) => {
  const { token } = await makeKey(page, { name: "busy" });
  for (let at = 0; at < 5; at += 1) await assertChat(gateway, token, "tiny-chat", 200);
  await assertChat(gateway, "wrong", "tiny-chat", 401);
  await assertChat(gateway, token, "unheard-of", 404);
  await page.getByRole("link", { name: "Dashboard" }).click();
  await page.getByText("7 in the last hour").waitFor();
  await page.locator("svg.chart rect.tone-1").first().waitFor();
  await page.getByRole("listitem").filter({ hasText: "Key not valid" }).getByText("1", { exact: true }).waitFor();
  await page.getByRole("listitem").filter({ hasText: "Model not available" }).getByText("1", { exact: true }).waitFor();
  await page.getByText("The same as a table").click();
  assert.match(await page.getByRole("row").filter({ hasText: "allowed" }).textContent(), /5$/);
  await page.getByLabel(/^Allowed requests by minute/).press("ArrowLeft");
  await page.locator(".readout:visible").getByText("UTC").waitFor();
  await page.getByText(/median; 99 % within/).waitFor();
}));

test("recent refusals are shown by key, address and reason, for all and for one key", { ...LIMIT, skip: isMock && "a mock decides nothing" }, () => onPanel(async ({ page, gateway }) => {
  const hostile = "<b>refused</b> <img src=x onerror=\"window.pwned=1\">";
  const { token, key } = await makeKey(page, { name: hostile });
  await makeKey(page, { name: "calm" });
  for (let at = 0; at < 3; at += 1) await assertChat(gateway, token, "unheard-of", 404);
  await assertChat(gateway, "wrong", "tiny-chat", 401);
  await page.getByRole("link", { name: "Dashboard" }).click();
  const table = page.getByRole("region", { name: "Recent refusals" });
  const line = (text) => table.getByRole("row").filter({ hasText: text });
  assert.match(await line("model_not_found").textContent(), new RegExp(`${key.id}127\\.0\\.0\\.1model_not_found3`));
  assert.match(await line("invalid_api_key").textContent(), /unknown token127\.0\.0\.1invalid_api_key1/);
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  await page.getByRole("link", { name: "API Keys", exact: true }).click();
  const dialog = page.getByRole("dialog", { name: "Recent refusals" });
  await openMenu(page, hostile, "Recent refusals");
  await dialog.getByText("3 requests refused in the last hour").waitFor();
  await dialog.getByText("model_not_found").waitFor();
  assert.equal(await dialog.getByRole("region").getByText("invalid_api_key").count(), 0);
  await page.keyboard.press("Escape");
  await openMenu(page, "calm", "Recent refusals");
  await dialog.getByText("No request was refused in the last hour.").waitFor();
}));

test("a reload shows what it would do before it does it", { ...LIMIT, skip: isMock && "a mock has no key file" }, () => onPanel(async ({ page, gateway }) => {
  await page.getByRole("link", { name: "Dashboard" }).click();
  await appendFile(gateway.keyFile, `${JSON.stringify({ id: "key_added", name: "from the file", hash: `blake3:${"0a".repeat(32)}`, model_access: { mode: "all" } })}\n`);
  const dialog = page.getByRole("dialog", { name: "Reload" });
  await page.getByRole("button", { name: "Reload…" }).click();
  const added = dialog.locator(".difference").filter({ hasText: "added" });
  await added.getByText("1", { exact: true }).waitFor();
  await added.getByText("Which").click();
  await added.getByText("from the file").waitFor();
  await added.getByText("key_added").waitFor();
  assert.equal((await api(page, "GET", "/api/keys/key_added")).status, 404, "nothing is reloaded yet");
  await button(dialog, "Reload now").click();
  await dialog.getByText("Reloaded.").waitFor();
  await dialog.getByRole("button", { name: "Close" }).last().click();
  await page.getByText("1 active").waitFor();

  await writeFile(gateway.keyFile, (await readFile(gateway.keyFile, "utf8")).replace("from the file", "renamed").replace("\"all\"", "\"exclusive\",\"models\":[\"m\"]"));
  await page.getByRole("button", { name: "Reload…" }).click();
  const changed = dialog.locator(".difference").filter({ hasText: "changed" });
  await changed.getByText("Which").click();
  assert.match(await changed.getByRole("listitem").textContent(), /renamed.*key_added.*name, model access/s);
  await page.keyboard.press("Escape");
  await appendFile(gateway.keyFile, "{\n");
  await page.getByRole("button", { name: "Reload…" }).click();
  await dialog.getByText("keys.jsonl:2").waitFor();
  await dialog.getByText("The reload would be refused").waitFor();
  await page.keyboard.press("Escape");
  assert.equal((await api(page, "GET", "/api/keys/key_added")).status, 200, "what was in force still is");
}));

test("Enter, however often, drops no keys by a reload", { ...LIMIT, skip: isMock && "a mock has no key file" }, () => onPanel(async ({ page, gateway }) => {
  for (const name of ["one", "two", "three", "four"]) await makeKey(page, { name });
  const lines = (await readFile(gateway.keyFile, "utf8")).split("\n");
  await page.getByRole("link", { name: "Dashboard" }).click();
  const dialog = page.getByRole("dialog", { name: "Reload" });
  // Most of them, which has to be forced; then one, which has not.
  for (const kept of [1, 3]) {
    await writeFile(gateway.keyFile, lines.slice(0, kept).join("\n"));
    await page.getByRole("button", { name: "Reload…" }).focus();
    await page.keyboard.press("Enter");
    await dialog.waitFor();
    if (kept === 1) {
      await dialog.getByText("The reload would be refused.").waitFor();
      await page.keyboard.press("Enter");
      await dialog.getByLabel("To drop 3 keys, type how many").waitFor();
    } else {
      await dialog.locator(".difference").filter({ hasText: "removed" }).getByText("1", { exact: true }).waitFor();
    }
    assert.ok(!(await page.evaluate(() => document.activeElement.classList.contains("danger"))));
    for (let at = 0; at < 3; at += 1) await page.keyboard.press("Enter");
    assert.equal((await api(page, "GET", "/api/keys")).body.keys.length, 4);
    if (await dialog.isVisible()) await page.keyboard.press("Escape");
  }
}));

test("a reload that drops most keys is refused, until it is forced", { ...LIMIT, skip: isMock && "a mock has no key file" }, () => onPanel(async ({ page, gateway }) => {
  for (const name of ["one", "two", "three", "four"]) await makeKey(page, { name });
  await writeFile(gateway.keyFile, (await readFile(gateway.keyFile, "utf8")).split("\n").slice(0, 1).join("\n"));
  await page.getByRole("link", { name: "Dashboard" }).click();
  const dialog = page.getByRole("dialog", { name: "Reload" });
  await page.getByRole("button", { name: "Reload…" }).click();
  await dialog.getByText("The reload would be refused.").waitFor();
  await button(dialog, "See what forcing it would drop").click();
  const removed = dialog.locator(".difference").filter({ hasText: "removed" });
  await removed.getByText("3", { exact: true }).waitFor();
  await removed.getByText("Which").click();
  await removed.getByText("three").waitFor();
  const keys = async () => (await api(page, "GET", "/api/keys")).body.keys.length;
  const field = dialog.getByLabel("To drop 3 keys, type how many");
  await button(dialog, "Reload, and drop these keys").click();
  await dialog.getByText("Type 3, the number of keys that this drops.").waitFor();
  await field.fill("4");
  await button(dialog, "Reload, and drop these keys").click();
  await dialog.getByText("Type 3, the number of keys that this drops.").waitFor();
  assert.equal(await keys(), 4);
  // What was confirmed was three; the file drops all four by now.
  await field.fill("3");
  const one = await readFile(gateway.keyFile, "utf8");
  await writeFile(gateway.keyFile, "");
  await button(dialog, "Reload, and drop these keys").click();
  await dialog.getByLabel("To drop 4 keys, type how many").waitFor();
  assert.equal(await keys(), 4);
  await writeFile(gateway.keyFile, one);
  await dialog.getByLabel("To drop 4 keys, type how many").fill("4");
  await button(dialog, "Reload, and drop these keys").click();
  await field.fill("3");
  await button(dialog, "Reload, and drop these keys").click();
  await dialog.getByText("Reloaded.").waitFor();
  assert.equal((await api(page, "GET", "/api/keys")).body.keys.length, 1);
}));

test("other sites, and other names for this one, get nothing", LIMIT, () => onPanel(async ({ page, context, gateway }) => {
  const [cookie] = await context.cookies();
  const signedIn = { Cookie: `${cookie.name}=${cookie.value}`, "X-Keygate-Session": await sessionSecret(page) };
  const body = JSON.stringify({ name: "forged", model_access: { mode: "all" } });
  const ask = (headers, method = "POST", path = "/api/keys") => new Promise((resolve, reject) => {
    const request = http.request(gateway.url + path, { method, headers }, (response) => {
      let text = "";
      response.on("data", (part) => { text += part; }).on("end", () => resolve({ status: response.statusCode, text }));
    });
    request.on("error", reject).end(method === "GET" ? undefined : body);
  });
  const json = { "Content-Type": "application/json" };
  for (const [what, headers] of Object.entries({
    "without the panel's header": { ...signedIn, ...json },
    "as plain text": { ...signedIn, "Content-Type": "text/plain", "X-Keygate-Panel": "1" },
    "from another origin": { ...signedIn, ...json, "X-Keygate-Panel": "1", Origin: "http://evil.example" },
    "from nowhere": { ...signedIn, ...json, "X-Keygate-Panel": "1", Origin: "null" },
    "under another name": { ...signedIn, ...json, "X-Keygate-Panel": "1", Host: "evil.example" },
  })) {
    const { status } = await ask(headers);
    assert.ok([403, 415, 421].includes(status), `${what}: ${status}`);
  }
  assert.equal((await ask({ ...signedIn, Host: "evil.example" }, "GET", "/api/keys")).status, 421);
  assert.equal((await ask({}, "GET", "/api/keys")).status, 401);
  assert.equal((await ask({ Cookie: signedIn.Cookie }, "GET", "/api/keys")).status, 401, "the cookie alone opens nothing");

  // A page of another site, in the same browser, with the session's cookie in reach.
  const site = http.createServer((_, response) => response.setHeader("Content-Type", "text/html").end("<!doctype html><title>elsewhere</title>"));
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  const evil = await context.newPage();
  await evil.goto(`http://localhost:${site.address().port}/`);
  const read = await evil.evaluate(async ([url, body]) => {
    const attempts = [
      () => fetch(`${url}/api/keys`, { credentials: "include" }),
      () => fetch(`${url}/api/keys`, { method: "POST", credentials: "include", headers: { "Content-Type": "application/json", "X-Keygate-Panel": "1" }, body }),
      () => fetch(`${url}/api/keys`, { method: "POST", mode: "no-cors", credentials: "include", headers: { "Content-Type": "text/plain" }, body }).then((response) => { if (response.type === "opaque") throw new Error("opaque"); return response; }),
    ];
    const results = await Promise.allSettled(attempts.map((attempt) => attempt()));
    return results.filter(({ status }) => status === "fulfilled").length;
  }, [gateway.url, body]);
  assert.equal(read, 0, "no answer can be read");
  const framed = await evil.evaluate((url) => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.src = url;
    frame.onload = () => { try { resolve(frame.contentDocument === null ? "blocked" : "blank"); } catch { resolve("blocked"); } };
    document.body.append(frame);
  }), gateway.url);
  assert.ok(["blocked", "blank"].includes(framed));
  assert.ok(evil.frames().slice(1).every((frame) => !frame.url().startsWith("http://127") || frame.url().includes("chrome-error")), "it cannot be framed");
  site.close();
  site.closeAllConnections();
  await evil.close();
  assert.deepEqual((await api(page, "GET", "/api/keys")).body.keys, [], "nothing was forged");
}));

test("everything can be done by keyboard alone", LIMIT, () => onPanel(async ({ page, gateway }) => {
  const press = async (...keys) => { for (const key of keys) await page.keyboard.press(key); };
  const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent);
  const tabTo = async (wanted) => {
    for (let at = 0; at < 60; at += 1) {
      if (wanted.test(await focused())) return;
      await press("Tab");
    }
    assert.fail(`Tab does not lead to ${wanted}`);
  };
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  if (!isMock) {
    await page.waitForFunction(() => document.activeElement.type === "email");
    await tabTo(/^I am an operator$/);
    await press("Enter");
  }
  await page.waitForFunction(() => document.activeElement.type === "password");
  await page.keyboard.type(gateway.token);
  await press("Enter");
  await page.getByText("No API keys yet").waitFor();
  await press("Tab");
  assert.equal(await focused(), "Skip to the content");
  await tabTo(/^Create API Key$/);
  await press("Enter");
  await pane(page).waitFor();
  await page.keyboard.type("by keyboard");
  // Past the account, to the model access.
  await press("Tab", "Tab", "ArrowDown");
  await tabTo(/^Search models$/);
  await choices(page).nth(3).waitFor();
  await press("ArrowDown", "ArrowDown", "Enter");
  assert.deepEqual(await pane(page).getByRole("list", { name: "Chosen models" }).getByRole("listitem").allTextContents(), ["tiny-code"]);
  for (let at = 0; at < 40; at += 1) {
    await press("Tab");
    const place = await page.evaluate(() => (document.activeElement.closest("dialog") ? "in" : document.activeElement === document.body ? "browser" : "out"));
    assert.notEqual(place, "out", "the focus stays in the pane");
  }
  await pane(page).getByLabel("Name").focus();
  await press("Enter");
  await created(page).waitFor();
  await tabTo(/^Copy Bearer Token$/);
  await tabTo(/^curl$/);
  await press("ArrowRight");
  assert.equal(await focused(), "Python");
  await press("Escape");
  await row(page, "by keyboard").waitFor();
  await tabTo(/^Actions for/);
  await press("Enter");
  assert.equal(await focused(), "Edit");
  await press("ArrowUp");
  assert.equal(await focused(), "Delete");
  await press("Escape");
  assert.match(await focused(), /^Actions for/);
  await press("Enter", "End", "Enter");
  await page.getByRole("alertdialog").waitFor();
  assert.equal(await focused(), "Cancel", "what destroys is not what Enter hits first");
  await press("Tab", "Enter");
  await toast(page, "was deleted.").waitFor();
  await page.getByText("No API keys yet").waitFor();
}, { signedIn: false }));

/** Every view and window: how it is reached. */
const STANDS = {
  keys: async () => {},
  menu: (page) => page.getByRole("button", { name: /^Actions/ }).first().click(),
  create: async (page) => {
    await page.locator("#create-key").click();
    await pane(page).getByLabel("Model Access Selection").selectOption("inclusive");
    await choices(page).first().click();
    await pane(page).getByLabel("Allow access from").fill("::1");
    await pane(page).getByText("30 days").click();
    await button(pane(page), "Create").click();
    await pane(page).getByText("Give the key a name.").waitFor();
  },
  doubt: async (page) => {
    await page.locator("#create-key").click();
    await pane(page).getByLabel("Name").fill("x");
    await page.keyboard.press("Escape");
  },
  edit: async (page) => {
    await page.getByRole("rowheader").first().getByRole("button").click();
    await pane(page).waitFor();
  },
  created: async (page) => {
    await page.locator("#create-key").click();
    await pane(page).getByLabel("Name").fill("axe");
    await page.keyboard.press("Enter");
    await created(page).waitFor();
  },
  explain: async (page) => {
    await openMenu(page, "soon over", "Would this pass?");
    await page.getByRole("button", { name: "Ask" }).click();
    await page.getByText(/^It would/).waitFor();
  },
  selected: async (page) => {
    await page.getByLabel("Select all keys of this page").check();
    await page.getByLabel("Order").selectOption("name");
    await page.getByRole("columnheader", { name: "Name" }).waitFor({ state: "attached" });
  },
  bulk: async (page) => {
    await page.getByLabel("Select all keys of this page").check();
    await button(page, "Extend…").click();
    await page.getByRole("button", { name: /^Extend \d+ keys$/ }).click();
    await page.getByText(/^Type \d+, the number of keys\.$/).waitFor();
  },
  "bulk report": async (page) => {
    await page.getByLabel("Select all keys of this page").check();
    const number = await page.locator("tbody .row-select").count();
    await page.route("**/api/keys/*", (route) => route.fulfill({ status: 500, json: { error: { message: "Something failed.", field: null } } }));
    await button(page, "Disable…").click();
    await page.getByLabel(/type how many$/).fill(String(number));
    await page.keyboard.press("Enter");
    await page.getByText(/not tried|failed\.$/).first().waitFor();
    await page.unroute("**/api/keys/*");
  },
  delete: (page) => openMenu(page, "soon over", "Delete"),
  toast: async (page) => {
    await openMenu(page, "soon over", "Disable");
    await toast(page, "is disabled:").waitFor();
  },
  empty: async (page) => {
    await page.getByLabel("Search keys").fill("nobody");
    await page.getByText("No key found").first().waitFor();
  },
  models: async (page) => {
    await open(page, "#/models");
    await page.getByRole("rowheader").first().waitFor();
  },
  usage: async (page) => {
    await open(page, "#/usage?by=key&show=requests");
    await page.getByRole("link", { name: "soon over" }).waitFor();
    await page.getByText("The same as a table").click();
    await page.getByLabel(/^Usage by model over time/).press("ArrowLeft");
  },
  "key's page": async (page) => {
    await openMenu(page, "soon over", "Usage");
    await page.getByRole("heading", { level: 1, name: "soon over" }).waitFor();
    await page.getByRole("cell", { name: "complete" }).first().waitFor();
  },
  "fleet of one": async (page) => {
    await open(page, "#/fleet");
    await page.getByText("This gateway has its own database.").waitFor();
  },
  fleet: async (page) => {
    await page.route("**/api/fleet", (route) => route.fulfill({ json: FLEET }));
    await open(page, "#/fleet");
    await page.getByText("Behind by 1,203 changes").waitFor();
    await page.unroute("**/api/fleet");
  },
  dashboard: async (page) => {
    await open(page, "#/dashboard");
    await page.getByText("Generation").waitFor();
    await page.getByText("The same as a table").click();
    await page.getByLabel(/^Allowed requests by minute/).press("ArrowLeft");
  },
  reload: async (page) => {
    await open(page, "#/dashboard");
    await page.getByRole("button", { name: "Reload…" }).click();
    await page.getByRole("button", { name: "Reload now" }).waitFor();
  },
  "signed out": async (page) => {
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByText("You are signed out.").waitFor();
    await page.getByRole("button", { name: "Sign in" }).click();
  },
};

/** Once nothing moves any more. */
/** Nothing loads any more, which dims a table, and nothing moves. */
async function settled(page) {
  await page.waitForFunction(() => !document.querySelector("main [aria-busy=true]"));
  await page.evaluate(() => Promise.allSettled(document.getAnimations().map(({ finished }) => finished)));
}
const soon = () => `${new Date(Date.now() + 50 * 3_600_000).toISOString().slice(0, 19)}Z`;

for (const colorScheme of ["light", "dark"]) {
  test(`axe finds nothing wrong with any view, ${colorScheme}`, LIMIT, () => onPanel(async ({ page, gateway }) => {
    const { token } = await makeKey(page, { name: "soon over", account: "acme", expires_at: soon(), allow_from: ["127.0.0.0/8"] });
    await makeKey(page, { name: "plain", model_access: { mode: "exclusive", models: ["tiny-code", "nowhere"] } });
    await chat(gateway, token, "tiny-chat");
    await chat(gateway, "wrong", "tiny-chat");
    for (const [name, reach] of Object.entries(STANDS)) {
      await open(page, "#/keys");
      await page.reload();
      await page.getByRole("rowheader").first().waitFor();
      await reach(page);
      await settled(page);
      await page.addScriptTag({ path: AXE }).catch(() => {});
      const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
      assert.deepEqual(violations.map(({ id, nodes }) => ({ id, nodes: nodes.map(({ html, failureSummary }) => `${html}\n${failureSummary}`) })), [], name);
    }
  }, { options: { colorScheme, bypassCSP: true } }));
}

for (const [what, viewport] of Object.entries({ "at 360 pixels": { width: 360, height: 740 }, "at 200 %": { width: 640, height: 400 }, "at 400 %": { width: 320, height: 256 } })) {
  test(`no view scrolls sideways or hides its buttons ${what}`, LIMIT, () => onPanel(async ({ page, gateway }) => {
    await makeKey(page, { name: `${"long".repeat(24)}`, account: "w".repeat(100), expires_at: soon(), allow_from: ["192.0.2.0/24", "198.51.100.128/25"] });
    const { token } = await makeKey(page, { name: "soon over", expires_at: soon() });
    await chat(gateway, token, "tiny-chat");
    for (const [name, reach] of Object.entries(STANDS)) {
      await open(page, "#/keys");
      await page.reload();
      await page.getByRole("rowheader").first().waitFor();
      await reach(page);
      await settled(page);
      const wide = await page.evaluate(() => [...document.querySelectorAll("html, body, main, dialog, dialog *, main *")]
        .filter((element) => element.getClientRects().length > 0 && !element.closest(".scroll, .unseen, svg, .skip, thead, .button.bare"))
        .filter((element) => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && getComputedStyle(element).position !== "absolute")
        .map((element) => `${element.tagName}.${element.className} ${element.getBoundingClientRect().right}`));
      assert.deepEqual(wide, [], name);
    }
  }, { options: { viewport } }));
}

test("the first load is small", LIMIT, () => onPanel(async ({ page }) => {
  await page.waitForLoadState("networkidle");
  const bytes = await page.evaluate(() => [...performance.getEntriesByType("resource"), ...performance.getEntriesByType("navigation")]
    .reduce((sum, { transferSize }) => sum + transferSize, 0));
  assert.ok(bytes > 10_000 && bytes < 210_000, `${bytes} bytes`);
}));
