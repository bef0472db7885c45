// What the views do for whoever works in them: the position, the focus, what is said, and what fits on the screen.

import assert from "node:assert/strict";
import { test } from "node:test";
import { HOSTILE } from "./gateway.mjs";
import { LIMIT, button, choices, created, focused, makeKey, onPanel, open, openMenu, pager, pane, row, toast } from "./page.mjs";

const line = (fields) => `${JSON.stringify({ name: fields.id, hash: `blake3:${Buffer.from(fields.id.padEnd(32)).toString("hex").slice(0, 64)}`, model_access: { mode: "all" }, ...fields })}\n`;
const devices = (many) => Array.from({ length: many }, (_, at) => line({ id: `key_${at}`, name: `device ${at}` })).join("");

test("the position moves only when the page comes, however often Older is clicked", LIMIT, () => onPanel(async ({ page }) => {
  await page.getByText("Keys 1–50 of 160").waitFor();
  const held = [];
  await page.route("**/api/keys?*", (route) => { held.push(route); });
  await pager(page, "Older").click();
  await pager(page, "Older").click();
  await page.waitForFunction(() => document.querySelector(".table-card")?.getAttribute("aria-busy") === "true");
  while (held.length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
  await page.getByText("Keys 1–50 of 160").waitFor();
  await page.unroute("**/api/keys?*");
  for (const route of held) await route.continue().catch(() => {});
  await page.getByText("Keys 51–100 of 160").waitFor();
  await row(page, "device 109").waitFor();
  assert.equal(await page.getByRole("rowheader").first().innerText(), "device 109");
  // A page that fails moves nothing either.
  await page.route("**/api/keys?*", (route) => route.fulfill({ status: 500, json: { error: { message: "Something failed.", field: null } } }));
  await pager(page, "Older").click();
  await page.getByText("The keys could not be loaded. Something failed.").waitFor();
  await page.getByText("Keys 51–100 of 160").waitFor();
  await page.unroute("**/api/keys?*");
  await button(page, "Try again").click();
  await page.getByText("Keys 101–150 of 160").waitFor();
}, { keys: devices(160) }));

test("the skip link moves the focus and stays in the view", LIMIT, () => onPanel(async ({ page }) => {
  await open(page, "#/models");
  await page.getByRole("heading", { level: 1, name: "On-Demand Models" }).waitFor();
  await page.getByRole("link", { name: "Skip to the content" }).focus();
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await page.getByRole("heading", { level: 1, name: "On-Demand Models" }).waitFor();
  assert.match(page.url(), /#\/models$/);
}));

test("choosing a found model empties the search, and leftover text with something chosen is no error", LIMIT, () => onPanel(async ({ page }) => {
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("chooser");
  await pane(page).getByLabel("Model Access Selection").selectOption("inclusive");
  const search = pane(page).getByRole("combobox", { name: "Search models" });
  for (const [text, name] of [["chat", "tiny-chat"], ["code", "tiny-code"]]) {
    await search.fill(text);
    await choices(page).filter({ hasText: name }).click();
    assert.equal(await search.inputValue(), "");
    await choices(page).nth(3).waitFor();
  }
  await search.fill("emb");
  await button(pane(page), "Create").click();
  await created(page).waitFor();
  await page.keyboard.press("Escape");
  assert.match(await row(page, "chooser").textContent(), /tiny-chat.*tiny-code/s);
}));

test("an address that the gateway does not know is not shown as null", LIMIT, () => onPanel(async ({ page }) => {
  await page.route("**/api/session", async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...(await response.json()), client_address: null } });
  });
  await page.reload();
  await page.getByText("No API keys yet").waitFor();
  assert.match(await page.locator("#who").innerText(), /^keygate \d\S*$/);
  await page.locator("#create-key").click();
  assert.ok(!(await page.locator("body").innerText()).includes("null"));
}));

test("paging, deleting and refreshing never lose the focus", LIMIT, () => onPanel(async ({ page }) => {
  await page.getByText("Keys 1–50 of 52").waitFor();
  await pager(page, "Older").focus();
  await page.keyboard.press("Enter");
  await page.getByText("Keys 51–52 of 52").waitFor();
  await page.waitForFunction(() => document.activeElement.textContent === "Newer");
  for (const [gone, then] of [["device 1", /^Actions for .*device 0/], ["device 0", /^Actions for .*device/]]) {
    await row(page, gone).getByRole("button", { name: /^Actions for/ }).focus();
    for (const key of ["Enter", "End", "Enter"]) await page.keyboard.press(key);
    await page.getByRole("alertdialog").getByRole("button", { name: /^OK/ }).press("Enter");
    await row(page, gone).waitFor({ state: "detached" });
    await page.waitForFunction(() => document.activeElement !== document.body && document.activeElement.id !== "main");
    assert.match(await focused(page), then);
  }
  await page.getByText("50 keys").waitFor();
  await row(page, "device 30").getByRole("button", { name: /^Actions for/ }).focus();
  const answered = page.waitForResponse(/api\/keys\?/);
  await page.evaluate(() => dispatchEvent(new Event("focus")));
  await answered;
  await page.waitForFunction(() => document.querySelector(".table-card")?.getAttribute("aria-busy") === "false");
  assert.match(await focused(page), /device 30/);
}, { keys: devices(52) }));

test("an expired key that is enabled, or saved, is said to stay refused", LIMIT, () => onPanel(async ({ page }) => {
  await row(page, "old").getByText("Disabled").waitFor();
  await openMenu(page, "old", "Enable");
  await toast(page, /“old” is enabled again\. It stays refused: it expired .* ago\./).waitFor();
  await row(page, "old").getByText("Expired", { exact: true }).waitFor();
  await openMenu(page, "old", "Edit");
  await pane(page).getByLabel("Account").fill("acme");
  await button(pane(page), "Save").click();
  await toast(page, /“old” was saved\. It stays refused/).waitFor();
}, { keys: line({ id: "key_old", name: "old", disabled: true, expires_at: "2020-01-01T00:00:00Z" }) }));

test("durations are rounded to the nearest", LIMIT, () => onPanel(async ({ page }) => {
  const told = await page.evaluate(async () => {
    const { fromNow } = await import("/panel/format.js");
    const minute = 60_000;
    return [95, -95, 100 * 60 * 24 - 30, 119 * 60 / 60, 59.7, 23.6 * 60, 25 * 60 + 40, 6.9 * 24 * 60, -36 * 60 - 1, 729 * 24 * 60].map((minutes) => fromNow(Date.now() + minutes * minute));
  });
  assert.deepEqual(told, ["in 2 hours", "2 hours ago", "in 3 months", "in 2 hours", "in 1 hour", "in 1 day", "in 1 day", "in 7 days", "2 days ago", "in 2 years"]);
}));

test("a copy that fails selects the text, in every place that copies", LIMIT, () => onPanel(async ({ page }) => {
  await page.evaluate(() => {
    Object.defineProperty(navigator, "clipboard", { value: undefined });
    document.execCommand = () => false;
  });
  const selected = () => page.evaluate(() => String(getSelection()));
  await button(page, "Copy OpenAI Compatible URL").click();
  assert.match(await selected(), /^http.*\/v1$/);
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("by hand");
  await page.keyboard.press("Enter");
  await button(created(page), "Copy Bearer Token").click();
  await created(page).getByText("Press Ctrl+C").first().waitFor();
  assert.match(await selected(), /^kg_[0-9A-Za-z]{49}$/);
  await button(created(page), "Copy this text").click();
  assert.match(await selected(), /^curl /);
  await page.keyboard.press("Escape");
  await openMenu(page, "by hand", "Edit");
  await button(pane(page), "Copy ID").click();
  assert.match(await selected(), /^key_/);
  await page.keyboard.press("Escape");
  await open(page, "#/models");
  await page.getByRole("button", { name: /^Copy model name .*tiny-chat/ }).click();
  assert.equal(await selected(), "tiny-chat");
}));

test("the windows name their key, and its ID can be copied", LIMIT, () => onPanel(async ({ page, context }) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("web site");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: /API Key Created Successfully.*web site/ }).getByText("“web site”").waitFor();
  await page.keyboard.press("Escape");
  await openMenu(page, "web site", "Edit");
  const edit = page.getByRole("dialog", { name: /Edit API Key.*web site/ });
  await button(edit, "Copy ID").click();
  await edit.getByRole("button", { name: "Copied ID" }).waitFor();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^key_[0-9A-Za-z]+$/);
  await page.keyboard.press("Escape");
  await openMenu(page, "web site", "Delete");
  const question = page.getByRole("alertdialog");
  assert.equal(await question.getByRole("button", { name: /^OK, delete .*web site/ }).innerText(), "OK");
}));

test("changing Inclusive and Exclusive over asks, and then empties the list", LIMIT, () => onPanel(async ({ page }) => {
  await page.locator("#create-key").click();
  const select = pane(page).getByLabel("Model Access Selection");
  const chosen = () => pane(page).getByRole("list", { name: "Chosen models" }).getByRole("listitem").allTextContents();
  await select.selectOption("inclusive");
  await choices(page).filter({ hasText: "tiny-chat" }).click();
  const question = page.getByRole("alertdialog", { name: "Empty the list of models?" });
  await select.selectOption("exclusive");
  await button(question, "Cancel").click();
  assert.equal(await select.inputValue(), "inclusive");
  assert.deepEqual(await chosen(), ["tiny-chat"]);
  // By way of All it is the same change.
  await select.selectOption("all");
  await select.selectOption("exclusive");
  await page.keyboard.press("Escape");
  assert.equal(await select.inputValue(), "all");
  await select.selectOption("inclusive");
  assert.deepEqual(await chosen(), ["tiny-chat"]);
  await select.selectOption("exclusive");
  await question.getByRole("button", { name: /^Change to Exclusive/ }).click();
  assert.equal(await select.inputValue(), "exclusive");
  assert.deepEqual(await chosen(), []);
}));

test("names of models are shown with the characters spelled out that nobody sees", LIMIT, () => onPanel(async ({ page }) => {
  const spelled = HOSTILE.replace("\u202e", "\\u202e");
  await makeKey(page, { name: "hostile", model_access: { mode: "inclusive", models: [HOSTILE] } });
  await page.reload();
  await row(page, "hostile").getByText(spelled).waitFor();
  await openMenu(page, "hostile", "Edit");
  await choices(page).filter({ hasText: spelled }).waitFor();
  await pane(page).getByRole("list", { name: "Chosen models" }).getByText(spelled).waitFor();
  await page.keyboard.press("Escape");
  await open(page, "#/models");
  await page.getByRole("rowheader").getByText(spelled).waitFor();
  assert.ok(!(await page.evaluate(() => document.documentElement.outerHTML)).includes("\u202e"));
}));

test("the list refreshes when its window gets the focus, and by its button", LIMIT, () => onPanel(async ({ page, context }) => {
  await page.getByText("No API keys yet").waitFor();
  await makeKey(page, { name: "made elsewhere" });
  await page.evaluate(() => dispatchEvent(new Event("focus")));
  await row(page, "made elsewhere").waitFor();
  await makeKey(page, { name: "and another" });
  await button(page, "Refresh").click();
  await row(page, "and another").waitFor();
  assert.ok(context);
}));
