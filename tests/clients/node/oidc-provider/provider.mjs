// An identity provider for tests: the certified oidc-provider, with two persons and a form in plain HTML.
//
//   node provider.mjs --redirect-uri URL [--post-logout-redirect-uri URL] [--claims-in-id-token] [--public]
//
// Once it listens, on 127.0.0.1 and a port that the system chooses, it prints one line of JSON: issuer, client_id,
// client_secret and users. It runs until it is killed. Claims are at its userinfo endpoint, as OpenID Connect wants,
// and with --claims-in-id-token in the ID token too. With --public the client has no secret.

import { generateKeyPairSync, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { parseArgs } from "node:util";

import { Provider } from "oidc-provider";

const { values: options } = parseArgs({
  options: {
    "redirect-uri": { type: "string", multiple: true },
    "post-logout-redirect-uri": { type: "string", multiple: true, default: [] },
    "claims-in-id-token": { type: "boolean", default: false },
    public: { type: "boolean", default: false },
  },
});
if (!options["redirect-uri"]) {
  console.error("provider.mjs: name a --redirect-uri");
  process.exit(2);
}

const secret = () => randomBytes(24).toString("base64url");
const users = [
  { sub: "user-alice", email: "alice@example.com", name: "Alice", groups: ["ai-team", "everyone"], password: secret() },
  { sub: "user-bob", email: "bob@example.com", name: "Bob", groups: ["everyone"], password: secret() },
];
const client = {
  client_id: "keygate",
  redirect_uris: options["redirect-uri"],
  post_logout_redirect_uris: options["post-logout-redirect-uri"],
  response_types: ["code"],
  grant_types: ["authorization_code"],
  ...(options.public ? { token_endpoint_auth_method: "none" } : { client_secret: secret() }),
};
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });

/** In place of the library's own page, which loads a font from the network. */
function logoutSource(context, form) {
  context.body = `<!doctype html>
<html lang="en"><title>Sign out</title><h1>Sign out</h1>${form}
<button form="op.logoutForm" name="logout" value="yes">Yes, sign me out</button></html>
`;
}

const configuration = {
  clients: [client],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"], groups: ["groups"] },
  scopes: ["openid", "email", "profile", "groups"],
  conformIdTokenClaims: !options["claims-in-id-token"],
  cookies: { keys: [secret()] },
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), kid: "first", use: "sig", alg: "RS256" }] },
  features: { devInteractions: { enabled: false }, rpInitiatedLogout: { logoutSource } },
  interactions: { url: (_context, interaction) => `/interaction/${interaction.uid}` },
  async findAccount(_context, id) {
    const user = users.find((user) => user.sub === id);
    if (!user) return undefined;
    const { sub, email, name, groups } = user;
    return { accountId: sub, claims: () => ({ sub, email, email_verified: true, name, groups }) };
  },
  // Nobody is asked for consent: it is the company's own client.
  async loadExistingGrant({ oidc }) {
    const grant = new oidc.provider.Grant({ clientId: oidc.client.clientId, accountId: oidc.session.accountId });
    grant.addOIDCScope(configuration.scopes.join(" "));
    await grant.save();
    return grant;
  },
};

const page = (uid, fault) => `<!doctype html>
<html lang="en"><title>Sign in</title><h1>Sign in</h1>${fault}
<form method="post" action="/interaction/${uid}">
<label>E-mail <input name="email" type="email" required autofocus></label>
<label>Password <input name="password" type="password" required></label>
<button>Sign in</button>
</form></html>
`;

async function form(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return new URLSearchParams(Buffer.concat(pieces).toString());
}

async function interact(provider, request, response) {
  const { uid } = await provider.interactionDetails(request, response);
  let fault = "";
  if (request.method === "POST") {
    const fields = await form(request);
    const user = users.find(
      ({ email, password }) => email === fields.get("email") && password === fields.get("password"),
    );
    if (user) {
      await provider.interactionFinished(request, response, { login: { accountId: user.sub } });
      return;
    }
    fault = '<p role="alert">Wrong e-mail or password.</p>';
  }
  response.setHeader("content-type", "text/html; charset=utf-8");
  response.end(page(uid, fault));
}

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, configuration);
  const standard = provider.callback();
  server.on("request", (request, response) => {
    if (!request.url.startsWith("/interaction/")) {
      standard(request, response);
      return;
    }
    interact(provider, request, response).catch((error) => {
      response.statusCode = 400;
      response.end(`${error.name}: ${error.message}\n`);
    });
  });
  const shown = users.map(({ email, password, groups }) => ({ email, password, groups }));
  const { client_id, client_secret = null } = client;
  console.log(JSON.stringify({ issuer, client_id, client_secret, users: shown }));
});
