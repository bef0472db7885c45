// Pictures of the panel, of a made-up gateway that is the same for whoever draws it:
//
//   node screenshots.mjs FOLDER [NAME…]    every view, light and dark, wide and narrow, or those whose names begin so
//   node screenshots.mjs --readme          those that the README and the guide show

import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { startBrowser } from "./browser.mjs";
import { startMock } from "./mock.mjs";

const SIZES = { wide: { width: 1280, height: 820 }, narrow: { width: 360, height: 760 } };
const TOKEN = "kg_3fTz8QmWc1vKp0sLr6Yb9HxJd2NgU5aEoRiVw7Xq4Ct1tM8uB";

/** What each picture shows: where it begins, and what to do there. */
const VIEWS = {
  "sign-in": { signedIn: false, go: async (page) => {
    await page.getByLabel("Admin token").fill("wrong");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("This is not the admin token").waitFor();
  } },
  keys: { go: async () => {} },
  "keys-empty": { shape: "empty", go: async () => {} },
  "keys-many": { shape: "many", go: (page) => page.getByRole("button", { name: "Older" }).first().click() },
  "keys-menu": { go: (page) => page.getByRole("button", { name: /^Actions/ }).nth(2).click() },
  create: { go: async (page) => {
    await page.locator("#create-key").click();
    await fillIn(page);
  } },
  "create-faulty": { go: async (page) => {
    await page.locator("#create-key").click();
    await page.getByLabel("Allow access from").fill("2001:db8::/32");
    await page.getByRole("button", { name: "Create", exact: true }).click();
  } },
  edit: { go: (page) => page.getByRole("button", { name: "support chat" }).first().click() },
  created: { go: async (page) => {
    await page.route("**/api/keys", async (route) => {
      if (route.request().method() !== "POST") return route.fallback();
      const response = await route.fetch();
      return route.fulfill({ response, json: { ...await response.json(), token: TOKEN } });
    });
    await page.locator("#create-key").click();
    await fillIn(page);
    await page.getByRole("button", { name: "Create", exact: true }).click();
    await page.getByText("API Key Created Successfully").waitFor();
  } },
  delete: { go: async (page) => {
    await page.getByRole("button", { name: /^Actions/ }).nth(2).click();
    await page.getByRole("menuitem", { name: "Delete" }).click();
  } },
  deleted: { go: async (page) => {
    await page.getByRole("button", { name: /^Actions/ }).nth(2).click();
    await page.getByRole("menuitem", { name: "Delete" }).click();
    await page.getByRole("button", { name: /^OK/ }).click();
    await page.locator(".toast").waitFor();
  } },
  accounts: { hash: "#/accounts", go: (page) => page.getByRole("rowheader").first().waitFor() },
  account: { hash: "#/accounts/acme", full: true, go: usageIsThere },
  "account-edit": { hash: "#/accounts", go: async (page) => {
    await page.getByRole("button", { name: /^Actions/ }).first().click();
    await page.getByRole("menuitem", { name: "Edit" }).click();
    await page.getByText("Limits and budgets of all").waitFor();
  } },
  "account-delete": { hash: "#/accounts", go: async (page) => {
    await page.getByRole("button", { name: /^Actions/ }).first().click();
    await page.getByRole("menuitem", { name: "Delete" }).click();
  } },
  "create-bounded": { go: async (page) => {
    await page.locator("#create-key").click();
    await fillIn(page);
    await page.getByRole("dialog").getByLabel("Account").fill("acme");
  } },
  models: { hash: "#/models", go: async () => {} },
  usage: { hash: "#/usage", full: true, go: usageIsThere },
  "usage-day": { hash: "#/usage?range=24h&show=cost&by=key", full: true, go: async (page) => {
    await usageIsThere(page);
    await page.getByText("The same as a table").click();
  } },
  "usage-empty": { hash: "#/usage", shape: "empty", go: usageIsThere },
  "usage-pointed": { hash: "#/usage", go: async (page) => {
    await usageIsThere(page);
    await page.getByLabel(/^Usage by model over time/).press("ArrowLeft");
    for (let step = 0; step < 9; step += 1) await page.keyboard.press("ArrowLeft");
  } },
  key: { hash: "#/key?id=key_0000000000000000000001", full: true, go: usageIsThere },
  dashboard: { hash: "#/dashboard", full: true, go: async (page) => {
    await page.getByText("Generation").waitFor();
  } },
  "dashboard-empty": { hash: "#/dashboard", shape: "empty", go: async (page) => {
    await page.getByText("Generation").waitFor();
  } },
  "dashboard-pointed": { hash: "#/dashboard", go: async (page) => {
    await page.getByText("Generation").waitFor();
    await page.getByLabel(/^Refused requests by minute/).press("ArrowLeft");
    for (let step = 0; step < 22; step += 1) await page.keyboard.press("ArrowLeft");
  } },
  reload: { hash: "#/dashboard", go: async (page) => {
    await page.getByRole("button", { name: "Reload…" }).click();
    await page.getByRole("button", { name: "Reload now" }).waitFor();
  } },
};

function usageIsThere(page) {
  return page.locator(".usage-report[aria-busy=false]").waitFor();
}

async function fillIn(page) {
  await page.getByLabel("Name").fill("mobile app");
  await page.getByLabel("Model Access Selection").selectOption("inclusive");
  await page.getByRole("dialog").getByRole("option", { name: "llama-3.3-70b" }).click();
  await page.getByRole("dialog").getByRole("option", { name: "bge-m3" }).click();
  await page.getByRole("button", { name: /Use my address/ }).click();
  await page.getByRole("dialog").getByText("90 days").click();
}

const README = fileURLToPath(new URL("../../doc/", import.meta.url));
const README_VIEWS = { keys: "light", created: "light", usage: "light", dashboard: "dark" };

/** One picture: a PNG, or, for pages that load it from afar, a WebP of a third of the size. */
async function draw(browser, file, view, { viewport, colorScheme, scale = 1, webp = false, full = view.full ?? false }) {
  const mock = await startMock({ shape: view.shape });
  const page = await browser.newPage({ viewport, colorScheme, reducedMotion: "reduce", deviceScaleFactor: scale });
  page.on("console", (message) => message.type() === "error" && !message.text().includes("401") && console.error(`${file}: ${message.text()}`));
  page.on("pageerror", (error) => console.error(`${file}: ${error.stack}`));
  await page.goto(`${mock.url}/${view.signedIn === false ? "" : view.hash ?? ""}`);
  if (view.signedIn !== false) {
    await page.getByLabel("Admin token").fill(mock.token);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.locator("[aria-busy=false], .tile").first().waitFor({ state: "attached" });
  }
  await view.go(page);
  await page.evaluate(() => Promise.allSettled(document.getAnimations().map(({ finished }) => finished)));
  await page.mouse.move(0, 0);
  const png = await page.screenshot({ fullPage: full });
  await writeFile(file, webp ? await asWebp(browser, png) : png);
  await page.close();
  await mock.stop();
}

/** Chromium itself writes WebP, through a canvas. */
async function asWebp(browser, png) {
  const page = await browser.newPage();
  const data = await page.evaluate(async (png) => {
    const picture = await createImageBitmap(await (await fetch(png)).blob());
    const canvas = document.createElement("canvas");
    canvas.width = picture.width;
    canvas.height = picture.height;
    canvas.getContext("2d").drawImage(picture, 0, 0);
    return canvas.toDataURL("image/webp", 0.75).split(",")[1];
  }, `data:image/png;base64,${png.toString("base64")}`);
  await page.close();
  return Buffer.from(data, "base64");
}

const [folder, ...names] = process.argv.slice(2);
if (!folder) {
  console.error("usage: node screenshots.mjs FOLDER [NAME…] | --readme");
  process.exit(2);
}
const browser = await startBrowser();
if (folder === "--readme") {
  await mkdir(README, { recursive: true });
  for (const [name, colorScheme] of Object.entries(README_VIEWS)) {
    const viewport = { width: 1280, height: 780 };
    await draw(browser, path.join(README, `panel-${name}.webp`), VIEWS[name], { viewport, colorScheme, scale: 2, webp: true, full: false });
  }
} else {
  await mkdir(folder, { recursive: true });
  for (const [name, view] of Object.entries(VIEWS)) {
    for (const [size, viewport] of Object.entries(SIZES)) {
      for (const colorScheme of ["light", "dark"]) {
        const file = `${name}-${size}-${colorScheme}`;
        if (names.length > 0 && !names.some((wanted) => file.startsWith(wanted))) continue;
        await draw(browser, path.join(folder, `${file}.png`), view, { viewport, colorScheme });
      }
    }
  }
}
await browser.close();
