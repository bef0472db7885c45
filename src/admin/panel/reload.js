// A reload: first what it would do, then, once confirmed, what it did.

import { call } from "./api.js";
import { h, icon, uniqueId } from "./dom.js";
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
      content.replaceChildren(h("p", { class: "muted working" }, "Reading the key file, upstreams and certificates…"));
      try {
        const answer = await ask(force, true);
        content.replaceChildren(...outcome(answer, "would"));
        const go = h("button", { type: "button", class: `button ${force ? "danger" : "primary"}`, onclick: () => reload(force, go) },
          force ? "Reload, and drop these keys" : "Reload now");
        actions.replaceChildren(cancel("Cancel"), go);
        go.focus();
      } catch (error) {
        refused(error, force, "The reload would be refused");
      }
    }

    async function reload(force, go) {
      if (busy) return;
      busy = true;
      setBusy(go, true);
      try {
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

const ask = (force, isDry) => call("POST", "/api/reload?ids=true", { force, dry_run: isDry });

function outcome({ added, removed, changed, added_ids, removed_ids, changed_ids, restart_needed }, tense) {
  const isSame = added + removed + changed === 0;
  const part = (name, number, ids, tone) => h("div", { class: `difference ${number > 0 ? tone : ""}` },
    h("p", { class: "difference-number" }, count(number)), h("p", {}, name),
    number > 0 && ids && h("details", {}, h("summary", {}, "Which"),
      h("ul", {}, ids.slice(0, MOST_LISTED).map((id) => h("li", {}, h("code", {}, id))),
        ids.length > MOST_LISTED && h("li", {}, `and ${count(ids.length - MOST_LISTED)} more`))));
  return [
    h("p", {}, tense === "did" ? "What changed among the keys:"
      : isSame ? "The key file holds what is in force already. Upstreams and certificates are read again too."
      : "A reload would change the keys like this. Upstreams and certificates are read again too."),
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
