// Many keys: found, filtered, sorted, saved, and changed several at a time; and one key asked about.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { HOSTILE, MODELS, isMock } from "./gateway.mjs";
import { LIMIT, api, button, makeKey, onPanel, openMenu, pager, pane, row, toast } from "./page.mjs";

const line = (fields) => `${JSON.stringify({ name: fields.id, hash: `blake3:${Buffer.from(fields.id.padEnd(32)).toString("hex").slice(0, 64)}`, model_access: { mode: "all" }, ...fields })}\n`;
const day = (days) => `${new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10)}T00:00:00Z`;
const KEYS = [
  line({ id: "key_web", name: "web", account: "acme", allow_from: ["192.0.2.0/24"], model_access: { mode: "inclusive", models: ["tiny-chat"] }, expires_at: day(20), created_at: "2026-01-01T00:00:00Z" }),
  line({ id: "key_batch", name: "batch", account: "other", model_access: { mode: "exclusive", models: ["tiny-code"] }, expires_at: day(5), created_at: "2026-01-03T00:00:00Z" }),
  line({ id: "key_old", name: "old", account: "acme", disabled: true, created_at: "2026-01-02T00:00:00Z" }),
  line({ id: "key_gone", name: "gone", expires_at: "2020-01-01T00:00:00Z", created_at: "2026-01-04T00:00:00Z" }),
].join("");
const names = (page) => page.getByRole("rowheader").evaluateAll((heads) => heads.map((head) => head.querySelector(".name").textContent));
const shows = (page, ...wanted) => page.waitForFunction((wanted) => document.querySelector(".table-card")?.getAttribute("aria-busy") === "false"
  && JSON.stringify([...document.querySelectorAll("tbody .name")].map(({ textContent }) => textContent)) === JSON.stringify(wanted), wanted)
  .catch(async () => assert.deepEqual(await names(page), wanted));
const NEEDS_GATEWAY = { ...LIMIT, skip: isMock && "a mock does not filter" };

test("keys are searched by model, network and state, and filtered", NEEDS_GATEWAY, () => onPanel(async ({ page }) => {
  await shows(page, "gone", "batch", "old", "web");
  for (const [text, found] of [["tiny-chat", ["web"]], ["192.0.2", ["web"]], ["disabled", ["old"]], ["OTHER", ["batch"]], ["", ["gone", "batch", "old", "web"]]]) {
    await page.getByLabel("Search keys").fill(text);
    await shows(page, ...found);
  }
  await page.getByLabel("State", { exact: true }).selectOption("expired");
  await shows(page, "gone");
  await page.getByLabel("State", { exact: true }).selectOption("");
  await page.getByLabel("Whole account").fill("acme");
  await shows(page, "old", "web");
  await page.getByLabel("Model", { exact: true }).selectOption("tiny-code");
  await shows(page, "old");
  await page.getByLabel("Whole account").fill("nobody");
  await page.getByText("No key meets the filters.").waitFor();
  await button(page, "Show all keys").click();
  await shows(page, "gone", "batch", "old", "web");
  await page.getByLabel("Expiry", { exact: true }).selectOption("7");
  await shows(page, "batch");
  await page.getByLabel("Expiry", { exact: true }).selectOption("30");
  await shows(page, "batch", "web");
  assert.ok(!(await page.getByLabel("Model", { exact: true }).textContent()).includes("\u202e"));
  await page.getByLabel("Model", { exact: true }).selectOption(HOSTILE);
  await shows(page, "batch");
}, { keys: KEYS }));

test("keys are sorted by their columns, and by what has none", NEEDS_GATEWAY, () => onPanel(async ({ page }) => {
  const head = (name) => page.getByRole("columnheader", { name: new RegExp(`^${name}`) });
  await button(head("Name"), "Name").click();
  await shows(page, "batch", "gone", "old", "web");
  assert.equal(await head("Name").getAttribute("aria-sort"), "ascending");
  await button(head("Name"), "Name").click();
  await shows(page, "web", "old", "gone", "batch");
  assert.equal(await head("Name").getAttribute("aria-sort"), "descending");
  await button(head("Expires"), "Expires").click();
  await shows(page, "gone", "batch", "web", "old");
  assert.equal(await head("Name").getAttribute("aria-sort"), null);
  for (const [order, found] of [["account", ["old", "web", "batch", "gone"]], ["created_at", ["web", "old", "batch", "gone"]], ["-requests", ["gone", "batch", "old", "web"]],
    ["-last_used_at", ["gone", "batch", "old", "web"]]]) {
    await page.getByLabel("Order").selectOption(order);
    await shows(page, ...found);
  }
}, { keys: KEYS }));

test("search, filters, order and page are in the address: a reload and the back button keep them", NEEDS_GATEWAY, () => onPanel(async ({ page, context, gateway }) => {
  await page.getByText("Keys 1–50 of 124").waitFor();
  await page.getByLabel("Order").selectOption("name");
  await page.getByText("Keys 1–50 of 124").waitFor();
  await page.getByLabel("State", { exact: true }).selectOption("active");
  await page.getByText("Keys 1–50 of those found").waitFor();
  await pager(page, "Older").click();
  await page.getByText("Keys 51–100 of those found").waitFor();
  const second = await names(page);
  assert.match(page.url(), /#\/keys\?state=active&sort=name&page=2$/);
  await page.reload();
  await page.getByText("Keys 51–100 of those found").waitFor();
  assert.deepEqual(await names(page), second);
  assert.equal(await page.getByLabel("State", { exact: true }).inputValue(), "active");
  await page.goBack();
  await page.getByText("Keys 1–50 of those found").waitFor();
  await page.goBack();
  await page.getByText("Keys 1–50 of 124").waitFor();
  assert.equal(await page.getByLabel("State", { exact: true }).inputValue(), "");
  assert.equal(await page.getByLabel("Order").inputValue(), "name");
  await page.goForward();
  await page.goForward();
  await page.getByText("Keys 51–100 of those found").waitFor();
  assert.deepEqual(await names(page), second);
  // From another view, and as a link for somebody else.
  await page.getByRole("link", { name: "Dashboard" }).click();
  await page.getByRole("heading", { level: 1, name: "Dashboard" }).waitFor();
  await page.goBack();
  await page.getByText("Keys 51–100 of those found").waitFor();
  await page.getByLabel("Search keys").fill("web");
  await shows(page, "web");
  const link = page.url();
  assert.match(link, /query=web/);
  const other = await context.newPage();
  await other.goto(link);
  await shows(other, "web");
  assert.equal(await other.getByLabel("Search keys").inputValue(), "web");
  assert.ok(gateway.url);
}, { keys: KEYS + Array.from({ length: 120 }, (_, at) => line({ id: `key_${at}`, name: `device ${at}` })).join("") }));

test("the keys that are shown are saved as CSV, and no name is a formula there", NEEDS_GATEWAY, () => onPanel(async ({ page }) => {
  await makeKey(page, { name: '=HYPERLINK("http://evil.example")', account: "acme, Inc." });
  await page.getByLabel("Order").selectOption("name");
  await page.getByLabel("Search keys").fill("acme");
  await page.getByText("3 keys found").waitFor();
  const [download] = await Promise.all([page.waitForEvent("download"), button(page, "CSV").click()]);
  assert.equal(download.suggestedFilename(), "keys.csv");
  const lines = (await readFile(await download.path(), "utf8")).split("\r\n");
  assert.equal(lines[0], "\ufeffid,name,account,state,model_access,models,allow_from,expires_at,ends_at,refused_by_account,created_at,last_used_at,requests,hint");
  assert.equal(lines.length, 5);
  assert.match(lines[1], /^key_\w+,"'=HYPERLINK\(""http:\/\/evil\.example""\)","acme, Inc\.",active,all,,,,/);
  assert.match(lines[2], /^key_old,old,acme,disabled,all,/);
  assert.match(lines[3], /^key_web,web,acme,active,inclusive,tiny-chat,192\.0\.2\.0\/24,/);
  await toast(page, "keys.csv has 3 keys.").waitFor();
}, { keys: KEYS }));

const openBulk = async (page, action) => {
  await button(page.getByRole("group", { name: "Selected keys" }), `${action}…`).click();
  const dialog = page.getByRole("dialog", { name: new RegExp(`^${action} `) });
  await dialog.waitFor();
  return dialog;
};

test("several keys are disabled, enabled, extended and deleted, each confirmed by their number", NEEDS_GATEWAY, () => onPanel(async ({ page }) => {
  const select = async (...names) => { for (const name of names) await row(page, name).getByRole("checkbox").check(); };
  const close = async (dialog, said) => {
    await dialog.getByText(said).waitFor();
    await dialog.getByRole("button", { name: "Close" }).last().click();
    await dialog.waitFor({ state: "detached" });
  };
  const state = async (id) => (await api(page, "GET", `/api/keys/${id}`)).body;
  await select("web", "batch");
  await page.getByText("2 keys selected").waitFor();
  let dialog = await openBulk(page, "Disable");
  // Enter, pressed without reading, changes nothing.
  for (let at = 0; at < 3; at += 1) await page.keyboard.press("Enter");
  await dialog.getByText("Type 2, the number of keys.").waitFor();
  await dialog.getByLabel("To disable 2 keys, type how many").fill("3");
  await button(dialog, "Disable 2 keys").click();
  await dialog.getByText("Type 2, the number of keys.").waitFor();
  assert.equal((await state("key_web")).disabled, false);
  await dialog.getByLabel("To disable 2 keys, type how many").fill("2");
  await page.keyboard.press("Enter");
  await close(dialog, "2 keys were disabled.");
  await row(page, "web").getByText("Disabled").waitFor();
  assert.ok(await page.getByRole("group", { name: "Selected keys" }).isHidden(), "what is done is selected no more");
  assert.ok(await page.evaluate(() => document.activeElement !== document.body));

  await page.getByLabel("Select all keys of this page").check();
  await page.getByText("4 keys selected").waitFor();
  dialog = await openBulk(page, "Enable");
  await dialog.getByLabel(/type how many/).fill("4");
  await page.keyboard.press("Enter");
  await close(dialog, "4 keys were enabled.");
  assert.equal((await state("key_old")).disabled, false);

  await select("gone", "batch");
  dialog = await openBulk(page, "Extend");
  await dialog.getByLabel("Last day, UTC").fill("2020-01-01");
  await dialog.getByLabel(/type how many/).fill("2");
  await page.keyboard.press("Enter");
  await dialog.getByText("Choose today or a later day.").waitFor();
  await dialog.getByLabel("Last day, UTC").fill("2099-12-31");
  await button(dialog, "Extend 2 keys").click();
  await close(dialog, "2 keys were given a new expiration date.");
  assert.equal((await state("key_gone")).expires_at, "2100-01-01T00:00:00Z");
  assert.equal((await state("key_gone")).state, "active");

  // One fails and stays selected; another went meanwhile, which is as good as deleted.
  await select("gone", "batch", "old");
  assert.equal((await api(page, "DELETE", "/api/keys/key_gone")).status, 204);
  await page.route("**/api/keys/key_old", (route) => route.fulfill({ status: 500, json: { error: { message: "Something failed that should not.", field: null } } }));
  dialog = await openBulk(page, "Delete");
  await dialog.getByLabel(/type how many/).fill("3");
  await page.keyboard.press("Enter");
  await dialog.getByText("2 keys were deleted, 1 failed.").waitFor();
  await dialog.getByText("Something failed that should not.").waitFor();
  await close(dialog, "key_old");
  await page.unroute("**/api/keys/key_old");
  await shows(page, "old", "web");
  assert.ok(await row(page, "old").getByRole("checkbox").isChecked());
  await page.getByText("1 key selected").waitFor();
}, { keys: KEYS }));

test("a change to many keys shows its progress, keeps keys of other pages, and can be stopped", NEEDS_GATEWAY, () => onPanel(async ({ page }) => {
  await page.getByText("Keys 1–50 of 60").waitFor();
  await page.getByLabel("Select all keys of this page").check();
  await pager(page, "Older").click();
  await page.getByText("Keys 51–60 of 60").waitFor();
  await row(page, "device 0").getByRole("checkbox").check();
  await page.getByText("51 keys selected, 50 of them not on this page").waitFor();
  const held = [];
  await page.route("**/api/keys/*", (route) => { held.push(route); });
  const dialog = await openBulk(page, "Disable");
  await dialog.getByLabel(/type how many/).fill("51");
  await page.keyboard.press("Enter");
  await dialog.getByText("0 of 51").waitFor();
  await dialog.getByRole("progressbar", { name: "Progress" }).waitFor();
  await page.keyboard.press("Escape");
  assert.ok(await dialog.isVisible(), "it stays while it works");
  await button(dialog, "Stop").click();
  for (const route of held) await route.continue();
  await dialog.getByText("4 keys were disabled, 47 not tried.").waitFor();
  await dialog.getByRole("button", { name: "Close" }).last().click();
  await page.getByText("47 keys selected").waitFor();
  assert.equal((await api(page, "GET", "/api/keys?state=disabled")).body.keys.length, 4);
}, { keys: Array.from({ length: 60 }, (_, at) => line({ id: `key_${at}`, name: `device ${at}` })).join("") }));

test("Would this pass? says what the gateway would decide about a key", NEEDS_GATEWAY, () => onPanel(async ({ page }) => {
  await row(page, "web").getByRole("button", { name: /^Actions for/ }).click();
  assert.deepEqual(await page.getByRole("menuitem").allTextContents(), ["Edit", "Usage", "Recent refusals", "Activity", "Would this pass?", "Disable", "Rotate…", "Delete"]);
  await page.keyboard.press("Escape");
  await openMenu(page, "web", "Would this pass?");
  const dialog = page.getByRole("dialog", { name: /Would this pass\?.*web/ });
  await dialog.getByLabel("Model", { exact: true }).locator("option").nth(MODELS.length).waitFor({ state: "attached" });
  assert.equal(await dialog.getByLabel("Client's address").inputValue(), "127.0.0.1");
  await dialog.getByLabel("Model", { exact: true }).selectOption({ label: "tiny-chat" });
  await button(dialog, "Ask").click();
  await dialog.getByText("It would be refused:").waitFor();
  await dialog.getByText("ip_not_authorized").waitFor();
  await dialog.getByLabel("Client's address").fill("192.0.2.7");
  await page.keyboard.press("Enter");
  await dialog.getByText("It would pass:").waitFor();
  await dialog.getByLabel("Time").fill("2098-01-01T00:00:00Z");
  await page.keyboard.press("Enter");
  await dialog.getByText("expired_api_key").waitFor();
  await dialog.getByLabel("Time").fill("");
  await dialog.getByLabel("Model", { exact: true }).selectOption({ label: "Another name…" });
  await dialog.getByLabel("Another model's name").fill("nowhere");
  await page.keyboard.press("Enter");
  await dialog.getByText("model_not_found").waitFor();
  await dialog.getByLabel("Client's address").fill("somewhere");
  await page.keyboard.press("Enter");
  await dialog.getByText("must be an IP address").waitFor();
  await page.keyboard.press("Escape");
  assert.ok(await row(page, "web").isVisible());
  assert.equal(await pane(page).count(), 0);
}, { keys: KEYS }));
