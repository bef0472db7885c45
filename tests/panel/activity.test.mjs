// The view Activity: who changed what, of all keys or of one, and whether the rows are as they were written.

import assert from "node:assert/strict";
import { test } from "node:test";
import { HOSTILE, isMock } from "./gateway.mjs";
import { LIMIT, api, button, makeKey, onPanel, open, openMenu } from "./page.mjs";

const heading = (page) => page.getByRole("heading", { level: 1, name: "Activity" });
const rows = (page) => page.locator("table.activity tbody tr");

test("each change is a row that says who, what, and from what to what", { ...LIMIT, skip: isMock }, () => onPanel(async ({ page }) => {
  const { key } = await makeKey(page, { name: HOSTILE.replace("\u202e", "") });
  await api(page, "PATCH", `/api/keys/${key.id}`, { account: "acme", model_access: { mode: "inclusive", models: ["tiny-chat", HOSTILE] } });
  await api(page, "PATCH", `/api/keys/${key.id}`, { disabled: true });
  await open(page, "#/activity");
  await heading(page).waitFor();
  await page.getByText("4 changes", { exact: true }).waitFor();
  await page.getByText("Intact up to row 4.").waitFor();
  const texts = await rows(page).allInnerTexts();
  assert.match(texts[0], /operator\s+panel, 127\.0\.0\.1\s+Changed\s+key_\S+\s+disabled: false → .*true/s);
  assert.match(texts[1], /account: none → .*acme/s);
  assert.match(texts[1], /model_access: all → .*inclusive: tiny-chat, <img src=x .*\\u202egnp/s);
  assert.match(texts[2], /Created/);
  assert.ok(texts[2].includes("name: <img src=x"), texts[2]);
  assert.match(texts[3], /Signed in/);
  assert.equal(await page.evaluate(() => window.pwned), undefined);
}));

test("a rotation and the end of an old token are rows with hints alone", { ...LIMIT, skip: isMock }, () => onPanel(async ({ page }) => {
  const { key } = await makeKey(page, { name: "rotated" });
  await api(page, "POST", `/api/keys/${key.id}/rotate`, { grace_seconds: 600 });
  await api(page, "POST", `/api/keys/${key.id}/expire-previous`, {});
  await open(page, `#/activity?key=${key.id}`);
  await page.getByText("3 changes", { exact: true }).waitFor();
  const texts = await rows(page).allInnerTexts();
  assert.match(texts[0], /Old token ended.*previous: .*"hint":"\S{4}".* → .*none/s);
  assert.match(texts[1], /Token rotated.*hint: .*previous: none → .*"not_after".*token: replaced/s);
  assert.doesNotMatch(texts.join(), /blake3|hash/);
  await page.getByRole("combobox", { name: "Action" }).selectOption("expire_previous");
  await page.getByText("1 change", { exact: true }).waitFor();
}));

test("the rows of one key, one actor or one action are found, and the address keeps the filters", { ...LIMIT, skip: isMock }, () => onPanel(async ({ page }) => {
  for (const name of ["one", "two"]) await makeKey(page, { name });
  await page.reload();
  await openMenu(page, "one", "Activity");
  await heading(page).waitFor();
  await page.getByText("1 change", { exact: true }).waitFor();
  assert.match(page.url(), /#\/activity\?key=key_/);
  await page.reload();
  await page.getByText("1 change", { exact: true }).waitFor();
  await page.getByRole("searchbox", { name: "Key" }).fill("");
  await page.getByRole("combobox", { name: "Action" }).selectOption("sign_in");
  await rows(page).filter({ hasText: "Signed in" }).waitFor();
  assert.equal(await rows(page).count(), 1);
  await page.getByRole("searchbox", { name: "Who" }).fill("nobody");
  await page.keyboard.press("Enter");
  await page.getByText("No change fits these filters.").waitFor();
  await page.getByRole("searchbox", { name: "Key" }).fill("no key");
  await page.keyboard.press("Enter");
  await page.getByText(/The activity could not be loaded\. .*must be the id of a key/).waitFor();
}));

test("more rows are loaded on demand, and none twice", { ...LIMIT, skip: isMock }, () => onPanel(async ({ page }) => {
  const { key } = await makeKey(page, { name: "busy" });
  for (let at = 0; at < 60; at += 1) await api(page, "PATCH", `/api/keys/${key.id}`, { account: `a${at}` });
  await open(page, "#/activity");
  await page.getByText("50 changes shown").waitFor();
  await button(page, "Load more").click();
  await page.getByText("62 changes", { exact: true }).waitFor();
  const numbers = await rows(page).evaluateAll((found) => found.map((row) => Number(row.dataset.n)));
  assert.deepEqual(numbers, Array.from({ length: 62 }, (_, at) => 62 - at));
  assert.equal(await page.evaluate(() => document.activeElement.dataset.n), "12");
  assert.ok(await button(page, "Load more").isHidden());
}));

test("a broken chain is told, and so is a gateway without a database", LIMIT, () => onPanel(async ({ page }) => {
  await page.route("**/api/audit?*", (route) => route.fulfill({ json: { rows: [], next: null } }));
  await page.route("**/api/audit/verify", (route) => route.fulfill({ json: { intact: false, rows: 4, first: 1, intact_to: 2, hash: "0".repeat(64),
    broken: { n: 3, what: "changed_row", message: "row 3 is not as it was written" }, waiting: 2, lost: 0 } }));
  await open(page, "#/activity");
  await page.getByText("Broken at row 3: row 3 is not as it was written. 2 rows wait for the database.").waitFor();
  await page.getByText("Changes of keys, reloads and sign-ins appear here.").waitFor();
  const none = { status: 404, json: { error: { message: "There is no database.", field: null, code: "audit_unavailable" } } };
  for (const path of ["**/api/audit?*", "**/api/audit/verify"]) {
    await page.unroute(path);
    await page.route(path, (route) => route.fulfill(none));
  }
  await button(page, "Refresh").click();
  await page.getByText("The activity could not be loaded. There is no database.").waitFor();
}));
