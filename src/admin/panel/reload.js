// A reload: first what it would do, then, once confirmed, what it did.

import { call } from "./api.js";
import { foreign, h, icon, uniqueId } from "./dom.js";
import { count, plural } from "./format.js";
import { openWindow, setBusy, windowHead } from "./overlay.js";

const MOST_LISTED = 200;

/** Opens the window. `onReloaded` hears that something was reloaded. */
export function openReload({ onReloaded }) {
  const title = uniqueId("title");
  const content = h("div", { class: "reload-body", "aria-live": "polite" });
  const actions = h("div", { class: "actions" });
  let busy = false;

  openWindow({ kind: "reload", label: title, mayClose: () => !busy, build: (close) => {
    const cancel = (text) => h("button", { type: "button", class: "button", onclick: () => busy || close() }, text);

    /** Asks, and shows the answer; `force` lets it drop as many keys as it likes. */
    async function preview(force) {
      actions.replaceChildren(cancel("Cancel"));
      content.replaceChildren(h("p", { class: "muted working" }, "Reading the key file, upstreams, prices and certificates…"));
      try {
        const answer = await ask(force, true);
        const drops = answer.removed > 0;
        const proof = force && drops && numberOf(answer.removed);
        const go = h("button", { type: "button", class: `button ${drops ? "danger" : "primary"}`, onclick: () => {
          if (!proof || proof.isRight()) reload(force, answer.removed, go);
        } }, force ? "Reload, and drop these keys" : "Reload now");
        content.replaceChildren(...outcome(answer, "would"), ...(proof ? [proof.element] : []));
        const back = cancel("Cancel");
        actions.replaceChildren(back, go);
        // What drops keys never has the focus by itself: Enter, pressed once too often, must not do it.
        if (proof) proof.focus();
        else (drops ? back : go).focus();
      } catch (error) {
        refused(error, force, "The reload would be refused");
      }
    }

    async function reload(force, dropped, go) {
      if (busy) return;
      busy = true;
      setBusy(go, true);
      try {
        // The number was given for what was shown; the file may be another by now.
        if (force && (await ask(true, true)).removed !== dropped) {
          busy = false;
          setBusy(go, false);
          preview(true);
          return;
        }
        const answer = await ask(force, false);
        busy = false;
        content.replaceChildren(
          h("p", { class: "notice good" }, icon("check"), h("span", {}, h("strong", {}, "Reloaded. "),
            `${plural(answer.keys, "key")} in force, generation ${count(answer.generation)}.`)),
          ...outcome(answer, "did"));
        const done = cancel("Close");
        actions.replaceChildren(done);
        done.focus();
        onReloaded();
      } catch (error) {
        busy = false;
        refused(error, force, "The reload was refused");
        onReloaded();
      } finally {
        setBusy(go, false);
      }
    }

    function refused(error, force, what) {
      content.replaceChildren(
        h("div", { class: "notice bad", role: "alert" }, icon("warning"), h("div", {}, h("p", {}, h("strong", {}, `${what}. `), error.faults ? "What is faulty stays as it is in force now:" : error.message),
          error.faults && faults(error.faults))));
      const canForce = error.status === 409 && !force;
      actions.replaceChildren(cancel("Close"),
        canForce ? h("button", { type: "button", class: "button", onclick: () => preview(true) }, "See what forcing it would drop")
          : h("button", { type: "button", class: "button", onclick: () => preview(force) }, "Look again"));
      actions.lastChild.focus();
    }

    queueMicrotask(() => preview(false));
    return [windowHead(title, "Reload", close), content, actions];
  } });
}

/** Asks for a number, typed in: who types it has read it. */
function numberOf(wanted) {
  const [id, faultId] = [uniqueId("number"), uniqueId("fault")];
  const fault = h("p", { id: faultId, class: "fault", role: "alert" });
  const input = h("input", { id, type: "text", inputmode: "numeric", autocomplete: "off", "aria-describedby": faultId, oninput: () => {
    fault.textContent = "";
    input.removeAttribute("aria-invalid");
  } });
  return {
    element: h("div", { class: "field" }, h("label", { for: id }, `To drop ${plural(wanted, "key")}, type how many`), input, fault),
    focus: () => input.focus(),
    isRight: () => {
      if (input.value.trim().replace(/[ ,.\u00a0\u202f]/g, "") === String(wanted)) return true;
      fault.textContent = `Type ${wanted}, the number of keys that this drops.`;
      input.setAttribute("aria-invalid", "true");
      input.focus();
      return false;
    },
  };
}

const ask = (force, isDry) => call("POST", "/api/reload?ids=true", { force, dry_run: isDry });

/** The fields of a key as the panel calls them. */
const FIELDS = { name: "name", hash: "token", hint: "token's end", model_access: "model access", allow_from: "allow access from",
  expires_at: "expiration date", created_at: "creation date", account: "account", disabled: "disabled" };

function outcome({ added, removed, changed, added_ids, removed_ids, changed_ids, names = {}, changes = {}, restart_needed }, tense) {
  const item = (id) => h("li", {}, h("bdi", { class: "difference-name" }, foreign(names[id] ?? "")), " ", h("code", {}, id),
    changes[id] && h("span", { class: "muted" }, ` ${changes[id].map((field) => FIELDS[field] ?? field).join(", ")}`));
  const isSame = added + removed + changed === 0;
  const part = (name, number, ids, tone) => h("div", { class: `difference ${number > 0 ? tone : ""}` },
    h("p", { class: "difference-number" }, count(number)), h("p", {}, name),
    number > 0 && ids && h("details", {}, h("summary", {}, "Which"),
      h("ul", {}, ids.slice(0, MOST_LISTED).map(item),
        ids.length > MOST_LISTED && h("li", {}, `and ${count(ids.length - MOST_LISTED)} more`))));
  return [
    h("p", {}, tense === "did" ? "What changed among the keys:"
      : isSame ? "The key file holds what is in force already. Upstreams, prices and certificates are read again too."
      : "A reload would change the keys like this. Upstreams, prices and certificates are read again too."),
    h("div", { class: "differences" },
      part("added", added, added_ids, "plus"), part("removed", removed, removed_ids, "minus"), part("changed", changed, changed_ids, "other")),
    restart_needed?.length > 0 && h("p", { class: "notice warn" }, icon("info"), h("span", {}, "Only a restart applies: ",
      restart_needed.map((name, at) => [at > 0 && ", ", h("code", {}, name)]), ".")),
  ].filter(Boolean);
}

function faults(list) {
  return h("ul", { class: "faults" }, list.slice(0, MOST_LISTED).map(({ file, line, field, message }) => h("li", {},
    h("code", {}, line ? `${file}:${line}` : file), field && h("span", {}, ` ${field}`), `: ${message}`)),
  list.length > MOST_LISTED && h("li", {}, `and ${count(list.length - MOST_LISTED)} more`));
}
