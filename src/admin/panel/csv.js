// CSV files: the list of keys, every one that meets the filters in the order that is shown; and usage, as the gateway
// writes it.

import { call, isNews } from "./api.js";
import { plural } from "./format.js";
import { setBusy, toast } from "./overlay.js";

const PAGE = 1000;
/** More rows than a spreadsheet shows at ease; `keygate keys list` gives them all. */
const MOST = 100_000;
const COLUMNS = {
  id: (key) => key.id, name: (key) => key.name, account: (key) => key.account, state: (key) => key.state,
  model_access: (key) => key.model_access.mode, models: (key) => (key.model_access.models ?? []).join(" "),
  allow_from: (key) => key.allow_from.join(" "), expires_at: (key) => key.expires_at, ends_at: (key) => key.ends_at, refused_by_account: (key) => key.refused_by_account, created_at: (key) => key.created_at,
  last_used_at: (key) => key.last_used_at, requests: (key) => key.requests, hint: (key) => key.hint,
};

/** A field, quoted. A text that a spreadsheet would take for a formula gets an apostrophe in front. */
function field(value) {
  const text = String(value ?? "");
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n']/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const line = (fields) => `${fields.map(field).join(",")}\r\n`;

/** Loads the keys that `wanted` asks for and gives them to the browser to save. */
export async function saveCsv({ wanted, button }) {
  if (button.classList.contains("busy")) return;
  setBusy(button, true);
  try {
    const lines = [line(Object.keys(COLUMNS))];
    let after = null;
    do {
      const query = new URLSearchParams(wanted);
      query.set("limit", PAGE);
      if (after !== null) query.set("after", after);
      const page = await call("GET", `/api/keys?${query}`);
      lines.push(...page.keys.map((key) => line(Object.values(COLUMNS).map((of) => of(key)))));
      after = page.next;
    } while (after !== null && lines.length <= MOST);
    save("keys.csv", lines);
    toast(after === null ? `keys.csv has ${plural(lines.length - 1, "key")}.`
      : `keys.csv has the first ${plural(lines.length - 1, "key")} only; keygate keys list gives them all.`, { bad: after !== null });
  } catch (error) {
    if (isNews(error)) toast(`The keys could not be saved. ${error.message}`, { bad: true });
  } finally {
    setBusy(button, false);
  }
}

/** Loads the CSV of a question for usage and gives it to the browser to save. */
export async function saveUsage({ path, name, button }) {
  if (button.classList.contains("busy")) return;
  setBusy(button, true);
  try {
    save(name, [await call("GET", path, undefined, { asCsv: true })]);
    toast(`${name} was saved.`);
  } catch (error) {
    if (isNews(error)) toast(`The usage could not be saved. ${error.message}`, { bad: true });
  } finally {
    setBusy(button, false);
  }
}

function save(name, parts) {
  const link = document.createElement("a");
  // The mark at the front tells spreadsheets that it is UTF-8.
  link.href = URL.createObjectURL(new Blob(["\ufeff", ...parts], { type: "text/csv;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
