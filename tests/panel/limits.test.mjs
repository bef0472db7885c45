// Limits and budgets in the panel: set, shown, changed and cleared.

import assert from "node:assert/strict";
import { test } from "node:test";
import { isMock } from "./gateway.mjs";
import { LIMIT, api, button, chat, created, makeKey, onPanel, openMenu, pane, row } from "./page.mjs";

const OPTIONS = { ...LIMIT, skip: isMock && "a mock limits nothing" };
const keyNamed = async (page, name) => (await api(page, "GET", `/api/keys?query=${name}`)).body.keys[0];

test("a key is made with limits and a budget, which are shown and cleared again", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("limited");
  await pane(page).getByText("Limits and budgets").click();
  await pane(page).getByLabel("Requests a minute").fill("0");
  await button(pane(page), "Create").click();
  await pane(page).getByText("Requests a minute: write a whole number from 1 on, “unlimited”, or nothing.").waitFor();
  await pane(page).getByLabel("Requests a minute").fill("1");
  await pane(page).getByLabel("Tokens a minute").fill("100,000");
  await button(pane(page), "Add a budget").click();
  await pane(page).getByLabel("Amount").fill("25.50");
  await button(pane(page), "Create").click();
  await pane(page).getByText("Write an amount above 0, like 5000000.").waitFor();
  await pane(page).getByLabel("Unit").selectOption("cost");
  await button(pane(page), "Create").click();
  await created(page).waitFor();
  const token = await created(page).locator("code").filter({ hasText: /^kg_/ }).first().innerText();
  await page.keyboard.press("Escape");
  const key = await keyNamed(page, "limited");
  assert.deepEqual(key.limits, { requests_per_minute: 1, tokens_per_minute: 100_000 });
  assert.deepEqual(key.budgets, [{ unit: "cost", amount: "25.5", per: "month", mode: "enforce" }]);
  assert.equal(await chat(gateway, token.trim(), "tiny-chat"), 200);
  assert.equal(await chat(gateway, token.trim(), "tiny-chat"), 429);
  await openMenu(page, "limited", "Usage");
  await page.getByText("Requests a minute: 1; Tokens a minute: 100,000").waitFor();
  await page.getByText("25.5 cost a month").waitFor();
  await button(page, "Edit").click();
  assert.equal(await pane(page).getByLabel("Requests a minute").inputValue(), "1");
  await pane(page).getByLabel("Requests a minute").fill("");
  await pane(page).getByLabel("At the same time").fill("unlimited");
  await button(pane(page), "Remove this budget").click();
  await button(pane(page), "Save").click();
  await page.getByText("Tokens a minute: 100,000; At the same time: unlimited").waitFor();
  const changed = await keyNamed(page, "limited");
  assert.deepEqual([changed.limits, changed.budgets], [{ tokens_per_minute: 100_000, concurrent_requests: "unlimited" }, []]);
}));

test("a budget that is nearly used up is marked in the list", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  const { token } = await makeKey(page, { name: "nearly", budgets: [{ unit: "requests", amount: 1, per: "day" }] });
  assert.equal(await chat(gateway, token, "tiny-chat"), 200);
  await page.waitForFunction(async () => {
    const response = await fetch("/api/keys?query=nearly", { headers: { "X-Keygate-Session": sessionStorage.getItem("keygate-session") } });
    return (await response.json()).keys[0].budget_used_ratio === 1;
  });
  await page.reload();
  await row(page, "nearly").getByText("100 % of a budget used").waitFor();
  await openMenu(page, "nearly", "Usage");
  await page.getByText("1 requests a day, 1 used, 0 left").waitFor();
}));
