// A key gets a new token in the panel, and its old one is seen and ended there.

import assert from "node:assert/strict";
import { test } from "node:test";
import { keep } from "./gateway.mjs";
import { LIMIT, api, assertChat, button, makeKey, onPanel, openMenu, pane, row, toast } from "./page.mjs";

const rotation = (page) => page.getByRole("dialog", { name: /^Rotate this API key/ });
const rotated = (page) => page.getByRole("dialog", { name: "API Key Rotated Successfully" });
const ends = (page) => page.getByRole("alertdialog", { name: "End the old token now?" });

/** The token in the window that shows it. */
async function shownToken(page) {
  const token = await rotated(page).locator(".secret-text").nth(1).innerText();
  assert.match(token, /^kg_[0-9A-Za-z]{49}$/);
  keep("secrets", token);
  return token;
}

test("a key is rotated, and its old token is seen until it is ended", LIMIT, () => onPanel(async ({ page, context, gateway }) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const { token: old } = await makeKey(page, { name: "web site" });
  await page.reload();
  await openMenu(page, "web site", "Rotate…");
  assert.equal(await rotation(page).getByText("An older token still works").count(), 0);
  await rotation(page).getByLabel("The old token works on").selectOption("For 7 days");
  await button(rotation(page), "Rotate").click();
  const token = await shownToken(page);
  assert.notEqual(token, old);
  for (const either of [old, token]) await assertChat(gateway, either, "tiny-chat", 200);
  await rotated(page).getByRole("button", { name: "Copy Bearer Token" }).click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), token);
  await page.keyboard.press("Escape");
  await rotated(page).waitFor({ state: "detached" });
  assert.ok(!(await page.content()).includes(token), "the token goes with its window");
  const cell = row(page, "web site").getByRole("cell").filter({ hasText: token.slice(-4) });
  const week = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", day: "numeric", month: "short", year: "numeric" }).format(Date.now() + 7 * 86_400_000);
  await cell.getByText(`old one until ${week}`).waitFor();

  // Another rotation would end the old token: its window says so first.
  await openMenu(page, "web site", "Rotate…");
  await rotation(page).getByText("An older token still works, which ends in").waitFor();
  assert.ok((await rotation(page).innerText()).includes(old.slice(-4)));
  await button(rotation(page), "Cancel").click();
  await assertChat(gateway, old, "tiny-chat", 200);

  // From the edit pane, in which what was typed stays and can be saved.
  await openMenu(page, "web site", "Edit");
  await pane(page).getByLabel("Name").fill("renamed");
  await button(pane(page), "End old token now").click();
  await button(ends(page), "Cancel").click();
  await assertChat(gateway, old, "tiny-chat", 200);
  await button(pane(page), "End old token now").click();
  await ends(page).getByRole("button", { name: /^End the old token of/ }).click();
  await toast(page, "has ended").waitFor();
  await button(pane(page), "End old token now").waitFor({ state: "detached" });
  await assertChat(gateway, old, "tiny-chat", 401);
  await assertChat(gateway, token, "tiny-chat", 200);
  await button(pane(page), "Save").click();
  await toast(page, "was saved").waitFor();
  await row(page, "renamed").waitFor();
  assert.equal(await row(page, "renamed").getByText("old one until").count(), 0);
  await row(page, "renamed").getByRole("button", { name: /^Actions for/ }).click();
  await page.getByRole("menuitem", { name: "Rotate…" }).waitFor();
  assert.equal(await page.getByRole("menuitem", { name: "End old token now" }).count(), 0);
}));

test("an old token is ended from the menu, and a new one that nobody copied is told", LIMIT, () => onPanel(async ({ page, gateway }) => {
  const { token: old } = await makeKey(page, { name: "web site" });
  await page.reload();
  await openMenu(page, "web site", "Rotate…");
  await button(rotation(page), "Rotate").click();
  const token = await shownToken(page);
  await page.keyboard.press("Escape");
  await toast(page, "it was not copied. The old token works until").waitFor();
  await button(page, "Put away").click();
  await openMenu(page, "web site", "End old token now");
  await ends(page).getByRole("button", { name: /^End the old token of/ }).click();
  await toast(page, "has ended").waitFor();
  await assertChat(gateway, old, "tiny-chat", 401);
  await assertChat(gateway, token, "tiny-chat", 200);
  await openMenu(page, "web site", "Rotate…");
  await rotation(page).getByLabel("The old token works on").selectOption("Not at all: it ends at once");
  await button(rotation(page), "Rotate").click();
  const last = await shownToken(page);
  await assertChat(gateway, token, "tiny-chat", 401);
  await assertChat(gateway, last, "tiny-chat", 200);
}));

test("a key that somebody changed meanwhile is not rotated", LIMIT, () => onPanel(async ({ page, gateway }) => {
  const { key, token: old } = await makeKey(page, { name: "web site" });
  await page.reload();
  await openMenu(page, "web site", "Rotate…");
  await rotation(page).waitFor();
  await api(page, "PATCH", `/api/keys/${key.id}`, { account: "acme" });
  await button(rotation(page), "Rotate").click();
  await rotation(page).getByText("The key was changed meanwhile.").waitFor();
  await assertChat(gateway, old, "tiny-chat", 200);
  const { body } = await api(page, "GET", `/api/keys/${key.id}`);
  assert.equal(body.previous, null);
}));
