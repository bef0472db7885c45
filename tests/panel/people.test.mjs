// What persons see: the link of an invitation, the first key, roles, accounts, members and sessions.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { keep, isMock } from "./gateway.mjs";
import { LIMIT, api, browser, button, chat, created, onPanel, open, pane, row, sessionSecret, signIn, toast } from "./page.mjs";
import { invite, makeAccount, makePerson, menu, operator, password, signInAs } from "./people.mjs";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const OPTIONS = { ...LIMIT, skip: isMock && "a mock has no people" };
const DAY = 86_400_000;
const SIGNED_OUT = { signedIn: false };
const heading = (page, name) => page.getByRole("heading", { level: 1, name });
const links = (page) => menu(page).getByRole("link");
const names = (page) => links(page).allTextContents();
const question = (page) => page.getByRole("alertdialog");
const memberRow = (page, email) => page.getByRole("table", { name: "Members" }).getByRole("row").filter({ hasText: email });
const items = (page) => page.getByRole("menuitem").allTextContents();
async function personMenu(page, item) {
  await page.locator("#person-menu").click();
  await page.getByRole("menuitem", { name: item }).click();
}
const acme = (gateway, more = {}) => makeAccount(gateway, { id: "acme", name: "Acme Inc.", ...more });
const linkIn = async (dialog) => {
  const link = await dialog.locator(".secret-text").innerText();
  keep("secrets", link.split("=")[1]);
  return link;
};

test("who is invited opens the link, sets a password, creates a key, and uses it", OPTIONS, () => onPanel(async ({ page, gateway, requested, spoken }) => {
  await acme(gateway, { max_key_days: 90, model_access: { mode: "inclusive", models: ["tiny-chat"] } });
  const link = await invite(gateway, "acme", "alice@example.com", "owner");
  const code = link.split("=")[1];
  await page.goto("about:blank");
  await page.goto(link);
  await heading(page, "You are invited to Acme Inc. as an owner").waitFor();
  assert.ok(!page.url().includes(code), "the code leaves the address bar");
  await page.getByText("alice@example.com").waitFor();
  const field = page.getByLabel("New password");
  assert.equal(await field.getAttribute("autocomplete"), "new-password");
  const accept = button(page, "Set the password and sign in");
  await accept.click();
  await page.getByText("Choose a password.").waitFor();
  await field.fill("short");
  await accept.click();
  await page.getByText("The password has 5 characters; 12 are the least.").waitFor();
  await field.fill("password1234");
  await accept.click();
  await page.getByText("The password is one of the most common passwords; choose another.").waitFor();
  await page.getByLabel("Show the password").check();
  assert.equal(await field.getAttribute("type"), "text");
  const chosen = password();
  await field.fill(chosen);
  await accept.click();
  // The first page has one sentence and one thing to do.
  await page.getByText("Create a key, and your programs can use the models at once.").waitFor();
  keep("secrets", await sessionSecret(page));
  assert.deepEqual(await names(page), ["API Keys", "On-Demand Models", "Usage", "Members", "Activity"]);
  await menu(page).getByText("AI", { exact: true }).waitFor();
  await page.locator(".empty").getByRole("button", { name: "Create API Key" }).click();
  await pane(page).getByLabel("Name").fill("first");
  assert.equal(await pane(page).getByLabel("Account").inputValue(), "Acme Inc.");
  await pane(page).getByText("Your account allows 90 days at most").waitFor();
  assert.ok(await pane(page).getByRole("radio", { name: "365 days" }).isDisabled());
  await pane(page).getByLabel("Model Access Selection").selectOption("inclusive");
  await pane(page).getByRole("option", { name: /tiny-chat/ }).click();
  await button(pane(page), "Create").click();
  await created(page).waitFor();
  const [url, token] = await created(page).locator(".secret-text").allTextContents();
  keep("secrets", token);
  const curl = await created(page).getByRole("tabpanel").textContent();
  assert.ok(curl.includes(token) && curl.includes(url));
  assert.equal(await chat(gateway, token, "tiny-chat"), 200);
  assert.equal(await chat(gateway, token, "tiny-code"), 404);
  await page.keyboard.press("Escape");
  await row(page, "first").getByText("by you").waitFor();
  // A reload stays signed in; what was secret is nowhere.
  await page.reload();
  await row(page, "first").waitFor();
  const kept = await page.evaluate(() => [document.documentElement.outerHTML, location.href, JSON.stringify({ ...sessionStorage }), JSON.stringify({ ...localStorage }), performance.getEntries().map(({ name }) => name)].join());
  for (const secret of [code, chosen, token]) assert.ok(!kept.includes(secret) && !spoken.join().includes(secret) && !gateway.log().includes(secret));
  assert.ok(!requested.some((request) => request.url().includes(code) && !request.url().includes("#")), "the code is in no request's address");
  // What operators have is not there, whatever the address says.
  for (const name of ["dashboard", "accounts", "accounts/acme"]) {
    await open(page, `#/${name}`);
    await page.waitForFunction(() => location.hash === "#/keys");
  }
  await page.getByRole("button", { name: /alice@example.com/ }).click();
  await page.getByRole("menuitem", { name: "Sign out" }).click();
  await page.getByText("You are signed out.").waitFor();
  await signInAs(page, { email: "Alice@Example.com", password: chosen });
  await row(page, "first").waitFor();
}, SIGNED_OUT));

test("a link that was used, taken back, or never was says so, and where to go on", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await acme(gateway);
  const link = await invite(gateway, "acme", "bob@example.com", "member");
  await page.goto("about:blank");
  await page.goto(link);
  const field = page.getByLabel("New password");
  await field.waitFor();
  // Revoked while the page is open.
  const { invitations: [{ id }] } = await operator(gateway, "GET", "/api/accounts/acme/invitations");
  await operator(gateway, "DELETE", `/api/accounts/acme/invitations/${id}`);
  await field.fill(password());
  await button(page, "Set the password and sign in").click();
  await heading(page, "This link does not work any more").waitFor();
  await page.getByText("a link works once, within seven days. Ask whoever sent it for a new one.").waitFor();
  await page.evaluate(() => { location.hash = "#invitation=nothing"; });
  await heading(page, "This link does not work any more").waitFor();
  await button(page, "Sign in").click();
  await page.getByLabel("E-mail address").waitFor();
}, SIGNED_OUT));

test("who is in an account already accepts another one with the password there is", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await acme(gateway);
  await makeAccount(gateway, { id: "lab", name: "Laboratory" });
  const alice = await makePerson(gateway, "alice@example.com", { acme: "owner" });
  await page.goto("about:blank");
  await page.goto(await invite(gateway, "lab", "alice@example.com", "viewer"));
  const field = page.getByLabel("Your password");
  assert.equal(await field.getAttribute("autocomplete"), "current-password");
  await field.fill("something else entirely");
  await button(page, "Accept and sign in").click();
  await page.getByText("E-mail address or password are wrong.").waitFor();
  await field.fill(alice.password);
  await button(page, "Accept and sign in").click();
  await heading(page, "API Keys").waitFor();
  // One comes to the account of the invitation.
  assert.equal(await page.getByLabel("Account", { exact: true }).inputValue(), "lab");
}, SIGNED_OUT));

test("signing in says what is wrong, takes its fields from a password manager, and hides the token behind a button", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await acme(gateway);
  const bob = await makePerson(gateway, "bob@example.com", { acme: "member" });
  const [email, secret] = [page.getByLabel("E-mail address"), page.getByLabel("Password", { exact: true })];
  await email.waitFor();
  assert.deepEqual([await email.getAttribute("autocomplete"), await secret.getAttribute("autocomplete")], ["username", "current-password"]);
  assert.equal(await page.getByLabel("Admin token").count(), 0);
  await button(page, "Sign in").click();
  await page.getByText("Enter your e-mail address.").waitFor();
  await email.fill(bob.email);
  const tooMany = /^Too many wrong passwords; try again in \d+ s\.$/;
  const fault = page.locator(".sign-in .fault");
  // The first wait is a second, which a slow machine may take between two tries.
  for (let tries = 0; tries < 5 || (tries < 20 && !tooMany.test(await fault.textContent())); tries += 1) {
    await secret.fill(`wrong ${tries} wrong ${tries}`);
    await button(page, "Sign in").click();
    await page.locator(".fault").getByText(tries < 4 ? "E-mail address or password are wrong." : /E-mail|Too many/).waitFor();
    await page.waitForFunction(() => !document.querySelector(".sign-in .busy"));
  }
  assert.match(await fault.textContent(), tooMany);
  await button(page, "I am an operator").click();
  await page.getByLabel("Admin token").waitFor();
  await button(page, "I am not an operator").click();
  await email.waitFor();
  for (const [label, words] of [["not_invited", "Nobody has invited you"], ["in_no_account", "You are in no account any more"], ["not_begun_here", "This sign-in was not begun in this browser"],
    ["token_expired", "tell whoever runs this gateway: token_expired"], ["%3Cb%3E call 555", "The sign-in failed. Try again; if it fails again, tell whoever runs this gateway."]]) {
    await page.evaluate((label) => { location.hash = `#sign-in-error=${label}`; }, label);
    await page.getByRole("status").getByText(words).waitFor();
    assert.ok(!page.url().includes("sign-in-error"));
  }
}, SIGNED_OUT));

test("a viewer can change nothing, a member what is theirs, an owner all", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await acme(gateway);
  const people = {};
  for (const role of ["viewer", "member", "owner"]) people[role] = await makePerson(gateway, `${role}@example.com`, { acme: role });
  await operator(gateway, "POST", "/api/keys", { name: "made by the operator", account: "acme", model_access: { mode: "all" } }).then(({ token }) => keep("secrets", token));
  await operator(gateway, "POST", "/api/keys", { name: "of nobody", model_access: { mode: "all" } }).then(({ token }) => keep("secrets", token));
  await signInAs(page, people.member);
  await page.locator("#create-key").click();
  await pane(page).getByLabel("Name").fill("made by a member");
  await button(pane(page), "Create").click();
  await created(page).waitFor();
  keep("secrets", await created(page).locator(".secret-text").nth(1).innerText());
  await page.keyboard.press("Escape");
  await row(page, "made by a member").waitFor();
  const named = (name) => page.locator("table.keys tbody tr").filter({ hasText: name });
  const actions = async (name) => {
    await named(name).getByRole("button", { name: /^Actions for/ }).click();
    const found = await items(page);
    await page.keyboard.press("Escape");
    return found;
  };
  const WHOLE = ["Edit", "Usage", "Disable", "Rotate…", "Delete"];
  assert.deepEqual(await actions("made by a member"), WHOLE);
  assert.deepEqual(await actions("made by the operator"), ["Usage"]);
  assert.equal(await named("made by the operator").getByRole("checkbox").count(), 0);
  assert.equal(await page.getByText("of nobody").count(), 0);
  assert.ok(!await menu(page).getByText("Activity").isVisible(), "members see no activity");
  // A key that may not be changed leads to its page.
  await page.getByRole("link", { name: "made by the operator" }).click();
  await heading(page, "made by the operator").waitFor();
  assert.ok(!await button(page, "Edit").isVisible());
  await page.getByText("No request of this key is kept.").waitFor();
  await open(page, "#/activity");
  await page.waitForFunction(() => location.hash === "#/keys");
  await open(page, "#/members");
  await heading(page, "Members").waitFor();
  await memberRow(page, "owner@example.com").waitFor();
  assert.ok(!await button(page, "Invite…").isVisible());
  assert.equal(await page.getByRole("button", { name: /^Actions for/ }).count(), 0);

  await personMenu(page, "Sign out");
  await signInAs(page, people.viewer);
  await named("made by a member").getByText("by member@example.com").waitFor();
  assert.ok(!await button(page, "Create API Key").isVisible());
  assert.equal(await page.getByRole("checkbox").count(), 0);
  assert.deepEqual(await actions("made by a member"), ["Usage"]);

  await personMenu(page, "Sign out");
  await signInAs(page, people.owner);
  await row(page, "made by the operator").waitFor();
  for (const name of ["made by a member", "made by the operator"]) assert.deepEqual(await actions(name), ["Edit", "Usage", "Activity", "Disable", "Rotate…", "Delete"]);
  await row(page, "made by a member").getByRole("button", { name: "made by a member", exact: true }).click();
  assert.equal(await pane(page).getByLabel("Account").getAttribute("readonly"), "");
  await pane(page).getByLabel("Name").fill("renamed by the owner");
  await button(pane(page), "Save").click();
  await toast(page, "was saved").waitFor();
  await row(page, "renamed by the owner").getByText("by member@example.com").waitFor();
  await links(page).filter({ hasText: "Activity" }).click();
  await page.getByRole("cell", { name: "Invitation accepted" }).first().waitFor();
  await page.getByRole("cell", { name: /renamed by the owner/ }).waitFor();
  await links(page).filter({ hasText: "On-Demand Models" }).click();
  await page.getByRole("rowheader", { name: "tiny-chat" }).waitFor();
  await links(page).filter({ hasText: "Usage" }).click();
  await page.getByText("Nothing was used in this time.").last().waitFor();
  assert.equal(await page.getByText("Upstream", { exact: true }).count() + await page.getByLabel("Whole account").count(), 0);
}, SIGNED_OUT));

test("who is in two accounts looks at one at a time, and the address says at which", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await acme(gateway, { model_access: { mode: "inclusive", models: ["tiny-chat"] } });
  await makeAccount(gateway, { id: "lab", name: "Laboratory" });
  for (const account of ["acme", "lab"]) {
    await operator(gateway, "POST", "/api/keys", { name: `key of ${account}`, account, model_access: { mode: "all" } }).then(({ token }) => keep("secrets", token));
  }
  await signInAs(page, await makePerson(gateway, "alice@example.com", { acme: "viewer", lab: "owner" }));
  const choice = page.getByLabel("Account", { exact: true });
  const key = (name) => page.locator("table.keys tbody tr").filter({ hasText: `key of ${name}` });
  await key("acme").waitFor();
  assert.match(page.url(), /#\/keys\?account=acme$/);
  assert.equal(await key("lab").count(), 0);
  assert.ok(!await button(page, "Create API Key").isVisible());
  assert.ok(!await menu(page).getByText("Activity").isVisible());
  await choice.focus();
  await choice.selectOption("lab");
  await key("lab").waitFor();
  await page.waitForFunction(() => document.activeElement.id === "account-switch");
  assert.equal(await key("acme").count(), 0);
  await page.locator("#create-key").waitFor();
  await links(page).filter({ hasText: "Activity" }).click();
  await page.getByRole("cell", { name: "Account created" }).waitFor();
  assert.match(page.url(), /#\/activity\?account=lab$/);
  await page.reload();
  await page.getByRole("cell", { name: "Account created" }).waitFor();
  assert.equal(await choice.inputValue(), "lab");
  // In the other account there is no activity for a viewer.
  await choice.selectOption("acme");
  await key("acme").waitFor();
  await page.goBack();
  await page.getByRole("cell", { name: "Account created" }).waitFor();
  assert.equal(await choice.inputValue(), "lab");
  await page.goBack();
  await key("lab").waitFor();
  await page.goBack();
  await key("acme").waitFor();
  assert.equal(await choice.inputValue(), "acme");
  await links(page).filter({ hasText: "On-Demand Models" }).click();
  await page.getByText("1 model", { exact: true }).waitFor();
  await choice.selectOption("lab");
  await page.getByText("4 models", { exact: true }).waitFor();
  await links(page).filter({ hasText: "Usage" }).click();
  await page.getByText("Nothing was used in this time.").last().waitFor();
  await links(page).filter({ hasText: "Members" }).click();
  await page.getByText("1 member", { exact: true }).waitFor();
  // A filter and the account stand in the address together; somebody else's account is none.
  await open(page, "#/keys?query=lab&account=lab");
  await key("lab").waitFor();
  assert.equal(await page.getByLabel("Search keys").inputValue(), "lab");
  await open(page, "#/keys?account=other");
  await page.waitForFunction(() => location.hash === "#/keys?account=lab");
  // A new key may only be in the account where keys may be made.
  await page.locator("#create-key").click();
  assert.equal(await pane(page).getByLabel("Account").inputValue(), "Laboratory");
}, SIGNED_OUT));

test("in the form of a key one chooses among the accounts where one may create keys", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await acme(gateway, { max_key_days: 30 });
  await makeAccount(gateway, { id: "lab", name: "Laboratory", max_keys: 0 });
  await signInAs(page, await makePerson(gateway, "alice@example.com", { acme: "member", lab: "member" }));
  await page.locator("#create-key").click();
  const form = pane(page);
  await form.getByLabel("Name").fill("mine");
  await form.getByText("Your account allows 30 days at most").waitFor();
  assert.ok(await form.getByRole("radio", { name: "90 days" }).isDisabled());
  await form.getByLabel("Account").selectOption("lab");
  await form.getByText("Laboratory: 0 of 0 keys.").waitFor();
  assert.ok(!await form.getByRole("radio", { name: "90 days" }).isDisabled());
  await button(form, "Create").click();
  await form.getByText("Your account has 0 keys, and may have 0 at most.").waitFor();
  await form.getByLabel("Account").selectOption("acme");
  await form.getByText("Your account allows 30 days at most").waitFor();
  await form.getByText("30 days", { exact: true }).click();
  await button(form, "Create").click();
  await created(page).waitFor();
  keep("secrets", await created(page).locator(".secret-text").nth(1).innerText());
  const { body } = await api(page, "GET", "/api/keys?account=acme");
  assert.deepEqual(body.keys.map(({ name, account }) => [name, account]), [["mine", "acme"]]);
  assert.ok(Date.parse(body.keys[0].expires_at) - Date.now() < 31 * DAY);
}, SIGNED_OUT));

test("an owner invites, changes roles, makes a link for a new password, and removes", OPTIONS, () => onPanel(async ({ page, context, gateway }) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await acme(gateway);
  await makeAccount(gateway, { id: "lab" });
  await signInAs(page, await makePerson(gateway, "alice@example.com", { acme: "owner" }));
  await makePerson(gateway, "carol@example.com", { acme: "member", lab: "viewer" });
  await links(page).filter({ hasText: "Members" }).click();
  await memberRow(page, "carol@example.com").waitFor();
  const act = async (email, item) => {
    await memberRow(page, email).getByRole("button", { name: /^Actions for/ }).click();
    await page.getByRole("menuitem", { name: item }).click();
  };
  // The last owner stays.
  await act("alice@example.com", "Remove…");
  await question(page).getByRole("button", { name: /^Remove/ }).click();
  await question(page).getByText("The account would have no owner; make another member its owner first.").waitFor();
  await button(question(page), "Cancel").click();
  await act("alice@example.com", "Change role…");
  const form = page.getByRole("dialog", { name: /^(Change role|Invite)/ });
  await form.getByLabel("Role").selectOption("member");
  await button(form, "Save").click();
  await form.getByText("The account would have no owner").waitFor();
  await button(form, "Cancel").click();
  await button(form, "Discard").click();
  // Somebody of another account gets a new password from an operator alone.
  await act("carol@example.com", "Reset password…");
  await question(page).getByRole("button", { name: /^Make a link/ }).click();
  await question(page).getByText("The person is in another account too; ask the operator to make the link.").waitFor();
  await button(question(page), "Cancel").click();

  await button(page, "Invite…").click();
  await button(form, "Make the link").click();
  await form.getByText("Enter the e-mail address of whom you invite.").waitFor();
  await form.getByLabel("E-mail address").fill("no address");
  await button(form, "Make the link").click();
  await form.locator(".field.faulty", { hasText: "E-mail address" }).waitFor();
  await form.getByLabel("E-mail address").fill("bob@example.com");
  await form.getByLabel("Role").selectOption("viewer");
  await form.getByText("Viewers can see the keys, the models and the usage of the account.").waitFor();
  await button(form, "Make the link").click();
  const shown = page.getByRole("dialog", { name: "Invitation for bob@example.com" });
  await shown.getByText("It works once, within seven days").waitFor();
  const link = await linkIn(shown);
  await button(shown, "Copy Link").click();
  await shown.getByRole("button", { name: "Copied Link" }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), link);
  await page.keyboard.press("Escape");
  const openOne = page.getByRole("table", { name: "Open invitations" }).getByRole("row").filter({ hasText: "bob@example.com" });
  await openOne.getByText("alice@example.com").waitFor();
  assert.ok(!(await page.content()).includes(link.split("=")[1]));

  // Bob comes in a browser of his own.
  const theirs = await browser.newContext({ baseURL: gateway.url, reducedMotion: "reduce" });
  theirs.setDefaultTimeout(8000);
  const bobs = await theirs.newPage();
  await bobs.goto(link);
  const first = password();
  await bobs.getByLabel("New password").fill(first);
  await button(bobs, "Set the password and sign in").click();
  await heading(bobs, "API Keys").waitFor();
  await button(page, "Refresh").click();
  await memberRow(page, "bob@example.com").getByText("Viewer").waitFor();
  await openOne.waitFor({ state: "detached" });
  // Another role ends his session; he signs in anew, with it.
  await act("bob@example.com", "Change role…");
  await form.getByText("The sessions of the member end").waitFor();
  await form.getByLabel("Role").selectOption("member");
  await button(form, "Save").click();
  await toast(page, "is a member now").waitFor();
  await links(bobs).filter({ hasText: "Members" }).click();
  await bobs.getByText("Your session has ended.").waitFor();
  await signInAs(bobs, { email: "bob@example.com", password: first });
  await links(bobs).filter({ hasText: "API Keys" }).click();
  await button(bobs.locator(".empty"), "Create API Key").waitFor();
  // A link for a new password; the old one works no more once it is used.
  await act("bob@example.com", "Reset password…");
  await question(page).getByRole("button", { name: /^Make a link/ }).click();
  const reset = page.getByRole("dialog", { name: "New password for bob@example.com" });
  await reset.waitFor();
  const again = await linkIn(reset);
  await page.keyboard.press("Escape");
  await toast(page, "was not copied").waitFor();
  await page.getByText("to set a new password").waitFor();
  await bobs.evaluate((link) => { location.href = link; }, again);
  await heading(bobs, "Set a new password").waitFor();
  await bobs.getByLabel("New password", { exact: true }).fill(password());
  await button(bobs, "Set the password and sign in").click();
  await heading(bobs, "API Keys").waitFor();

  // An invitation is revoked.
  await button(page, "Invite…").click();
  await form.getByLabel("E-mail address").fill("dave@example.com");
  await button(form, "Make the link").click();
  await page.getByRole("dialog", { name: "Invitation for dave@example.com" }).waitFor();
  keep("secrets", (await page.locator("dialog .secret-text").innerText()).split("=")[1]);
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: /^Revoke the invitation of/ }).click();
  await question(page).getByRole("button", { name: /^Revoke/ }).click();
  await toast(page, "was revoked").waitFor();
  await page.getByRole("table", { name: "Open invitations" }).waitFor({ state: "hidden" });
  await act("bob@example.com", "Remove…");
  await question(page).getByRole("button", { name: /^Remove/ }).click();
  await toast(page, "was removed").waitFor();
  await memberRow(page, "bob@example.com").waitFor({ state: "detached" });
  await links(bobs).filter({ hasText: "Members" }).click();
  await bobs.getByText("Your session has ended.").waitFor();
  await theirs.close();
}, SIGNED_OUT));

test("an operator invites on the page of the account", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await acme(gateway);
  await open(page, "#/accounts/acme");
  await page.getByText("Nobody belongs to this account yet.").waitFor();
  await button(page, "Invite…").click();
  const form = page.getByRole("dialog", { name: "Invite somebody" });
  await form.getByLabel("E-mail address").fill("alice@example.com");
  await form.getByLabel("Role").selectOption("owner");
  await button(form, "Make the link").click();
  const link = await linkIn(page.getByRole("dialog", { name: "Invitation for alice@example.com" }));
  await page.keyboard.press("Escape");
  await page.getByRole("table", { name: "Open invitations" }).getByText("alice@example.com").waitFor();
  await page.reload();
  await page.getByRole("table", { name: "Open invitations" }).getByText("alice@example.com").waitFor();
  assert.match(link, /#invitation=[0-9A-Za-z]{43}$/);
}));

test("one's own sessions are listed, and ended one by one", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await acme(gateway);
  // The session in which the invitation was accepted is one too.
  await signInAs(page, await makePerson(gateway, "alice@example.com", { acme: "owner" }));
  await personMenu(page, "Sessions");
  await heading(page, "Sessions").waitFor();
  await page.reload();
  await page.getByText("2 sessions").waitFor();
  const own = page.getByRole("row").filter({ hasText: "this one" });
  await own.getByText("Chrome on Linux").waitFor();
  await page.getByRole("button", { name: /^End the session of node/ }).click();
  await button(question(page), "End it").click();
  await page.getByText("1 session", { exact: true }).waitFor();
  await own.getByRole("button", { name: "Sign out" }).click();
  await page.getByText("You are signed out.").waitFor();
  await page.goBack().catch(() => {});
  await page.getByLabel("E-mail address").waitFor();
}, SIGNED_OUT));

test("when another person signs in where a session ended, nothing of the first is left", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await acme(gateway);
  await makeAccount(gateway, { id: "lab" });
  await operator(gateway, "POST", "/api/keys", { name: "private matter", account: "acme", model_access: { mode: "all" } }).then(({ token }) => keep("secrets", token));
  const [alice, bob] = [await makePerson(gateway, "alice@example.com", { acme: "owner" }), await makePerson(gateway, "bob@example.com", { lab: "member" })];
  await signInAs(page, alice);
  await row(page, "private matter").getByRole("button", { name: "private matter", exact: true }).click();
  assert.equal((await api(page, "DELETE", "/api/session")).status, 204);
  await pane(page).getByLabel("Name").fill("typed by alice");
  await button(pane(page), "Save").click();
  await page.getByText("Your session has ended.").waitFor();
  await signInAs(page, bob);
  await page.locator(".empty").getByText("No API keys yet").waitFor();
  assert.ok(!/private matter|typed by alice|alice@/.test(await page.content()));
  // The same in another tab, whose cookie is the new person's.
  const second = await page.context().newPage();
  await second.goto("/");
  await second.getByRole("button", { name: /bob@example.com/ }).waitFor();
  await second.locator("#person-menu").click();
  await second.getByRole("menuitem", { name: "Sign out" }).click();
  await signInAs(second, alice);
  await page.getByRole("button", { name: /alice@example.com/ }).waitFor();
  await row(page, "private matter").waitFor();
}, SIGNED_OUT));

/** The views and windows of a person, and how each is reached. */
const STANDS = {
  keys: (page) => open(page, "#/keys"),
  key: async (page) => {
    await open(page, "#/keys");
    await page.locator("table.keys tbody tr:not(.ghost)").first().getByRole("button", { name: /^Actions for/ }).click();
    await page.getByRole("menuitem", { name: "Usage" }).click();
    await page.getByText("Created by").waitFor();
  },
  "the form": async (page) => {
    await open(page, "#/keys");
    await page.locator("#create-key").click();
    await pane(page).getByText("Your account allows").first().waitFor();
  },
  models: (page) => open(page, "#/models"),
  usage: (page) => open(page, "#/usage"),
  members: async (page) => {
    await open(page, "#/members");
    await page.getByRole("table", { name: "Open invitations" }).waitFor();
  },
  "a role": async (page) => {
    await STANDS.members(page);
    await memberRow(page, "(you)").getByRole("button").click();
    await page.getByRole("menuitem", { name: "Change role…" }).click();
  },
  "a link": async (page) => {
    await STANDS.members(page);
    await button(page, "Invite…").click();
    await page.getByLabel("E-mail address").fill("a.very.long.name.of.somebody.elsewhere@subsidiary.of.example.com");
    await button(page, "Make the link").click();
    await page.getByRole("dialog", { name: /^Invitation for/ }).waitFor();
  },
  activity: (page) => open(page, "#/activity"),
  sessions: (page) => open(page, "#/sessions"),
  "the menu": async (page) => {
    await open(page, "#/keys");
    await page.locator("#person-menu").click();
  },
};
async function settled(page) {
  await page.waitForFunction(() => document.querySelector("main h1") && !document.querySelector("main [aria-busy=true]"));
  await page.evaluate(() => Promise.allSettled(document.getAnimations().map(({ finished }) => finished)));
}

/** A person in two accounts, with a key, on each of the views; then the pages of who is not signed in. */
async function everywhere(page, gateway, check) {
  await acme(gateway, { max_key_days: 90 });
  await makeAccount(gateway, { id: "lab", name: "The laboratory for applied and theoretical gateways" });
  const link = await invite(gateway, "acme", "newcomer.with.a.long.name@subsidiary.of.example.com", "member");
  await signInAs(page, await makePerson(gateway, "alice.with.a.long.name@subsidiary.of.example.com", { lab: "member", acme: "owner" }));
  const { body } = await api(page, "POST", "/api/keys", { name: "mine", account: "acme", model_access: { mode: "all" }, expires_at: new Date(Date.now() + 9 * DAY).toISOString().slice(0, 10) });
  keep("secrets", body.token);
  for (const [name, reach] of Object.entries(STANDS)) {
    await page.goto("/#/keys?account=acme");
    await page.reload();
    await page.locator("table.keys tbody tr:not(.ghost)").first().waitFor();
    await reach(page);
    await settled(page);
    await check(name);
  }
  await page.goto("/#/keys?account=acme");
  await page.reload();
  await personMenu(page, "Sign out");
  await page.getByText("You are signed out.").waitFor();
  await button(page, "Sign in").click();
  await check("signed out");
  await page.goto("about:blank");
  await page.goto(link);
  await button(page, "Set the password and sign in").click();
  await check("invitation");
  await page.goto("about:blank");
  await page.goto("/#invitation=nothing");
  await heading(page, "This link does not work any more").waitFor();
  await check("old link");
}

for (const colorScheme of ["light", "dark"]) {
  test(`axe finds nothing wrong with what persons see, ${colorScheme}`, OPTIONS, () => onPanel(({ page, gateway }) => everywhere(page, gateway, async (name) => {
    await page.addScriptTag({ path: AXE });
    const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
    assert.deepEqual(violations.map(({ id, nodes }) => ({ id, nodes: nodes.map(({ html, failureSummary }) => `${html}\n${failureSummary}`) })), [], name);
  }), { ...SIGNED_OUT, options: { colorScheme, bypassCSP: true } }));
}

for (const [what, viewport] of Object.entries({ "at 320 pixels": { width: 320, height: 640 }, "at 800 pixels": { width: 800, height: 600 }, "at 400 %": { width: 320, height: 256 } })) {
  test(`nothing that persons see scrolls sideways ${what}`, OPTIONS, () => onPanel(({ page, gateway }) => everywhere(page, gateway, async (name) => {
    const wide = await page.evaluate(() => [...document.querySelectorAll("html, body, main, .side, dialog, dialog *, main *, .side > :not(nav) *")]
      .filter((element) => element.getClientRects().length > 0 && !element.closest(".scroll, .unseen, svg, .skip, thead, .button.bare, nav, .email"))
      .filter((element) => (element.getBoundingClientRect().right > document.documentElement.clientWidth + 1 || element.getBoundingClientRect().left < -1) && getComputedStyle(element).position !== "absolute")
      .map((element) => `${element.tagName}.${element.className} ${element.getBoundingClientRect().right}`));
    assert.deepEqual(wide, [], name);
  }), { ...SIGNED_OUT, options: { viewport } }));
}

test("a person comes in and creates a key by keyboard alone", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await acme(gateway);
  const alice = await makePerson(gateway, "alice@example.com", { acme: "owner" });
  const press = async (...keys) => { for (const key of keys) await page.keyboard.press(key); };
  const focusedText = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent);
  const tabTo = async (wanted) => {
    for (let at = 0; at < 40; at += 1) {
      if (wanted.test(await focusedText())) return;
      await press("Tab");
    }
    assert.fail(`Tab does not lead to ${wanted}`);
  };
  await page.waitForFunction(() => document.activeElement.type === "email");
  await page.keyboard.type(alice.email);
  await press("Tab");
  await page.keyboard.type(alice.password);
  await press("Enter");
  await page.getByText("No API keys yet").waitFor();
  await tabTo(/^alice@example\.com$/);
  await press("Enter", "ArrowDown", "Enter");
  await page.getByText("You are signed out.").waitFor();
  await page.waitForFunction(() => document.activeElement.type === "email");
  await page.keyboard.type(alice.email);
  await press("Tab");
  await page.keyboard.type(alice.password);
  await press("Enter");
  await page.getByText("No API keys yet").waitFor();
  await tabTo(/^Create API Key$/);
  await press("Enter");
  await page.waitForFunction(() => document.activeElement.closest("dialog"));
  await page.keyboard.type("by keyboard");
  await press("Enter");
  await created(page).waitFor();
  keep("secrets", await created(page).locator(".secret-text").nth(1).innerText());
}, SIGNED_OUT));

test("an operator still comes in where persons do", OPTIONS, () => onPanel(async ({ page, gateway }) => {
  await acme(gateway);
  await signIn(page, gateway);
  await links(page).filter({ hasText: "Accounts" }).waitFor();
  assert.equal(await page.locator("#person-menu").count(), 0);
  await button(page, "Sign out").click();
  await page.getByText("You are signed out.").waitFor();
  await page.getByLabel("Admin token").waitFor();
}, SIGNED_OUT));
