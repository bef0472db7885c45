// A key's own page: what it is, its usage, its last requests and its last refusals.

import { call, isNews } from "./api.js";
import { foreign, h, icon, modelName, visible } from "./dom.js";
import { count, dateAndTime, expirySentence, fromNow, millionths, money, timeElement } from "./format.js";
import { editKey, keyMenu, lazily } from "./key-actions.js";
import { makerWords, membersOf } from "./makers.js";
import { budgetWords, limitWords, nearlySpent } from "./key-limits.js";
import { access, networks, state } from "./key-row.js";
import { recentRefusals, refusalTable } from "./refusals.js";
import { known, usageReport } from "./usage-report.js";
import { isPerson, mayChange, ofAccount } from "./who.js";

const RECORDS = 20;
const NUMBERS = new Set(["Input tokens", "Output tokens", "Cost", "Time"]);
const ENDS = { complete: "complete", client_left: "client left", revoked: "revoked", upstream_failed: "upstream failed" };

/** Draws the page of the key that the address names. */
export function keyPage(main, _, place) {
  let key = null;
  /** The account that the key names, where it exists. */
  let account = null;
  let members = new Map();
  let loading = null;
  const id = () => place.parameters().get("id") ?? "";
  const asked = () => [["key", id()], ...ofAccount()];
  const report = usageReport({ onChange: (control) => {
    place.remember(new URLSearchParams([["id", id()], ...report.parameters()]), null, false);
    if (control === "range") report.load(asked());
  }, onLoaded: (found) => { last.hidden = found === null; } });
  const name = h("h1", { tabindex: "-1" }, "API Key");
  const about = h("p", { class: "lead" });
  const facts = h("dl", { class: "card key-facts" });
  const edit = h("button", { type: "button", class: "button", onclick: () => editKey(key, load) }, icon("edit"), "Edit");
  const more = h("button", { type: "button", class: "icon-button", "aria-haspopup": "menu", "aria-expanded": "false", "aria-label": "Actions for this key", onclick: () => keyMenu(more, key, load) }, icon("more"));
  const again = h("button", { type: "button", class: "button", onclick: () => load() }, icon("refresh"), "Refresh");
  const trouble = h("div", { class: "notice bad", role: "alert", hidden: true });
  const records = h("div");
  const csv = h("button", { type: "button", class: "button small", onclick: async () => {
    (await lazily(() => import("./csv.js")))?.saveUsage({ path: `/api/usage/records?${new URLSearchParams([...asked(), ["limit", 1000]])}`, name: "requests.csv", button: csv });
  } }, icon("download"), "CSV");
  const last = h("section", { class: "card panel-card" }, h("header", {}, h("h2", {}, "Last requests"), csv), records);
  const refusals = h("div");

  main.append(
    h("header", { class: "page-head" }, h("div", {}, h("p", { class: "crumb" }, h("a", { href: "#/keys" }, "API Keys")), name, about),
      h("div", { class: "head-actions" }, again, edit, more)),
    trouble, facts, h("div", { class: "usage-controls" }, report.controls), ...report.element, last,
    ...(isPerson() ? [] : [h("section", { class: "card panel-card" }, h("header", {}, h("h2", {}, "Recent refusals")), refusals)]));
  arrive();

  function arrive() {
    report.take(place.parameters());
    load();
  }

  async function load() {
    loading?.abort();
    loading = new AbortController();
    const { signal } = loading;
    const failed = (place) => (error) => isNews(error) && place.replaceChildren(h("p", { class: "notice bad", role: "alert" }, icon("warning"), h("span", {}, error.message)));
    report.load(asked());
    call("GET", `/api/usage/records?${new URLSearchParams([...asked(), ["limit", RECORDS]])}`, undefined, { signal })
      .then((found) => records.replaceChildren(recordTable(found)), failed(records));
    if (!isPerson()) recentRefusals(id(), { signal }).then((found) => refusals.replaceChildren(...[refusalTable(found, { ofOneKey: true })].flat().filter(Boolean)), failed(refusals));
    try {
      key = await call("GET", `/api/keys/${encodeURIComponent(id())}`, undefined, { signal });
      [account, members] = key.account ? await Promise.all([call("GET", `/api/accounts/${encodeURIComponent(key.account)}`, undefined, { signal }).catch(() => null),
        key.created_by ? membersOf(key.account, { signal }) : members]) : [null, members];
      if (signal.aborted) return;
      trouble.hidden = true;
    } catch (error) {
      if (!isNews(error)) return;
      key = null;
      trouble.replaceChildren(icon("warning"), h("span", {}, error.status === 404
        ? "There is no key with this ID any more. What it used is still shown." : `The key could not be loaded. ${error.message}`));
      trouble.hidden = false;
    }
    draw();
  }

  function draw() {
    more.hidden = facts.hidden = key === null;
    edit.hidden = key === null || !mayChange(key);
    name.replaceChildren(key === null ? "Deleted key" : foreign(key.name));
    about.replaceChildren(h("code", {}, id()), ...(key?.account ? [" of ", account ? isPerson() ? foreign(account.name ?? account.id) : h("a", { href: `#/accounts/${account.id}` }, foreign(account.name ?? account.id)) : foreign(key.account)] : []));
    if (key === null) return;
    const fact = (term, ...words) => h("div", {}, h("dt", {}, term), h("dd", {}, words));
    const time = (text) => (text === null ? h("span", { class: "muted" }, "never") : timeElement(Date.parse(text), fromNow(Date.parse(text))));
    const maker = makerWords(key, members);
    facts.replaceChildren(...[fact("State", state(key)), maker && fact("Created by", maker), fact("Model access", access(key.model_access)), fact("Allow from", networks(key.allow_from)),
      fact("Expires", key.ends_at === null ? "Never" : timeElement(Date.parse(key.ends_at), fromNow(Date.parse(key.ends_at)), expirySentence(key.ends_at)),
        key.ends_at !== key.expires_at && " by its account"),
      limitWords(key) && fact("Limits", limitWords(key)), budgetWords(key) && fact("Budgets", budgetWords(key), nearlySpent(key) && ` (${nearlySpent(key)})`),
      fact("Last used", time(key.last_used_at)), fact("Requests", count(key.requests))].filter(Boolean));
  }

  return { refresh: load, arrive, leave: () => {
    loading?.abort();
    report.leave();
  } };
}

function recordTable({ records, next, currency }) {
  if (records.length === 0) return h("p", { class: "muted" }, "No request of this key is kept.");
  const time = (record) => timeElement(Date.parse(record.ended_at), fromNow(Date.parse(record.ended_at)), `${dateAndTime(Date.parse(record.ended_at))}; request ${record.request_id}`);
  const counted = (record, value) => [record.certainty === "at_least" && value !== null && h("span", { class: "muted", title: "at least" }, "≥ "), known(value)];
  const hasCost = records.some(({ cost }) => cost !== null);
  const columns = ["Ended", "Model", "Answer", "Input tokens", "Output tokens", hasCost && "Cost", "Time", "Address"].filter(Boolean);
  return h("div", {}, h("div", { class: "table-card scroll", tabindex: "0", role: "region", "aria-label": "Last requests" }, h("table", { class: "records" },
    h("thead", {}, h("tr", {}, columns.map((text) => h("th", { scope: "col", class: NUMBERS.has(text) ? "number" : null }, text)))),
    h("tbody", {}, records.map((record) => h("tr", {},
      h("td", {}, time(record)),
      h("td", {}, modelName(record.model), h("span", { class: "sub" }, visible(record.route))),
      h("td", {}, h("span", { class: "number" }, String(record.status)), h("span", { class: "sub" }, ENDS[record.end] ?? record.end)),
      h("td", { class: "number" }, known(record.input_tokens)),
      h("td", { class: "number" }, counted(record, record.output_tokens)),
      hasCost && h("td", { class: "number" }, known(record.cost, (cost) => money(millionths(cost), currency))),
      h("td", { class: "number" }, `${count(record.duration_ms)} ms`),
      h("td", {}, record.client_address ?? h("span", { class: "muted" }, "unknown"))))))),
  next !== null && h("p", { class: "muted" }, `The last ${count(records.length)}; the CSV has up to 1,000.`));
}
