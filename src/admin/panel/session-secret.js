// The secret of the session. The cookie alone opens nothing, since browsers send it from every port of this host; this
// is kept for this origin. It outlives a reload, and further tabs ask the open ones for it.

const PLACE = "keygate-session";
/** How long an open tab may take to answer, in milliseconds. */
const PATIENCE = 250;

let secret = null;
try {
  secret = sessionStorage.getItem(PLACE);
} catch {
  // Without storage the session ends with the page.
}

let renewed = () => {};
/** Who is told that somebody signed in anew in another tab: this tab's cookie is of that session too. */
export function onRenewed(listener) {
  renewed = listener;
}

const tabs = new BroadcastChannel(PLACE);
tabs.addEventListener("message", ({ data }) => {
  if (data.asks && secret !== null) tabs.postMessage({ present: secret });
  if (data.renewed) {
    store(data.renewed);
    renewed();
  }
});

function store(value) {
  secret = value;
  try {
    if (value === null) sessionStorage.removeItem(PLACE);
    else sessionStorage.setItem(PLACE, value);
  } catch {
    // As above.
  }
}

/** The secret, or null. */
export const sessionSecret = () => secret;

/** Keeps the secret of a new session, here and in the other tabs: their cookie is a new one too. */
export function keepSecret(value) {
  store(value);
  tabs.postMessage({ renewed: value });
}

/** Forgets the secret in this tab. */
export const forgetSecret = () => store(null);

/** Asks the other tabs for their secret, where `used` is none or no good. Whether there is another now. */
export function askOtherTabs(used) {
  return new Promise((resolve) => {
    const heard = ({ data }) => {
      if (!data.present || data.present === used) return;
      store(data.present);
      done();
    };
    const done = () => {
      clearTimeout(timer);
      tabs.removeEventListener("message", heard);
      resolve(secret !== null && secret !== used);
    };
    const timer = setTimeout(done, PATIENCE);
    tabs.addEventListener("message", heard);
    tabs.postMessage({ asks: true });
  });
}
