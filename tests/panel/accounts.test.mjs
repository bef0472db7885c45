// Accounts in the panel: made, changed, deleted with their keys; and what they allow, in the form of a key.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { startBrowser } from "./browser.mjs";
import { isMock } from "./gateway.mjs";
import { LIMIT, api, assertChat, button, choices, created, makeKey, onPanel, open, openMenu as openKeyMenu, pane, row as keyRow, toast } from "./page.mjs";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const OPTIONS = { ...LIMIT, skip: isMock && "a mock has no accounts" };
const DAY = 86_400_000;
const form = (page) => page.getByRole("dialog", { name: /^(Create|Edit) account/ });
const row = (page, name) => page.getByRole("row").filter({ has: page.getByRole("link", { name, exact: true }) });
const makeAccount = async (page, fields) => {
  const { status, body } = await api(page, "POST", "/api/accounts", fields);
  assert.equal(status, 201, JSON.stringify(body));
  return body;
};
async function openMenu(page, name, item) {
  await row(page, name).getByRole("button", { name: /^Actions for/ }).click();
  await page.getByRole("menuitem", { name: item, exact: true }).click();
}
const heading = (page, name) => page.getByRole("heading", { level: 1, name }).waitFor();

test("an account is made, changed, disabled and enabled again", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await page.getByRole("link", { name: "Accounts", exact: true }).click();
  await page.getByText("No accounts yet").waitFor();
  await button(page, "Create account").click();
  await form(page).getByLabel("ID").fill("ac me");
  await form(page).getByLabel("Longest life of a key, in days").fill("0");
  await button(form(page), "Create").click();
  await form(page).getByText("Use up to 64 of A–Z, a–z, 0–9, _ and -.").waitFor();
  await form(page).getByText("Write a whole number from 1 to 36,500, or nothing.").waitFor();
  await form(page).getByLabel("ID").fill("acme");
  await form(page).getByLabel("Name").fill("Acme Inc.");
  await form(page).getByLabel("Longest life of a key, in days").fill("90");
  await form(page).getByLabel("Most keys").fill("2");
  await form(page).getByLabel("Allow access from").fill("127.0.0.0/8");
  await form(page).getByLabel("Model Access Selection").selectOption("inclusive");
  await form(page).getByRole("option", { name: /tiny-chat/ }).click();
  await form(page).getByText("Limits and budgets of all keys together").click();
  await form(page).getByLabel("Requests a minute").fill("600");
  await button(form(page), "Create").click();
  await heading(page, "Acme Inc.");
  assert.match(page.url(), /#\/accounts\/acme$/);
  await page.getByText("Requests a minute: 600").waitFor();
  await page.getByText("0 of 2 keys").waitFor();
  const { body: made } = await api(page, "GET", "/api/accounts/acme");
  assert.deepEqual([made.model_access, made.allow_from, made.max_keys, made.max_key_days, made.limits.requests_per_minute],
    [{ mode: "inclusive", models: ["tiny-chat"] }, ["127.0.0.0/8"], 2, 90, 600]);
  // The address is enough to come back, and the back button leads to the list.
  await page.reload();
  await heading(page, "Acme Inc.");
  await page.goBack();
  await row(page, "Acme Inc.").getByText("Inclusive: tiny-chat").waitFor();
  await row(page, "Acme Inc.").getByText("90 days").waitFor();
  // An ID is taken once.
  await button(page, "Create account").click();
  await form(page).getByLabel("ID").fill("acme");
  await button(form(page), "Create").click();
  await form(page).getByText("An account of this id exists").waitFor();
  await button(form(page), "Cancel").click();
  await button(form(page), "Discard").click();
  const { token } = await makeKey(page, { name: "web", account: "acme", expires_at: new Date(Date.now() + 9 * DAY).toISOString().slice(0, 10) });
  await openMenu(page, "Acme Inc.", "Edit…");
  assert.equal(await form(page).getByLabel("ID").count(), 0);
  await form(page).getByLabel("Most keys").fill("");
  await button(form(page), "Save").click();
  await toast(page, "was saved").waitFor();
  assert.equal((await api(page, "GET", "/api/accounts/acme")).body.max_keys, null);
  await assertChat(gateway, token, "tiny-chat", 200);
  await openMenu(page, "Acme Inc.", "Disable");
  await row(page, "Acme Inc.").getByText("Disabled").waitFor();
  await page.waitForFunction(() => document.activeElement.getAttribute("aria-label")?.startsWith("Actions for"));
  await assertChat(gateway, token, "tiny-chat", 401);
  await openMenu(page, "Acme Inc.", "Enable");
  await row(page, "Acme Inc.").getByText("Active").waitFor();
  await assertChat(gateway, token, "tiny-chat", 200);
  await openMenu(page, "Acme Inc.", "Activity");
  await page.getByRole("cell", { name: "Account created" }).waitFor();
}));

test("who changes an account that somebody else has changed is told, and loses nothing", OPTIONS, () => onPanel(async ({ page }) => {
  await makeAccount(page, { id: "acme", name: "Acme" });
  await open(page, "#/accounts");
  await openMenu(page, "Acme", "Edit…");
  await form(page).getByLabel("Most keys").fill("7");
  await api(page, "PATCH", "/api/accounts/acme", { name: "Acme Ltd" });
  await button(form(page), "Save").click();
  await form(page).getByText("Nothing was saved. This account was changed meanwhile").waitFor();
  assert.equal(await form(page).getByLabel("Most keys").inputValue(), "7");
  await button(form(page), "Load the present values").click();
  await form(page).getByText("“Acme Ltd”").waitFor();
  // What the gateway refuses is said beside its field.
  await page.route("**/api/accounts/acme", (route) => route.fulfill({ status: 422, json: { error: { message: "max_key_days: must be less", field: "max_key_days" } } }));
  await form(page).getByLabel("Longest life of a key, in days").fill("30");
  await button(form(page), "Save").click();
  await form(page).locator(".field.faulty", { hasText: "Longest life" }).getByText("Must be less.").waitFor();
}));

test("an account goes with its keys only where their number is typed in", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await makeAccount(page, { id: "acme" });
  await makeAccount(page, { id: "empty" });
  const { token } = await makeKey(page, { name: "one", account: "acme" });
  await open(page, "#/accounts");
  const question = page.getByRole("alertdialog");
  await openMenu(page, "acme", "Delete…");
  await button(question, "Delete “⁨acme⁩”").click();
  await question.getByText("Type 1, the number of its keys.").waitFor();
  // One more came meanwhile.
  await makeKey(page, { name: "two", account: "acme" });
  await question.getByLabel("To delete 1 key with it, type how many").fill("1");
  await button(question, "Delete “⁨acme⁩”").click();
  await question.getByText("Nothing was deleted: it has 2 keys now.").waitFor();
  await assertChat(gateway, token, "tiny-chat", 200);
  await question.getByLabel("To delete 2 keys with it, type how many").fill("2");
  await button(question, "Delete “⁨acme⁩”").click();
  await toast(page, "was deleted, and 2 keys with it.").waitFor();
  await row(page, "acme").waitFor({ state: "detached" });
  await assertChat(gateway, token, "tiny-chat", 401);
  assert.equal((await api(page, "GET", "/api/keys")).body.keys.length, 0);
  // Its page says that it is gone, and without keys nothing is to be typed.
  await open(page, "#/accounts/acme");
  await page.getByText("There is no account with this ID.").waitFor();
  await open(page, "#/accounts/empty");
  await heading(page, "empty");
  await button(page, "Actions for this account").click();
  await page.getByRole("menuitem", { name: "Delete…" }).click();
  assert.equal(await question.getByRole("textbox").count(), 0);
  await button(question, "Delete “⁨empty⁩”").click();
  await page.getByText("No accounts yet").waitFor();
}));

test("many accounts come a page at a time, and the page is in the address", OPTIONS, () => onPanel(async ({ page }) => {
  for (let at = 0; at < 103; at += 1) await makeAccount(page, { id: `a${String(at).padStart(3, "0")}` });
  await open(page, "#/accounts");
  await page.getByText("100 accounts on this page").waitFor();
  await button(page, "Next").click();
  await page.getByText("3 accounts on this page").waitFor();
  await page.waitForFunction(() => document.activeElement.textContent === "First");
  await page.reload();
  await row(page, "a102").waitFor();
  assert.equal(await row(page, "a099").count(), 0);
  await page.goBack();
  await row(page, "a000").waitFor();
  await page.goForward();
  await row(page, "a102").waitFor();
}));

test("what an account does not allow cannot be chosen for a key, and the form says why", OPTIONS, () => onPanel(async ({ page }) => {
  await makeAccount(page, { id: "acme", name: "Acme Inc.", max_key_days: 90, max_keys: 1, allow_from: ["192.0.2.0/24"], model_access: { mode: "exclusive", models: ["tiny-code"] } });
  await page.locator("#create-key").click();
  await page.waitForFunction(() => document.querySelector("datalist option")?.value === "acme");
  await pane(page).getByLabel("Name").fill("bounded");
  await pane(page).getByLabel("Account").fill("a label");
  await pane(page).getByText("No account has this ID, so it is a label alone.").waitFor();
  assert.ok(await pane(page).getByLabel("Never").isEnabled());
  await pane(page).getByLabel("Account").fill("acme");
  await pane(page).getByText("Acme Inc.: 0 of 1 key.").waitFor();
  // Its life.
  await pane(page).getByText(/^The account allows 90 days at most: until /).waitFor();
  for (const name of ["Never", "365 days"]) assert.ok(await pane(page).getByLabel(name).isDisabled(), name);
  assert.ok(await pane(page).getByLabel("On a date").isChecked(), "the longest life is chosen");
  const last = await pane(page).getByLabel("Last day, UTC").inputValue();
  await pane(page).getByText("90 days", { exact: true }).click();
  assert.equal(await pane(page).getByLabel("Last day, UTC").inputValue(), last);
  await pane(page).getByLabel("Last day, UTC").fill("2099-01-01");
  // Its networks.
  const network = pane(page).getByLabel("Allow access from");
  await network.fill("198.51.100.0/24");
  await button(pane(page), "Add").click();
  await pane(page).getByText("The account allows no address of 198.51.100.0/24.").waitFor();
  await network.fill("192.0.2.7");
  await button(pane(page), "Add").click();
  await pane(page).getByRole("button", { name: "Remove 192.0.2.7/32" }).waitFor();
  // Its models: what it refuses may be excluded all the same.
  const select = pane(page).getByLabel("Model Access Selection");
  await select.selectOption("inclusive");
  await pane(page).getByText("The account allows every model but tiny-code.").waitFor();
  const code = choices(page).filter({ hasText: "tiny-code" });
  assert.equal(await code.getAttribute("aria-disabled"), "true");
  await code.getByText("not allowed by the account").waitFor();
  await code.click({ force: true });
  assert.equal(await code.getAttribute("aria-selected"), "false");
  const search = pane(page).getByRole("combobox", { name: "Search models" });
  await search.fill("tiny-code");
  await search.press("Enter");
  assert.equal(await code.getAttribute("aria-selected"), "false");
  await search.fill("");
  await choices(page).filter({ hasText: "tiny-chat" }).click();
  await button(pane(page), "Create").click();
  await pane(page).locator(".field.faulty", { hasText: "Expiration date" }).locator(".fault").getByText("The account allows 90 days at most").waitFor();
  await pane(page).getByLabel("Last day, UTC").fill(last);
  await button(pane(page), "Create").click();
  await created(page).waitFor();
  await page.keyboard.press("Escape");
  const { body: { keys: [key] } } = await api(page, "GET", "/api/keys?account=acme");
  assert.equal(new Date(Date.parse(key.expires_at) - DAY).toISOString().slice(0, 10), last);
  // It takes no further key.
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("one too many");
  await page.waitForFunction(() => document.querySelector("datalist option"));
  await pane(page).getByLabel("Account").fill("acme");
  await button(pane(page), "Create").click();
  await pane(page).getByText("The account has 1 key, and may have 1 at most.").waitFor();
}));

test("a key that its account has outgrown is edited without a word about what stays", OPTIONS, () => onPanel(async ({ page }) => {
  await makeAccount(page, { id: "acme" });
  await makeKey(page, { name: "old rules", account: "acme", model_access: { mode: "inclusive", models: ["tiny-chat"] } });
  await api(page, "PATCH", "/api/accounts/acme", { max_key_days: 5, model_access: { mode: "inclusive", models: ["tiny-code"] } });
  await page.reload();
  await keyRow(page, "old rules").getByRole("button", { name: "old rules", exact: true }).click();
  await pane(page).getByText(/^The account allows 5 days at most/).waitFor();
  await pane(page).getByLabel("Name").fill("new name");
  await button(pane(page), "Save").click();
  await toast(page, "was saved. It stays refused by its account: no model is left that both allow.").waitFor();
  // The account is found where only the first thousand are known.
  await page.route("**/api/accounts?limit=1000", (route) => route.fulfill({ json: { accounts: [], next: "a" } }));
  await keyRow(page, "new name").getByRole("button", { name: "new name", exact: true }).click();
  await pane(page).getByText("The account allows only tiny-code.").waitFor();
}));

test("a key that its account refuses does not look usable", OPTIONS, () => onPanel(async ({ page }) => {
  await makeAccount(page, { id: "acme", name: "Acme Inc." });
  const { key } = await makeKey(page, { name: "web", account: "acme", model_access: { mode: "inclusive", models: ["tiny-chat"] } });
  for (const [rules, why] of [[{ disabled: true }, "the account is disabled"], [{ disabled: false, model_access: { mode: "exclusive", models: ["tiny-chat"] } }, "no model is left that both allow"]]) {
    await api(page, "PATCH", "/api/accounts/acme", rules);
    await open(page, "#/keys");
    await page.reload();
    await keyRow(page, "web").getByText("Refused by its account").waitFor();
    await keyRow(page, "web").getByText(why).waitFor();
    await openKeyMenu(page, "web", "Usage");
    await page.getByText("Refused by its account").waitFor();
  }
  await page.getByRole("link", { name: "Acme Inc." }).click();
  await heading(page, "Acme Inc.");
  await api(page, "PATCH", "/api/accounts/acme", { model_access: { mode: "all" }, max_key_days: 3 });
  await page.getByRole("link", { name: "1 key", exact: true }).click();
  await keyRow(page, "web").getByText("by its account").waitFor();
  await keyRow(page, "web").getByText("in 3 days").waitFor();
  assert.equal((await api(page, "GET", `/api/keys/${key.id}`)).body.expires_at, null);
}));

test("without a database there is no way to accounts, and a key's account is a label", OPTIONS, () => onPanel(async ({ page }) => {
  const answered = page.waitForResponse(/accounts\?limit=1$/);
  await page.reload();
  await answered;
  await page.getByRole("link", { name: "Dashboard" }).waitFor();
  assert.equal(await page.getByRole("link", { name: "Accounts", exact: true }).count(), 0);
  await open(page, "#/accounts");
  await page.getByText("The accounts could not be loaded. There is no database").waitFor();
  await open(page, "#/keys");
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("labelled");
  await pane(page).getByLabel("Account").fill("a label");
  await button(pane(page), "Create").click();
  await created(page).waitFor();
}, { config: "[database]\nurl = \"\"\n" }));

for (const colorScheme of ["light", "dark"]) {
  test(`axe finds nothing wrong with the views of accounts, ${colorScheme}`, OPTIONS, () => onPanel(async ({ page }) => {
    await makeAccount(page, { id: "acme", name: "Acme Inc.", max_key_days: 90, model_access: { mode: "inclusive", models: ["tiny-chat"] }, limits: { requests_per_minute: 600 } });
    await makeAccount(page, { id: "closed", disabled: true });
    await makeKey(page, { name: "refused", account: "closed" });
    await page.addScriptTag({ path: AXE });
    const check = async (what) => {
      await page.waitForFunction(() => !document.querySelector("main [aria-busy=true]"));
      await page.evaluate(() => Promise.allSettled(document.getAnimations().map(({ finished }) => finished)));
      const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
      assert.deepEqual(violations.map(({ id, nodes }) => `${what}: ${id} ${nodes.map(({ html }) => html).join()}`), []);
    };
    await open(page, "#/accounts");
    await row(page, "closed").waitFor();
    await check("list");
    await openMenu(page, "closed", "Delete…");
    await page.getByRole("alertdialog").waitFor();
    await check("delete");
    await page.keyboard.press("Escape");
    await openMenu(page, "Acme Inc.", "Edit…");
    await form(page).getByText("Limits and budgets of all keys together").waitFor();
    await check("form");
    await page.keyboard.press("Escape");
    await row(page, "Acme Inc.").getByRole("link", { name: "Acme Inc." }).click();
    await heading(page, "Acme Inc.");
    await check("page");
    await open(page, "#/keys");
    await keyRow(page, "refused").waitFor();
    await check("keys");
    await page.locator("#create-key").click();
    await pane(page).getByLabel("Model Access Selection").selectOption("inclusive");
    await page.waitForFunction(() => document.querySelector("datalist option"));
    await pane(page).getByLabel("Account").fill("acme");
    await choices(page).filter({ hasText: "not allowed by the account" }).first().waitFor();
    await check("key form");
  }, { options: { colorScheme, bypassCSP: true } }));
}

for (const width of [700, 768, 980, 1100]) {
  test(`the accounts are a table whose menus can be reached at ${width} pixels`, OPTIONS, () => onPanel(async ({ page }) => {
    await makeAccount(page, { id: "research", max_keys: 100_000, max_key_days: 365, disabled: true, allow_from: ["192.0.2.0/24", "198.51.100.128/25"],
      limits: { requests_per_minute: 600, tokens_per_minute: 1_000_000 }, model_access: { mode: "inclusive", models: ["llama-3.3-70b-instruct", "bge-m3"] } });
    await open(page, "#/accounts");
    const { x, width: own } = await row(page, "research").getByRole("button", { name: /^Actions for/ }).boundingBox();
    assert.ok(x + own <= width - 16, `the menu ends at ${x + own}`);
    const name = await row(page, "research").getByRole("link", { name: "research" }).boundingBox();
    assert.ok(name.height < 30, "the ID is not broken");
    await makeKey(page, { name: "refused", account: "research", expires_at: new Date(Date.now() + 9 * DAY).toISOString().slice(0, 10), allow_from: ["192.0.2.0/24", "198.51.100.128/25"] });
    await open(page, "#/keys");
    await keyRow(page, "refused").getByText("Refused by its account").waitFor();
    const more = await keyRow(page, "refused").getByRole("button", { name: /^Actions for/ }).boundingBox();
    assert.ok(more.x + more.width <= width - 16, `the menu of the key ends at ${more.x + more.width}`);
  }, { options: { viewport: { width, height: 700 } } }));
}

test("accounts fit on a screen of 320 pixels", OPTIONS, async () => {
  const using = await startBrowser({ scrollbars: true });
  try {
    await onPanel(async ({ page }) => {
      await makeAccount(page, { id: "w".repeat(64), name: "w".repeat(100), max_key_days: 90, allow_from: ["192.0.2.0/24"], limits: { requests_per_minute: 600, tokens_per_minute: 1_000_000 },
        budgets: [{ unit: "cost", amount: "250", per: "month" }], model_access: { mode: "inclusive", models: ["w".repeat(100)] } });
      await makeKey(page, { name: "refused", account: "w".repeat(64), expires_at: new Date(Date.now() + 9 * DAY).toISOString().slice(0, 10), model_access: { mode: "inclusive", models: ["tiny-chat"] } });
      const fits = async (what) => assert.deepEqual(await page.evaluate(() => Promise.allSettled(document.getAnimations().map(({ finished }) => finished)).then(() => [...document.querySelectorAll("html, main, main *, dialog, dialog *")]
        .filter((element) => element.checkVisibility() && !element.closest(".scroll, .unseen, svg, thead, .segments") && element.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
        .map((element) => `${element.tagName}.${element.className}`))), [], what);
      await open(page, "#/accounts");
      await row(page, "w".repeat(100)).waitFor();
      await fits("the list");
      await openMenu(page, "w".repeat(100), "Edit…");
      await form(page).getByText("Limits and budgets of all keys together").waitFor();
      await fits("the form");
      await page.keyboard.press("Escape");
      await openMenu(page, "w".repeat(100), "Delete…");
      await page.getByRole("alertdialog").getByRole("textbox").waitFor();
      await fits("the question");
      await page.keyboard.press("Escape");
      await row(page, "w".repeat(100)).getByRole("link", { name: "w".repeat(100) }).click();
      await heading(page, "w".repeat(100));
      await fits("the page");
      await open(page, "#/keys");
      await keyRow(page, "refused").getByText("Refused by its account").waitFor();
      await fits("the keys");
    }, { options: { viewport: { width: 320, height: 500 } }, using });
  } finally {
    await using.close();
  }
});
