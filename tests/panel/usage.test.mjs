// Usage: what a team lead, an operator and the owner of a key read in the panel.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { isMock } from "./gateway.mjs";
import { LIMIT, button, chat, focused, makeKey, onPanel, open, openMenu, pane, row } from "./page.mjs";

const PRICES = `
[usage]
currency = "EUR"
[[prices]]
model = "tiny-chat"
input = 2000
input_cached = 500
output = 4000
`;
/** What one request costs: 400 uncached tokens at 2000, 600 cached at 500, 250 written at 4000 a million. */
const COST = 2.1;
const OPTIONS = { ...LIMIT, skip: isMock && "a mock counts nothing" };

const sums = (page, name) => page.getByRole("region", { name }).getByRole("row");
const cells = async (line) => (await line.locator("th, td").allInnerTexts()).map((text) => text.trim());
const chartOf = (page) => page.getByLabel(/^Usage by model over time/);

/** Two keys that were used: the first twice for one model and once for another, the second once. */
async function used(page, gateway) {
  const first = await makeKey(page, { name: "web site", account: "acme" });
  const second = await makeKey(page, { name: "night batch" });
  for (const [{ token }, model] of [[first, "tiny-chat"], [first, "tiny-chat"], [first, "tiny-code"], [second, "tiny-chat"]]) {
    assert.equal(await chat(gateway, token, model), 200);
  }
  return { first: first.key, second: second.key };
}

test("usage is drawn by day and model, told by the arrow keys, and is the same as a table", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await used(page, gateway);
  await page.getByRole("link", { name: "Usage", exact: true }).click();
  await page.getByRole("heading", { level: 1, name: "Usage" }).waitFor();
  await page.getByText("5,000", { exact: true }).first().waitFor();
  for (const [name, value, note] of [["Requests", "4", ""], ["Input tokens", "4K", "4,000; 2,400 cached"], ["Output tokens", "1K", "1,000"], ["Cost", "€6.30", "at the prices when it was used"]]) {
    const tile = page.locator(".tile").filter({ has: page.getByRole("heading", { name, exact: true }) });
    assert.deepEqual([await tile.locator(".tile-value").innerText(), await tile.locator(".tile-note").innerText()], [value, note], name);
  }
  await chartOf(page).press("End");
  assert.match(await page.locator(".chart-place [role=status]").innerText(), /\d{4}, .?tiny-code.? 1,250, .?tiny-chat.? 3,750$/);
  await chartOf(page).press("ArrowLeft");
  assert.match(await page.locator(".chart-place [role=status]").innerText(), /, none$/);
  await page.getByText("The same as a table").click();
  const table = sums(page, "Usage by day and model");
  assert.deepEqual((await cells(table.nth(1))).slice(1), ["3", "0", "3,000", "1,800", "750", `€${(3 * COST).toFixed(2)}`]);
  assert.deepEqual((await cells(table.nth(2))).slice(1), ["1", "0", "1,000", "600", "250", "–"]);
  assert.deepEqual(await cells(table.last()), ["Total", "4", "0", "4,000", "2,400", "1,000", "€6.30"]);
  // By the hour, the same in one bar.
  await page.getByText("24 h", { exact: true }).click();
  await page.getByText("Tokens by hour and model").waitFor();
  await page.locator(".usage-report[aria-busy=false]").waitFor();
  await chartOf(page).press("End");
  assert.match(await page.locator(".chart-place [role=status]").innerText(), /\d\d:00 to \d\d:00 UTC, .*tiny-chat/);
}, { config: PRICES }));

test("a team lead finds what an account cost by model, and what each key of it used", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  const { first } = await used(page, gateway);
  await open(page, "#/usage");
  await page.getByLabel("Whole account").fill("acme");
  await page.getByText("2,500", { exact: true }).first().waitFor();
  await page.locator(".usage-controls").getByText("Cost").click();
  await page.getByText("Cost by day and model").waitFor();
  assert.equal(await page.locator(".chart-total").innerText(), "€4.20");
  await page.locator(".segments").getByText("Key", { exact: true }).click();
  await page.getByRole("link", { name: "web site" }).waitFor();
  assert.deepEqual((await cells(sums(page, "Usage by key").nth(1))).slice(1), ["3", "0", "3,000", "1,800", "750", "€4.20"]);
  assert.match(page.url(), /#\/usage\?show=cost&by=key&account=acme$/);
  // The address says it all: whoever gets it sees the same.
  await page.reload();
  await page.getByRole("link", { name: "web site" }).waitFor();
  assert.equal(await page.getByLabel("Whole account").inputValue(), "acme");
  const [download] = await Promise.all([page.waitForEvent("download"), button(page, "CSV").click()]);
  const lines = (await readFile(await download.path(), "utf8")).trim().split("\r\n").map((line) => line.split(","));
  assert.equal(download.suggestedFilename(), "usage.csv");
  assert.deepEqual(lines.slice(1).map((line) => [line[2], line[3], line[4], line[5], line[7]]).sort(),
    [[first.id, "web site", "acme", "tiny-chat", "2"], [first.id, "web site", "acme", "tiny-code", "1"]]);
  await page.getByRole("link", { name: "web site" }).click();
  await page.getByRole("heading", { level: 1, name: "web site" }).waitFor();
  await page.goBack();
  await page.getByRole("heading", { level: 1, name: "Usage" }).waitFor();
}, { config: PRICES }));

test("usage is filtered by a key's whole name or its ID", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  const { first, second } = await used(page, gateway);
  await open(page, "#/usage");
  await page.getByText("5,000", { exact: true }).first().waitFor();
  const requests = page.locator(".tile").filter({ has: page.getByRole("heading", { name: "Requests", exact: true }) }).locator(".tile-value");
  for (const [text, { id }, used] of [["web site", first, "3"], ["night batch", second, "1"], [first.id, first, "3"]]) {
    await page.getByLabel("Key's name or ID").fill(text);
    await page.waitForURL((url) => url.hash.endsWith(`?key=${id}`));
    await requests.getByText(used, { exact: true }).waitFor();
  }
  // Of two keys with one name, neither is meant.
  await makeKey(page, { name: "web site" });
  await page.getByLabel("Key's name or ID").fill("web site");
  await page.getByRole("alert").waitFor();
}, { config: PRICES }));

test("a key's own page shows its use, its last requests and its last refusals", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  const { first } = await used(page, gateway);
  const { token } = await makeKey(page, { name: "narrow", model_access: { mode: "inclusive", models: ["tiny-code"] } });
  assert.equal(await chat(gateway, token, "tiny-chat"), 404);
  await open(page, "#/keys");
  await page.reload();
  await openMenu(page, "web site", "Usage");
  await page.getByRole("heading", { level: 1, name: "web site" }).waitFor();
  const records = sums(page, "Last requests");
  await records.nth(3).waitFor();
  assert.equal(await records.count(), 4);
  const [, model, answer, input, output, cost, , address] = await cells(records.nth(3));
  assert.deepEqual([model, answer, input, output, cost, address], ["tiny-chat\n/v1/chat/completions", "200\ncomplete", "1,000", "250", "€2.10", "127.0.0.1"]);
  await page.getByText("No request was refused in the last hour.").waitFor();
  // What is changed here is shown here.
  await button(page, "Edit").click();
  await pane(page).getByLabel("Name").fill("shop");
  await button(pane(page), "Save").click();
  await page.getByRole("heading", { level: 1, name: "shop" }).waitFor();
  const [download] = await Promise.all([page.waitForEvent("download"), button(page, "CSV").click()]);
  assert.equal((await readFile(await download.path(), "utf8")).trim().split("\r\n").length, 4);
  await open(page, "#/keys");
  await openMenu(page, "narrow", "Usage");
  await page.getByRole("heading", { level: 1, name: "narrow" }).waitFor();
  await page.getByRole("cell", { name: "model_not_found" }).waitFor();
  await page.getByText("No request of this key is kept.").waitFor();
  // Of a key that is deleted, what it used stays.
  await page.goto(`${gateway.url}/#/key?id=${first.id}`);
  await page.getByRole("heading", { level: 1, name: "shop" }).waitFor();
  await button(page, "Actions for this key").click();
  await page.getByRole("menuitem", { name: "Delete" }).click();
  await page.getByRole("button", { name: /^OK/ }).click();
  await page.getByRole("heading", { level: 1, name: "Deleted key" }).waitFor();
  await page.getByText("What it used is still shown.").waitFor();
  await records.nth(3).waitFor();
}, { config: PRICES }));

test("keys that nobody used for 90 days are found by one filter", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  const { token } = await makeKey(page, { name: "used today" });
  assert.equal(await chat(gateway, token, "tiny-chat"), 200);
  await page.reload();
  await page.getByLabel("Use", { exact: true }).selectOption("90d");
  // The key that was made by hand years ago was never used.
  await page.getByText("1 key found").waitFor();
  await row(page, "old").waitFor();
  assert.match(page.url(), /unused_for=90d/);
}, { keys: `{"id":"key_old","name":"old","hash":"blake3:${"ab".repeat(32)}","model_access":{"mode":"all"},"created_at":"2020-01-01T00:00:00Z"}\n` }));

test("without a database the view says what to set, and the key's page shows the rest", OPTIONS, () => onPanel(async ({ page }) => {
  await makeKey(page, { name: "plain" });
  await open(page, "#/usage");
  await page.getByText("Usage is not kept").waitFor();
  assert.ok(!(await page.getByText("Sums by").isVisible()));
  await open(page, "#/keys");
  await page.reload();
  await openMenu(page, "plain", "Usage");
  await page.getByRole("heading", { level: 1, name: "plain" }).waitFor();
  await page.getByText("Usage is not kept").waitFor();
  await page.getByText("No request was refused in the last hour.").waitFor();
}, { config: "[database]\nurl = \"\"\n" }));

test("a fault of the database is told, with a way to try again", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await used(page, gateway);
  await page.route("**/api/usage?*", (route) => route.fulfill({ status: 503, json: { error: { message: "The database cannot be read.", field: null, code: "usage_unavailable" } } }));
  await open(page, "#/usage");
  await page.getByText("The usage could not be loaded. The database cannot be read.").waitFor();
  await page.unroute("**/api/usage?*");
  await button(page, "Try again").click();
  await page.getByText("5,000", { exact: true }).first().waitFor();
  assert.match(await focused(page), /Usage|BODY|MAIN|Try again/);
}));
