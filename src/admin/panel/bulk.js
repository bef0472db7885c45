// One change to several keys: what it does, the number typed in, the progress, and what failed.

import { ApiError, call, isNews } from "./api.js";
import { foreign, h, icon, uniqueId } from "./dom.js";
import { count, dayFromToday, expiryDay, plural } from "./format.js";
import { openWindow, setBusy, windowHead } from "./overlay.js";

/** So many changes are under way at the same time. */
const AT_ONCE = 4;
const MOST_LISTED = 200;
const ACTIONS = {
  disable: { title: "Disable", done: "disabled", text: "Requests with these keys are refused at once, running ones too. You can enable the keys again.",
    act: (path) => call("PATCH", path, { disabled: true }) },
  enable: { title: "Enable", done: "enabled", text: "Keys that have expired stay refused until their expiration date is changed.",
    act: (path) => call("PATCH", path, { disabled: false }) },
  extend: { title: "Extend", done: "given a new expiration date", text: "Each of these keys is valid through the day that you choose, whether it ended before or after that until now.",
    act: (path, day) => call("PATCH", path, { expires_at: day }) },
  delete: { title: "Delete", done: "deleted", isDanger: true, text: "These keys stop working at once, in running requests too. This cannot be undone.",
    act: (path) => call("DELETE", path) },
};

/** Opens the window. `onDone` gets the keys that were changed once it is over. */
export function openBulk({ action, keys, onDone }) {
  const { title: verb, done: participle, text, isDanger = false, act } = ACTIONS[action];
  const [title, numberId, faultId, dayId, dayFaultId] = ["title", "number", "fault", "day", "fault"].map(uniqueId);
  let [isRunning, isStopped] = [false, false];
  let done = [];
  const complaint = (id) => h("p", { id, class: "fault", role: "alert" });
  const [fault, dayFault] = [complaint(faultId), complaint(dayFaultId)];
  const input = (attributes) => h("input", { autocomplete: "off", autofocus: true, oninput: (event) => {
    event.target.removeAttribute("aria-invalid");
    fault.textContent = dayFault.textContent = "";
  }, ...attributes });
  const number = input({ id: numberId, type: "text", inputmode: "numeric", "aria-describedby": faultId });
  const day = action === "extend" ? input({ id: dayId, type: "date", min: dayFromToday(0), max: "9999-12-30", value: dayFromToday(90), "aria-describedby": dayFaultId }) : null;
  const content = h("div", { class: "bulk-body" });
  const actions = h("div", { class: "actions" });
  const complain = (field, place, message) => {
    place.textContent = message;
    field.setAttribute("aria-invalid", "true");
    field.focus();
  };

  openWindow({ kind: "reload", label: title, mayClose: () => !isRunning, onClose: () => done.length > 0 && onDone(done), build: (close) => {
    const go = h("button", { type: "submit", class: `button ${isDanger ? "danger" : "primary"}` }, `${verb} ${plural(keys.length, "key")}`);
    actions.append(h("button", { type: "button", class: "button", onclick: () => close() }, "Cancel"), go);
    content.append(
      h("p", {}, text),
      h("ul", { class: "bulk-names", tabindex: "0", role: "list", "aria-label": "Selected keys" }, names(keys)),
      ...(day ? [h("div", { class: "field" }, h("label", { for: dayId }, "Last day, UTC"), day, dayFault)] : []),
      h("div", { class: "field" }, h("label", { for: numberId }, `To ${verb.toLowerCase()} ${plural(keys.length, "key")}, type how many`), number, fault));
    const submit = (event) => {
      event.preventDefault();
      if (day && (day.value === "" || day.value < dayFromToday(0))) complain(day, dayFault, "Choose today or a later day.");
      else if (number.value.trim().replace(/[ ,.\u00a0\u202f]/g, "") !== String(keys.length)) complain(number, fault, `Type ${keys.length}, the number of keys.`);
      else run(close);
    };
    return h("form", { class: "bulk-form", novalidate: true, onsubmit: submit }, windowHead(title, `${verb} ${plural(keys.length, "API key")}`, () => isRunning || close()), content, actions);
  } });

  async function run(close) {
    isRunning = true;
    const bar = h("progress", { max: keys.length, value: 0, "aria-label": "Progress" });
    const status = h("p", { role: "status" }, `0 of ${count(keys.length)}`);
    const stop = h("button", { type: "button", class: "button", onclick: () => {
      isStopped = true;
      setBusy(stop, true);
    } }, "Stop");
    content.replaceChildren(bar, status);
    actions.replaceChildren(stop);
    stop.focus();
    const [failed, unwritten, left] = [[], [], [...keys]];
    let sessionEnded = false;
    const worker = async () => {
      while (left.length > 0 && !isStopped && !sessionEnded) {
        const key = left.shift();
        try {
          await act(`/api/keys/${encodeURIComponent(key.id)}`, day?.value);
          done.push(key);
        } catch (error) {
          if (!isNews(error)) {
            sessionEnded = true;
            failed.push({ key, message: error.message });
          } else if (error.inForce) {
            done.push(key);
            unwritten.push({ key, message: error.message });
          } else if (action === "delete" && error instanceof ApiError && error.status === 404) done.push(key);
          else failed.push({ key, message: error.message });
        }
        bar.value = done.length + failed.length;
        status.textContent = `${count(done.length + failed.length)} of ${count(keys.length)}`;
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    isRunning = false;
    const isGood = done.length === keys.length && unwritten.length === 0;
    content.replaceChildren(...[
      h("p", { class: `notice ${isGood ? "good" : "warn"}`, role: "status" }, icon(isGood ? "check" : "warning"),
        h("span", {}, `${plural(done.length, "key was", "keys were")} ${participle}${failed.length > 0 ? `, ${count(failed.length)} failed` : ""}${left.length > 0 ? `, ${count(left.length)} not tried` : ""}.`)),
      failed.length > 0 && report("Failed", failed),
      unwritten.length > 0 && report("In force, but not in the key file yet", unwritten),
    ].filter(Boolean));
    const end = h("button", { type: "button", class: "button", onclick: () => close() }, "Close");
    actions.replaceChildren(end);
    end.focus();
  }
}

function names(keys) {
  return [keys.slice(0, MOST_LISTED).map((key) => h("li", {}, foreign(key.name), key.expires_at && h("span", { class: "muted" }, ` until ${expiryDay(key.expires_at) ?? key.expires_at}`))),
    keys.length > MOST_LISTED && h("li", {}, `and ${count(keys.length - MOST_LISTED)} more`)];
}

function report(title, list) {
  return h("div", {}, h("h3", {}, title), h("ul", { class: "faults" }, list.slice(0, MOST_LISTED).map(({ key, message }) =>
    h("li", {}, foreign(key.name), " ", h("code", {}, key.id), `: ${message}`)),
  list.length > MOST_LISTED && h("li", {}, `and ${count(list.length - MOST_LISTED)} more`)));
}
