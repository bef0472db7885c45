// The frame: who is signed in, in which account, which view is open, and where one goes from there.

import { call, isNews, onSessionEnd } from "./api.js";
import { foreign, h, icon, quotedText } from "./dom.js";
import { askWindowsToClose, clearToasts, closeWindows, openMenu, toast } from "./overlay.js";
import { onRenewed } from "./session-secret.js";
import { endHere, resume, session, signOut, takeBrought, takePlace } from "./session.js";
import { askToSignIn, errorWords } from "./sign-in.js";
import { account, accounts, choose, hasSeveral, isOwner, isPerson, nameOf } from "./who.js";
import { keysView } from "./keys.js";

/** A view draws itself into the main part and gives {refresh, leave}. Those that are not the first load when they are opened. */
const VIEWS = {
  "#/keys": { title: "API Keys", icon: "key", load: async () => keysView },
  "#/accounts": { title: "Accounts", icon: "accounts", load: async () => (await import("./accounts.js")).accountsView },
  "#/usage": { title: "Usage", icon: "usage", load: async () => (await import("./usage.js")).usageView },
  "#/activity": { title: "Activity", icon: "activity", load: async () => (await import("./activity.js")).activityView },
  "#/models": { title: "On-Demand Models", icon: "models", load: async () => (await import("./models.js")).modelsView },
  "#/dashboard": { title: "Dashboard", icon: "dashboard", load: async () => (await import("./dashboard.js")).dashboardView },
  "#/fleet": { title: "Fleet", icon: "fleet", load: async () => (await import("./fleet.js")).fleetView },
  "#/members": { title: "Members", icon: "accounts", load: async () => (await import("./members.js")).membersView },
  /** Those that other views lead to: where the signed-in person has sessions, an account's own page, whose ID stands behind, and a key's. */
  "#/sessions": { title: "Sessions", load: async () => (await import("./sessions.js")).sessionsView },
  "#/accounts/": { title: "Account", isBelow: "#/accounts", load: async () => (await import("./accounts.js")).accountPage },
  "#/key": { title: "API Key", isBelow: "#/keys", load: async () => (await import("./key-page.js")).keyPage },
};
const FIRST = "#/keys";
const FOR_OPERATORS = ["#/keys", "#/accounts", "#/usage", "#/activity", "#/models", "#/dashboard", "#/fleet"];
const FOR_PERSONS = ["#/keys", "#/models", "#/usage", "#/members", "#/activity"];

const app = document.getElementById("app");
const main = document.getElementById("main");
const nav = document.getElementById("nav");
let open = null;
/** Where `open` is, as the address says it. */
let here = "";
/** Who the frame is drawn for. */
let drawnFor = null;

/** What does not depend on who is signed in. */
function drawFrame() {
  const out = document.getElementById("sign-out");
  out.append(icon("signOut"), "Sign out");
  out.addEventListener("click", leaveForGood);
  // Its address would be another view's: it moves the focus only.
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
    main.scrollIntoView();
  });
}

/** The menu, and who is signed in. */
function drawMenu() {
  nav.replaceChildren(...(isPerson() ? FOR_PERSONS : FOR_OPERATORS).map((name) =>
    h("li", { "data-view": name, hidden: name === "#/accounts" }, h("a", { href: name }, icon(VIEWS[name].icon), VIEWS[name].title))));
  const { email } = session.principal ?? {};
  const who = email && h("button", { type: "button", class: "button quiet small", id: "person-menu", "aria-haspopup": "menu", "aria-expanded": "false", title: email,
    onclick: () => openMenu(who, quotedText(email), [
      { text: "Sessions", icon: "device", act: () => { location.hash = "#/sessions"; } },
      { text: "Sign out", icon: "signOut", act: leaveForGood }]) }, icon("person"), h("span", { class: "email" }, foreign(email)));
  const whole = hasSeveral() ? h("div", { class: "select" },
    h("select", { id: "account-switch", "aria-label": "Account", onchange: (event) => {
      const name = nameAt(here);
      const other = VIEWS[name].isBelow ?? name;
      location.hash = `${other}?${new URLSearchParams({ account: event.target.value })}`;
    } }, accounts().map((one) => h("option", { value: one.id }, nameOf(one)))), icon("left"))
    : isPerson() ? h("p", { class: "account-name", title: "Your account" }, foreign(nameOf(account()))) : null;
  const place = document.getElementById("person");
  place.replaceChildren(...[whole, who].filter(Boolean));
  place.hidden = place.childElementCount === 0;
  document.getElementById("sign-out").hidden = Boolean(email);
}

const isOffered = (name) => (name === "#/sessions" ? Boolean(session?.principal?.email)
  : !isPerson() ? name !== "#/members" : name === "#/key" || (FOR_PERSONS.includes(name) && (name !== "#/activity" || isOwner())));

/** The name of the view at an address: of one that there is for whoever is signed in. */
function nameAt(address) {
  const [name] = address.split("?");
  return [name, name.slice(0, name.lastIndexOf("/") + 1)].find((one) => Object.hasOwn(VIEWS, one) && isOffered(one)) ?? FIRST;
}

/** The address in its whole form. It says which account is looked at, where there are several. */
function settled(address) {
  if (!isPerson()) return address;
  const [name, text] = address.split("?");
  const parameters = new URLSearchParams(text ?? "");
  choose(parameters.get("account"));
  if (hasSeveral()) parameters.set("account", account().id);
  else parameters.delete("account");
  const query = parameters.toString();
  return `${nameAt(name)}${query === "" ? "" : `?${query}`}`;
}

/** Accounts are in the database: without one there are none. */
async function offerAccounts() {
  if (isPerson()) return;
  const item = nav.querySelector('[data-view="#/accounts"]');
  item.hidden = await call("GET", "/api/accounts?limit=1").then(() => false, ({ code }) => code === "accounts_unavailable");
}

/** What a view keeps in the address behind its name. */
const place = {
  id: () => location.hash.split("?")[0].split("/")[2] ?? "",
  parameters: () => new URLSearchParams(location.hash.split("?")[1] ?? ""),
  remember: (parameters, state, isReplaced) => {
    if (hasSeveral()) parameters.set("account", account().id);
    const text = parameters.toString();
    const address = here.split("?")[0] || FIRST;
    here = text === "" ? address : `${address}?${text}`;
    if (location.hash === here || isReplaced) history.replaceState(state, "", here);
    else history.pushState(state, "", here);
  },
};

function moveTo(address) {
  here = address;
  if (location.hash !== here && isPerson()) history.replaceState(history.state, "", here);
}

async function show(address, { moveFocus }) {
  address = settled(address);
  const name = nameAt(address);
  const view = VIEWS[name];
  open?.leave();
  main.replaceChildren();
  moveTo(address);
  const query = hasSeveral() ? `?${new URLSearchParams({ account: account().id })}` : "";
  for (const item of nav.children) {
    const link = item.firstChild;
    link.setAttribute("href", `${item.dataset.view}${query}`);
    if (item.dataset.view === "#/activity") item.hidden = !isOwner();
    if (item.dataset.view === (view.isBelow ?? name)) {
      link.setAttribute("aria-current", "page");
      // Where the menu is a line that scrolls. scrollIntoView would have Tab go on from here.
      nav.parentElement.scrollLeft = link.offsetLeft + link.offsetWidth - nav.parentElement.clientWidth;
    } else link.removeAttribute("aria-current");
  }
  const choice = document.getElementById("account-switch");
  if (choice) choice.value = account().id;
  document.title = `${view.title} – keygate`;
  const opening = open = { refresh: () => {}, leave: () => {} };
  let draw;
  try {
    draw = await view.load();
  } catch {
    if (open === opening) {
      main.append(h("h1", { tabindex: "-1" }, view.title), h("p", { class: "notice bad", role: "alert" }, icon("warning"),
        h("span", {}, "This view could not be loaded. Check that the gateway runs, then reload the page.")));
    }
    return;
  }
  // Another view was opened, or the session left, meanwhile.
  if (open !== opening) return;
  open = draw(main, view.title, place, { signOut: leaveForGood });
  scrollTo(0, 0);
  if (moveFocus) main.querySelector("h1").focus({ preventScroll: true });
}

const identity = () => JSON.stringify([session.principal, session.accounts]);

function enter() {
  const who = identity();
  // Somebody else, or with other rights: nothing of what was open is theirs.
  if (drawnFor !== who && open) empty();
  drawnFor = who;
  document.getElementById("who").replaceChildren(
    h("span", {}, `keygate ${session.version}`),
    ...(session.client_address ? [h("span", { title: "The address you come from" }, session.client_address)] : []));
  app.hidden = false;
  if (open) {
    open.refresh();
    offerAccounts();
    return;
  }
  drawMenu();
  offerAccounts();
  show(location.hash, { moveFocus: false });
}

/** The session ended by itself: what is open stays, covered, for whoever signs in again. */
function sessionEnded() {
  if (document.querySelector("dialog.sign-in")) return;
  askToSignIn({ message: "Your session has ended. Sign in again to go on where you were.", isOperator: !isPerson(), onSignedIn: enter });
}

/** Signing out leaves nothing behind. */
async function leaveForGood() {
  const wasPerson = isPerson();
  let elsewhere = null;
  try {
    elsewhere = await signOut();
  } catch (error) {
    if (isNews(error) && error.status !== 401) {
      toast(`You are still signed in: ${error.message}`, { bad: true });
      return;
    }
    endHere();
  }
  empty();
  history.replaceState(null, "", `${location.pathname}${FIRST}`);
  // The company's sign-in comes back here when it has signed out too.
  if (/^https?:/.test(elsewhere ?? "")) location.assign(elsewhere);
  else askToSignIn({ message: "You are signed out.", isOperator: !wasPerson, onSignedIn: enter });
}

function empty() {
  closeWindows();
  clearToasts();
  open?.leave();
  open = null;
  main.replaceChildren();
  app.hidden = true;
}

/** Begins with what the address brought, or with the session there is. */
async function begin(brought) {
  if (brought?.name === "invitation") {
    const { openInvitation } = await import("./invitation.js");
    openInvitation({ code: brought.value, onSignedIn: (id) => {
      history.replaceState(null, "", `${FIRST}?${new URLSearchParams({ account: id })}`);
      enter();
    }, onLeave: () => begin(null) });
    return;
  }
  const fault = brought?.name === "sign-in-error" ? errorWords(brought.value) : null;
  const { session, trouble } = await resume(brought?.name === "link" ? brought.value : null);
  if (!session) {
    askToSignIn({ message: fault ?? trouble, isFault: true, onSignedIn: enter });
    return;
  }
  if (brought !== null) takePlace();
  enter();
  if (fault !== null) toast(fault, { bad: true });
}

const brought = takeBrought();
onSessionEnd(sessionEnded);
// This tab's cookie is of the other tab's session now, whoever that is.
onRenewed(async () => {
  if (document.querySelector("dialog.sign-in")) return;
  if ((await resume(null)).session && identity() !== drawnFor) enter();
});
drawFrame();
addEventListener("hashchange", () => {
  // A link opened where the panel is already open.
  const again = takeBrought();
  if (again !== null) {
    document.querySelector("dialog.sign-in")?.remove();
    empty();
    begin(again);
  } else if (open && location.hash !== here) {
    const before = account()?.id;
    const address = settled(location.hash);
    // Where something typed is still open, back to where it belongs.
    if (!askWindowsToClose()) {
      choose(before);
      history.pushState(null, "", here || location.pathname);
      const choice = document.getElementById("account-switch");
      if (choice) choice.value = before;
    } else if (open.arrive && nameAt(address) === nameAt(here) && account()?.id === before) {
      moveTo(address);
      open.arrive();
    } else show(address, { moveFocus: document.activeElement?.id !== "account-switch" });
  }
});
/** Whoever comes back to the page sees what is so now. Rows under an open window or menu stay, since the focus returns to them. */
addEventListener("focus", () => {
  if (open && !document.querySelector("dialog[open], .menu:popover-open")) open.refresh();
});
// A page that is left may be kept, to come back to; a token shown in it must not be.
addEventListener("pagehide", closeWindows);
begin(brought);
