// What fits on the screen: narrow ones, tablets, and text enlarged to 400 %.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { startBrowser } from "./browser.mjs";
import { LIMIT, button, created, makeKey, onPanel, openMenu, pager, pane, row } from "./page.mjs";

const line = (fields) => `${JSON.stringify({ name: fields.id, hash: `blake3:${Buffer.from(fields.id.padEnd(32)).toString("hex").slice(0, 64)}`, model_access: { mode: "all" }, ...fields })}\n`;
const devices = Array.from({ length: 60 }, (_, at) => line({ id: `key_${at}`, name: `device ${at}`, account: "acme", hint: "x9Qz", expires_at: "2099-05-01T00:00:00Z",
  allow_from: ["192.0.2.0/24", "198.51.100.128/25"], model_access: at % 3 ? { mode: "all" } : { mode: "inclusive", models: ["llama-3.3-70b-instruct", "bge-m3"] } })).join("");

let withScrollbars;
before(async () => { withScrollbars = await startBrowser({ scrollbars: true }); });
after(() => withScrollbars?.close());

/** The controls of the open window that cannot be brought wholly into view, or that something else covers there. */
const outOfReach = (page) => page.evaluate(async () => {
  await Promise.allSettled(document.getAnimations().map(({ finished }) => finished));
  const dialog = [...document.querySelectorAll("dialog[open]")].at(-1);
  return [...dialog.querySelectorAll("button, input:not([type=radio]), select, label, [role=option]")].filter((control) => {
    // Not what a closed group holds, either.
    if (!control.checkVisibility()) return false;
    control.scrollIntoView({ block: "nearest", inline: "nearest" });
    const { left, right, top, bottom } = control.getBoundingClientRect();
    const at = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
    return left < -0.5 || right > innerWidth + 0.5 || top < -0.5 || bottom > innerHeight + 0.5 || !(control.contains(at) || at?.closest("label, .select") === control.closest("label, .select"));
  }).map((control) => `${control.tagName} ${control.getAttribute("aria-label") ?? control.textContent} ${JSON.stringify(control.getBoundingClientRect())}`);
});

for (const viewport of [{ width: 360, height: 740 }, { width: 360, height: 500 }, { width: 320, height: 256 }]) {
  test(`every control of every window can be reached at ${viewport.width} x ${viewport.height}`, LIMIT, () => onPanel(async ({ page }) => {
    // Scrollbars that take room: the page behind is longer than the screen.
    for (let at = 0; at < 4; at += 1) await makeKey(page, { name: `filler ${at}` });
    await makeKey(page, { name: "w".repeat(100), account: "w".repeat(100), expires_at: "2099-01-01", allow_from: ["192.0.2.0/24"], model_access: { mode: "inclusive", models: ["tiny-chat"] } });
    await page.reload();
    const check = async (what) => assert.deepEqual(await outOfReach(page), [], what);
    await page.locator("#create-key").click();
    await pane(page).getByLabel("Model Access Selection").selectOption("inclusive");
    await pane(page).getByText("On a date").click();
    await check("create");
    await pane(page).getByText("Limits and budgets").click();
    await button(pane(page), "Add a budget").click();
    await check("with limits and a budget");
    await button(pane(page), "Remove this budget").click();
    await pane(page).getByText("Limits and budgets").click();
    await button(pane(page), "Create").click();
    await check("with faults");
    await pane(page).getByLabel("Model Access Selection").selectOption("all");
    await pane(page).getByText("30 days").click();
    await pane(page).getByLabel("Name").fill("narrow");
    await page.route("**/api/keys", (route) => route.fulfill({ status: 507, json: { error: { message: `keys.jsonl: ${"no space left ".repeat(80)}`, field: null }, in_force: false } }));
    await button(pane(page), "Create").click();
    await pane(page).getByText("No key was created.").waitFor();
    await check("with a long message");
    await page.unroute("**/api/keys");
    await page.keyboard.press("Escape");
    await pane(page).getByText("Discard what you typed?").waitFor();
    await check("in doubt");
    await button(pane(page), "Keep editing").click();
    await button(pane(page), "Create").click();
    await created(page).waitFor();
    await check("created");
    await page.keyboard.press("Escape");
    for (const item of ["Edit", "Would this pass?", "Delete"]) {
      await openMenu(page, "w".repeat(100), item);
      await page.getByRole(item === "Delete" ? "alertdialog" : "dialog").waitFor();
      await check(item);
      await page.keyboard.press("Escape");
    }
    await row(page, "narrow").getByRole("checkbox").check();
    for (const action of ["Disable…", "Extend…", "Delete…"]) {
      await button(page, action).click();
      await page.getByRole("dialog").waitFor();
      await check(action);
      await page.keyboard.press("Escape");
    }
  }, { options: { viewport }, get using() { return withScrollbars; } }));
}

for (const width of [700, 768, 980, 1100]) {
  test(`the keys are a dense table with a head that stays at ${width} pixels`, LIMIT, () => onPanel(async ({ page }) => {
    await page.getByText("Keys 1–50 of 60").waitFor();
    const { height } = await row(page, "device 58").boundingBox();
    assert.ok(height < 110, `a key takes ${height} pixels`);
    const head = page.getByRole("columnheader", { name: "Expires" });
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing scrolls sideways");
    await row(page, "device 30").scrollIntoViewIfNeeded();
    const box = await head.boundingBox();
    assert.ok(box.y >= -1 && box.y < 5, `the head is at ${box.y}`);
    const low = page.getByRole("navigation", { name: "Pages, below the list" });
    await button(low, "Older").click();
    await page.getByText("Keys 51–60 of 60").waitFor();
    assert.ok(await pager(page, "Older").isDisabled());
    await page.waitForFunction(() => document.activeElement.textContent === "Newer" && document.activeElement.closest("nav").getAttribute("aria-label") === "Pages, below the list");
  }, { keys: devices, options: { viewport: { width, height: 700 } } }));
}
