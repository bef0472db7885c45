// How fast a key, or an account, may be used, and how much of it: two fields of the form.

import { h, icon, uniqueId } from "./dom.js";
import { field } from "./field.js";
import { count } from "./format.js";

const LIMITS = [["requests_per_minute", "Requests a minute"], ["tokens_per_minute", "Tokens a minute"], ["concurrent_requests", "At the same time"]];
const UNITS = [["tokens", "tokens"], ["requests", "requests"], ["cost", "cost"], ["audio_seconds", "seconds of audio"]];
const PERIODS = [["day", "a day"], ["week", "a week"], ["month", "a month"], ["total", "in all"]];
const MODES = [["enforce", "then refuse"], ["observe", "only tell"]];
const MOST = 2 ** 53;
const MOST_BUDGETS = 8;
const DECIMAL = new Set(["cost", "audio_seconds"]);

/** Both fields, {limits, budgets}; the first one's element holds the second's. Those of an account are `shared` by its keys. */
export function allowanceFields(key, { shared = false } = {}) {
  const limits = limitsField(key?.limits ?? {}, shared);
  const budgets = budgetsField(key?.budgets ?? []);
  const place = h("details", { class: "allowance", open: Boolean(key?.limits) || (key?.budgets ?? []).length > 0 },
    h("summary", {}, `Limits and budgets${shared ? " of all keys together" : ""} `, h("span", { class: "optional" }, "optional")), limits.element, budgets.element);
  const opening = (part) => ({ ...part, element: null, focus: () => {
    place.open = true;
    part.focus();
  } });
  return { limits: { ...opening(limits), element: place }, budgets: opening(budgets) };
}

function limitsField(already, shared) {
  const inputs = LIMITS.map(([name, text]) => {
    const id = uniqueId("limit");
    const input = h("input", { id, type: "text", inputmode: "numeric", autocomplete: "off", spellcheck: "false", placeholder: shared ? "none" : "default",
      value: already[name] === null || already[name] === undefined ? "" : String(already[name]), oninput: () => part.complain("") });
    return { name, text, input, element: h("div", { class: "field" }, h("label", { for: id }, text), input) };
  });
  const part = field({ label: "Limits", group: true, input: inputs[0].input, control: h("div", { class: "limit-inputs" }, inputs.map(({ element }) => element)),
    hint: shared ? "Whole numbers. Empty: no limit." : "Whole numbers. Empty: the gateway's default, if it has one. “unlimited”: not even that." });
  const read = (text) => (text === "" ? null : text === "unlimited" ? text : Number(text.replaceAll(/[\s,_]/g, "")));
  const isRight = (value) => value === null || value === "unlimited" || (Number.isInteger(value) && value >= 1 && value <= MOST);
  const wrong = () => inputs.find(({ input }) => !isRight(read(input.value.trim().toLowerCase())));
  return { ...part,
    focus: () => (wrong() ?? inputs[0]).input.focus(),
    value: () => Object.fromEntries(inputs.map(({ name, input }) => [name, read(input.value.trim().toLowerCase())])),
    settle: () => part.complain(wrong() ? `${wrong().text}: write a whole number from 1 on, “unlimited”, or nothing.` : "") };
}

function budgetsField(already) {
  const list = h("ul", { class: "budgets" });
  const add = h("button", { type: "button", class: "button small", onclick: () => {
    const row = take({ unit: "tokens", amount: "", per: "month", mode: "enforce" });
    row.amount.focus();
  } }, icon("plus"), "Add a budget");
  const part = field({ label: "Budgets", group: true, input: add, control: [list, add],
    hint: "What is used is read from the usage, so a budget outlives restarts. You are told at 80 and 95 %." });
  const rows = [];
  for (const budget of already) take(budget);
  function take(budget) {
    const select = (label, options, value) => {
      const element = h("select", { "aria-label": label, onchange: () => part.complain("") }, options.map(([name, text]) => h("option", { value: name }, text)));
      element.value = value;
      return element;
    };
    const row = {
      amount: h("input", { type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: "false", "aria-label": "Amount", value: String(budget.amount), oninput: () => part.complain("") }),
      unit: select("Unit", UNITS, budget.unit), per: select("Period", PERIODS, budget.per), mode: select("When it is used up", MODES, budget.mode),
    };
    const remove = h("button", { type: "button", class: "icon-button", "aria-label": "Remove this budget", onclick: () => {
      rows.splice(rows.indexOf(row), 1);
      row.element.remove();
      add.hidden = false;
      part.complain("");
      add.focus();
    } }, icon("close"));
    row.element = h("li", { class: "budget" }, row.amount, [row.unit, row.per, row.mode].map((element) => h("div", { class: "select" }, element, icon("left"))), remove);
    rows.push(row);
    list.append(row.element);
    add.hidden = rows.length >= MOST_BUDGETS;
    return row;
  }
  const amountOf = ({ amount, unit }) => {
    const text = amount.value.trim().replaceAll(/[\s,_]/g, "");
    return DECIMAL.has(unit.value) ? text : Number(text);
  };
  const isRight = (row) => (DECIMAL.has(row.unit.value) ? /^\d{1,9}(\.\d{1,6})?$/.test(amountOf(row)) && Number(amountOf(row)) > 0
    : Number.isInteger(amountOf(row)) && amountOf(row) >= 1 && amountOf(row) <= MOST);
  const wrong = () => rows.find((row) => !isRight(row));
  const isTwice = () => new Set(rows.map(({ unit, per }) => `${unit.value} ${per.value}`)).size < rows.length;
  return { ...part,
    focus: () => (wrong()?.amount ?? rows[0]?.amount ?? add).focus(),
    value: () => rows.map((row) => ({ unit: row.unit.value, amount: amountOf(row), per: row.per.value, mode: row.mode.value })),
    settle: () => part.complain(wrong() ? `Write an amount above 0${DECIMAL.has(wrong().unit.value) ? ", like 25.00" : ", like 5000000"}.`
      : isTwice() ? "Two budgets have the same unit and period; keep one." : "") };
}

/** The limits that are set, in words; null where none is. */
export function limitWords(key) {
  const set = LIMITS.filter(([name]) => (key.limits ?? {})[name] != null);
  if (set.length === 0) return null;
  return set.map(([name, text]) => `${text}: ${typeof key.limits[name] === "number" ? count(key.limits[name]) : key.limits[name]}`).join("; ");
}

/** The budgets, in words; null where there is none. */
export function budgetWords(key) {
  if ((key.budgets ?? []).length === 0) return null;
  const words = (list, value) => list.find(([name]) => name === value)?.[1] ?? value;
  const number = (amount) => (typeof amount === "number" ? count(amount) : amount);
  const left = ({ used, remaining }) => (used == null ? "" : `, ${number(used)} used, ${number(remaining)} left`);
  return (key.budgets_left ?? key.budgets).map((budget) =>
    `${number(budget.amount)} ${words(UNITS, budget.unit)} ${words(PERIODS, budget.per)}${budget.mode === "observe" ? ", only told" : ""}${left(budget)}`).join("; ");
}

/** How full the fullest budget is, where it is nearly used up. */
export function nearlySpent(key) {
  return key.budget_used_ratio >= 0.8 ? `${Math.floor(key.budget_used_ratio * 100)} % of a budget used` : null;
}
