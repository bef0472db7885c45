// People in the tests: invited by the operator over the API, signed in on the page.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { keep } from "./gateway.mjs";
import { button } from "./page.mjs";

export const password = () => {
  const made = randomBytes(12).toString("base64url");
  keep("secrets", made);
  return made;
};

/** Calls the admin API as the operator, with the admin token. */
export async function operator(gateway, method, path, body) {
  const response = await fetch(`${gateway.url}${path}`, { method, headers: { Authorization: `Bearer ${gateway.token}`, "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await response.text();
  const answer = text === "" ? null : JSON.parse(text);
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
  return answer;
}

export const makeAccount = (gateway, fields) => operator(gateway, "POST", "/api/accounts", fields);

/** The link of an invitation. */
export async function invite(gateway, account, email, role) {
  const { link } = await operator(gateway, "POST", `/api/accounts/${account}/invitations`, { email, role });
  keep("secrets", link.split("=")[1]);
  return link;
}

/** A person who has accepted invitations to these accounts, {id: role}: {email, password}. */
export async function makePerson(gateway, email, accounts) {
  const person = { email, password: password() };
  for (const [account, role] of Object.entries(accounts)) {
    const code = (await invite(gateway, account, email, role)).split("=")[1];
    const response = await fetch(`${gateway.url}/api/session`, { method: "POST", headers: { "Content-Type": "application/json", Origin: gateway.url },
      body: JSON.stringify({ invitation: code, password: person.password }) });
    assert.ok(response.ok, `the invitation of ${email}: ${response.status}`);
  }
  return person;
}

export async function signInAs(page, { email, password }) {
  await page.getByLabel("E-mail address").fill(email);
  await page.getByLabel("Password", { exact: true }).fill(password);
  await button(page, "Sign in").click();
  await page.getByRole("dialog", { name: "Sign in" }).waitFor({ state: "detached" });
  await page.getByRole("heading", { level: 1 }).waitFor();
}

/** The API as the person on the page uses it. */
export const menu = (page) => page.getByRole("navigation", { name: "AI" });
