// The gateways that share a database, as the operator sees them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { isMock } from "./gateway.mjs";
import { FLEET, LIMIT, button, onPanel, open } from "./page.mjs";
import { makeAccount, makePerson, menu, signInAs } from "./people.mjs";

const OPTIONS = { ...LIMIT, skip: isMock && "the mock has no people" };
const words = async (page) => (await page.getByRole("row").filter({ has: page.getByRole("rowheader") }).allInnerTexts())
  .map((text) => text.split(/\s*[\n\t]\s*/).filter(Boolean));

test("each gateway is listed with its state in words", OPTIONS, () => onPanel(async ({ page }) => {
  let fleet = FLEET;
  await page.route("**/api/fleet", (route) => route.fulfill({ json: fleet }));
  await menu(page).getByRole("link", { name: "Fleet" }).click();
  await page.getByRole("heading", { level: 1, name: "Fleet" }).waitFor();
  await page.getByText("5 gateways").waitFor();
  assert.deepEqual((await words(page)).map(([name, version, state, revision, lag, running]) => [name, version, state, revision, lag, running]), [
    ["eu-1", "0.1.0, this one", "In sync", "1,234,567", "12 ms", "3"],
    ["eu-2", "0.1.0", "Behind by 1,203 changes", "1,233,364", "2.5 s", "1,000"],
    [FLEET.data[2].name, "0.1.0", "Keys from a file", "none", "none", "0"],
    ["eu-4", "0.1.0", "Ahead of the database", "1,234,568", "none", "0"],
    ["eu-5", "0.0.9", `Not seen since 1 hour ago`, "1,234,567", "none", "0"],
  ]);
  assert.equal(await page.getByText("The database is away").count(), 0);

  fleet = { ...FLEET, database: { up: false, error: "db.example.com: the server cannot be reached", read_at: new Date(Date.now() - 120_000).toISOString() } };
  await button(page, "Refresh").click();
  await page.getByText("The database is away. This is what was read last, 2 minutes ago. db.example.com: the server cannot be reached").waitFor();
  assert.equal((await words(page)).length, 5);

  fleet = { ...fleet, revision: null, database: { ...fleet.database, read_at: null }, data: [{ ...FLEET.data[0], revision: null, behind: null, lag_seconds: null }] };
  await button(page, "Refresh").click();
  await page.getByText("The other gateways are not known.").waitFor();
  assert.deepEqual((await words(page))[0].slice(0, 3), ["eu-1", "0.1.0, this one", "Seen"]);

  await page.unroute("**/api/fleet");
  await page.route("**/api/fleet", (route) => route.fulfill({ status: 500, json: { error: { message: "Something failed.", field: null } } }));
  await button(page, "Refresh").click();
  await page.getByText("The gateways could not be loaded. Something failed.").waitFor();
  await page.unroute("**/api/fleet");
  await button(page, "Try again").click();
  await page.getByText("This gateway has its own database.").waitFor();
  assert.equal(await page.getByRole("table").isVisible(), false);
}));

test("a person has no way to the fleet", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await makeAccount(gateway, { id: "acme" });
  await signInAs(page, await makePerson(gateway, "alice@example.com", { acme: "owner" }));
  await menu(page).getByRole("link", { name: "Members" }).waitFor();
  assert.equal(await menu(page).getByRole("link", { name: "Fleet" }).count(), 0);
  const asked = [];
  page.on("request", (request) => asked.push(new URL(request.url()).pathname));
  await open(page, "#/fleet");
  await page.getByRole("heading", { level: 1, name: "API Keys" }).waitFor();
  assert.ok(!asked.includes("/api/fleet"), asked.join());
}, { signedIn: false }));
