// Ready text for the programs that people use a key with. What goes into it is quoted for where it will be run: a
// model's name comes from an upstream, and must not become a command in whoever's terminal it is pasted into.

/** [{name, text}] for a made key. */
export function snippets({ url, token, model }) {
  const body = `{"model": ${literal(model)}, "messages": [{"role": "user", "content": "Hello!"}]}`;
  return [
    { name: "curl", text: [
      `curl ${shell(`${url}/chat/completions`)} \\`,
      `  -H ${shell(`Authorization: Bearer ${token}`)} \\`,
      "  -H 'Content-Type: application/json' \\",
      `  -d ${shell(body)}`,
    ].join("\n") },
    { name: "Python", text: [
      "from openai import OpenAI",
      "",
      "client = OpenAI(",
      `    base_url=${literal(url)},`,
      `    api_key=${literal(token)},`,
      ")",
      "answer = client.chat.completions.create(",
      `    model=${literal(model)},`,
      '    messages=[{"role": "user", "content": "Hello!"}],',
      ")",
      "print(answer.choices[0].message.content)",
    ].join("\n") },
    { name: "Open WebUI", text: [
      "# Admin Panel > Settings > Connections > OpenAI API > +",
      `URL: ${url}`,
      `Key: ${token}`,
      "",
      "# or, for its container, as environment variables",
      `OPENAI_API_BASE_URL=${url}`,
      `OPENAI_API_KEY=${token}`,
    ].join("\n") },
    { name: "Environment", text: [
      `export OPENAI_BASE_URL=${shell(url)}`,
      `export OPENAI_API_KEY=${shell(token)}`,
    ].join("\n") },
  ];
}

/** The model a first try goes to: one that the key may use and somebody serves. */
export function firstModel(access, models) {
  const served = (models ?? []).filter(({ healthy }) => healthy > 0).concat(models ?? []).map(({ id }) => id);
  const listed = access.models ?? [];
  const usable = access.mode === "inclusive" ? served.filter((id) => listed.includes(id)).concat(listed)
    : access.mode === "exclusive" ? served.filter((id) => !listed.includes(id))
    : served;
  return usable[0] ?? "MODEL";
}

/** For a POSIX shell. */
function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** For JSON and Python alike; what is invisible, or turns the writing direction, is spelled out. */
function literal(text) {
  return JSON.stringify(text).replace(/[\u007f-\u00a0\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
